"""Byte-level BPE vocabularies in Hugging Face's files, to and from the `state_dict` of a `Tokenizer`.

Hugging Face lists the merges, in their order; tiktoken has ranks alone, which are the ids, and merges whatever pair
makes the token of least rank. The two give the same ids exactly if every token's merge is the last step of BPE on its
own bytes with the ranks below its own. So that is what is checked on reading, and what is derived on writing.
"""

import json
from pathlib import Path
from typing import Any

from tiktoken_ext.openai_public import r50k_pat_str

from firstlight.data.files import read_limited
from firstlight.data.tokenizers.base import END_OF_TEXT
from firstlight.errors import ConfigError, shorten
from firstlight.files import replace_text

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""How ByteLevel cuts words, as a file that spells it out has it; `r50k_pat_str` cuts the same."""
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")
"""What is read of a folder: the first, or the two others."""
MAX_WORK = 2 * 10**7
"""Sum of the squares of the tokens' lengths, which finding their merges takes: GPT-2's is 2.5 million."""
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes: printable Latin-1 for itself, the others counted up from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


def state_of_vocabulary(vocab: dict[str, int], merges: list[str]) -> dict[str, Any]:
    """The state of a `StoredTokenizer` with these ids; `vocab` and `merges` ("a b") are in stand-ins for bytes.

    Raises:
        ValueError: ids that ranks cannot express: gaps, `<|endoftext|>` not last, merges in another order.
    """
    if END_OF_TEXT not in vocab:
        raise ValueError(f"there is no {END_OF_TEXT} in the vocabulary")
    texts = sorted((text for text in vocab if text != END_OF_TEXT), key=vocab.__getitem__)
    for expected, text in enumerate([*texts, END_OF_TEXT]):
        if vocab[text] != expected:
            raise ValueError(
                f"the id of {shorten(text)!r} is {shorten(str(vocab[text]))}, not {expected}: "
                f"ids must count the bytes and merges without a gap, and {END_OF_TEXT} must follow them"
            )
    tokens = _to_bytes(texts)
    if (work := sum(len(token) ** 2 for token in tokens)) > MAX_WORK:
        raise ValueError(f"its tokens are too long (the squares of their lengths come to {work:,}, up to {MAX_WORK:,})")
    for expected, given in zip(_printable_merges(tokens), [*merges, None], strict=False):
        if expected != given:
            pairs = f"{shorten(repr(given))} where {shorten(repr(expected))} was expected"
            raise ValueError(f"the merges are not in the order of the ids: {pairs}")
    if len(merges) != len(tokens) - 256:
        raise ValueError(f"there are {len(merges)} merges for {len(tokens) - 256} tokens of more than a byte")
    return {
        "name": "huggingface",
        "pattern": r50k_pat_str,
        "tokens": [token.hex() for token in tokens],
        "end_of_text": len(tokens),
        "vocab_size": len(tokens) + 1,
    }


def read_tokenizer(folder: Path) -> dict[str, Any] | None:
    """The state of the tokenizer in `folder` (tokenizer.json, or vocab.json and merges.txt); None if it has none.

    Raises:
        ConfigError: a file is damaged, or is not GPT-2's kind of tokenizer; it is named.
    """
    file, vocab_file, merges_file = (folder / name for name in TOKENIZER_FILES)
    if file.is_file():
        content = read_json(file)
    elif vocab_file.is_file() or merges_file.is_file():
        file = vocab_file
        content = {
            "model": {"vocab": read_json(file), "merges": _read_merges(merges_file)},
            "pre_tokenizer": _BYTE_LEVEL,
        }
    else:
        return None
    try:
        return state_of_vocabulary(*_supported(content))
    except ValueError as error:
        raise ConfigError(f"{file}: not a tokenizer that can be used here: {error}") from None


def write_tokenizer(state: dict[str, Any], folder: Path, *, context_length: int) -> None:
    """Write the tokenizer of `state` into `folder`, for `transformers.AutoTokenizer` and older readers.

    Raises:
        ValueError: it cuts text in a way that GPT-2's tokenizer does not, or its tokens are no merges.
    """
    tokens = [bytes.fromhex(token) for token in state["tokens"]]
    if state["pattern"] != r50k_pat_str and len(tokens) > 256:
        raise ValueError(f"a tokenizer that cuts words by {state['pattern']!r}: only GPT-2's pattern can be written")
    merges, end_of_text = _printable_merges(tokens), state["end_of_text"]
    vocab = {text: rank for rank, text in enumerate(_to_text(tokens))}
    if END_OF_TEXT in vocab or end_of_text != len(tokens):
        raise ValueError(f"{END_OF_TEXT} must be the one token after the {len(tokens)} others")
    vocab[END_OF_TEXT] = end_of_text
    _write_json(folder / "vocab.json", vocab)
    replace_text(folder / "merges.txt", "\n".join(["#version: 0.2", *merges, ""]))
    _write_json(folder / "tokenizer.json", _tokenizer_json(vocab, merges))
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    settings = {
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length,
        "tokenizer_class": "GPT2Tokenizer",
    }
    _write_json(folder / "tokenizer_config.json", special | settings)


def read_json(file: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(read_limited(file).decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise ConfigError(f"{file}: damaged: it is no JSON") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected a JSON object, got a {type(content).__name__}")
    return content


def _read_merges(file: Path) -> list[str]:
    try:
        lines = read_limited(file).decode("utf-8").replace("\r\n", "\n").split("\n")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: damaged: it is not UTF-8") from None
    return [line for line in lines if line and not line.startswith("#version")]


def _supported(content: dict[str, Any]) -> tuple[dict[str, int], list[str]]:
    """Vocabulary and merges of a tokenizer.json, whose other settings must not change what ids a text has."""
    model, post_processor = content.get("model"), content.get("post_processor") or {}
    if not isinstance(model, dict) or not isinstance(post_processor, dict) or model.get("type", "BPE") != "BPE":
        raise ValueError(f"model is {_kind(model)}, not BPE")
    if normalizer := content.get("normalizer"):
        raise ValueError(f"normalizer ({_kind(normalizer)}) changes the text")
    if not _cuts_like_gpt2(content.get("pre_tokenizer")):
        raise ValueError(f"pre_tokenizer ({_kind(content.get('pre_tokenizer'))}) does not cut words as GPT-2's does")
    if post_processor.get("special_tokens") or _kind(post_processor) not in ("{}", "ByteLevel", "TemplateProcessing"):
        raise ValueError(f"post_processor ({_kind(post_processor)}) adds special tokens to every text")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"):
        if model.get(key):
            raise ValueError(f"model.{key} is {shorten(repr(model[key]))}")
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not all(type(i) is int for i in vocab.values()) or not isinstance(merges, list):
        raise ValueError("model.vocab must map tokens to ids, and model.merges be a list")
    return vocab | _added(content.get("added_tokens") or []), [_pair(merge) for merge in merges]


def _added(tokens: Any) -> dict[str, int]:
    found = {}
    for token in tokens if isinstance(tokens, list) else [tokens]:
        if not isinstance(token, dict) or token.get("content") != END_OF_TEXT or type(token.get("id")) is not int:
            name = token.get("content") if isinstance(token, dict) else token
            raise ValueError(f"added token {shorten(repr(name))}: {END_OF_TEXT} is the only one there can be")
        found[END_OF_TEXT] = token["id"]
    return found


def _pair(merge: Any) -> str:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"{shorten(repr(merge))} is no merge of two tokens")
    return " ".join(parts)


def _cuts_like_gpt2(pre_tokenizer: Any) -> bool:
    steps, cut = [pre_tokenizer], False
    if isinstance(pre_tokenizer, dict) and pre_tokenizer.get("type") == "Sequence":
        split = {"type": "Split", "pattern": {"Regex": GPT2_PATTERN}, "behavior": "Isolated", "invert": False}
        steps = pre_tokenizer.get("pretokenizers")
        cut = isinstance(steps, list) and steps[:1] == [split]
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        return False
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": not cut}
    defaults = {"add_prefix_space": True, "use_regex": True}  # of the tokenizers library
    return [{key: (defaults | step).get(key) for key in byte_level} for step in steps[cut:]] == [byte_level]


def _kind(part: Any) -> str:
    """What a part of a tokenizer.json calls itself."""
    return shorten(str(part.get("type", part) if isinstance(part, dict) else part), 60)


def _to_bytes(texts: list[str]) -> list[bytes]:
    byte_of = byte_of_character()
    unknown = next((text for text in texts if not byte_of.keys() >= set(text)), None)
    if unknown is not None:
        raise ValueError(f"{shorten(unknown)!r} is not spelt in GPT-2's stand-ins for bytes")
    return [bytes(byte_of[character] for character in text) for text in texts]


def _to_text(tokens: list[bytes]) -> list[str]:
    character_of = {byte: character for character, byte in byte_of_character().items()}
    return ["".join(character_of[byte] for byte in token) for token in tokens]


def _printable_merges(tokens: list[bytes]) -> list[str]:
    """For each of `tokens` of more than a byte, in rank order, the pair that it is merged from."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise ValueError(f"{len(missing)} of the 256 bytes are no tokens, the first 0x{missing[0]:02x}")
    halves = [_halves(token, ranks) for token in tokens if len(token) != 1]
    return [" ".join(pair) for pair in zip(*(_to_text(list(side)) for side in zip(*halves, strict=True)), strict=True)]


def _halves(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that BPE merges last when it makes `token` from bytes, with the ranks below the token's own."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        rank, at = min((ranks.get(parts[i] + parts[i + 1], len(ranks)), i) for i in range(len(parts) - 1))
        if rank >= ranks[token]:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    if len(parts) != 2:
        raise ValueError(f"token {ranks[token]} ({token!r}) is no merge of two tokens before it")
    return parts[0], parts[1]


def _tokenizer_json(vocab: dict[str, int], merges: list[str]) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocab[END_OF_TEXT], "content": END_OF_TEXT, **plain, "special": True}],
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
