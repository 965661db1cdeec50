"""Read models in Hugging Face's format: `config.json`, safetensors and tokenizer files.

The config and every tensor's shape are checked before anything is allocated.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from firstlight.checkpoints.limits import open_safetensors
from firstlight.data.tokenizers.huggingface import (
    SETTINGS_FILE,
    TOKENIZER_FILES,
    read_json,
    read_tokenizer,
)
from firstlight.errors import ConfigError, shorten
from firstlight.foreign.gpt2 import GPT2Config, gpt2_tokenizer_section
from firstlight.foreign.hub import check_content
from firstlight.foreign.llama import LlamaConfig, Qwen3Config
from firstlight.foreign.published import Published, first_problem
from firstlight.output import note

SINGLE, SHARD_INDEX = "model.safetensors", "model.safetensors.index.json"
ARCHITECTURES: dict[Any, type[Published]] = {
    "gpt2": GPT2Config,
    "qwen3": Qwen3Config,
    "llama": LlamaConfig,
}
"""The class for each `model_type` of a config.json."""
READ_DTYPES = ("F32", "F16", "BF16")


def is_huggingface_folder(folder: Path) -> bool:
    """Whether a folder is in Hugging Face's format, of whatever architecture."""
    return (folder / "config.json").is_file()


def read_huggingface(
    folder: Path,
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any] | None]:
    """Our state dict in float32, the `model` and `tokenizer` sections, the tokenizer's state.

    The state is None if the folder has no tokenizer.

    Raises:
        ConfigError: firstlight does not support the model, or a file of it is damaged; the file is
            named.
    """
    config = _read_config(folder / "config.json")
    if oddity := config.note():
        note(f"{folder / 'config.json'}: {oddity}")
    tensors = _find_tensors(folder, config.prefix)
    # Before any tensor is read: names and shapes decide whether this is the model.
    _check_shapes(folder, tensors, config)
    # Some programs store the tied head a second time; it must be the embedding.
    tokenizer = _read_tokenizer(folder, config)
    head = tensors.get("lm_head.weight")
    if config.tie_word_embeddings and head is not None:
        is_embedding = (head.read() == tensors[config.embedding].read()).all()
        if not is_embedding:
            raise ConfigError(
                f"{head.file}: lm_head.weight is not {config.embedding}, though they are tied"
            )
    return config.weights(lambda name: tensors[name].read()), _sections(config), tokenizer


def read_sections(folder: Path) -> dict[str, Any]:
    """The `model` and `tokenizer` sections alone, of the model that config.json describes.

    Raises:
        ConfigError: firstlight does not support the model, or the file is damaged.
    """
    return _sections(_read_config(folder / "config.json"))


def _sections(config: Published) -> dict[str, Any]:
    return {"model": config.section(), "tokenizer": gpt2_tokenizer_section(config.vocab_size)}


@dataclass(frozen=True)
class _StoredTensor:
    """Where a tensor is, and what the file's header says about it."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str

    def read(self) -> Tensor:
        """Read the tensor from its file."""
        # The file is opened anew each time: mapped pages of a file that stays open count as memory.
        with open_safetensors(self.file) as opened:
            return opened.get_tensor(self.name)


def _read_config(file: Path) -> Published:
    check_content(file)
    content = read_json(file)
    kind = content.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        known = ", ".join(architecture.title for architecture in ARCHITECTURES.values())
        found = shorten(f"{kind!r}, architectures {content.get('architectures')}", 120)
        raise ConfigError(
            f"{file}: only the architectures of {known} can be read, its model_type is {found}"
        )
    try:
        config = ARCHITECTURES[kind].model_validate(content)
        config.check()
    except ValidationError as error:
        raise ConfigError(f"{file}: {first_problem(error)}") from None
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None
    return config


def _read_tokenizer(folder: Path, config: Published) -> dict[str, Any] | None:
    for name in (*TOKENIZER_FILES, SETTINGS_FILE):
        check_content(folder / name)
    tokenizer = read_tokenizer(folder)
    if tokenizer is None:
        if not config.has_default_tokenizer:
            raise ConfigError(
                f"{folder}: it has no {TOKENIZER_FILES[0]}, and {config.title} has no default"
                " tokenizer"
            )
        return None
    # A model may have rows without a token (padding to a multiple), but no token without a row.
    n_ids = tokenizer["vocab_size"]
    if n_ids > config.vocab_size:
        raise ConfigError(
            f"{folder}: its tokenizer has {n_ids} ids, config.json a vocab_size of"
            f" {config.vocab_size}"
        )
    return tokenizer | {"vocab_size": config.vocab_size}


def _find_tensors(folder: Path, prefix: str) -> dict[str, _StoredTensor]:
    """Every tensor of the folder, by its name without `prefix`."""
    if (folder / SINGLE).is_file():
        files = [folder / SINGLE]
    elif (folder / SHARD_INDEX).is_file():
        files = _shards(folder / SHARD_INDEX)
    else:
        pickles = sorted(folder.glob("*.bin"))
        if not pickles:
            raise ConfigError(f"{folder}: it has neither {SINGLE} nor {SHARD_INDEX}")
        raise ConfigError(
            f"{pickles[0]}: a pickle can run code and is not read; convert it where you trust it: "
            "transformers.AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
        )
    tensors = {}
    for file in files:
        check_content(file)
        for tensor in _headers(file):
            # Headers only: shapes are checked before any number is read.
            tensors[tensor.name.removeprefix(prefix)] = tensor
    return tensors


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConfigError(f"{index}: it has no weight_map")
    # The index may be somebody else's: it must not name files outside the folder.
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ConfigError(
                f"{index}: {shorten(name)!r} is not the name of a safetensors file beside it"
            )
        if not (index.parent / name).is_file():
            raise ConfigError(f"{index.parent / name}: missing, though {index.name} names it")
    return [index.parent / name for name in names]


def _headers(file: Path) -> list[_StoredTensor]:
    tensors = []
    with open_safetensors(file) as opened:
        for name in opened.keys():  # noqa: SIM118 (not a mapping)
            header = opened.get_slice(name)
            tensors.append(_StoredTensor(file, name, tuple(header.get_shape()), header.get_dtype()))
    return tensors


def _check_shapes(folder: Path, tensors: dict[str, _StoredTensor], config: Published) -> None:
    depth = f"{config.depth_key} {getattr(config, config.depth_key)}"
    # What is left over at the end has no place in the model.
    others = dict(tensors)
    # Ends at the first name that is missing, however many layers the config claims.
    for name, shape in config.shapes():
        if name not in tensors:
            asked = f"{depth}, tie_word_embeddings {config.tie_word_embeddings}"
            raise ConfigError(
                f"{folder}: its safetensors have no {name}, which its config.json ({asked})"
                " asks for"
            )
        _check_header(others.pop(name), shape)
    for name, tensor in others.items():
        if name == "lm_head.weight":  # a copy of the embedding
            _check_header(tensor, tensors[config.embedding].shape)
        elif not config.no_weights.fullmatch(name):
            what = f"{tensor.file}: {shorten(tensor.name)}"
            raise ConfigError(
                f"{what} has no place in the {config.title} that config.json ({depth}) describes"
            )


def _check_header(tensor: _StoredTensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ConfigError(
            f"{tensor.file}: {tensor.name} is {tensor.shape}, by config.json it is {shape}"
        )
    if tensor.dtype not in READ_DTYPES:
        raise ConfigError(
            f"{tensor.file}: {tensor.name} is {tensor.dtype}; only F32, F16 and BF16 can be read"
        )
