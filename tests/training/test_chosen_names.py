"""Boards and compare show the choices of groups by name, beside the keys of the config."""

from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from firstlight.runs.run_folder import RunFolder


def hparams_of(run: str) -> dict[str, str | float | bool]:
    [file] = Path(run).glob("events.out.tfevents.*")
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
            if data.HasField("session_start_info"):
                found = data.session_start_info.hparams.items()
                return {key: item.string_value or item.number_value for key, item in found}
    raise AssertionError("nothing in HPARAMS")


def test_a_board_gets_the_name_of_the_model_that_was_chosen(train):
    assert train("run", "model=nano", "trainer.max_steps=1", "logger=[csv,tensorboard]") == 0
    assert "model=nano" in RunFolder(Path("run")).overrides
    assert "chosen" not in RunFolder(Path("run")).config
    hparams = hparams_of("run")
    assert hparams["chosen.model"] == "nano" and hparams["model"] == "GPT"
