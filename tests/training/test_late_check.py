"""A GPU leaves out a step that is not finite by itself; the host does not wait. Here a CPU takes
its part.
"""

import re

import pytest
import torch
from stop_at import CountReads
from test_stopping import assert_same_run, steps_of, with_callback
from tiny_run import rows_of, same_weights

from firstlight.cli import main
from firstlight.training.nonfinite import late_check


@pytest.fixture
def late(monkeypatch):
    """Make the CPU a device whose numbers are read late."""
    return lambda: monkeypatch.setattr(late_check, "DEVICES", ("cpu",))


def test_a_step_reads_no_number_of_the_device(train, late):
    late()
    counting = with_callback("CountReads")
    assert train("run", "trainer.max_steps=9", "trainer.log_every_n_steps=9", *counting) == 0
    assert len(CountReads.counts) == 9
    assert CountReads.counts[1:8] == [0] * 7, CountReads.counts


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize(
    "step", [pytest.param(9, marks=pytest.mark.long), 12, pytest.param(16, marks=pytest.mark.long)]
)
def test_a_run_stops_at_the_same_step_with_the_same_words(train, trained, late, capsys, what, step):
    fail = with_callback("NanAt", steps=f"[{step}]", what=what)
    seldom = "trainer.log_every_n_steps=8"
    trained("whole", seldom)
    said = []
    for folder in ("read", "parts"):
        capsys.readouterr()
        assert train(folder, seldom, *fail) == 1
        said.append(re.sub(folder, "run", capsys.readouterr().err))
        late()
    assert said[0] == said[1] and f"the {what} of step {step} is not finite" in said[0]
    assert steps_of("parts") == [8]
    assert main(["train", "resume=parts", "~callbacks.test"]) == 0
    assert_same_run("whole", "parts")


@pytest.mark.long
def test_steps_are_skipped_and_counted_as_if_they_were_read(train, late, capsys):
    skip = ("on_nan=skip", *with_callback("NanAt", steps="[1,3,13,14]"))
    assert train("read", *skip) == 0
    endless = (
        "on_nan=skip",
        *with_callback("NanAt", steps=str(list(range(9, 25))).replace(" ", "")),
    )
    late()
    assert train("late", *skip) == 0
    assert rows_of("late") == rows_of("read") and same_weights("late", "read")
    assert train("endless", *endless, "trainer.log_every_n_steps=8") == 1
    assert "the loss of step 19 is not finite" in capsys.readouterr().err


def test_numbers_are_the_same_and_others_optimizers_are_read_at_once(train, late):
    assert train("read", "trainer.max_steps=8") == 0
    late()
    assert train("late", "trainer.max_steps=8") == 0
    assert rows_of("late") == rows_of("read") and same_weights("late", "read")
    plain = torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
    assert not late_check.LateCheck.suits(plain, torch.device("cpu"))
