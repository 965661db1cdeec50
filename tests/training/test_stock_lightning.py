"""Our data and our module under Lightning's own Trainer, together and each with somebody else's
part.
"""

import csv
import logging
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from tiny_run import TINY, rows_of
from torch import distributed
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import firstlight
from firstlight.commands.train import arguments
from firstlight.compose.hydra_calls import composed, settings_of_hydra
from firstlight.data.order import BookOrder
from firstlight.errors import ConfigError
from firstlight.sources import find_checkpoint, load_checkpoint
from firstlight.training.language_module import LanguageModule
from firstlight.training.module import PretrainingModule
from firstlight.training.parts import language_module, text_data

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{words}")
    for words in (
        ".*does not have many workers",
        ".*is smaller than the logging interval",
        ".*but have no `val_dataloader`",
        ".*model summary",
        ".*`isinstance.treespec, LeafSpec.` is deprecated",
        ".*you requested to overfit",
        ".*callbacks used to create the checkpoint need to be provided",
        ".*Checkpoint directory .* exists and is not empty",
    )
]
BATCHES = 6
"""Of an epoch of the tiny text."""


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    logger = logging.getLogger("lightning.pytorch")
    monkeypatch.setattr(logger, "level", logging.WARNING)


def config_of(*overrides):
    with settings_of_hydra(composed("train", [*TINY, *overrides], None, with_hydra=True)) as config:
        return arguments(config)


def test_the_python_api_makes_both_and_leaves_the_random_numbers_alone():
    config = firstlight.compose(*TINY, "seed=7")
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    module, data = firstlight.lightning_module(config), firstlight.lightning_data(config)
    assert torch.equal(torch.random.get_rng_state(), before)
    trainer = trainer_of(max_steps=2)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 2
    with pytest.raises(firstlight.ConfigError, match="compile: cannot be set here; call module"):
        firstlight.lightning_module(config | {"compile": True})


def trainer_of(**arguments):
    quietly = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    nothing = {"logger": False, "enable_checkpointing": "callbacks" in arguments}
    return pl.Trainer(**(quietly | nothing | arguments))


def test_frozen_parameters_stay_and_others_have_their_own_rate():
    config = config_of("freeze=tok_emb", "lr_scale=pos_emb:0.1", "data.batch_size=4")
    module = language_module(config)
    before = module.model.tok_emb.weight.clone()
    trainer = trainer_of(max_steps=2)
    trainer.fit(module, datamodule=text_data(config))
    assert torch.equal(module.model.tok_emb.weight, before)
    whole, slower = trainer.optimizers[0].param_groups[0], trainer.optimizers[0].param_groups[-1]
    assert slower["params"] == [module.model.pos_emb.weight]
    assert slower["lr"] == pytest.approx(0.1 * whole["lr"])


def test_predicting_gives_logits_of_ids_and_of_batches():
    module = language_module(config_of("data.batch_size=4"))
    ids = torch.arange(16).view(2, 8)
    for batch in (ids, [ids, ids]):
        [logits] = trainer_of().predict(module, DataLoader([batch], batch_size=None))
        torch.testing.assert_close(logits, module.eval()(ids))


class Foreign(pl.LightningModule):
    """Somebody else's bigram model; keeps what it was trained on."""

    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Embedding(257, 257)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch[0].clone())
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("their_loss", self.loss(batch))

    def loss(self, batch):
        return F.cross_entropy(self.logits(batch[0]).flatten(0, 1), batch[1].flatten())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Watched(LanguageModule):
    """Keeps the loss of every batch, and stops where it is told to, as a killed run does."""

    def __init__(self, **parts):
        super().__init__(**parts)
        self.losses = []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.losses.append(float(loss.detach()))
        return loss


def watched(config):
    made = language_module(config)
    made.__class__ = Watched
    made.losses = []
    return made


def same(ones, others):
    return len(ones) == len(others) and all(map(torch.equal, ones, others))


def test_somebody_elses_module_trains_epoch_after_epoch_on_our_data():
    data, module = text_data(config_of()), Foreign()
    trainer = trainer_of(max_epochs=3)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 3 * BATCHES
    assert "their_loss" in trainer.callback_metrics
    whole = [batch[0] for batch in data.train_batches(start=0, stop=3 * BATCHES)]
    assert same(module.seen, whole)
    assert not same(whole[:BATCHES], whole[BATCHES : 2 * BATCHES])


@pytest.mark.parametrize("length", [{"max_epochs": 2}, {"max_steps": 11}])
def test_a_run_that_lightning_resumes_equals_one_that_was_not_stopped(length):
    """Wherever it was stopped: in the middle of an epoch, with its last batch, after it."""
    config = config_of("model.drop_rate=0.2", "trainer.max_steps=100")
    keep = ModelCheckpoint("saved", "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = watched(config)
    trainer_of(callbacks=[keep], **length).fit(whole, datamodule=text_data(config))
    for step in (2, BATCHES - 1, BATCHES, BATCHES + 1):
        rest = watched(config)
        trainer_of(**length).fit(
            rest, datamodule=text_data(config), ckpt_path=f"saved/step={step}.ckpt"
        )
        assert rest.losses == whole.losses[step:], step


def test_a_run_is_not_resumed_with_other_data():
    keep = ModelCheckpoint("saved", "{step}", every_n_train_steps=1, save_top_k=-1)
    config = config_of()
    trainer_of(max_steps=2, callbacks=[keep]).fit(Foreign(), datamodule=text_data(config))
    other = text_data(config_of("data.train_ratio=0.8"))
    with pytest.raises(ConfigError, match="saved with other data: sha256 was"):
        trainer_of(max_steps=3).fit(Foreign(), datamodule=other, ckpt_path="saved/step=2.ckpt")


def test_overfit_batches_are_the_same_in_every_epoch():
    module = Foreign()
    trainer_of(max_epochs=2, overfit_batches=2).fit(module, datamodule=text_data(config_of()))
    assert same(module.seen[:2], module.seen[2:])


def test_a_loop_of_ones_own_sets_the_epoch_or_leaves_it_to_the_loader():
    data = text_data(config_of())
    loader = data.train_dataloader()
    first, second = [x for x, _ in loader], [x for x, _ in loader]
    assert len(first) == len(loader) == BATCHES
    assert not same(first, second)
    loader.set_epoch(0)
    assert same([x for x, _ in loader], first)


def test_the_order_of_the_book_trains_but_cannot_resume_within_an_epoch():
    config = config_of("order=book", "order._target_=firstlight.data.order.BookOrder")
    data = text_data(config)
    assert isinstance(data.order, BookOrder)
    keep = ModelCheckpoint("saved", "{step}", every_n_train_steps=1, save_top_k=-1)
    module = Foreign()
    trainer_of(max_epochs=2, callbacks=[keep]).fit(module, datamodule=data)
    assert len(module.seen) == 2 * BATCHES
    with pytest.raises(ConfigError, match="with order BookOrder a run cannot resume within"):
        trainer_of(max_epochs=2).fit(Foreign(), datamodule=data, ckpt_path="saved/step=2.ckpt")


def test_a_split_that_is_not_there_and_batches_too_small_to_share_are_refused(monkeypatch):
    data = text_data(config_of("data.drop_last=false", "data.test_ratio=0"))
    with pytest.raises(ConfigError, match="the text has no test split; make one with"):
        data.test_dataloader()
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 7)
    with pytest.raises(ConfigError, match="several processes cannot share the last window"):
        data.val_dataloader()
    words = "the train split ends in a batch of 6, fewer windows than the 7 processes; use fewer"
    with pytest.raises(ConfigError, match=words):
        data.train_dataloader()


def test_our_module_logs_to_lightnings_loggers_and_keeps_its_best_checkpoint():
    config = config_of("data.train_ratio=0.8", "data.test_ratio=0.1", "optimizer.lr=1e-2")
    module, data = language_module(config), text_data(config)
    best = ModelCheckpoint("best", monitor="val/loss")
    trainer = trainer_of(
        max_epochs=2,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        precision="bf16-mixed",  # with a fused optimizer, which Lightning's own clipping refuses
        log_every_n_steps=1,
        logger=CSVLogger("."),
        callbacks=[best, LearningRateMonitor()],
    )
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    assert trainer.global_step == 2 * -(-5 // 2)  # 5 batches an epoch are left
    assert Path(best.best_model_path).is_file()
    with Path(trainer.logger.log_dir, "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert losses[-1] < losses[0]
    for column in ("grad_norm", "val/loss", "val/bits_per_byte", "test/perplexity"):
        assert any(row[column] for row in rows), column


def test_our_module_measures_as_a_run_of_ours_with_the_same_first_weights(train):
    assert train("run", "trainer.max_steps=1") == 0
    config = config_of()
    [measured] = trainer_of().validate(
        language_module(config), datamodule=text_data(config), verbose=False
    )
    assert measured["val/loss"] == pytest.approx(float(rows_of("run")[0]["val/loss"]), rel=1e-6)


def test_our_module_trains_on_somebody_elses_data_and_the_rest_of_firstlight_reads_it():
    ids = torch.randint(0, 257, (12, 17), generator=torch.Generator().manual_seed(0))
    pairs = TensorDataset(ids[:, :-1], ids[:, 1:])
    config = config_of()
    module = language_module(config)
    trainer = trainer_of(max_steps=3)
    trainer.fit(module, DataLoader(pairs, batch_size=4), [DataLoader(pairs, batch_size=5)] * 2)
    assert {"train/loss", "val/loss", "val_1/loss"} <= set(trainer.callback_metrics)
    assert "val/bits_per_byte" not in trainer.callback_metrics  # without a tokenizer
    with pytest.raises(ConfigError, match="give tokenizer="):
        module.save("model.safetensors")
    module.save("model.safetensors", tokenizer=text_data(config).tokenizer)
    read, weights = load_checkpoint(find_checkpoint("model.safetensors")), module.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in read.state_dict.items())


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (torch.zeros(2, 4), r"two tensors \(B, T\) of token ids, not a tensor \(2, 4\)"),
        ({"input_ids": torch.zeros(2, 4)}, "not a dict"),
        (torch.zeros(2, 2, 17, dtype=torch.int64).unbind(), "17 tokens a row, above the model's"),
        (torch.full((2, 2, 4), 257).unbind(), "token ids from 257 to 257; the model knows 0 to"),
    ],
)
def test_a_batch_that_is_none_is_refused_in_one_line(batch, words):
    with pytest.raises(ConfigError, match=words):
        trainer_of(max_steps=1).fit(
            language_module(config_of()), DataLoader([batch], batch_size=None)
        )


def test_what_a_trainer_lacks_is_told_in_one_line():
    config = config_of()
    data = text_data(config)
    with pytest.raises(ConfigError, match="Constant needs the length of the run"):
        trainer_of(max_epochs=-1).fit(language_module(config), datamodule=data)
    warm = config_of("scheduler=warmup_cosine", "scheduler.warmup_steps=20")
    with pytest.raises(ConfigError, match="must be less than the run's 3 steps"):
        trainer_of(max_steps=3).fit(language_module(warm), datamodule=data)
    small = language_module(config_of("model.vocab_size=100"))
    with pytest.raises(ConfigError, match="must be at least 257, the ids of the tokenizer"):
        trainer_of(max_steps=3).fit(small, datamodule=data)
    with pytest.raises(ConfigError, match="resume: cannot be set here"):
        language_module(config | {"resume": "run"})


def test_the_module_of_our_runs_refuses_another_trainer():
    config = config_of()
    made, data = language_module(config), text_data(config)
    ours = PretrainingModule(
        model=made.model,
        data=data,
        loss=made.loss,
        optimizer=made.optimizer_factory,
        scheduler=made.schedule,
        config=config,
    )
    with pytest.raises(ConfigError, match="PretrainingModule needs firstlight's Trainer"):
        trainer_of(max_steps=1).fit(ours, datamodule=data)
