"""GPT-2 in Hugging Face's format: a folder with `config.json`, safetensors and the tokenizer's files.

The config and every tensor's shape are checked before anything is allocated.
"""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from firstlight.config import Ratio
from firstlight.data.tokenizers.huggingface import TOKENIZER_FILES, read_json, read_tokenizer
from firstlight.errors import ConfigError, one_line, shorten
from firstlight.weights.gpt2 import Size, from_gpt2, gpt2_section, gpt2_tokenizer_section
from firstlight.weights.hub import check_content

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_MASKS = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # buffers of older versions, no weights


class GPT2Config(BaseModel):
    """What must be so in a `config.json`; the defaults are those of transformers' class of this name."""

    model_config = ConfigDict(strict=True)
    vocab_size: Size
    n_positions: Size
    n_embd: Size
    n_head: Size
    n_layer: Size
    n_inner: int | None = None
    activation_function: Literal["gelu_new", "gelu_pytorch_tanh"] = "gelu_new"  # two names of one function
    layer_norm_epsilon: float = 1e-5
    resid_pdrop: Ratio = 0.1
    embd_pdrop: Ratio = 0.1
    attn_pdrop: Ratio = 0.1
    scale_attn_weights: Literal[True] = True
    scale_attn_by_inverse_layer_idx: Literal[False] = False
    add_cross_attention: Literal[False] = False
    tie_word_embeddings: bool = True


def is_huggingface_folder(folder: Path) -> bool:
    """Is this a model in Hugging Face's format, whatever its architecture and the format of its weights?"""
    return (folder / "config.json").is_file()


def read_huggingface(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any] | None]:
    """Our state dict (float32), the `model` and `tokenizer` sections, and the tokenizer's state if the folder has one.

    Where the three dropout rates differ, `drop_rate` is the one of the residual stream, and a note says so.

    Raises:
        ConfigError: it is no GPT-2 that can be computed here, or a file of it is damaged; the file is named.
    """
    check_content(folder / "config.json")
    config = _read_config(folder / "config.json")
    tensors = _find_tensors(folder)
    _check_shapes(folder, tensors, config)
    for name in TOKENIZER_FILES:
        check_content(folder / name)
    tokenizer = read_tokenizer(folder)
    if tokenizer is not None:
        if tokenizer["vocab_size"] > config.vocab_size:
            raise ConfigError(
                f"{folder}: its tokenizer has {tokenizer['vocab_size']} ids, config.json a vocab_size of "
                f"{config.vocab_size}"
            )
        tokenizer["vocab_size"] = config.vocab_size
    read = _reader(tensors)
    if config.tie_word_embeddings and "lm_head.weight" in tensors and not _same(read, "lm_head.weight", "wte.weight"):
        raise ConfigError(f"{tensors['lm_head.weight'].file}: lm_head.weight is not wte.weight, though they are tied")
    weights = from_gpt2(read, n_layers=config.n_layer, tied=config.tie_word_embeddings)
    return weights, _sections(config), tokenizer


@dataclass(frozen=True)
class _StoredTensor:
    """Where a tensor is, and what the file's header says of it."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def _read_config(file: Path) -> GPT2Config:
    content = read_json(file)
    if content.get("model_type") != "gpt2":
        found = f"{content.get('model_type')!r}, architectures {content.get('architectures')}"
        raise ConfigError(f"{file}: only the architecture of GPT-2 is read, its model_type is {shorten(found, 120)}")
    try:
        config = GPT2Config.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key, given = first["loc"][0], "" if first["type"] == "missing" else f" ({shorten(repr(first['input']))})"
        raise ConfigError(f"{file}: {key}{given}: {first['msg'].replace('Input', 'it', 1)}") from None
    if config.layer_norm_epsilon != 1e-5:
        raise ConfigError(f"{file}: layer_norm_epsilon ({config.layer_norm_epsilon}) must be 1e-05")
    if config.n_inner not in (None, 4 * config.n_embd):
        raise ConfigError(f"{file}: n_inner ({config.n_inner}) must be 4 * n_embd ({4 * config.n_embd})")
    if config.n_embd % config.n_head:
        raise ConfigError(f"{file}: n_embd ({config.n_embd}) must be divisible by n_head ({config.n_head})")
    if not config.resid_pdrop == config.embd_pdrop == config.attn_pdrop:
        rates = f"resid {config.resid_pdrop}, embd {config.embd_pdrop}, attn {config.attn_pdrop}"
        print(f"note: {file}: its dropout rates differ ({rates}); drop_rate is the first", file=sys.stderr)
    return config


def _find_tensors(folder: Path) -> dict[str, _StoredTensor]:
    """Every tensor of the folder, by its name without the prefix `transformer.`."""
    if (folder / SINGLE).is_file():
        files = [folder / SINGLE]
    elif (folder / INDEX).is_file():
        files = _shards(folder / INDEX)
    elif pickles := sorted(folder.glob("*.bin")):
        raise ConfigError(
            f"{pickles[0]}: a pickle can run code and is not read; convert it where you trust it: "
            "transformers.AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
        )
    else:
        raise ConfigError(f"{folder}: there is no {SINGLE} and no {INDEX}")
    for file in files:
        check_content(file)
    return {tensor.name.removeprefix("transformer."): tensor for file in files for tensor in _headers(file)}


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConfigError(f"{index}: it has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ConfigError(f"{index}: {shorten(name)!r} is no name of a safetensors file beside it")
        if not (index.parent / name).is_file():
            raise ConfigError(f"{index.parent / name}: missing, though {index.name} names it")
    return [index.parent / name for name in names]


def _headers(file: Path) -> list[_StoredTensor]:
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            return [_StoredTensor(file, n, tuple(s.get_shape()), s.get_dtype()) for n, s in slices.items()]
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{file}: damaged, or not a safetensors file ({one_line(error)})") from None


def _check_shapes(folder: Path, tensors: dict[str, _StoredTensor], config: GPT2Config) -> None:
    others = dict(tensors)
    for name, shape in gpt2_shapes(config):  # ends at the first that is missing, however many layers the config claims
        if name not in tensors:
            asked = f"n_layer {config.n_layer}, tie_word_embeddings {config.tie_word_embeddings}"
            raise ConfigError(f"{folder}: its safetensors have no {name}, which its config.json ({asked}) asks for")
        _check_header(others.pop(name), shape)
    for name, tensor in others.items():
        if name == "lm_head.weight":  # a copy of the embedding
            _check_header(tensor, (config.vocab_size, config.n_embd))
        elif not _MASKS.fullmatch(name):
            what = f"{tensor.file}: {shorten(tensor.name)}"
            raise ConfigError(f"{what} has no place in the GPT-2 that config.json (n_layer {config.n_layer}) tells of")


def _check_header(tensor: _StoredTensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ConfigError(f"{tensor.file}: {tensor.name} is {tensor.shape}, by config.json it is {shape}")
    if tensor.dtype not in ("F32", "F16", "BF16"):
        raise ConfigError(f"{tensor.file}: {tensor.name} is {tensor.dtype}; F32, F16 and BF16 are read")


def gpt2_shapes(config: GPT2Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every parameter of GPT-2 with its shape; matrices are (in, out)."""
    width = config.n_embd
    linear = {"attn.c_attn": 3 * width, "attn.c_proj": width, "mlp.c_fc": 4 * width, "mlp.c_proj": width}
    yield "wte.weight", (config.vocab_size, width)
    yield "wpe.weight", (config.n_positions, width)
    for layer in range(config.n_layer):
        for name, out in linear.items():
            yield f"h.{layer}.{name}.weight", (4 * width if name == "mlp.c_proj" else width, out)
            yield f"h.{layer}.{name}.bias", (out,)
        for name in ("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"):
            yield f"h.{layer}.{name}", (width,)
    yield "ln_f.weight", (width,)
    yield "ln_f.bias", (width,)
    if not config.tie_word_embeddings:
        yield "lm_head.weight", (config.vocab_size, width)


def _reader(tensors: dict[str, _StoredTensor]) -> Callable[[str], Tensor]:
    """Reads a tensor by its name, through a mapping of its own: pages of a file that stays open count as memory."""

    def read(name: str) -> Tensor:
        stored = tensors[name]
        try:
            with safe_open(stored.file, framework="pt") as opened:
                return opened.get_tensor(stored.name)
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{stored.file}: {stored.name} cannot be read ({one_line(error)})") from None

    return read


def _same(read: Callable[[str], Tensor], one: str, other: str) -> bool:
    return bool((read(one) == read(other)).all())


def _sections(config: GPT2Config) -> dict[str, Any]:
    model = gpt2_section(
        vocab_size=config.vocab_size,
        context_length=config.n_positions,
        emb_dim=config.n_embd,
        n_heads=config.n_head,
        n_layers=config.n_layer,
        drop_rate=config.resid_pdrop,
        tie_weights=config.tie_word_embeddings,
    )
    return {"model": model, "tokenizer": gpt2_tokenizer_section(config.vocab_size)}
