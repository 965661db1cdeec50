"""A sweep that is killed at any moment, and resumed, is the sweep that was never killed."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "firstlight"]
SWEEP = [
    *(
        "model.emb_dim=16",
        "model.n_layers=1",
        "model.n_heads=2",
        "model.context_length=16",
        "tokenizer=bytes",
    ),
    *(
        "data.batch_size=4",
        "data.eval_batches=2",
        "trainer.max_steps=300",
        "trainer.eval_every_n_steps=50",
    ),
    *("scheduler.warmup_steps=2", "callbacks=[checkpoint]", "logger=[csv]", "output_dir=sweep"),
    *("optimizer.lr=1e-3,3e-3,1e-2", "seeds=2"),
]


def start(place: Path, *words: str) -> subprocess.Popen:
    with (place / "log.txt").open("a") as log:
        return subprocess.Popen([*COMMAND, *words], cwd=place, stdout=log, stderr=log)


def status(place: Path) -> dict:
    words = [*COMMAND, "sweep", "status", "sweep", "format=json"]
    return json.loads(
        subprocess.run(words, cwd=place, capture_output=True, text=True, check=True).stdout
    )


def results(place: Path) -> list[tuple]:
    return [
        (t["number"], t["state"], t["overrides"], t["seed"], t["metrics"]["val/loss"])
        for t in status(place)["trials"]
    ]


def kill_and_resume(place: Path, moments: list[float]) -> int:
    """How many kills hit the sweep while it worked."""
    process, n_kills = start(place, "train", "-m", *SWEEP), 0
    for seconds in moments:
        try:
            process.wait(timeout=seconds)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)  # its trial is left alone
            process.wait()
            n_kills += 1
        has_begun = (place / "sweep" / "sweep.yaml").exists()
        process = start(
            place, *(["sweep", "resume", "sweep"] if has_begun else ["train", "-m", *SWEEP])
        )
    assert process.wait(timeout=300) == 0, (place / "log.txt").read_text()
    return n_kills


@pytest.mark.slow
def test_a_sweep_of_six_trials_that_is_killed_five_times_ends_with_six_rows_and_the_same_best(
    tmp_path,
):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    undisturbed.mkdir(), killed.mkdir()
    assert start(undisturbed, "train", "-m", *SWEEP).wait(timeout=300) == 0
    seed = time.time_ns() % 2**32
    rng = random.Random(seed)
    n_kills = kill_and_resume(killed, [rng.uniform(3, 16) for _ in range(5)])
    print(f"seed {seed}: {n_kills} kills")
    assert n_kills == 5
    assert results(killed) == results(undisturbed)
    assert status(killed)["best"] == status(undisturbed)["best"]
    assert len({trial["folder"] for trial in status(killed)["trials"]}) == 6
