"""Runs where all of them had seen as many tokens: from what they logged there."""

from dataclasses import replace

from firstlight.compare.runs import Run
from firstlight.errors import ConfigError

MOST_NAMED = 6
"""Most runs that a note names."""


def common_tokens(runs: list[Run], column: str) -> int | None:
    """The largest number of tokens after which every run has logged `column`; None: there is none.

    The untrained models, which had all seen none, do not count.
    """
    common: set[int] | None = None
    for run in runs:
        tokens = {int(point.x["tokens"]) for point in run.curve(column) if "tokens" in point.x}
        common = tokens if common is None else common & tokens
    return max((common or set()) - {0}, default=None)


def at_equal_tokens(runs: list[Run], column: str) -> tuple[list[Run], list[str]]:
    """The runs as they were after the largest number of tokens that all have logged; and a note.

    Raises:
        ConfigError: there is no such number, or a run has not logged `column`.
    """
    for run in runs:
        run.final(column)  # raises if it has none
    tokens = common_tokens(runs, column)
    if tokens is None:
        raise ConfigError(
            f"at=equal_tokens: there is no number of tokens after which all runs have logged"
            f" {column}; trainer.eval_every_n_steps times the tokens of a step decides when they do"
        )
    cut: list[Run] = []
    longer: list[str] = []
    for run in runs:
        rows = [row for row in run.rows if (row.get("tokens") or 0) <= tokens]
        if len(rows) < len(run.rows):
            longer.append(run.name)
        samples = {s: text for s, text in run.samples.items() if s <= rows[-1]["step"]}
        cut.append(replace(run, rows=rows, samples=samples))
    notes = [
        f"compared after {tokens:,} tokens, the most after which all were evaluated: as logged, so"
        " what another text would change is not known"
    ]
    if longer:
        notes.append(
            f"trained further: {names_of(longer)}; a schedule that lowers the rate only later"
            " counts against them"
        )
    return cut, notes


def names_of(names: list[str]) -> str:
    """Some names, and how many more there are."""
    text = ", ".join(names[:MOST_NAMED])
    if len(names) > MOST_NAMED:
        text += f" and {len(names) - MOST_NAMED} more"
    return text
