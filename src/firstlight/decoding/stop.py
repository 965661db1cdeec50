"""Texts that end a continuation."""

import codecs
from collections.abc import Callable, Sequence


class StopStrings:
    """Ends a continuation when its text contains one of `strings`, which is then cut off.

    The search is in bytes, so that a stop may begin and end anywhere inside a token.
    """

    def __init__(
        self, strings: Sequence[str], decode_bytes: Callable[[Sequence[int]], bytes]
    ) -> None:
        self.stops = [string.encode() for string in strings]
        self.decode_bytes = decode_bytes

    def __call__(self, new_ids: Sequence[int]) -> bool:
        data = self.decode_bytes(new_ids)
        return any(stop in data for stop in self.stops)

    def cut(self, data: bytes) -> bytes:
        """Return `data` up to the first stop in it."""
        end = len(data)
        for stop in self.stops:
            if stop in data:
                end = min(end, data.index(stop))
        return data[:end]

    def text(self, ids: Sequence[int]) -> str:
        """Decode `ids` up to the first stop in their text."""
        return self.cut(self.decode_bytes(ids)).decode("utf-8", errors="replace")

    def held(self, data: bytes) -> int:
        """Count the bytes at the end of `data` that may be the beginning of a stop."""
        held = 0
        for stop in self.stops:
            # Only longer beginnings than the one that was found: the longest decides.
            for length in range(held + 1, len(stop)):
                if data.endswith(stop[:length]):
                    held = length
        return held


class TextStream:
    """Turns streamed ids into text, never showing half a character or part of a stop string."""

    def __init__(self, stop: StopStrings) -> None:
        self.stop = stop
        self.ids: list[int] = []
        # Bytes that have been returned.
        self.shown = 0
        # An incremental decoder keeps an incomplete character for the next call.
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, ids: Sequence[int], *, last: bool) -> str:
        """Add `ids` and return the text that is now certain; with `last`, all that is left."""
        self.ids += ids
        # All ids anew: a token may hold half a character, or complete a stop of the one before.
        data = self.stop.cut(self.stop.decode_bytes(self.ids))
        end = len(data) if last else len(data) - self.stop.held(data)
        fresh = data[self.shown : end]
        self.shown = max(self.shown, end)
        return self.decoder.decode(fresh, final=last)
