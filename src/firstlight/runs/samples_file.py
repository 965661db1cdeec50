"""Reading `samples.txt`, without waiting for Lightning."""

import re
from collections.abc import Collection
from pathlib import Path

FILE_NAME = "samples.txt"


def mark(step: int) -> str:
    """The line before the sample of a step."""
    return f"--- step {step}\n"


def read_samples(file: Path, steps: Collection[int]) -> dict[int, str]:
    """The samples by step; none if there is no such file. `steps` are those after which the run was evaluated.

    A line of a sample that looks like the mark of another step, or of one that is over, belongs to the sample.
    """
    if not file.is_file():
        return {}
    content = file.read_bytes().decode("utf-8", errors="replace")  # as it is: a carriage return is no end of a line
    parts = re.split(r"^--- step (\d{1,18})\n", content, flags=re.M)
    samples: dict[int, str] = {}
    newest = -1
    for step, text in zip(map(int, parts[1::2]), parts[2::2], strict=True):
        if step in steps and step > newest:
            newest, samples[step] = step, text
        elif samples:
            samples[newest] += mark(step) + text
    return {step: text.removesuffix("\n") for step, text in samples.items()}


def end_of_samples(content: bytes, step: int) -> int:
    """Where, in the bytes of the file, the samples up to `step` end: at the mark of the first later one."""
    marks = re.finditer(rb"^--- step (\d{1,18})$", content, flags=re.M)
    return next((found.start() for found in marks if int(found[1]) > step), len(content))
