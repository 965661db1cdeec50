"""An empty place to work in, inputs, and verbs that stop where their work would begin."""

import pytest
import torch
from fuzzing import Began


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty folder, which is the present one."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FIRSTLIGHT_CACHE_DIR", str(tmp_path / "cache"))
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A text to train on."""
    file = tmp_path_factory.mktemp("texts") / "good.txt"
    file.write_text("The lamp was lit by the keeper every night, and the ships came home. " * 40)
    return file


@pytest.fixture
def stops_at_work(monkeypatch):
    """Training, evaluating and decoding raise `Began`; the memory of every machine is a
    gigabyte."""
    import lightning.pytorch as pl
    from lightning.pytorch.trainer.connectors import callback_connector

    from firstlight.decoding.beam import BeamSearch
    from firstlight.decoding.stepwise import Stepwise
    from firstlight.runs import writer
    from firstlight.sweep import loop
    from firstlight.training.memory import estimate as memory

    def fit(trainer, *_, **__):
        for logger in trainer.loggers:
            logger.finalize("success")
        raise Began(trainer)

    def begin(*_, **__):
        raise Began

    environment = writer.environment({})
    monkeypatch.setattr(pl.Trainer, "fit", fit)
    monkeypatch.setattr(pl.Trainer, "validate", begin)
    monkeypatch.setattr(loop, "work_on", begin)  # of a sweep, when it is planned
    monkeypatch.setattr(BeamSearch, "generate", begin)
    monkeypatch.setattr(Stepwise, "stream", begin)
    monkeypatch.setattr(memory, "device_memory", lambda _: ("this computer", 10**9))
    monkeypatch.setattr(
        writer, "environment", lambda config: environment
    )  # the same for all, and it asks git
    monkeypatch.setattr(
        callback_connector, "_load_external_callbacks", lambda _: []
    )  # searches the whole disk
    yield
    torch.use_deterministic_algorithms(False)
