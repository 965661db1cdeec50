import pytest

from firstlight.data import statistics
from firstlight.data.statistics import scripts_of, statistics_of


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
