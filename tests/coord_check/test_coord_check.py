"""`firstlight coord-check`: what it measures and writes, and its refusals."""

import csv
import json
import math
from contextlib import chdir
from pathlib import Path

import pytest

import firstlight
from firstlight.cli import main
from firstlight.coord_check.growth import Measured, exponent, growths
from firstlight.coord_check.sizes import at_width
from firstlight.errors import ConfigError

TINY = (
    "data=text", "data.path=text.txt", "tokenizer=bytes", "model.context_length=16", "model.emb_dim=16",
    "model.n_heads=2", "model.n_layers=1", "data.batch_size=8", "trainer.accelerator=cpu",
    "trainer.precision=32-true", "optimizer.lr=1e-2", "parametrization.base_width=16",
    "coord_check.widths=[16,64]", "coord_check.seeds=1",
)  # fmt: skip
TEXT = "The lamp was lit, and the lamp went out; nobody had seen who did it. " * 12


@pytest.fixture(autouse=True)
def in_a_folder_with_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """The findings of a check, its folder, and what else it has left."""
    place = tmp_path_factory.mktemp("checked")
    (place / "text.txt").write_text(TEXT, encoding="utf-8")
    with chdir(place):
        found = firstlight.coord_check(*TINY, coord_check={"out": "check", "picture": "svg"})
    return found, place / "check", sorted(path.name for path in place.iterdir())


def of(found, quantity, parametrization, layer):
    [row] = [
        row
        for row in found[quantity]
        if (row["parametrization"], row["layer"]) == (parametrization, layer)
    ]
    return row


def test_mup_is_flat_where_the_standard_parametrization_grows(checked):
    found, _, _ = checked
    for layer in ("att", "ff", "block", "logits"):
        assert of(found, "moves", "standard", layer)["exponent"] > 0.4
        assert abs(of(found, "moves", "MuP", layer)["exponent"]) < 0.4
    layers = [row["layer"] for row in found["moves"] if row["parametrization"] == "MuP"]
    assert layers == ["tok_emb", "pos_emb", "att", "ff", "block", "logits"]


def test_the_files_have_every_step_and_no_run_is_left(checked):
    found, folder, left = checked
    assert left == ["check", "text.txt"]
    assert sorted(file.name for file in folder.iterdir()) == [
        "coord_check.csv",
        "coord_check.json",
        "coord_check.svg",
    ]
    assert json.loads((folder / "coord_check.json").read_text()) == found
    rows = list(csv.DictReader((folder / "coord_check.csv").read_text().splitlines()))
    assert len(rows) == 2 * 2 * 4 * 6  # parametrizations, widths, steps from 0, kinds of layers
    assert {float(row["moved"]) for row in rows if row["step"] == "0"} == {0.0}
    # At the base width both are the same run.
    narrow = [row for row in rows if row["width"] == "16"]
    assert [row["size"] for row in narrow if row["parametrization"] == "MuP"] == [
        row["size"] for row in narrow if row["parametrization"] == "standard"
    ]


def test_the_standard_parametrization_alone_is_shown_as_a_table(capsys):
    words = [word for word in TINY if "base_width" not in word]
    changes = ["parametrization=standard", "coord_check.out=null", "coord_check.steps=1"]
    assert main(["coord-check", *words, *changes]) == 0
    told = capsys.readouterr().out
    assert "moved since the first step (after 1 step, mean of 1 seed)" in told
    assert "standard   logits" in told and "MuP" not in told
    assert [path.name for path in Path().iterdir()] == ["text.txt"]


def test_what_a_frozen_layer_has_no_exponent_for_is_null_in_the_file(capsys):
    words = [word for word in TINY if "base_width" not in word]
    changes = ["parametrization=standard", "coord_check.out=check", "coord_check.steps=1"]
    assert main(["coord-check", *words, *changes, "freeze=tok_emb"]) == 0
    assert "tok_emb" in capsys.readouterr().out

    def refuse(constant):
        raise AssertionError(constant)

    text = Path("check/coord_check.json").read_text()
    found = json.loads(text, parse_constant=refuse)  # NaN is no JSON
    assert of(found, "moves", "standard", "tok_emb")["exponent"] is None


def test_the_exponent_is_that_of_a_power_of_the_width():
    assert exponent([64, 128, 512], [3 * w**0.7 for w in (64, 128, 512)]) == pytest.approx(0.7)
    for value in (0.0, math.inf, math.nan):  # an unchanged layer, a run that has diverged
        assert math.isnan(exponent([64, 128], [1.0, value]))
    runs = [Measured("a", w, s, [{"x": 0.0}], [{"x": w * (s + 1)}]) for w in (2, 8) for s in (0, 2)]
    [growth] = growths(runs, "moves", 0)
    assert growth.values == [4.0, 16.0] and growth.exponent == pytest.approx(1.0)


def test_heads_and_feed_forwards_grow_with_the_width():
    model = {"emb_dim": 192, "n_heads": 6, "n_kv_heads": 2, "ff_dim": None}
    grow = ["emb_dim", "n_heads", "n_kv_heads", "ff_dim"]
    assert at_width(model, 384, grow) == {"emb_dim": 384, "n_heads": 12, "n_kv_heads": 4}
    with pytest.raises(ConfigError, match=r"n_kv_heads \(2 at a width of 192\) would be 1\.333; take"
                       r" multiples of 96"):  # fmt: skip
        at_width(model, 128, grow)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["coord_check.widths=[32,16]"], "coord_check.widths ([32, 16]) must rise"),
        (
            ["coord_check.widths=[16]"],
            "widths: expected list[int > 0 and <= 65536] of 2 to 20, got",
        ),
        (["coord_check.steps=0"], "coord_check.steps"),
        (["coord_check.picture=gif"], "coord_check.picture"),
        (["coord_check.grow=[width]"], "coord_check.grow: model has no width"),
        (["coord_check.widths=[16,20]"], "would be 2.5; take multiples of 8"),
        (["parametrization.base_width=12"], "parametrization.base_width (12) must be a multiple"),
        (
            ["seed=4294967295", "coord_check.seeds=2"],
            "seed (4294967295): 2 seeds from it on end at",
        ),
        (["resume=last"], "resume: coord-check makes new runs; leave resume out"),
        (["trainer.devices=2"], "trainer.devices (2 in all) must be 1"),
        (["coord_check.out=text.txt/x"], "coord_check.out"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(capsys, words, says):
    assert main(["coord-check", *TINY, *words]) == 2
    told = capsys.readouterr().err.splitlines()
    assert not any(
        "runs made" in line or "run made" in line for line in told
    )  # it is told before the first run
    told = [line for line in told if not line.startswith("note: ")]
    assert len(told) == 1 and told[0].startswith("firstlight: ") and says in told[0]
    assert [path.name for path in Path().iterdir()] == ["text.txt"]
