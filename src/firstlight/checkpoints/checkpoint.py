"""What a checkpoint holds, and the model and tokenizer that are made of it."""

import math
import re
import warnings
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from firstlight.checkpoints.limits import DTYPES, CodeError, FileError, at_most, check_tensors, check_torch_file
from firstlight.config import build, check_node
from firstlight.data.tokenizers.base import StoredTokenizer, Tokenizer
from firstlight.errors import ConfigError, DamagedError, one_line, shorten
from firstlight.model.base import LanguageModel


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: weights, the composed config it was made with, the tokenizer's vocabulary."""

    path: Path
    state_dict: dict[str, Tensor]
    config: dict[str, Any]
    tokenizer: dict[str, Any] | None
    step: int | None
    guessed: tuple[str, ...] = ()
    """Settings of the model that the file does not tell."""

    def build_model(self) -> LanguageModel:
        """The model, with these weights, ready to evaluate.

        Raises:
            ConfigError: the config names no model of ours, or the weights are another model's.
        """
        section = check_node("model", self.config.get("model"), LanguageModel)
        try:
            with torch.device("meta"), at_most(len(self.state_dict)):  # no memory for what the weights replace
                model: LanguageModel = build({**section, "_partial_": False}, "model")
        except (RuntimeError, OverflowError, MemoryError) as error:
            raise ConfigError(f"{self.path}: no model can be of these sizes ({one_line(error)})") from None
        load_weights(model, self, assign=True)
        return model.eval()

    def build_tokenizer(self) -> Tokenizer:
        """The tokenizer this model was trained with."""
        if self.tokenizer is not None:
            try:
                return StoredTokenizer(self.tokenizer)
            except ValueError as error:
                raise ConfigError(f"{self.path}: its tokenizer cannot be used: {one_line(error)}") from None
        section = check_node("tokenizer", self.config.get("tokenizer"), Tokenizer)
        tokenizer = build(section, "tokenizer")
        try:
            tokenizer.fit([])
        except ValueError as error:
            raise ConfigError(f"{self.path}: {error}") from error
        return tokenizer


def load_plain(path: Path) -> dict[str, Any]:
    """What `torch.save` wrote, with nothing executed and tensors mapped from the file.

    Raises:
        ConfigError: it is damaged, or holds something that is not plain data.
    """
    try:
        check_torch_file(path)
        with warnings.catch_warnings(action="ignore"):
            raw = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except CodeError as error:
        raise ConfigError(f"{path}: holds code ({error}); refused, nothing of it was run") from None
    except UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise ConfigError(f"{path}: holds code ({shorten(code[1])}); refused, nothing of it was run") from None
        raise DamagedError(f"{path}: damaged, or not a checkpoint") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or one_line(error)})") from None
    except Exception as error:  # bytes are bytes: there is nothing that torch.load does not raise for some
        reason = one_line(error) if isinstance(error, FileError) else f"{path.stat().st_size:,} bytes"
        raise DamagedError(f"{path}: damaged, or not a checkpoint ({reason})") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: not a checkpoint (it holds a {type(raw).__name__})")
    return raw


def load_weights(model: LanguageModel, checkpoint: Checkpoint, *, assign: bool = False) -> None:
    """Put the checkpoint's weights into `model`; `assign` takes its tensors instead of copying them.

    Raises:
        ConfigError: the weights are another model's: the first difference, and how many there are.
    """
    weights = checkpoint.state_dict
    own = model.state_dict(keep_vars=True)
    weights = with_tied_names(model, weights)
    problems = [f"it has no {name}" for name in own if name not in weights]
    problems += [f"{shorten(str(name))} has no place in the model" for name in weights if name not in own]
    problems += [
        f"{name} is {tuple(w.shape)}, the model's is {tuple(own[name].shape)}"
        for name, w in weights.items()
        if name in own and w.shape != own[name].shape
    ]
    if problems:
        more = f" (and {len(problems) - 1} more differences)" if len(problems) > 1 else ""
        raise ConfigError(f"{checkpoint.path}: the weights of another model: {problems[0]}{more}")
    if other := next((name for name, w in weights.items() if w.dtype not in DTYPES), None):
        raise ConfigError(f"{checkpoint.path}: {other} holds no floating-point numbers ({weights[other].dtype})")
    if not all(_is_finite(w) for w in weights.values()):
        raise ConfigError(f"{checkpoint.path}: some weights are not finite (nan or inf)")
    names_of: dict[int, list[str]] = {}
    for name, parameter in own.items():
        names_of.setdefault(id(parameter), []).append(name)
    shared = [pair for names in names_of.values() for pair in combinations(sorted(names), 2)]
    weights = {name: weight.to(own[name].dtype) for name, weight in weights.items()}  # one dtype, whatever the file's
    model.load_state_dict(weights, assign=assign)
    for name, other in shared:  # assigning has made two parameters of one
        parent, _, attribute = other.rpartition(".")
        setattr(model.get_submodule(parent), attribute, model.get_parameter(name))


def with_tied_names(model: torch.nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """`weights`, in which a parameter of several names is found below one, below all the names it has in `model`."""
    own = model.state_dict(keep_vars=True)
    stored = {id(own[name]): weight for name, weight in weights.items() if name in own}
    return weights | {name: stored[id(p)] for name, p in own.items() if name not in weights and id(p) in stored}


def _is_finite(weight: Tensor) -> bool:
    """Without a copy of it: the smallest and the largest number are nan if any is."""
    return weight.numel() == 0 or all(map(math.isfinite, (float(bound) for bound in weight.detach().aminmax())))


def read_tensors(path: Path, state: Any) -> dict[str, Tensor]:
    if not isinstance(state, dict):
        raise ConfigError(f"{path}: its state dict is none")
    try:
        check_tensors(state, path.stat().st_size)
    except FileError as error:
        raise ConfigError(f"{path}: {one_line(error)}") from None
    return state
