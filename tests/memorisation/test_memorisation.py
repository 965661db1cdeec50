"""Copies and overlaps against a search that anybody can check by eye."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstlight.memorisation import Copies, Copy, blocks, copies, overlap
from firstlight.memorisation.automaton import SuffixAutomaton
from firstlight.memorisation.copies import SHORTEST
from firstlight.memorisation.marked import as_data, as_text, marked
from firstlight.memorisation.overlap import MOST_N
from firstlight.memorisation.page import page
from firstlight.memorisation.words import in_words

BLOCK_SIZES = (1, 2, 3, 7, blocks.BLOCK)


def place_of(run: list[int], text: list[int]) -> int | None:
    """Where `run` stands in `text` first."""
    for place in range(len(text) - len(run) + 1):
        if text[place : place + len(run)] == run:
            return place
    return None


def longest_from(start: int, sample: list[int], text: list[int]) -> int:
    length = 0
    while start + length < len(sample):
        if place_of(sample[start : start + length + 1], text) is None:
            break
        length += 1
    return length


@st.composite
def two_texts(draw):
    """A text and a sample of few different ids, so that much of it is copied; and a size n."""
    ids = st.integers(0, draw(st.sampled_from([0, 1, 2, 7])))
    text, sample = draw(st.lists(ids, max_size=40)), draw(st.lists(ids, max_size=24))
    if text and draw(st.booleans()):  # a longer copy than chance would make
        start = draw(st.integers(0, len(text) - 1))
        sample += text[start : start + draw(st.sampled_from([12, 20]))]
    return text, sample, draw(st.integers(1, 18))


@st.composite
def in_arrays(draw, text):
    """The text cut into arrays of some type of ids."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    kind = draw(st.sampled_from(["<u2", "<i4", "<i8"]))
    return np.split(np.array(text, dtype=kind), cuts)


@given(st.data(), two_texts(), st.sampled_from(BLOCK_SIZES))
def test_copies_are_those_that_a_search_at_every_place_finds(data, texts, size):
    text, sample, n = texts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", size)
        found = copies(sample, data.draw(in_arrays(text)), n)
    lengths = [longest_from(start, sample, text) for start in range(len(sample))]
    maximal = [
        (start, length)
        for start, length in enumerate(lengths)
        if length > 0 and (start == 0 or lengths[start - 1] != length + 1)
    ]
    assert [(run.start, run.length) for run in found.runs] == [r for r in maximal if r[1] >= n]
    n_grams = [sample[start : start + n] for start in range(len(sample) - n + 1)]
    assert found.n_grams == len(n_grams)
    assert found.copied == sum(place_of(gram, text) is not None for gram in n_grams)
    most = max(lengths, default=0)
    if most < min(n, SHORTEST):
        assert found.longest is None
    else:
        longest = found.longest
        assert longest is not None
        assert (longest.start, longest.length) == next(r for r in maximal if r[1] == most)
        found.runs.append(longest)
    for run in found.runs:
        assert text[run.place : run.place + run.length] == sample[run.start : run.end]


@given(st.data(), two_texts(), st.integers(1, 3), st.sampled_from(BLOCK_SIZES))
def test_an_overlap_is_the_share_that_a_search_at_every_place_finds(data, texts, every, size):
    text, other, n = texts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", size)
        found = overlap(data.draw(in_arrays(other)), data.draw(in_arrays(text)), n, every=every)
    grams = [other[start : start + n] for start in range(0, len(other) - n + 1, every)]
    n_found = sum(place_of(gram, text) is not None for gram in grams)
    assert (found.n_grams, found.found) == (len(grams), n_found)
    assert found.share == (n_found / len(grams) if grams else None)


def test_an_id_that_repeats_is_one_copy_and_takes_two_states_an_id_at_most():
    assert len(SuffixAutomaton([7] * 500).length) <= 2 * 500 + 1
    found = copies([7] * 500, [np.full(20_000, 7)], 50)
    assert found.longest == Copy(0, 500, 0) and found.copied == 451
    assert len(found.runs) == 1


def test_short_runs_are_passed_over_once_a_longer_one_is_known(monkeypatch):
    """As of bytes, where four are of one word and stand everywhere."""
    monkeypatch.setattr(blocks, "BLOCK", 200)
    everywhere = np.tile([1, 2, 3, 4, 5, 6, 7, 9, 9, 9], 400)
    sample = [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14]
    n_read = 0
    original = SuffixAutomaton.read

    def counted(self, ids, place):
        nonlocal n_read
        n_read += len(ids)
        original(self, ids, place)

    monkeypatch.setattr(SuffixAutomaton, "read", counted)
    found = copies(sample, [np.array(sample[:8]), everywhere, np.array(sample)], 12)
    assert n_read <= 200 + 2 * len(sample)
    assert found.runs == [Copy(0, 12, 8 + len(everywhere))]


@pytest.mark.parametrize("n", [64, MOST_N])
def test_hashes_tell_texts_apart_that_are_made_to_collide(n):
    """Thue-Morse sequences, whose polynomial hashes modulo 2^64 are the same from 1,024 ids on."""
    one = [number.bit_count() % 2 for number in range(n)]
    other = [1 - bit for bit in one]
    assert overlap([np.array(one)], [np.array(other)], n).found == 0
    assert overlap([np.array(one)], [np.array(other + one)], n).found == 1


@pytest.mark.parametrize("n", [0, MOST_N + 1])
def test_an_n_that_cannot_be_is_refused(n):
    with pytest.raises(ValueError, match=rf"n \({n}\) must be 1 "):
        overlap([np.arange(3)], [np.arange(3)], n)
    if n == 0:
        with pytest.raises(ValueError, match=r"n \(0\) must be 1 or more"):
            copies([1], [np.arange(3)], n)


@pytest.mark.parametrize(
    ("sample", "n", "base_rate", "words"),
    [
        ([], 4, 0.5, "longest copy under 4 tokens"),
        ([1, 2], 3, None, "longest copy under 3 tokens"),
        ([0, 1, 2, 3, 4, 9], 8, 0.5, "longest copy 5 tokens"),
        (
            [0, 1, 2, 3, 4, 9], 5, 0.125,
            "longest copy 5 tokens, 50.0% of 5-grams copied, of validation's 12.5%",
        ),
        ([9, 8], 1, None, "longest copy under 1 token, 0.0% of 1-grams copied"),
    ],
)  # fmt: skip
def test_what_is_copied_is_said_in_a_line(sample, n, base_rate, words):
    assert in_words(copies(sample, [np.arange(6)], n), base_rate) == words


@given(st.lists(st.binary(max_size=3), max_size=8), st.data())
def test_the_parts_of_a_text_are_the_whole_of_it_wherever_a_copy_begins(tokens, data):
    """Also in the middle of a character, and where no text is valid UTF-8."""
    runs = []
    start = 0
    while start < len(tokens) and data.draw(st.booleans()):
        length = data.draw(st.integers(1, len(tokens) - start))
        runs.append(Copy(start, length, 0))
        start += data.draw(st.integers(1, length))  # copies may share tokens
    whole = b"".join(tokens)
    most = data.draw(st.none() | st.integers(0, len(whole)))
    found = marked(
        "", tokens, Copies(1, 0, 0, runs, None), base_rate=None, n_tokens=1, n_bytes=most
    )
    parts = [piece.text for piece in found.pieces]
    assert "".join(parts) == whole[:most].decode("utf-8", errors="replace")
    assert all(parts)


def test_a_character_of_two_tokens_is_shown_with_the_copy_that_begins_it():
    tokens = [b"a", "é".encode()[:1], "é".encode()[1:], b"b"]
    found = marked("", tokens, Copies(2, 3, 1, [Copy(0, 2, 5)], None), base_rate=None, n_tokens=9)
    assert [(piece.text, piece.number) for piece in found.pieces] == [("aé", 0), ("b", None)]


HOSTILE = "</mark><script>alert(1)</script>&\"'><img src=x onerror=alert(1)>\x00\x1b[31m"


class Tags(HTMLParser):
    """The tags of a page, their attributes, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.shown = ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.shown += data


def hostile():
    found = Copies(1, 2, 1, [Copy(1, 1, 3)], Copy(1, 1, 3))
    return marked(HOSTILE, [b"a", HOSTILE.encode()], found, base_rate=0.25, n_tokens=10)


def test_a_page_shows_what_a_model_has_written_and_never_runs_it():
    source = page([hostile()], HOSTILE)
    read = Tags(source)
    assert read.tags == {
        "html", "head", "meta", "title", "style", "body", "h1", "pre", "mark", "p", "ol", "li",
    }  # fmt: skip
    assert not {name for name in read.attributes if name.startswith("on") or name == "src"}
    assert read.shown.count("<script>alert(1)</script>") >= 3
    assert "\x00" not in source and "\x1b" not in source and "\\x1b[31m" in source
    assert "training tokens 3 to 3 of 10 (30%)" in source


def test_a_text_has_its_copies_in_colour_and_below_it_where_they_come_from():
    text = as_text(hostile())
    assert text.plain.startswith(f"{HOSTILE}a{HOSTILE}\n\nlongest copy 1 token, 50.0% of 1-grams")
    [of_text, of_list] = text.spans
    assert text.plain[of_text.start : of_text.end] == HOSTILE and of_text.style == of_list.style
    assert (
        text.plain.rstrip("\n")
        .rpartition("\n")[2]
        .startswith("  1  1 tokens, training tokens 3 to 3 of 10 (30%): </mark>")
    )


def test_copies_as_data_have_their_places_and_texts():
    assert as_data(hostile()) == {
        "n": 1,
        "n_grams": 2,
        "share": 0.5,
        "validation_share": 0.25,
        "longest": 1,
        "runs": [{"start": 1, "length": 1, "place": 3, "text": HOSTILE}],
    }


def test_the_example_of_the_page_runs(capsys):
    page_of_docs = (Path(__file__).parents[2] / "docs" / "memorisation.md").read_text("utf-8")
    [code] = re.findall("```python\n(.*?)```", page_of_docs, flags=re.S)
    exec(code, {})
    of_sample, of_overlap = capsys.readouterr().out.splitlines()
    assert of_sample.startswith("0.5 Copy(start=0, length=4, place=7) [Copy(start=0, length=4,")
    # 15 ids, of which 690 to 699 and 0 to 4 follow each other in the text, but not 699 and 700.
    assert float(of_overlap) == 8 / 13
