"""A model made without memory for its weights, and whether that is the model that was trained.

A checkpoint holds a model's parameters and persistent buffers. Everything else that its constructor
makes, such as a buffer with `persistent=False`, is made again wherever the model is loaded.
"""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from firstlight.errors import one_line
from firstlight.model.base import LanguageModel

SEED = 0x5EED
"""Seeds what a constructor draws where the weights are not drawn."""
MADE_PER_WEIGHT = 4
"""Parameters that a constructor may have made, and not thrown away, for each weight of the model.

A subclass may replace layers of its parent; a file may claim a billion of them."""
PERSISTENT = "register it as a buffer with persistent=True, so that checkpoints hold it"


def without_weights(
    make: Callable[[], LanguageModel], *, n_weights: int | None = None
) -> LanguageModel:
    """The model that `make` returns: its parameters have no memory, other tensors their values.

    It is made on the meta device, where nothing costs anything. If more than parameters and
    persistent buffers has come of that, or the constructor wanted to see a number, it is made once
    more on the CPU, and each parameter gives up its memory as soon as it is registered.

    `n_weights` is how many tensors the file has that the weights will come from; without it the
    model is held to those that a file of it would have. So what is refused there is refused here.

    Raises:
        ValueError: the model refuses its settings, needs values that it can only have in training,
            or makes more than `MADE_PER_WEIGHT` parameters for each weight.
    """
    count = _Count(n_weights)
    bounded = partial(count.within, make)
    # The cheap way first: it is right for nearly every model.
    model, lost = _made_on_meta(bounded)
    if model is None or lost:
        model = _made_on_cpu(bounded)
    if n_weights is None:
        n_stored = len({id(tensor) for tensor in model.state_dict(keep_vars=True).values()})
        if count.most > MADE_PER_WEIGHT * n_stored:
            return without_weights(make, n_weights=n_stored)  # it stops where a file's would
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(
                f"{name} gets its shape from a first batch, and has none before: use a layer whose"
                " sizes are given (nn.Linear instead of nn.LazyLinear)"
            )
    return model


@dataclass(frozen=True)
class Outline:
    """What two models that were made alike have in common, whatever their weights."""

    stored: dict[str, tuple[tuple[int, ...], torch.dtype]]
    """Shape and dtype of what a checkpoint holds, by name."""
    derived: dict[str, Tensor]
    """Buffers that a checkpoint does not hold."""


def outline_of(model: nn.Module) -> Outline:
    """The outline of `model`, as it is now.

    Raises:
        ValueError: its state dict has something that a checkpoint cannot hold.
    """
    stored = {}
    # The state dict is what a checkpoint holds: persistent buffers as well, and nothing that a
    # model leaves out of it on purpose.
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise ValueError(
                f"{name} is in the state dict of the model and no dense tensor, which checkpoints"
                " cannot hold: make it one (register_buffer), or leave it out"
            )
        stored[name] = tuple(tensor.shape), tensor.dtype
    derived = {name: buffer for name, buffer in model.named_buffers() if name not in stored}
    return Outline(stored, derived)


def check_made_again(again: Outline, network: LanguageModel) -> None:
    """Refuse a `network` that could not be loaded: made `again` without its weights, it differs.

    Raises:
        ValueError: with the first difference, and what to do.
    """
    first = outline_of(network)
    if first.stored != again.stored:
        names = [n for n in {**first.stored, **again.stored} if _differs(first, again, n)]
        raise ValueError(
            f"made twice, the model has different weights ({names[0]}): its shapes must depend on"
            " its settings alone"
        )
    for name, buffer in first.derived.items():
        twin = again.derived.get(name)
        if twin is None or not _equal(buffer, twin):
            raise ValueError(
                f"the buffer {name} is not persistent, and has other values when the model is made"
                f" again: {PERSISTENT}, or compute it from the model's settings alone"
            )
    _check_shared(network)


def _check_shared(network: nn.Module) -> None:
    """Refuse parameters that are different objects in the same memory.

    Raises:
        ValueError: there are such.
    """
    names: dict[tuple[int, tuple[int, ...]], str] = {}
    for name, parameter in network.named_parameters():  # a tied one comes once
        if parameter.numel() == 0:
            continue
        # With its shape: a view of the first rows has the same address.
        other = names.setdefault((parameter.data_ptr(), tuple(parameter.shape)), name)
        if other != name:
            raise ValueError(
                f"{other} and {name} share their memory, but are two parameters: to tie them,"
                " assign one parameter to both names, without nn.Parameter(...) around it"
            )


def _differs(one: Outline, other: Outline, name: str) -> bool:
    return one.stored.get(name) != other.stored.get(name)


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


class _Count:
    """Counts the parameters of a model that is being made: those that are alive at one time.

    With `n_weights`, so many tensors of a file, a model of a billion layers is refused early.
    """

    def __init__(self, n_weights: int | None) -> None:
        self.n_weights, self.most = n_weights, 0
        self._alive: dict[int, weakref.ref[nn.Parameter]] = {}

    def within(self, make: Callable[[], LanguageModel]) -> LanguageModel:
        """Make a model, counting from 0.

        Raises:
            ValueError: it has more parameters than belong to so many weights.
        """
        self._alive.clear()
        self.most = 0
        # A global hook of torch's: constructors of any class go through it.
        handle = register_module_parameter_registration_hook(self._add)
        try:
            return make()
        finally:
            handle.remove()

    def _add(self, module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is None:
            return
        key = id(parameter)
        # A layer that is replaced, or a bias that is set to None, no longer counts.
        self._alive[key] = weakref.ref(parameter, lambda _: self._alive.pop(key, None))
        if self._exceeds():
            gc.collect()  # layers that refer to themselves are thrown away late
            if self._exceeds():
                raise ValueError(
                    f"its constructor makes more than {MADE_PER_WEIGHT} parameters for each of the"
                    f" {self.n_weights} weights that are stored: make only those that it keeps"
                )
        self.most = max(self.most, len(self._alive))

    def _exceeds(self) -> bool:
        return self.n_weights is not None and len(self._alive) > MADE_PER_WEIGHT * self.n_weights


class _Made(TorchFunctionMode):
    """Remembers, without keeping them alive, the tensors that operations make within it."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[weakref.ref[Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                # Weakly: most of these tensors are intermediate results, which must be freed as
                # usual.
                self.tensors.append(weakref.ref(tensor))
        return result

    def lost_in(self, model: nn.Module) -> list[Tensor]:
        """Tensors without values that are still in use, and that no checkpoint will replace."""
        held = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
        lost = [buffer for buffer in model.buffers() if buffer.is_meta and id(buffer) not in held]
        for reference in self.tensors:
            tensor = reference()
            if tensor is not None and tensor.is_meta and id(tensor) not in held:
                lost.append(tensor)
        return lost


def _made_on_meta(make: Callable[[], LanguageModel]) -> tuple[LanguageModel | None, bool]:
    """The model, and whether some of its values are missing; None if its constructor needs them."""
    try:
        with torch.device("meta"), _Made() as made:
            model = make()
    except ValueError:  # the model refuses its settings
        raise
    except Exception:  # torch raises several kinds where a number is wanted; else it comes again
        return None, True
    return model, bool(made.lost_in(model))


def _made_on_cpu(make: Callable[[], LanguageModel]) -> LanguageModel:
    with (
        torch.random.fork_rng(devices=[]),
        torch.device("cpu"),
        _parameters_on_meta() as hooked,
        _Made() as made,
    ):
        # Seeded, and forked before: what a constructor draws must be the same each time, and must
        # not use up the run's own numbers.
        torch.manual_seed(SEED)
        try:
            model = make()
        except RuntimeError as error:
            if not hooked:
                raise
            raise ValueError(
                "the constructor computes with the values of parameters, which it does not have"
                f" where a checkpoint's are loaded ({one_line(error)}); compute in hidden(), or"
                f" {PERSISTENT}"
            ) from error
    lost = made.lost_in(model)
    if lost:
        raise ValueError(
            f"{_name_of(lost[0], model)} is computed from parameters when the model is made, and"
            f" would be missing where it is loaded: compute it in hidden(), or {PERSISTENT}"
        )
    return model


@contextmanager
def _parameters_on_meta() -> Iterator[list[str]]:
    """Within it every parameter loses its memory when it is registered; the names of those so far.

    One that is registered under several names is still a single one.
    """
    names: list[str] = []
    # Weakly, both of a pair: what the model throws away must be gone.
    moved: dict[int, tuple[weakref.ref[nn.Parameter], weakref.ref[nn.Parameter]]] = {}

    def move(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta or is_lazy(parameter):
            return None  # as it is
        names.append(name)
        known = moved.get(id(parameter))
        if known is not None and known[0]() is parameter:
            twin = known[1]()
            if twin is not None:
                return twin
        empty = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        # Attributes that a model has set on its parameter, such as a mark for its optimizer.
        vars(empty).update(vars(parameter))
        moved[id(parameter)] = weakref.ref(parameter), weakref.ref(empty)
        return empty

    handle = register_module_parameter_registration_hook(move)  # type: ignore[arg-type]
    try:
        yield names
    finally:
        handle.remove()


def _name_of(tensor: Tensor, model: nn.Module) -> str:
    """Where `model` keeps `tensor`, as far as that can be told."""
    for prefix, module in model.named_modules():
        for name, value in [*module.named_buffers(recurse=False), *vars(module).items()]:
            if value is tensor:
                return f"{prefix}.{name}".lstrip(".")
    return f"a tensor of shape {tuple(tensor.shape)}"
