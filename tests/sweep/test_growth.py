"""A sweep grows by values, seeds and drawn points; what it has done stays, whatever happens."""

import shutil
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from at_each_operation import ends_of
from no_settings import NO_SETTINGS
from optuna.trial import TrialState

from firstlight.errors import ConfigError, RunError, message_lines
from firstlight.sweep.growth import DifferentError, same_or_more, with_words
from firstlight.sweep.launchers import LauncherError
from firstlight.sweep.ledger import Ledger
from firstlight.sweep.loop import Worker, work_on
from firstlight.sweep.plan import SweepPlan
from firstlight.sweep.planning import add_missing, complete, planned
from firstlight.sweep.record import SweepRecord, Wanted, read_sweep

DRAWN = replace(NO_SETTINGS, sampler="random", trials=3)
NAMED = replace(NO_SETTINGS, params={"optimizer.lr": "1e-3,3e-3"})


def wanted(*own: str, settings=NO_SETTINGS, seeds=(123,)) -> Wanted:
    return Wanted(list(own), settings, list(seeds))


@pytest.mark.parametrize(
    ("was", "words", "grown"),
    [
        (wanted("model=nano,same"), ["model=modern_nano"], wanted("model=nano,same,modern_nano")),
        (wanted("optimizer.lr=1e-3,3e-3"), ["optimizer.lr=0.003,0.1"],
         wanted("optimizer.lr=0.001,0.003,0.1")),
        (wanted("model.n_layers=range(2,6,2)"), ["model.n_layers=range(2,10,2)"],
         wanted("model.n_layers=2,4,6,8")),
        (wanted(settings=NAMED), ["optimizer.lr=0.1"],
         wanted(settings=replace(NAMED, params={"optimizer.lr": "0.001,0.003,0.1"}))),
        (wanted("+model.x=1,2"), ["model.x=3"], wanted("+model.x=1,2,3")),
        (wanted('data.path=a.txt,"b, c.txt"'), ["data.path='d, e.txt'"],
         wanted("data.path=a.txt,\"b, c.txt\",'d, e.txt'")),
        (wanted("optimizer.lr=1,2"), ["seeds=3"],
         wanted("optimizer.lr=1,2", seeds=[123, 124, 125])),
        (wanted("seed=7,8", seeds=[7, 8]), ["seed=3"], wanted("seed=7,8,3", seeds=[7, 8, 3])),
        (wanted("optimizer.lr=interval(1,2)", settings=DRAWN), ["sweep.trials=5", "seed=9"],
         wanted("optimizer.lr=interval(1,2)", settings=replace(DRAWN, trials=5), seeds=[123, 9])),
        (wanted("optimizer.lr=1,2"), ["optimizer.lr=2", "seeds=1"], wanted("optimizer.lr=1,2")),
    ],
)  # fmt: skip
def test_words_add_values_seeds_and_drawn_points(was, words, grown):
    assert with_words(was, words, None) == grown
    assert with_words(grown, words, None) == grown
    # The whole command that has it all, and the one from before, name the same sweep.
    assert same_or_more(was, grown, None) == grown
    assert same_or_more(grown, was, None) == grown


@pytest.mark.parametrize(
    ("was", "words", "problem"),
    [
        (wanted("model=nano,same"), ["model.n_layers=2"], "grows by values of model, by seeds"),
        (wanted("model=nano"), ["model=same"], "grows by values of seed"),
        (wanted("model=nano,same"), ["sweep.sampler=tpe"], "cannot be added"),
        (wanted("model=nano,same"), ["~model"], "cannot be added"),
        (wanted("model=nano,same"), ["sweep.trials=5"], "listed, not drawn; add values to model"),
        (wanted("model=nano,same"), ["seeds=0"], "seeds: expected int >= 1"),
        (wanted("model=nano,same"), ["seed=x"], "seed: expected int"),
        (wanted("optimizer.lr=1,2"), ["optimizer.lr=x"], "the values of this sweep are numbers"),
        (wanted("optimizer.lr=1,2"), ["optimizer.lr=interval(0,1)"], "list them"),
        (wanted("optimizer.lr=1,2", settings=DRAWN), ["optimizer.lr=3"], "points .* are drawn"),
        (wanted("optimizer.lr=interval(1,2)"), ["optimizer.lr=3"], "points .* are drawn"),
    ],
)
def test_what_cannot_be_added_is_told_in_one_line(was, words, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        with_words(was, words, None)
    assert len(message_lines(caught.value)) == 1


@pytest.mark.parametrize(
    ("was", "now", "change"),
    [
        (wanted("a=1,2", "b=1"), wanted("a=1,2,3", "b=2"), "b=1 is now b=2"),
        (wanted("a=1,2"), wanted("a=1,2", "b=2"), "nothing is now b=2"),
        (wanted("a=1,2"), wanted("a=2,3"), "a=1,2 is now a=2,3"),
        (wanted("a=1,2", "b=1"), wanted("a=1,2", "b=1,2"), "b=1 is now b=1,2"),
        (wanted("a=1,2"), wanted("a=1,2", seeds=[1]), r"the seeds were \[123\], are \[1\]"),
        (wanted("a=1,2"), wanted("a=1,2", settings=replace(NO_SETTINGS, timeout=3)),
         "sweep.timeout was None, is 3"),
        (wanted("a=1,2", settings=DRAWN), wanted("a=1,2,3", settings=DRAWN), "a=1,2 is now"),
        (wanted("a=interval(1,2)"), wanted("a=interval(1,3)"), r"a=interval\(1,2\) is now"),
        # Values that the command lacks may be somebody else's.
        (wanted("a=x,${oc.env:HOME}"), wanted("a=x,y"), "is now a=x,y"),
        (wanted("a=x,y,${oc.env:HOME}"), wanted("a=x,y"), "is now a=x,y"),
    ],
)  # fmt: skip
def test_a_command_that_asks_for_another_sweep_is_told_from_one_that_asks_for_more(
    was, now, change
):
    with pytest.raises(DifferentError, match=change):
        same_or_more(was, now, None)


TINY = [
    *("model.emb_dim=16", "model.n_layers=1", "model.n_heads=2", "model.context_length=16"),
    *("tokenizer=bytes", "callbacks=[checkpoint]", "output_dir=sweep"),
]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@dataclass
class Ended:
    return_value: int = 0


def worker(ledger: Ledger) -> Worker:
    """A worker whose trials take no time: their loss is their number."""

    def launch(jobs: Any, first: int) -> list[Ended]:
        loss = float(first)
        ledger.finish(first, TrialState.COMPLETE, [loss], metrics={"val/loss": loss})
        return [Ended()]

    return Worker(ledger, launch, at_once=1)


def make_all() -> list[tuple[int, str, int]]:
    """Make the trials of the sweep; number, overrides and seed of all."""
    with closing(Ledger.open(Path("sweep"))) as ledger:
        worker(ledger).work()
        rows = ledger.rows()
    assert {row.state for row in rows} == {"done"}
    return [(row.number, " ".join(row.overrides), row.seed) for row in rows]


def extend(*words: str) -> None:
    complete(Path("sweep"), storage=None, config_dir=None, words=list(words))


def test_a_grown_sweep_has_new_trials_beside_those_that_are_done(place, capsys):
    planned([*TINY, "model=nano,modern_nano"], None)
    first = make_all()
    assert first == [(0, "model=nano", 123), (1, "model=modern_nano", 123)]
    extend("model=gpt2_small,nano", "seeds=2")
    assert "added to the sweep: 4 trials\n" in capsys.readouterr().out
    grown = make_all()
    assert grown[:2] == first and len({trial[1:] for trial in grown}) == len(grown) == 6
    with closing(Ledger.open(Path("sweep"))) as ledger:
        for row in ledger.rows():
            assert row.overrides == [f"model={row.params['model']}"]
        assert {row.point for row in ledger.rows()} == {0, 1, 2}  # repetitions share theirs
    # Every command that was ever given is that of this sweep, as is the one that has it all.
    planned([*TINY, "model=nano,modern_nano"], None)
    planned([*TINY, "model=modern_nano,gpt2_small,nano", "seeds=2"], None)
    assert make_all() == grown
    extend("seeds=2")
    assert "nothing is added: the sweep has all of it already\n" in capsys.readouterr().out


def test_a_sweep_with_more_drawn_points_is_the_longer_sweep(place):
    command = [*TINY, "optimizer.lr=int(interval(1,90))"]
    planned([*command, "sweep.trials=1"], None)
    assert len(make_all()) == 1
    extend("sweep.trials=3")
    grown = make_all()
    shutil.rmtree("sweep")
    planned([*command, "sweep.trials=3"], None)
    assert make_all() == grown and len(grown) == 3


def test_a_worker_takes_the_trials_that_are_added_while_it_works(place):
    planned([*TINY, "model.n_layers=range(1,3)"], None)
    with closing(Ledger.open(Path("sweep"))) as ledger:
        at_work = worker(ledger)
        [row] = at_work._take()
        extend("model.n_layers=4")
        assert at_work.launch([], row.number)
        at_work.work()
        params = [found.params["model.n_layers"] for found in ledger.rows()]
    assert params == [1, 2, 4]


def test_a_sweep_whose_launcher_has_lost_a_trial_says_how_to_resume(place):
    planned([*TINY, "optimizer.lr=1e-3,2e-3"], None)

    def losing(jobs: Any, first: int) -> list[Ended]:
        raise LauncherError("hydra/launcher: lost")

    with pytest.raises(RunError, match=r"^hydra/launcher: lost\n.*firstlight sweep resume sweep$"):
        work_on(Path("sweep"), losing, at_once=2)
    with closing(Ledger.open(Path("sweep"))) as ledger:
        worker(ledger).work()
        assert {row.state for row in ledger.rows()} == {"done"}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["model.n_heads=3"], "model.n_heads=3: .*: nothing can be added"),
        (["model.n_heads=1"], "planned with another config: optimizer.weight_decay was 7"),
    ],
)
def test_what_cannot_be_trained_or_has_changed_adds_nothing(place, words, problem):
    planned([*TINY, "model.n_heads=2,4"], None)
    if "another config" in problem:
        record = read_sweep(Path("sweep"))
        record.config["optimizer"]["weight_decay"] = 7
        record.write(Path("sweep"))
    before = Path("sweep/sweep.yaml").read_text()
    with pytest.raises(ConfigError, match=problem) as caught:
        extend(*words)
    assert len(message_lines(caught.value)) == 1
    assert Path("sweep/sweep.yaml").read_text() == before
    assert len(make_all()) == 2


def rows(n: int, seeds: list[int]) -> list[dict[str, Any]]:
    return [
        {"params": {}, "attributes": {"point": point, "seed": seed, "overrides": [f"a={point}"]}}
        for point in range(n)
        for seed in seeds
    ]


def plan_of(n: int, seeds: list[int]) -> SweepPlan:
    record = SweepRecord([], None, {}, vars(NO_SETTINGS), n * len(seeds), seeds, version="0")
    return SweepPlan(record, NO_SETTINGS, rows(n, seeds), [], [])


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", ["kill", "full disk"])
def test_an_extension_that_ends_anywhere_loses_nothing_and_is_completed(tmp_path, how, stride):
    folder, small, large = tmp_path / "sweep", plan_of(2, [1]), plan_of(4, [1, 2])
    original = tmp_path / "original"
    original.mkdir()
    small.record.write(original)
    add_missing(original, small)
    with closing(Ledger.open(original)) as ledger:
        ledger.finish(0, TrialState.COMPLETE, [1.0], metrics={"val/loss": 1.0})

    def grow() -> None:
        large.record.write(folder)
        add_missing(folder, large)

    shutil.copytree(original, folder)
    n_ends = 0
    for _ in ends_of(grow, str(folder), how, stride):
        n_ends += 1
        with closing(Ledger.open(folder)) as ledger:
            found = [(row.overrides[0], row.seed) for row in ledger.rows()]
            assert ledger.rows()[0].state == "done" and len(set(found)) == len(found)
        add_missing(folder, plan_of(len(read_sweep(folder).seeds) * 2, read_sweep(folder).seeds))
        grow()
        with closing(Ledger.open(folder)) as ledger:
            assert sorted((row.point, row.overrides[0], row.seed) for row in ledger.rows()) == [
                (point, f"a={point}", seed) for point in range(4) for seed in (1, 2)
            ]
            assert ledger.rows()[0].state == "done"
        shutil.rmtree(folder)
        shutil.copytree(original, folder)
    assert n_ends > 3
