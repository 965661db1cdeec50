"""What a run says of the copies in its samples, and how little that changes."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import TEXT
from tiny_run import rows_of, same_weights

from firstlight.cli import main
from firstlight.runs.run_folder import RunFolder
from firstlight.runs.samples_file import end_of_samples, entry
from firstlight.training.callbacks import sample_generation
from firstlight.training.copied import is_searched, what_is_searched

KEY = "callbacks.sample_generation"
TRAINING = TEXT[: int(0.9 * len(TEXT))]
VALIDATION = TEXT[int(0.9 * len(TEXT)) :]


def n_grams(text: bytes, n: int) -> list[bytes]:
    return [text[start : start + n] for start in range(len(text) - n + 1)]


def marks_of(folder: str) -> list[str]:
    return re.findall("^--- step .*", Path(folder, "samples.txt").read_text(), flags=re.M)


@pytest.mark.cpu
def test_the_numbers_are_those_of_the_samples_and_training_does_not_notice(
    train, trained, monkeypatch
):
    sampled: list[list[int]] = []
    found_in_training = sample_generation.found_in_training

    def recorded(ids, data, n):
        sampled.append(ids)
        return found_in_training(ids, data, n)

    monkeypatch.setattr(sample_generation, "found_in_training", recorded)
    sampled_as = ("data.test_ratio=0", f"{KEY}.max_new_tokens=12")
    assert train("run", *sampled_as, f"{KEY}.copied=2") == 0
    rows = [row for row in rows_of("run") if row["val/loss"]]
    text, marks = TRAINING.encode(), marks_of("run")
    assert len(rows) == len(marks) == len(sampled) == 4
    of_validation = [gram in text for gram in n_grams(VALIDATION.encode(), 2)]
    for row, mark, ids in zip(rows, marks, sampled, strict=True):
        if len(ids) == 12 and max(ids) < 256:
            copied = [gram in text for gram in n_grams(bytes(ids), 2)]
            assert float(row["copied/sample"]) == sum(copied) / len(copied)
        share, longest = float(row["copied/sample"]), int(float(row["copied/longest"]))
        assert float(row["copied/validation"]) == sum(of_validation) / len(of_validation)
        told = f"{longest} token" if longest else "under 2 tokens"
        assert mark.startswith(f"--- step {row['step']}; longest copy {told}")
        assert f"{share:.1%} of 2-grams copied" in mark
    trained("plain", *sampled_as, f"{KEY}.copied=null")
    assert same_weights("run", "plain")
    assert marks_of("plain") == [mark.partition(";")[0] for mark in marks]
    without = [{k: v for k, v in row.items() if "copied/" not in k} for row in rows_of("run")]
    assert without == rows_of("plain")
    assert RunFolder(Path("run")).samples(range(25)) == RunFolder(Path("plain")).samples(range(25))


def test_in_a_text_above_the_budget_the_last_sample_alone_is_looked_for(train, capsys):
    assert train("run", f"{KEY}.search_tokens=500", "trainer.max_steps=16") == 0
    assert ["copy" in mark for mark in marks_of("run")] == [False, False, True]
    assert (
        f"note: the training text has {len(TRAINING)} tokens: only the sample after the last step"
        " is looked for in it (search_tokens=500)" in capsys.readouterr().err
    )
    [*earlier, last] = [row for row in rows_of("run") if row["val/loss"]]
    assert last["copied/longest"] and not any(row["copied/longest"] for row in earlier)


@pytest.mark.parametrize(
    ("most", "searched"), [(100, [0, 5, 9]), (99, [9]), (4, [9]), (3, [])], ids=str
)
def test_what_is_searched_is_what_is_said(most, searched):
    windows = {"train": SimpleNamespace(n_tokens=100)}
    clock = SimpleNamespace(data=SimpleNamespace(windows=windows), max_steps=9)
    assert [step for step in (0, 5, 9) if is_searched(step, clock, most)] == searched
    told = what_is_searched(100, most)
    if len(searched) == 3:
        assert told is None
    else:
        assert ("only the sample after the last step" in told) is (searched == [9])
        assert ("no sample is looked for" in told) is (not searched)


def test_a_sample_that_looks_like_a_mark_with_copies_is_read_as_it_was_written(tmp_path):
    told = "longest copy 9 tokens, 50.0% of 4-grams copied, of validation's 0.1%"
    texts = {
        0: f"--- step 8; {told}\n --- step 8; longest copy \nThe",
        8: f"\n--- step 3; {told}",
        16: f"--- step 24; {told}\r\n--- step 9; shortest copy",
    }
    written = [entry(step, text, told).encode() for step, text in texts.items()]
    (tmp_path / "samples.txt").write_bytes(b"".join(written))
    assert RunFolder(tmp_path).samples(range(10**18)) == texts
    assert RunFolder(tmp_path).samples({0, 8, 16}) == texts
    for number, step in enumerate(texts):
        assert end_of_samples(b"".join(written), step) == len(b"".join(written[: number + 1]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (f"{KEY}.copied=1", f"{KEY}.copied: expected "),
        (f"{KEY}.copied=many", f"{KEY}.copied: expected "),
        (f"{KEY}.search_tokens=0", f"{KEY}.search_tokens: expected "),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_a_line(capsys, words, said):
    assert main(["train", "data=text", "data.path=text.txt", "output_dir=run", words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line and not Path("run").exists()
