"""Weights & Biases and MLflow: the same numbers, one run however often it is continued, and nothing
of a refused one.

The two packages are extras: a test of one runs where it is installed, `pip install -e
'.[wandb,mlflow]'`.
"""

from pathlib import Path

import pytest
from stop_at import Crash
from tiny_run import rows_of

from firstlight.cli import main
from firstlight.packages import with_extra

STEPS = list(range(25))
SECRET = "0123456789" * 4
quiet = pytest.mark.filterwarnings("ignore")  # what these packages are warned of is not ours


def stopped_and_continued(train, *overrides):
    """A run that is killed when it has logged 12 or 13 steps, 8 of them in its checkpoint, and
    continued.
    """
    with pytest.raises(Crash):
        train(
            "runs/run",
            *overrides,
            "+callbacks.stop._target_=stop_at.StopAt",
            "+callbacks.stop.batch=13",
        )
    assert main(["train", "resume=runs/run", "~callbacks.stop"]) == 0


def records_of(data):
    """What a .wandb file holds: 7 bytes, then LevelDB's log, blocks of 32 KiB with parts of
    records.
    """
    place, record = 7, b""
    while place < len(data):
        if 32768 - place % 32768 < 7:  # no room for a header: padding
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


@pytest.mark.parametrize("logger", ["wandb", "mlflow"])
def test_a_missing_package_is_said_before_anything_is_done(train, capsys, monkeypatch, logger):
    monkeypatch.setattr("firstlight.training.loggers.board.find_spec", lambda name: None)
    assert train("run", f"logger=[default,{logger}]") == 2
    error = capsys.readouterr().err
    says = f"firstlight: logger.{logger}: {logger} is not installed; run: pip install "
    assert error.startswith(says) and error.count("\n") == 1
    assert error.removeprefix(says).rstrip() == with_extra(logger).removeprefix("pip install ")
    assert sorted(path.name for path in Path().iterdir()) == ["text.txt"]


@pytest.mark.parametrize("uri", ["outputs/mlruns", "file:///tmp/mlruns"])
def test_mlflow_into_a_folder_is_refused(train, capsys, uri):
    assert train("run", "logger=[default,mlflow]", f"logger.mlflow.tracking_uri={uri}") == 2
    error = capsys.readouterr().err
    assert (
        error.startswith(f"firstlight: logger.mlflow: tracking_uri ({uri}) must be")
        and error.count("\n") == 1
    )
    assert "sqlite:///" in error


@quiet
@pytest.mark.parametrize("attribute", ["wandb.init", "mlflow.MlflowClient"])
def test_a_board_out_of_reach_is_tried_and_told_once_and_costs_the_run_nothing(
    train, capfd, monkeypatch, attribute
):
    logger = attribute.partition(".")[0]
    pytest.importorskip(logger)
    tries = []

    def unreachable(*args, **kwargs):
        tries.append(args)
        raise OSError("no route to host")

    monkeypatch.setattr(attribute, unreachable)
    assert train("run", f"logger=[default,{logger}]") == 0
    error = capfd.readouterr().err
    assert (
        len(tries) == 1
        and error.count("failed, training continues") == 1
        and "no route to host" in error
    )
    assert len(rows_of("run")) == 25


@quiet
def test_mlflow_has_one_run_of_a_continued_one(train):
    mlflow = pytest.importorskip("mlflow")
    assert train("plain") == 0
    stopped_and_continued(
        train, "logger=[default,mlflow]", "logger.mlflow.tracking_uri=sqlite:///board/mlflow.db"
    )
    client = mlflow.MlflowClient("sqlite:///board/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "quickstart"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("runs/run", "FINISHED")
    assert run.data.params["model.n_layers"] == "1"
    rows = rows_of("plain")
    assert rows == rows_of("runs/run")
    for name in ("train/batch_loss", "val/loss", "tokens"):
        points = [
            (str(m.step), repr(m.value)) for m in client.get_metric_history(run.info.run_id, name)
        ]
        assert points == [(row["step"], repr(float(row[name]))) for row in rows if row[name]]
    assert "outputs/mlflow" in run.info.artifact_uri
    assert [f.path for f in client.list_artifacts(run.info.run_id, "sample")]


@quiet
def test_wandb_has_one_run_of_a_continued_one(train, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    assert train("plain") == 0
    stopped_and_continued(train, "logger=[default,wandb]")
    rows = rows_of("plain")
    assert rows == rows_of("runs/run")
    assert not [
        file
        for file in Path("runs").rglob("*")
        if file.is_file() and SECRET.encode() in file.read_bytes()
    ]
    ids, steps = set(), []
    for file in sorted(Path("runs/run/wandb").glob("offline-run-*/run-*.wandb")):
        for record in map(Record.FromString, records_of(file.read_bytes())):
            if record.HasField("run"):
                ids.add((record.run.run_id, record.run.run_group, record.run.display_name))
            values = {
                item.key or item.nested_key[0]: item.value_json for item in record.history.item
            }
            if "train/batch_loss" in values:
                steps.append((values["trainer/global_step"], values["train/batch_loss"]))
    assert len(ids) == 1 and ids.pop()[1:] == ("runs", "run")
    assert [int(step) for step, _ in steps] == STEPS[1:]
    assert [float(loss) for _, loss in steps] == [
        float(r["train/batch_loss"]) for r in rows if r["train/batch_loss"]
    ]
