"""How the processes of a run meet, and how one that is lost is named: here each is an object of this
process.
"""

import threading
import time
from pathlib import Path

import pytest

from firstlight import processes
from firstlight.errors import ConfigError, RunError
from firstlight.lock import only_process
from firstlight.processes import Place
from firstlight.runs.writer import LOCK, new_run_folder
from firstlight.training import heartbeat as heartbeat_module
from firstlight.training import peers as peers_module
from firstlight.training.peers import Peers


@pytest.fixture
def come():
    """A factory of the peers of a run of two; the first one serves the store."""
    made = []

    def make(rank, *, words=("data=text",), timeout=1.0):
        port = made[0].meeting_point.port if made else 0
        place = Place(rank, 0, 2, 1, port=port, one_per_device=True)
        made.append(Peers(place, timeout=timeout, words=words))
        return made[-1].__enter__()

    yield make
    for one in reversed(made):
        one.__exit__(SystemExit, SystemExit(0), None)


def verdict_of(one, seconds=20):
    deadline = time.monotonic() + seconds
    while one.heartbeat.verdict is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return one.heartbeat.verdict


def meeting(one):
    """Let `one`, which is not the first, wait for the first in a thread; its errors are kept."""
    errors = []

    def meet():
        try:
            one.meet()
        except BaseException as error:
            errors.append(one.fail(error) if isinstance(error, ConfigError) else error)

    thread = threading.Thread(target=meet)
    thread.start()
    return thread, errors


def test_a_process_that_does_not_come_is_named(come):
    with pytest.raises(RunError, match=r"rank 1 of 2 has not come in 1 s \(trainer.timeout\)"):
        come(0).meet()


def test_all_are_started_with_one_command(come):
    first = come(0)
    come(1, words=["data=shards"])
    with pytest.raises(ConfigError, match="rank 1 was started with another command"):
        first.meet()


def test_the_first_tells_the_others_its_folder(come, tmp_path, monkeypatch):
    monkeypatch.setenv(processes.FOUND_RUN, "")
    first, second = come(0), come(1)
    thread, errors = meeting(second)
    first.meet()
    with only_process(tmp_path / LOCK):
        first.agree_on(tmp_path)
        first.tell(tmp_path)
        thread.join(timeout=20)
    assert errors == [] and processes.is_further()
    assert processes.shared_run_folder() == tmp_path


def test_machines_without_a_shared_folder_are_refused_before_it_is_a_runs(
    come, tmp_path, monkeypatch
):
    monkeypatch.setattr(peers_module, "LATE", 0.1)
    first, second = come(0, timeout=5.0), come(1, timeout=5.0)
    monkeypatch.setattr(
        second,
        "_check_sight",
        lambda folder, holder: Peers._check_sight(second, Path("/else"), holder),
    )
    thread, errors = meeting(second)
    first.meet()
    with (
        pytest.raises(ConfigError, match=r"rank 1 \(.*\): output_dir: this machine does not see"),
        new_run_folder(tmp_path / "run", config={}, overrides=[], agree_on=first.agree_on),
    ):
        raise AssertionError("it was not refused")
    thread.join(timeout=20)
    assert not (tmp_path / "run").exists()
    assert [type(error) for error in errors] == [SystemExit] and errors[0].code == 2


def test_a_process_without_a_sign_of_life_is_named(come):
    first, second = come(0), come(1)
    first.meet()
    second.heartbeat.stop()  # as if it were stopped
    verdict = verdict_of(first)
    assert (
        verdict.rank == 1 and "has given no sign of life for 1 s (trainer.timeout)" in verdict.text
    )
    assert verdict.text.startswith("rank 1 (process ") and not verdict.is_mistake


def test_a_process_that_does_not_come_further_is_named(come):
    first, second = come(0), come(1)
    first.meet()
    second.advance()
    first.heartbeat.progress = 2
    assert "rank 1 (process" in verdict_of(first).text
    assert "does not come further: the others have waited for 1 s" in verdict_of(first).text


def test_the_first_process_tells_what_another_has_failed_of(come):
    first, second = come(0), come(1)
    first.meet()
    ending = second.fail(ConfigError("data.path (x): no such file"))
    assert isinstance(ending, SystemExit) and ending.code == 2
    told = first.end_with(verdict_of(first))
    assert isinstance(told, ConfigError) and "rank 1 (" in str(told) and "(x): no such" in str(told)
    silent = second.end_with(verdict_of(second))
    assert isinstance(silent, SystemExit) and silent.code == 2


def test_a_first_process_that_is_lost_is_named_by_another(come):
    first, second = come(0), come(1)
    first.meet()
    first.heartbeat.stop()
    verdict = verdict_of(second)
    assert verdict.text.startswith("rank 0 (process ") and isinstance(
        second.end_with(verdict), RunError
    )


def test_an_error_that_is_no_collectives_is_nobodys_loss(come):
    first = come(0)
    assert first.why_lost(ValueError("connection")) is None
    assert first.why_lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


def test_the_connection_that_fails_first_is_explained_by_who_is_silent(come, monkeypatch):
    monkeypatch.setattr(heartbeat_module, "SUSPICIOUS", 0.5)
    first, second = come(0, timeout=5.0), come(1, timeout=5.0)
    first.meet()
    second.heartbeat.stop()
    verdict = first.why_lost(RuntimeError("[gloo/pair.cc:547] Connection closed by peer"))
    assert verdict is not None and verdict.rank == 1 and "it is silent for" in verdict.text
