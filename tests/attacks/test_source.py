"""What must not be written in this program at all: each is a way to run what a file says."""

import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "firstlight"
FORBIDDEN = {
    "torch.load without its guard": r"weights_only\s*=\s*(?!True\b)",
    "a pickle": r"\bimport (c?pickle|dill|shelve|marshal|joblib)\b|\bpickle\.loads?\b|Unpickler\(",
    "names of pickle but its error": r"from pickle import (?!UnpicklingError$)",
    "YAML with tags": r"\byaml\.(load|full_load|unsafe_load|load_all)\(|\b(Full|Unsafe)Loader\b",
    # A method of that name is none of Python's.
    "code from a text": r"(?<![\w.])(?<!def )(eval|exec|compile)\(|__import__\(|\brunpy\b",
    "a shell": r"\bos\.(system|popen|exec\w*|spawn\w*)\(|shell\s*=\s*True",
    "an array of objects": r"allow_pickle",
    "a checkpoint by Lightning": r"\.load_from_checkpoint\(|torch\.hub\b|jit\.load\(",
    "Hydra's way to call": r"(import|from) hydra\.utils|\binstantiate\(",
    "code of a hub": r"trust_remote_code",
}
ALLOWED = {
    "weights_only: bool | None = None"
}  # the signature of Lightning's CheckpointIO, whose value is not looked at


@pytest.mark.parametrize("pattern", FORBIDDEN.values(), ids=FORBIDDEN)
def test_it_is_nowhere(pattern):
    found = [
        f"{file.relative_to(SOURCE)}:{number}: {line.strip()}"
        for file in sorted(SOURCE.rglob("*.py"))
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(pattern, line) and not any(words in line for words in ALLOWED)
    ]
    assert found == []


def test_one_function_unpickles_and_every_door_goes_through_it():
    """So an attack on one door is an attack on all."""
    uses = [
        (file.relative_to(SOURCE).as_posix(), line.strip())
        for file in sorted(SOURCE.rglob("*.py"))
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.search(r"= *torch\.load\(", line)
    ]
    assert uses == [
        (
            "checkpoints/checkpoint.py",
            'raw = torch.load(path, map_location="cpu", weights_only=True, mmap=True)',
        )
    ]
