"""What is refused in every format of a text: more than memory allows, fields that are not there."""

from firstlight.errors import did_you_mean, shorten
from firstlight.memory_limits import host_memory

LEAST_BYTES = 3
"""Memory for a byte of text at least: the text, its splits, its ids."""
MOST_NAMES = 10
"""In a message that lists fields."""


def memory_for_text() -> int:
    """The most bytes of text that may fit into memory."""
    return host_memory().free // LEAST_BYTES


def check_size(what: object, n_bytes: int, most: int) -> None:
    """Refuse a text, or the part `what` of one, that does not fit into memory.

    Raises:
        ValueError: it is larger than `most`.
    """
    if n_bytes > most:
        memory = host_memory()
        raise ValueError(
            f"{what} is too large: {n_bytes / 1e9:,.1f} GB of text or more, and {memory.of} has"
            f" {memory.free / 1e9:,.1f} GB of memory free, enough for {most / 1e9:,.1f} GB at"
            " most; give a part of it"
        )


def no_such_field(kind: str, field: str, known: list[str]) -> str:
    """What to say of a missing field or column, and how to choose another."""
    names = ", ".join(shorten(name, 40) for name in known[:MOST_NAMES])
    more = f" and {len(known) - MOST_NAMES:,} more" if len(known) > MOST_NAMES else ""
    near = did_you_mean(field, known)
    return (
        f"has no {kind} {shorten(repr(field))}{near}; it has {names or 'none'}{more}: give"
        " data.field=..."
    )


class Budget:
    """The memory that texts take together, as far as they are read."""

    def __init__(self) -> None:
        self.most = memory_for_text()
        self.used = 0

    def spend(self, text: str, what: object) -> None:
        """Count `text`.

        Raises:
            ValueError: with it the texts do not fit into memory.
        """
        # Characters, which is at most the number of bytes: no text is refused too early.
        self.used += len(text)
        check_size(what, self.used, self.most)
