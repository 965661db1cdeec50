from pathlib import Path
from typing import Annotated, Literal

import pytest
from omegaconf import OmegaConf
from pydantic import Field, PositiveInt

from firstlight.commands.generate import generate
from firstlight.compose.compose import compose_config
from firstlight.compose.yaml_files import following_groups
from firstlight.conf_files import conf_dir
from firstlight.config import (
    FiniteNonNegative,
    Ratio,
    Seed,
    argument,
    build,
    check_config,
    check_node,
)
from firstlight.data.text import TextData
from firstlight.errors import ConfigError
from firstlight.model.base import LanguageModel
from firstlight.model.gpt import GPT
from firstlight.sweep.settings import Settings
from firstlight.training.experiment import Experiment

MODEL = {
    "_target_": "firstlight.model.gpt.GPT",
    "vocab_size": 31,
    "context_length": 8,
    "emb_dim": 12,
    "n_heads": 3,
    "n_layers": 2,
}
TEXT_DATA = {"_target_": "firstlight.data.text.TextData", "_partial_": True, "path": "a.txt"}


def entry(
    *,
    steps: PositiveInt = 1,
    rate: Ratio = 0.0,
    scale: FiniteNonNegative = 1.0,
    seed: Seed = 1,
    betas: tuple[Ratio, Ratio] = (0.9, 0.95),
    kind: Literal["plain", "fancy"] = "plain",
    limit: PositiveInt | None = None,
    path: Path | None = None,
    names: list[str] | None = None,
    counts: list[int] | None = None,
    flag: bool = False,
    size: Annotated[int, Field(ge=257)] = 257,
    model: GPT | None = None,
    data: object = None,
    parts: dict[str, object] | None = None,
) -> None:
    """A function whose signature is the schema of the configs below."""


def checked(**config):
    return check_config(OmegaConf.create(config), entry)


def problems(**config):
    with pytest.raises(ConfigError) as caught:
        checked(**config)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    "config",
    [
        {"steps": 2},
        {"rate": 0},
        {"scale": 2},
        {"seed": 2**32 - 1},
        {"betas": [0, 0.5]},
        {"kind": "fancy"},
        {"limit": None},
        {"limit": 3},
        {"path": "a/b.txt"},
        {"names": ["a", "b"]},
        {"flag": True},
        {"model": MODEL},
    ],
    ids=str,
)
def test_values_that_fit_are_returned_as_they_are(config):
    assert checked(**config) == config


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"steps": 2.5}, "steps: expected int > 0, got 2.5"),
        ({"steps": True}, "steps: expected int > 0, got True"),
        ({"steps": "3"}, "steps: expected int > 0, got '3'"),
        ({"steps": 0}, "steps: expected int > 0, got 0"),
        ({"steps": None}, "steps: expected int > 0, got None"),
        ({"rate": 1.0}, "rate: expected float >= 0 and < 1, got 1.0"),
        ({"rate": -0.1}, "rate: expected float >= 0 and < 1, got -0.1"),
        ({"rate": True}, "rate: expected float >= 0 and < 1, got True"),
        ({"scale": float("inf")}, "scale: expected float >= 0, got inf"),
        ({"scale": float("nan")}, "scale: expected float >= 0, got nan"),
        ({"seed": 2**32}, f"seed: expected int >= 0 and < {2**32}, got {2**32}"),
        ({"betas": [0.9, 1.0]}, "got [0.9, 1.0]"),
        ({"betas": [0.9, 0.9, 0.9]}, "got [0.9, 0.9, 0.9]"),
        ({"betas": 0.9}, "got 0.9"),
        ({"kind": "fancier"}, "kind: expected 'plain' or 'fancy', got 'fancier'"),
        ({"limit": 0}, "limit: expected int > 0 or null, got 0"),
        ({"limit": "none"}, "limit: expected int > 0 or null, got 'none'"),
        ({"names": "a"}, "names: expected list[str] or null, got 'a'"),
        ({"flag": 1}, "flag: expected bool, got 1"),
        ({"flag": "yes"}, "flag: expected bool, got 'yes'"),
        ({"size": 256}, "size: expected int >= 257, got 256"),
        ({"model": 3}, "model: expected GPT or null, got 3"),
    ],
    ids=str,
)
def test_a_value_that_does_not_fit_is_refused_with_what_was_expected(config, problem):
    (line,) = problems(**config)
    assert line.startswith(f"{next(iter(config))}: expected ")
    assert line.endswith(problem)


@pytest.mark.parametrize(
    ("config", "taken"),
    [
        ({"steps": 1e9}, {"steps": 10**9}),
        ({"limit": 3.0}, {"limit": 3}),
        ({"counts": [1e3, 2]}, {"counts": [1000, 2]}),
        ({"model": MODEL | {"emb_dim": 12.0}}, {"model": MODEL | {"emb_dim": 12}}),
        ({"parts": {"a": [MODEL | {"n_heads": 3.0}]}}, {"parts": {"a": [MODEL | {"n_heads": 3}]}}),
        ({"rate": 0.0, "scale": 2.0, "steps": 2.0}, {"rate": 0.0, "scale": 2.0, "steps": 2}),
    ],
    ids=str,
)
def test_a_whole_float_is_taken_where_an_int_is_wanted_and_nowhere_else(config, taken):
    assert repr(checked(**config)) == repr(taken)


def test_a_float_that_is_no_int_in_range_is_shown_as_it_was_given():
    assert problems(steps=-2.0, limit=1.5, seed=1e300, kind=1.0, size=1e3, scale=float("inf")) == [
        "steps: expected int > 0, got -2.0",
        "limit: expected int > 0 or null, got 1.5",
        f"seed: expected int >= 0 and < {2**32}, got 1e+300",
        "kind: expected 'plain' or 'fancy', got 1.0",
        "scale: expected float >= 0, got inf",
    ]


def test_all_problems_are_reported_at_once():
    model = MODEL | {"emb_dimm": 3, "n_layers": 2.5, "drop_rate": 1.5, "init": "gpt3"}
    del model["n_heads"]
    assert sorted(problems(steps=-1, speed=3, model=model)) == [
        "model.drop_rate: expected float >= 0 and < 1, got 1.5",
        "model.emb_dimm: GPT has no 'emb_dimm'; did you mean 'emb_dim'?",
        "model.init: expected 'torch' or 'gpt2', got 'gpt3'",
        "model.n_layers: expected int > 0 and <= 512, got 2.5",
        "model: GPT needs 'n_heads'",
        "speed: no such key; did you mean 'seed'?",
        "steps: expected int > 0, got -1",
    ]


def test_a_name_like_no_other_gets_no_advice():
    assert problems(zzz=1) == ["zzz: no such key"]


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        (
            TEXT_DATA | {"batch_sizee": 2},
            "data.batch_sizee: TextData has no 'batch_sizee'; did you mean 'batch_size'?",
        ),
        (
            TEXT_DATA | {"batch_size": 2.5},
            "data.batch_size: expected int > 0 and <= 1048576, got 2.5",
        ),
        (
            {"_target_": "firstlight.training.trainer.Trainer", "_partial_": True, "max_step": 3},
            "data.max_step: Trainer has no 'max_step'; did you mean 'max_steps'?",
        ),
        (
            {
                "_target_": "firstlight.training.trainer.Trainer",
                "_partial_": True,
                "enable_progres_bar": True,
            },
            (
                "data.enable_progres_bar: Trainer has no 'enable_progres_bar'; did you mean"
                " 'enable_progress_bar'?"
            ),
        ),
        (
            {"_target_": "torch.optim.AdamW", "_partial_": True, "lrr": 1},
            "data.lrr: AdamW has no 'lrr'; did you mean 'lr'?",
        ),
        (
            {
                "_target_": "lightning.pytorch.callbacks.EarlyStopping",
                "monitor": "val/loss",
                "patience": "three",
            },
            "data.patience: expected int > 0 and <= 1000000000000, got 'three'",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arguments_of_parents_and_of_other_peoples_classes_are_checked_too(node, problem):
    assert problems(data=node) == [problem]


def test_nodes_are_checked_wherever_they_are():
    assert problems(parts={"a": [{"b": MODEL | {"n_heads": 0}}]}) == [
        "parts.a.0.b.n_heads: expected int > 0 and <= 65536, got 0"
    ]


def test_a_partial_node_may_lack_arguments_that_a_whole_one_needs():
    whole = {key: value for key, value in MODEL.items() if key != "vocab_size"}
    assert problems(data=whole) == ["data: GPT needs 'vocab_size'"]
    assert build(checked(data=whole | {"_partial_": True}))["data"](vocab_size=5).vocab_size == 5


def test_a_value_that_is_still_missing_is_asked_for():
    assert problems(data=TEXT_DATA | {"path": "???"}) == [
        "data.path: a value is needed; give data.path=..."
    ]


def test_what_a_constructor_refuses_is_reported_with_the_name_of_its_section():
    plain = checked(model=MODEL | {"emb_dim": 100})
    with pytest.raises(ConfigError) as caught:
        build(plain)
    assert str(caught.value) == "model: emb_dim (100) must be divisible by n_heads (3)"


def test_a_list_is_built_into_what_the_signature_asks_for():
    data = build(checked(data=TEXT_DATA | {"path": ["a.txt", "b.txt"]}))["data"]
    assert data(tokenizer=None, order=None, context_length=4).path == ["a.txt", "b.txt"]
    assert data.func is TextData


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.run",
        "builtins.eval",
        "torch.hub.load",
        "firstlightx.Model",
        "firstlight",
        3,
    ],
)
def test_a_target_outside_the_known_packages_is_refused(target):
    (line,) = problems(data={"_target_": target})
    assert line.startswith(f"data._target_: {target!r} is not in a package that a config may name")
    assert "FIRSTLIGHT_ALLOW_TARGETS" in line


@pytest.mark.parametrize(
    "target",
    [
        "firstlight.config.os.system",
        "firstlight.checkpoints.checkpoint.torch.hub.load",
        "torch.optim.adam.torch.load",
    ],
)
def test_a_known_package_is_no_way_to_what_it_has_imported(target):
    (line,) = problems(data={"_target_": target, "_partial_": True})
    assert line.startswith("data._target_: ")


def test_a_target_that_is_not_there_is_refused():
    (line,) = problems(data={"_target_": "firstlight.model.gpt.GTP"})
    assert line.startswith("data._target_: 'firstlight.model.gpt.GTP' cannot be imported")


def test_packages_of_ones_own_can_be_allowed(tmp_path, monkeypatch):
    (tmp_path / "my_experiments.py").write_text(
        "class Thing:\n    def __init__(self, *, size: int): self.size = size\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    node = {"_target_": "my_experiments.Thing", "size": 3}
    assert len(problems(data=node)) == 1
    monkeypatch.setenv("FIRSTLIGHT_ALLOW_TARGETS", "others, my_experiments")
    assert build(checked(data=node))["data"].size == 3
    assert problems(data=node | {"size": "x"}) == ["data.size: expected int, got 'x'"]


def test_a_package_of_ones_own_that_is_not_allowed_or_not_found_is_named_with_the_way_out(
    monkeypatch,
):
    (line,) = problems(data={"_target_": "my_lab.losses.Mine"})
    way_out = "set FIRSTLIGHT_ALLOW_TARGETS=my_lab, or declare its entry point firstlight.conf"
    assert line.endswith(way_out)
    monkeypatch.setenv("FIRSTLIGHT_ALLOW_TARGETS", "my_lab")
    (line,) = problems(data={"_target_": "my_lab.losses.Mine"})
    assert line.endswith("; install my_lab, or add the folder that holds it to PYTHONPATH")


def test_a_defect_of_a_class_of_ones_own_keeps_its_traceback(tmp_path, monkeypatch):
    (tmp_path / "my_defects.py").write_text(
        "class Thing:\n    def __init__(self): self.no_such_attribute\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FIRSTLIGHT_ALLOW_TARGETS", "my_defects")
    with pytest.raises(AttributeError, match="no_such_attribute"):
        build({"_target_": "my_defects.Thing"})


def test_an_option_given_in_place_of_a_section_is_told_how_it_is_chosen():
    config = compose_config("train", ["callbacks.sample_generation.decoding=greedy"])
    section = OmegaConf.masked_copy(
        config, [key for key in config if key not in ("sweep", "seeds")]
    )
    with pytest.raises(ConfigError) as caught:
        check_config(section, Experiment)
    chosen = "decoding@callbacks.sample_generation.decoding=greedy"
    assert str(caught.value).endswith(f"to choose an option by its name: {chosen}")


@pytest.mark.parametrize("node", [None, 3, [], {}, {"vocab_size": 3}], ids=repr)
def test_a_section_that_is_no_call_is_refused(node):
    with pytest.raises(ConfigError, match=r"^model: expected a section with a _target_"):
        check_node("model", node, LanguageModel)


NEEDED = {
    ("data", "text"): ["data.path=x"],
    ("data", "huggingface"): ["data.dataset=x"],
    ("data", "shards"): ["data.path=x"],
    ("data", "hub"): ["data.dataset=a/b", "data.files=x"],
    ("callbacks", "timer"): ["callbacks.timer.duration=00:00:01:00"],
}
"""What must be given with an option."""


def options():
    """Every YAML of every group of conf/, as the overrides that choose it."""
    for file in sorted(Path(conf_dir()).glob("*/*.yaml")):
        group, option = file.parent.name, file.stem
        # model=same stands for the section of init_from, which takes its place before the check.
        # A corpus is chosen for prepare, a cluster for plan: tests/prepare/test_corpora.py,
        # tests/plan/test_cluster.py.
        if option.startswith("base") or (group, option) == ("model", "same"):
            continue
        # Rules come with their model: tests/test_dial.py.
        if group in ("corpus", "cluster", *following_groups()):
            continue
        if group == "callbacks":
            chosen = ["~experiment", f"callbacks=[{option}]"]
        elif group == "decoding":
            chosen = [f"decoding@callbacks.sample_generation.decoding={option}"]
        elif group == "logger":
            chosen = [f"logger=[{option}]"]
        else:
            chosen = [f"{group}={option}"]
        if (group, option) in NEEDED:
            chosen += NEEDED[group, option]
        yield pytest.param(chosen, id=f"{group}={option}")


@pytest.mark.parametrize("overrides", list(options()))
@pytest.mark.one_in(3)
def test_every_option_of_the_configuration_is_a_valid_call(overrides):
    config = compose_config("train", overrides)
    check_config(config["sweep"], Settings, "sweep")
    check_config(
        OmegaConf.masked_copy(config, [key for key in config if key not in ("sweep", "seeds")]),
        Experiment,
    )


@pytest.mark.parametrize(
    "option", [file.stem for file in sorted(Path(conf_dir(), "decoding").glob("*.yaml"))]
)
def test_every_decoding_can_be_chosen_for_generate(option):
    overrides = [f"decoding={option}", "checkpoint=last", "prompt=Once"]
    check_config(compose_config("generate", overrides), generate)


def test_an_argument_that_a_section_leaves_out_has_the_default_of_its_signature():
    trainer = {"_target_": "firstlight.training.trainer.Trainer", "devices": 2}
    assert argument(trainer, "devices") == 2
    assert argument(trainer, "precision") == "32-true"
    assert argument(trainer, "accelerator") == "auto"  # an argument of Lightning's
