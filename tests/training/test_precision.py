"""precision=auto: bf16-mixed where the device multiplies in bfloat16, said once, and kept with the
run.
"""

from pathlib import Path

import pytest
import torch
import yaml
from tiny_run import rows_of, same_weights

from firstlight.cli import main
from firstlight.runs.run_folder import CONFIG
from firstlight.training import plan
from firstlight.training.precision import resolve_precision

pytestmark = pytest.mark.cpu


@pytest.fixture
def capable(monkeypatch):
    def set_capabilities(level: str = "AVX512", **capabilities: bool) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: level)

    return set_capabilities


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"avx512_bf16": True}, "bf16-mixed"),
        ({"amx_bf16": True, "avx512_bf16": False}, "bf16-mixed"),
        ({"bf16": True}, "bf16-mixed"),
        ({"avx512_f": True, "avx512_bf16": False}, "32-true"),
        ({}, "32-true"),
    ],
)
def test_a_cpu_gets_what_it_multiplies_in(capable, capabilities, precision):
    capable(**capabilities)
    assert resolve_precision("auto", "cpu") == precision


@pytest.mark.parametrize("level", ["DEFAULT", "AVX2"])
def test_a_cpu_of_which_torch_may_not_use_all_trains_in_float32(capable, level):
    capable(level, amx_bf16=True, avx512_bf16=True)
    assert resolve_precision("auto", "cpu") == "32-true"


def test_what_is_asked_for_is_what_one_gets(capable):
    capable(avx512_bf16=True)
    assert resolve_precision("32-true", "cpu") == "32-true"


@pytest.mark.parametrize("emulates", [True, False])
def test_a_gpu_that_emulates_bfloat16_trains_in_float32(monkeypatch, emulates):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda *, including_emulation: not emulates
    )
    assert resolve_precision("auto", "auto") == ("32-true" if emulates else "bf16-mixed")


def test_a_run_keeps_the_precision_that_it_began_with(train, capable):
    capable(avx512_bf16=True)
    for folder, precision in (("chosen", "auto"), ("bf16", "bf16-mixed")):
        assert train(folder, f"trainer.precision={precision}", "trainer.max_steps=16") == 0
    assert (
        yaml.safe_load(Path("chosen", CONFIG).read_text())["trainer"]["precision"] == "bf16-mixed"
    )
    capable()  # another machine
    for folder in ("chosen", "bf16"):
        assert main(["train", f"resume={folder}", "trainer.max_steps=24"]) == 0
    assert rows_of("chosen") == rows_of("bf16") and same_weights("chosen", "bf16")


@pytest.mark.long
def test_the_same_command_goes_on_with_it(train, capable):
    capable(avx512_bf16=True)
    for steps in (8, 16):
        assert (
            train("run", "resume=auto", "trainer.precision=auto", f"trainer.max_steps={steps}") == 0
        )
    assert len(rows_of("run")) == 17


def test_of_float16_weights_a_note_says_what_they_cost(train, capsys):
    for folder, precision in (("float16", "16-true"), ("bfloat16", "bf16-true")):
        assert train(folder, f"trainer.precision={precision}", "trainer.max_steps=2") == 0
        assert ("may diverge, or end worse" in capsys.readouterr().err) == (precision == "16-true")


def test_precision_is_resolved_once_and_the_trainer_is_given_the_result(train, monkeypatch, capsys):
    asked = []

    def resolve(*given: str) -> str:
        asked.append(given)
        return "bf16-mixed"

    monkeypatch.setattr(plan, "resolve_precision", resolve)
    assert train("run", "trainer.precision=auto", "trainer.max_steps=2") == 0
    assert asked == [("auto", "cpu")] and ", bf16-mixed, " in capsys.readouterr().out
