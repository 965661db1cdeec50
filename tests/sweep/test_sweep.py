"""A whole sweep, as a user begins it, asks how it is, and resumes it."""

import json
import math
import os
import re
import shutil
import signal
from contextlib import chdir, closing
from pathlib import Path

import pytest
import yaml

from firstlight.cli import main
from firstlight.errors import ConfigError
from firstlight.sweep import loop
from firstlight.sweep import trial as trial_module
from firstlight.sweep.ledger import Ledger
from firstlight.sweep.planning import complete, planned

TINY = [
    *(
        "model.emb_dim=16",
        "model.n_layers=1",
        "model.n_heads=2",
        "model.context_length=16",
        "tokenizer=bytes",
    ),
    *(
        "data=text",
        "data.batch_size=4",
        "data.eval_batches=2",
        "trainer.max_steps=6",
        "trainer.eval_every_n_steps=3",
    ),
    *("scheduler.warmup_steps=2", "callbacks=[checkpoint]", "logger=[csv]", "output_dir=sweep"),
]
COMMAND = ["train", "-m", *TINY, "model.n_heads=2,3", "data.path=a.txt,b.txt", "seeds=2"]
TEXT = "The lamp was lit, and the boats came home. " * 40


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working directory, but for a text."""
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text(TEXT)
    return tmp_path


@pytest.fixture
def status(capsys):
    """A function: what `sweep status format=json` says."""

    def ask() -> dict:
        capsys.readouterr()
        assert main(["sweep", "status", "sweep", "format=json"]) == 0
        return json.loads(capsys.readouterr().out)

    return ask


def states(found: dict) -> list[str]:
    return [trial["state"] for trial in found["trials"]]


def written(folder: str) -> dict[Path, int]:
    """When the weights of every run were written."""
    return {file: file.stat().st_mtime_ns for file in Path(folder).glob("*/model.safetensors")}


@pytest.mark.parametrize(
    "where", ["before the first trial", pytest.param("after it", marks=pytest.mark.long)]
)
def test_a_signal_between_two_trials_stops_the_sweep_as_one_within_a_trial_does(
    place, status, monkeypatch, capsys, where
):
    method = "_say_end" if where == "after it" else "_prepare"
    real = getattr(loop.Worker, method)

    def signalled(worker, row):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(worker, row)

    monkeypatch.setattr(loop.Worker, method, signalled)
    with pytest.raises(SystemExit) as ended:
        main(["train", "-m", *TINY, "data.path=a.txt", "optimizer.lr=0.01,0.02"])
    assert ended.value.code == 128 + signal.SIGTERM
    assert "sweep resume" in capsys.readouterr().out
    assert states(status()) == (
        ["done", "planned"] if where == "after it" else ["planned", "planned"]
    )


def test_a_sweep_of_shuffled_values_is_resumed(place):
    words = [*TINY, "data.path=a.txt", "optimizer.lr=shuffle(1e-3,2e-3,3e-3,4e-3)"]
    folder = planned(words, None)
    complete(folder, storage=None, config_dir=None, words=[])


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("freeze=tok_emb,tok_amb", "freeze (tok_amb): matches no parameter of GPT"),
        ("lr_scale=[tok_emb:0.1],[tok_emb:none]", "lr_scale (tok_emb:none): expected PATTERN:"),
        (
            "parametrization=mup parametrization.base_width=8,12",
            "parametrization.base_width (12) must be a multiple of the width of a head (8)",
        ),
    ],
)
def test_what_is_said_of_the_model_is_checked_when_a_sweep_is_planned(
    place, capsys, words, problem
):
    planned([*TINY, "data.path=a.txt", *words.split()], None)
    err = capsys.readouterr().err
    assert "1 of 2 points" in err
    assert problem in err


def test_seeds_beyond_the_largest_are_refused_before_a_sweep_is_written(place):
    words = [*TINY, "data.path=a.txt", "output_dir=swept"]
    with pytest.raises(ConfigError, match=r"seed \(4294967294\): 3 seeds from it on end at"):
        planned([*words, "seed=4294967294", "seeds=3"], None)
    assert not (place / "swept").exists()
    planned([*words, "seed=4294967294", "seeds=2"], None)
    with pytest.raises(ConfigError, match="the largest seed is 4294967295"):
        complete(place / "swept", storage=None, config_dir=None, words=["seeds=3"])


@pytest.mark.long
def test_a_sweep_leaves_out_what_cannot_be_trained_outlives_what_fails_and_makes_nothing_twice(
    place, status, capsys
):
    assert main(COMMAND) == 1  # b.txt is not there, and 16 cannot be shared by 3 heads
    out, err = capsys.readouterr()
    assert "2 of 4 points cannot be trained and are left out; model.n_heads=3" in err
    assert "2 of 4 trials failed" in err and "b.txt" in err and "Traceback" not in out + err
    before, runs = status(), written("sweep")
    assert states(before) == ["done", "done", "failed", "failed"]
    assert [trial["seed"] for trial in before["trials"]] == [123, 124, 123, 124]

    assert main(COMMAND) == 1  # the same again: nothing is left to be made
    assert written("sweep") == runs
    assert status()["trials"] == before["trials"]

    Path("b.txt").write_text(TEXT.upper())
    assert main(["sweep", "retry", "sweep"]) == 0
    assert runs.items() <= written("sweep").items() and len(written("sweep")) == 4
    after = status()
    assert states(after) == ["done", "done", "failed", "failed", "done", "done"]
    assert after["trials"][:2] == before["trials"][:2]

    [best] = after["best"]
    done = [trial for trial in after["trials"] if trial["state"] == "done"]
    by_text: dict[str, list[float]] = {}
    for trial in done:
        by_text.setdefault(trial["overrides"][1], []).append(trial["metrics"]["val/loss"])
        logged = (place / "sweep" / trial["folder"] / "metrics.csv").read_text().splitlines()
        assert (
            float(logged[-1].split(",")[logged[0].split(",").index("val/loss")])
            == trial["metrics"]["val/loss"]
        )
    assert best["means"] == [min(sum(losses) / 2 for losses in by_text.values())]
    assert main(["sweep", "best", "sweep"]) == 0
    [command] = re.findall(r"firstlight (train .*)", capsys.readouterr().out)
    assert best["overrides"][1] in command and "output_dir" not in command


SMALL = ["train", "-m", *TINY, "data.path=a.txt,b.txt", "optimizer.lr=1e-2", "seed=6"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a sweep of two trials, one of which failed: its text does not exist."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "a.txt").write_text(TEXT)
    with chdir(folder):
        assert main(SMALL) == 1
    return folder


@pytest.fixture
def begun(made, place):
    """An empty working directory, but for a text and that sweep."""
    shutil.copytree(made / "sweep", place / "sweep")
    return place


def test_the_best_point_is_told_with_its_test_score_and_of_which_text_each_number_is(begun, capsys):
    assert main(["sweep", "best", "sweep"]) == 0
    first, of_val, of_test, of_texts, command = capsys.readouterr().out.strip().splitlines()
    assert first.startswith("best: val/loss ")
    assert of_val.startswith("  val/loss (validation text), chosen by it: one seed")
    assert re.match(r"  test/loss \(test text\) \d\.\d+: one seed of each point", of_test)
    assert re.match(r"  test/loss of other texts: \+- \d", of_texts)
    assert command.startswith("  ") and " train " in command
    assert main(["sweep", "best", "sweep", "metric=test/perplexity", "format=json"]) == 0
    [best] = json.loads(capsys.readouterr().out)
    assert list(best["worth"]) == ["val/loss", "test/perplexity"]
    assert main(["sweep", "best", "sweep", "metric=test/los"]) == 2
    assert "metric (test/los): the trials have not measured it" in capsys.readouterr().err


def test_a_trial_whose_test_loss_is_not_finite_is_complete_and_says_so(
    place, status, monkeypatch, capsys
):
    folder = planned([*TINY, "data.path=a.txt", "optimizer.lr=1e-3,2e-3"], None)
    exit_codes = []

    def here(_, words, *, log, environment):
        capsys.readouterr()
        exit_codes.append(main(["train", *words]))
        log.write_text(capsys.readouterr().err)

    # In this process, where the score can be spoilt.
    monkeypatch.setattr("firstlight.training.final_score.values_of", lambda *_: {"loss": math.nan})
    monkeypatch.setattr(trial_module, "start_server", lambda *_: None)
    monkeypatch.setattr(trial_module, "start_process", here)
    monkeypatch.setattr(trial_module, "_run", lambda *_: (exit_codes[-1], False))
    with closing(Ledger.open(folder)) as ledger:
        ledger.note(ledger.take(), folder="trial")
    assert trial_module.make_trial(folder, 0) == 0
    assert exit_codes == [1, 0]
    trial = status()["trials"][0]
    assert trial["state"] == "done" and math.isfinite(trial["metrics"]["val/loss"])
    assert trial["error"] == "test/loss is nan with the weights of step 6"
    assert "test/loss" not in trial["metrics"]
    assert len(written("sweep")) == 1


def test_what_failed_is_made_again_and_nothing_is_made_twice(begun, status):
    before, runs = status(), written("sweep")
    assert states(before) == ["done", "failed"] and len(runs) == 1
    assert main(SMALL) == 1  # the same again: nothing is left to be made
    assert written("sweep") == runs and status()["trials"] == before["trials"]
    Path("b.txt").write_text(TEXT.upper())
    assert main(["sweep", "retry", "sweep"]) == 0
    assert runs.items() <= written("sweep").items() and len(written("sweep")) == 2
    assert states(status()) == ["done", "failed", "done"]


def test_a_sweep_is_extended_and_only_what_is_new_is_made(begun, status, capsys):
    before, runs = status(), written("sweep")
    Path("c.txt").write_text(TEXT.lower())
    assert main(["sweep", "extend", "sweep", "data.path=c.txt", "storage=null"]) == 1  # b.txt
    after = status()
    assert states(after) == ["done", "failed", "done"]
    assert after["trials"][:2] == before["trials"]
    assert after["trials"][2]["overrides"] == ["data.path=c.txt"]
    assert runs.items() <= written("sweep").items() and len(written("sweep")) == 2
    for words in (["data.paht=c.txt"], ["model.n_heads=1"], [], ["storage=x"]):
        assert main(["sweep", "extend", "sweep", *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert status() == after


@pytest.mark.cpu
def test_the_trials_of_a_sweep_are_the_runs_of_its_command_line(begun, status):
    assert (
        main(
            [
                "train",
                *TINY[:-1],
                "data.path=a.txt",
                "optimizer.lr=1e-2",
                "seed=6",
                "output_dir=alone",
            ]
        )
        == 0
    )
    trial = status()["trials"][0]
    assert (
        Path("sweep", trial["folder"], "metrics.csv").read_bytes()
        == Path("alone/metrics.csv").read_bytes()
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("plugin", "launcher"),
    [
        ("joblib", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]),
        ("submitit", ["hydra/launcher=submitit_local", "hydra.sweeper.max_batch_size=2"]),
    ],
)
def test_a_launcher_makes_two_trials_at_once_from_one_command(place, status, plugin, launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{plugin}_launcher")
    assert main(["train", "-m", *TINY, "data.path=a.txt", "optimizer.lr=1e-2,2e-2", *launcher]) == 0
    assert states(status()) == ["done", "done"]


@pytest.mark.long
def test_a_trial_that_falls_behind_is_pruned(place, status, capsys):
    search = [
        "optimizer.lr=1e-2,2e-2,3e-2,1e-9",
        "scheduler.initial_lr=0",
        "scheduler.min_lr=0",
        "sweep.pruner=median",
    ]
    assert main(["train", "-m", *TINY, "data.path=a.txt", *search]) == 0
    found = status()
    assert states(found) == ["done", "done", "done", "pruned"]
    assert found["trials"][-1]["step"] == 3


@pytest.mark.long
def test_a_key_of_one_choice_is_swept_over_where_that_is_chosen_for_two_objectives(
    place, status, capsys
):
    rule = 'sweep.only_if=["optimizer.momentum if optimizer=muon"]'
    search = [
        "optimizer=adamw,muon",
        "optimizer.momentum=0.9,0.95",
        rule,
        "sweep.objectives=[val/loss,tokens]",
    ]
    assert main(["train", "-m", *TINY, "data.path=a.txt", *search]) == 0
    found = status()
    assert [trial["overrides"] for trial in found["trials"]] == [
        ["optimizer=adamw"],
        ["optimizer=muon", "optimizer.momentum=0.9"],
        ["optimizer=muon", "optimizer.momentum=0.95"],
    ]
    assert states(found) == ["done", "done", "done"]
    assert len(found["best"]) == 1  # all see as many tokens


@pytest.mark.long
def test_a_sweep_draws_the_same_points_again(place, status):
    search = [
        *TINY,
        "data.path=a.txt",
        "optimizer.lr=tag(log, interval(1e-4, 1e-1))",
        "sweep.trials=2",
    ]
    assert main(["train", "-m", *search]) == 0
    drawn = [(trial["overrides"], trial["metrics"]["val/loss"]) for trial in status()["trials"]]
    assert drawn[0] != drawn[1]
    Path("sweep").rename("first")
    assert main(["train", "-m", *search]) == 0
    assert [
        (trial["overrides"], trial["metrics"]["val/loss"]) for trial in status()["trials"]
    ] == drawn


def test_a_sweep_whose_config_has_changed_is_not_resumed(begun, status, capsys):
    assert main([*SMALL[:-1], "seed=7"]) == 2
    assert "holds another sweep: " in capsys.readouterr().err
    record = Path("sweep/sweep.yaml")
    kept = yaml.safe_load(record.read_text())
    kept["config"]["optimizer"]["betas"] = [0.9, 0.9]
    record.write_text(yaml.safe_dump(kept))
    assert main(["sweep", "resume", "sweep"]) == 2
    err = capsys.readouterr().err
    assert "optimizer.betas was [0.9, 0.9], is " in err and err.count("\n") == 1
    assert states(status()) == ["done", "failed"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep", "status", "."], "sweep"),
        (["sweep", "best", "nowhere"], "nowhere"),
        (["sweep", "stats", "sweep"], "status"),
        (
            ["sweep", "resume", "nowhere", "format=json"],
            "format: for status and best, not for resume",
        ),
        (
            ["sweep", "retry", "nowhere", "metric=val/x"],
            "metric: for status and best, not for retry",
        ),
        (["train", "-m", *TINY], "a sweep needs several values"),
        (["train", "-m", *TINY, "model.n_heads=3,5"], "as all 2 points"),
        (
            ["train", "-m", *TINY, "optimizer=glob(sgd*)"],
            "optimizer=glob(sgd*): matches no option of optimizer (adamw, muon)",
        ),
        (["train", "-m", *TINY, "scheduler.warmup_steps=7,8"], "warm"),
        (
            ["train", "-m", *TINY, "optimizer.lr=1e-3,1e-2", "sweep.objectives=[val/los]"],
            "did you mean 'val/loss'",
        ),
        (["train", "-m", *TINY, "seed=1,2", "seeds=2"], "give one of the two"),
        (
            ["train", "-m", *TINY, "seed=1,2", "hydra.sweeper.max_batch_size=2"],
            "hydra/launcher=basic makes one trial at a time",
        ),
        (
            ["train", "-m", *TINY, "seed=1,2", "hydra.sweeper.max_batch_size=all"],
            "hydra.sweeper.max_batch_size: expected int >= 1, got 'all'",
        ),
        (
            ["train", "-m", *TINY, "seed=1,2", "hydra/launcher=basic,joblib"],
            "hydra/launcher: cannot be swept over",
        ),
        (["sweep", "resume", ".", "hydra.sweeper.max_batch_size=0"], "expected int >= 1, got 0"),
    ],
)
@pytest.mark.one_in(2)
def test_a_mistake_is_one_line_and_makes_nothing(place, capsys, words, message):
    words = [*words, "data.path=a.txt"] if words[0] == "train" else words
    assert main(words) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert [path.name for path in place.iterdir()] == ["a.txt"]
