"""`firstlight ladder`: its rungs, its refusals, and that a prediction comes before its run.

Runs are made up from a law here, but for those of one rung.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import firstlight
from firstlight.cli import main
from firstlight.compose.arguments import parse_arguments
from firstlight.errors import RunError
from firstlight.ladder import climb
from firstlight.ladder.record import prediction_file
from firstlight.ladder.rungs import note_on_passes, rungs_of
from firstlight.ladder.text import as_text
from firstlight.ladder.trials import trained, wider
from firstlight.statistics import Rung, fit_ladder
from firstlight.verbs import asked_of_ladder

SIZES = "[model.emb_dim=4,model.emb_dim=6,model.emb_dim=8,model.emb_dim=12,model.emb_dim=16]"
TEXT = (
    "data=text", "data.path=text.txt", "data.eval_batches=1", "trainer.accelerator=cpu",
    "trainer.precision=32-true", "model.n_heads=1", "experiment=ladder",
)  # fmt: skip
LADDER = (
    *TEXT, "ladder.out=here", f"ladder.sizes={SIZES}", "ladder.tokens_per_parameter=[1,1000]",
)  # fmt: skip
RATES = [0.015, 0.05, 0.15]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "The lamp was lit, and the lamp went out; nobody had seen who did it. " * 40
    Path("text.txt").write_text(text, encoding="utf-8")
    return tmp_path


def mistake(capsys):
    """The one line that says what is wrong; notes do not count."""
    [line] = [
        line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")
    ]
    return line


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A ladder as it is asked for, and its rungs, which take a second to find out about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("planned"))
        Path("text.txt").write_text("The lamp was lit, and it went out. " * 80, encoding="utf-8")
        asked = asked_of_ladder(parse_arguments("ladder", list(LADDER)).overrides, None)
        return asked, rungs_of(asked)


@pytest.fixture
def made_up(planned, monkeypatch):
    """Rungs are not trained: their losses follow a law, and are what `made_up` says."""
    _, rungs = planned

    class Made:
        off = 0.0  # what the next rung is off the law
        slope = 0.0  # of the logarithm of the size
        edge = False

        def __init__(self):
            self.made = []

        def trained(self, rung, asked, n_seeds, *, is_guest):
            is_next = rung.budget == asked.settings.next_budget
            if is_next:
                assert prediction_file(asked.folder, rung.budget).exists()
            self.made.append(rung)
            loss = 1.5 + 16.4 / rung.size.parameters**0.5 + 104 / rung.tokens**0.5
            loss += self.slope * np.log(rung.size.parameters) + self.off * is_next
            draws = np.random.default_rng(rung.tokens).normal(0, 0.003, (3, n_seeds))
            heights = [0.0, 0.1, 0.2] if self.edge else [0.1, 0.0, 0.1]
            losses = loss + np.array(heights)[:, None] + draws
            size = rung.size.parameters
            return Rung(rung.budget, size, rung.tokens, RATES, losses.tolist())

    made = Made()
    monkeypatch.setattr(climb, "trained", made.trained)
    monkeypatch.setattr(climb, "rungs_of", lambda asked: rungs)
    monkeypatch.setattr(climb, "fit_ladder", partial(fit_ladder, resamples=30))
    return made


def test_a_rung_takes_the_compute_of_its_budget(planned):
    asked, (rungs, nexts) = planned
    settings = asked.settings
    assert {rung.budget for rung in rungs} == set(settings.budgets)
    low, high = settings.tokens_per_parameter
    for rung in [*rungs, *nexts]:
        assert rung.tokens * rung.size.flops_per_token == pytest.approx(rung.budget, rel=0.01)
        assert low <= rung.tokens_per_parameter <= high
        words = rung.words(asked, [1e-3, 2e-3], 4)
        assert f"trainer.max_tokens={rung.tokens}" in words and "seeds=4" in words
        assert "optimizer.lr=0.001,0.002" in words
    sizes = [rung.size.parameters for rung in rungs if rung.budget == settings.budgets[0]]
    assert len(sizes) >= 4 and sizes == sorted(sizes)
    assert len({rung.name for rung in [*rungs, *nexts]}) == len(rungs) + len(nexts)
    assert "passes over the text" in note_on_passes(rungs)  # it is a few lines long


def test_flops_are_those_of_plan(planned):
    _, (rungs, _) = planned
    size = rungs[0].size
    plan = firstlight.plan(*TEXT, *size.words, plan={"steps": 0})
    assert plan["forecast"]["flops_per_token"] == size.flops_per_token
    assert plan["forecast"]["n_parameters"] == size.parameters
    assert plan["forecast"]["tokens_per_step"] == rungs[0].tokens_per_step


def test_further_rates_follow_by_the_factor_that_there_is():
    assert wider([1e-3, 2e-3, 8e-3], "highest") == [1e-3, 2e-3, 8e-3, 0.032]
    assert wider([1e-3, 2e-3, 8e-3], "lowest") == [5e-4, 1e-3, 2e-3, 8e-3]


def test_a_prediction_is_written_then_trained_then_judged_and_stays(place, made_up, capsys):
    assert main(["ladder", *LADDER]) == 0
    said = capsys.readouterr().out
    assert said.index("before it is trained") < said.index("\nhit: ")
    [file] = (place / "here").glob("prediction-*.json")
    before, found = file.read_bytes(), json.loads((place / "here" / "ladder.json").read_text())
    assert found["hit"] is True and found["prediction"] == json.loads(before)
    assert found["next"]["loss"] == pytest.approx(found["prediction"]["loss"]["mean"], rel=0.02)
    assert (place / "here" / "ladder.png").read_bytes().startswith(b"\x89PNG")
    # What was predicted stays, though other losses would now give another prediction.
    made_up.off, made_up.slope = 0.2, 0.001
    again = firstlight.ladder(*LADDER)
    out, err = capsys.readouterr()
    assert "from other losses" in err and out.count("before it is trained") == 1
    assert file.read_bytes() == before and again["prediction"] == found["prediction"]
    assert again["hit"] is False and "\nmiss: " in as_text(again)
    # A ladder that was begun before a key came is the same one, where the key changes nothing.
    record = place / "here" / "ladder.yaml"
    text = record.read_text()
    assert "  parametrization: null\n" in text
    record.write_text(text.replace("  parametrization: null\n", ""))
    assert main(["ladder", *LADDER]) == 0
    assert main(["ladder", *LADDER, "parametrization=mup", "parametrization.base_width=4"]) == 2
    assert "another ladder: parametrization was None, is {" in mistake(capsys)
    # A ladder of other runs has no place in the same folder.
    assert main(["ladder", *LADDER, "data.batch_size=4"]) == 2
    assert "holds another ladder: data.batch_size was 8, is 4" in mistake(capsys)


def test_without_a_minimum_nothing_is_predicted_and_nothing_further_is_trained(
    place, made_up, capsys
):
    made_up.slope = 0.5
    assert main(["ladder", *LADDER]) == 1
    err = mistake(capsys)
    assert "nothing is predicted: at 3e+09 FLOPs the lowest loss" in err
    assert "smallest model" in err and "ladder.sizes" in err
    assert {rung.budget for rung in made_up.made} == {3e9, 7.5e9, 1.9e10}
    assert not list((place / "here").glob("prediction-*"))
    found = json.loads((place / "here" / "ladder.json").read_text())
    assert found["prediction"] is None and found["hit"] is None and len(found["refused"]) == 3
    # The same command, once the losses have a minimum, predicts.
    made_up.slope = 0.0
    assert main(["ladder", *LADDER]) == 0


@pytest.mark.long
def test_a_rate_at_the_edge_is_refused_and_says_what_would_mend_it(made_up, capsys):
    made_up.edge = True
    assert main(["ladder", *LADDER]) == 1
    err = mistake(capsys)
    assert "0.015, is the lowest of 3" in err and "ladder.widen" in err


@pytest.mark.long
def test_a_folder_that_holds_something_else_is_refused(place, made_up, capsys):
    assert main(["ladder", *LADDER]) == 0
    n_made = len(made_up.made)
    capsys.readouterr()
    assert main(["ladder", *LADDER, "scheduler.warmup_steps=20%"]) == 2
    assert "holds another ladder: scheduler.warmup_steps was '10%', is '20%'" in mistake(capsys)
    (place / "mine").mkdir()
    (place / "mine" / "thesis.txt").write_text("years")
    assert main(["ladder", *LADDER, "ladder.out=mine"]) == 2
    assert "holds something else" in mistake(capsys)
    assert len(made_up.made) == n_made


@pytest.mark.long
def test_a_prediction_that_was_tampered_with_is_one_line(place, made_up, capsys):
    assert main(["ladder", *LADDER]) == 0
    [file] = (place / "here").glob("prediction-*.json")
    file.write_text(file.read_text().replace('"tokens": ', '"tokens": 1'))
    capsys.readouterr()
    assert main(["ladder", *LADDER]) == 2
    assert "the prediction for 4.7e+10 FLOPs is of" in mistake(capsys)
    file.write_text("{}")
    assert main(["ladder", *LADDER]) == 2
    assert "not what firstlight writes" in mistake(capsys)


@pytest.mark.parametrize(
    ("word", "what"),
    [
        ("ladder.budgets=[1e9,2e9]", "ladder.budgets: expected list["),
        ("ladder.budgets=[1e9,2e9]", "] of 3 or more, got [1"),
        ("seeds=1", "seeds: "),
        ("optimizer.lr=1e-3", "optimizer.lr: the ladder decides it (ladder.rates)"),
        ("ladder.sizes=[wide,model.emb_dim=8,model.emb_dim=16,model.emb_dim=24]", "(wide): write"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(place, capsys, word, what):
    assert main(["ladder", *LADDER, word]) == 2
    assert what in mistake(capsys)
    assert not (place / "here").exists()


@pytest.mark.long
@pytest.mark.parametrize(
    ("word", "what"),
    [
        ("ladder.budgets=[1e9,3e9,2e9]", "ladder.budgets must rise"),
        ("ladder.next_budget=1e9", "ladder.next_budget (1e+09) must be above"),
        ("ladder.sizes=[a=1,a=2,a=3,a=3]", "a=3 is there twice"),
        ("ladder.tokens_per_parameter=[9,3]", "the first must be below the second"),
        ("ladder.rates=[0.1]", "ladder.rates: "),
        ("ladder.rates=[1e-6,1e-3,1e-2]", "initial_lr"),
        ("ladder.widen=-1", "ladder.widen: "),
        ("trainer.max_steps=10", "trainer.max_steps: the ladder decides it"),
        ("output_dir=x", "output_dir: the ladder decides it (ladder.out)"),
        ("model.emb_dim=4,8", "model.emb_dim=4,8: several values"),
        ("ladder.tokens_per_parameter=[1e6,1e7]", "4 must be within"),
        ("ladder.sizes=[model.emb_dim=4,model.emb_dim=6,model.emb_dim=8,model.width=2]", "width"),
        ("ladder.budgets=[1e6,2e6,3e6]", "tokens a parameter"),
        ("hydra.launcher.n_jobs=2", "n_jobs"),
    ],
)
def test_more_mistakes(place, capsys, word, what):
    test_a_mistake_is_one_line_and_nothing_is_written(place, capsys, word, what)


@pytest.mark.long
def test_a_rung_is_a_sweep_that_is_trained_once_and_grows(place, capsys):
    words = [
        *LADDER, "ladder.widen=1", "ladder.tokens_per_parameter=[0.1,1e6]", "data.batch_size=2",
        "ladder.budgets=[2e8,3e8,4e8]", "ladder.next_budget=5e8", "ladder.rates=[1e-5,2e-5,4e-5]",
    ]  # fmt: skip
    asked = asked_of_ladder(parse_arguments("ladder", words).overrides, None)
    (rung, *_), _ = rungs_of(asked)
    found = trained(rung, asked, 2, is_guest=False)
    # So low a rate is too low: the highest is the best, and one more was tried.
    assert list(found.rates) == [1e-5, 2e-5, 4e-5, 8e-5]
    assert np.array(found.losses).shape == (4, 2)
    capsys.readouterr()
    assert trained(rung, asked, 2, is_guest=False) == found
    assert capsys.readouterr().out == ""  # nothing is trained again
    swept = firstlight.Sweep(asked.folder / rung.name)
    assert {trial.state for trial in swept.trials} == {"done"} and len(swept.trials) == 8
    assert swept.trials[0].run.config["trainer"]["max_tokens"] == rung.tokens
    more = trained(rung, asked, 3, is_guest=False)
    assert [losses[:2] for losses in more.losses] == found.losses


@pytest.mark.long
def test_failed_trials_are_tried_again_and_a_rate_that_diverges_can_be_left_out(place):
    words = [
        *LADDER, "ladder.widen=0", "ladder.tokens_per_parameter=[0.1,1e6]", "data.batch_size=2",
        "ladder.budgets=[2e8,3e8,4e8]", "ladder.next_budget=5e8",
    ]  # fmt: skip

    def asked_with(rates):
        overrides = parse_arguments("ladder", [*words, f"ladder.rates={rates}"]).overrides
        return asked_of_ladder(overrides, None)

    asked = asked_with("[1e-3,2e-3,1e30]")
    (rung, *_), _ = rungs_of(asked)
    text = Path("text.txt").rename("elsewhere.txt")
    with pytest.raises(RunError, match=r"6 of 6 trials failed.*the same command tries them again"):
        trained(rung, asked, 2, is_guest=False)
    text.rename("text.txt")
    with pytest.raises(RunError, match=r"2 of 6 trials failed.*leave it out of") as one:
        trained(rung, asked, 2, is_guest=False)
    assert "\n" not in str(one.value)
    found = trained(rung, asked_with("[1e-3,2e-3,4e-3]"), 2, is_guest=False)
    assert list(found.rates) == [1e-3, 2e-3, 4e-3]
