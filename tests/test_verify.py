"""`firstlight verify`, as a user calls it."""

from pathlib import Path

import pytest

from firstlight.cli import main

HERE = Path(__file__).parent / "verify"
TEXT = "The lamp was lit, and the lamp went out; nobody on the quay had seen who did it. " * 12
TINY = (
    "data=text", "data.path=text.txt", "tokenizer=bytes", "model.context_length=16", "model.emb_dim=16",
    "model.n_heads=2", "model.n_layers=1", "data.batch_size=8", "trainer.accelerator=cpu",
    "callbacks.sample_generation.max_new_tokens=4", "callbacks.throughput.peak_flops=1e9", "~callbacks.plots",
)  # fmt: skip
SHORT = ("verify.steps=6", "verify.eval_every_n_steps=3", "verify.save_every_n_steps=2")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with nothing but a text; returns it."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


def test_a_killed_run_is_the_run_that_was_never_killed(place, monkeypatch, capsys):
    monkeypatch.setenv("FIRSTLIGHT_TEST_TEXT", "text.txt")
    words = [*TINY, *SHORT, "data.path=${oc.env:FIRSTLIGHT_TEST_TEXT}", "scheduler.warmup_steps=6"]
    assert main(["verify", *words, "verify.checks=[kills]", "verify.kills=1"]) == 0
    out, err = capsys.readouterr()
    assert "1 kill" in out and "equal" in out and "yes" in out and "verified in" in out
    assert err == ""
    assert [file.name for file in place.iterdir()] == ["text.txt"]


@pytest.mark.long
def test_what_is_not_exact_is_named_and_kept(place, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("FIRSTLIGHT_ALLOW_TARGETS", "drift")
    drift = ["+callbacks.drift._target_=drift.Drift", "+callbacks.drift.at=4"]
    assert main(["verify", *TINY, *SHORT, *drift, "verify.checks=[kills]", "verify.kills=1"]) == 1
    out, err = capsys.readouterr()
    assert "NO" in out
    assert "metrics.csv: step 5: train/batch_loss" in err
    (kept,) = place.glob("outputs/quickstart/verify_*")
    assert str(kept) in err
    assert (kept / "straight" / "metrics.csv").is_file() and (
        kept / "killed_1" / "metrics.csv"
    ).is_file()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["order=book"], "order: a run with order=book cannot be resumed"),
        (["trainer.devices=2"], "trainer.devices (2 in all) must be 1"),
        (["resume=last"], "resume: verify makes new runs"),
        (["~callbacks.checkpoint"], "callbacks.checkpoint is needed"),
        (["~logger.csv"], "logger.csv is needed"),
        (["verify.steps=1"], "verify.steps: expected int >= 2"),
        (["verify.kills=-1"], "verify.kills: expected int >= 0"),
        (["verify.checks=[determinsm]"], "verify.checks: expected"),
        (["verify.tolerance=0"], "verify.tolerance: expected float > 0, got 0"),
        (["verify.stps=3"], "verify.stps: no such key; did you mean 'verify.steps'?"),
        (["+verify.x=3"], "verify.x: VerifySettings has no 'x'"),
        (["verify=3"], "verify: expected a section, got 3"),
        (["model.n_heads=0"], "model.n_heads: expected int > 0"),
        (["scheduler.warmup_steps=x"], "scheduler.warmup_steps: expected int >= 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.one_in(4)
def test_what_cannot_be_verified_is_refused_before_anything_runs(
    place, monkeypatch, capsys, overrides, said
):
    def started(*_):
        raise AssertionError("it began")

    monkeypatch.setattr("firstlight.verify.command.start_server", started)
    assert main(["verify", *TINY, *overrides]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"firstlight: {said}") and err.count("\n") == 1
    assert [file.name for file in place.iterdir()] == ["text.txt"]


def test_all_mistakes_of_a_run_and_of_its_verification_are_told_at_once(capsys):
    assert main(["verify", *TINY, "model.n_layers=0", "verify.steps=0"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_what_a_run_refuses_when_it_begins_is_a_mistake_as_always(place, capsys):
    assert main(["verify", *TINY, *SHORT, "data.path=nowhere.txt", "verify.checks=[kills]"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "firstlight: data: path (nowhere.txt): no such file\n")
    assert [file.name for file in place.iterdir()] == ["text.txt"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["data.num_workers=2", "data.drop_last=false", "verify.kills=10"],
        ["compile=true", "verify.steps=8"],
    ],
    ids=" ".join,
)
def test_the_whole_of_it_holds(place, capsys, overrides):
    assert main(["verify", *TINY, *overrides]) == 0
    out = capsys.readouterr().out
    assert "determinism" in out and "NO" not in out
