"""Checkpoints: find one, read it as plain data, make its model and tokenizer again."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Annotated, Any

import safetensors.torch
import torch
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from firstlight.config import build, check_node
from firstlight.data.tokenizers.base import StoredTokenizer, Tokenizer
from firstlight.errors import ConfigError, one_line, shorten
from firstlight.model.base import LanguageModel
from firstlight.weights.book import book_config, from_book, is_book_state_dict
from firstlight.weights.huggingface import read_huggingface
from firstlight.weights.openai import is_openai_folder, read_openai

FORMAT = 1
"""Of the plain data below the key `firstlight` of a checkpoint."""
MODEL_PREFIX = "model."
"""Of the model's names in the state dict of the LightningModule around it."""


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
        with torch.device("meta"):  # no memory for an initialisation that the weights replace
            model: LanguageModel = build({**section, "_partial_": False}, "model")
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


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of ours (`.ckpt`, `.safetensors`), the book's (`.pth`), or a folder of GPT-2's files.

    Raises:
        ConfigError: it is damaged, no checkpoint, or holds code (which is not run).
    """
    if path.is_dir():
        read = read_openai if is_openai_folder(path) else read_huggingface
        weights, config, tokenizer = read(path)
        return Checkpoint(path, weights, config, tokenizer, None)
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    raw = load_plain(path)
    if "firstlight" in raw:
        extra = _read_extra(path, raw["firstlight"])
        weights = {
            name.removeprefix(MODEL_PREFIX): tensor
            for name, tensor in _read_tensors(path, raw.get("state_dict")).items()
            if name.startswith(MODEL_PREFIX)
        }
        return Checkpoint(path, weights, extra.config, extra.tokenizer_state, raw.get("global_step"))
    state = raw.get("model_state_dict", raw)
    if isinstance(state, dict):  # torch.compile(model) saves its names like this
        state = {str(name).removeprefix("_orig_mod."): tensor for name, tensor in state.items()}
        if is_book_state_dict(state):
            state = _read_tensors(path, state)
            try:
                config = book_config(state)
            except (KeyError, ValueError) as error:
                raise ConfigError(f"{path}: not a whole model of the book ({error} is missing)") from None
            return Checkpoint(path, from_book(state), config, None, None, guessed=("n_heads",))
    raise ConfigError(
        f"{path}: neither a checkpoint of firstlight nor of the book (its keys: {', '.join(list(raw)[:5])})"
    )


def load_plain(path: Path) -> dict[str, Any]:
    """What `torch.save` wrote, with nothing executed and tensors mapped from the file.

    Raises:
        ConfigError: it is damaged, or holds something that is not plain data.
    """
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise ConfigError(f"{path}: holds code ({code[1]}); refused, nothing of it was run") from None
        raise ConfigError(f"{path}: damaged, or not a checkpoint") from None
    except PermissionError:
        raise ConfigError(f"{path}: cannot be read (permission denied)") from None
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, AttributeError, TypeError):  # bytes are bytes
        raise ConfigError(f"{path}: damaged, or not a checkpoint ({path.stat().st_size:,} bytes)") from None
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
    loaded = {id(own[name]) for name in weights if name in own}
    problems = [f"it has no {name}" for name, p in own.items() if name not in weights and id(p) not in loaded]
    problems += [f"{name} has no place in the model" for name in weights if name not in own]
    problems += [
        f"{name} is {tuple(w.shape)}, the model's is {tuple(own[name].shape)}"
        for name, w in weights.items()
        if name in own and w.shape != own[name].shape
    ]
    if problems:
        more = f" (and {len(problems) - 1} more differences)" if len(problems) > 1 else ""
        raise ConfigError(f"{checkpoint.path}: the weights of another model: {problems[0]}{more}")
    if other := next((name for name, w in weights.items() if not w.is_floating_point()), None):
        raise ConfigError(f"{checkpoint.path}: {other} holds no floating-point numbers")
    if not all(_is_finite(w) for w in weights.values()):
        raise ConfigError(f"{checkpoint.path}: some weights are not finite (nan or inf)")
    tied = {name: next(n for n in weights if own.get(n) is p) for name, p in own.items() if name not in weights}
    shared = [(name, other) for name, p in own.items() for other, q in own.items() if p is q and name < other]
    model.load_state_dict(weights | {name: weights[source] for name, source in tied.items()}, assign=assign)
    for name, other in shared:  # assigning has made two parameters of one
        parent, _, attribute = other.rpartition(".")
        setattr(model.get_submodule(parent), attribute, model.get_parameter(name))


def _is_finite(weight: Tensor) -> bool:
    """Without a copy of it: the smallest and the largest number are nan if any is."""
    return weight.numel() == 0 or all(map(math.isfinite, (float(bound) for bound in weight.aminmax())))


def save_safetensors(model: LanguageModel, path: Path, *, config: dict[str, Any], tokenizer: dict[str, Any]) -> None:
    """Write the weights alone, with the config and the tokenizer as metadata: enough to evaluate and to sample."""
    metadata = {"format": "pt", "firstlight": json.dumps({"format": FORMAT, "config": config, "tokenizer": tokenizer})}
    temporary = path.with_suffix(".tmp")
    try:
        safetensors.torch.save_model(model, str(temporary), metadata=metadata)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _load_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            extra = json.loads((file.metadata() or {}).get("firstlight", "null"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(f"{path}: damaged, or not a safetensors file ({error})") from None
    if extra is None:
        raise ConfigError(f"{path}: no weights that firstlight saved (its metadata has no config)")
    extra = _read_extra(path, extra)
    return Checkpoint(path, weights, extra.config, extra.tokenizer_state, None)


class _TokenizerState(BaseModel):
    """See `Tokenizer.state_dict`."""

    name: str
    pattern: str
    tokens: list[Annotated[str, Field(pattern="^([0-9a-f]{2})+$")]]
    end_of_text: NonNegativeInt
    vocab_size: PositiveInt


class _Extra(BaseModel):
    """What a checkpoint of ours holds beside weights and Lightning's state."""

    format: int
    config: dict[str, Any]
    tokenizer: _TokenizerState | None

    @property
    def tokenizer_state(self) -> dict[str, Any] | None:
        return None if self.tokenizer is None else self.tokenizer.model_dump()


def _read_extra(path: Path, extra: Any) -> _Extra:
    version = extra.get("format") if isinstance(extra, dict) else None
    if version != FORMAT:
        raise ConfigError(f"{path}: written in format {shorten(repr(version))}; this firstlight reads {FORMAT}")
    try:
        return _Extra.model_validate(extra, strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"{path}: damaged: its {key} is not what firstlight writes ({problem['msg']})") from None


def _read_tensors(path: Path, state: Any) -> dict[str, Tensor]:
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ConfigError(f"{path}: its state dict holds something else than tensors")
    return state
