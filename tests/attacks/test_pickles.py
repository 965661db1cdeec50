"""A pickle is a program. None is run, whatever its format and whatever the door; where it can be,
its code is named.
"""

import codecs
import pickle
import re
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from doors import CODE, DOORS, INFO, MARKER, RESUME, Call
from forge import hostile_run
from pickles import FORMATS, IN_TENSORS, PAYLOADS, old_file, own_zip, zip_file

from firstlight.checkpoints.checkpoint import load_plain
from firstlight.errors import ConfigError

FILE = Path("model.pth")


def load_without_guard(file):
    """What a program does that trusts the file: the attacks are real."""
    for load in (
        lambda: torch.load(file, weights_only=False),
        lambda: pickle.loads(file.read_bytes()),
    ):
        with suppress(Exception):  # the code has run by then
            load()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("save", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize(("payload", "code"), PAYLOADS.values(), ids=PAYLOADS)
def test_no_pickle_is_run(payload, code, save):
    save(payload(), FILE)
    with pytest.raises(ConfigError) as caught:
        load_plain(FILE)
    assert not MARKER.exists()
    line = str(caught.value)
    assert (
        re.search(rf"holds code \(\S*({code})\); refused, nothing of it was run", line)
        or save is FORMATS["before 0.2"]
    )
    assert line.isprintable() and len(line) < 300
    load_without_guard(FILE)
    assert MARKER.exists() or save in (FORMATS["before 0.2"], FORMATS["zip, in capitals"])


@pytest.mark.parametrize("command", [*DOORS.values(), INFO], ids=[*DOORS, "info"])
@pytest.mark.parametrize(
    ("save", "suffix"), [(zip_file, ".pth"), (old_file, ".ckpt"), (own_zip, ".pt")]
)
def test_a_pickle_is_refused_at_every_door(command, save, suffix, refusal):
    file = Path("model").with_suffix(suffix)
    save(PAYLOADS["among weights"][0](), file)
    assert re.search(
        rf"holds code \(({IN_TENSORS})\); refused, nothing of it was run", refusal(command(file))
    )


@pytest.mark.filterwarnings("ignore:Environment variable TORCH_FORCE")
@pytest.mark.parametrize("door", [*DOORS, "resume"])
def test_torchs_switch_that_turns_its_guard_off_changes_nothing(
    door, trained, refusal, monkeypatch
):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    zip_file({"model_state_dict": CODE}, FILE)
    torch.load(FILE)
    assert MARKER.exists()  # what the switch does
    MARKER.unlink()
    if door == "resume":
        hostile_run(trained, Path("run"), FILE.read_bytes())
    arguments = ["train", "resume=run", *RESUME] if door == "resume" else DOORS[door](FILE)
    assert "holds code (posix.system)" in refusal(arguments)


@pytest.mark.parametrize(
    "switch", ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
)
def test_plain_data_is_read_whatever_torchs_switches(switch, monkeypatch):
    monkeypatch.setenv(switch, "1")
    zip_file({"weights": torch.ones(2)}, FILE)
    assert load_plain(FILE)["weights"].sum() == 2


def test_a_codec_is_called_but_makes_no_checkpoint(refusal):
    """torch allows `_codecs.encode`, which bytes need: it can do no more than make a text of a
    text.
    """
    zip_file({"a": Call(codecs.encode, "b", "rot13")}, FILE)
    assert "neither a checkpoint of firstlight nor of the book" in refusal(DOORS["generate"](FILE))
    assert "something else than tensors by name" in refusal(INFO(FILE))


def test_a_file_of_a_gigabyte_from_a_few_bytes_is_refused(refusal):
    zip_file({"a": Call(bytearray, 100 * 2**30)}, FILE)
    assert "holds code (__builtin__.bytearray)" in refusal(DOORS["generate"](FILE))
