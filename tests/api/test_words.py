"""A keyword's value is that very value, whatever it would mean on a command line."""

from pathlib import Path

import numpy as np
import pytest

import firstlight
from firstlight.api.words import arguments
from firstlight.compose.compose import compose_config
from firstlight.config import to_plain

TEXTS = [
    "plain",
    "",
    " two  words ",
    "null",
    "1e5",
    "a=b, [c], {d: e} # f",
    "quo\"te 'and' \\\"back\\\\slash\\",
    "${oc.env:HOME} ${seed} \\${x}",
    "???",
    "line\nbreak\ttab",
    "caf\u00e9 \u9053 \U0001f600",
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_text_is_taken_as_it_is(text):
    """In a key that is a text, in one that is prose, in a list, and in one that is neither."""
    settings = {
        "name": text or "x",
        "callbacks.sample_generation.prompt": text or "x",
        "+logger.csv.save_dir": text,
        "data": "text",
        "data.path": [text or "x", "b.txt"],
    }
    config = to_plain(compose_config("train", arguments("train", (), settings).overrides))
    assert config["name"] == (text or "x")
    assert config["callbacks"]["sample_generation"]["prompt"] == (text or "x")
    assert config["logger"]["csv"]["save_dir"] == text
    assert config["data"]["path"] == [text or "x", "b.txt"]


def test_numbers_lists_and_sections_are_taken_as_they_are(tmp_path):
    config = firstlight.compose(
        seed=np.int64(7),
        init_from=tmp_path,
        optimizer={"lr": np.float64(1e-05), "betas": (0.9, 0.95)},
        trainer={"gradient_clip_val": None, "max_steps": 10**12, "deterministic": True},
        **{"scheduler.warmup_steps": 0},
    )
    assert config["seed"] == 7 and config["init_from"] == str(tmp_path)
    assert config["optimizer"]["lr"] == 1e-05 and config["optimizer"]["betas"] == [0.9, 0.95]
    assert config["trainer"]["gradient_clip_val"] is None
    assert config["trainer"]["max_steps"] == 10**12 and config["trainer"]["deterministic"] is True


def test_a_list_for_a_group_chooses_and_keywords_win_over_strings():
    config = firstlight.compose(
        "seed=1",
        "optimizer.lr=1e-3",
        callbacks=["default", "early_stopping"],
        seed=2,
        optimizer="muon",
    )
    assert config["seed"] == 2 and config["optimizer"]["lr"] == 1e-3
    assert "early_stopping" in config["callbacks"] and "muon" in config["optimizer"]["_target_"]
    assert "plots" not in firstlight.compose("~callbacks.plots")["callbacks"]


def test_a_folder_of_further_configs(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(
        "defaults: [nano, _self_]\nn_layers: 3\n", encoding="utf-8"
    )
    config = firstlight.compose(model="mine", config_dir=tmp_path)
    assert config["model"]["n_layers"] == 3
    with pytest.raises(firstlight.Error, match=r"^--config-dir .*nowhere"):
        firstlight.compose(config_dir=Path("nowhere"))
