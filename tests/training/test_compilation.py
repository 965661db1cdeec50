"""compile=true: the same checkpoints, the same decoding, and a run that is as exact to continue as
any other.
"""

import os
import subprocess
import sys

import pytest
import torch
from test_resume import assert_same_run, stop_and_resume
from tiny_run import TINY, rows_of, same_weights, weights_of

from firstlight.loss import fused
from firstlight.training import compilation

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.filterwarnings(
        # torch 2.13's own, while its compiler is imported
        r"ignore:`torch.jit.script_method` is deprecated",
        r"ignore:`torch.jit.script` is deprecated",
        # and while it reads one
        r"ignore:.*autograd.function.Function.* should not be instantiated",
    ),
]
RAGGED = [
    *("data.drop_last=false", "data.test_ratio=0"),
    *("trainer.eval_every_n_steps=5", "model.dropout=torch"),
]


@pytest.fixture
def counter():
    """Compilation without a compiler: graphs are counted and run as they are."""
    from torch._dynamo.testing import CompileCounter

    torch.compiler.reset()
    count = CompileCounter()
    with torch.compiler.set_stance("default", force_backend=count):
        yield count
    torch.compiler.reset()


def test_compiling_changes_no_number_by_itself_and_no_name_in_a_checkpoint(train, counter):
    assert train("plain", *RAGGED) == train("compiled", *RAGGED, "compile=true") == 0
    assert counter.frame_count > 0
    assert rows_of("plain") == rows_of("compiled")
    assert (
        same_weights("plain", "compiled")
        and weights_of("plain").keys() == weights_of("compiled").keys()
    )


def test_a_loss_that_is_compiled_as_on_a_gpu_changes_no_number(train, counter, monkeypatch):
    monkeypatch.setattr(compilation, "LOSS_DEVICES", ("cpu",))
    monkeypatch.setitem(fused.CHUNK, "cpu", 5000)  # several parts, the last of another size
    short = [*RAGGED, "trainer.max_steps=3"]
    assert train("plain", *short) == 0
    without = counter.frame_count
    assert train("compiled", *short, "compile=true") == 0
    # The trial before the run, a shape of training (three steps do not get to the last, smaller
    # batch), and two of evaluation.
    of_model = 1 + 1 + 2
    assert counter.frame_count - without == of_model + 1  # the loss once, whatever its sizes
    assert rows_of("plain") == rows_of("compiled") and same_weights("plain", "compiled")


@pytest.mark.long
def test_each_shape_is_compiled_once_and_decoding_never(train, counter):
    sampled = "callbacks.sample_generation.max_new_tokens=20"
    assert train("run", *RAGGED, sampled, "compile=true") == 0
    shapes = 2 + 2  # batches of 8 and of 6 windows in training, and in evaluation
    assert counter.frame_count == 1 + shapes  # the trial before the run


def test_without_it_nothing_is_compiled(train, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("torch.compile was called")

    monkeypatch.setattr(torch, "compile", fail)
    assert train("run", "trainer.max_steps=2") == 0


def test_without_a_compiler_it_is_refused_in_one_line(train, monkeypatch, capsys, tmp_path):
    def fail(*_, **__):
        raise RuntimeError(
            "InvalidCxxCompiler: No working C++ compiler found in (None, 'g++')\n\nSet TORCHDYNAMO"
        )

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    assert train("run", "compile=true") == 2
    assert (
        capsys.readouterr().err
        == "firstlight: compile: torch.compile does not work here (InvalidCxxCompiler: No working"
        " C++ compiler found in (None, 'g++')); install a C++ compiler (g++, or one that CXX"
        " names), or train with compile=false\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_machine_without_a_compiler_says_so(tmp_path):
    environment = os.environ | {
        "CXX": str(tmp_path / "none"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-m", "firstlight", "train", *TINY, "output_dir=run", "compile=true"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "InvalidCxxCompiler" in done.stderr and "compile=false" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stops", "overrides"),
    [
        pytest.param([13], ["model.dropout=fast"], id="with dropout"),
        pytest.param(
            [6, 10, 17],
            [*RAGGED, "callbacks.checkpoint.every_n_steps=1"],
            id="at a batch of another shape",
        ),
        pytest.param([10], ["trainer.precision=bf16-mixed"], id="in bf16"),
    ],
)
def test_a_compiled_run_that_is_stopped_and_resumed_equals_the_uninterrupted_one(
    train, stops, overrides
):
    assert train("eager", *overrides) == train("whole", *overrides, "compile=true") == 0
    assert not same_weights("eager", "whole")  # it was compiled
    stop_and_resume(train, "parts", stops, *overrides, "compile=true")
    assert_same_run("whole", "parts")
