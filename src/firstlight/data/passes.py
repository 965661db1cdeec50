"""Batches for Lightning's own Trainer and for loops of one's own: a pass is an epoch."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from torch import distributed

from firstlight.data.loader import Batch
from firstlight.errors import ConfigError

if TYPE_CHECKING:
    from firstlight.data.token_data import TokenDataModule


class LoadEpoch(Protocol):
    """Load the batches of epoch number `epoch` (from 0), except the first `done`."""

    def __call__(self, epoch: int, done: int) -> Iterable[Batch]: ...


class EpochLoader:
    """Each pass loads the batches of one epoch, in an order that follows from seed and epoch.

    Lightning, or a loop, sets the epoch with `set_epoch`; otherwise passes are counted. This is no
    `DataLoader`, because Lightning would replace the sampler of one in a run of several processes.
    `batches_done()` is the number of batches of this epoch that a resumed run has trained on.
    """

    def __init__(
        self,
        load: LoadEpoch,
        length: int,
        *,
        batches_done: Callable[[], int],
        fingerprint: Callable[[], dict[str, int | str]],
    ) -> None:
        self.load, self.length, self.epoch = load, length, 0
        self.batches_done, self.fingerprint = batches_done, fingerprint

    @property
    def sampler(self) -> "EpochLoader":
        """This object, because Lightning calls `set_epoch` of the sampler of a loader."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be that of `epoch`."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so that nothing is decided before the first batch is asked for: Lightning
        # calls iter() before it sets the epoch and restores the position of a resumed run.
        yield from self.load(self.epoch, self.batches_done())
        self.epoch += 1

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint of Lightning's keeps: what the data is, not the position.

        The position is that of the trainer. A position kept here as well would be wrong in
        checkpoints that are saved with the last batch of an epoch.
        """
        return self.fingerprint()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a resumed run has the data of its checkpoint.

        Raises:
            ConfigError: it is other data, or cut in another way.
        """
        for key, now in self.fingerprint().items():
            if (was := state_dict.get(key)) != now:
                raise ConfigError(
                    f"the checkpoint was saved with other data: {key} was {was}, and is {now} now"
                )


class EvalLoader:
    """Each pass loads the same batches; no `DataLoader`, for the same reason."""

    def __init__(self, batches: Iterable[Batch], length: int) -> None:
        self.batches, self.length = batches, length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def train_passes(data: "TokenDataModule") -> EpochLoader:
    """Load the training batches of `data`, an epoch a pass.

    A run that Lightning resumes continues with the next batch of its epoch. With
    `Trainer(overfit_batches=...)` every epoch is the first one.

    Raises:
        ConfigError: a batch has fewer windows than there are processes.
    """
    data.setup()
    length = data.batches_per_epoch
    _check_shares(data, "train", 0 if data.drop_last else len(data.windows["train"]))

    def batches_done() -> int:
        # Asked when the first batch is: only then has Lightning restored the position.
        trainer = data.trainer
        return trainer.fit_loop.batch_idx + 1 if trainer is not None and trainer.training else 0

    def load(epoch: int, done: int) -> Iterator[Batch]:
        if not data.order.resumable:
            if done > 0:
                raise ConfigError(
                    f"with order {type(data.order).__name__} a run cannot resume within an epoch;"
                    " resume from the checkpoint of an epoch's end"
                )
            epoch = 0  # it draws another order in each pass
        # Lightning repeats the first batches then, and expects the same ones.
        if getattr(data.trainer, "overfit_batches", 0) > 0:
            epoch = 0
        start = epoch * length
        yield from data.train_batches(start=start + done, stop=start + length, share=_share())
        if data.worker_failure is not None:
            warnings.warn(data.worker_failure, stacklevel=2)

    return EpochLoader(load, length, batches_done=batches_done, fingerprint=data.fingerprint)


def eval_passes(data: "TokenDataModule", split: str) -> EvalLoader:
    """Load all batches of `split` in each pass.

    Raises:
        ConfigError: the text has no such split, or a batch has fewer windows than there are
            processes and the module does not say that it `takes_empty_shares`.
    """
    data.setup()
    if split not in data.windows:
        raise ConfigError(f"the text has no {split} split; make one with data.{split}_ratio=0.1")
    # Modules of others compute the mean of a batch, which is nan for an empty share; ours adds
    # sums.
    module = data.trainer.lightning_module if data.trainer is not None else None
    if not getattr(module, "takes_empty_shares", False):
        if data.eval_last_window and _share()[1] > 1:
            raise ConfigError(
                "data.eval_last_window: several processes cannot share the last window; set it to"
                " false"
            )
        _check_shares(data, split, len(data.eval_windows(split)))
    batches = data.eval_batches_of(split, share=_share())
    return EvalLoader(batches, len(batches))


def _check_shares(data: "TokenDataModule", split: str, n_windows: int) -> None:
    """Refuse batches of which a process would have no share: its mean loss would be nan.

    `n_windows` is how many are cut into batches of which the last may be smaller.
    """
    world_size = _share()[1]

    def smallest(batch_size: int) -> int:
        return n_windows % batch_size or batch_size

    if smallest(data.batch_size) >= world_size:
        return
    sizes = range(data.batch_size - 1, world_size - 1, -1)
    better = next((size for size in sizes if smallest(size) >= world_size), None)
    advice = "use fewer devices" if better is None else f"use data.batch_size={better}"
    raise ConfigError(
        f"data.batch_size ({data.batch_size}): the {split} split ends in a batch of"
        f" {smallest(data.batch_size)}, fewer windows than the {world_size} processes; {advice}"
    )


def _share() -> tuple[int, int]:
    """Return the rank of this process and the number of processes."""
    # Asked of torch, not of the trainer: a loop of one's own may have no trainer.
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
