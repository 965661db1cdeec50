"""What a checkpoint holds, and the model and the tokenizer that are built from it."""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from firstlight.checkpoints.limits import (
    DTYPES,
    CodeError,
    FileError,
    check_tensors,
    check_torch_file,
)
from firstlight.config import blame, build, check_node
from firstlight.data.tokenizers.base import StoredTokenizer, Tokenizer
from firstlight.errors import ConfigError, DamagedError, one_line, shorten, with_article
from firstlight.model.base import LanguageModel
from firstlight.model.construction import without_weights


@dataclass(frozen=True)
class Checkpoint:
    """Weights, the composed config they were made with, and the state of the tokenizer."""

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
            ConfigError: the config does not name a model of firstlight, or the weights are another
                model's.
        """
        # The stored tensors become the parameters (assign), so the weights are in memory once.
        model = model_without_weights(self.path, self.config, len(self.state_dict))
        load_weights(model, self, assign=True)
        return model.eval()

    def build_tokenizer(self) -> Tokenizer:
        """The tokenizer this model was trained with.

        Raises:
            ConfigError: it cannot be built.
        """
        if self.tokenizer is not None:
            try:
                return StoredTokenizer(self.tokenizer)
            except ValueError as error:
                raise ConfigError(
                    f"{self.path}: its tokenizer cannot be used: {one_line(error)}"
                ) from None
        tokenizer = build(
            check_node("tokenizer", self.config.get("tokenizer"), Tokenizer), "tokenizer"
        )
        try:
            tokenizer.fit([])
        except ValueError as error:
            raise ConfigError(f"{self.path}: {error}") from error
        return tokenizer


def model_without_weights(path: Path, config: dict[str, Any], n_weights: int) -> LanguageModel:
    """The model that `config`, of a file with `n_weights` tensors, describes.

    Raises:
        ConfigError: the config names no model, or one that is far larger than the file.
    """
    section = check_node("model", config.get("model"), LanguageModel)
    make = build({**section, "_partial_": True}, "model")
    try:
        # Bounded by what the file holds: a config from elsewhere may claim any size.
        return without_weights(make, n_weights=n_weights)
    except (RuntimeError, OverflowError, MemoryError) as error:
        raise ConfigError(f"{path}: a model cannot have these sizes ({one_line(error)})") from None
    except (ValueError, TypeError) as error:
        raise blame("model", error) from error


def load_plain(path: Path) -> dict[str, Any]:
    """What `torch.save` wrote, with nothing executed and tensors mapped from the file.

    Raises:
        DamagedError: it is damaged.
        ConfigError: it cannot be read, or holds something that is not plain data.
    """
    try:
        # Before torch.load, which would already act on what the file claims.
        check_torch_file(path)
        with warnings.catch_warnings(action="ignore"):
            raw = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except CodeError as error:
        raise _holds_code(path, str(error)) from None
    except UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise _holds_code(path, shorten(code[1])) from None
        raise DamagedError(f"{path}: damaged, or not a checkpoint") from None
    except FileError as error:
        raise DamagedError(f"{path}: damaged, or not a checkpoint ({one_line(error)})") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or one_line(error)})") from None
    except Exception:  # given the right bytes, torch.load raises anything
        size = path.stat().st_size
        raise DamagedError(f"{path}: damaged, or not a checkpoint ({size:,} bytes)") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: not a checkpoint (it holds {with_article(type(raw).__name__)})")
    return raw


def _holds_code(path: Path, name: str) -> ConfigError:
    return ConfigError(f"{path}: holds code ({name}); refused, nothing of it was run")


def load_weights(model: LanguageModel, checkpoint: Checkpoint, *, assign: bool = False) -> None:
    """Put the checkpoint's weights into `model`; `assign` puts the tensors in, not copies.

    Raises:
        ConfigError: the weights are another model's (the first difference, and how many there are),
            or not finite.
    """
    own = model.state_dict(keep_vars=True)  # parameters themselves: tied ones are the same object
    weights = with_tied_names(model, checkpoint.state_dict)
    problems = _differences(own, weights)
    if problems:
        more = f" (and {len(problems) - 1} more differences)" if len(problems) > 1 else ""
        raise ConfigError(f"{checkpoint.path}: the weights of another model: {problems[0]}{more}")
    for name, weight in weights.items():
        wanted = own[name].dtype
        if wanted in DTYPES and weight.dtype not in DTYPES:
            raise ConfigError(
                f"{checkpoint.path}: {name} does not hold floating-point numbers ({weight.dtype})"
            )
        if wanted not in DTYPES and weight.dtype != wanted:  # a buffer of counts, or of places
            raise ConfigError(
                f"{checkpoint.path}: {name} is {weight.dtype}, the model's is {wanted}"
            )
        # A mask of minus infinity is a usual buffer.
        if isinstance(own[name], nn.Parameter) and not _is_finite(weight):
            raise ConfigError(f"{checkpoint.path}: some weights are not finite (nan or inf)")
    same_dtype = {name: weight.to(own[name].dtype) for name, weight in weights.items()}
    model.load_state_dict(same_dtype, assign=assign)
    # Assigning makes two parameters of one that had two names.
    name_of = {id(parameter): name for name, parameter in own.items()}
    for name, parameter in own.items():
        kept = name_of[id(parameter)]
        if name != kept:
            module, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(module), attribute, model.get_parameter(kept))


def with_tied_names(model: torch.nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """`weights`, with a parameter that has several names in `model` under all of them."""
    own = model.state_dict(keep_vars=True)
    stored = {id(own[name]): weight for name, weight in weights.items() if name in own}
    completed = dict(weights)
    for name, parameter in own.items():
        if name not in weights and id(parameter) in stored:
            completed[name] = stored[id(parameter)]
    return completed


def _differences(own: dict[str, Any], weights: dict[str, Tensor]) -> list[str]:
    """What keeps `weights` from being those of the model whose state dict is `own`."""
    missing = [f"it has no {name}" for name in own if name not in weights]
    unknown, shapes = [], []
    for name, weight in weights.items():
        if name not in own:
            unknown.append(f"{shorten(str(name))} has no place in the model")
        elif weight.shape != own[name].shape:
            shapes.append(
                f"{name} is {tuple(weight.shape)}, the model's is {tuple(own[name].shape)}"
            )
    return missing + unknown + shapes


def _is_finite(weight: Tensor) -> bool:
    """Without a copy of it: the smallest and the largest number are nan if any is."""
    if weight.numel() == 0:
        return True
    smallest, largest = weight.detach().aminmax()
    return bool(smallest.isfinite() and largest.isfinite())


def read_tensors(path: Path, state: Any) -> dict[str, Tensor]:
    """`state`, which was read from the file `path`, if it is a state dict of plain tensors.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(state, dict):
        raise ConfigError(f"{path}: its state dict is not a dict")
    try:
        check_tensors(state, path.stat().st_size)
    except FileError as error:
        raise ConfigError(f"{path}: {one_line(error)}") from None
    return state
