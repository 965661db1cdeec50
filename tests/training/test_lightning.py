"""Every private place of Lightning's and torch's that is used is there: a new version names the one
it has moved.
"""

import inspect

import lightning.pytorch as pl
import torch
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector


def test_the_signal_connector_registers_its_handlers_in_a_method_of_this_name():
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    assert isinstance(trainer._signal_connector, _SignalConnector)
    assert callable(trainer._signal_connector.register_signal_handlers)


def test_the_epoch_loop_decides_about_validation_in_a_method_of_this_name():
    assert "_should_check_val_fx" in inspect.getsource(_TrainingEpochLoop.on_advance_end)
    assert callable(_TrainingEpochLoop._should_accumulate)
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", max_steps=3)
    assert trainer.fit_loop.epoch_loop.max_steps == 3
    assert callable(trainer.fit_loop.epoch_loop.val_loop.run)


def test_a_checkpoint_says_where_lightning_looks_whether_the_last_batch_was_seen():
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    assert trainer.fit_loop.state_dict()["epoch_loop.batch_progress"]["is_last_batch"] is False


def test_torch_has_norms_of_a_list_of_tensors():
    [norm] = torch._foreach_norm([torch.tensor([3.0, 4.0])], dtype=torch.float64)
    assert norm == 5 and norm.dtype == torch.float64
