"""The splits of a text, and what each is for. Imports nothing slow."""

SPLITS = ("train", "val")
"""The splits that a run evaluates; its metrics are `train/loss`, `val/loss`, ..."""
FINAL = "test"
"""The split that a run scores once, at its end: nothing may be chosen by it."""


def is_final(column: str) -> bool:
    """Whether `column` is of the test split."""
    return column.startswith(f"{FINAL}/")


def split_of(column: str) -> str:
    """The split that a column is of, in words for a table; "" if it is of none."""
    names = {"train": "training text", "val": "validation text", FINAL: "test text"}
    return names.get(column.removeprefix("best/").partition("/")[0], "")
