"""Types of the benchmarks' options, which refuse bad values before anything is measured."""

import argparse
from pathlib import Path


def described(doc: str | None) -> argparse.ArgumentParser:
    """Make a parser whose --help shows `doc` as it is laid out."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def positive(text: str) -> int:
    """Parse a whole number, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number, 1 or more")
    return int(text)


def existing_file(text: str) -> Path:
    """Parse the path of an existing file."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text}: no such file")
    return Path(text)


def nanogpt_clone(text: str) -> Path:
    """Parse the folder of a clone of nanoGPT."""
    return existing_file(f"{text}/model.py").parent
