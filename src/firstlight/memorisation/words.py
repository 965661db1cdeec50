"""What a sample has copied, in a line."""

from firstlight.errors import counted
from firstlight.memorisation.copies import SHORTEST, Copies


def in_words(found: Copies, base_rate: float | None) -> str:
    """Say how long the longest copy is and, of a sample with n-grams, how many of them are copied.

    `base_rate` is the share of n-grams of validation that stand in the same text, if it is known.
    """
    length = f"under {counted(min(SHORTEST, found.n), 'token')}"
    if found.longest is not None:
        length = counted(found.longest.length, "token")
    if found.share is None:
        return f"longest copy {length}"
    beside = "" if base_rate is None else f", of validation's {base_rate:.1%}"
    return f"longest copy {length}, {found.share:.1%} of {found.n}-grams copied{beside}"
