"""Ctrl-C stops between two steps, with the run saved; other signals reach whoever handles them."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tiny_api import numbers

import firstlight
from firstlight.sweep import loop


@pytest.fixture(autouse=True)
def callbacks_of_the_tests(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "training"))
    monkeypatch.setenv("FIRSTLIGHT_ALLOW_TARGETS", "stop_at")


def with_signals(*names: str) -> dict:
    """The callback that sends signals in the third batch."""
    target = {"_target_": "stop_at.SignalAt", "batch": 2, "names": list(names)}
    return {f"+callbacks.test.{key}": value for key, value in target.items()}


def test_ctrl_c_stops_after_the_step_and_the_run_is_resumed(tiny, trained):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(firstlight.Interrupted, match=r"resume with firstlight\.Run\(") as stopped:
        firstlight.train(**tiny, **with_signals("SIGINT"), output_dir="run")
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert signal.getsignal(signal.SIGINT) == before
    run = stopped.value.run
    assert run is not None and run.metrics["step"] == 3 and not run.is_finished
    assert numbers(run.resume("~callbacks.test")) == numbers(trained)


def test_a_second_ctrl_c_stops_at_once(tiny):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(firstlight.Interrupted):
        firstlight.train(**tiny, **with_signals("SIGINT", "SIGINT"), output_dir="run")
    assert signal.getsignal(signal.SIGINT) == before
    assert firstlight.Run("run").metrics["step"] == 2


def test_another_signal_is_handled_after_the_run_is_saved(tiny):
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with pytest.raises(firstlight.Interrupted) as stopped:
            firstlight.train(**tiny, **with_signals("SIGTERM"), output_dir="run")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM] and stopped.value.signum == signal.SIGTERM
    assert firstlight.Run("run").metrics["step"] == 3


@pytest.mark.long
def test_a_script_that_is_ended_by_a_signal_ends_by_it(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "training"))
    settings = {**tiny, **with_signals("SIGTERM"), "output_dir": "run"}
    code = f"import firstlight; firstlight.train(**{settings!r}); print('never')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == -signal.SIGTERM and "never" not in done.stdout
    assert "stopped after step 3" in done.stdout
    assert firstlight.Run("run").metrics["step"] == 3


def test_ctrl_c_in_an_evaluation_is_ctrl_c(trained, monkeypatch):
    before = signal.getsignal(signal.SIGINT)

    def interrupt(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(
        "firstlight.training.evaluation.EvaluationModule.validation_step", interrupt
    )
    with pytest.raises(KeyboardInterrupt) as stopped:
        firstlight.evaluate(trained)
    assert type(stopped.value) is KeyboardInterrupt
    assert signal.getsignal(signal.SIGINT) == before


def test_what_a_callback_of_the_users_raises_comes_as_it_is(tiny):
    target = {"_target_": "stop_at.FailAt", "step": 2}
    settings = {f"+callbacks.test.{key}": value for key, value in target.items()}
    with pytest.raises(LookupError, match="a callback of the user's has failed"):
        firstlight.train(**tiny, **settings, output_dir="run")
    assert threading.current_thread() is threading.main_thread()
    assert firstlight.Run("run").metrics["step"] == 2


def test_a_run_that_fails_says_from_where_it_is_resumed(tiny):
    target = {"_target_": "stop_at.NanAt", "steps": [3]}
    settings = {f"+callbacks.test.{key}": value for key, value in target.items()}
    with pytest.raises(firstlight.RunError, match=r"not finite|nan") as told:
        firstlight.train(**tiny, **settings, output_dir="run")
    assert isinstance(told.value, firstlight.Error)


def test_a_sweep_is_interrupted_and_resumed(tiny, monkeypatch):
    real = loop.Worker._prepare

    def interrupted(worker, row):
        signal.raise_signal(signal.SIGINT)
        return real(worker, row)

    monkeypatch.setattr(loop.Worker, "_prepare", interrupted)
    with pytest.raises(firstlight.Interrupted, match=r"resume with firstlight\.Sweep\(") as stopped:
        firstlight.sweep("seed=1,2", **tiny, output_dir="sweep")
    swept = stopped.value.sweep
    assert swept is not None and [trial.state for trial in swept.trials] == ["planned"] * 2
    assert swept.runs == []
    with pytest.raises(firstlight.Error, match="no point of this sweep is done"):
        _ = swept.best
    with pytest.raises(firstlight.Interrupted):
        firstlight.Sweep("sweep").resume()
