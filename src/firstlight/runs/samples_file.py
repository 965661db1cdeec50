"""`samples.txt`: a mark and a text for each sample. Without waiting for Lightning."""

import re
from collections.abc import Collection
from pathlib import Path

from firstlight.data.files import read_limited

FILE_NAME = "samples.txt"
_MARK = "--- step [0-9]{1,18}"


def entry(step: int, text: str) -> str:
    """The sample of a step as it is written: its mark, then the text.

    A line of the text that looks like a mark has a space in front of it in the file.
    """
    return f"--- step {step}\n{re.sub(f'^(?= *{_MARK}$)', ' ', text, flags=re.M)}\n"


def read_samples(file: Path, steps: Collection[int]) -> dict[int, str]:
    """The samples by step; none if there is no such file. `steps` are those after which the run was evaluated.

    In files of earlier versions a line of a sample may look like a mark. If it is that of another step, or of one that
    is over, it belongs to the sample.

    Raises:
        OSError: it cannot be read, or is larger than any that firstlight writes.
    """
    if not file.is_file():
        return {}
    content = read_limited(file).decode("utf-8", errors="replace")  # as it is: a carriage return is no end of a line
    parts = re.split(f"^({_MARK})\n", content, flags=re.M)
    samples: dict[int, str] = {}
    newest = -1
    for mark, text in zip(parts[1::2], parts[2::2], strict=True):
        step = int(mark.rpartition(" ")[2])
        if step in steps and step > newest:
            newest, samples[step] = step, text
        elif samples:
            samples[newest] += f"{mark}\n{text}"
    return {step: _as_sampled(text) for step, text in samples.items()}


def _as_sampled(text: str) -> str:
    return re.sub(f"^ (?= *{_MARK}$)", "", text.removesuffix("\n"), flags=re.M)


def end_of_samples(content: bytes, step: int) -> int:
    """Where, in the bytes of the file, the samples up to `step` end: at the mark of the first later one."""
    marks = re.finditer(f"^{_MARK}$".encode(), content, flags=re.M)
    return next((found.start() for found in marks if int(found[0].rpartition(b" ")[2]) > step), len(content))
