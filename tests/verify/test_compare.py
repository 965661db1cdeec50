"""Two runs are compared by all they left behind: each planted difference is found and named."""

import json
import math
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.tensorboard import SummaryWriter

from firstlight.verify.differences import _values, compare_runs


def edit(path: str, old: str, new: str, count: int = 1):
    """A change of a text file."""

    def change(run: Path) -> None:
        file = run / path
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new, count), encoding="utf-8", newline="")

    return change


def edit_rows(change):
    """A change of the lines of metrics.csv."""

    def edited(run: Path) -> None:
        file = run / "metrics.csv"
        lines = file.read_text(encoding="utf-8").splitlines()
        change(lines)
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    return edited


def edit_cell(lines):
    column, cells = lines[0].split(",").index("train/batch_loss"), lines[4].split(",")
    cells[column] = repr(math.nextafter(float(cells[column]), 9.0))
    lines[4] = ",".join(cells)


def edit_weight(path):
    """The last bit of one number."""

    def change(run: Path) -> None:
        with safe_open(run / path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tensors["final_norm.bias"].view(torch.int32)[3] ^= 1
        save_file(tensors, run / path, metadata)

    return change


def edit_moment(run: Path) -> None:
    file = run / "checkpoints" / "step_00000006" / "training_state.pt"
    state = torch.load(file, weights_only=True)
    state["optimizer_states"][0]["state"][0]["exp_avg"].view(torch.int32).view(-1)[0] ^= 1
    torch.save(state, file)


def remove_mark(run: Path) -> None:
    file = run / "samples.txt"
    text, n_marks = re.subn("--- step 6;[^\n]*\n", "", file.read_text(encoding="utf-8"))
    assert n_marks == 1
    file.write_text(text, encoding="utf-8", newline="")


def add_point(run: Path) -> None:
    with SummaryWriter(str(run)) as writer:
        writer.add_scalar("train/batch_loss", 1.0, 3)


def remove_curves(run: Path) -> None:
    for file in run.glob("events*"):
        file.unlink()


def edit_manifest(run: Path) -> None:
    file = run / "checkpoints" / "step_00000006" / "checkpoint.json"
    document = json.loads(file.read_text())
    document["tokens"] += 1
    file.write_text(json.dumps(document))


def test_a_copy_is_equal_and_all_of_it_was_compared(finished, copied):
    result = compare_runs(finished, copied())
    assert result.is_same, result.differences
    assert result.compared["rows"] == 7 and result.compared["lines of samples"] >= 6
    assert result.compared["points of curves"] > 60
    assert result.compared["tensors"] > 2 * (
        18 + 3 * 18
    )  # weights, two moments and a step of two checkpoints
    assert str(result).endswith("tensors equal")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(
            edit_rows(edit_cell),
            r"metrics.csv: step 3: train/batch_loss: '5\.\d+' and '5\.\d+'",
            id="a figure",
        ),
        pytest.param(
            edit_rows(lambda rows: rows.pop(3)),
            "metrics.csv: the second run has no step 2",
            id="no row",
        ),
        pytest.param(
            edit_rows(lambda rows: rows.append(rows[3])),
            "metrics.csv: step 2 is there twice",
            id="twice",
        ),
        pytest.param(
            edit("metrics.csv", "val/loss", "val/lost"),
            "step 0: .* has no val/los[st]",
            id="a column",
        ),
        pytest.param(
            edit("samples.txt", "lamp", "damp"), "samples.txt: line 2: .*lamp.*damp", id="a sample"
        ),
        pytest.param(remove_mark, "samples.txt: line 5: ", id="no sample"),
        pytest.param(
            edit_weight("checkpoints/step_00000006/model.safetensors"),
            r"step_00000006/model.safetensors: tensors: final_norm.bias: 1 of 16 numbers, the first"
            r" \S+ and \S+",
            id="a weight of the newest",
        ),
        pytest.param(
            edit_weight("model.safetensors"),
            "^model.safetensors: tensors: final_norm.bias",
            id="of the best",
        ),
        pytest.param(
            edit_moment,
            "training_state.pt: optimizer_states: 0: state: 0: exp_avg: 1 of",
            id="a moment",
        ),
        pytest.param(edit_manifest, "checkpoint.json: tokens: 768 and 769", id="tokens"),
        pytest.param(
            lambda run: (run / "model.safetensors").unlink(),
            "the second run has no model.safetensors",
            id="a file",
        ),
        pytest.param(
            lambda run: (run / "samples.tmp").touch(),
            "the first run has no samples.tmp",
            id="a file left over",
        ),
        pytest.param(
            add_point, r"tensorboard: train/batch_loss: step 3 is there twice", id="a point twice"
        ),
        pytest.param(
            remove_curves, "tensorboard: the second run has no train/batch_loss", id="no curves"
        ),
    ],
)
def test_a_difference_is_found_and_named(finished, copied, change, said):
    copy = copied()
    change(copy)
    result = compare_runs(finished, copy)
    assert not result.is_same
    assert any(re.search(said, line) for line in result.differences), result.differences


def test_what_a_clock_decides_is_no_difference(finished, copied):
    copy = copied()
    lines = (copy / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("tokens_per_second")
    rows = [line.split(",") for line in lines[1:]]
    for row in rows:
        row[column] = "1.0" if row[column] else ""
    (copy / "metrics.csv").write_text("\n".join([lines[0], *map(",".join, rows)]) + "\n")
    assert compare_runs(finished, copy).is_same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (torch.tensor([math.nan]), torch.tensor([math.nan]), True),
        (torch.tensor([0.0]), torch.tensor([-0.0]), False),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64), False),
        (torch.ones(2, 3), torch.ones(3, 2), False),
        (torch.ones(3, 2).t(), torch.ones(2, 3), True),
        ({"a": [1, {"b": math.nan}]}, {"a": [1, {"b": math.nan}]}, True),
        ({"a": [1, 2]}, {"a": [1, 2, 3]}, False),
        ({"a": 1}, {"a": 1.0}, False),
        ({"a": 1}, {"b": 1}, False),
        (None, 0, False),
    ],
    ids=str,
)
def test_plain_data_is_compared_by_its_bits(one, other, same):
    assert (list(_values("x", one, other, Counter())) == []) == same
