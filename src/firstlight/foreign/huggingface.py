"""Models in Hugging Face's format: a folder with `config.json`, safetensors and the tokenizer's files.

The config and every tensor's shape are checked before anything is allocated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor

from firstlight.checkpoints.limits import open_safetensors
from firstlight.data.tokenizers.huggingface import TOKENIZER_FILES, read_json, read_tokenizer
from firstlight.errors import ConfigError, one_line, shorten
from firstlight.foreign.gpt2 import gpt2_tokenizer_section
from firstlight.foreign.hub import check_content
from firstlight.foreign.huggingface_gpt2 import GPT2Config
from firstlight.foreign.huggingface_llama import LlamaConfig, Qwen3Config
from firstlight.foreign.published import Published
from firstlight.output import note

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ARCHITECTURES: dict[Any, type[Published]] = {"gpt2": GPT2Config, "qwen3": Qwen3Config, "llama": LlamaConfig}
"""By the `model_type` of a config.json."""


def is_huggingface_folder(folder: Path) -> bool:
    """Is this a model in Hugging Face's format, whatever its architecture and the format of its weights?"""
    return (folder / "config.json").is_file()


def read_huggingface(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any] | None]:
    """Our state dict (float32), the `model` and `tokenizer` sections, and the tokenizer's state if the folder has one.

    Raises:
        ConfigError: it is no model that can be computed here, or a file of it is damaged; the file is named.
    """
    check_content(folder / "config.json")
    config = _read_config(folder / "config.json")
    tensors = _find_tensors(folder, config.prefix)
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
    elif not config.has_default_tokenizer:
        raise ConfigError(f"{folder}: it has no {TOKENIZER_FILES[0]}, and a {config.title} has no tokenizer of its own")
    read = _reader(tensors)
    if (
        config.tie_word_embeddings
        and "lm_head.weight" in tensors
        and not _same(read, "lm_head.weight", config.embedding)
    ):
        where = tensors["lm_head.weight"].file
        raise ConfigError(f"{where}: lm_head.weight is not {config.embedding}, though they are tied")
    sections = {"model": config.section(), "tokenizer": gpt2_tokenizer_section(config.vocab_size)}
    return config.weights(read), sections, tokenizer


@dataclass(frozen=True)
class _StoredTensor:
    """Where a tensor is, and what the file's header says of it."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def _read_config(file: Path) -> Published:
    content = read_json(file)
    kind, names = content.get("model_type"), [architecture.title for architecture in ARCHITECTURES.values()]
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        found = f"{kind!r}, architectures {content.get('architectures')}"
        raise ConfigError(
            f"{file}: only the architectures of {', '.join(names)} are read, its model_type is {shorten(found, 120)}"
        )
    try:
        config = ARCHITECTURES[kind].model_validate(content)
        config.check()
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        given = "" if first["type"] == "missing" else f" ({shorten(repr(first['input']))})"
        raise ConfigError(f"{file}: {shorten(key)}{given}: {first['msg'].replace('Input', 'it', 1)}") from None
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None
    if oddity := config.note():
        note(f"{file}: {oddity}")
    return config


def _find_tensors(folder: Path, prefix: str) -> dict[str, _StoredTensor]:
    """Every tensor of the folder, by its name without `prefix`."""
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
    return {tensor.name.removeprefix(prefix): tensor for file in files for tensor in _headers(file)}


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
        with open_safetensors(file) as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            return [_StoredTensor(file, n, tuple(s.get_shape()), s.get_dtype()) for n, s in slices.items()]
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(f"{file}: damaged, or not a safetensors file ({one_line(error)})") from None


def _check_shapes(folder: Path, tensors: dict[str, _StoredTensor], config: Published) -> None:
    others, depth = dict(tensors), f"{config.depth_key} {getattr(config, config.depth_key)}"
    for name, shape in config.shapes():  # ends at the first that is missing, however many layers the config claims
        if name not in tensors:
            asked = f"{depth}, tie_word_embeddings {config.tie_word_embeddings}"
            raise ConfigError(f"{folder}: its safetensors have no {name}, which its config.json ({asked}) asks for")
        _check_header(others.pop(name), shape)
    for name, tensor in others.items():
        if name == "lm_head.weight":  # a copy of the embedding
            _check_header(tensor, tensors[config.embedding].shape)
        elif not config.no_weights.fullmatch(name):
            what = f"{tensor.file}: {shorten(tensor.name)}"
            raise ConfigError(f"{what} has no place in the {config.title} that config.json ({depth}) tells of")


def _check_header(tensor: _StoredTensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ConfigError(f"{tensor.file}: {tensor.name} is {tensor.shape}, by config.json it is {shape}")
    if tensor.dtype not in ("F32", "F16", "BF16"):
        raise ConfigError(f"{tensor.file}: {tensor.name} is {tensor.dtype}; F32, F16 and BF16 are read")


def _reader(tensors: dict[str, _StoredTensor]) -> Callable[[str], Tensor]:
    """Reads a tensor by its name, through a mapping of its own: pages of a file that stays open count as memory."""

    def read(name: str) -> Tensor:
        stored = tensors[name]
        try:
            with open_safetensors(stored.file) as opened:
                return opened.get_tensor(stored.name)
        except (SafetensorError, OSError, ValueError) as error:
            raise ConfigError(f"{stored.file}: {stored.name} cannot be read ({one_line(error)})") from None

    return read


def _same(read: Callable[[str], Tensor], one: str, other: str) -> bool:
    return bool((read(one) == read(other)).all())
