"""`trainer.strategy=fsdp2`: each process keeps a part of every weight, gradient and moment.

torch's FSDP2, by Lightning's ModelParallelStrategy: a block's weights are gathered before its pass
and dropped after it. Checkpoints hold the weights whole, as those of other strategies do, so that
every command reads them; the state of the optimizer, twice as large, each process writes for
itself.
"""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
)
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from firstlight.checkpoints.checkpoint import with_tied_names
from firstlight.checkpoints.folder_io import CheckpointFolderIO
from firstlight.checkpoints.shards import FLAT, NAMES, read_shards
from firstlight.model.base import LanguageModel


class ShardedStrategy(ModelParallelStrategy):
    """Shards over all processes of the run, and saves in our folders.

    Lightning's own writes beside its CheckpointIO, in place, with a pickle.
    """

    def __init__(self, n_processes: int, timeout: float) -> None:
        super().__init__(
            data_parallel_size=n_processes,
            tensor_parallel_size=1,
            timeout=timedelta(seconds=timeout),
        )

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights, whole; only the first process keeps them."""
        assert self.model is not None
        self._let_go()
        whole: dict[str, Any] = {}
        for name, weight in self.model.state_dict().items():
            full = weight.full_tensor() if isinstance(weight, DTensor) else weight  # all together
            if self.is_global_zero:
                whole[name] = full.cpu()
        return whole

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The groups as always, and the tensors of this process by parameter and kind."""
        self._let_go()
        groups = optimizer.state_dict()["param_groups"]
        return {
            "state": {},
            "param_groups": groups,
            NAMES: self._names(optimizer),
            FLAT: self._flat(optimizer),
        }

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """Write the folder `filepath`, all processes together.

        Raises:
            OSError: it cannot be written; then nothing of it is left.
        """
        self._io.save_sharded(checkpoint, Path(filepath))

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Take the weights and the optimizer's state of a checkpoint, sharded or not."""
        folder = Path(checkpoint_path)
        checkpoint = self._io.load_checkpoint(folder, fill=False)
        self.take_weights(checkpoint["state_dict"])
        [optimizer], [stored] = self.optimizers, checkpoint["optimizer_states"]
        self._load_optimizer(optimizer, stored, folder)
        return checkpoint

    def take_weights(self, weights: dict[str, Tensor]) -> None:
        """Load whole weights, named as in the module; each process keeps its part of them."""
        assert self.model is not None
        self._let_go()
        whole: dict[str, Any] = {**with_tied_names(self.model, weights)}
        options = StateDictOptions(full_state_dict=True, strict=False)
        set_model_state_dict(self.model, whole, options=options)

    def _load_optimizer(self, optimizer: Optimizer, stored: dict[str, Any], folder: Path) -> None:
        for group, saved in zip(optimizer.param_groups, stored["param_groups"], strict=True):
            group.update({key: value for key, value in saved.items() if key != "params"})
        if NAMES in stored:
            assert self.model is not None
            get_optimizer_state_dict(self.model, optimizer)  # makes the state, of zeros
            read_shards(self._flat(optimizer), folder)
            return
        for index, parameter in enumerate(_parameters_of(optimizer)):
            for key, value in stored["state"].get(index, {}).items():
                optimizer.state[parameter][key] = _as_part_of(parameter, value)

    def _let_go(self) -> None:
        """Keep only the parts: an evaluation leaves what is outside of blocks gathered."""
        assert isinstance(self.model, FSDPModule)
        self.model.reshard()

    @property
    def _io(self) -> CheckpointFolderIO:
        assert isinstance(self.checkpoint_io, CheckpointFolderIO)
        return self.checkpoint_io

    def _names(self, optimizer: Optimizer) -> list[str]:
        """The names of the optimizer's parameters, in the order in which it counts them."""
        assert self.model is not None
        name_of = {parameter: name for name, parameter in self.model.named_parameters()}
        return [name_of[parameter] for parameter in _parameters_of(optimizer)]

    def _flat(self, optimizer: Optimizer) -> dict[str, Tensor]:
        """The tensors of the optimizer's state, by the parameter's name and their own."""
        named = zip(self._names(optimizer), _parameters_of(optimizer), strict=True)
        return {
            f"{name}.{key}": value
            for name, parameter in named
            for key, value in optimizer.state.get(parameter, {}).items()
        }


def shard(module: LightningModule, model: LanguageModel, methods: Iterable[str]) -> None:
    """Shard `model` in `module` in place, block by block; `methods` of `module` compute with it.

    All weights outside of blocks (embedding, head, last norm) belong to `module`, and stay gathered
    from the beginning of a method to the end of its backward pass.
    """
    mesh = module.device_mesh["data_parallel"]  # type: ignore[index]
    for block in model.repeated_blocks:
        fully_shard(block, mesh=mesh)
    # Last: it takes what no block has taken.
    fully_shard(module, mesh=mesh)
    for method in methods:
        register_fsdp_forward_method(module, method)


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process has: all of it, unless it is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def is_sharded(parameters: Iterable[Tensor]) -> bool:
    """Whether each process has only a part of the parameters."""
    return any(isinstance(parameter, DTensor) for parameter in parameters)


def clip(parameters: list[nn.Parameter], most: float, norm: Tensor) -> None:
    """Scale the gradients of `parameters`, whose norm is `norm`, to one of at most `most`."""
    if not is_sharded(parameters):
        nn.utils.clip_grads_with_norm_(parameters, most, norm)
        return
    parts: list[Tensor] = []
    for parameter in parameters:
        assert parameter.grad is not None
        part = local(parameter.detach())
        part.grad = local(parameter.grad)
        parts.append(part)
    nn.utils.clip_grads_with_norm_(parts, most, norm)


def _parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _as_part_of(parameter: Tensor, value: Any) -> Any:
    """`value` of a whole parameter's state, sharded like `parameter` if it has its shape."""
    if not isinstance(value, Tensor):
        return value
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value.clone()
    whole = value.to(parameter.device)
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements)
