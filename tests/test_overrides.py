import shutil
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Union

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from firstlight.board.command import board
from firstlight.commands import evaluate, export, generate, info
from firstlight.compare.settings import CompareSettings
from firstlight.compose.arguments import parse_arguments
from firstlight.compose.compose import compose_config, slug
from firstlight.compose.hydra_calls import parse_overrides
from firstlight.conf_files import conf_dir, text_keys
from firstlight.config import _locate, _signature
from firstlight.coord_check.settings import CoordSettings
from firstlight.ladder.settings import LadderSettings
from firstlight.lr_find.settings import RangeSettings
from firstlight.overrides import command, named, program, ready, setting, typed
from firstlight.sweep import command as sweep
from firstlight.sweep.settings import Settings as OfSweep
from firstlight.training.experiment import Experiment

NAMES = [
    *(
        "a=b",
        "my run (1)",
        "a, b",
        "été",
        "文本",
        "R&D",
        "it's",
        "2024",
        "1e5",
        "x#1",
        "{x}",
        "[x]",
        "true",
        "null",
    ),
    *(
        "~/x",
        "~nobody",
        "a\\b",
        "\\",
        '"',
        'a"b',
        'a\\"b',
        "$x",
        "$(x)",
        "`x`",
        " x",
        "x ",
        "???",
        "-x",
        "1_0",
        ".5",
    ),
    *(
        "007",
        "inf",
        "a\tb",
        "*",
        "!x",
        "^",
        "a:b",
        "key: v",
        "x|y",
        '"a", "b"',
        "'a",
        "a\\",
        "range(1,2)",
        "glob(*)",
    ),
    *("choice(a,b)", "tag(x)", "<x>", "x;y", "a@b", "%", "+x", "last", "🏮"),
]


def value_of(verb: str, key: str, *words: str) -> Any:
    """The value of `key` in the config that is composed of words as they are typed."""
    config = compose_config(verb, parse_arguments(verb, list(words)).overrides)
    node: Any = OmegaConf.to_container(config, resolve=True)
    for name in key.split("."):
        node = node[name]
    return node


@pytest.mark.parametrize("name", NAMES)
def test_a_text_is_taken_as_it_is_typed(name):
    assert value_of("info", "checkpoint", f"checkpoint={name}") == name
    if not name.startswith("["):
        assert value_of("train", "data.path", "data=text", f"data.path={name}") == name


def test_every_kind_of_text_key_is_one_that_is_typed():
    for verb, key, group in (
        *(
            ("train", key, None)
            for key in ("name", "output_dir", "init_from", "resume", "sweep.storage")
        ),
        *(("train", f"data.{key}", "data=the_verdict") for key in ("url", "folder")),
        *(
            ("train", f"logger.mlflow.{key}", "logger=[mlflow]")
            for key in ("tracking_uri", "artifacts")
        ),
        *(
            ("train", f"logger.wandb.{key}", "logger=[wandb]")
            for key in ("project", "entity", "tags")
        ),
        *(
            ("generate", key, None)
            for key in ("checkpoint", "prompts", "lookup_text", "stop", "prompt")
        ),
        *(
            ("evaluate", "tasks", None),
            ("export", "out", None),
            ("compare", "out", None),
            ("sweep", "folder", None),
        ),
    ):
        assert (
            value_of(verb, key, *([group] if group else []), f"{key}=a=b, (1) é #2")
            == "a=b, (1) é #2"
        ), key


ALIKE = [name for name in NAMES if not name.startswith("[")]  # which only some keys take for a list


@pytest.mark.parametrize("text", [*ALIKE, "'q'", '"q"', "\"'q'\"", "'q'x", "''q''"])
def test_every_text_is_read_alike(text):
    words = ["data=text", *(f"{key}={text}" for key in ("data.path", "output_dir", "name"))]
    config = compose_config("train", parse_arguments("train", words).overrides)
    assert config.data.path == config.output_dir == config.name


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("data.path=[a.txt,b.txt]", ["a.txt", "b.txt"]),
        ("data.path=[a=b.txt, my text (1).txt]", ["a=b.txt", "my text (1).txt"]),
        ("data.path=[\"a, b\",'c, d',it's,2024]", ["a, b", "c, d", "it's", "2024"]),
        ("data.path=[]", []),
        ('data.path="[x]"', "[x]"),
        ('data.path="my text (1)"', "my text (1)"),
        ("data.path='a, b'", "a, b"),
        ("data.path=null", "null"),  # a file of that name: there is no data without a path
    ],
)
def test_lists_and_quotes_of_hydras_are_what_they_were(word, value):
    assert value_of("train", "data.path", "data=text", word) == value


def test_null_is_nothing_where_a_key_may_have_no_value():
    assert value_of("train", "init_from", "init_from=null") is None
    assert value_of("compare", "out", "runs=a", "out=null") is None
    assert value_of("generate", "prompt", "prompt=null") == "null"


def test_an_interpolation_in_a_text_is_resolved(monkeypatch):
    monkeypatch.setenv("FIRSTLIGHT_TEST_PLACE", "/some where")
    for text in ("${oc.env:FIRSTLIGHT_TEST_PLACE}/x", "${oc.env:FIRSTLIGHT_TEST_PLACE}/x (1)=2"):
        assert value_of("info", "checkpoint", f"checkpoint={text}").startswith("/some where/x")


@pytest.mark.parametrize(
    ("value", "values"),
    [
        ("a.txt,b.txt", ["a.txt", "b.txt"]),
        ("a=b.txt,my text (1).txt", ["a=b.txt", "my text (1).txt"]),
        ('"a, b",c', ["a, b", "c"]),
        ("2024,2025", ["2024", "2025"]),
        ("[a,b c],[d]", [["a", "b c"], ["d"]]),
        ("choice(a,b)", ["a", "b"]),
        ('"a, b"', ["a, b"]),
    ],
)
def test_texts_between_commas_are_a_sweep_with_m(value, values):
    words = parse_arguments("train", ["-m", "data=text", f"data.path={value}"]).overrides
    [override] = parse_overrides(words[1:])
    texts = list(override.sweep_string_iterator()) if override.is_sweep_override() else [value]
    assert [parse_overrides([f"data.path={text}"])[0].value() for text in texts] == values
    for text in texts:  # as the trial of each gets it
        assert parse_overrides([ready(typed(f"data.path={text}"))])[0].value() in values


def test_what_hydra_escapes_in_a_sweep_is_typed_as_it_was():
    assert typed(r"data.path=$\{oc.env\:HOME\}/x.txt") == "data.path=${oc.env:HOME}/x.txt"


@pytest.mark.parametrize("key", ["data.path", "checkpoint", "callbacks.sample_generation.prompt"])
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_any_text_survives_hydras_grammar_and_the_way_back(key, text):
    override = setting(key, text)
    [parsed] = parse_overrides([override])
    assert OmegaConf.create({"x": parsed.value()}).x == text
    again = ready(typed(override))
    assert OmegaConf.create({"x": parse_overrides([again])[0].value()}).x == text


STEERING = [
    "a\nb",
    "x\n:;touch pasted\n",
    "it's!\x1b[31m\\",
    "\x1b]0;title\x07",
    "\u202egpj",
    "été\xa0\x9b31m",
    "-\n",
    "\r\n",
]


@pytest.mark.parametrize("name", [*NAMES, "${x}", *STEERING])
def test_a_command_that_is_printed_can_be_pasted_into_a_shell(name):
    shell = "sh" if name.isprintable() else shutil.which("bash")
    if shell is None:
        pytest.skip("control characters are written for bash, zsh and ksh")
    for verb, key in (("generate", "checkpoint"), ("train", "resume"), ("sweep", "folder")):
        words = [named(key, name)] if verb == "sweep" else [setting(key, name)]
        line = command(verb, *(["resume"] if verb == "sweep" else []), *words)
        assert line.isprintable()
        script = f'program() {{ printf "%s\\0" "$@"; }}\nprogram {line.partition(" ")[2]}'
        printed = subprocess.run([shell, "-c", script], capture_output=True, check=True)
        verb_again, *rest = printed.stdout.decode().split("\0")[:-1]
        assert verb_again == verb
        overrides = parse_arguments(verb, rest).overrides
        given = {o.key_or_group: o.value() for o in parse_overrides(overrides)}
        assert OmegaConf.create({"x": given[key]}).x == name


def test_a_command_is_printed_where_the_working_folder_was_removed(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    monkeypatch.setenv("PATH", "")
    (tmp_path / "gone").rmdir()
    assert (
        command("train", "seed=1") == f"{Path(sys.executable).parent / 'firstlight'} train seed=1"
    )


def test_a_program_that_is_not_installed_is_run_as_a_module(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    assert program("firstlight") == "bin/python -m firstlight"
    (tmp_path / "bin" / "firstlight").touch()
    assert program("firstlight") == "bin/firstlight"


def test_a_path_with_an_equals_sign_may_be_given_as_a_word_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("lr=1", "lr=2"):
        Path(name).mkdir()
    assert parse_arguments("compare", ["lr=1", "lr=2"]).overrides == ['runs=["lr=1","lr=2"]']
    assert parse_arguments("sweep", ["status", "lr=1"]).overrides == [
        "action=status",
        'folder="lr=1"',
    ]
    assert parse_arguments("compare", ["~/a", "~/b"]).overrides == ['runs=["~/a","~/b"]']


def test_the_folder_of_a_trial_has_a_name_that_a_file_system_takes():
    assert len(slug("data.path=" + "文本" * 100).encode()) <= 255
    assert slug("data.path=" + "文本" * 100).startswith("data.path-文本")


def test_a_class_of_the_users_marks_its_texts_as_ours_do(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("file: ??? # text: where it is\nsize: 1 # of it\n")
    assert ready("data.file=a=b (1)", str(tmp_path)) == 'data.file="a=b (1)"'
    assert ready("data.size=1", str(tmp_path)) == "data.size=1"


def test_a_config_dir_may_be_called_anything(tmp_path):
    folder = tmp_path / "my conf, (1)=é"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "mine.yaml").write_text("defaults:\n  - nano\nn_layers: 1\n")
    assert compose_config("train", ["model=mine"], str(folder)).model.n_layers == 1


def is_text(hint: Any) -> bool:
    """May a value of this hint be any text, and is it else nothing but null, or a list of texts?"""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated or origin is list:
        return is_text(args[0])
    if origin in (Union, types.UnionType):
        others = [arg for arg in args if arg is not type(None)]
        # Annotated[int, ...] is an int, too.
        bare = {typing.get_args(arg)[0] if typing.get_args(arg) else arg for arg in others}
        return any(map(is_text, others)) and not {int, float, bool} & bare
    return hint is str


def signatures() -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """Where in a config the arguments of a call are, the call, and those that its YAML file has."""
    for verb, entry in {
        "_run": Experiment,
        "info": info.info,
        "generate": generate.generate,
        "evaluate": evaluate.evaluate,
        "export": export.export,
        "sweep": sweep._settings,
        "compare": CompareSettings,
        "board": board,
    }.items():
        yield (
            "",
            entry,
            yaml.safe_load((Path(conf_dir()) / f"{verb}.yaml").read_text(encoding="utf-8")),
        )
    for section, entry, name in (
        ("sweep", OfSweep, "sweep/default.yaml"),
        ("lr_find", RangeSettings, "lr-find.yaml"),
        ("coord_check", CoordSettings, "coord-check.yaml"),
        ("ladder", LadderSettings, "ladder.yaml"),
    ):
        node = yaml.safe_load((Path(conf_dir()) / name).read_text(encoding="utf-8"))
        yield section, entry, node.get(section, node)
    for file in sorted(Path(conf_dir()).glob("*/*.yaml")):
        nodes = [(file.parent.name, yaml.safe_load(file.read_text(encoding="utf-8")))]
        while nodes:
            path, node = nodes.pop()
            if "_target_" in node:
                yield path, _locate(node["_target_"]), node
            nodes += [
                (f"{path}.{key}", child) for key, child in node.items() if isinstance(child, dict)
            ]


def test_every_key_of_a_signature_that_is_a_text_is_marked_in_its_yaml_file():
    keys, nullable = text_keys(), dict[str, bool]()
    for path, call, node in signatures():
        parameters, hints = _signature(call)
        for key in node:
            where = f"{path}.{key}".lstrip(".")
            if key not in parameters or not is_text(hints.get(key)):
                continue
            assert where in keys, f"{where} is a text: begin its comment in conf/ with 'text: '"
            arguments = typing.get_args(hints[key])
            nullable[where] = nullable.get(where, False) or type(None) in arguments
            is_list = typing.get_origin(hints[key]) is list or any(
                typing.get_origin(a) is list for a in arguments
            )
            is_list |= any(
                typing.get_origin(typing.get_args(a)[0]) is list
                for a in arguments
                if typing.get_args(a)
            )
            assert keys[where].may_be_list == is_list, (
                f"{where}: begin its comment with 'text or list: '"
            )
    assert set(nullable) == set(keys), (
        f"marked as texts, but not so declared: {set(keys) - set(nullable)}"
    )
    for where, may_be_null in nullable.items():
        assert keys[where].may_be_null == may_be_null, (
            f"{where}: say in its comment what null means, if it may be null"
        )
