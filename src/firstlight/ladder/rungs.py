"""The rungs of a ladder: which sizes a budget has, and for how many tokens each is trained."""

from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from omegaconf import OmegaConf

from firstlight.commands import train
from firstlight.compose.compose import check_single_values, compose_config, slug
from firstlight.compose.hydra_calls import is_about_hydra
from firstlight.config import argument, build
from firstlight.errors import ConfigError, shorten
from firstlight.ladder.asked import Asked, check_not_decided
from firstlight.overrides import key_of, ready, setting
from firstlight.statistics.scaling import LEAST_SIZES
from firstlight.training.experiment import Experiment
from firstlight.training.forecast import flops_per_token
from firstlight.training.origin import find_origin
from firstlight.training.plan import prepare
from firstlight.training.trainer import quiet

LEAST_STEPS = 10
"""Steps of the shortest run: with fewer, a warm-up and a decay are nothing."""
NOTED_PASSES = 4
"""Passes over a text up to which they are nearly as good as new text (Muennighoff et al. 2023)."""
SOME_STEPS = 1000
"""Length of a run that is only looked at."""


@dataclass(frozen=True)
class Size:
    """A size of model: the text that asks for it, its overrides, and what it takes."""

    text: str
    words: list[str]
    parameters: int
    flops_per_token: float
    """Of a training pass, as `firstlight plan` counts them."""
    tokens_per_step: int | None
    """None if the length of a run decides it, as with model=dial."""
    text_tokens: int
    """Of the training split."""


@dataclass(frozen=True)
class Rung:
    """A size at a budget."""

    budget: float
    size: Size
    tokens_per_step: int

    @property
    def steps(self) -> int:
        return round(self.budget / (self.size.flops_per_token * self.tokens_per_step))

    @property
    def tokens(self) -> int:
        return self.steps * self.tokens_per_step

    @property
    def tokens_per_parameter(self) -> float:
        return self.tokens / self.size.parameters

    @property
    def name(self) -> str:
        """That of its folder."""
        return slug(f"{self.budget:.6g},{self.size.text}")

    def words(self, asked: Asked, rates: list[float], n_seeds: int) -> list[str]:
        """The words of its sweep after `firstlight train -m`, ready for Hydra's grammar."""
        return [
            *_replaced(asked.own, self.size.words),
            *_length(self.steps, self.tokens),
            f"optimizer.lr={','.join(map(repr, rates))}",
            f"seeds={n_seeds}",
            setting("output_dir", str((asked.folder / self.name).absolute())),
        ]


def rungs_of(asked: Asked) -> tuple[list[Rung], list[Rung]]:
    """The rungs of the budgets, in rising order, and those to choose from at the next budget.

    Raises:
        ConfigError: a run cannot be, or a budget has too few sizes.
    """
    settings = asked.settings
    quiet()
    sizes = sorted((_size(text, asked) for text in settings.sizes), key=lambda one: one.parameters)
    for one, other in pairwise(sizes):
        if one.parameters == other.parameters:
            raise ConfigError(
                f"ladder.sizes: {shorten(one.text)} and {shorten(other.text)} have the same"
                f" {one.parameters:,} parameters"
            )
    found: list[Rung] = []
    for budget in settings.budgets:
        found += _at(budget, sizes, asked, LEAST_SIZES)
    return found, _at(settings.next_budget, sizes, asked, 1)


def _at(budget: float, sizes: list[Size], asked: Asked, least: int) -> list[Rung]:
    """The rungs of a budget.

    Raises:
        ConfigError: they are fewer than `least`, or one would make hardly a step.
    """
    low, high = asked.settings.tokens_per_parameter
    rungs = [Rung(budget, size, _tokens_per_step(budget, size, asked)) for size in sizes]
    found = [rung for rung in rungs if low <= rung.tokens_per_parameter <= high]
    if len(found) < least:
        ratios = ", ".join(f"{rung.tokens_per_parameter:.3g}" for rung in rungs)
        raise ConfigError(
            f"ladder.sizes: at {budget:.3g} FLOPs they are trained on {ratios} tokens a parameter,"
            f" and {least} must be within ladder.tokens_per_parameter ({low:g} to {high:g});"
            " give other sizes or ladder.budgets (those of conf/ladder.yaml suit experiment=ladder)"
        )
    for rung in found:
        if rung.steps < LEAST_STEPS:
            raise ConfigError(
                f"ladder.budgets ({budget:.3g}): {shorten(rung.size.text)} would make {rung.steps}"
                f" steps of {rung.tokens_per_step:,} tokens, and {LEAST_STEPS} are the least;"
                " give larger budgets, or a smaller data.batch_size"
            )
    return found


def note_on_passes(rungs: list[Rung]) -> str:
    """The warning about a text that is passed over often; "" if it is not."""
    most = max(rungs, key=lambda rung: rung.tokens / rung.size.text_tokens)
    passes = most.tokens / most.size.text_tokens
    if passes <= NOTED_PASSES:
        return ""
    return (
        f"at {most.budget:.3g} FLOPs {most.size.text} passes over the text {passes:.1f} times: the"
        f" law takes a token for a new one, which after some {NOTED_PASSES} passes it is not"
    )


def _size(text: str, asked: Asked) -> Size:
    """What a size takes, of a run that is planned as `firstlight plan` does.

    Raises:
        ConfigError: it cannot be.
    """
    words = _words_of_size(text, asked.config_dir)
    looked_at = [
        *_replaced(asked.own, words),
        *_length(SOME_STEPS, None),
        # The lowest: a schedule may begin or end above it.
        f"optimizer.lr={asked.settings.rates[0]!r}",
    ]
    config = compose_config("train", looked_at, asked.config_dir)
    has_rule = OmegaConf.is_interpolation(config.data, "batch_size")
    run, _ = train.arguments_with(config, {})
    experiment = Experiment(**build(run.plain))
    with ExitStack() as held:
        origin = find_origin(experiment, run.stored, [], held)
        plan = prepare(experiment, origin, with_weights=False)
    flops = flops_per_token(plan.network)
    if flops is None:
        raise ConfigError(f"ladder.sizes ({shorten(text)}): its operations cannot be counted")
    return Size(
        text=text,
        words=words,
        parameters=plan.network.n_parameters,
        flops_per_token=flops,
        tokens_per_step=None if has_rule else _in_step(run.plain),
        text_tokens=plan.data.windows["train"].n_tokens,
    )


def _in_step(plain: dict[str, Any]) -> int:
    """Tokens of a step of a run with this config."""
    data, batches = plain["data"], argument(plain["trainer"], "accumulate_grad_batches")
    return data["batch_size"] * data["context_length"] * batches


def _tokens_per_step(budget: float, size: Size, asked: Asked) -> int:
    """Tokens of a step of a size at a budget."""
    if size.tokens_per_step is not None:
        return size.tokens_per_step
    tokens = max(1, round(budget / size.flops_per_token))
    words = [*_replaced(asked.own, size.words), *_length(1, tokens)]
    return _in_step(train.arguments(compose_config("train", words, asked.config_dir)))


def _words_of_size(text: str, config_dir: str | None) -> list[str]:
    """The overrides in the text of a size, ready for Hydra's grammar.

    Raises:
        ConfigError: it holds something else, or what the ladder decides.
    """
    words = [ready(word, config_dir) for word in text.split()]
    for word in words:
        if "=" not in word or is_about_hydra(word):
            raise ConfigError(f"ladder.sizes ({shorten(text)}): write key=value, of the run's keys")
        check_not_decided(word)
    check_single_values("ladder.sizes", words)
    return words


def _replaced(words: list[str], others: list[str]) -> list[str]:
    """`words`, with `others` in the place of those of the same key."""
    keys = {key_of(word) for word in others}
    return [*(word for word in words if key_of(word) not in keys), *others]


def _length(steps: int, tokens: int | None) -> list[str]:
    """The overrides of a run of so many steps, or tokens, that is evaluated when it ends."""
    return [
        f"trainer.max_steps={'null' if tokens else steps}",
        f"trainer.max_tokens={tokens or 'null'}",
        "trainer.max_epochs=null",
        f"trainer.eval_every_n_steps={steps}",
        "trainer.eval_first_step=null",
    ]
