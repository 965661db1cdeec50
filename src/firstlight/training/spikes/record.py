"""What is kept of a spike: its numbers, and its windows as text."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, distributed

from firstlight.data.loader import Batch
from firstlight.data.tokenizers.base import Tokenizer
from firstlight.errors import counted, printable
from firstlight.files import append, replace_text
from firstlight.output import as_json
from firstlight.runs.run_folder import SPIKES, RunFolder
from firstlight.training.spikes.recent import LAST, SIGMAS, Judged

MOST_WINDOWS = 32
"""Of a spike, those with the highest loss: a batch of long windows is megabytes of text."""
MOST_TEXT = 2**16
"""Characters of a window that are kept: one may be as long as a book."""
MOST_BYTES = 2**27
"""Size of the file from which on spikes are kept without their windows: it stays readable."""
MOST_NAMED = 10
"""Steps that the note at the end of a run names."""

Window = tuple[float | None, str]
"""Its loss after the step, without dropout (None: not computed), and its text."""


@dataclass(frozen=True)
class Spike:
    """A step that lies far above those before it."""

    step: int
    batches: tuple[int, int]
    """Its first and last batch, counted from 0 over the whole run."""
    numbers: dict[str, Judged]
    was_skipped: bool

    def to_json(self, windows: list[Window], most: int = MOST_WINDOWS) -> str:
        """The line of the file, with at most so many of the `windows` of all processes."""
        above = [name for name, number in self.numbers.items() if number.is_above]
        numbers: dict[str, Any] = {}
        for name, number in self.numbers.items():
            values = asdict(number)
            del values["is_above"]
            numbers[name] = values
        worst = sorted(windows, key=lambda window: -(window[0] or 0.0))[:most]
        # A gradient that a scaler has let overflow has no norm, and a window may have no loss:
        # as_json writes null.
        return as_json(
            {
                "step": self.step,
                "batches": list(self.batches),
                "above": above,
                **numbers,
                "was_skipped": self.was_skipped,
                "n_windows": len(windows),
                "windows": [{"loss": loss, "text": text[:MOST_TEXT]} for loss, text in worst],
            },
            ensure_ascii=False,
        )


def windows_of(
    batches: list[Batch], token_losses: Callable[[Batch], Tensor] | None, tokenizer: Tokenizer
) -> list[Window]:
    """The windows of `batches`: what a model was to predict from, and the token after it.

    `token_losses` gives the losses (B * T,) of a batch; None: they cannot be computed.
    """
    found: list[Window] = []
    for inputs, targets in batches:
        losses: list[float | None] = [None] * len(inputs)
        if token_losses is not None and len(inputs) > 0:
            each = token_losses((inputs, targets)).view(targets.shape)  # (B, T)
            losses = each.float().mean(dim=1).tolist()
        for loss, ids, after in zip(losses, inputs.tolist(), targets.tolist(), strict=True):
            found.append((loss, tokenizer.decode([*ids, after[-1]])))
    return found


def of_all_processes(own: list[Window], world_size: int) -> list[Window]:
    """The windows of all processes, each of which has its `own`; all must call this."""
    if world_size == 1:
        return own
    found: list[list[Window]] = [[]] * world_size
    distributed.all_gather_object(found, own)
    return [window for windows in found for window in windows]


def write_spike(folder: Path, spike: Spike, windows: list[Window]) -> None:
    """Add a spike to those of a run, with the `windows` of all processes.

    Raises:
        OSError: it cannot be written.
    """
    file = folder / SPIKES
    is_full = file.is_file() and file.stat().st_size >= MOST_BYTES
    line = spike.to_json(windows, 0 if is_full else MOST_WINDOWS)
    append(file, f"{line}\n".encode())


def forget_later(folder: Path, step: int) -> None:
    """Remove the spikes after `step`, from which a run is resumed: it will make them again."""
    file = folder / SPIKES
    if not file.is_file():
        return
    kept = [spike for spike in RunFolder(folder).spikes if spike["step"] <= step]
    if kept:
        lines = (json.dumps(spike, ensure_ascii=False) for spike in kept)
        replace_text(file, "".join(f"{line}\n" for line in lines))
    else:
        file.unlink()


def summary(folder: Path) -> list[str]:
    """A line about the spikes of a run; none if there were none."""
    if not (folder / SPIKES).is_file():
        return []
    spikes = RunFolder(folder).spikes
    steps = ", ".join(str(spike["step"]) for spike in spikes[:MOST_NAMED])
    more = ", ..." if len(spikes) > MOST_NAMED else ""
    skipped = sum(spike.get("was_skipped") is True for spike in spikes)
    left_out = f", {skipped} of them skipped" if skipped else ""
    return [
        f"{counted(len(spikes), 'step')} with a loss or gradient norm more than {SIGMAS:g}"
        f" standard deviations above the {LAST} before{left_out} ({steps}{more}); their windows"
        f" are in {printable(str(folder / SPIKES))}"
    ]
