import random

import pytest

from firstlight.data.tokenizers.bytes import BytesTokenizer
from firstlight.decoding.stop import StopStrings, TextStream

PIECES = [
    b"a",
    b"b",
    b"ab",
    b"ba",
    b"\n",
    "é".encode(),
    "灯".encode(),
    "é".encode()[:1],
    "é".encode()[1:],
    b"b\n",
]
"""Tokens of a vocabulary in which characters, and stop strings, begin and end anywhere."""


def of_pieces(ids):
    return b"".join(PIECES[i] for i in ids)


@pytest.fixture
def of_bytes():
    """The bytes of ids of the tokenizer of bytes, without the end of text."""
    tokenizer = BytesTokenizer()
    tokenizer.fit([])
    return lambda ids: tokenizer.decode_bytes([i for i in ids if i != tokenizer.end_of_text])


@pytest.fixture
def streamed():
    """What a stream shows as `ids` come one at a time, the generation ending at a stop: its pieces,
    and the ids.
    """

    def show(stop, ids):
        stream, pieces = TextStream(stop), []
        for n in range(1, len(ids) + 1):
            last = stop(ids[:n]) or n == len(ids)
            pieces.append(stream.feed([ids[n - 1]], last=last))
            if last:
                return pieces, ids[:n]
        return pieces, ids

    return show


def spelt(text):
    return list(text.encode())


# ---- where a text ends


@pytest.mark.parametrize(
    ("stops", "text", "ends"),
    [
        (["END"], "the END of", "the "),
        (["END"], "ENENEND", "ENEN"),
        (["aab"], "aaab", "a"),
        (["\n\n"], "one\ntwo\n\nthree", "one\ntwo"),
        (["é"], "cafés", "caf"),
        (["灯"], "灯", ""),
        (["b", "abc"], "xabc", "xa"),  # the shorter one is complete first
        (["abc", "c"], "xabc", "x"),  # complete together: the one that begins first
        (["c", "abc"], "xabc", "x"),
        (["END"], "the EN", "the EN"),
    ],
)
def test_a_text_ends_before_the_first_stop_that_is_complete(of_bytes, streamed, stops, text, ends):
    stop = StopStrings(stops, of_bytes)
    pieces, ids = streamed(stop, spelt(text))
    assert "".join(pieces) == stop.text(ids) == ends
    assert stop(ids) is (ends != text)


def test_a_stop_may_begin_and_end_inside_tokens(streamed):
    stop = StopStrings(["ab\n"], of_pieces)
    ids = [3, 3, 9, 0]  # ba|ba|b<newline>|a
    assert not stop(ids[:2]) and stop(ids[:3])
    pieces, ids = streamed(stop, ids)
    assert ids == [3, 3, 9]
    assert pieces == ["b", "ab", ""]  # the last "a" might begin the stop, and does


def test_a_stop_of_which_a_token_has_more_than_the_end_is_cut_where_it_begins():
    stop = StopStrings(["a"], of_pieces)
    assert stop([1, 3]) and stop.text([1, 3]) == "bb"


def test_a_stop_may_begin_inside_a_character_of_several_tokens(streamed):
    stop = StopStrings(["éa"], of_pieces)
    assert streamed(stop, [1, 7, 8, 0, 1]) == (["b", "", "", ""], [1, 7, 8, 0])


def test_without_stops_nothing_ends_and_nothing_is_held_back(of_bytes, streamed):
    stop = StopStrings([], of_bytes)
    assert not stop(spelt("anything"))
    assert streamed(stop, spelt("abc"))[0] == ["a", "b", "c"]


# ---- what a stream shows


def test_the_beginning_of_a_stop_is_held_back_until_it_is_none(of_bytes, streamed):
    assert streamed(StopStrings(["END"], of_bytes), spelt("xENy"))[0] == ["x", "", "", "ENy"]


def test_of_overlapping_stops_the_longest_beginning_is_held_back(of_bytes, streamed):
    pieces, _ = streamed(StopStrings(["abcd", "cx"], of_bytes), spelt("abcy"))
    assert pieces == ["", "", "", "abcy"]
    pieces, _ = streamed(StopStrings(["abcd", "cx"], of_bytes), spelt("abcx"))
    assert pieces == ["", "", "", "ab"]


def test_what_is_held_back_is_shown_when_the_text_ends(of_bytes, streamed):
    assert streamed(StopStrings(["END"], of_bytes), spelt("theEN"))[0] == ["t", "h", "e", "", "EN"]


def test_a_character_is_shown_when_it_is_whole(of_bytes, streamed):
    pieces, _ = streamed(StopStrings([], of_bytes), spelt("é灯"))
    assert pieces == ["", "é", "", "", "灯"]


def test_a_character_that_the_text_cuts_is_shown_as_broken_at_the_end_only(of_bytes, streamed):
    pieces, _ = streamed(StopStrings([], of_bytes), spelt("灯")[:2])
    assert pieces == ["", "\ufffd"]


def test_the_end_of_text_is_no_text(of_bytes, streamed):
    assert streamed(StopStrings([], of_bytes), [*spelt("a"), 256])[0] == ["a", ""]


@pytest.mark.parametrize("seed", range(8))
def test_streamed_text_is_the_text_whatever_comes(of_bytes, streamed, seed):
    draw = random.Random(seed)
    for _ in range(60):
        stops = draw.choices(
            ["ab", "aab", "ba\n", "é", "éa", "灯é", "\n", "bab"], k=draw.randint(0, 3)
        )
        if draw.random() < 0.5:
            stop, ids = (
                StopStrings(stops, of_pieces),
                draw.choices(range(len(PIECES)), k=draw.randint(1, 20)),
            )
        else:  # any bytes at all
            stop, ids = (
                StopStrings(stops, of_bytes),
                draw.choices([*range(257), *spelt("ab\né灯") * 20], k=30),
            )
        pieces, shown = streamed(stop, ids)
        whole = stop.text(shown)
        assert "".join(pieces) == whole
        assert not any(string in whole for string in stops)


@pytest.mark.parametrize("seed", range(8))
def test_of_valid_text_a_stream_never_shows_half_a_character(of_bytes, streamed, seed):
    draw = random.Random(seed)
    text = "".join(draw.choices("aé灯🏮\n", k=40))
    pieces, _ = streamed(StopStrings(["é🏮", "灯\n灯"], of_bytes), spelt(text))
    assert text.startswith("".join(pieces))
    assert "\ufffd" not in "".join(pieces)
