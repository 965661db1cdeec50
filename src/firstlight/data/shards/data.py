"""Training from shards: those of `firstlight prepare`, llm.c, nanoGPT and modded-nanogpt."""

import hashlib
from collections.abc import Iterator
from itertools import accumulate
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from firstlight.config import FinitePositive, NonEmpty
from firstlight.data.shards.documents import DocumentStarts, check_starts
from firstlight.data.shards.folder import SPLITS, Prepared, find_prepared
from firstlight.data.shards.index import identity
from firstlight.data.shards.mixture import Mixture
from firstlight.data.shards.shard import Shard
from firstlight.data.shards.windows import DocumentWindows, ShardTokens, ShardWindows
from firstlight.data.token_data import TokenDataModule
from firstlight.data.tokenizers.base import StoredTokenizer, Tokenizer
from firstlight.data.windows import Windows
from firstlight.errors import counted, one_line, shorten


class ShardsData(TokenDataModule):
    """Tokens in files that stay on disk: a batch is read when it is needed.

    Each folder of `path` is a source. All are read to the same extent, or in the shares of
    `weights`: an epoch has as many windows as all sources together. Without `cross_documents` a
    window is within one document.

    Raises:
        ValueError: the weights do not fit the sources or the order; see also `TokenDataModule`.
    """

    def __init__(
        self,
        *,
        path: NonEmpty | Annotated[list[NonEmpty], Field(min_length=1)],
        weights: list[FinitePositive] | None = None,
        cross_documents: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.paths = [path] if isinstance(path, str) else path
        self.weights, self.cross_documents = weights, cross_documents
        if weights is not None:
            if len(weights) != len(self.paths):
                raise ValueError(
                    f"weights ({weights}) must have one number for each of the"
                    f" {len(self.paths)} folders of data.path"
                )
            if self.order.seed is None or not self.shuffle:
                raise ValueError(
                    "weights need data.shuffle=true and an order that follows from the seed:"
                    " order=seeded"
                )
        self.sources: list[Prepared] = []
        self.mixture: Mixture | None = None
        self._sha256 = ""

    @classmethod
    def stored_tokenizer(cls, section: dict[str, Any]) -> tuple[dict[str, Any], Tokenizer] | None:
        paths = section["path"]
        found = find_prepared(paths if isinstance(paths, str) else paths[0])
        state = found.tokenizer_state()
        if found.index is None or state is None:
            return None
        return found.index.vocabulary.config, _built(found, state)

    def setting(self) -> str:
        return f"data.path ({shorten(', '.join(self.paths))})"

    def source(self) -> str:
        return "; ".join(map(_described, self.sources))

    def read(self, stage: str | None) -> dict[str, Windows]:
        self.sources = [find_prepared(path) for path in self.paths]
        self._check(self._take_tokenizer())
        windows: dict[str, Windows] = {}
        for split in SPLITS:
            if any(split in source.splits for source in self.sources):
                windows[split] = self._cut(split, [split])
        missing = {"train", "val"} - windows.keys()
        if missing:
            raise ValueError(
                f"path ({shorten(self.paths[0])}) has no shards of the split {min(missing)}: their"
                f" names have {min(missing)} in them"
            )
        if stage == "all":
            return {"all": self._cut("all", list(windows))}
        self._mix(windows["train"])
        return windows

    def sha256(self) -> str:
        return self._sha256

    def train_order(self, start: int) -> Iterator[Tensor]:
        places = super().train_order(start)
        if self.mixture is None:
            return places
        return self.mixture.batches(places, start, self.batches_per_epoch)

    def _cut(self, name: str, splits: list[str]) -> Windows:
        shards: list[Shard] = []
        for source in self.sources:
            for split in splits:
                shards += source.splits.get(split, [])
        tokens = ShardTokens(shards)
        size = self.window_size(name)
        if self.cross_documents:
            windows = ShardWindows(tokens, **size)
        else:
            end = self.tokenizer.end_of_text
            documents = [DocumentStarts(shard, end) for shard in shards]
            windows = DocumentWindows(tokens, **size, documents=documents)
            if name == "train":
                self._note_left_out(windows)
        if len(windows) == 0:
            place = f"the {name} split has {len(tokens):,} tokens"
            if not self.cross_documents and len(tokens) > self.context_length:
                raise ValueError(
                    f"{place}, but no document of {self.context_length} + 1; use a smaller"
                    " model.context_length, or data.cross_documents=true"
                )
            shorter = f"model.context_length={len(tokens) - 1} or " if len(tokens) > 1 else ""
            raise ValueError(
                f"{place}, too few for one window of {self.context_length} + 1; use {shorter}more"
                " text"
            )
        return windows

    def _note_left_out(self, windows: ShardWindows) -> None:
        """Note which share of the training tokens is in no window."""
        # With a stride windows share tokens: an upper bound would not help anybody.
        used = len(windows) * self.context_length
        if self.stride == self.context_length and used < 0.99 * windows.n_tokens:
            self.notes.append(
                f"{1 - used / windows.n_tokens:.0%} of the training tokens are in no window: with"
                f" cross_documents=false a document's last part that does not fill a window of"
                f" {self.context_length} is left out; a smaller model.context_length leaves out"
                " less"
            )

    def _mix(self, windows: Windows) -> None:
        if self.weights is None or len(self.sources) == 1:
            return
        assert isinstance(windows, ShardWindows)
        assert self.order.seed is not None
        n_shards = accumulate(len(source.splits.get("train", [])) for source in self.sources)
        ends = [windows.n_before(n) if n else 0 for n in n_shards]
        # The list with the 0 is one longer: at the last end no folder begins.
        counts = [end - first for first, end in zip([0, *ends], ends, strict=False)]
        for path, count in zip(self.paths, counts, strict=True):
            if count == 0:
                raise ValueError(f"path ({shorten(path)}) has no window to train on")
        self.mixture = Mixture(counts, self.weights, self.order.seed)

    def _take_tokenizer(self) -> str:
        """Take the tokenizer that was stored, or check that the one in use is the same.

        Returns its `identity`, which takes a moment with 50,000 tokens.

        Raises:
            ValueError: the shards are another tokenizer's, or nothing tells whose they are.
        """
        used = ""
        for source in self.sources:
            state = source.tokenizer_state()
            if not self.tokenizer.is_fitted:
                if not self.tokenizer.is_learned:
                    self.tokenizer.fit([])
                elif state is not None:
                    self.tokenizer = _built(source, state)
                else:
                    raise ValueError(
                        f"path ({source.folder}) does not say which tokenizer its tokens are of:"
                        " give it, e.g. tokenizer=gpt2"
                    )
            used = used or identity(self.tokenizer.state_dict())
            if state is None or identity(state) == used:
                continue
            theirs, ours = source.index.vocabulary.name, self.tokenizer.encoding.name  # type: ignore[union-attr]
            same = "" if theirs != ours else " with another vocabulary"
            raise ValueError(
                f"path ({source.folder}) was prepared with the tokenizer {theirs}{same}, not"
                f" {ours}: leave tokenizer=... out, or prepare the text again"
            )
        return used

    def _check(self, tokenizer: str) -> None:
        """Check all files; `tokenizer` is the identity of the one in use.

        Raises:
            ValueError: one is not what its index says, or has ids that the tokenizer does not have.
        """
        parts = [tokenizer]
        n_ids = self.tokenizer.encoding.n_vocab
        for source in self.sources:
            hashes, largest = source.check()
            if largest >= n_ids:
                raise ValueError(
                    f"path ({source.folder}) has the id {largest:,}, and the tokenizer"
                    f" {self.tokenizer.encoding.name} has {n_ids:,}: it was made with another one;"
                    " give tokenizer=..."
                )
            parts += [*source.splits, *hashes]
            if source.index is not None and not self.cross_documents:
                for split, shards in source.splits.items():
                    for shard, entry in zip(shards, source.index.splits[split], strict=True):
                        check_starts(shard, entry.starts_sha256)
        self._sha256 = hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _built(source: Prepared, state: dict[str, Any]) -> Tokenizer:
    try:
        return StoredTokenizer(state)
    except ValueError as error:
        raise ValueError(
            f"path ({source.folder}): its tokenizer cannot be used: {one_line(error)}"
        ) from None


def _described(source: Prepared) -> str:
    n_shards = sum(map(len, source.splits.values()))
    words = f"{shorten(str(source.folder))}, {counted(n_shards, 'shard')}"
    if source.index is None:
        return f"{words} without an index"
    return f"{words}, {counted(source.index.documents, 'document')}"
