"""Does a tokenizer give back every text, also when it comes from a checkpoint?"""

import json
from collections.abc import Callable, Collection, Sequence

import torch

from firstlight.data.tokenizers.base import END_OF_TEXT, StoredTokenizer, Tokenizer
from firstlight.testing.properties import Broken, Property, check_all, made_by

TEXTS = (
    "The lamp was lit, and the lamp went out; nobody on the quay had seen who did it.",
    "  two spaces,\ttabs\n\n\nlines \r\n and a space at the end ",
    "na\u00efve caf\u00e9 \u2014 \u4f60\u597d, \u041f\u0440\u0438\u0432\u0435\u0442 \U0001f600",
    "\u0645\u0631\u062d\u0628\u0627, \u0928\u092e\u0938\u094d\u0924\u0947",
    "e\u0301 is not \u00e9, \ufb01 is not fi, \u00a0 is not a space",
    "def f(x):\n    return x**2 - 3.14e-5  # 100%",
    "\x00\x01\x7f\ufeff\u200b",
    f"a text about {END_OF_TEXT}, as characters",
    "",
)
"""Texts of every kind."""


def check_tokenizer(
    make: Callable[[], Tokenizer], *, texts: Sequence[str] = (), skip: Collection[str] = ()
) -> dict[str, str]:
    """Check that what `make` returns keeps the contract of `Tokenizer`, for `texts` among others.

    Returns what became of each property.

    Raises:
        AssertionError: a property does not hold.
    """
    case = _Case(make, [*texts, *TEXTS])
    properties = [
        Property("fit", case.fit, "fit learns or loads a vocabulary of at most vocab_size ids."),
        Property(
            "round trip",
            case.round_trip,
            "Let every byte have a token, and the pattern cut a text without losing any of it.",
        ),
        Property("ids", case.ids, "Ids are whole numbers from 0 up to vocab_size."),
        Property(
            "end of text",
            case.end_of_text,
            f"{END_OF_TEXT} is one id of its own, which only special_tokens=True gives a text.",
        ),
        Property(
            "bytes", case.bytes, "byte_lengths has for each id the bytes that decode_bytes gives."
        ),
        Property(
            "documents", case.documents, "Documents are encoded as alone, with end_of_text between."
        ),
        Property(
            "determinism", case.determinism, "Learn the same vocabulary from the same documents."
        ),
        Property(
            "save and load",
            case.save_and_load,
            "state_dict holds all that a StoredTokenizer needs: pattern, tokens, end_of_text.",
        ),
    ]
    return check_all("tokenizer", properties, skip)


class _Case:
    def __init__(self, make: Callable[[], Tokenizer], texts: list[str]) -> None:
        self.make, self.texts = make, texts
        self._fitted: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """One that is fitted, made once."""
        if self._fitted is None:
            self._fitted = self.make()
            self._fitted.fit(list(self.texts))
        return self._fitted

    def fit(self) -> None:
        made = made_by(self.make, Tokenizer)
        made.fit(list(self.texts))
        if not made.is_fitted:
            raise Broken("after fit it has no encoding")

    def round_trip(self) -> None:
        for text in self.texts:
            found = self.tokenizer.decode(self.tokenizer.encode(text))
            if found != text:
                raise Broken(f"{text!r} comes back as {found!r}")

    def ids(self) -> None:
        for text in self.texts:
            for number in self.tokenizer.encode(text):
                if not isinstance(number, int) or not 0 <= number < self.tokenizer.vocab_size:
                    raise Broken(
                        f"{text!r} has the id {number!r}, vocab_size is {self.tokenizer.vocab_size}"
                    )

    def end_of_text(self) -> None:
        end = self.tokenizer.end_of_text
        found = self.tokenizer.encode(END_OF_TEXT, special_tokens=True)
        if found != [end]:
            raise Broken(f"with special_tokens=True its ids are {found}, end_of_text is {end}")
        if end in self.tokenizer.encode(END_OF_TEXT):
            raise Broken("the characters of a text become the special token")

    def bytes(self) -> None:
        # Bits per byte divides by these numbers.
        lengths = self.tokenizer.byte_lengths
        for text in self.texts:
            ids, n_bytes = self.tokenizer.encode(text), len(text.encode())
            counted = int(lengths[ids].sum()) if ids else 0
            if counted != n_bytes:
                raise Broken(f"{text!r} has {n_bytes} bytes, those of its ids sum to {counted}")
            if self.tokenizer.decode_bytes(ids) != text.encode():
                raise Broken(f"decode_bytes gives other bytes for {text!r}")

    def documents(self) -> None:
        end, wanted = self.tokenizer.end_of_text, []
        for number, text in enumerate(self.texts):
            wanted += [end] * (number > 0) + self.tokenizer.encode(text)
        found = self.tokenizer.encode_documents(self.texts).tolist()
        # The first place that differs, also where one is longer.
        for place in range(max(len(found), len(wanted))):
            if found[place : place + 1] != wanted[place : place + 1]:
                raise Broken(f"encode_documents and encode differ from id {place} on")

    def determinism(self) -> None:
        tokenizer = self.tokenizer
        # A vocabulary that depends on torch's draws would differ now.
        torch.manual_seed(1)
        other = self.make()
        other.fit(list(self.texts))
        if other.state_dict() != tokenizer.state_dict():
            raise Broken("made and fitted twice, the vocabularies differ")

    def save_and_load(self) -> None:
        # Through JSON, as in a checkpoint: it holds no bytes, and keys of a dict become texts.
        stored = StoredTokenizer(json.loads(json.dumps(self.tokenizer.state_dict())))
        for text in self.texts:
            if stored.encode(text) != self.tokenizer.encode(text):
                raise Broken(f"stored and loaded, it has different ids for {text!r}")
        if stored.vocab_size != self.tokenizer.vocab_size:
            raise Broken(f"stored and loaded, its vocab_size is {stored.vocab_size}")
