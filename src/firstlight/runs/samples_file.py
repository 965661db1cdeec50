"""The format of `samples.txt`: for each sample a line that marks its step, then its text."""

import re
from collections.abc import Collection

_MARK = "--- step ([0-9]{1,18})(?:; longest copy [^\n]*)?"
"""What may follow the step says what of the sample stands in the training text."""


def entry(step: int, text: str, copied: str = "") -> str:
    """The sample of a step as it is written: its mark, then the text.

    `copied` is what is known of its copies, in words that begin with "longest copy". A line of the
    text that looks like a mark gets a space in front of it in the file.
    """
    told = f"; {copied}" if copied else ""
    return f"--- step {step}{told}\n{re.sub(f'^(?= *{_MARK}$)', ' ', text, flags=re.M)}\n"


def parse_samples(content: str, steps: Collection[int]) -> dict[int, str]:
    """The samples by step. `steps` are those after which the run was evaluated.

    Earlier versions wrote lines that look like marks as they were. Such a line belongs to the
    sample if its step is not one of `steps`, or does not come after the step of the sample.
    """
    parts = re.split(f"^({_MARK})\n", content, flags=re.M)
    samples: dict[int, str] = {}
    newest = -1
    for mark, digits, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        step = int(digits)
        if step in steps and step > newest:
            newest = step
            samples[step] = text
        elif samples:
            samples[newest] += f"{mark}\n{text}"
    for step, text in samples.items():
        samples[step] = re.sub(f"^ (?= *{_MARK}$)", "", text.removesuffix("\n"), flags=re.M)
    return samples


def end_of_samples(content: bytes, step: int) -> int:
    """The number of bytes of the file before the mark of the first sample after `step`."""
    # In bytes, since the file is cut at a byte.
    for mark in re.finditer(f"^{_MARK}$".encode(), content, flags=re.M):
        if int(mark[1]) > step:
            return mark.start()
    return len(content)
