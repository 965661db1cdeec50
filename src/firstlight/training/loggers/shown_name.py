"""What TensorBoard's table of runs calls a run."""

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

_TRIAL = re.compile(r"\d+_?(?P<point>.*?)(?:_?seed-\d+)?")
"""A trial's folder, as `folder_name` of sweep/record.py makes it."""
_SECTIONS = re.compile(r"(?:^|(?<=_))(?:[A-Za-z]\w*\.)+(?=[A-Za-z]\w*-)")
"""The sections of a key in the name of such a folder."""
_STARTED = re.compile(
    r"\d{4}-(?P<day>\d\d-\d\d)_(?P<hour>\d\d)-(?P<minute>\d\d)-(?P<second>\d\d)(?:_sweep)?"
)
"""The folder of a run or a sweep without `output_dir`."""


def shown_name(folder: Path, values: Mapping[str, object], *, is_trial: bool) -> str:
    """A short name with what distinguishes the run first; "": TensorBoard's own, its path.

    The table shows some 15 letters of it. The trials of a sweep that differ in nothing but their
    seeds have one name, and so one row, with the means of their results. `values` are those of the
    row.
    """
    trial = _TRIAL.fullmatch(folder.name) if is_trial else None
    if trial is None:
        return _time_and_name(folder)
    sweep = folder.parent
    point = _SECTIONS.sub("", trial["point"])
    # Names of folders are cut where they are too long, and two sweeps may be called the same:
    # TensorBoard would show the mean of different settings.
    row = sha256(repr(sorted(values.items())).encode()).hexdigest()[:6]
    return f"{point} {_time_and_name(sweep) or sweep.name} {row}".strip()


def _time_and_name(folder: Path) -> str:
    started = _STARTED.fullmatch(folder.name)
    if started is None:
        return ""
    day, hour, minute, second = started.groups()
    return f"{day} {hour}:{minute}:{second} {folder.parent.name}"
