"""Every private place in training/lightning.py does what firstlight needs of it.

A test that fails names the place that a new version of Lightning or torch has moved.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import SessionLog
from torch import Tensor
from torch.utils.data import DataLoader

from firstlight.training import lightning

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning, about these small runs


@contextmanager
def relying_on(place: str) -> Iterator[None]:
    """Name `place` if the block fails."""
    try:
        yield
    except Exception as error:
        pytest.fail(f"{place} has moved, or does something else now: {error!r}")


class Line(pl.LightningModule):
    """One weight; it notes what happens."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.steps: list[int] = []
        self.batch_indices: list[int] = []
        self.step_ends: list[bool] = []
        self.evaluated_after: list[int] = []
        self.evaluates_first = False
        self.handler: object = None

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.steps.append(self.trainer.global_step)
        self.batch_indices.append(batch_idx)
        return (self.weight - batch).square().mean()

    def on_train_start(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)
        if self.evaluates_first:
            lightning.run_evaluation(self.trainer)

    def on_train_batch_end(self, *args: object) -> None:
        self.step_ends.append(lightning.at_step_end(self.trainer))

    def validation_step(self, batch: Tensor) -> None:
        self.evaluated_after.append(len(self.steps))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def fit():
    """Fit a `Line` on some batches, with what `prepare` does to the trainer."""

    def run(prepare=None, *, batches=6, line=None, checkpoint=None, **settings):
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            check_val_every_n_epoch=None,
            val_check_interval=1,
            max_epochs=-1,
            **{"max_steps": batches, **settings},
        )
        if prepare is not None:
            prepare(trainer)
        line = Line() if line is None else line
        training = DataLoader(torch.ones(batches, 1), batch_size=1)
        validation = DataLoader(torch.ones(1, 1), batch_size=1)
        trainer.fit(line, training, validation, ckpt_path=checkpoint, weights_only=True)
        return line, trainer

    return run


def test_lightning_leaves_signals_alone(fit):
    mine = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        own = signal.getsignal(signal.SIGTERM)
        with relying_on("Lightning: _SignalConnector.register_signal_handlers"):
            assert fit()[0].handler is not own  # else leave_signals_alone is no longer needed
            assert fit(lightning.leave_signals_alone)[0].handler is own
    finally:
        signal.signal(signal.SIGTERM, mine)


def test_an_evaluation_comes_after_the_batches_that_are_chosen_the_last_one_too(fit):
    with relying_on("Lightning: _TrainingEpochLoop._should_check_val_fx"):

        def choose(trainer: pl.Trainer) -> None:
            lightning.evaluate_when(trainer, lambda: trainer.global_step in (2, 3, 6))

        assert fit(choose)[0].evaluated_after == [2, 3, 6]


def test_the_end_of_a_step_is_told_from_that_of_a_batch(fit):
    with relying_on("Lightning: _TrainingEpochLoop._should_accumulate"):
        line, _ = fit(max_steps=2, accumulate_grad_batches=3)
        assert line.step_ends == [False, False, True] * 2


def test_an_evaluation_can_come_before_the_first_step(fit):
    line = Line()
    line.evaluates_first = True
    with relying_on("Lightning: trainer.validating, training, epoch_loop.val_loop.run"):
        fit(lambda trainer: lightning.evaluate_when(trainer, lambda: False), line=line)
        assert line.evaluated_after == [0] and len(line.steps) == 6


def test_a_fit_that_is_resumed_makes_no_step_if_it_is_to_end_before(fit, tmp_path):
    file = tmp_path / "two_steps.ckpt"
    _, trainer = fit(max_steps=2)
    trainer.save_checkpoint(file)
    with relying_on("Lightning: fit_loop.epoch_loop.max_steps"):
        line, trainer = fit(
            lambda trainer: lightning.end_before_training(trainer, 2), checkpoint=file
        )
        assert line.steps == [] and trainer.global_step == 2


def test_what_comes_after_the_loop_is_called_with_and_without_a_step(fit, tmp_path):
    file, after = tmp_path / "two_steps.ckpt", []

    def prepare(trainer: pl.Trainer) -> None:
        lightning.after_loop(
            trainer, lambda: after.append((trainer.global_step, trainer.strategy.model is not None))
        )

    _, trainer = fit(prepare, max_steps=2)
    trainer.save_checkpoint(file)
    with relying_on("Lightning: fit_loop.run"):
        fit(prepare, max_steps=2, checkpoint=file)
        assert after == [(2, True), (2, True)]


def test_a_fit_that_is_resumed_from_its_last_step_counts_its_batches_on(fit, tmp_path):
    file = tmp_path / "all_steps.ckpt"

    class Saving(Line):
        def on_validation_end(self) -> None:
            if self.trainer.global_step == 2:
                self.trainer.save_checkpoint(file)

    class Forgetful(Line):
        def on_load_checkpoint(self, checkpoint: dict) -> None:
            lightning.forget_end(checkpoint)

    fit(batches=2, line=Saving())
    with relying_on('Lightning: a checkpoint\'s "epoch_loop.batch_progress", "is_last_batch"'):
        line, _ = fit(batches=4, line=Forgetful(), checkpoint=file)
        assert line.steps == [2, 3] and line.batch_indices == [2, 3]


def test_only_16_bit_mixed_precision_has_a_scaler():
    with relying_on("Lightning: MixedPrecision.scaler"):
        with_scaler = pl.Trainer(
            accelerator="cpu", logger=False, plugins=[MixedPrecision("16-mixed", "cpu")]
        )
        without = pl.Trainer(accelerator="cpu", logger=False)
        assert isinstance(lightning.scaler_of(with_scaler), torch.amp.GradScaler)
        assert lightning.scaler_of(without) is None


def test_a_logger_makes_its_writer_when_asked_for_it_and_a_new_one_after_a_failure(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="", purge_step=7)
    with relying_on("Lightning: TensorBoardLogger._experiment"):
        assert lightning.writer_of(logger) is None and not list(tmp_path.glob("events*"))
        first = logger.experiment
        assert lightning.writer_of(logger) is first
    first.close()
    assert n_purges(tmp_path) == 1
    with relying_on("Lightning: TensorBoardLogger._kwargs"):
        lightning.begin_again(logger)
        lightning.purge_nothing(logger)
        second = logger.experiment
        second.close()
        assert second is not first
        assert len(list(tmp_path.glob("events*"))) == 2 and n_purges(tmp_path) == 1


def n_purges(folder: Path) -> int:
    """How often the event files of `folder` tell TensorBoard to hide what was logged before."""
    events = []
    for file in folder.glob("events*"):
        events += LegacyEventFileLoader(str(file)).Load()
    return sum(event.session_log.status == SessionLog.START for event in events)


def test_wandb_is_not_given_what_it_warns_of(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from lightning.pytorch.loggers import WandbLogger

    given = {}

    def init(**arguments: object) -> object:
        given.update(arguments)
        raise InterruptedError

    monkeypatch.setattr(wandb, "init", init)
    with relying_on("Lightning: WandbLogger._wandb_init"):
        logger = WandbLogger(name="test", save_dir=tmp_path, offline=True)
        lightning.leave_out_anonymous(logger)
        with pytest.raises(InterruptedError):
            _ = logger.experiment
        assert given["name"] == "test" and "anonymous" not in given
        assert lightning.writer_of(logger) is None


def test_norms_are_those_of_each_tensor_in_the_dtype_that_is_asked_for():
    tensors = [torch.tensor([3e4, 4e4], dtype=torch.float16), torch.ones(2, 2).half()]
    with relying_on("torch: torch._foreach_norm"):
        norms = lightning.norms_of(tensors, torch.float32)
        assert norms.dtype == torch.float32 and norms.tolist() == [50000, 2]


@pytest.mark.parametrize("found", [0.0, 1.0])
def test_a_fused_optimizer_leaves_out_a_step_that_found_inf(found):
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    assert not lightning.handles_scaling(torch.optim.AdamW([weight]))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    with relying_on("torch: Optimizer._step_supports_amp_scaling"):
        assert lightning.handles_scaling(optimizer)
        optimizer.found_inf = torch.tensor(found)
        optimizer.step()
        assert torch.equal(weight.detach(), torch.ones(3)) == (found == 1)


def test_tensors_with_the_same_memory_have_one_storage_id():
    tensor = torch.zeros(4)
    with relying_on("torch: UntypedStorage._cdata"):
        assert lightning.storage_id(tensor[1:]) == lightning.storage_id(tensor.view(2, 2))
        assert lightning.storage_id(tensor.clone()) != lightning.storage_id(tensor)


def test_shapes_take_no_memory_and_are_on_the_cpu_for_whoever_asks():
    mask = torch.ones(4)  # made before
    with relying_on("torch: torch._subclasses.fake_tensor.FakeTensorMode"):
        with lightning.shapes_only():
            huge = torch.empty(10**9, 10**6, requires_grad=True)
            assert huge.device.type == "cpu"
            with torch.autocast("cpu", torch.bfloat16):
                product = torch.empty(2, 10**9) @ huge
            assert product.dtype == torch.bfloat16 and product.shape == (2, 10**6)
            product.sum().backward()
            assert huge.grad.shape == huge.shape
            assert (torch.empty(4) * mask).shape == (4,)
        assert mask.tolist() == [1, 1, 1, 1]
