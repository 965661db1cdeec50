"""`firstlight prepare`: a text of any size to shards of tokens, which `data=shards` trains from."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from omegaconf import DictConfig, OmegaConf, open_dict
from pydantic import Field

from firstlight.config import NonEmpty, blame, build, check_config
from firstlight.data.datamodule import TextDataModule
from firstlight.data.files import user_path
from firstlight.data.order import SeededOrder
from firstlight.data.shards.folder import Prepared
from firstlight.data.shards.index import Index
from firstlight.data.token_data import CUT_BY
from firstlight.data.tokenizers.base import StoredTokenizer, Tokenizer
from firstlight.errors import ConfigError, RunError, shorten
from firstlight.output import note, say
from firstlight.overrides import command, setting
from firstlight.prepare.bar import ReadingBar
from firstlight.prepare.documents import Document, Ratios, hashed_documents
from firstlight.prepare.encoding import encoders
from firstlight.prepare.folder import (
    damaged_shards,
    known_index,
    new_index,
    out_folder,
    write_finished,
    write_tokenizer,
    write_unfinished,
)
from firstlight.prepare.sample import sampled
from firstlight.prepare.split import SplitInProgress
from firstlight.processes import n_cores

ShardTokens = Annotated[int, Field(ge=1000, le=10**9)]
Characters = Annotated[int, Field(ge=1000, le=2**28)]


@dataclass
class Preparation:
    """All that decides the shards, and where they are written."""

    folder: Path
    data: TextDataModule
    tokenizer: Tokenizer
    section: dict[str, Any]
    """The section `tokenizer` of the config."""
    settings: dict[str, Any]
    shard_tokens: int
    longest_document: int
    workers: int

    @property
    def ratios(self) -> Ratios:
        """The shares of the splits."""
        return Ratios(self.data.shares.train, self.data.shares.test)

    def documents(self, bar: ReadingBar) -> Generator[Document, None, None]:
        """Read the documents of the source, one by one.

        Raises:
            ConfigError: they cannot be read.
        """
        try:
            texts = self.data.iter_pieces(self.longest_document)
            for document in hashed_documents(texts, self.ratios):
                bar.read(document.n_bytes)
                yield document
        except (ValueError, OSError) as error:
            raise blame("data", error) from error


def prepare(preparation: Preparation) -> Index:
    """Make the shards that are not there yet; return the index.

    Raises:
        ConfigError: the source or the folder cannot be used.
        RunError: the disk is full.
    """
    folder = preparation.folder
    _check_source(preparation)
    with out_folder(folder):
        index, is_all = known_index(folder, preparation.settings)
        try:
            if index is None:
                index = _begun(preparation)
            return _finished(preparation, index, is_all=is_all)
        except OSError as error:
            raise RunError(
                f"out ({shorten(str(folder))}): cannot be written: {error.strerror}; whole shards"
                " are kept: give the command again once that is put right"
            ) from None


def _check_source(preparation: Preparation) -> None:
    """Read the first document, so that most mistakes are found before the folder is made.

    Raises:
        ConfigError: there is none.
    """
    with ReadingBar("looking") as bar, closing(preparation.documents(bar)) as documents:
        if next(documents, None) is None:
            raise ConfigError(f"data: {preparation.data.setting()} has no text in it")


def _begun(preparation: Preparation) -> Index:
    """Load or learn the vocabulary, and write all but the shards."""
    tokenizer, texts = preparation.tokenizer, []
    if tokenizer.is_learned:
        with ReadingBar("learning the vocabulary") as bar:
            texts = sampled(preparation.documents(bar))
    try:
        tokenizer.fit(texts)
    except ValueError as error:
        raise blame("tokenizer", error) from error
    if tokenizer.note is not None:
        note(tokenizer.note)
    splits = preparation.ratios.splits
    index = new_index(tokenizer, preparation.section, preparation.settings, splits)
    write_tokenizer(preparation.folder, tokenizer)
    write_unfinished(preparation.folder, index)
    return index


def _finished(preparation: Preparation, index: Index, *, is_all: bool) -> Index:
    """Make what is missing of `index`; return it complete. With `is_all` nothing was missing."""
    folder = preparation.folder
    try:
        state = Prepared(folder, {}, index).tokenizer_state()
        assert state is not None
        tokenizer = StoredTokenizer(state)
    except ValueError as error:
        raise ConfigError(f"out: {error}; give another out=..., or remove this folder") from None
    splits: dict[str, SplitInProgress] = {}
    for name, entries in index.splits.items():
        damaged = damaged_shards(folder, entries)
        splits[name] = SplitInProgress(
            folder, name, index.dtype, preparation.shard_tokens, entries, damaged, is_all=is_all
        )
    # First of all: a folder that was complete must not say so while files of it are replaced.
    if not is_all or any(split.damaged for split in splits.values()):
        write_unfinished(folder, index)
    try:
        with ReadingBar("preparing") as bar:
            _write_shards(preparation, index, tokenizer, splits, bar)
            for split in splits.values():
                split.finish()
            n_documents, n_bytes = bar.n_documents, bar.n_bytes
    finally:
        for split in splits.values():
            split.abandon()
    complete = index.model_copy(
        update={"splits": _entries(splits), "documents": n_documents, "text_bytes": n_bytes}
    )
    _check_splits(preparation, complete)
    write_finished(folder, complete)
    return complete


def _write_shards(
    preparation: Preparation,
    index: Index,
    tokenizer: Tokenizer,
    splits: dict[str, SplitInProgress],
    bar: ReadingBar,
) -> None:
    """Read the whole source, and write the shards that are missing."""

    def needed() -> Iterator[Document]:
        # Closed, where the encoders fail half-way: a generator's files stay open until it is
        # collected.
        with closing(preparation.documents(bar)) as documents:
            for document in documents:
                if splits[document.split].needs(document):
                    yield document

    with encoders(tokenizer, index.dtype, preparation.workers) as pool:
        for document, ids in pool.encode(needed()):
            bar.wrote(len(ids))
            if splits[document.split].write(ids, document.digest):
                # After each shard, so that a kill costs the work on one shard of a split.
                current = index.model_copy(update={"splits": _entries(splits)})
                write_unfinished(preparation.folder, current)


def _entries(splits: dict[str, SplitInProgress]) -> dict[str, Any]:
    return {name: split.entries for name, split in splits.items()}


def _check_splits(preparation: Preparation, index: Index) -> None:
    """Refuse a text of so few documents that a split has none.

    Raises:
        ConfigError: one has none.
    """
    has_test = "test" in index.splits
    for name, entries in index.splits.items():
        if not entries:
            # By default there is a test split, which nobody may have asked for.
            fewer = "data.test_ratio=0, which leaves validation more, or " if has_test else ""
            raise ConfigError(
                f"data: the {name} split gets none of {index.documents:,} documents, which are"
                f" split by their hashes; give {fewer}a smaller longest_document, which cuts them"
                f" into more (it is {preparation.longest_document:,} characters), in another"
                " out=..., or train with data=text, which needs no preparation"
            )


def arguments(config: DictConfig) -> dict[str, Any]:
    """Check the composed config as arguments of `preparation_of`.

    Raises:
        ConfigError: it is not valid.
    """
    with open_dict(config):
        section = config.get("data")
        # No model is known here, and nothing is cut into windows.
        if isinstance(section, DictConfig) and OmegaConf.is_interpolation(
            section, "context_length"
        ):
            section["context_length"] = 1
    return check_config(config, preparation_of)


def preparation_of(
    *,
    out: NonEmpty,
    data: Callable[..., TextDataModule],
    tokenizer: Tokenizer,
    shard_tokens: ShardTokens = 10**8,
    longest_document: Characters = 2**20,
    workers: Annotated[int, Field(ge=1, le=1024)] | None = None,
) -> Callable[[dict[str, Any]], Preparation]:
    """Build a preparation, apart from the config that it is stored with."""

    def of(plain: dict[str, Any]) -> Preparation:
        of_text = {key: value for key, value in plain["data"].items() if key not in CUT_BY}
        settings = {
            "data": of_text,
            "tokenizer": plain["tokenizer"],
            "shard_tokens": shard_tokens,
            "longest_document": longest_document,
        }
        try:
            # The order is never asked: documents are written as they come.
            text = data(tokenizer=tokenizer, order=SeededOrder(seed=0))
        except (ValueError, TypeError) as error:
            raise blame("data", error) from error
        return Preparation(
            user_path(out),
            text,
            tokenizer,
            plain["tokenizer"],
            settings,
            shard_tokens,
            longest_document,
            workers or n_cores(),
        )

    return of


def main(config: DictConfig) -> None:
    """Prepare, and say what there is now and how to train from it."""
    plain = arguments(config)
    preparation = preparation_of(**build(plain))(plain)
    begun = time.perf_counter()
    index = prepare(preparation)
    seconds = time.perf_counter() - begun
    say(
        f"{preparation.folder}: {index.documents:,} documents, {index.text_bytes:,} bytes,"
        f" {index.vocabulary.name} tokenizer, {seconds:,.1f} s"
    )
    for name, entries in index.splits.items():
        n_tokens = sum(entry.tokens for entry in entries)
        n_documents = sum(entry.documents for entry in entries)
        say(
            f"{name:<5} {n_tokens:>13,} tokens  {n_documents:>9,} documents  {len(entries):>5,}"
            f" shard{'s' if len(entries) > 1 else ''}"
        )
    say("train with:")
    say(f"  {command('train', 'data=shards', setting('data.path', str(preparation.folder)))}")
