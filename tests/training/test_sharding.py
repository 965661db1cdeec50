"""`trainer.strategy=fsdp2`: several processes have a part of the model each, and train what one trains."""

import shutil
from pathlib import Path

import pytest
from test_devices import assert_same_curve, callback, run
from tiny_run import TINY, rows_of, same_weights

from firstlight.checkpoints.find import checkpoints_of
from firstlight.checkpoints.manifest import read_manifest
from firstlight.checkpoints.shards import check_shards
from firstlight.cli import main
from firstlight.errors import DamagedError

pytestmark = pytest.mark.cpu

SAME = ("model.n_layers=2", "model.drop_rate=0", "callbacks.checkpoint.every_n_steps=4")
SHARDED = ("trainer.devices=2", "trainer.strategy=fsdp2")


@pytest.fixture(scope="session")
def sharded(tmp_path_factory):
    """A run of two processes up to step 10, trained once; a function copies its folder."""
    place = tmp_path_factory.mktemp("sharded")
    text = "The lamp was lit, and the lamp went out; nobody on the quay had seen who did it. " * 12
    (place / "text.txt").write_text(text)
    done = run(*TINY, *SAME, *SHARDED, "trainer.max_steps=10", "output_dir=run", cwd=place)
    assert done.returncode == 0, done.stderr

    def copy(folder):
        shutil.copytree(place / "run", folder)

    return copy


def test_two_processes_with_a_part_each_train_what_one_trains_and_one_resumes(train, sharded):
    sharded("run")
    newest = checkpoints_of(Path("run"))[-1]
    shards = sorted(path.name for path in (newest / "optimizer").iterdir())
    assert [name[:11] for name in shards] == ["shard-00001", "shard-00002"]
    names = {path.name for path in newest.iterdir()}
    assert names == {"checkpoint.json", "model.safetensors", "optimizer", "training_state.pt"}
    assert main(["info", "checkpoint=run", "check=true"]) == 0
    longer = ["trainer.devices=1", "trainer.max_steps=24"]
    assert main(["train", "resume=run", *longer]) == 0
    assert train("one", *SAME) == 0
    assert_same_curve("run", "one")
    assert main(["evaluate", "format=json", "checkpoint=run", "accelerator=cpu"]) == 0


def test_a_damaged_part_is_noticed_and_the_checkpoint_before_is_resumed(sharded, capsys):
    sharded("run")
    *_, before, newest = checkpoints_of(Path("run"))
    shard = newest / "optimizer" / "shard-00002-model-00001-of-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    assert main(["train", "resume=run", "trainer.devices=1", "trainer.max_steps=12"]) == 0
    said = capsys.readouterr().err
    assert f"{shard}: damaged" in said and f"resuming from step {int(before.name[5:])}" in said


def test_a_part_that_cannot_be_read_is_damage(sharded):
    sharded("run")
    newest = checkpoints_of(Path("run"))[-1]
    shard = newest / "optimizer" / "shard-00002-model-00001-of-00001.safetensors"
    shard.unlink()
    shard.mkdir()
    with pytest.raises(DamagedError, match=r"00001\.safetensors: cannot be read"):
        check_shards(newest, read_manifest(newest))


def test_activation_checkpointing_changes_no_number(train, trained):
    trained("plain")
    assert train("again", "trainer.activation_checkpointing=true") == 0
    assert rows_of("again") == rows_of("plain") and same_weights("again", "plain")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["trainer.micro_batch_size=auto"], "micro_batch_size=auto measures whole models"),
        (["trainer.precision=16-true"], "take bf16-mixed"),
        (["~callbacks.checkpoint"], "needs callbacks.checkpoint"),
        (["optimizer=muon"], "optimizer: its update needs a whole matrix"),
        (["trainer.devices=9"], r"must be at most data.batch_size (8)"),
    ],
)
def test_what_does_not_work_in_parts_is_one_line(train, capsys, words, reason):
    assert train("run", *SHARDED, *words) == 2
    said = capsys.readouterr().err
    assert reason in said and said.count("\n") == 1
    assert not Path("run").exists()


@pytest.mark.long
def test_a_sharded_run_may_change_its_devices_and_its_strategy(train, sharded):
    """To one process, to three with unequal shares in parts, to two with copies, to four."""
    sharded("run")
    assert main(["train", "resume=run", "trainer.devices=1", "trainer.max_steps=12"]) == 0
    for words in (
        ["trainer.devices=3", "trainer.micro_batch_size=2", "trainer.max_steps=16"],
        ["trainer.devices=2", "trainer.strategy=ddp", "trainer.max_steps=18"],
        ["trainer.devices=4", "trainer.strategy=fsdp2", "trainer.max_steps=24"],
    ):
        done = run("resume=run", *words)
        assert done.returncode == 0, done.stderr
    assert train("one", *SAME) == 0
    assert_same_curve("run", "one")


@pytest.mark.long
def test_a_sharded_save_that_is_killed_leaves_the_checkpoint_before_it(sharded):
    sharded("run")
    sharded("whole")
    assert run("resume=whole", "trainer.max_steps=14").returncode == 0
    ended = run("resume=run", "trainer.max_steps=14", *callback("KillFurtherInSave", step=12))
    assert ended.returncode == 1 and "firstlight: rank 1 (process " in ended.stderr
    assert checkpoints_of(Path("run"))[-1].name == "step_00000010"
    resumed = run("resume=run", "~callbacks.test")
    assert resumed.returncode == 0, resumed.stderr
    assert rows_of("run") == rows_of("whole") and same_weights("run", "whole")


@pytest.mark.long
@pytest.mark.parametrize("passes", [0, 1], ids=["by torch", "by us"])
def test_a_part_that_cannot_be_written_ends_all_with_its_reason(sharded, passes):
    sharded("run")
    full = callback("FailFurtherInSave", step=12, passes=passes)
    ended = run("resume=run", "trainer.max_steps=14", "trainer.timeout=30", *full)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "the checkpoint of step 12 cannot be written: rank 1: No space left" in ended.stderr
    assert sorted(Path("run/checkpoints").iterdir()) == checkpoints_of(Path("run"))
    assert not list(Path("run", "checkpoints").glob(".*"))
