"""A checkpoint from elsewhere is data: whatever its config says, nothing is called but the model it
describes.
"""

from pathlib import Path

import pytest
from doors import DOORS, MARKER
from forge import forged_config

from firstlight.checkpoints.model_file import read_model_file
from firstlight.cli import main
from firstlight.errors import ConfigError
from firstlight.sources import load_checkpoint

TOUCH = {
    "_target_": "pathlib.Path.touch",
    "self": {"_target_": "pathlib.Path", "_args_": ["marker"]},
}
SYSTEM = {"_target_": "os.system", "command": "touch marker"}
ATTACKS = {
    "a function of the system": SYSTEM,
    "a method of a path": TOUCH,
    "a module that ours imports": {"_target_": "firstlight.cli.os.system", "command": "touch marker"},
    "our own builder": {"_target_": "firstlight.config.build", "node": SYSTEM},
    "a builder of what a folder says": {
        "_target_": "firstlight.config.build",
        "node": {"_target_": "firstlight.runs.plain_yaml.read_plain_yaml", "file": "evil/.hydra/config.yaml"},
    },
    "an argument that is a call": {"_target_": "firstlight.model.gpt.GPT", "_partial_": True, "vocab_size": SYSTEM},
    "an argument in a list": {"_target_": "firstlight.model.gpt.GPT", "_partial_": True, "vocab_size": [SYSTEM]},
    "an interpolation": {
        "_target_": "firstlight.model.gpt.GPT", "_partial_": True, "vocab_size": "${oc.create:{_target_: os.system}}",
    },
    "another class of ours": {"_target_": "firstlight.data.text.TextData", "_partial_": True, "path": "x"},
    "a function of ours": {"_target_": "firstlight.data.cache.cache_dir"},
}  # fmt: skip


@pytest.mark.parametrize("section", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("which", ["model", "tokenizer"])
def test_a_config_in_a_checkpoint_calls_nothing(section, which):
    Path("evil/.hydra").mkdir(parents=True)
    Path("evil/.hydra/config.yaml").write_text("x: {_target_: os.system, command: touch marker}")
    Path("evil.safetensors").write_bytes(forged_config({which: section}))
    checkpoint = load_checkpoint(Path("evil.safetensors"))
    with pytest.raises(ConfigError):
        checkpoint.build_model() if which == "model" else checkpoint.build_tokenizer()
    assert not MARKER.exists()


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("which", ["model", "tokenizer", "data"])
def test_it_calls_nothing_at_every_door(door, which, trained, refusal):
    good = read_model_file(trained / "model.safetensors")
    Path("evil.safetensors").write_bytes(
        forged_config({**good.config, which: SYSTEM}, good.weights)
    )
    if which == "data" and door != "evaluate":
        assert main(DOORS[door]("evil.safetensors")) == 0  # whoever brings a text, or needs none
        assert not MARKER.exists()
    else:
        assert "os.system" in refusal(DOORS[door]("evil.safetensors"))
