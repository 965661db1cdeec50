import json
import random
from itertools import pairwise

import numpy as np
import pytest
import requests
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from firstlight.data.cache import cache_dir
from firstlight.data.tokenizers import base
from firstlight.data.tokenizers.base import END_OF_TEXT, StoredTokenizer, pieces, pieces_of
from firstlight.data.tokenizers.bpe import BPETokenizer
from firstlight.data.tokenizers.bytes import BytesTokenizer
from firstlight.data.tokenizers.gpt2 import GPT2Tokenizer

TEXT = "The lamplighter's daughter lit the lamps along the harbour; the lamps lit the fog. " * 20
ODD = [
    "",
    " ",
    "  two before, two after  ",
    "\t\r\n\n \u00a0\u2028",
    "\x00\x1f\x7f",
    "naïve café, e\u0301 and \u212b",
    "日本語の文章。",
    "\u0634\u0643\u0631\u0627 \u200f\u05e9\u05dc",
    "👩‍👩‍👧‍👦🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "\ufeff\u200d\ufffd\U0010ffff",
    "don't we'll I've 1234567890 --- ...",
    f"a{END_OF_TEXT}b",
]


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FIRSTLIGHT_CACHE_DIR", str(tmp_path))


@pytest.fixture(params=["bytes", "bpe", "gpt2"])
def tokenizer(request):
    if request.param == "gpt2":
        return request.getfixturevalue("gpt2_vocabulary")
    made = BytesTokenizer() if request.param == "bytes" else BPETokenizer(vocab_size=320)
    made.fit([TEXT])
    return made


def cached_files():
    return [f for f in cache_dir().rglob("*") if f.is_file()]


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_every_text_comes_back_from_its_ids(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_bytes_of_the_ids_add_up_to_the_bytes_of_the_text(tokenizer, text):
    assert len(tokenizer.byte_lengths) == tokenizer.vocab_size
    assert tokenizer.byte_lengths[tokenizer.encode(text)].sum() == len(text.encode())
    assert tokenizer.byte_lengths[tokenizer.end_of_text] == 0


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_a_stored_tokenizer_gives_the_same_ids(tokenizer, text):
    stored = StoredTokenizer(json.loads(json.dumps(tokenizer.state_dict())))
    for special_tokens in (False, True):
        ids = tokenizer.encode(text, special_tokens=special_tokens)
        assert stored.encode(text, special_tokens=special_tokens) == ids
    assert (stored.vocab_size, stored.end_of_text) == (tokenizer.vocab_size, tokenizer.end_of_text)
    assert stored.byte_lengths.equal(tokenizer.byte_lengths)


def test_end_of_text_inside_a_text_is_a_token_only_when_asked(tokenizer):
    text = f"a{END_OF_TEXT}b"
    assert tokenizer.end_of_text not in tokenizer.encode(text)
    asked = tokenizer.encode(text, special_tokens=True)
    assert asked == [*tokenizer.encode("a"), tokenizer.end_of_text, *tokenizer.encode("b")]


def test_documents_are_joined_by_end_of_text(tokenizer):
    ids = tokenizer.encode_documents(["ab", "cd", "ef"]).tolist()
    a, b, c = (tokenizer.encode(part) for part in ("ab", "cd", "ef"))
    assert ids == [*a, tokenizer.end_of_text, *b, tokenizer.end_of_text, *c]
    assert tokenizer.decode_document(ids) == "ab"


def test_ids_that_are_no_text_are_shown_as_replacement_characters():
    tokenizer = BytesTokenizer(vocab_size=300)
    tokenizer.fit([])
    assert tokenizer.decode([0x61, 0xC3, 299]) == "a\ufffd\ufffd"


def test_bytes_are_their_own_ids():
    tokenizer = BytesTokenizer()
    tokenizer.fit([])
    assert tokenizer.encode("é\n") == [0xC3, 0xA9, 0x0A]
    assert tokenizer.end_of_text == 256


def test_bpe_cuts_as_hugging_faces_own_encoder_does():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    theirs.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=319, initial_alphabet=alphabet, show_progress=False)
    )
    ours = BPETokenizer(vocab_size=320)
    ours.fit([TEXT])
    for text in [TEXT, *ODD]:
        assert ours.encode(text) == theirs.encode(text).ids


def test_bpe_learns_as_many_ids_as_were_asked_for():
    tokenizer = BPETokenizer(vocab_size=290)
    tokenizer.fit([TEXT])
    assert tokenizer.encoding.n_vocab == 290
    assert len(tokenizer.encode(TEXT)) < 0.6 * len(TEXT)


def test_a_text_too_short_for_the_merges_gives_fewer_and_keeps_the_promised_size():
    tokenizer = BPETokenizer(vocab_size=2000)
    tokenizer.fit(["abcabc"])
    assert tokenizer.encoding.n_vocab < 300
    assert tokenizer.vocab_size == len(tokenizer.byte_lengths) == 2000
    assert tokenizer.decode(tokenizer.encode("abc xyz")) == "abc xyz"


def test_a_learned_vocabulary_is_kept_and_read_again():
    first, second = BPETokenizer(vocab_size=290), BPETokenizer(vocab_size=290)
    first.fit([TEXT])
    (file,) = cached_files()
    written = file.stat()
    second.fit([TEXT])
    assert cached_files() == [file]
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert second.encode(TEXT) == first.encode(TEXT)


def test_another_text_or_another_size_has_a_vocabulary_of_its_own():
    for documents, size in (
        ([TEXT], 300),
        ([TEXT], 301),
        ([TEXT, "more"], 300),
        ([TEXT + "more"], 300),
    ):
        BPETokenizer(vocab_size=size).fit(documents)
    assert len(cached_files()) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"".join(content.splitlines(keepends=True)[:-1]),
        lambda content: b"\xff\x00" + content,
        lambda content: content.replace(b" 7\n", b" 8\n"),
    ],
    ids=["empty", "cut", "a line lost", "binary", "wrong ranks"],
)
def test_a_damaged_cache_file_is_replaced(damage):
    tokenizer = BPETokenizer(vocab_size=290)
    tokenizer.fit([TEXT])
    (file,) = cached_files()
    whole = sorted(file.read_bytes().splitlines())
    file.write_bytes(damage(file.read_bytes()))
    again = BPETokenizer(vocab_size=290)
    again.fit([TEXT])
    assert again.encode(TEXT) == tokenizer.encode(TEXT)
    assert cached_files() == [file]
    assert sorted(file.read_bytes().splitlines()) == whole


def test_one_wrong_bit_in_the_cache_is_noticed_said_and_learned_again(capsys):
    tokenizer = BPETokenizer(vocab_size=290)
    tokenizer.fit([TEXT])
    (file,) = cached_files()
    whole = file.read_bytes()
    assert capsys.readouterr().err == ""
    for place in range(0, len(whole), 97):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        again = BPETokenizer(vocab_size=290)
        again.fit([TEXT])
        assert again.encode(TEXT) == tokenizer.encode(TEXT)
        assert file.read_bytes() == whole
        said = capsys.readouterr().err
        assert (said.startswith("note: ") and str(file) in said and said.count("\n") == 1) or (
            place < 65 and not said
        )


def test_the_cache_of_an_earlier_version_which_has_no_checksum_is_learned_again_silently(capsys):
    tokenizer = BPETokenizer(vocab_size=290)
    tokenizer.fit([TEXT])
    (file,) = cached_files()
    whole = file.read_bytes()
    file.write_bytes(whole.partition(b"\n")[2])
    BPETokenizer(vocab_size=290).fit([TEXT])
    assert file.read_bytes() == whole
    assert capsys.readouterr().err == ""


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch):
    blocked = tmp_path / "a file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("FIRSTLIGHT_CACHE_DIR", str(blocked))
    tokenizer = BPETokenizer(vocab_size=290)
    tokenizer.fit([TEXT])
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def test_gpt2_ids_are_those_of_the_book(gpt2_vocabulary):
    assert gpt2_vocabulary.encode("Every effort moves you") == [6109, 3626, 6100, 345]
    assert gpt2_vocabulary.end_of_text == 50256


def test_a_vocabulary_larger_than_promised_is_refused(gpt2_vocabulary):
    with pytest.raises(ValueError, match=r"vocab_size \(50000\) must be at least 50257"):
        GPT2Tokenizer(vocab_size=50000).fit([])


def test_a_missing_gpt2_vocabulary_is_explained(monkeypatch):
    def unreachable(_name):
        raise requests.ConnectionError("no route to host")

    monkeypatch.setattr(tiktoken, "get_encoding", unreachable)
    with pytest.raises(ValueError, match=r"TIKTOKEN_CACHE_DIR.*tokenizer=bpe"):
        GPT2Tokenizer().fit([])


@given(
    st.text(alphabet="ab é\n 灯'!1", max_size=120),
    st.lists(st.integers(0, 130), max_size=8),
    st.integers(1, 9),
    st.lists(st.integers(0, 120), max_size=4),
)
def test_a_text_in_blocks_is_cut_as_the_whole_of_it(text, cuts, size, ends):
    """Whatever the blocks, also where one ends inside the mark between two texts."""
    for place in ends:
        text = f"{text[:place]}<E>{text[place:]}"
    edges = sorted({0, len(text), *[cut for cut in cuts if cut < len(text)]})
    blocks = [text[first:last] for first, last in pairwise(edges)]
    for end in (None, "<E>"):
        wanted = []
        for part in text.split(end) if end is not None else [text]:
            wanted += [(piece, n == 0) for n, piece in enumerate(pieces(part, size))]
        assert list(pieces_of(blocks, end, size)) == wanted


SEPARATORS = (" ", "  ", "\n", "\r\n", "\t ", "\u00a0", "\u2028", "\x1c", ". ", "'s ", END_OF_TEXT)
WORDS = (
    "lamp",
    "灯火",
    "naïve",
    "12345",
    "!?...",
    "don't",
    "👩‍👩",
    "e\u0301",
    "\u0634\u0643",
    "a",
    "I'LL",
)


def texts_in_blocks(seed):
    """Documents in blocks, whose words stand one space apart at every third place at least."""
    drawn, documents = random.Random(seed), []
    for _ in range(drawn.randrange(1, 4)):
        text = "".join(
            drawn.choice(WORDS) + (" " if n % 3 else drawn.choice(SEPARATORS)) for n in range(60)
        )
        edges = [0, *sorted(drawn.sample(range(len(text)), 5)), len(text)]
        documents.append([text[first:last] for first, last in pairwise(edges)])
    return documents


@pytest.mark.parametrize("special_tokens", [False, True])
def test_documents_in_blocks_have_the_ids_of_tiktoken_for_the_whole_text(
    tokenizer, special_tokens, monkeypatch
):
    monkeypatch.setattr(base, "PIECE", 40)
    for seed in range(40):
        documents, wanted = texts_in_blocks(seed), []
        for blocks in documents:
            text = "".join(blocks)
            for part in text.split(END_OF_TEXT) if special_tokens else [text]:
                wanted += [tokenizer.end_of_text, *tokenizer.encode(part)]
        found = list(tokenizer.encode_blocks(documents, special_tokens=special_tokens))
        assert len(found) > 3 and np.concatenate(found).tolist() == wanted[1:]
