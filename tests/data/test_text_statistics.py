import pytest

from firstlight.data import statistics
from firstlight.data.statistics import Sample, Survey, of_scripts, scripts_of


def statistics_of(documents):
    survey = Survey()
    for document in documents:
        survey.read([document])
    sample = of_scripts(survey.n_characters)
    for document in documents:
        sample.add(document)
    return survey.statistics(sample)


def test_documents_bytes_duplicates_and_scripts_are_told():
    told = str(statistics_of(["The lamp", "Лампа!", "The lamp", "灯"]))
    assert told == ("4 documents, 30 bytes; 1 duplicate; letters: Latin 70%, Cyrillic 25%, Han 5%")
    assert str(statistics_of(["12, 34"])) == "1 document, 6 bytes"
    assert str(statistics_of([])) == "0 documents, 0 bytes"


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("é", "Latin"), ("\uff37", "Latin"), ("ж", "Cyrillic"), ("漢", "Han"), ("⼀", "Han"),
        ("か", "Hiragana"), ("ｶ", "Katakana"), ("한", "Hangul"), ("ش", "Arabic"), ("ש", "Hebrew"),
        ("ह", "Devanagari"), ("β", "Greek"), ("ก", "Thai"),
    ],
)  # fmt: skip
def test_the_script_of_a_letter_is_known(text, script):
    if text == "⼀":  # a radical is a symbol
        assert scripts_of(text) == {}
    else:
        assert scripts_of(text) == {script: 1.0}


def test_scripts_with_little_are_told_together():
    text = "a" * 600 + "ж" * 200 + "漢" * 90 + "β" * 60 + "ש" * 46 + "ก" * 4
    assert str(statistics_of([text])).endswith(
        "letters: Latin 60%, Cyrillic 20%, Han 9%, Greek 6%, other 5%"
    )


def test_of_a_long_text_a_sample_is_looked_at_that_is_spread_over_all_of_it(monkeypatch):
    monkeypatch.setattr(statistics, "SAMPLE", 4096)
    documents = ["a" * 7] * 5000 + ["ж" * 70_000] + ["漢"] * 35_000
    told = statistics_of(documents)
    assert told.is_sample and str(told).endswith("(of a sample)")
    shares = {"Latin": 0.25, "Cyrillic": 0.5, "Han": 0.25}
    assert told.scripts == pytest.approx(shares, abs=0.02)
    assert told.n_documents == 40_001 and told.n_duplicates == 39_998


@pytest.mark.parametrize("size", [1, 3, 10, 1000])
@pytest.mark.parametrize("most", [8, 30, 100])
def test_a_sample_does_not_depend_on_the_blocks_of_the_text(size, most):
    text = "".join(chr(0x4E00 + n) for n in range(97))
    sample = Sample(97, most, 5)
    for first in range(0, 97, size):
        sample.add(text[first : first + size])
    width, firsts = (97, [0]) if most == 100 else (most // 5, [0, 19, 38, 58, 77])
    assert sample.parts == [text[first : first + width] for first in firsts]
    assert sample.is_all == (most == 100)


def test_a_document_in_blocks_is_told_from_one_with_the_same_text_only_if_its_blocks_differ():
    survey = Survey()
    for blocks in (["The ", "lamp\0"], ["The ", "", "lamp\0"], ["灯"], [" ", "\n"], []):
        survey.read(blocks)
    assert list(survey.lengths) == [9, 9, 1, 2, 0] and survey.blank == {3, 4}
    assert survey.n_nul == 2 and survey.n_bytes == 23 and survey.has_text
    assert survey.hashes[0] == survey.hashes[1] and survey.hashes[2] == hash("灯")
