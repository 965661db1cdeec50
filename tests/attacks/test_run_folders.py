"""A run folder from somebody else: its config is data. Nothing of it is called, resolved or
followed.
"""

import os
import shutil
import time
from pathlib import Path

import pytest
import yaml
from doors import MARKER, RESUME, TOUCH
from spoil import hostile_json, within

from firstlight.cli import main
from firstlight.commands.train import arguments
from firstlight.compose.resumed import resumed_config
from firstlight.errors import ConfigError
from firstlight.runs.run_folder import RunFolder

GO_ON = ["train", "resume=run", *RESUME]
SECRET = "open-sesame-4b1d"
CONFIG = Path("run/.hydra/config.yaml")


@pytest.fixture
def run(trained, monkeypatch):
    """A copy of a good run, and a secret in the environment."""
    monkeypatch.setenv("FIRSTLIGHT_TEST_SECRET", SECRET)
    return shutil.copytree(trained, "run")


def change(key, value):
    """The config of the run with another value for a dotted key."""
    config = yaml.safe_load(CONFIG.read_text())
    *parents, last = key.split(".")
    node = config
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = value
    CONFIG.write_text(yaml.safe_dump(config))


def continued():
    """The config that the run would go on with, checked."""
    return arguments(resumed_config(["resume=run", *RESUME]))


def call(target, **values):
    return {"_target_": target, **values}


SYSTEM = call("os.system", command=TOUCH)
CALLS = {
    "a callback": ("callbacks.evil", SYSTEM),
    "a callback that is partial": ("callbacks.evil", {**SYSTEM, "_partial_": True}),
    "arguments by place": ("callbacks.evil", call("os.system", _args_=[TOUCH])),
    "the model": ("model", SYSTEM),
    "the optimizer": ("optimizer", SYSTEM),
    "a logger": ("logger.evil", SYSTEM),
    "a text": ("data.path", SYSTEM),
    "within a list": ("data.path", ["text.txt", SYSTEM]),
    "within a list in a list": ("data.path", [["text.txt", [SYSTEM]]]),
    "a value of a callback": ("callbacks.checkpoint.monitor", SYSTEM),
    "a name": ("name", SYSTEM),
    "exec": ("callbacks.evil", call("builtins.exec", _args_=[f"open({str(MARKER)!r}, 'w')"])),
    "eval": ("callbacks.evil", call("builtins.eval", _args_=[f"open({str(MARKER)!r}, 'w')"])),
    "a process": ("callbacks.evil", call("subprocess.check_call", args=TOUCH.split())),
    "torch.load": ("callbacks.evil", call("torch.load", f="evil.pth", weights_only=False)),
    "a path": (
        "callbacks.evil",
        call("pathlib.Path.touch", _args_=[call("pathlib.Path", _args_=[str(MARKER)])]),
    ),
    "a file to remove": (
        "callbacks.evil",
        call("pathlib.Path.unlink", _args_=[call("pathlib.Path", _args_=["x"])]),
    ),
    "hydra": ("callbacks.evil", call("hydra.utils.instantiate", config=SYSTEM)),
    "a method of hydra": ("callbacks.evil", call("hydra.utils.get_method", path="os.system")),
    "our builder": ("callbacks.evil", call("firstlight.config.build", node=SYSTEM)),
    "a module of a module": ("callbacks.evil", call("firstlight.cli.os.system", command=TOUCH)),
    "a function of lightning": (
        "callbacks.evil",
        call("lightning.pytorch.callbacks.os.system", command=TOUCH),
    ),
    "a hook of lightning": (
        "callbacks.evil",
        call(
            "lightning.pytorch.callbacks.LambdaCallback", on_fit_start={**SYSTEM, "_partial_": True}
        ),
    ),
    "a target that is none": ("callbacks.evil", call(["os.system"])),
    "a module that does not exist": (
        "callbacks.evil",
        call("firstlight.training.callbacks.evil.Evil"),
    ),
}


@pytest.mark.parametrize(("key", "node"), CALLS.values(), ids=CALLS)
def test_a_call_in_the_config_is_refused_by_its_name(key, node, run):
    change(key, node)
    with pytest.raises(ConfigError) as caught:
        continued()
    line = str(caught.value).splitlines()[0]
    assert line.startswith(key) and "_target_" in line
    assert not MARKER.exists()


@pytest.mark.parametrize("name", ["a callback", "torch.load", "a file to remove"])
def test_a_call_in_the_config_is_refused_at_the_door(name, run, refusal):
    change(*CALLS[name])
    assert "_target_" in refusal(GO_ON, several=True)


INTERPOLATIONS = {
    "the environment": "${oc.env:FIRSTLIGHT_TEST_SECRET}",
    "a part of it": "x/${oc.env:FIRSTLIGHT_TEST_SECRET}/y",
    "a default": "${oc.env:FIRSTLIGHT_NO_SUCH,x}",
    "decoded": "${oc.decode:${oc.env:FIRSTLIGHT_TEST_SECRET}}",
    "a config": f"${{oc.create:{{_target_: os.system, command: {TOUCH}}}}}",
    "a decoded text": "${oc.decode:'[1, 2]'}",
    "hydra": "${hydra:runtime.cwd}",
    "a time": "${now:%Y}",
    "another key": "${data.path}",
    "ours": "${text:7465787}",
    "stored": "${stored:746578742e747874}",
    "nothing": "${x",
    "missing": "???",
}


@pytest.mark.parametrize("text", INTERPOLATIONS.values(), ids=INTERPOLATIONS)
def test_an_interpolation_is_not_resolved(text, run):
    change("data.path", text)
    if "oc.env" in text:
        with pytest.raises(ConfigError, match=r"data.path: came from the environment") as caught:
            continued()
        assert SECRET not in str(caught.value)
    else:
        assert continued()["data"]["path"] == text


@pytest.mark.parametrize("name", ["the environment", "a config", "hydra"])
def test_an_interpolation_is_not_resolved_at_the_door(name, run, refusal):
    change("data.path", INTERPOLATIONS[name])
    line = refusal(GO_ON)
    assert SECRET not in line and INTERPOLATIONS[name] in line


def test_an_interpolation_in_the_place_of_a_number_or_a_section_is_refused(run):
    for key in ("data.batch_size", "model"):
        change(key, "${oc.decode:'{a: 1}'}")
        with pytest.raises(ConfigError, match=rf"{key}: expected"):
            continued()


def test_a_text_that_looks_like_an_interpolation_is_a_text(run, capfd):
    prompt = "${oc.decode:'[1,2]'} costs ${x}"
    change("callbacks.sample_generation.prompt", prompt)
    assert main(GO_ON) == 0
    assert prompt in Path("run/samples.txt").read_text()
    assert yaml.safe_load(CONFIG.read_text())["callbacks"]["sample_generation"]["prompt"] == prompt


def laughs(levels=30, width=9):
    """Lists of lists of lists, each written once: 9 ** 30 words from 1 kB."""
    lines = ["a0: &a0 [ha]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


FILES = {
    "billion laughs": (laughs(), "there is an alias (*) in line 2"),
    "an alias of itself": ("a: &a [*a]", "there is an alias"),
    "merged keys": ("a: &a {b: 1}\nc: {<<: *a}", "there is "),
    "a python object": (f"a: !!python/object/apply:os.system ['{TOUCH}']", "not plain data"),
    "a python name": ("a: !!python/name:os.system", "not plain data"),
    "a tag of its own": ("a: !evil x", "not plain data"),
    "a date": ("a: 2020-01-01", "there is a timestamp"),
    "bytes": ("a: !!binary aGFoYQ==", "there is a binary"),
    "a set": ("a: !!set {x, y}", "there is a set"),
    "a number as key": ("1: x", "there is an int"),
    "a list as key": ("? [a, b]\n: x", "there is a seq"),
    "a number without end": ("a: " + "9" * 100_000, "a number of too many digits"),
    "a sexagesimal without end": ("a: 1" + ":1" * 100_000, "a number of too many digits"),
    "lists without end": ("a: " + "[" * 100_000, "nested too deeply"),
    "blocks without end": ("- " * 100_000, "nested too deeply"),
    "mappings without end": ("{" * 100_000, "nested too deeply"),
    "no UTF-8": (b"\xff\xfe\xfa", "codec can't decode"),
    "NUL": (b"a: \0", "special characters are not allowed"),
    "two documents": ("a: 1\n---\nb: 2", "but found another document"),
    "no mapping": ("[1, 2]", "is not a composed config"),
    "empty": ("", "is not a composed config"),
    "too large": (b"#" * 2**21, "over 1,048,576 bytes"),
}


@pytest.mark.parametrize(("content", "reason"), FILES.values(), ids=FILES)
@pytest.mark.one_in(3)
def test_a_file_that_is_no_plain_config_is_refused_at_once(content, reason, run, refusal):
    CONFIG.write_bytes(content if isinstance(content, bytes) else content.encode())
    with within(seconds=20):
        began = time.process_time()
        line = refusal(GO_ON)
        assert time.process_time() - began < 10
    assert reason in line


@pytest.mark.parametrize(
    "name", [".hydra/config.yaml", ".hydra/overrides.yaml", "environment.json"]
)
@pytest.mark.parametrize("kind", ["a device", "a pipe", "a hole", "a folder"])
@pytest.mark.one_in(3)
def test_a_record_that_is_no_file_is_refused(name, kind, run, refusal):
    file = Path(run, name)
    file.unlink()
    if kind == "a device":
        file.symlink_to("/dev/zero")
    elif kind == "a pipe":
        os.mkfifo(file)
    elif kind == "a folder":
        file.mkdir()
    else:
        with file.open("wb") as stream:
            stream.truncate(100 * 2**30)
    with within(seconds=20):
        line = refusal(GO_ON)
    reasons = ("not a regular file", "over 1,048,576 bytes", "a link that leads out of run")
    assert name in line and any(reason in line for reason in reasons)


@pytest.mark.parametrize("name", [".hydra/overrides.yaml", "environment.json"])
@pytest.mark.parametrize("content", [laughs(), "[" * 100_000, "a: !!python/name:os.system", "3"])
@pytest.mark.one_in(3)
def test_hostile_records_are_refused(name, content, run, refusal):
    Path(run, name).write_text(content)
    with within(seconds=20):
        line = refusal(GO_ON)
    assert f"run/{name} is damaged" in line and "it should hold" in line and "or remove it" in line


def test_hostile_values_in_a_config_are_refused_or_harmless(run):
    config = yaml.safe_load(CONFIG.read_text())
    part = {key: config[key] for key in ("seed", "data", "resume")}
    for text in hostile_json(part):
        CONFIG.write_bytes(text)
        with within(seconds=20):
            try:
                assert isinstance(RunFolder(run).config, dict)
            except ConfigError as error:
                assert len(str(error)) < 400  # noqa: PT017
    assert not MARKER.exists()


def test_a_good_run_goes_on(run):
    assert main(GO_ON) == 0
