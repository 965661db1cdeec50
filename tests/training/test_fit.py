"""What a run leaves behind, and what may not change its numbers."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from tiny_run import TINY, rows_of, same_weights, weights_of

from firstlight.cli import main
from firstlight.runs.run_folder import CONFIG, MODEL, RunFolder
from firstlight.sources import find_checkpoint
from firstlight.training.callbacks.plots import loss_figure
from firstlight.training.report import as_said, cautions, finished_beside, flops

pytestmark = pytest.mark.cpu


def losses_of(folder):
    return [row["train/batch_loss"] for row in rows_of(folder) if row["train/batch_loss"]]


def test_the_same_config_gives_the_same_numbers(train):
    assert train("one") == train("other") == 0
    assert rows_of("one") == rows_of("other")
    assert same_weights("one", "other")


def test_another_seed_gives_other_numbers(trained):
    trained("one")
    trained("other", "seed=7")
    assert not same_weights("one", "other")


@pytest.mark.parametrize(
    "override",
    [
        "~callbacks.sample_generation",
        "trainer.eval_every_n_steps=5",
        pytest.param("data.num_workers=2", marks=pytest.mark.long),
        pytest.param("~callbacks.throughput", marks=pytest.mark.long),
        pytest.param("~callbacks.checkpoint", marks=pytest.mark.long),
        pytest.param("data.eval_batches=1", marks=pytest.mark.long),
        pytest.param("~logger.tensorboard", marks=pytest.mark.long),
        pytest.param("callbacks.throughput.peak_flops=null", marks=pytest.mark.long),
    ],
)
def test_what_is_watched_does_not_change_the_training(train, trained, override):
    trained("plain")
    assert train("other", override) == 0
    assert losses_of("plain") == losses_of("other")
    assert len(losses_of("plain")) == 24


def test_accumulation_is_one_larger_batch(train):
    one_epoch = [
        "model.drop_rate=0",
        "trainer.max_steps=6",
    ]  # a ragged end would be dropped in one of them alone
    assert train("large", *one_epoch) == 0
    assert train("small", *one_epoch, "data.batch_size=2", "trainer.accumulate_grad_batches=4") == 0
    large, small = weights_of("large"), weights_of("small")
    assert all(torch.allclose(tensor, small[name], atol=2e-5) for name, tensor in large.items())


def test_the_untrained_model_is_step_0_and_the_last_step_is_evaluated(train):
    assert train("run", "trainer.max_steps=10") == 0
    evaluated = [int(row["step"]) for row in rows_of("run") if row["val/loss"]]
    assert evaluated == [0, 8, 10]
    untrained = float(rows_of("run")[0]["val/loss"])
    assert untrained == pytest.approx(math.log(257), abs=0.1)


def test_rows_have_the_columns_that_readers_expect(trained):
    trained("run", "trainer.max_steps=8")
    rows = RunFolder(Path("run")).rows
    assert list(rows[0])[:5] == ["step", "tokens", "epoch", "train/loss", "val/loss"]
    last = rows[-1]
    assert int(float(last["tokens"])) == 8 * 8 * 16
    assert float(last["val/perplexity"]) == pytest.approx(math.exp(float(last["val/loss"])))
    assert float(last["lr"]) == 1e-3
    assert all(
        float(last[name]) > 0
        for name in ("grad_norm", "tokens_per_second", "mfu", "val/bits_per_byte")
    )
    speeds = [float(row["tokens_per_second"]) for row in rows[1:]]
    assert min(speeds) > max(speeds) / 100  # none measures anything but its own step
    # a byte is a token here: bits a byte are the loss in bits
    assert float(last["val/bits_per_byte"]) == pytest.approx(float(last["val/loss"]) / math.log(2))


def test_the_logged_learning_rate_is_the_one_of_the_step(train):
    cosine = [
        "scheduler=warmup_cosine",
        "scheduler.warmup_steps=4",
        "scheduler.initial_lr=0",
        "scheduler.min_lr=0",
    ]
    assert train("run", *cosine, "optimizer.lr=4e-3", "trainer.max_steps=8") == 0
    rates = [float(row["lr"]) for row in rows_of("run")[1:]]
    assert rates[:5] == pytest.approx([0, 1e-3, 2e-3, 3e-3, 4e-3])
    assert rates[5:] == pytest.approx([2e-3 * (1 + math.cos(math.pi * k / 4)) for k in (1, 2, 3)])


def test_a_run_folder_says_what_the_run_was(trained):
    trained("run", "trainer.max_steps=2")
    assert {file.name for file in Path("run").iterdir()} >= {
        ".hydra", "environment.json", "metrics.csv", "samples.txt", "checkpoints", "model.safetensors",
    }  # fmt: skip
    assert yaml.safe_load(Path("run/.hydra/config.yaml").read_text())["trainer"]["max_steps"] == 2
    assert "trainer.max_steps=2" in yaml.safe_load(Path("run/.hydra/overrides.yaml").read_text())
    assert json.loads(Path("run/environment.json").read_text())["torch"] == torch.__version__


def test_plots_are_drawn_of_the_whole_run_and_change_nothing(trained):
    trained("plain")
    assert main(["train", *(o for o in TINY if o != "~callbacks.plots"), "output_dir=plotted"]) == 0
    assert same_weights("plain", "plotted")
    assert all(
        Path("plotted", f"{name}.png").read_bytes()[1:4] == b"PNG"
        for name in ("loss", "perplexity")
    )


def test_the_commands_at_the_end_of_a_run_can_be_pasted_whatever_it_is_called(train, capsys):
    bash, name = shutil.which("bash"), "-it's\nTensorBoard: \x1b[31m"
    if bash is None:
        pytest.skip("control characters are written for bash, zsh and ksh")
    assert train(name, "trainer.max_steps=1") == 0
    said = dict(
        line.split(":", 1) for line in capsys.readouterr().out.splitlines() if ":  " in line
    )
    for label, argument in (("sample", f"checkpoint={name}"), ("TensorBoard", f"folder={name}")):
        pasted = [bash, "-c", f"printf '%s\\0' {said[label]}"]
        assert argument in subprocess.run(
            pasted, capture_output=True, check=True
        ).stdout.decode().split("\0")


def test_a_taken_folder_is_not_written_to(train, capsys):
    assert train("run", "trainer.max_steps=2") == 0
    assert "compare:" not in capsys.readouterr().out  # with nothing
    assert train("run", "trainer.max_steps=2") == 0
    assert Path("run_2/metrics.csv").is_file()
    # The end of a run says what it came to, and why it ended.
    rows = [(float(row["val/loss"]), row["step"]) for row in rows_of("run_2") if row["val/loss"]]
    _, _, end = capsys.readouterr().out.partition("\ndone: ")
    first, last, best, *todo = end.splitlines()
    assert re.fullmatch(r"2 steps in \d+ s: all of trainer.max_steps=2", first)
    assert last.startswith("last: training loss ") and f"validation loss {rows[-1][0]:.3f}" in last
    assert best == f"best: validation loss {min(rows)[0]:.3f} at step {min(rows)[1]}"
    assert any(line.startswith("compare: ") and line.endswith("run run_2") for line in todo)


def test_a_run_that_is_being_removed_beside_it_is_no_failure(tmp_path, monkeypatch):
    for name in ("gone", "kept", "own"):
        config = tmp_path / name / CONFIG
        config.parent.mkdir(parents=True)
        config.touch()
    (tmp_path / "kept" / MODEL).touch()
    listed = [tmp_path / name / MODEL for name in ("gone", "kept")]
    monkeypatch.setattr(Path, "glob", lambda _folder, _pattern: iter(listed))
    assert finished_beside(tmp_path / "own") == tmp_path / "kept"


def test_numbers_are_told_as_people_say_them():
    numbers = {512: "512", 85_400: "85k", 2_185_344: "2.2M", 2_000_000: "2M", 124_439_808: "124M"}
    assert [as_said(number) for number in numbers] == list(numbers.values())
    assert as_said(1_557_611_200) == "1.6B"
    assert [flops(number) for number in (1.39e10, 8.33e12, 2e15)] == [
        "13.9 GFLOPs",
        "8.33 TFLOPs",
        "2 PFLOPs",
    ]


def test_the_size_of_a_small_run_is_a_note_and_no_warning():
    told = SimpleNamespace(
        is_small=False, warnings=["few tokens", "leaked"], of_size=["few tokens"]
    )
    assert cautions(told) == ["warning: few tokens", "warning: leaked"]
    told.is_small = True
    leaked, note = cautions(told)
    assert leaked == "warning: leaked" and note.startswith("note: a run this small")
    told.warnings, told.of_size = [], []
    assert cautions(told) == []


@pytest.mark.long
def test_the_length_may_be_given_in_epochs_or_tokens(train):
    assert train("epochs", "trainer.max_steps=null", "trainer.max_epochs=2") == 0
    assert int(rows_of("epochs")[-1]["step"]) == 2 * 6
    assert train("tokens", "trainer.max_steps=null", "trainer.max_tokens=1000") == 0
    assert int(float(rows_of("tokens")[-1]["tokens"])) == 1000 // 128 * 128


@pytest.mark.parametrize(
    ("overrides", "length"),
    [
        (["trainer.max_steps=9"], "(1.5 epochs)"),  # 6 batches of 8 windows
        (["trainer.max_steps=1"], "(0.17 epochs)"),
        (
            ["trainer.max_steps=40", "data.stride=4"],
            "(1.5 epochs of windows = 5.9 passes over the text)",
        ),
        (
            ["trainer.max_steps=1", "data.stride=4"],
            "(0.038 epochs of windows = 0.15 passes over the text)",
        ),
        (["trainer.max_steps=1", "data.stride=16"], "(0.17 epochs)"),
    ],
)
def test_the_opening_tells_epochs_and_passes_over_the_text_where_they_differ(
    train, capsys, monkeypatch, overrides, length
):
    monkeypatch.setattr("firstlight.training.trainer.Trainer.fit", lambda *_, **__: sys.exit(0))
    with pytest.raises(SystemExit):
        train("run", "logger=[csv]", *overrides)
    assert length in capsys.readouterr().out


def test_the_figure_says_that_an_epoch_of_overlapping_windows_is_several_passes():
    curves = [0.0, 1.0], [0, 100], [3.0, 2.0], [3.0, 2.0]
    labels = [loss_figure(*curves, passes_per_epoch=n).axes[0].get_xlabel() for n in (None, 3.98)]
    assert labels == ["epochs", "epochs of windows (each 4.0 passes over the text)"]


def test_early_stopping_stops_for_good(train, capsys):
    stopping = "callbacks=[default,early_stopping]"
    assert (
        train(
            "run",
            stopping,
            "callbacks.early_stopping.min_delta=9",
            "callbacks.early_stopping.patience=1",
        )
        == 0
    )
    assert int(rows_of("run")[-1]["step"]) == 8
    assert ": val/loss has not improved in 1 evaluation\n" in capsys.readouterr().out
    assert main(["train", "resume=run"]) == 2
    assert "was stopped early" in capsys.readouterr().err
    assert main(["train", "resume=run", "~callbacks.early_stopping"]) == 0
    assert int(rows_of("run")[-1]["step"]) == 24


def test_a_gradient_that_is_not_finite_ends_the_run_before_the_update(train, capsys):
    diverging = ["optimizer.lr=1e30", "trainer.gradient_clip_val=null", "trainer.max_steps=24"]
    assert train("run", *diverging) == 1
    first, *_ = lines = capsys.readouterr().err.strip().splitlines()
    assert all(line.startswith("firstlight: ") for line in lines)
    assert "gradient norm" in first
    assert "a lower optimizer.lr" in "".join(lines)


def test_training_starts_from_given_weights(train, trained):
    trained("first", "trainer.max_steps=16")
    assert train("second", "trainer.max_steps=1", "init_from=first") == 0
    best = min(float(row["val/loss"]) for row in rows_of("first") if row["val/loss"])
    assert float(rows_of("second")[0]["val/loss"]) == best


def test_evaluate_measures_what_training_measured(train, capsys):
    assert train("run", "trainer.max_steps=16", "data.test_ratio=0.1", "data.train_ratio=0.8") == 0
    capsys.readouterr()
    best = min(float(row["val/loss"]) for row in rows_of("run") if row["val/loss"])
    for checkpoint in ("run", str(find_checkpoint("run")), "run/model.safetensors"):
        assert main(["evaluate", "format=json", f"checkpoint={checkpoint}"]) == 0
        assert json.loads(capsys.readouterr().out)["val/loss"] == pytest.approx(best, abs=1e-12)
    assert main(["evaluate", "format=json", "checkpoint=run", "split=test"]) == 0
    assert json.loads(capsys.readouterr().out)["test/loss"] != best


def test_another_text_can_be_measured_whole(trained, capsys):
    trained("run", "trainer.max_steps=2")
    Path("other.txt").write_text("The lamp was out. " * 10)
    capsys.readouterr()
    assert (
        main(
            [
                "evaluate",
                "format=json",
                "checkpoint=run",
                "data=text",
                "data.path=other.txt",
                "split=all",
            ]
        )
        == 0
    )
    measured = capsys.readouterr()
    assert json.loads(measured.out)["all/tokens"] == 180 - 1 and measured.err == ""


@pytest.mark.parametrize("batch_size", [2, 6])
@pytest.mark.one_in(2)
def test_training_and_evaluate_score_every_token_of_validation_once(train, capsys, batch_size):
    assert (
        train(
            "run",
            "trainer.max_steps=8",
            f"data.batch_size={batch_size}",
            "trainer.micro_batch_size=2",
        )
        == 0
    )
    assert "not evaluated" not in capsys.readouterr().out
    for split, n_chars in (("val", 50), ("test", 48), ("train", 874)):
        assert main(["evaluate", "format=json", "checkpoint=run", f"split={split}"]) == 0
        measured = capsys.readouterr()
        found = json.loads(measured.out)
        assert found[f"{split}/tokens"] == n_chars - 1 and measured.err == ""
        assert found[f"{split}/bits_per_byte"] == pytest.approx(
            found[f"{split}/loss"] / math.log(2)
        )  # bytes are tokens
        if split != "train":
            for name in (
                f"{split}/loss",
                f"{split}/bits_per_byte",
            ):  # float32 sums in parts of another size
                assert found[name] == pytest.approx(float(rows_of("run")[-1][name]), rel=1e-6)


def test_evaluate_measures_a_model_in_lower_precision(train, capsys):
    assert train("run", "trainer.max_steps=8") == 0
    best = min(float(row["val/loss"]) for row in rows_of("run") if row["val/loss"])
    for precision in ("bf16-true", "bf16-mixed", "int8"):
        capsys.readouterr()
        assert (
            main(
                [
                    "evaluate",
                    "format=json",
                    "checkpoint=run",
                    "accelerator=cpu",
                    f"precision={precision}",
                ]
            )
            == 0
        )
        assert json.loads(capsys.readouterr().out)["val/loss"] == pytest.approx(best, rel=0.01)


def test_a_run_of_an_earlier_version_goes_on_and_is_evaluated_without_the_last_window(
    train, capsys
):
    """Its config lacks the key; what it leaves out is said."""
    old = ["~data.eval_last_window", "data.test_ratio=0.0"]
    old.append("callbacks.checkpoint.every_n_steps=4")
    assert train("whole", *old) == train("parts", *old, "trainer.max_steps=12") == 0
    assert "6 windows of 16, 1 of 97 predictions are not evaluated" in capsys.readouterr().out
    assert "eval_last_window" not in Path("whole/.hydra/config.yaml").read_text()
    assert main(["train", "resume=parts", "trainer.max_steps=24"]) == 0
    assert rows_of("whole")[-1] == rows_of("parts")[-1]
    capsys.readouterr()
    assert main(["evaluate", "format=json", "checkpoint=whole"]) == 0
    measured = capsys.readouterr()
    found = json.loads(measured.out)
    assert found["val/tokens"] == 96 and found["val/loss"] == float(
        rows_of("whole")[-1]["val/loss"]
    )
    assert (
        "the last 1 of 97 predictions are left out" in measured.err
        and measured.err.count("\n") == 1
    )
    assert train("new", "trainer.max_steps=1") == train("plain", "trainer.max_steps=1", *old) == 0
    new, plain = rows_of("new")[-1], rows_of("plain")[-1]
    assert new["val/loss"] != plain["val/loss"] and new["train/loss"] == plain["train/loss"]
    assert same_weights("new", "plain")


def test_generate_repeats_itself_by_seed(trained, capsys):
    trained("run", "trainer.max_steps=2")
    texts = []
    for seed in (1, 1, 2):
        capsys.readouterr()
        assert (
            main(
                [
                    "generate",
                    "checkpoint=run",
                    "prompt=The lamp",
                    "max_new_tokens=30",
                    f"seed={seed}",
                ]
            )
            == 0
        )
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("The lamp")


def test_the_folder_of_a_run_may_begin_with_the_home_folder(train, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    two = ["trainer.max_steps=2", "resume=auto"]
    assert train('"~/runs/a"', *two) == 0
    assert train('"~/runs/a"', *two) == 0  # it is found there, and done
    assert [path.name for path in (tmp_path / "home" / "runs").iterdir()] == ["a"] and not Path(
        "~"
    ).exists()


def test_a_whole_float_is_trained_and_stored_as_the_number_that_it_is(train):
    assert train("run", "trainer.max_steps=1e0") == 0
    stored = RunFolder(Path("run")).config["trainer"]["max_steps"]
    assert (type(stored), stored) == (int, 1)
