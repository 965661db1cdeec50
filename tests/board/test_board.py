"""`firstlight board`: TensorBoard without smoothing, in the colours of what was swept."""

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from torch.utils.tensorboard import SummaryWriter

from firstlight.board.address import address, color_pattern
from firstlight.cli import main
from firstlight.sweep.record import folder_name
from firstlight.training.loggers.shown_name import shown_name

# Of TensorBoard's own, at its import.
pytestmark = pytest.mark.filterwarnings("ignore:html5lib's sanitizer:DeprecationWarning")


def color_of(color: str, run: str) -> tuple[str, ...] | None:
    pattern = color_pattern(color)
    assert pattern is not None
    found = re.search(pattern, run)
    return None if found is None else found.groups()


def trial(number: int, lr: float, seed: int) -> str:
    return folder_name(number, ["model=gpt2_small", f"optimizer.lr={lr}"], seed, [1, 2])


def test_seeds_of_a_setting_have_one_colour_and_settings_have_their_own():
    first = color_of("auto", f"lrs/{trial(0, 1e-3, 1)}")
    assert first == ("model-gpt2_small_optimizer.lr-0.001",)
    assert color_of("auto", f"lrs/{trial(1, 1e-3, 2)}") == first
    assert color_of("auto", trial(2, 1e-2, 1)) != first
    assert color_of("auto", "quickstart/2026-11-25_13-02-11") == ("2026-11-25_13-02-11",)


def test_one_key_decides_the_colour():
    for key, value in [("model", "gpt2_small"), ("optimizer.lr", "0.001"), ("seed", "2")]:
        assert color_of(key, f"lrs/{trial(0, 1e-3, 2)}") == (value,)
    assert color_of("lr", trial(0, 1e-3, 2)) is None  # the whole key


def test_the_address_sets_smoothing_and_colours():
    parts = urlsplit(address("http://localhost:6006/", color="auto", smoothing=0))
    assert parts.fragment == "timeseries" and parts.path == "/"
    assert parse_qs(parts.query) == {
        "smoothing": ["0"],
        "runColorGroup": [f"regex:{color_pattern('auto')}"],
    }
    assert "runColorGroup=run#" in address("http://localhost:6006", color="run", smoothing=0.5)


@pytest.mark.parametrize(
    ("folder", "is_trial", "name"),
    [
        ("outputs/lrs/2026-11-25_13-02-11_sweep/3_optimizer.lr-0.001_seed-2", True,
         "lr-0.001 11-25 13:02:11 lrs 9d5f0a"),
        ("out/deep/3_model.n_layers-2_optimizer.lr-1e-3", True, "n_layers-2_lr-1e-3 deep 9d5f0a"),
        ("out/seeds/1_seed-124", True, "seeds 9d5f0a"),
        ("outputs/quickstart/2026-11-25_13-02-11", False, "11-25 13:02:11 quickstart"),
        ("outputs/mine", False, ""),
        ("outputs/3_mine", False, ""),
    ],
)  # fmt: skip
def test_names_in_the_table_of_runs(folder, is_trial, name):
    assert shown_name(Path(folder), {"seeds": 2}, is_trial=is_trial) == name


def test_different_settings_never_share_a_row():
    # Folders of trials, whose names are cut: the seed and the last setting are not in them.
    long = [f"callbacks.some_callback.setting_{number}=1" for number in range(4)]
    names: list[str] = []
    for number, (lr, seed) in enumerate([(1e-3, 1), (1e-3, 2), (1e-2, 1)]):
        folder = Path("sweep", folder_name(number, [*long, f"optimizer.lr={lr}"], seed, [1, 2]))
        names.append(shown_name(folder, {"optimizer.lr": lr}, is_trial=True))
    assert names[0] == names[1] != names[2]


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    for number in (0, 1):
        with SummaryWriter(str(folder / trial(number, 1e-3, number + 1))) as writer:
            writer.add_scalar("val/loss", 4.0, 1)
    return folder


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["folder=nope"], "folder (nope): no such folder"),
        (["color=optimizer.eps"], "color (optimizer.eps): auto, run, or a key that was swept"),
        (
            ["host=no.such.host.invalid"],
            "host (no.such.host.invalid), port (None): cannot listen there",
        ),
        (["smoothing=1"], "smoothing"),
        (["port=65536"], "port"),
        (["host=203.0.113.7", "port=0"], "host (203.0.113.7), port (0): cannot listen there"),
    ],
)
def test_a_mistake_is_one_line(runs, words, problem, capsys):
    assert main(["board", f"folder={runs}", *words]) == 2
    told = capsys.readouterr().err
    assert problem in told and len(told.splitlines()) == 1


@pytest.fixture
def served(runs):
    """A board in a process of its own, and the first line that it prints."""
    words = [sys.executable, "-m", "firstlight", "board", f"folder={runs}", "port=0"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline()
        process.kill()  # nothing happens if it has ended


def test_it_serves_until_it_is_interrupted(served):
    process, line = served
    found = re.fullmatch(r"TensorBoard is at (http\S+)\n", line)
    assert found is not None, line
    base = found[1].partition("/?")[0]
    names: list[str] = []
    for _ in range(600):  # it reads in a thread of its own
        with urllib.request.urlopen(f"{base}/data/runs") as answer:
            names = json.load(answer)
        if len(names) == 2:
            break
        time.sleep(0.1)
    assert names == [trial(0, 1e-3, 1), trial(1, 1e-3, 2)]
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0
    assert process.stderr.read() == ""
