"""A run that was stopped and continued is the run that was never stopped: bit for bit."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from at_each_operation import ends_of
from stop_at import Crash, StopAt
from tiny_run import TINY, rows_of, same_weights
from torch.utils.tensorboard import SummaryWriter

from firstlight.cli import main
from firstlight.decoding.greedy import Greedy
from firstlight.interpolation import quoted
from firstlight.runs.run_folder import RunFolder
from firstlight.runs.samples_file import entry
from firstlight.training.callbacks.sample_generation import SampleGeneration
from firstlight.training.loggers.csv import CSVLogger
from firstlight.training.loggers.tensorboard import TensorBoardLogger, hide_from
from firstlight.verify.differences import curves_of

pytestmark = pytest.mark.cpu
LONG = pytest.mark.long

SAVE_ALWAYS = "callbacks.checkpoint.every_n_steps=1"
NEVER = "callbacks.checkpoint.every_n_steps=1000"
STOP = ["+callbacks.stop._target_=stop_at.StopAt", "+callbacks.stop.batch=13"]
COSINE = ["scheduler=warmup_cosine", "scheduler.warmup_steps=3"]
STABLE = ["scheduler=warmup_stable_decay", "scheduler.warmup_steps=3"]


def stop_and_resume(train, folder, stops, *overrides):
    first, *later = stops
    with pytest.raises(Crash):
        train(
            folder,
            *overrides,
            "+callbacks.stop._target_=stop_at.StopAt",
            f"+callbacks.stop.batch={first}",
        )
    for batch in later:
        with pytest.raises(Crash):
            main(["train", f"resume={folder}", f"callbacks.stop.batch={batch}"])
    assert main(["train", f"resume={folder}", "~callbacks.stop"]) == 0


def assert_same_run(one, other):
    assert [int(row["step"]) for row in rows_of(one)] == list(range(25))
    assert rows_of(one) == rows_of(other)
    assert same_weights(one, other)
    assert same_weights(one, other, best=True)
    assert Path(one, "samples.txt").read_text() == Path(other, "samples.txt").read_text()


@pytest.mark.parametrize(
    ("stops", "overrides"),
    [
        pytest.param([13], COSINE, id="after an evaluation", marks=LONG),
        pytest.param([13], [*COSINE, SAVE_ALWAYS], id="in the middle of an epoch"),
        pytest.param(
            [6], ["callbacks.checkpoint.every_n_steps=2"], id="at the end of an epoch", marks=LONG
        ),
        pytest.param([3, 5, 17], [SAVE_ALWAYS], id="three times, twice in one epoch", marks=LONG),
        pytest.param(
            [20], ["trainer.accumulate_grad_batches=3", SAVE_ALWAYS], id="within an accumulation"
        ),
        pytest.param(
            [10],
            ["data.drop_last=false", "data.num_workers=2"],
            id="with workers and ragged batches",
            marks=LONG,
        ),
        pytest.param([10], ["trainer.precision=bf16-mixed"], id="in bf16", marks=LONG),
        pytest.param(
            [13, 21],
            ["optimizer=muon", *STABLE, SAVE_ALWAYS],
            id="with Muon, twice, once as the rate decays",
            marks=LONG,
        ),
    ],
)
def test_a_stopped_and_resumed_run_equals_the_uninterrupted_one(train, trained, stops, overrides):
    trained("whole", *overrides)
    stop_and_resume(train, "parts", stops, *overrides)
    assert_same_run("whole", "parts")


def test_a_finished_run_can_be_trained_longer(train, trained):
    trained("whole")
    assert train("parts", "trainer.max_steps=16") == 0
    assert main(["train", "resume=parts", "trainer.max_steps=24"]) == 0
    assert_same_run("whole", "parts")


@pytest.mark.parametrize(
    "batch", [pytest.param(5, id="before the first checkpoint", marks=LONG), 13]
)
def test_tensorboard_shows_one_curve_of_a_continued_run(train, trained, batch):
    """In one folder: steps are purged as steps, and nothing of what is counted in tokens is lost
    with them.
    """
    trained("whole")
    stop_and_resume(train, "run", [batch])
    whole, parts = curves_of(Path("whole")), curves_of(Path("run"))
    curves = {
        "train/batch_loss": range(1, 25),
        "val/loss": (0, 8, 16, 24),
        "over_tokens/val/loss": (0, 1024, 2048, 3072),
        "over_tokens/grad_norm": range(128, 3073, 128),
        "Result/best_val_loss": (0, 8, 16, 24),
    }
    for tag, steps in curves.items():
        assert [step for step, _ in parts[tag]] == list(steps)
        assert parts[tag] == whole[tag]
    assert whole.keys() == parts.keys()
    assert not [
        path
        for path in Path("run").iterdir()
        if path.is_dir() and path.name not in (".hydra", "checkpoints")
    ]


def shown_by_the_data_server(folder):
    """Steps of every curve, as TensorBoard's data server, which reads event files itself, has
    them."""
    from tensorboard import context
    from tensorboard.data import server_ingester
    from tensorboard.data.grpc_provider import GrpcDataProvider
    from tensorboard.util.grpc_util import ChannelCredsType

    try:
        binary = server_ingester.get_server_binary()
    except server_ingester.NoDataServerError:
        pytest.skip("TensorBoard has no data server on this machine")
    ingester = server_ingester.SubprocessServerDataIngester(
        server_binary=binary,
        logdir=str(Path(folder).absolute()),
        reload_interval=1000,
        channel_creds_type=ChannelCredsType.LOCAL,
    )
    ingester.start()
    provider, nobody = ingester.data_provider, context.RequestContext()
    assert isinstance(provider, GrpcDataProvider)
    found = provider.read_scalars(nobody, experiment_id="", plugin_name="scalars", downsample=10**6)
    return {
        tag: [point.step for point in points]
        for run in found.values()
        for tag, points in run.items()
    }


def test_a_resumed_run_hides_no_point_of_tensorboard_that_it_does_not_log_again(train):
    """In every order: killed after its last step (with nothing left to log), resumed twice, then
    trained longer.
    """
    assert train("run", SAVE_ALWAYS) == 0
    shown = curves_of(Path("run"))
    for _ in range(2):
        Path("run/model.safetensors").unlink()
        assert main(["train", "resume=run"]) == 0
        assert curves_of(Path("run")) == shown
    with pytest.raises(Crash):
        main(
            [
                "train",
                "resume=run",
                "trainer.max_steps=32",
                STOP[0],
                "+callbacks.stop.batch=28",
                NEVER,
            ]
        )
    assert main(["train", "resume=run", "~callbacks.stop"]) == 0
    assert train("whole", "trainer.max_steps=32", SAVE_ALWAYS) == 0
    whole = curves_of(Path("whole"))
    assert {
        tag: [step for step, _ in points] for tag, points in curves_of(Path("run")).items()
    } == {tag: [step for step, _ in points] for tag, points in whole.items()}


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of the server, which ends with stdin
def test_the_data_server_of_tensorboard_shows_the_same_curves(train):
    assert train("whole") == 0
    stop_and_resume(train, "run", [13, 20])
    shown = {tag: [step for step, _ in points] for tag, points in curves_of(Path("whole")).items()}
    assert shown_by_the_data_server("run") == shown_by_the_data_server("whole") == shown


def logged(logger, steps):
    for step in steps:
        logger.log_metrics({"tokens": 100 * step, "train/loss": 1.0, "val/loss": 9.0 - step}, step)
    logger.finalize("success")


@pytest.mark.parametrize("how", ["kill", "full disk"])
def test_nothing_vanishes_from_tensorboard_whatever_ends_a_run_as_it_hides_what_it_logs_again(
    tmp_path, how
):
    logged(TensorBoardLogger(save_dir=str(tmp_path)), range(8))
    ends = 0
    for _ in ends_of(lambda: hide_from(tmp_path, 5), str(tmp_path), how):
        ends += 1
        steps = [step for step, _ in curves_of(tmp_path)["over_tokens/val/loss"]]
        assert steps in ([0, 100, 200, 300, 400, 500, 600, 700], [0, 100, 200, 300, 400])
    assert ends > 2
    assert hide_from(tmp_path, 5) == 5.0
    logged(TensorBoardLogger(save_dir=str(tmp_path), purge_step=5), range(5, 8))
    assert [step for step, _ in curves_of(tmp_path)["over_tokens/val/loss"]] == list(
        range(0, 800, 100)
    )
    assert [value for _, value in curves_of(tmp_path)["Result/best_val_loss"]] == [
        9.0 - step for step in range(8)
    ]


def test_what_is_logged_again_within_the_same_second_is_read_after_what_it_hides(tmp_path):
    """TensorBoard reads event files by name: the second, the host, then the process, where 10 comes
    before 9.
    """
    logged(TensorBoardLogger(save_dir=str(tmp_path)), range(8))
    [file] = tmp_path.glob("events.*")
    file.rename(tmp_path / f"events.out.tfevents.{int(time.time())}.~.9.0")
    logged(TensorBoardLogger(save_dir=str(tmp_path), purge_step=5), range(5, 10))
    assert [step for step, _ in curves_of(tmp_path)["val/loss"]] == list(range(10))


def test_what_earlier_versions_hid_from_tensorboard_by_mistake_is_shown_again(tmp_path):
    logged(TensorBoardLogger(save_dir=str(tmp_path)), range(8))
    with SummaryWriter(tmp_path, purge_step=8):  # a run that was resumed at its end
        pass
    assert [step for step, _ in curves_of(tmp_path)["over_tokens/val/loss"]] == [0]
    logged(TensorBoardLogger(save_dir=str(tmp_path), purge_step=8), [])
    assert [step for step, _ in curves_of(tmp_path)["over_tokens/val/loss"]] == list(
        range(0, 800, 100)
    )


@pytest.mark.long
def test_a_run_killed_after_its_last_save_is_tidied_when_it_is_continued(train):
    assert train("run", SAVE_ALWAYS, "callbacks.checkpoint.keep_last=4") == 0
    Path(
        "run/model.safetensors"
    ).unlink()  # written after the checkpoints of an earlier step are removed
    assert main(["train", "resume=run", "callbacks.checkpoint.keep_last=2"]) == 0
    assert sorted(folder.name for folder in Path("run/checkpoints").iterdir()) == [
        "step_00000023",
        "step_00000024",
    ]
    assert Path("run/model.safetensors").is_file()


def test_samples_of_a_checkpoint_of_an_earlier_version_are_cut_at_the_mark_of_the_next_step(
    tmp_path,
):
    samples = b"--- step 0\nThe lamp\r\n--- step 8\n\xffThe\x85quay\n--- step 16\nThe har"
    Path("samples.txt").write_bytes(samples)
    callback = SampleGeneration(prompt="The", decoding=Greedy())
    callback.on_train_start(
        SimpleNamespace(folder=tmp_path, global_step=8, is_global_zero=True), None
    )
    assert (
        Path("samples.txt").read_bytes() == b"--- step 0\nThe lamp\r\n--- step 8\n\xffThe\x85quay\n"
    )


@pytest.mark.parametrize(
    "prompt", ["a\rb\n--- step 99\nc", "\r\n--- step 1\n\x85\u2028", "--- step 17"], ids=repr
)
def test_what_was_sampled_before_stays_byte_for_byte(train, prompt):
    sampled = [
        f"callbacks.sample_generation.prompt={quoted(prompt)}",
        "callbacks.sample_generation.max_new_tokens=1",
    ]
    assert train("whole", *sampled) == 0
    before = Path("whole/samples.txt").read_bytes()
    texts = RunFolder(Path("whole")).samples(range(100))
    assert texts.keys() == {0, 8, 16, 24} and all(prompt in text for text in texts.values())
    stop_and_resume(train, "parts", [13, 20], *sampled)
    assert Path("parts/samples.txt").read_bytes() == before
    assert main(["train", "resume=whole", "trainer.max_steps=32"]) == 0
    assert Path("whole/samples.txt").read_bytes().startswith(before)
    assert RunFolder(Path("whole")).samples(range(0, 33, 8)).keys() == {0, 8, 16, 24, 32}


def test_a_sample_with_the_mark_of_another_in_it_is_read_as_it_was_written(tmp_path):
    texts = {
        0: "--- step 8\n --- step 8\r\nThe",
        8: "\n  --- step 16",
        16: "--- step 9 --- step 24\n",
    }
    Path("samples.txt").write_bytes(
        "".join(entry(step, text) for step, text in texts.items()).encode()
    )
    assert RunFolder(Path()).samples(range(10**18)) == texts
    Path("samples.txt").write_bytes(
        b"--- step 0\nThe\n--- step 7\nlamp\n--- step 8\nThe quay\n"
    )  # of an earlier version
    assert RunFolder(Path()).samples({0, 8}) == {0: "The\n--- step 7\nlamp", 8: "The quay"}


@pytest.mark.parametrize("is_earlier", [False, True])
def test_samples_before_a_checkpoint_stay_when_the_prompt_is_another_one(
    train, monkeypatch, is_earlier
):
    if is_earlier:
        save = SampleGeneration.on_save_checkpoint

        def save_as_earlier(callback, trainer, module, checkpoint):
            save(callback, trainer, module, checkpoint)
            checkpoint["callbacks"]["SampleGeneration{'prompt': 'The lamp'}"] = {
                "bytes": checkpoint.pop("samples_bytes")
            }

        monkeypatch.setattr(SampleGeneration, "on_save_checkpoint", save_as_earlier)
    assert train("run", "trainer.max_steps=16") == 0
    with Path("run/samples.txt").open("a") as file:
        file.write("--- step 16\nwhat was sampled after the checkpoint\n")
    before = Path("run/samples.txt").read_text()
    assert (
        main(
            [
                "train",
                "resume=run",
                "trainer.max_steps=24",
                "callbacks.sample_generation.prompt=quay",
            ]
        )
        == 0
    )
    after = Path("run/samples.txt").read_text()
    kept = before.removesuffix("--- step 16\nwhat was sampled after the checkpoint\n")
    assert after.startswith(f"{kept}--- step 24; longest copy ")
    assert after.removeprefix(kept).partition("\n")[2].startswith("quay")


def test_two_callbacks_that_sample_do_not_cut_off_each_others(train):
    other = [
        "_target_=firstlight.training.callbacks.sample_generation.SampleGeneration",
        "prompt=The lamp",
    ]
    other += ["decoding=${callbacks.sample_generation.decoding}", "max_new_tokens=2"]
    both = [f"+callbacks.other.{setting}" for setting in other]
    assert train("whole", *both) == 0
    stop_and_resume(train, "parts", [13], *both)
    assert Path("parts/samples.txt").read_bytes() == Path("whole/samples.txt").read_bytes()


NAMES = ["a,b", 'a"b', "a\nb", "a\r\nb", "a\x85b", "a\u2028b", "a\x1cb", " a", "step"]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_rows_are_read_as_they_were_written_whatever_a_metric_is_called(tmp_path, name):
    for purge_step, steps in ((None, range(3)), (2, range(2, 5))):
        logger = CSVLogger(save_dir=str(tmp_path), purge_step=purge_step)
        for step in steps:
            logger.log_metrics({"tokens": step, name: 0.5}, step)
        with (tmp_path / "metrics.csv").open("a") as file:
            file.write("9,17")  # half a row
    rows = RunFolder(tmp_path).rows
    assert [(row["step"], row["tokens"]) for row in rows] == [
        (str(step), str(step)) for step in range(5)
    ]
    assert name == "step" or [row[name] for row in rows] == ["0.5"] * 5


@pytest.mark.long
def test_a_continued_run_remembers_what_it_was_continued_with(trained):
    trained("run", "trainer.max_steps=8")
    with pytest.raises(Crash):
        main(["train", "resume=run", "trainer.max_steps=24", "+callbacks.stop._target_=stop_at.StopAt",
              "+callbacks.stop.batch=12"])  # fmt: skip
    assert main(["train", "resume=run", "~callbacks.stop"]) == 0
    assert int(rows_of("run")[-1]["step"]) == 24


@pytest.mark.long
def test_a_run_that_has_not_begun_to_decay_can_be_trained_longer_as_if_begun_so(
    train, trained, capsys
):
    trained("whole", *STABLE)
    with pytest.raises(Crash):
        train("parts", *STABLE, *STOP, "trainer.max_steps=16", "callbacks.stop.batch=10")
    assert main(["train", "resume=parts", "~callbacks.stop", "trainer.max_steps=24"]) == 0
    assert "the learning rate goes from" not in capsys.readouterr().err
    assert_same_run("whole", "parts")


@pytest.mark.long
def test_another_length_under_a_schedule_is_said(train, capsys):
    assert train("run", *COSINE, "trainer.max_steps=8") == 0
    assert main(["train", "resume=run", "trainer.max_steps=24"]) == 0
    assert "the learning-rate schedule has changed: the rate goes from" in capsys.readouterr().err


@pytest.mark.parametrize(
    "override",
    [
        "trainer.accumulate_grad_batches=2",
        "trainer.precision=bf16-mixed",
        "data.batch_size=4",
        "seed=1",
    ],
)
def test_what_would_change_the_past_is_refused(trained, capsys, override):
    trained("run", "trainer.max_steps=2")
    assert main(["train", "resume=run", "trainer.max_steps=4", override]) == 2
    assert "cannot be changed when resuming; only trainer.max_*" in capsys.readouterr().err


def test_what_was_written_after_the_last_checkpoint_is_written_once(train, trained):
    trained("whole")
    stop_and_resume_after_a_torn_write(train)
    assert_same_run("whole", "parts")


def stop_and_resume_after_a_torn_write(train):
    with pytest.raises(Crash):
        train("parts", "+callbacks.stop._target_=stop_at.StopAt", "+callbacks.stop.batch=13")
    with Path("parts/samples.txt").open("a") as samples:
        samples.write("--- step 16\nThe lamp was")
    with Path("parts/metrics.csv").open("a") as rows:
        rows.write("14,17")
    assert main(["train", "resume=parts", "~callbacks.stop"]) == 0


def test_every_checkpoint_is_plain_data_without_an_allow_list(trained):
    trained("run", "trainer.max_steps=2")
    torch.load("run/checkpoints/step_00000002/training_state.pt", weights_only=True)


def test_other_data_is_refused_when_a_run_goes_on(train, capsys):
    with pytest.raises(Crash):
        train("run", "+callbacks.stop._target_=stop_at.StopAt", "+callbacks.stop.batch=10")
    Path("text.txt").write_text(
        "Another text altogether, of much the same length as the first. " * 15
    )
    assert main(["train", "resume=run", "~callbacks.stop"]) == 2
    assert "this is not the text that" in capsys.readouterr().err


def test_auto_begins_a_run_and_the_same_command_goes_on_with_it(
    train, trained, capsys, monkeypatch
):
    trained("whole")
    with pytest.raises(Crash):
        train("parts", "resume=auto", *STOP)
    monkeypatch.setattr(StopAt, "on_train_batch_start", lambda *_: None)
    assert train("parts", "resume=auto", *STOP) == 0
    assert_same_run("whole", "parts")
    assert train("parts", "resume=auto", *STOP) == 0
    assert "is finished (24 of 24 steps)" in capsys.readouterr().err
    assert not Path("parts_2").exists()


def test_a_run_cannot_go_on_to_a_step_it_has_passed(train, capsys):
    assert train("run", *COSINE, "trainer.max_steps=8") == 0
    assert main(["train", "resume=run", "trainer.max_steps=2"]) == 2  # less than the warm-up, too
    assert "has made 8 steps, more than the 2 that it is to make" in capsys.readouterr().err


def test_auto_keeps_the_past_as_any_resume_does(train, trained, capsys):
    trained("run", "trainer.max_steps=2")
    assert train("run", "trainer.max_steps=4", "resume=auto", "optimizer.lr=1") == 2
    assert "optimizer.lr: cannot be changed when resuming" in capsys.readouterr().err


def test_auto_goes_on_with_a_run_that_was_moved(trained, train):
    trained("run", "trainer.max_steps=2")
    Path("run").rename("moved")
    assert train("moved", "trainer.max_steps=4", "resume=auto") == 0
    assert [row["step"] for row in rows_of("moved")][-1] == "4"


def test_the_value_that_a_run_has_already_changes_nothing(trained, capsys):
    trained("run", "trainer.max_steps=2")
    assert (
        main(["train", "resume=run", "trainer.max_steps=2", "data.batch_size=8", "seed=123"]) == 2
    )
    assert "is finished (2 of 2 steps)" in capsys.readouterr().err


def test_a_slurm_job_that_runs_again_goes_on_with_the_run_it_began(train, trained, monkeypatch):
    command = ["train", *TINY, "name=lamps", *STOP]
    trained("whole")
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")  # not for Lightning, which would look for srun
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    with pytest.raises(Crash):
        main(command)
    (run,) = Path("outputs/lamps").iterdir()
    monkeypatch.setenv("SLURM_JOB_ID", "43")
    assert train("outputs/lamps/of_another_job", "trainer.max_steps=2") == 0
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(StopAt, "on_train_batch_start", lambda *_: None)
    assert main(command) == 0
    assert_same_run("whole", str(run))
    assert len(list(Path("outputs/lamps").iterdir())) == 2


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again_in_its_folder(
    train, trained, capsys
):
    trained("whole")
    with pytest.raises(Crash):
        train("parts", "+callbacks.stop._target_=stop_at.StopAt", "+callbacks.stop.batch=5")
    assert main(["train", "resume=parts", "~callbacks.stop"]) == 0
    assert "no checkpoint was saved; restarting from step 0" in capsys.readouterr().err
    assert_same_run("whole", "parts")
    assert [step for step, _ in curves_of(Path("parts"))["train/batch_loss"]] == list(range(1, 25))


def test_auto_needs_a_folder_that_stays_the_same(train, capsys):
    assert main(["train", *TINY, "resume=auto"]) == 2
    assert "give output_dir=" in capsys.readouterr().err
    Path("taken").mkdir()
    Path("taken/slurm.out").touch()
    assert train("taken", "resume=auto") == 2
    assert "needs a folder of its own" in capsys.readouterr().err


@pytest.mark.long
def test_lightnings_own_early_stopping_is_resumed_as_ours_is(train, capsys):
    lightnings = "{_target_:lightning.pytorch.callbacks.EarlyStopping,monitor:val/loss,min_delta:9,patience:1}"
    assert train("run", f"+callbacks.es={lightnings}") == 0
    assert rows_of("run")[-1]["step"] == "8"
    assert main(["train", "resume=run"]) == 2
    assert "was stopped early" in capsys.readouterr().err
    assert main(["train", "resume=run", "callbacks.es.patience=2"]) == 0
    assert rows_of("run")[-1]["step"] == "16"


def test_what_every_callback_has_sampled_is_shown(train, capsys):
    other = [
        "_target_=firstlight.training.callbacks.sample_generation.SampleGeneration",
        "prompt=quay",
    ]
    other += ["decoding=${callbacks.sample_generation.decoding}", "max_new_tokens=2"]
    assert (
        train("run", "trainer.max_steps=8", *(f"+callbacks.other.{setting}" for setting in other))
        == 0
    )
    out = capsys.readouterr().out
    assert out.count("\nThe lamp") == 2 and out.count("\nquay") == 2


def test_the_weights_that_a_run_starts_from_are_not_in_memory_twice(train, trained):
    trained("whole")
    assert (
        train(
            "run",
            "init_from=whole",
            "trainer.max_steps=8",
            "+callbacks.count._target_=stop_at.CountCheckpoints",
        )
        == 0
    )


def test_the_weights_to_resume_from_are_not_kept_beside_the_model(trained):
    trained("run")
    assert (
        main(
            [
                *("train", "resume=run", "trainer.max_steps=32"),
                "+callbacks.count._target_=stop_at.CountCheckpoints",
            ]
        )
        == 0
    )


def test_early_stopping_goes_on_with_more_patience(train):
    stopping = ["callbacks=[default,early_stopping]", "callbacks.early_stopping.min_delta=9"]
    assert train("run", *stopping, "callbacks.early_stopping.patience=1") == 0
    assert int(rows_of("run")[-1]["step"]) == 8
    assert main(["train", "resume=run", "callbacks.early_stopping.patience=2"]) == 0
    assert int(rows_of("run")[-1]["step"]) == 16


@pytest.mark.long
def test_a_run_that_is_no_longer_at_its_end_has_no_best_weights_yet(trained):
    trained("run", "trainer.max_steps=8")
    with pytest.raises(Crash):
        main(["train", "resume=run", "trainer.max_steps=24", *STOP])
    assert not Path("run/model.safetensors").exists()
    assert main(["train", "resume=run", "~callbacks.stop"]) == 0
    assert Path("run/model.safetensors").exists()


def test_a_run_without_checkpoints_keeps_its_last_weights_and_does_not_begin_again(train, capsys):
    assert train("run", "~callbacks.checkpoint", "trainer.max_steps=8") == 0
    assert Path("run/model.safetensors").exists()
    rows = rows_of("run")
    assert main(["train", "resume=run"]) == 2
    assert "its checkpoints are gone" in capsys.readouterr().err
    assert rows_of("run") == rows
