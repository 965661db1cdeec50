"""What is swept over: values as Hydra's grammar has them, and conditions between them."""

import pytest
from no_settings import NO_SETTINGS
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from firstlight.errors import ConfigError
from firstlight.sweep.settings import Settings
from firstlight.sweep.space import space_of


def settings(**changes) -> Settings:
    return Settings(**(vars(NO_SETTINGS) | changes))


def points(*overrides, **changes):
    space = space_of(list(overrides), settings(**changes))
    return [" ".join(space.overrides(point)) for point in space.grid()]


@pytest.mark.parametrize(
    ("override", "distribution"),
    [
        ("optimizer.lr=1e-3,3e-3", CategoricalDistribution([1e-3, 3e-3])),
        ("model=nano,modern_nano", CategoricalDistribution(["nano", "modern_nano"])),
        ("compile=true,false", CategoricalDistribution(["True", "False"])),
        ("model.n_layers=range(1,6,2)", IntDistribution(1, 5, step=2)),
        ("model.drop_rate=interval(0.0,0.5)", FloatDistribution(0, 0.5)),
        ("model.n_layers=int(interval(1,5))", IntDistribution(1, 5)),
        ("optimizer.lr=tag(log,interval(1e-4,1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("model.emb_dim=tag(log,int(interval(16,64)))", IntDistribution(16, 64, log=True)),
    ],
)
def test_values_become_distributions(override, distribution):
    [parameter] = space_of([override], NO_SETTINGS).parameters
    assert parameter.distribution == distribution


@pytest.mark.parametrize("values", ["shuffle(range(1,30))", "shuffle(1,2,3,4,5,6,7,8,9)"])
def test_shuffled_values_are_given_by_their_own_overrides(values):
    [parameter] = space_of([f"model.n_layers={values}"], NO_SETTINGS).parameters
    assert all(parameter.override(value) == f"model.n_layers={value}" for value in parameter.ends())


@pytest.mark.parametrize("values", ["shuffle(range(1,30))", "shuffle(1,2,3,4,5,6,7,8,9)"])
def test_the_order_of_shuffled_values_follows_from_the_seed_of_the_sweep(values):
    override = f"model.n_layers={values}"
    first, again = points(override), points(override)
    assert first == again
    other = points(override, seed=1)
    assert other != first and sorted(other) == sorted(first)
    assert first != points(override.replace("shuffle", "sort"))
    # Optuna refuses a study whose choices change from trial to trial.
    assert space_of([override], NO_SETTINGS) == space_of([override], NO_SETTINGS)


def test_a_grid_has_every_point_once_the_last_key_fastest():
    assert points("seed=7", "optimizer.lr=1e-3,1e-4", "model.n_layers=1,2") == [
        "optimizer.lr=0.001 model.n_layers=1",
        "optimizer.lr=0.001 model.n_layers=2",
        "optimizer.lr=0.0001 model.n_layers=1",
        "optimizer.lr=0.0001 model.n_layers=2",
    ]


def test_a_key_with_a_condition_is_set_only_where_it_holds():
    given = points(
        "optimizer=adamw,muon",
        "optimizer.momentum=0.9,0.95",
        only_if=["optimizer.momentum if optimizer=muon"],
    )
    assert given == [
        "optimizer=adamw",
        "optimizer=muon optimizer.momentum=0.9",
        "optimizer=muon optimizer.momentum=0.95",
    ]


def test_the_command_line_comes_before_the_values_of_the_section():
    params = {"optimizer.lr": "1e-3,1e-4", "trainer.max_steps": 10, "compile": False}
    space = space_of(["trainer.max_steps=20"], settings(params=params))
    assert space.fixed == ["compile=false", "trainer.max_steps=20"]
    assert [p.key for p in space.parameters] == ["optimizer.lr"]


def test_of_a_key_that_is_given_twice_the_last_counts():
    space = space_of(
        [
            "seed=1",
            "optimizer.lr=1,2",
            "model.n_layers=3",
            "seed=2",
            "optimizer.lr=5",
            "model.n_layers=4,5",
        ],
        NO_SETTINGS,
    )
    assert space.fixed == ["seed=2", "optimizer.lr=5"]
    assert [parameter.override(4) for parameter in space.parameters] == ["model.n_layers=4"]


def test_a_condition_may_be_written_as_another_number():
    given = points(
        "optimizer.lr=1e-3,1e-2",
        "model.n_layers=1,2",
        only_if=["model.n_layers if optimizer.lr=0.001"],
    )
    assert len(given) == 3


def test_examples_show_every_choice_and_of_an_interval_both_ends_and_a_number_that_is_not_whole():
    space = space_of(["optimizer.lr=interval(0.1,0.5)", "model.n_layers=1,2,3"], NO_SETTINGS)
    shown = {override for point in space.examples() for override in space.overrides(point)}
    assert shown == {
        "optimizer.lr=0.1",
        "optimizer.lr=0.3472",
        "optimizer.lr=0.5",
        "model.n_layers=1",
        "model.n_layers=2",
        "model.n_layers=3",
    }


@pytest.mark.parametrize(
    ("overrides", "changes", "words"),
    [
        (
            ["optimizer.lr=interval(2,1)"],
            {},
            r"optimizer.lr=interval\(2,1\): its first end must be below",
        ),
        (["optimizer.lr=tag(log,interval(0,1))"], {}, r"must be above 0 on a logarithmic"),
        (["model.n_layers=tag(log,int,interval(0.5,8))"], {}, "not values to sweep over"),
        (["optimizer.lr=1e-3,0.001"], {}, "there twice"),
        (["seed=1,2"], {"only_if": ["model.n_layers if optimizer=muon"]}, "not swept over"),
        (
            ["model.n_layers=1,2", "optimizer=adamw,muon"],
            {"only_if": ["model.n_layers if optimizer=muon"]},
            "before",
        ),
        (
            ["optimizer=adamw,muon", "optimizer.lr=1,2"],
            {"only_if": ["optimizer.lr if optimizer=moun"]},
            "never holds",
        ),
        (
            ["optimizer.lr=1,2"],
            {"only_if": ["optimizer.lr if optimizer=muon"]},
            "neither swept over nor given",
        ),
        (["optimizer.lr=1,2"], {"only_if": ["optimizer.lr"]}, "KEY if OTHER=VALUE"),
        (["optimizer.lr=tag(lgo,interval(1,2))"], {}, "unknown tag lgo"),
        (["model.n_layers=range(3,1)"], {}, "no value in it"),
        (["model.n_layers=range(0,10000)"], {}, "at most 1,000"),
    ],
)
def test_what_cannot_be_swept_over_is_told(overrides, changes, words):
    with pytest.raises(ConfigError, match=words):
        space_of(overrides, settings(**changes))


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("interval(0.1234567,0.2)", ["0.123457", "0.2", "0.15"], ["0.1", "0.201", "-5", "1e-9"]),
        ("tag(int,interval(1,5))", ["1", "5"], ["0", "6", "2.5", "-3"]),
    ],
)
def test_of_an_interval_only_what_lies_in_it_is_an_override(interval, inside, outside):
    [parameter] = space_of([f"a={interval}"], settings()).parameters
    assert [text for text in (*inside, *outside) if parameter.has(f"a={text}")] == inside
    assert not parameter.has(f"b={inside[0]}")
