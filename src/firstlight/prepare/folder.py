"""The folder of prepared data while it is written, and what an earlier command has left in it."""

import hashlib
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import filelock

from firstlight import __version__
from firstlight.conf_files import config_dir, path_keys
from firstlight.data.shards.index import (
    INDEX,
    TOKENIZER,
    UNFINISHED,
    Index,
    ShardEntry,
    Vocabulary,
    identity,
    read_index,
    state_text,
)
from firstlight.data.shards.shard import STARTS_SUFFIX, dtype_of
from firstlight.data.tokenizers.base import Tokenizer
from firstlight.errors import ConfigError, shorten
from firstlight.files import locked, replace_text, sync_folder
from firstlight.output import note

LOCK = ".lock"


@contextmanager
def out_folder(folder: Path) -> Iterator[None]:
    """Make the folder, and let no other process write it within the block.

    Raises:
        ConfigError: it cannot be made, another process writes it, or it holds something else.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Hidden files do not count: the lock is one, and file managers leave theirs.
        names = {file.name for file in folder.iterdir() if not file.name.startswith(".")}
    except OSError as error:
        raise ConfigError(
            f"out ({shorten(str(folder))}): cannot be written: {error.strerror}"
        ) from None
    # A command that was killed before its first index has left the tokenizer alone.
    if names - {TOKENIZER} and not names & {INDEX, UNFINISHED}:
        raise ConfigError(
            f"out ({shorten(str(folder))}): is not empty, and was not made by firstlight prepare;"
            " give another folder"
        )
    try:
        with locked(folder / LOCK):
            yield
    except filelock.Timeout:
        raise ConfigError(
            f"out ({shorten(str(folder))}): another process prepares it at the moment"
        ) from None


def known_index(folder: Path, settings: dict[str, Any]) -> tuple[Index | None, bool]:
    """Return the index of an earlier command, if any, and whether it is complete.

    Raises:
        ConfigError: it is damaged, or that command had other settings.
    """
    # The complete one first: killed between the two steps of `write_finished` or of
    # `write_unfinished`, a folder has both. Its shards are compared with their hashes either way.
    for name in (INDEX, UNFINISHED):
        try:
            index = read_index(folder / name)
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise ConfigError(f"out: {error}; give another out=..., or remove it") from None
        before, given = _deciding(index.settings), _deciding(settings)
        for key in sorted(before.keys() | given.keys()):
            if before.get(key) != given.get(key):
                # As Hydra reads them: a default may have been another one in an earlier version.
                was, now = (shorten(json.dumps(of.get(key), default=str)) for of in (before, given))
                # A class is chosen by its section's name, which is not known here.
                is_value = key in before and not key.endswith("_target_")
                again = f"{key}={was} again, " if is_value else ""
                raise ConfigError(
                    f"out ({shorten(str(folder))}): was prepared with {key}={was}, not {now}; give"
                    f" {again}another out=..., or remove this folder"
                )
        return index, name == INDEX
    return None, False


def _deciding(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings by dotted keys, but for the place of the source: it may have moved.

    That it is the same source is told by the hashes of its documents.
    """
    places = path_keys(config_dir())
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        section = value if isinstance(value, dict) else None
        flat |= {f"{key}.{k}": v for k, v in section.items()} if section else {key: value}
    return {key: value for key, value in flat.items() if key not in places}


def new_index(
    tokenizer: Tokenizer, section: dict[str, Any], settings: dict[str, Any], splits: list[str]
) -> Index:
    """Make an index without shards."""
    state = tokenizer.state_dict()
    n_ids = tokenizer.encoding.n_vocab
    return Index(
        dtype=dtype_of(n_ids),
        vocabulary=Vocabulary(
            name=state["name"],
            n_ids=n_ids,
            end_of_text=state["end_of_text"],
            sha256=identity(state),
            file_sha256=hashlib.sha256(state_text(state).encode()).hexdigest(),
            config=section,
        ),
        settings=settings,
        versions={
            "firstlight": __version__,
            "python": platform.python_version(),
            "tiktoken": version("tiktoken"),
        },
        splits={split: [] for split in splits},
    )


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Store the tokenizer, as checkpoints do."""
    replace_text(folder / TOKENIZER, state_text(tokenizer.state_dict()))


def write_unfinished(folder: Path, index: Index) -> None:
    """Record which shards are whole; from now on the folder counts as not complete."""
    # Before the other is gone: a folder with neither would be taken for somebody else's.
    replace_text(folder / UNFINISHED, index.to_json())
    (folder / INDEX).unlink(missing_ok=True)


def write_finished(folder: Path, index: Index) -> None:
    """Write the index, and with it complete the folder."""
    replace_text(folder / INDEX, index.to_json())
    # On disk before the mark that the folder is not complete is removed.
    sync_folder(folder)
    (folder / UNFINISHED).unlink(missing_ok=True)


def damaged_shards(folder: Path, entries: list[ShardEntry]) -> set[int]:
    """Return the numbers of the shards whose files are not as they were written; say so."""
    damaged: set[int] = set()
    for number, entry in enumerate(entries):
        file = folder / entry.name
        hashes = [_sha256(file), _sha256(file.with_suffix(STARTS_SUFFIX))]
        if hashes != [entry.sha256, entry.starts_sha256]:
            note(f"{file} is missing or damaged: it is made again")
            damaged.add(number)
    return damaged


def _sha256(file: Path) -> str | None:
    with suppress(OSError), file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
    return None
