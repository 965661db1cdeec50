"""Vocabularies in Hugging Face's files give transformers the ids that ours gives, and the other way
round.
"""

import json
import random
import shutil

import pytest
import tokenizers
import transformers

from firstlight.data.tokenizers.base import END_OF_TEXT, StoredTokenizer
from firstlight.data.tokenizers.bpe import BPETokenizer
from firstlight.data.tokenizers.bytes import BytesTokenizer
from firstlight.data.tokenizers.huggingface import (
    GPT2_PATTERN,
    byte_of_character,
    read_tokenizer,
    state_of_vocabulary,
    write_tokenizer,
)
from firstlight.errors import ConfigError

PROSE = "The lamplighter's daughter lit the lamps along the harbour; the lamps lit the fog. " * 20
PAIRS = (
    "\u00a0",
    "\u2009",
    "\u200d",
    "\u0301",
    "\u0b95\u0bcd",
    "\u0661",
    "\u00bd",
    "\u2028",
    "\u0085",
    "\u3000",
)
TEXTS = [
    "",
    " ",
    PROSE,
    "don't we'll I've I'm you're she'd it's DON'T WE'LL 'tis ''' 's's",
    "  two before, two after  ",
    "tabs\t\tand\r\nlines\n\n\n  indented\n \n",
    " " * 100 + "x" + "\n" * 50,
    "".join(map(chr, range(32))) + "\x7f\x80\x9f",
    "naïve café, e\u0301 \u0301\u0302 \u212b",
    "日本語の文章。これは、ペンです。 한국어 ไทย हिन्दी",
    "\u0634\u0643\u0631\u0627 \u200f\u05e9\u05dc\u05d5\u05dd",
    "👩‍👩‍👧‍👦 🏴󠁧󠁢󠁥󠁮󠁧󠁿🇩🇪 ☃️",
    "3141592653589793" * 20 + " 1,000,000.00 ½ ² ٣ Ⅷ",
    "\ufeff\u200b\ufffd\U0010ffff\ue000",
    *(f"a{c}b {c}{c} 1{c}{c}{c}.{c} {c}" for c in PAIRS),
]


def random_texts(count=60):
    """Strings of characters from the whole of Unicode, and of what GPT-2's pattern tells apart."""
    draw = random.Random(1)
    special = [*" \n\t'.,!1٣éß日a", "'s", "'ll", "  ", *PAIRS]
    anything = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for _ in range(count):
        yield "".join(
            chr(draw.choice(anything)) if draw.random() < 0.2 else draw.choice(special)
            for _ in range(draw.randrange(60))
        )


@pytest.fixture(params=["bytes", "bpe", "gpt2"])
def tokenizer(request, tmp_path, monkeypatch):
    monkeypatch.setenv("FIRSTLIGHT_CACHE_DIR", str(tmp_path / "cache"))
    if request.param == "gpt2":
        return request.getfixturevalue("gpt2_vocabulary")
    made = BytesTokenizer() if request.param == "bytes" else BPETokenizer(vocab_size=330)
    made.fit([PROSE])
    return made


@pytest.fixture(scope="module")
def written():
    """Folders by the name of the tokenizer in them; GPT-2's takes a second to write."""
    return {}


@pytest.fixture
def exported(tokenizer, written, tmp_path_factory):
    """The folder that `tokenizer` was written to; not to be changed."""
    name = tokenizer.encoding.name
    if name not in written:
        written[name] = tmp_path_factory.mktemp(name)
        write_tokenizer(tokenizer.state_dict(), written[name], context_length=77)
    return written[name]


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "folder"
    made.mkdir()
    return made


@pytest.fixture
def small():
    """Vocabulary and merges of 256 bytes, "th", "the" and the end of text."""
    vocab = {character: i for i, character in enumerate(byte_of_character())} | {
        "th": 256,
        "the": 257,
        END_OF_TEXT: 258,
    }
    return vocab, ["t h", "th e"]


def tokenizer_json(vocab, merges, **changes):
    model = {"type": "BPE", "vocab": vocab, "merges": merges}
    pre_tokenizer = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    content = {
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "model": model,
    }
    return content | changes


def test_transformers_gives_the_ids_that_ours_gives(tokenizer, exported):
    theirs = transformers.AutoTokenizer.from_pretrained(exported)
    theirs.model_max_length = int(1e9)  # it warns of longer texts
    for text in [*TEXTS, *random_texts()]:
        ids = tokenizer.encode(text)
        assert theirs.encode(text) == ids
        assert theirs.decode(ids) == tokenizer.decode(ids) == text


def test_transformers_knows_the_end_of_text_and_adds_nothing(tokenizer, exported):
    theirs = transformers.AutoTokenizer.from_pretrained(exported)
    assert len(theirs) == tokenizer.encoding.n_vocab
    assert theirs.eos_token_id == theirs.bos_token_id == tokenizer.end_of_text
    assert theirs.model_max_length == 77
    assert theirs.clean_up_tokenization_spaces is False
    text = f"The lamp.{END_OF_TEXT}{END_OF_TEXT} The fog ."
    assert theirs(text).input_ids == tokenizer.encode(text, special_tokens=True)


def test_vocab_and_merges_alone_are_enough_for_transformers(tokenizer, exported, folder):
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(exported / name, folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.encode(PROSE[:200]) == tokenizer.encode(PROSE[:200])


@pytest.mark.parametrize(
    "names", [["tokenizer.json"], ["vocab.json", "merges.txt"]], ids=" and ".join
)
def test_what_was_written_is_read_as_it_was(tokenizer, exported, folder, names):
    for name in names:
        shutil.copy(exported / name, folder)
    state = read_tokenizer(folder)
    assert state is not None
    assert state["tokens"] == tokenizer.state_dict()["tokens"]
    again = StoredTokenizer(json.loads(json.dumps(state)))
    for text in TEXTS:
        assert again.encode(text) == tokenizer.encode(text)
    assert again.end_of_text == tokenizer.end_of_text


def test_a_tokenizer_that_transformers_saved_is_read(small, folder):
    vocab, merges = small
    theirs = transformers.GPT2Tokenizer(vocab=vocab, merges=[tuple(m.split()) for m in merges])
    theirs.save_pretrained(folder)
    ours = StoredTokenizer(read_tokenizer(folder))
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text)


SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def train_theirs(special):
    """What `tokenizers` learns, as its own documentation says, with special tokens first."""
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator([PROSE], vocab_size=320, show_progress=False, special_tokens=special)
    return made


@pytest.mark.parametrize("special", [[END_OF_TEXT], [*SPECIAL, END_OF_TEXT], SPECIAL])
@pytest.mark.parametrize("as_json", [True, False])
def test_special_tokens_may_stand_first_as_tokenizers_trains_them(folder, special, as_json):
    theirs = train_theirs(special)
    if as_json:
        theirs.save(str(folder / "tokenizer.json"))
    else:
        theirs.save_model(str(folder))
    end = END_OF_TEXT if END_OF_TEXT in special else "</s>"
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
    state = read_tokenizer(folder)
    ours = StoredTokenizer(json.loads(json.dumps(state)))
    for text in [*TEXTS, *random_texts(20)]:
        assert ours.encode(text) == theirs.encode(text).ids
        assert ours.decode(ours.encode(text)) == text
    assert ours.end_of_text == theirs.token_to_id(end)
    assert state["vocab_size"] == theirs.get_vocab_size()
    without = ours.without_token(theirs.get_vocab_size())
    others = [theirs.token_to_id(name) for name in special if name != end]
    assert (without.nonzero()[:, 0].tolist() if without is not None else []) == sorted(others)
    assert ours.state_dict()["tokens"] == state["tokens"]


@pytest.mark.parametrize("special", [[END_OF_TEXT], SPECIAL])
def test_special_tokens_that_stand_first_keep_their_ids_on_the_way_back(folder, special):
    theirs = train_theirs(special)
    theirs.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    state = read_tokenizer(folder)
    write_tokenizer(state, folder, context_length=10**9)
    assert read_tokenizer(folder) == state
    again = transformers.AutoTokenizer.from_pretrained(folder)
    assert again.eos_token_id == state["end_of_text"]
    assert len(again) == theirs.get_vocab_size()
    for text in TEXTS:
        assert again.encode(text) == theirs.encode(text).ids


def test_special_tokens_without_a_named_end_are_refused(folder):
    train_theirs(SPECIAL).save(str(folder / "tokenizer.json"))
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json no eos_token"):
        read_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))
    with pytest.raises(ConfigError, match="the vocabulary has no <eos>"):
        read_tokenizer(folder)


def test_a_folder_without_a_tokenizer_has_none(folder):
    (folder / "config.json").write_text("{}")
    assert read_tokenizer(folder) is None


def test_merges_may_begin_with_a_hash(small, folder):
    vocab, _ = small
    del vocab["th"], vocab["the"]
    (folder / "vocab.json").write_text(json.dumps(vocab | {"##": 256, END_OF_TEXT: 257}))
    (folder / "merges.txt").write_text("#version: 0.2\n# #\n")
    assert read_tokenizer(folder)["tokens"][256] == b"##".hex()


SPLIT = {
    "type": "Split",
    "pattern": {"Regex": GPT2_PATTERN},
    "behavior": "Isolated",
    "invert": False,
}
BYTES_ONLY = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": False,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT, BYTES_ONLY]}},
        {"post_processor": {"type": "ByteLevel", "add_prefix_space": True}},
        {"added_tokens": [{"id": 258, "content": END_OF_TEXT, "special": True}]},
    ],
    ids=[
        "as it is",
        "the pattern spelt out",
        "a post-processor without effect",
        "end of text declared",
    ],
)
@pytest.mark.parametrize("as_pairs", [False, True], ids=["merges as strings", "merges as pairs"])
def test_ways_to_write_the_same_tokenizer_are_read_the_same(small, folder, changes, as_pairs):
    vocab, merges = small
    written = [merge.split() for merge in merges] if as_pairs else merges
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(vocab, written, **changes)))
    assert read_tokenizer(folder) == state_of_vocabulary(vocab, merges)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"normalizer": {"type": "NFC"}}, r"normalizer \(NFC\)"),
        ({"pre_tokenizer": None}, r"pre_tokenizer \(None\)"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, r"pre_tokenizer \(Whitespace\)"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "does not cut words"),
        ({"pre_tokenizer": BYTES_ONLY}, "does not cut words"),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}},
            r"pre_tokenizer \(Sequence\)",
        ),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT, 3]}},
            r"pre_tokenizer \(Sequence\)",
        ),
        (
            {
                "pre_tokenizer": {
                    "type": "Sequence",
                    "pretokenizers": [SPLIT | {"invert": True}, BYTES_ONLY],
                }
            },
            "Sequence",
        ),
        (
            {"post_processor": {"type": "RobertaProcessing"}},
            r"post_processor \(RobertaProcessing\)",
        ),
        (
            {"post_processor": {"type": "TemplateProcessing", "special_tokens": {"[CLS]": {}}}},
            "adds special tokens",
        ),
        ({"added_tokens": [{"id": 259, "content": "[PAD]"}]}, r"added token '\[PAD\]'"),
        ({"added_tokens": [{"id": 260, "content": "[PAD]", "special": True}]}, "is 260, not 259"),
        ({"added_tokens": [{"id": 300, "content": END_OF_TEXT}]}, "is 300, not 258"),
        ({"added_tokens": 3}, "added token 3"),
        ({"model": {"type": "Unigram"}}, "model is Unigram, not BPE"),
        ({"model": None}, "model is None"),
        ({"model": {"vocab": {}}}, "model.merges must be a list"),
        ({"model": {"vocab": {"a": "0"}, "merges": []}}, "model.vocab must map"),
        (
            {"model": {"vocab": {}, "merges": [], "ignore_merges": True}},
            "model.ignore_merges is True",
        ),
        (
            {"model": {"vocab": {}, "merges": [], "end_of_word_suffix": "</w>"}},
            "model.end_of_word_suffix is '</w>'",
        ),
        ({"model": {"vocab": {}, "merges": ["a b c"]}}, "'a b c' is not a merge"),
        ({"model": {"vocab": {}, "merges": [["a", 1]]}}, "is not a merge"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
def test_another_kind_of_tokenizer_is_refused_by_name(small, folder, changes, words):
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(*small, **changes)))
    with pytest.raises(ConfigError, match=words) as caught:
        read_tokenizer(folder)
    assert str(folder / "tokenizer.json") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000], ids=lambda c: repr(c[:3])
)
def test_a_damaged_file_is_refused_in_one_line(folder, name, content):
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{name}: (damaged|expected)"):
        read_tokenizer(folder)


def test_half_a_vocabulary_is_refused(small, folder):
    (folder / "vocab.json").write_text(json.dumps(small[0]))
    with pytest.raises(ConfigError, match=r"merges\.txt: cannot be read"):
        read_tokenizer(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v, m: v.pop(END_OF_TEXT), r"the vocabulary has no <\|endoftext\|>"),
        (lambda v, m: v.pop("th"), "is 257, not 256"),
        (lambda v, m: v.update({"the": 300}), "is 258, not 257"),
        (lambda v, m: v.update({END_OF_TEXT: 300}), "is 300, not 258"),
        (lambda v, m: v.update({END_OF_TEXT: 0}), "is 0, not"),
        (lambda v, m: v.update({"日": 258, END_OF_TEXT: 259}), "not spelt in GPT-2's stand-ins"),
        (
            lambda v, m: v.update({"xyz": v.pop("!")}),
            "1 of the 256 bytes are not tokens, the first 0x21",
        ),
        (
            lambda v, m: v.update({"": 258, END_OF_TEXT: 259}),
            "is not a merge of two earlier tokens",
        ),
        (
            lambda v, m: v.update({"they": 256, "th": 258, END_OF_TEXT: 259}),
            "is not a merge of two earlier tokens",
        ),
        (lambda v, m: m.reverse(), "'th e' where 't h' was expected"),
        (lambda v, m: m.pop(), "None where 'th e' was expected"),
        (lambda v, m: m.append("e r"), "3 merges for 2 tokens"),
        (lambda v, m: m.__setitem__(1, "t he"), "'t he' where 'th e' was expected"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_ids_that_ranks_cannot_express_are_refused(small, change, words):
    vocab, merges = small
    change(vocab, merges)
    with pytest.raises(ValueError, match=words):
        state_of_vocabulary(vocab, merges)


def test_merges_that_tiktoken_would_make_in_another_order_are_refused(small):
    vocab, _ = small
    vocab = {c: i for c, i in vocab.items() if i < 256} | {
        "bc": 256,
        "ab": 257,
        "abc": 258,
        END_OF_TEXT: 259,
    }
    state_of_vocabulary(vocab, ["b c", "a b", "a bc"])
    with pytest.raises(
        ValueError, match="'ab c' where 'a bc' was expected"
    ):  # Hugging Face cuts abc into a, bc
        state_of_vocabulary(vocab, ["b c", "a b", "ab c"])


def test_another_pattern_with_merges_cannot_be_written(small, folder):
    state = state_of_vocabulary(*small) | {"pattern": r"\w+|\W+"}
    with pytest.raises(ValueError, match="only GPT-2's pattern"):
        write_tokenizer(state, folder, context_length=8)
    assert list(folder.iterdir()) == []


def test_an_end_of_text_among_the_tokens_cannot_be_written(small, folder):
    state = state_of_vocabulary(*small) | {"end_of_text": 300}
    with pytest.raises(ValueError, match="must be an id of its own"):
        write_tokenizer(state, folder, context_length=8)
