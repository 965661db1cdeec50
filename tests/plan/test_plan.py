"""`firstlight plan`: what it says of a tiny run, what it warns of, and what it refuses."""

import json
from pathlib import Path
from random import Random

import pytest

import firstlight
from firstlight.cli import main
from firstlight.plan.text import as_text

TEXT = "The lamp was lit, and the lamp went out; nobody on the quay had seen who did it. " * 40
TINY = (
    "data=text", "data.path=text.txt", "tokenizer=bytes", "model.context_length=16", "model.emb_dim=16",
    "model.n_heads=2", "model.n_layers=3", "data.batch_size=4", "data.stride=null",
    "trainer.max_steps=40", "scheduler.warmup_steps=4", "trainer.eval_every_n_steps=15",
    "trainer.accelerator=cpu", "trainer.precision=32-true",
    "callbacks.sample_generation.max_new_tokens=4",
)  # fmt: skip


@pytest.fixture(autouse=True)
def in_a_folder_with_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The plan of the tiny run, with two steps made."""
    folder = tmp_path_factory.mktemp("planned")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("text.txt").write_text(TEXT, encoding="utf-8")
        plan = firstlight.plan(*TINY, plan={"steps": 2})
        assert [file.name for file in folder.iterdir()] == ["text.txt"]  # nothing is left
    return plan


def test_size_work_and_phases_are_those_of_the_run(found):
    told = found["forecast"]
    block = 12 * 16 * 16 + 13 * 16
    assert told["n_parameters"] == 257 * 16 + 16 * 16 + 3 * block + 2 * 16
    assert sum(told["parameters"].values()) == told["n_parameters"]
    assert told["parameters"]["trf_blocks.*.ff"] == 3 * (8 * 16 * 16 + 5 * 16)
    assert (told["steps"], told["tokens_per_step"], told["tokens"]) == (40, 64, 2560)
    assert told["tokens_per_parameter"] == 2560 / told["n_parameters"]
    assert told["flops"] == told["flops_per_token"] * 2560
    assert told["warmup"] == {"steps": 4, "tokens": 256, "share": 0.1}
    assert told["decay"]["steps"] == 35  # of 40: the fifth has the peak
    assert told["evaluations"] == 3  # after 15, 30, 40
    # 162 of the 3,240 characters are validation: 10 windows and 1 target more; as many batches of
    # training windows, which are 3 of 4.
    assert told["validation_windows"] == 10
    assert told["evaluated_tokens"] == 10 * 16 + 1 + 12 * 16
    # And so many are the test split, scored once: a third of a training pass a token.
    forward = (3 * told["evaluated_tokens"] + 161) / 3
    assert told["evaluation_share"] == pytest.approx(forward / (2560 + forward))
    assert told["passes"] == 2560 / 2915


def test_memory_is_the_sum_of_its_parts(found):
    memory = found["memory"]
    n = found["forecast"]["n_parameters"]
    parts = memory["parts"]
    assert parts["weights"] == 4 * n
    assert parts["optimizer"] == pytest.approx(8 * n, rel=0.01)  # and a count of each tensor
    assert parts["process"] > 10**8
    assert memory["total"] == sum(parts.values()) < memory["available"]
    assert memory["windows_at_once"] == 4


def test_the_time_is_that_of_the_steps_and_of_what_comes_between(found):
    time = found["time"]
    assert time["step"] == pytest.approx(64 / time["tokens_per_second"])
    each = time["evaluation"] + time["samples"] + time["save"]
    assert time["total"] >= 40 * time["step"] + 3 * each
    shares = [time[f"{part}_share"] for part in ("evaluation", "samples", "save")]
    assert min(shares) > 0 and sum(shares) < 1


def test_the_steps_that_are_timed_are_no_run_for_a_logger(monkeypatch):
    from firstlight.plan import timed

    kept = {}
    monkeypatch.setattr(timed, "run_quietly", lambda run, folder, change: _stop(change, kept))
    with pytest.raises(InterruptedError):
        firstlight.plan(*TINY, plan={"steps": 1})
    assert kept["logger"] == {} and next(iter(kept["callbacks"])) == "ends"
    assert "sample_generation" in kept["callbacks"]


def _stop(change, kept):
    kept |= {"logger": {"mine": object()}, "callbacks": {"sample_generation": object()}}
    change(kept)
    raise InterruptedError


def test_the_text_says_what_the_data_say(found):
    text = as_text(found)
    assert f"{found['forecast']['n_parameters']:,} parameters" in text
    assert "trf_blocks.*.att" in text and "40 steps of 64 tokens = 2,560 tokens" in text
    assert "warm-up 4 steps (10%, 256 tokens)" in text
    assert f"{found['time']['tokens_per_second']:,.0f} tokens/s" in text
    for warning in found["warnings"]:
        assert f"warning: {warning}" in text


def test_the_json_is_the_plan_and_without_steps_there_is_no_time(capsys, found):
    assert main(["plan", *TINY, "plan.steps=0", "plan.format=json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    for told in (plan["forecast"], found["forecast"]):
        told["free_bytes"] = None
    assert plan["forecast"] == found["forecast"]
    assert plan["time"] is None and "\ntime " not in as_text(plan)
    assert [file.name for file in Path().iterdir()] == ["text.txt"]


def test_what_is_probably_wrong_is_said(found):
    assert "training tokens a parameter, where about 20 are usual" in found["warnings"][0]
    assert "100.0% of validation's 50-grams stand in the training text" in found["warnings"][-1]
    wrong = ("trainer.max_steps=6000", "data.train_ratio=0.98", "model.vocab_size=4096")
    plan = firstlight.plan(*TINY, *wrong, plan={"steps": 0})
    passes, windows, ids = plan["warnings"]
    assert "passes over the text" in passes
    assert windows.startswith("validation is 2 windows of 16 tokens")
    assert ids.startswith("of the 4,096 ids of the vocabulary 22 occur")


def test_more_processes_than_cores_are_warned_of(monkeypatch):
    monkeypatch.setattr("firstlight.training.forecast.n_cores", lambda: 2)
    of_two, of_four = (
        firstlight.plan(*TINY, f"trainer.devices={n}", plan={"steps": 0})["warnings"]
        for n in (2, 4)
    )
    assert not any("processes" in warning for warning in of_two)
    assert "4 processes share 2 cores of this CPU: trainer.devices=2 is faster" in of_four


def test_a_run_that_is_well_proportioned_has_no_warning():
    letters = "".join(chr(code) for code in (*range(33, 127), *range(161, 256)))
    drawn = Random(0).choices(letters, k=700 * len(letters))  # nothing in it is there twice
    Path("text.txt").write_text("".join(drawn), encoding="utf-8")
    sizes = ("model.n_layers=1", "model.emb_dim=8", "data.batch_size=32")
    plan = firstlight.plan(*TINY, *sizes, "trainer.max_steps=300", plan={"steps": 0})
    assert plan["warnings"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scheduler.warmup_steps=40"], "scheduler: warmup_steps (40) must be less"),
        (["resume=last"], "resume"),
        (["cluster=h100", "cluster.mfu=[0.5,0.3]"], "cluster.mfu ([0.5, 0.3]) must begin"),
        (["cluster=h100", "trainer.devices=2"], "trainer.devices (2) must be 1"),
        (["cluster.devices=8"], "cluster"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(capsys, words, message):
    assert main(["plan", *TINY, *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1
    assert sorted(file.name for file in Path().iterdir()) == ["text.txt"]


def test_a_cluster_is_looked_at_from_here(capsys):
    words = ("cluster=h100", "cluster.devices=[1,2,8]", "data.batch_size=8")
    assert main(["plan", *TINY, *words]) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if " ddp " in line or " fsdp2 " in line]
    assert len(rows) == 5
    plan = firstlight.plan(*TINY, *words)
    assert [row["devices"] for row in plan["outlook"]] == [1, 2, 2, 8, 8]
    assert plan["cluster"]["per_machine"] == 8
    first, *_, last = plan["outlook"]
    n = plan["forecast"]["n_parameters"]
    assert first["traffic_gb"] == 0 and last["traffic_gb"] > 0
    assert 16 * n <= first["memory_gb"] * 1e9 <= 16 * n + 10**7


def test_a_model_larger_than_this_machine_can_be_planned_for_a_cluster():
    large = ("model.emb_dim=16384", "model.n_heads=128", "data.batch_size=64")
    plan = firstlight.plan(*TINY, *large, "cluster=h100", "cluster.devices=[1,64]")
    assert plan["forecast"]["n_parameters"] > 9 * 10**9
    alone, _, shared = plan["outlook"]
    assert "do not fit" in alone["problem"]
    assert not shared["problem"] and shared["strategy"] == "fsdp2"
