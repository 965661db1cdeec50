"""A sweep of an earlier version is resumed; its new trials are comparable with the old ones.

`earlier_sweep/` was made by the version before `data.eval_last_window` (8f2dbe8^), somewhere else:
its first trial is done, its second as a kill after step 3 of 6 leaves it, its third not begun. The
ledger is there as SQL.
"""

import inspect
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from firstlight.cli import main
from firstlight.data.datamodule import TextDataModule
from firstlight.data.documents_in_files import DocumentsInFiles
from firstlight.data.text import TextData
from firstlight.data.token_data import TokenDataModule
from firstlight.errors import ConfigError
from firstlight.runs.later_keys import LATER_KEYS, LATER_SECTIONS, lacking
from firstlight.sweep.ledger import Ledger
from firstlight.sweep.planning import complete, planned
from firstlight.sweep.record import read_sweep, trial_overrides
from firstlight.training.trainer import Trainer

EARLIER = Path(__file__).with_name("earlier_sweep")


@pytest.fixture
def earlier(tmp_path, monkeypatch) -> list[str]:
    """A working folder with the sweep in `sweep`; the words of its command."""
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("The lamp was lit, and the boats came home. " * 40)
    shutil.copytree(EARLIER, "sweep", ignore=shutil.ignore_patterns("*.sql"))
    with closing(sqlite3.connect("sweep/sweep.db")) as database:
        database.executescript((EARLIER / "ledger.sql").read_text())
    return [*read_sweep(Path("sweep")).arguments, "output_dir=sweep"]


def config_of(folder: str) -> dict:
    return yaml.safe_load(Path("sweep", folder, ".hydra", "config.yaml").read_text())


def steps_of(folder: str) -> list[str]:
    return [
        row.partition(",")[0]
        for row in Path("sweep", folder, "metrics.csv").read_text().splitlines()
    ]


def test_a_sweep_of_an_earlier_version_is_resumed_where_it_is_now(earlier, capsys):
    first = Path("sweep/0_optimizer.lr-0.01/metrics.csv").stat().st_mtime_ns
    assert main(["sweep", "resume", "sweep"]) == 0
    out = capsys.readouterr().out
    assert "3 trials: 3 done" in out and "++data.eval_last_window=false" in out
    data = config_of("2_optimizer.lr-0.03")["data"]
    assert data["eval_last_window"] is False
    assert data["test_ratio"] == 0.0  # the default of then: its validation text is that of before
    assert (
        "eval_last_window" not in config_of("1_optimizer.lr-0.02")["data"]
    )  # resumed: it keeps its config
    assert steps_of("1_optimizer.lr-0.02") == ["step", "0", "3", "6"]
    assert Path("sweep/0_optimizer.lr-0.01/metrics.csv").stat().st_mtime_ns == first
    assert main(["sweep", "status", "sweep", "format=json"]) == 0
    trials = json.loads(capsys.readouterr().out)["trials"]
    assert [trial["step"] for trial in trials] == [6, 6, 6] and all(
        trial["error"] is None for trial in trials
    )


def test_the_command_of_an_earlier_version_is_given_again(earlier):
    assert planned(earlier, None) == Path("sweep")
    with pytest.raises(ConfigError, match=r"nothing is now data\.eval_last_window=true"):
        planned([*earlier, "data.eval_last_window=true"], None)


def test_a_sweep_of_an_earlier_version_is_extended(earlier):
    complete(Path("sweep"), storage=None, config_dir=None, words=["optimizer.lr=0.04"])
    with closing(Ledger.open(Path("sweep"))) as ledger:
        assert [(row.state, row.overrides, row.point) for row in ledger.rows()][2:] == [
            ("planned", ["optimizer.lr=0.03"], 2),
            ("planned", ["optimizer.lr=0.04"], 3),
        ]
        ledger.read_again()
        assert "++data.eval_last_window=false" in trial_overrides(ledger.record, [], 1)
    assert planned(earlier, None) == Path("sweep")


def test_a_key_that_came_later_is_what_resumed_runs_take_it_for():
    """A run whose config lacks it has the default of the signature."""
    parameters = {
        **inspect.signature(TokenDataModule.__init__).parameters,
        **inspect.signature(TextDataModule.__init__).parameters,
        **inspect.signature(DocumentsInFiles.__init__).parameters,
        **inspect.signature(TextData.__init__).parameters,
        **inspect.signature(Trainer.__init__).parameters,
    }
    defaults = {key: parameters[key.partition(".")[2]].default for key in LATER_KEYS}
    assert defaults == LATER_KEYS


def test_a_section_of_somebody_else_that_has_no_such_key_lacks_nothing():
    section = {"_target_": "firstlight.data.text.TextData", "_partial_": True, "path": "a.txt"}
    trainer = {"_target_": "firstlight.training.trainer.Trainer", "_partial_": True}
    others = dict.fromkeys(LATER_SECTIONS)
    assert lacking({"data": section, "trainer": trainer, **others}) == LATER_KEYS
    assert (
        lacking(
            {
                "data": {
                    **section,
                    "eval_last_window": True,
                    "test_batches": None,
                    "format": "auto",
                    "field": "a",
                    "cache_dir": "c",
                },
                **others,
            }
        )
        == {}
    )
    assert (
        lacking(
            {
                "data": {**section, "_target_": "firstlight.model.gpt.GPT"},
                **others,
            }
        )
        == {}
    )
