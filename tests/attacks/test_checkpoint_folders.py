"""Checkpoint folders of our own format, made by somebody else: their checksums are right, their
content is not ours.
"""

import copy
import io
import json
from pathlib import Path

import pytest
import torch
from doors import CODE, DOORS, INFO, MARKER, RESUME
from forge import hostile_run, hostile_weights, resealed_manifest
from pickles import FORMATS, bare, old_file, own_zip, zip_file
from spoil import DEEP, hostile_json, within

from firstlight.checkpoints.checkpoint import load_plain
from firstlight.checkpoints.find import checkpoints_of
from firstlight.checkpoints.manifest import MANIFEST, TRAINING_STATE, WEIGHTS
from firstlight.checkpoints.model_file import FORMAT, read_model_file
from firstlight.cli import main
from firstlight.errors import ConfigError
from firstlight.sources import find_checkpoint, load_checkpoint
from firstlight.training.resume import find_resumed

GO_ON = ["train", "resume=run", *RESUME]
COMMANDS = {
    **{door: command("run") for door, command in DOORS.items()},
    "info": INFO("run"),
    "resume": GO_ON,
}


def saved(save, payload):
    save(payload, Path("payload"))
    return Path("payload").read_bytes()


@pytest.mark.parametrize(
    "save", [zip_file, old_file, own_zip, FORMATS["bare pickle 2"], FORMATS["zip, pickle 5"]]
)
def test_a_training_state_with_code_is_refused_by_its_name(save, trained, refusal):
    hostile_run(trained, Path("run"), saved(save, {"loops": CODE}))
    line = refusal(GO_ON)
    assert "training_state.pt: holds code (posix.system); refused, nothing of it was run" in line


@pytest.mark.parametrize("door", DOORS)
def test_a_training_state_is_not_even_opened_by_who_needs_no_more_than_the_weights(door, trained):
    hostile_run(trained, Path("run"), saved(zip_file, {"loops": CODE}))
    assert main(COMMANDS[door]) == 0
    assert not MARKER.exists()


@pytest.mark.parametrize("door", COMMANDS)
def test_weights_that_are_a_pickle_are_refused_at_every_door(door, trained, refusal):
    hostile_run(trained, Path("run"), saved(zip_file, CODE), name=WEIGHTS)
    assert "not a safetensors file" in refusal(COMMANDS[door])


def test_weights_that_are_a_bare_pickle_are_refused(trained, refusal):
    hostile_run(
        trained,
        Path("run"),
        saved(lambda payload, file: bare(payload, file, 4), CODE),
        name=WEIGHTS,
    )
    assert "not a safetensors file" in refusal(GO_ON)


@pytest.mark.parametrize(
    "key",
    [
        "global_step",
        "epoch",
        "loops",
        "callbacks",
        "optimizer_states",
        "lr_schedulers",
        "firstlight",
    ],
)
@pytest.mark.one_in(3)
def test_a_training_state_of_another_shape_is_refused(key, trained, refusal):
    state = copy.deepcopy(load_plain(checkpoints_of(trained)[-1] / TRAINING_STATE))
    content = io.BytesIO()
    torch.save(state | {key: "x"}, content)
    hostile_run(trained, Path("run"), content.getvalue())
    assert f"damaged: its {key} is not what firstlight writes" in refusal(GO_ON)


def changed(**values):
    return lambda content: resealed_manifest(json.loads(content) | values)


MANIFESTS = {
    "nested without end": lambda content: DEEP,
    "without end": lambda content: b" " * 2**21,
    "another format": changed(format=99),
    "a step of text": changed(step="x"),
    "a step without end": lambda content: content.replace(
        b'"step": 2', b'"step": ' + b"9" * 10_000
    ),
    "files above the folder": changed(files={"../../x": {"bytes": 1, "sha256": "0" * 64}}),
    "no files": changed(files={}),
    "a key of its own": changed(_target_="os.system"),
    "no object": lambda content: b"[]",
    "no UTF-8": lambda content: b"\xff" * 100,
}


def with_manifests(trained, change):
    run = hostile_run(trained, Path("run"), b"")
    for checkpoint in checkpoints_of(run):
        (checkpoint / MANIFEST).write_bytes(change((checkpoint / MANIFEST).read_bytes()))
    return run


@pytest.mark.parametrize("change", MANIFESTS.values(), ids=MANIFESTS)
def test_a_hostile_manifest_is_refused(change, trained):
    run = with_manifests(trained, change)
    for read in (lambda: find_resumed(run), lambda: load_checkpoint(find_checkpoint("run"))):
        with within(seconds=10), pytest.raises(ConfigError, match="run/checkpoints"):
            read()


@pytest.mark.parametrize("door", ["generate", "resume"])
def test_a_hostile_manifest_is_refused_at_the_door(door, trained, refusal):
    with_manifests(trained, MANIFESTS["no files"])
    assert "run/checkpoints" in refusal(COMMANDS[door])


def test_hostile_values_in_a_manifest_are_refused_or_harmless(trained):
    folder = checkpoints_of(hostile_run(trained, Path("run"), b"x"))[-1]
    document = json.loads((folder / MANIFEST).read_bytes())
    document.pop("sha256")
    lines = []
    for text in hostile_json(document):
        changed = None if text == DEEP else json.loads(text)
        (folder / MANIFEST).write_bytes(
            resealed_manifest(changed) if isinstance(changed, dict) else text
        )
        with within(seconds=10):
            try:
                load_checkpoint(folder)
            except ConfigError as error:
                lines.append(str(error))
    assert len(lines) > 300
    assert all(line.isprintable() and len(line) < 400 for line in lines)


RECORDS = {
    "nested without end": DEEP.decode(),
    "a number without end": '{"format": ' + "9" * 10_000 + "}",
    "layers without end": {"n_layers": 2**62},
    "a vocabulary without end": {"vocab_size": 2**62},
    "a call": {"_target_": "os.system", "command": "touch marker"},
    "a call within": {"drop_rate": {"_target_": "os.system", "command": "touch marker"}},
    "an interpolation": {"init": "${oc.env:HOME}"},
}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_a_hostile_record_beside_the_weights_is_refused(record, trained):
    with_record(trained, record)
    with within(seconds=10), pytest.raises(ConfigError):
        load_checkpoint(find_checkpoint("run")).build_model()
    assert not MARKER.exists()


@pytest.mark.parametrize("door", COMMANDS)
@pytest.mark.parametrize("name", ["nested without end", "a vocabulary without end", "a call"])
@pytest.mark.one_in(3)
def test_a_hostile_record_is_refused_at_every_door_or_not_used(name, door, trained, refusal):
    with_record(trained, RECORDS[name])
    if isinstance(RECORDS[name], dict) and door in ("info", "resume"):
        assert main(COMMANDS[door]) == 0  # one builds nothing, the other builds what the run says
        assert not MARKER.exists()
    else:
        refusal(COMMANDS[door])


def with_record(trained, record):
    stored = read_model_file(checkpoints_of(trained)[-1] / WEIGHTS)
    text = record
    if isinstance(record, dict):
        config = {**stored.config, "model": {**stored.config["model"], **record}}
        text = json.dumps({"format": FORMAT, "config": config, "tokenizer": stored.tokenizer})
    hostile_weights(trained, Path("run"), text)


def test_a_manifest_that_tells_of_no_training_state_is_refused(trained, refusal):
    run = hostile_run(trained, Path("run"), b"")
    for checkpoint in checkpoints_of(run):
        document = json.loads((checkpoint / MANIFEST).read_bytes())
        del document["files"][TRAINING_STATE]
        (checkpoint / MANIFEST).write_bytes(resealed_manifest(document))
    assert "checkpoint.json does not mention training_state.pt" in refusal(GO_ON)
