"""`firstlight bench`, as a user calls it."""

import io
import json
import weakref
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from firstlight.bench import runs
from firstlight.bench.command import arguments
from firstlight.bench.stopwatch import Stopwatch
from firstlight.cli import main
from firstlight.compose.compose import compose_config
from firstlight.training.module import PretrainingModule

pytestmark = pytest.mark.cpu

TEXT = "The lamp was lit, and the lamp went out; nobody on the quay had seen who did it. " * 12
TINY = (
    "data=text", "data.path=text.txt", "tokenizer=bytes", "model.context_length=16", "model.emb_dim=16",
    "model.n_heads=2", "model.n_layers=1", "data.batch_size=8", "trainer.accelerator=cpu", "output_dir=out",
)  # fmt: skip
SHORT = ("bench.steps=2", "bench.warmup_steps=1", "bench.rounds=1", "bench.most_batch=2")
NO_CPU_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"
)


SMALL_MACHINE = {
    "firstlight.bench.machine.COPIED": 2**16,
    "firstlight.training.callbacks.throughput.CPU_MATRIX": 64,
}
"""What the machine is measured with: a CPU without bfloat16 takes seconds for a product of large
matrices of it."""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with nothing but a text; returns it."""
    monkeypatch.chdir(tmp_path)
    for name, size in SMALL_MACHINE.items():
        monkeypatch.setattr(name, size)
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


@dataclass(frozen=True)
class Benched:
    """What `firstlight bench` printed, and the folder that it worked in."""

    folder: Path
    out: str
    err: str

    @property
    def told(self) -> dict[str, Any]:
        return json.loads((self.folder / "out_2/bench.json").read_text())


@pytest.fixture(scope="module")
def benched(tmp_path_factory):
    """A config that is on no rung of its ladder whatever the CPU can do, measured where the folder
    `out` is taken.
    """
    folder, out, err = tmp_path_factory.mktemp("benched"), io.StringIO(), io.StringIO()
    words = [
        "bench.steps=4",
        "bench.rounds=2",
        "bench.tolerance=10",
        "trainer.accumulate_grad_batches=2",
    ]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        for name, size in SMALL_MACHINE.items():
            patch.setattr(name, size)
        Path("text.txt").write_text(TEXT, encoding="utf-8")
        Path("out").mkdir()
        assert main(["bench", *TINY, *words, "optimizer.fused=true", "model.dropout=torch"]) == 0
    return Benched(folder, out.getvalue(), err.getvalue())


def without_memory_for(monkeypatch, is_too_large, error):
    """Let those runs end with `error` whose config is too large."""
    fit = runs.fit

    def limited(experiment, config, overrides):
        if is_too_large(config):
            raise error
        return fit(experiment, config, overrides)

    monkeypatch.setattr(runs, "fit", limited)


def test_a_config_is_measured_from_end_to_end(benched):
    assert benched.err == ""
    for said in (
        "matrix product",
        "tokens/s",
        "MFU",
        "peak memory",
        "framework",
        "fast dropout",
        "batch x4",
        "left out",
    ):
        assert said in benched.out
    assert sorted(file.name for file in benched.folder.iterdir()) == ["out", "out_2", "text.txt"]
    assert sorted(file.name for file in (benched.folder / "out_2").iterdir()) == [
        "bench.json",
        "bench.png",
    ]
    assert (benched.folder / "out_2/bench.png").read_bytes().startswith(b"\x89PNG")

    told = benched.told
    assert list(told) == [
        "machine",
        "settings",
        "config",
        "ladder",
        "left_out",
        "suggestion",
        "larger_batch",
    ]
    machine, config, ladder = told["machine"], told["config"], told["ladder"]
    assert machine["threads"] == torch.get_num_threads() and machine["copied_bytes_per_second"] > 0
    assert {"float32", "bfloat16", machine["training_dtype"]} == {*machine["flops_per_second"]}
    assert (
        config["tokens_per_step"] == 2 * 8 * 16
        and config["mfu"] > 0
        and config["peak_memory_bytes"] > 10**8
    )
    step = dict(config["step_milliseconds"])
    whole = step.pop("step")
    assert list(step) == ["data", "forward", "backward", "optimizer", "framework"]
    assert all(part > 0 for part in step.values())
    assert sum(step.values()) == pytest.approx(whole, rel=1e-9)
    assert [row["rung"] for row in ladder][:3] == ["plain", "fast dropout", "fused optimizer"]
    assert ladder[-1]["rung"] == "this config" and sum(row["is_this_config"] for row in ladder) == 1
    for row in ladder:
        assert (
            row["problem"] is None
            and len(row["tokens_per_second_by_round"]) == 2
            and row["loss"] > 0
        )
    assert "compile" in told["left_out"]


def test_what_is_suggested_can_be_given_to_train(benched, place):
    told = benched.told
    asked = [told["suggestion"], *([told["larger_batch"]] if told["larger_batch"] else [])]
    for words in [
        [row["overrides"] for row in told["ladder"]],
        [suggested["overrides"] for suggested in asked],
    ]:
        for overrides in words:
            compose_config("train", [*TINY, *overrides])


def test_a_folder_that_is_taken_is_left_alone(benched):
    assert (
        list((benched.folder / "out").iterdir()) == []
        and (benched.folder / "out_2/bench.json").is_file()
    )


def test_rungs_that_cannot_be_measured_say_so_and_the_others_are_measured(
    place, monkeypatch, capsys
):
    from torch._dynamo.exc import Unsupported

    step = PretrainingModule.training_step

    def limited(self, batch, batch_idx):
        if len(batch[0]) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PretrainingModule, "training_step", limited)
    without_memory_for(
        monkeypatch, lambda config: config["compile"], Unsupported("no such operation")
    )
    assert main(["bench", *TINY, *SHORT, "bench.most_batch=8", "bench.compile=true"]) == 0
    out, err = capsys.readouterr()
    assert "not measured: batch x2 (out of memory)" in out and err == ""
    assert "not measured: compile (torch.compile: no such operation)" in out
    ladder = {
        row["rung"]: row["problem"]
        for row in json.loads(Path("out/bench.json").read_text())["ladder"]
    }
    assert "batch x4" not in ladder  # nor anything larger
    assert {rung for rung, problem in ladder.items() if problem} == {"compile", "batch x2"}


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(NO_CPU_MEMORY)],
    ids=["gpu", "cpu"],
)
def test_a_config_that_does_not_fit_itself_is_a_failure_in_one_line(
    place, monkeypatch, capsys, error
):
    without_memory_for(monkeypatch, lambda config: True, error)
    assert main(["bench", *TINY, *SHORT]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", "firstlight: this config cannot be measured: out of memory\n")
    assert [file.name for file in place.iterdir()] == ["text.txt"]


def test_a_failure_that_is_ours_keeps_its_traceback(place, monkeypatch):
    without_memory_for(monkeypatch, lambda config: True, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        main(["bench", *TINY, *SHORT])
    assert [file.name for file in place.iterdir()] == ["text.txt"]


def test_a_run_that_trains_on_nothing_finite_is_said(place, capsys):
    assert main(["bench", *TINY, *SHORT, "optimizer.lr=1e30", "bench.steps=6"]) == 1
    out, err = capsys.readouterr()
    assert (
        out == ""
        and err.startswith("firstlight: this config cannot be measured: ")
        and err.count("\n") == 1
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["trainer.devices=2"], "trainer.devices (2 in all) must be 1"),
        (["resume=last"], "resume: bench makes new runs"),
        (["bench.steps=1"], "bench.steps: expected int >= 2"),
        (["bench.warmup_steps=0"], "bench.warmup_steps: expected int >= 1"),
        (["bench.rounds=0"], "bench.rounds: expected int >= 1"),
        (["bench.most_batch=2000"], "bench.most_batch: expected int >= 1 and <= 1024"),
        (["bench.compile=maybe"], "bench.compile: expected bool or null"),
        (["bench.tolerance=0"], "bench.tolerance: expected float > 0, got 0"),
        (["bench.stps=3"], "bench.stps: no such key; did you mean 'bench.steps'?"),
        (["bench=3"], "bench: expected a section, got 3"),
        (["model.n_heads=0"], "model.n_heads: expected int > 0"),
        (["output_dir=text.txt/x"], "output_dir (text.txt/x) cannot be made"),
        (["data.path=nowhere.txt"], "data: path (nowhere.txt): no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.one_in(4)
def test_what_cannot_be_measured_is_refused_and_nothing_is_written(place, capsys, overrides, said):
    assert main(["bench", *TINY, *overrides]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"firstlight: {said}") and err.count("\n") == 1
    assert [file.name for file in place.iterdir()] == ["text.txt"]


def test_nothing_of_a_run_is_kept_but_its_numbers(place):
    """Or a ladder would need the memory of all its rungs."""
    seen = []

    def remember(self, trainer, pl_module):
        seen.append(weakref.ref(pl_module))
        return start(self, trainer, pl_module)

    start = Stopwatch.on_train_start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stopwatch, "on_train_start", remember)
        run, settings = arguments(compose_config("bench", [*TINY, *SHORT]))
        measured = [
            runs.measure(run, settings.warmup_steps, place / "run", in_parts=in_parts)
            for in_parts in (0, 1)
        ]
    assert [len(run.timing.seconds) for run in measured] == [2, 2]
    assert [reference() for reference in seen] == [None, None]
