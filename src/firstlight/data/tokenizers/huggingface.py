"""Byte-level BPE vocabularies in Hugging Face's files, read and written as a tokenizer's state.

Hugging Face lists the merges in order. tiktoken has only ranks, which are the ids, and merges the
pair whose token has the lowest rank. Both give the same ids exactly if the merge of every token is
the last step of BPE on the token's own bytes, using only the ranks below its own. Reading checks
this, and writing derives the merges from it.
"""

import json
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from tiktoken_ext.openai_public import r50k_pat_str

from firstlight.data.files import read_limited
from firstlight.data.tokenizers.base import END_OF_TEXT
from firstlight.errors import ConfigError, shorten, with_article
from firstlight.files import replace_text

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""ByteLevel's pattern as some files spell it out; `r50k_pat_str` cuts the same words."""
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")
"""The files of a tokenizer: the first one, or the other two."""
SETTINGS_FILE = "tokenizer_config.json"
MAX_WORK = 2 * 10**7
"""Limit for the sum of squared token lengths, the cost of finding merges; GPT-2's: 2.5 million."""
CHANGES_BPE = (
    "dropout",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
)
"""Settings of a BPE model that must be off, as tiktoken has nothing like them."""
_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}


def byte_of_character() -> dict[str, int]:
    """Map GPT-2's printable stand-ins to bytes: Latin-1 as it is, the others from U+0100."""
    byte_of: dict[str, int] = {}
    for first, last in ("!~", "¡¬", "®ÿ"):
        for byte in range(ord(first), ord(last) + 1):
            byte_of[chr(byte)] = byte
    n_others = 0
    for byte in range(256):
        if chr(byte) not in byte_of:
            byte_of[chr(256 + n_others)] = byte
            n_others += 1
    return byte_of


def state_of_vocabulary(
    vocab: dict[str, int],
    merges: list[str],
    *,
    end: str = END_OF_TEXT,
    special: Iterable[str] = (),
) -> dict[str, Any]:
    """Build the state of a `StoredTokenizer`; `vocab` and `merges` ("a b") are in stand-ins.

    `end` is the token that ends a document, at whatever id: `tokenizers` puts special tokens first.
    The ids of other `special` tokens stay without a text: no text becomes one of them.

    Raises:
        ValueError: ranks cannot express the ids: they have gaps, or the merges are not in the
            order of the ids.
    """
    if end not in vocab:
        raise ValueError(f"the vocabulary has no {shorten(end)}")
    names = {end, *special}
    # Of an id that two names share, the special one comes last and is reported.
    by_id = sorted(vocab, key=lambda text: (vocab[text], text in names))
    for expected, text in enumerate(by_id):
        if vocab[text] != expected:
            raise ValueError(
                f"the id of {shorten(text)!r} is {shorten(str(vocab[text]))}, not {expected}: ids"
                " must count the bytes, merges and special tokens without a gap"
            )
    # Finding merges is quadratic in the length of a token, and files may come from anybody.
    texts = [text for text in by_id if text not in names]
    tokens = _to_bytes(texts)
    work = sum(len(token) ** 2 for token in tokens)
    if work > MAX_WORK:
        raise ValueError(
            f"its tokens are too long (the squares of their lengths sum to {work:,}; the limit is"
            f" {MAX_WORK:,})"
        )
    # The None stands for a missing merge; surplus ones are counted below.
    for expected, given in zip(_printable_merges(tokens), [*merges, None], strict=False):
        if expected != given:
            pairs = f"{shorten(repr(given))} where {shorten(repr(expected))} was expected"
            raise ValueError(f"the merges are not in the order of the ids: {pairs}")
    if len(merges) != len(tokens) - 256:
        raise ValueError(
            f"there are {len(merges)} merges for {len(tokens) - 256} tokens longer than a byte"
        )
    last = max(vocab[text] for text in texts)
    by_place = [""] * (last + 1)  # "" for an id without a text
    for text, token in zip(texts, tokens, strict=True):
        by_place[vocab[text]] = token.hex()
    return {
        "name": "huggingface",
        "pattern": r50k_pat_str,
        "tokens": by_place,
        "end_of_text": vocab[end],
        "vocab_size": len(vocab),
    }


def read_tokenizer(folder: Path) -> dict[str, Any] | None:
    """Read the state of the tokenizer in `folder`; None if it has none.

    Raises:
        ConfigError: a file, which is named, is damaged, or not GPT-2's kind of tokenizer.
    """
    # tokenizer.json first: it alone says how words are cut.
    file, vocab_file, merges_file = (folder / name for name in TOKENIZER_FILES)
    if file.is_file():
        content = read_json(file)
    elif vocab_file.is_file() or merges_file.is_file():
        file = vocab_file
        model = {"vocab": read_json(file), "merges": _read_merges(merges_file)}
        content = {"model": model, "pre_tokenizer": _BYTE_LEVEL}
    else:
        return None
    try:
        vocab, merges, special = _supported(content)
        end = _end_of_document(folder, vocab)
        return state_of_vocabulary(vocab, merges, end=end, special=special)
    except ValueError as error:
        raise ConfigError(f"{file}: not a tokenizer that firstlight can use: {error}") from None


def write_tokenizer(state: dict[str, Any], folder: Path, *, context_length: int) -> None:
    """Write the tokenizer of `state` for `transformers.AutoTokenizer` and older readers.

    Every token keeps its id; an id without a text gets a special token of its own.

    Raises:
        ValueError: it cuts text unlike GPT-2's tokenizer, or a token is not a merge of two others.
    """
    ids = [i for i, token in enumerate(state["tokens"]) if token]
    tokens = [bytes.fromhex(state["tokens"][i]) for i in ids]
    if state["pattern"] != r50k_pat_str and len(tokens) > 256:
        raise ValueError(
            f"the tokenizer cuts words by {state['pattern']!r}; only GPT-2's pattern can be written"
        )
    # A tokenizer without merges (bytes) encodes the same whichever pattern cuts words.
    merges = _printable_merges(tokens)
    vocab = dict(zip(_to_text(tokens), ids, strict=True))
    special = _special_tokens(state, set(ids))
    taken = sorted(special.keys() & vocab.keys())
    if taken:
        raise ValueError(f"{taken[0]} is the text of another token, too")
    vocab |= special
    # Both kinds of files: tokenizer.json is what the fast tokenizers read, the other two are for
    # older programs.
    _write_json(folder / "vocab.json", vocab)
    replace_text(folder / "merges.txt", "\n".join(["#version: 0.2", *merges, ""]))
    _write_json(folder / "tokenizer.json", _tokenizer_json(vocab, merges, special))
    settings = {
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length,
        "tokenizer_class": "GPT2Tokenizer",
    }
    _write_json(folder / SETTINGS_FILE, settings)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(read_limited(file).decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        # UnicodeDecodeError is a ValueError; deeply nested lists exceed the recursion limit.
        raise ConfigError(f"{file}: damaged: it is not JSON") from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"{file}: expected a JSON object, got {with_article(type(content).__name__)}"
        )
    return content


def _special_tokens(state: dict[str, Any], with_text: set[int]) -> dict[str, int]:
    """The end of text, and a name for every id up to the last that has no text, with their ids."""
    end = state["end_of_text"]
    if end in with_text or end > len(state["tokens"]):
        raise ValueError(f"{END_OF_TEXT} ({end}) must be an id of its own among the others")
    names = {END_OF_TEXT: end}
    for i in range(len(state["tokens"])):
        if i not in with_text and i != end:
            names[f"<|unused_{i}|>"] = i
    return names


def _read_merges(file: Path) -> list[str]:
    try:
        lines = read_limited(file).decode("utf-8").replace("\r\n", "\n").split("\n")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: damaged: it is not UTF-8") from None
    return [line for line in lines if line and not line.startswith("#version")]


def _supported(content: dict[str, Any]) -> tuple[dict[str, int], list[str], set[str]]:
    """Return the vocabulary, merges and special tokens of a tokenizer.json.

    Raises:
        ValueError: another setting would change the ids of a text.
    """
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise ValueError(f"model is {_kind(model)}, not BPE")
    # Each of these changes the ids of some texts, and tiktoken has nothing like it: what is not
    # known to be harmless is refused.
    normalizer = content.get("normalizer")
    if normalizer:
        raise ValueError(f"normalizer ({_kind(normalizer)}) changes the text")
    pre_tokenizer = content.get("pre_tokenizer")
    if not _cuts_like_gpt2(pre_tokenizer):
        raise ValueError(
            f"pre_tokenizer ({_kind(pre_tokenizer)}) does not cut words as GPT-2's does"
        )
    # ByteLevel only trims offsets, and a template without special tokens adds nothing.
    post_processor = content.get("post_processor") or {"type": "ByteLevel"}
    is_known = _type(post_processor) in ("ByteLevel", "TemplateProcessing")
    if not is_known or post_processor.get("special_tokens"):
        raise ValueError(
            f"post_processor ({_kind(post_processor)}) adds special tokens to every text"
        )
    for key in CHANGES_BPE:
        if model.get(key):
            raise ValueError(f"model.{key} is {shorten(repr(model[key]))}")
    vocab, merges = model.get("vocab"), model.get("merges")
    # `type`, because JSON's true is an instance of int.
    if not isinstance(vocab, dict) or not all(type(i) is int for i in vocab.values()):
        raise ValueError("model.vocab must map tokens to ids")
    if not isinstance(merges, list):
        raise ValueError("model.merges must be a list")
    added = _added(content.get("added_tokens"))
    pairs = [_pair(merge) for merge in merges]
    special = added.keys() | _named_like_special(vocab, pairs)
    return vocab | added, pairs, special


def _end_of_document(folder: Path, vocab: dict[str, int]) -> str:
    """Return the special token that ends a document: <|endoftext|>, or the folder's eos_token."""
    if END_OF_TEXT in vocab:
        return END_OF_TEXT
    settings = folder / SETTINGS_FILE
    named = read_json(settings).get("eos_token") if settings.is_file() else None
    # Earlier versions of transformers wrote an object with the settings of the token.
    if isinstance(named, dict):
        named = named.get("content")
    if isinstance(named, str):
        return named
    raise ValueError(f"the vocabulary has no {END_OF_TEXT}, and {SETTINGS_FILE} no eos_token")


def _named_like_special(vocab: dict[str, int], pairs: list[str]) -> set[str]:
    """Find tokens such as <s> and [PAD] that no merge makes.

    A vocab.json does not say which tokens are special.
    """
    merged = {pair.replace(" ", "") for pair in pairs}
    return {text for text in vocab if _SPECIAL.fullmatch(text) and text not in merged}


_SPECIAL = re.compile(r"<[^<>]+>|\[[A-Z]+\]")


def _added(tokens: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    if not isinstance(tokens, list):
        tokens = [tokens] if tokens else []
    for token in tokens:
        name, number = token, None
        if isinstance(token, dict):
            name, number = token.get("content"), token.get("id")
        is_special = name == END_OF_TEXT or (isinstance(token, dict) and token.get("special"))
        if not (is_special and isinstance(name, str) and name) or type(number) is not int:
            raise ValueError(
                f"added token {shorten(repr(name))}: only special tokens with ids are supported"
            )
        found[name] = number
    return found


def _pair(merge: Any) -> str:
    # "a b" in older files, ["a", "b"] in newer ones.
    parts = merge.split(" ") if isinstance(merge, str) else merge
    match parts:
        case [str(first), str(second)]:
            return f"{first} {second}"
    raise ValueError(f"{shorten(repr(merge))} is not a merge of two tokens")


def _cuts_like_gpt2(pre_tokenizer: Any) -> bool:
    """Whether it is ByteLevel with GPT-2's pattern, its own or spelt out in a Split before it."""
    step = pre_tokenizer
    has_split = False
    if _type(pre_tokenizer) == "Sequence":
        split = {
            "type": "Split",
            "pattern": {"Regex": GPT2_PATTERN},
            "behavior": "Isolated",
            "invert": False,
        }
        # Some programs write GPT-2's pattern into a step of its own, with use_regex off in the
        # other.
        match pre_tokenizer.get("pretokenizers"):
            case [step]:
                pass
            case [first, step] if first == split:
                has_split = True
            case _:
                return False
    if _type(step) != "ByteLevel":
        return False
    # The tokenizers library fills in missing keys with true.
    uses_regex = step.get("use_regex", True)
    return step.get("add_prefix_space", True) is False and uses_regex is not has_split


def _type(part: Any) -> Any:
    return part.get("type") if isinstance(part, dict) else None


def _kind(part: Any) -> str:
    """Name a part of a tokenizer.json by its type, or else by its text, for messages."""
    return shorten(str(_type(part) or part), 60)


def _to_bytes(texts: list[str]) -> list[bytes]:
    byte_of = byte_of_character()
    tokens: list[bytes] = []
    for text in texts:
        try:
            tokens.append(bytes([byte_of[character] for character in text]))
        except KeyError:
            raise ValueError(
                f"{shorten(text)!r} is not spelt in GPT-2's stand-ins for bytes"
            ) from None
    return tokens


def _to_text(tokens: Iterable[bytes]) -> list[str]:
    character_of = {byte: character for character, byte in byte_of_character().items()}
    return ["".join([character_of[byte] for byte in token]) for token in tokens]


def _printable_merges(tokens: list[bytes]) -> list[str]:
    """Find the pair "a b" that makes each token of more than a byte, in the order of ranks."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise ValueError(
            f"{len(missing)} of the 256 bytes are not tokens, the first 0x{missing[0]:02x}"
        )
    halves = [_halves(token, ranks) for token in tokens if len(token) != 1]
    firsts = _to_text(first for first, _ in halves)
    seconds = _to_text(second for _, second in halves)
    return [f"{first} {second}" for first, second in zip(firsts, seconds, strict=True)]


def _halves(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Find the last two parts that BPE merges into `token`, using the ranks below its own."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        pairs = [first + second for first, second in pairwise(parts)]
        # Of equal pairs min takes the first, as BPE does.
        merged = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        # Tokens that were learned later than this one do not count.
        if ranks.get(merged, len(ranks)) >= ranks[token]:
            break
        at = pairs.index(merged)
        parts[at : at + 2] = [merged]
    if len(parts) != 2:
        raise ValueError(f"token {ranks[token]} ({token!r}) is not a merge of two earlier tokens")
    return parts[0], parts[1]


def _tokenizer_json(
    vocab: dict[str, int], merges: list[str], special: dict[str, int]
) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": special[name], "content": name, **plain, "special": True}
            for name in sorted(special, key=special.__getitem__)
        ],
        "normalizer": None,
        "pre_tokenizer": _BYTE_LEVEL,
        "post_processor": _BYTE_LEVEL,
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }


def _write_json(file: Path, content: dict[str, Any]) -> None:
    replace_text(file, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
