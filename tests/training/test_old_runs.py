"""Runs that earlier versions began (tests/old_runs) are resumed, evaluated and sampled from as if
they were today's.
"""

import csv
import shutil
from pathlib import Path

import pytest

from firstlight.cli import main
from firstlight.runs.run_folder import RunFolder

OLD = Path(__file__).parents[1] / "old_runs"
RUNS = ["v13-gpt", "v13-modern", "v14-gpt", "v14-modern"]
LOSSES = ("train/batch_loss", "train/loss", "val/loss")


def losses_of(file: Path) -> dict[tuple[int, str], float]:
    """The losses of a metrics.csv, by step and name."""
    found = {}
    for row in csv.DictReader(file.read_text().splitlines()):
        for name in LOSSES:
            if row.get(name):
                found[int(row["step"]), name] = float(row[name])
    return found


@pytest.fixture
def old_run(request, tmp_path) -> Path:
    """A copy of an old run, in a folder of its own; its text lies elsewhere than when it began."""
    shutil.copytree(OLD / request.param, tmp_path / "run")
    (tmp_path / "text.txt").write_bytes((OLD / "text.txt").read_bytes())
    return tmp_path / "run"


@pytest.mark.parametrize("old_run", RUNS, indirect=True)
def test_an_old_run_is_resumed(old_run, request):
    assert main(["train", f"resume={old_run}", f"data.path={old_run.parent / 'text.txt'}"]) == 0
    resumed, whole = losses_of(old_run / "metrics.csv"), losses_of(old_run / "whole.csv")
    assert resumed.keys() == whole.keys()
    # Version 13 weighted the batches of a step as if all were of one size, which those of its
    # modern run are not.
    tolerance = 2e-2 if "v13-modern" in request.node.name else 1e-4
    assert resumed == pytest.approx(whole, rel=tolerance)


@pytest.mark.parametrize("old_run", RUNS, indirect=True)
def test_an_old_run_is_evaluated_and_sampled_from(old_run, capsys):
    text = f"data.path={old_run.parent / 'text.txt'}"
    assert main(["evaluate", "format=json", f"checkpoint={old_run}", text, "accelerator=cpu"]) == 0
    assert (
        main(
            [
                "generate",
                f"checkpoint={old_run}",
                "prompt=The lamp",
                "max_new_tokens=4",
                "accelerator=cpu",
            ]
        )
        == 0
    )
    assert "The lamp" in capsys.readouterr().out


def test_a_metric_is_added_to_those_that_an_old_run_has_always_had(tmp_path):
    shutil.copytree(OLD / "v14-gpt", tmp_path / "run")
    (tmp_path / "text.txt").write_bytes((OLD / "text.txt").read_bytes())
    added = "+metrics.top1_accuracy._target_=firstlight.metrics.top1_accuracy.Top1Accuracy"
    assert (
        main(["train", f"resume={tmp_path / 'run'}", f"data.path={tmp_path / 'text.txt'}", added])
        == 0
    )
    last = RunFolder(tmp_path / "run").rows[-1]
    assert last["val/top1_accuracy"] and last["val/perplexity"] and last["val/bits_per_byte"]
