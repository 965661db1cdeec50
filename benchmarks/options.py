"""The command lines of the benchmarks: what their options take, refused before anything is
measured.
"""

import argparse
from pathlib import Path


def described(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose --help is `doc`, laid out as it is."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number, 1 or more")
    return int(text)


def existing_file(text: str) -> Path:
    """A file that is there."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text}: there is no such file")
    return Path(text)


def nanogpt_clone(text: str) -> Path:
    """The folder of a clone of nanoGPT."""
    return existing_file(f"{text}/model.py").parent
