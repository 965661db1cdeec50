"""Checkpoints on disk: whole or not at all, every flipped bit noticed, the right ones kept."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from tiny_run import rows_of, same_weights

from firstlight.checkpoints import limits, manifest
from firstlight.checkpoints.find import best_of, checkpoints_of
from firstlight.checkpoints.folder_io import CheckpointFolderIO
from firstlight.checkpoints.manifest import (
    MANIFEST,
    TRAINING_STATE,
    WEIGHTS,
    Manifest,
    StoredFile,
    read_manifest,
)
from firstlight.cli import main
from firstlight.commands.description import check_checkpoint
from firstlight.errors import ConfigError
from firstlight.sources import load_checkpoint
from firstlight.training.callbacks.checkpoint import Checkpoint
from firstlight.training.resume import find_resumed

FILES = (MANIFEST, WEIGHTS, TRAINING_STATE)


@pytest.fixture
def run(trained):
    """A run of 16 steps with its two newest checkpoints."""
    trained("run", "trainer.max_steps=16")
    return Path("run")


def steps_of(folder):
    return [int(path.name.removeprefix("step_")) for path in checkpoints_of(Path(folder))]


def flip(file, bit):
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_noticed(run, name):
    checkpoint = checkpoints_of(run)[-1]
    file, draw = checkpoint / name, random.Random(0)
    whole = file.read_bytes()
    check_checkpoint(checkpoint)
    for bit in (draw.randrange(len(whole) * 8) for _ in range(300)):
        flip(file, bit)
        with pytest.raises(ConfigError):
            check_checkpoint(checkpoint)
        file.write_bytes(whole)


def test_a_resume_reads_every_file_of_its_checkpoint_once(run, monkeypatch):
    newest, read = checkpoints_of(run)[-1], []

    def recording(function):
        def recorded(path, *args, **kwargs):
            if Path(path).parent == newest:
                read.append(Path(path).name)
            return function(path, *args, **kwargs)

        return recorded

    monkeypatch.setattr(manifest, "read_limited", recording(manifest.read_limited))
    monkeypatch.setattr(limits, "safe_open", recording(limits.safe_open))
    monkeypatch.setattr(torch, "load", recording(torch.load))
    assert main(["train", "resume=run", "trainer.max_steps=24"]) == 0
    assert read[:3] == list(FILES)
    assert set(read[3:]) <= {MANIFEST}  # after every save: which checkpoints are kept


def test_every_flipped_bit_of_what_the_checksum_of_the_weights_does_not_cover_is_noticed(run):
    checkpoint = checkpoints_of(run)[-1]
    file, whole = checkpoint / WEIGHTS, (checkpoint / WEIGHTS).read_bytes()
    start = whole.index(b'"format":"pt"')
    for bit in range(start * 8, (start + len(b'"format":"pt"')) * 8):
        flip(file, bit)
        with pytest.raises(ConfigError):
            check_checkpoint(checkpoint)
        file.write_bytes(whole)


@pytest.mark.parametrize("name", FILES)
def test_every_cut_is_noticed(run, name):
    checkpoint = checkpoints_of(run)[-1]
    whole = (checkpoint / name).read_bytes()
    for part in range(64):
        (checkpoint / name).write_bytes(whole[: part * len(whole) // 64])
        with pytest.raises(ConfigError):
            check_checkpoint(checkpoint)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    [
        "flip",
        pytest.param("cut", marks=pytest.mark.long),
        pytest.param("gone", marks=pytest.mark.long),
    ],
)
def test_a_damaged_newest_checkpoint_is_passed_over_and_named(trained, run, capsys, name, damage):
    trained("whole")
    newest = checkpoints_of(run)[-1]
    if damage == "flip":
        flip(newest / name, 5000)
    elif damage == "cut":
        (newest / name).write_bytes((newest / name).read_bytes()[:100])
    else:
        (newest / name).unlink()
    capsys.readouterr()
    assert main(["train", "resume=run", "trainer.max_steps=24"]) == 0
    said = capsys.readouterr().err
    assert str(newest) in said and "resuming from step 8" in said
    assert rows_of("run") == rows_of("whole")
    assert same_weights("run", "whole")
    check_checkpoint(newest)  # it was saved again on the way


def test_two_checkpoints_that_were_mixed_are_noticed(run):
    older, newest = checkpoints_of(run)
    shutil.copy(older / WEIGHTS, newest / WEIGHTS)
    with pytest.raises(ConfigError, match="that of another checkpoint"):
        load_checkpoint(newest)


def test_everything_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """After a power cut a name without its content would be a lost checkpoint."""
    done, fsync, rename = [], os.fsync, os.rename

    def record_fsync(descriptor):
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def record_rename(self, target):
        done.append(f"rename to {Path(target).name}")
        rename(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "rename", record_rename)
    described = {"tokens": 1, "monitor": "val/loss", "metrics": {}, "fingerprint": {}}
    record = {"config": {}, "tokenizer": None, "manifest": described}
    (tmp_path / "checkpoints").mkdir()
    target = tmp_path / "checkpoints" / "step_00000001"
    state = {"state_dict": {"model.w": torch.zeros(3)}, "global_step": 1, "firstlight": record}
    CheckpointFolderIO().save_checkpoint(state, target)
    assert done == [
        WEIGHTS, TRAINING_STATE, MANIFEST, ".step_00000001.tmp", "rename to step_00000001", "checkpoints",
    ]  # fmt: skip


def test_a_save_needs_no_folder_for_temporary_files(train, monkeypatch):
    """Lightning's own goes through $TMPDIR, and over it to another file system."""
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setattr("tempfile.tempdir", None)
    assert train("run", "trainer.max_steps=2") == 0
    assert steps_of("run") == [2]


def test_what_a_killed_save_has_left_is_removed(train, run):
    (run / "checkpoints" / ".step_00000020.tmp").mkdir()
    (run / "checkpoints" / ".step_00000004.old").mkdir()
    assert main(["train", "resume=run", "trainer.max_steps=24"]) == 0
    assert not list(run.glob("checkpoints/.*"))


def fake(run, step, score=None, tokens=0, size=10):
    folder = run / "checkpoints" / f"step_{step:08}"
    folder.mkdir(parents=True)
    for name in (WEIGHTS, TRAINING_STATE):
        (folder / name).write_bytes(b"x" * size)
    stored = {name: StoredFile(bytes=size, sha256="0" * 64) for name in (WEIGHTS, TRAINING_STATE)}
    metrics = {} if score is None else {"val/loss": score}
    manifest = Manifest(
        format=2,
        step=step,
        tokens=tokens,
        monitor="val/loss",
        metrics=metrics,
        fingerprint={},
        files=stored,
    )
    (folder / MANIFEST).write_bytes(manifest.to_json())


def kept_of(run, rules, scores, **changes):
    """Steps that are kept after every save in turn, and which of them can be gone on from."""
    for step, score in enumerate(scores, 1):
        fake(run, step, score, tokens=step * 10, **changes)
        rules.remove_others(run, step)
    whole = [path for path in checkpoints_of(run) if (path / TRAINING_STATE).is_file()]
    return steps_of(run), [int(path.name[5:]) for path in whole]


@pytest.mark.parametrize(
    ("rules", "scores", "kept", "whole"),
    [
        (Checkpoint(), [3.0, 1.0, 2.0, 2.0, 2.0], [2, 4, 5], [4, 5]),
        (Checkpoint(), [3.0, None, 2.0, None, None], [3, 4, 5], [4, 5]),
        (Checkpoint(), [1.0, 1.0, 1.0, 1.0], [1, 3, 4], [3, 4]),
        (Checkpoint(), [5.0, 4.0, 3.0, 2.0, 1.0], [4, 5], [4, 5]),
        (Checkpoint(keep_last=1, keep_best=0), [1.0, 2.0, 3.0], [3], [3]),
        (Checkpoint(keep_last=1, keep_best=2), [1.0, 3.0, 2.0, 4.0, 5.0], [1, 3, 5], [5]),
        (Checkpoint(keep_every_n_tokens=25), [None] * 8, [3, 5, 7, 8], [7, 8]),
    ],
    ids=lambda value: "" if isinstance(value, list) else str(vars(value)),
)
def test_the_rules_decide_what_is_kept(tmp_path, rules, scores, kept, whole):
    assert kept_of(tmp_path, rules, scores) == (kept, whole)


def test_a_disk_budget_takes_the_spaced_ones_first_and_never_the_best_or_the_newest(tmp_path):
    rules = Checkpoint(keep_best=2, keep_every_n_tokens=20, max_gigabytes=6e-6)
    assert kept_of(tmp_path, rules, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], size=1000) == (
        [1, 7, 8],
        [7, 8],
    )


def test_a_budget_that_cannot_be_kept_is_refused(train, capsys):
    assert train("run", "callbacks.checkpoint.max_gigabytes=1e-6") == 2
    assert "max_gigabytes (1e-06) must be at least" in capsys.readouterr().err
    assert not Path("run").exists()


def test_the_best_is_the_lowest_and_the_first_of_equals(tmp_path):
    for step, score in enumerate([3.0, 1.0, 1.0, None], 1):
        fake(tmp_path, step, score)
    assert best_of(checkpoints_of(tmp_path)).name == "step_00000002"


def test_info_tells_what_is_inside_without_its_tensors(run, capsys, monkeypatch):
    monkeypatch.setattr("safetensors.torch.load_file", None)
    monkeypatch.setattr(torch, "load", None)
    capsys.readouterr()
    assert main(["info", "checkpoint=run", "format=json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["step"] for row in told["checkpoints"]] == [8, 16]
    best = told["best"]
    manifest = read_manifest(checkpoints_of(run)[-1])
    assert (best["step"], best["metrics"]) == (16, manifest.metrics)
    assert best["config"]["model"]["emb_dim"] == 16
    assert best["parameters"] == sum(
        w.numel() for w in load_checkpoint(checkpoints_of(run)[-1]).state_dict.values()
    )


def test_info_checks_every_byte_on_request(run, capsys):
    assert main(["info", "checkpoint=run", "check=true"]) == 0
    flip(checkpoints_of(run)[0] / TRAINING_STATE, 999)
    assert main(["info", "checkpoint=run"]) == 0
    assert main(["info", "checkpoint=run", "check=true"]) == 2
    assert "does not have the checksum" in capsys.readouterr().err


def test_the_newest_whole_checkpoint_is_found(run):
    assert find_resumed(run).step == 16


def test_a_damaged_newest_checkpoint_takes_no_place_of_a_whole_one(train, run):
    flip(checkpoints_of(run)[-1] / TRAINING_STATE, 5000)
    rules = ["callbacks.checkpoint.keep_last=1", "callbacks.checkpoint.keep_best=0"]
    every = "callbacks.checkpoint.every_n_steps=3"
    assert main(["train", "resume=run", "trainer.max_steps=10", every, *rules]) == 0
    assert steps_of("run") == [10]
    assert find_resumed(run).step == 10


def test_the_best_is_told_by_the_metric_of_today(tmp_path):
    for step, (loss, perplexity) in enumerate([(1.0, 9.0), (2.0, 3.0)], 1):
        fake(tmp_path, step)
        folder = checkpoints_of(tmp_path)[-1]
        metrics = {"val/loss": loss, "val/perplexity": perplexity}
        monitored = read_manifest(folder).model_copy(
            update={"monitor": "val/perplexity", "metrics": metrics}
        )
        (folder / MANIFEST).write_bytes(monitored.to_json())
    assert best_of(checkpoints_of(tmp_path)).name == "step_00000002"
