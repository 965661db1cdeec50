"""Whether the disk has room for what a run keeps, and its file system the means."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl

from firstlight.errors import ConfigError, shorten
from firstlight.files import check_file_system, existing_place
from firstlight.training.callbacks.base import Callback

if TYPE_CHECKING:
    from firstlight.training.plan import Plan


@dataclass(frozen=True)
class DiskNeeds:
    """Bytes that a run needs on its disk."""

    needed: int = 0
    """What it keeps, and the checkpoint that is written before an older one is removed."""
    least: int = 0
    """The same with the settings `keep_less`."""
    keep_less: list[str] = field(default_factory=list)
    """Settings by which it needs less, where that helps."""
    free: int | None = None
    """None: the file system does not tell."""


def disk_needs(place: Path, plan: Plan, callbacks: dict[str, pl.Callback]) -> DiskNeeds:
    """What the run of `plan` needs in `place`, a folder that may not be there yet."""
    # Bytes in float32; at the end the best weights are copied to the run folder.
    best = 4 * plan.sizes.n_parameters
    needed = least = best
    keep_less: list[str] = []
    for key, callback in callbacks.items():
        if not isinstance(callback, Callback):
            continue
        kept = callback.bytes_on_disk(plan)
        kept_at_least = callback.bytes_on_disk(plan, at_least=True)
        needed += kept
        least += kept_at_least
        if kept_at_least < kept:
            keep_less.append(f"{key}.{callback.keep_less}")
    # A checkpoint is whole on disk before an older one is removed.
    if needed > best:
        written = 4 * (plan.sizes.n_parameters + plan.sizes.n_optimizer)
        needed += written
        least += written
    try:
        free = shutil.disk_usage(existing_place(place)).free
    except OSError:  # a file system that does not tell, or no name for a folder
        free = None
    return DiskNeeds(needed, least, keep_less, free)


def check_place(wanted: Path, needs: DiskNeeds) -> None:
    """Refuse to begin what the disk has no room for, or its file system lacks the means for.

    Raises:
        ConfigError: it is so.
    """
    try:
        place = existing_place(wanted)
    except OSError:  # no name for a folder, as will be said when it is made
        return
    check_file_system(
        place, f"output_dir ({shorten(str(wanted))})", "give an output_dir on another one"
    )
    if needs.free is not None and needs.free < needs.needed:
        advice = " ".join(needs.keep_less)
        fewer = f", or {advice}" if needs.least <= needs.free else ""
        raise ConfigError(
            f"output_dir ({shorten(str(wanted))}): the run's checkpoints need"
            f" {needs.needed / 1e9:.2g} GB, {needs.free / 1e9:.2g} are free there; give another"
            f" output_dir{fewer}"
        )
