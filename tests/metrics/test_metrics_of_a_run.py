"""`metrics=...` in a run: logged, monitored in its direction, an objective of sweeps, measured by
`evaluate`.
"""

import json
from pathlib import Path

import pytest

import firstlight
from firstlight.checkpoints.find import best_of, checkpoints_of
from firstlight.checkpoints.manifest import MANIFEST, read_manifest
from firstlight.cli import main
from firstlight.runs.run_folder import RunFolder
from firstlight.sources import find_checkpoint, load_checkpoint
from firstlight.sweep.settings import directions_of

RUN = (
    "train", "data=text", "data.path=text.txt", "tokenizer=bytes", "model.context_length=16", "model.emb_dim=16",
    "model.n_heads=2", "model.n_layers=1", "data.batch_size=4", "scheduler=constant", "trainer.max_steps=4",
    "trainer.eval_every_n_steps=1", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu",
    "trainer.precision=32-true", "logger=[csv,tensorboard]",
)  # fmt: skip
ACCURACY = "metrics=[default,top1_accuracy]"
CHECKPOINT, STOPPING = "callbacks=[checkpoint]", "callbacks=[checkpoint,early_stopping]"
MONITOR = "callbacks.checkpoint.monitor=val/scripted"


@pytest.fixture(autouse=True)
def in_a_folder_with_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(
        "The lamp was lit, and the lamp went out; nobody had seen who did it. " * 12
    )


def scripted(*values: float, direction: str = "max") -> list[str]:
    """Overrides that add a metric with these values, the first of the untrained model."""
    start = "+metrics.scripted"
    settings = f"{{_target_: scripted.Scripted, values: {list(values)}, direction: {direction}}}"
    return [f"{start}={settings}"]


def steps_of(folder: str) -> list[int]:
    return [read_manifest(checkpoint).step for checkpoint in checkpoints_of(Path(folder))]


def test_top1_accuracy_is_logged_stored_and_evaluated(capsys):
    assert main([*RUN, "output_dir=run", CHECKPOINT, ACCURACY, "trainer.max_steps=2"]) == 0
    rows = RunFolder(Path("run")).rows
    assert all(
        0 <= float(row[name]) <= 1
        for row in rows
        for name in ("train/top1_accuracy", "val/top1_accuracy")
    )
    board = b"".join(file.read_bytes() for file in Path("run").glob("events.out.tfevents.*"))
    assert b"val/top1_accuracy" in board and b"over_tokens/val/top1_accuracy" in board
    capsys.readouterr()
    assert main(["evaluate", "format=json", "checkpoint=run"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["val/top1_accuracy"] == pytest.approx(
        float(rows[-1]["val/top1_accuracy"]), abs=0.02
    )


def test_a_metric_beside_the_default_has_a_column_on_the_screen(capsys):
    shown = ["callbacks=[progress]", *scripted(1, 2, 1234567, direction="min")]
    assert main([*RUN, "output_dir=run", *shown, "trainer.max_steps=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    [start] = [number for number, line in enumerate(lines) if line.endswith("  val scripted")]
    last = [line.split()[-1] for line in lines[start + 1 : start + 4]]
    assert last == ["1", "2", "1.235e+06"]
    assert {len(line) for line in lines[start : start + 4]} == {len(lines[start])}


def test_evaluate_adds_metrics_to_those_of_the_run(capsys):
    assert main([*RUN, "output_dir=run", CHECKPOINT, "metrics=[]", "trainer.max_steps=1"]) == 0
    assert "val/perplexity" not in RunFolder(Path("run")).rows[0]
    for more, names in (([], ["loss"]), (["metrics=top1_accuracy"], ["loss", "top1_accuracy"])):
        capsys.readouterr()
        assert main(["evaluate", "format=json", "checkpoint=run", *more]) == 0
        assert list(json.loads(capsys.readouterr().out)) == [
            *(f"val/{name}" for name in names),
            "val/tokens",
        ]
    found = firstlight.evaluate("run")
    assert main(["evaluate", "checkpoint=run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"val/loss    {found['val/loss']:.4f}",
        f"val/tokens  {found['val/tokens']:>6}",
    ]


def test_the_best_checkpoint_of_a_metric_to_maximise_is_the_highest():
    rules = [CHECKPOINT, MONITOR, "callbacks.checkpoint.keep_last=1"]
    assert main([*RUN, "output_dir=run", *rules, *scripted(9, 1, 3, 3, 2)]) == 0
    assert steps_of("run") == [2, 4]
    saved = checkpoints_of(Path("run"))
    assert read_manifest(saved[0]).direction == "max" and best_of(saved) == saved[0]
    best, last = (load_checkpoint(find_checkpoint(str(folder))).state_dict for folder in saved)
    kept = load_checkpoint(find_checkpoint("run/model.safetensors")).state_dict
    assert all(kept[name].equal(best[name]) for name in kept)
    assert not all(kept[name].equal(last[name]) for name in kept)


def test_the_best_checkpoint_of_a_metric_to_minimise_is_the_lowest_and_its_manifest_is_that_of_earlier_versions():
    rules = [CHECKPOINT, MONITOR, "callbacks.checkpoint.keep_last=1"]
    assert main([*RUN, "output_dir=run", *rules, *scripted(0, 3, 1, 1, 2, direction="min")]) == 0
    assert steps_of("run") == [2, 4]
    manifest = json.loads((checkpoints_of(Path("run"))[0] / MANIFEST).read_bytes())
    assert "direction" not in manifest and manifest["monitor"] == "val/scripted"


@pytest.mark.parametrize(
    ("values", "direction", "mode", "last_step"),
    [
        ((1, 2, 3, 4, 5), "max", "null", 4),
        ((1, 2, 1, 1, 5), "max", "null", 3),
        ((5, 4, 3, 2, 1), "min", "null", 4),
        ((1, 2, 3, 4, 5), "max", "min", 2),
    ],
)
def test_early_stopping_follows_the_direction_of_its_metric(values, direction, mode, last_step):
    stopping = [
        "callbacks.early_stopping.monitor=val/scripted",
        "callbacks.early_stopping.patience=2",
    ]
    more = [*scripted(*values, direction=direction), f"callbacks.early_stopping.mode={mode}"]
    assert main([*RUN, "output_dir=run", STOPPING, *stopping, *more]) == 0
    assert int(RunFolder(Path("run")).rows[-1]["step"]) == last_step


def test_a_run_that_was_stopped_early_by_a_metric_to_maximise_says_so_and_goes_on(capsys):
    stopping = [
        "callbacks.early_stopping.monitor=val/scripted",
        "callbacks.early_stopping.patience=1",
    ]
    assert main([*RUN, "output_dir=run", STOPPING, *stopping, *scripted(1, 2, 1, 1, 1)]) == 0
    assert main(["train", "resume=run"]) == 2
    assert "at step 2, was stopped early" in capsys.readouterr().err
    assert main(["train", "resume=run", "~callbacks.early_stopping"]) == 0
    assert steps_of("run")[-1] == 4


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            [CHECKPOINT, "callbacks.checkpoint.monitor=val/top1_accuracy"],
            "callbacks.checkpoint.monitor",
        ),
        (
            [CHECKPOINT, ACCURACY, "callbacks.checkpoint.monitor=val/top1_acuracy"],
            "did you mean 'val/top1_accuracy'",
        ),
        (
            [STOPPING, "callbacks.early_stopping.monitor=perplexity"],
            "callbacks.early_stopping.monitor (perplexity)",
        ),
        ([STOPPING, "callbacks.early_stopping.mode=most"], "'min' or 'max' or null"),
        ([CHECKPOINT, "metrics=[default,top1_acuracy]"], "did you mean 'top1_accuracy'"),
        (
            [CHECKPOINT, "metrics=[]", "callbacks.checkpoint.monitor=val/perplexity"],
            "no such metric",
        ),
        (
            ["-m", CHECKPOINT, "optimizer.lr=1e-3,1e-2", "sweep.objectives=[val/top1_accuracy]"],
            "sweep.objectives",
        ),
        (
            [
                "-m",
                CHECKPOINT,
                "metrics=default,perplexity",
                "sweep.objectives=[val/bits_per_byte]",
            ],
            "no such metric",
        ),
    ],
)
def test_a_name_that_no_evaluation_measures_is_refused_before_anything_is_written(
    overrides, said, capsys
):
    assert main([*RUN, "output_dir=run", *overrides]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert not Path("run").exists()


def test_objectives_have_the_direction_of_their_metric():
    target = "firstlight.metrics.top1_accuracy.Top1Accuracy"
    config = {"metrics": {"top1_accuracy": {"_target_": target}}}
    names = ["val/top1_accuracy", "best/val/top1_accuracy", "train/loss", "seconds"]
    assert directions_of(names, config) == ["max", "max", "min", "min"]
    assert directions_of(["val/perplexity"], {}) == [
        "min"
    ]  # of a sweep that an earlier version planned


@pytest.mark.long
def test_a_sweep_ranks_by_a_metric_to_maximise(capsys):
    lengths = [
        "trainer.max_steps=1,12",
        "optimizer.lr=1e-2",
        ACCURACY,
        "sweep.objectives=[val/top1_accuracy]",
    ]
    assert main([*RUN[:1], "-m", *RUN[1:], CHECKPOINT, *lengths, "output_dir=sweep"]) == 0
    capsys.readouterr()
    assert main(["sweep", "status", "sweep", "format=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    values = [trial["metrics"]["val/top1_accuracy"] for trial in found["trials"]]
    assert values[0] != values[1]
    assert found["best"][0]["means"] == [max(values)]
    assert main(["compare", "sweep", "metric=val/top1_accuracy", "out=out", "windows=0"]) == 0
    compared = json.loads(Path("out/compare.json").read_text())
    assert [config["mean"] for config in compared["configs"]] == sorted(values, reverse=True)
