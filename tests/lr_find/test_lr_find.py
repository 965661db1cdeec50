"""`firstlight lr-find`: the rates it makes, what it reads off the curve, its files, and its refusals."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

import firstlight
from firstlight.cli import main
from firstlight.lr_find.curve import curve_of
from firstlight.lr_find.run import Rising

TINY = (
    "data=text", "data.path=text.txt", "tokenizer=bytes", "model.context_length=16", "model.emb_dim=16",
    "model.n_heads=2", "model.n_layers=1", "data.batch_size=8", "trainer.accelerator=cpu",
    "trainer.precision=32-true",
)  # fmt: skip
RATES = np.geomspace(1e-6, 1.0, 100)


@pytest.fixture(autouse=True)
def in_a_folder_with_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "The lamp was lit, and the lamp went out; nobody had seen who did it. " * 12
    Path("text.txt").write_text(text, encoding="utf-8")


def losses_of(middle: float, *, noise: float = 0.0) -> np.ndarray:
    """A loss that falls fastest at the rate `middle`, and rises from 1e-1 on."""
    x = np.log10(RATES)
    falls = 5 - 2 / (1 + np.exp(-4 * (x - math.log10(middle))))
    draws = np.random.default_rng(0).normal(0, 1, len(x))
    return falls + np.maximum(x + 1, 0) ** 2 * 2 + noise * draws


def test_the_rate_rises_by_one_factor_from_the_lowest_to_the_highest():
    rates = [Rising(1e-6, 1.0).lr(step, max_steps=100, peak=3.0) for step in range(100)]
    assert rates == pytest.approx(RATES.tolist(), rel=1e-12)


@pytest.mark.parametrize("middle", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_the_suggestion_is_where_the_loss_falls_fastest(middle, noise):
    losses = losses_of(middle, noise=noise).tolist()
    curve = curve_of(RATES.tolist(), losses, has_diverged=False)
    assert curve.steepest is not None and abs(math.log10(curve.steepest / middle)) < 0.3
    lowest = curve.rates[int(np.argmin(curve.smoothed))]
    assert curve.tenth_of_lowest == pytest.approx(lowest / 10)
    if noise == 0:  # a smooth curve stays as it is
        assert np.abs(np.array(curve.smoothed) - losses).max() < 0.15


@pytest.mark.parametrize(
    ("losses", "why"),
    [
        (5 + np.random.default_rng(0).normal(0, 0.1, 100), "does not fall clearly"),
        (np.linspace(5, 4, 100), "still falling"),
        (np.linspace(4, 5, 100), "does not fall clearly"),
        (np.array([5.0, 6, 9]), "diverged after 3 steps"),
    ],
)
def test_no_rate_is_suggested_where_none_can_be(losses, why):
    curve = curve_of(RATES[: len(losses)].tolist(), losses.tolist(), has_diverged=False)
    assert curve.steepest is None and why in curve.why_none


def test_a_loss_that_leaps_at_the_end_hides_no_suggestion():
    """As of SGD without clipping; the leap counted as noise, which no fall was clear beside."""
    losses = [*losses_of(1e-4, noise=0.03).tolist()[:-30], 50.0]
    curve = curve_of(RATES[: len(losses)].tolist(), losses, has_diverged=True)
    assert curve.steepest is not None and abs(math.log10(curve.steepest / 1e-4)) < 0.3
    flat = [*np.random.default_rng(0).normal(5, 0.1, 70).tolist(), 50.0]
    assert curve_of(RATES[:71].tolist(), flat, has_diverged=True).steepest is None


def test_a_test_leaves_a_table_and_a_picture_and_no_run(capsys):
    words = ("lr_find.steps=60", "lr_find.lowest=1e-5", "lr_find.out=range", "lr_find.picture=svg")
    assert main(["lr-find", *TINY, *words]) == 0
    told = capsys.readouterr()
    assert "suggestion: optimizer.lr=" in told.out and "falls fastest" in told.out
    assert "not which rate is the best of a whole run" in told.out
    assert sorted(file.name for file in Path("range").iterdir()) == [
        "lr_find.csv",
        "lr_find.json",
        "lr_find.svg",
    ]
    assert sorted(path.name for path in Path().iterdir()) == ["range", "text.txt"]
    rows = list(csv.DictReader(Path("range/lr_find.csv").read_text().splitlines()))
    found = json.loads(Path("range/lr_find.json").read_text())
    assert [float(row["lr"]) for row in rows] == found["rates"]
    assert found["rates"] == pytest.approx(np.geomspace(1e-5, 1, 60)[: len(rows)].tolist())
    assert 1e-4 < found["suggestion"] < 0.3 and len(rows) > 30
    again = firstlight.lr_find(*TINY, *words[:2], lr_find={"out": None})
    assert again["losses"] == found["losses"] and again["folder"] is None


def test_a_rate_at_which_training_breaks_ends_the_test_and_is_no_failure(capsys):
    words = ("lr_find.steps=20", "lr_find.highest=1e38", "trainer.gradient_clip_val=null")
    assert main(["lr-find", *TINY, *words, "lr_find.out=null"]) == 0
    assert "the loss had diverged" in capsys.readouterr().out
    assert [path.name for path in Path().iterdir()] == ["text.txt"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["lr_find.lowest=1", "lr_find.highest=0.1"], "lr_find.highest (0.1) must be above"),
        (["lr_find.steps=5"], "lr_find.steps"),
        (["lr_find.picture=gif"], "lr_find.picture"),
        (["resume=last"], "resume: lr-find makes new runs; leave resume out"),
        (["trainer.devices=2"], "trainer.devices (2 in all) must be 1"),
        (["lr_find.out=text.txt/x"], "lr_find.out"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(capsys, words, says):
    assert main(["lr-find", *TINY, *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("firstlight: ") and error.count("\n") == 1 and says in error
    assert [path.name for path in Path().iterdir()] == ["text.txt"]
