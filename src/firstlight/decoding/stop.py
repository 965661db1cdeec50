"""Texts that end a continuation."""

import codecs
from collections.abc import Callable, Sequence


class StopStrings:
    """Ends a continuation as soon as its text has one of `strings` in it, which is then cut off.

    Looked for among bytes, so that neither the borders of tokens nor those of characters matter.
    """

    def __init__(self, strings: Sequence[str], decode_bytes: Callable[[Sequence[int]], bytes]) -> None:
        self.stops = [string.encode() for string in strings]
        self.decode_bytes = decode_bytes

    def __call__(self, new_ids: Sequence[int]) -> bool:
        data = self.decode_bytes(new_ids)
        return any(stop in data for stop in self.stops)

    def cut(self, data: bytes) -> bytes:
        """`data` up to the first stop in it."""
        found = [data.index(stop) for stop in self.stops if stop in data]
        return data[: min(found)] if found else data

    def text(self, ids: Sequence[int]) -> str:
        """The text of `ids` up to the first stop in it."""
        return self.cut(self.decode_bytes(ids)).decode("utf-8", errors="replace")

    def held(self, data: bytes) -> int:
        """How many bytes at the end of `data` may be the beginning of a stop."""
        lengths = (n for stop in self.stops for n in range(len(stop) - 1, 0, -1) if data.endswith(stop[:n]))
        return max(lengths, default=0)


class TextStream:
    """Turns ids that come one at a time into text: never half a character, never a part of a stop string."""

    def __init__(self, stop: StopStrings) -> None:
        self.stop = stop
        self.ids: list[int] = []
        self.shown = 0  # bytes
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, ids: Sequence[int], *, last: bool) -> str:
        """The text that these further `ids` make certain; with `last` all that is left."""
        self.ids += ids
        data = self.stop.cut(self.stop.decode_bytes(self.ids))
        end = len(data) if last else len(data) - self.stop.held(data)
        fresh = data[self.shown : end]
        self.shown = max(self.shown, end)
        return self.decoder.decode(fresh, final=last)
