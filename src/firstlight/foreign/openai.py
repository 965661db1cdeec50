"""GPT-2 as OpenAI published it (Radford et al. 2019), in TensorFlow's format."""

import os
import re
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import pooch
import requests
import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, TypeAdapter, ValidationError
from torch import Tensor

from firstlight.data.cache import cache_dir
from firstlight.data.files import read_limited
from firstlight.data.tokenizers.huggingface import state_of_vocabulary
from firstlight.errors import ConfigError, did_you_mean, one_line
from firstlight.files import locked, replace_text
from firstlight.foreign.gpt2 import GPT2Config, gpt2_tokenizer_section
from firstlight.foreign.published import Size, first_problem
from firstlight.foreign.tensorflow import TensorBundle
from firstlight.output import note

SIZES = ("124M", "355M", "774M", "1558M")
URLS = "FIRSTLIGHT_OPENAI_URLS"
"""Environment variable with other addresses, separated by commas and tried in this order; each has
a folder for each size."""
DEFAULT_URLS = (
    "https://openaipublic.blob.core.windows.net/gpt-2/models",
    # The book's copy, in case the first is blocked.
    "https://f001.backblazeb2.com/file/LLMs-from-scratch/gpt2",
)
PREFIX = "model.ckpt"
TENSOR_INDEX = f"{PREFIX}.index"
TENSOR_DATA = f"{PREFIX}.data-00000-of-00001"
FILES = ("checkpoint", "hparams.json", "encoder.json", "vocab.bpe", TENSOR_INDEX, TENSOR_DATA)
"""Files in the order of downloading: the largest comes after the index, which tells its size."""


class HParams(BaseModel):
    """The sizes of a model, in OpenAI's words."""

    model_config = ConfigDict(strict=True)

    n_vocab: Size
    n_ctx: Size
    n_embd: Size
    n_head: Size
    n_layer: Size


def download_gpt2(size: str) -> Path:
    """Download the model of `size` into the cache, except for files that are whole; its folder.

    Raises:
        ConfigError: no such size, no address has all the files, or they cannot be written.
    """
    if size not in SIZES:
        raise ConfigError(
            f"GPT-2 ({size}) must be one of {', '.join(SIZES)}{did_you_mean(size, SIZES)}"
        )
    folder = cache_dir() / "gpt2" / size
    addresses = []
    for url in os.environ.get(URLS, "").split(","):
        if url.strip():
            addresses.append(url.strip().rstrip("/"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            # The checksum says whether it changed since; the content, whether it was ever right.
            is_same = _is_same(folder / name)
            if not is_same:
                note(
                    f"{folder / name}: not what was downloaded, its checksum differs: downloading"
                    " it again"
                )
            if not is_same or not _is_whole(folder / name, folder):
                urls = [f"{url}/{size}/{name}" for url in addresses or DEFAULT_URLS]
                _download_file(name, folder, urls)
    except OSError as error:
        raise ConfigError(
            f"cannot write {error.filename or folder} ({error.strerror}); set FIRSTLIGHT_CACHE_DIR"
            f" to a folder with room for GPT-2 ({size})"
        ) from None
    return folder


def is_openai_folder(folder: Path) -> bool:
    """Whether a folder holds files like OpenAI's."""
    return (folder / "hparams.json").is_file() or (folder / TENSOR_INDEX).is_file()


def read_openai(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any] | None]:
    """Our state dict in float32, the `model` and `tokenizer` sections, the tokenizer's state.

    The state is None if the folder has no tokenizer.

    Raises:
        ConfigError: a file is missing, damaged or of another model.
    """
    try:
        config = _read_hparams(folder / "hparams.json")
        # Nothing is allocated before the shapes of all tensors have been compared.
        bundle = TensorBundle(folder / _read_prefix(folder / "checkpoint"))
        _check_shapes(bundle, config)
        tokenizer = _read_tokenizer(folder, config.vocab_size)
        weights = config.weights(lambda name: _read_tensor(bundle, name))
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder}: cannot be read ({error.strerror})"
        ) from None
    return weights, _sections(config), tokenizer


def read_sections(folder: Path) -> dict[str, Any]:
    """The `model` and `tokenizer` sections alone, of the model that hparams.json describes.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    file = folder / "hparams.json"
    try:
        return _sections(_read_hparams(file))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None


def _sections(config: GPT2Config) -> dict[str, Any]:
    return {"model": config.section(), "tokenizer": gpt2_tokenizer_section(config.vocab_size)}


def _download_file(name: str, folder: Path, urls: list[str]) -> None:
    """Download the file `name` from the first of `urls` that has it, whole or not at all.

    Raises:
        ConfigError: none of them has it.
        OSError: it cannot be written.
    """
    get = pooch.HTTPDownloader(progressbar=True, timeout=20, chunk_size=2**20)
    failures = []
    for url in urls:
        # In the same folder, so that the rename is one of a single file system.
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            file = Path(temporary, name)
            try:
                get(url, str(file), None)  # type: ignore[arg-type]
            # Raised as well if fewer bytes came than were announced.
            except requests.RequestException as error:
                failures.append(f"{url} ({_status(error)})")
                continue
            if _is_whole(file, folder):
                _keep_checksum(folder, name, pooch.file_hash(str(file)))
                # Only now, and on the same file system: a file of this name is whole.
                file.replace(folder / name)
                return
            failures.append(f"{url} (not the expected file)")
    raise ConfigError(
        f"cannot download {name} of GPT-2: {', '.join(failures)}; put {', '.join(FILES)} into"
        f" {folder}, use a folder of your own that has them, or hf:FOLDER with the files of Hugging"
        " Face"
    )


def _is_same(file: Path) -> bool:
    """Whether the file is what was downloaded; True if that is not known.

    It is not known if an earlier version or the user put the file there.
    """
    known = _checksums(file.parent).get(file.name)
    return known is None or not file.is_file() or known == pooch.file_hash(str(file))


def _keep_checksum(folder: Path, name: str, sha256: str) -> None:
    file = _checksum_file(folder)
    # Several trials of a sweep may download at once.
    with locked(file.with_name(f"{file.name}.lock"), timeout=-1):
        known = _checksums(folder) | {name: sha256}
        replace_text(file, "".join(f"{digest}  {name}\n" for name, digest in known.items()))


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that was downloaded, by its name."""
    file = _checksum_file(folder)
    if not file.is_file():
        return {}
    text = read_limited(file).decode("utf-8", errors="replace")
    return {
        name: sha256 for sha256, name in re.findall(r"^([0-9a-f]{64})  (\S+)$", text, re.MULTILINE)
    }


def _checksum_file(folder: Path) -> Path:
    """Where checksums are kept, in the format of sha256sum.

    It is beside the folder of a model, which holds nothing but OpenAI's files.
    """
    return folder.with_name(f"{folder.name}.sha256")


def _status(error: requests.RequestException) -> str:
    if error.response is None:
        return type(error).__name__
    error.response.close()  # pooch does not
    return f"{error.response.status_code} {error.response.reason}"


def _is_whole(file: Path, folder: Path) -> bool:
    """Whether the file exists, with the content that its name promises.

    Only the size of the data file is checked: whoever reads it compares the checksum of every
    tensor.
    """
    if not file.is_file():
        return False
    try:
        if file.name == TENSOR_DATA:
            return file.stat().st_size == TensorBundle(folder / PREFIX).data_size(0)
        if file.name == "checkpoint":
            return _read_prefix(file) == PREFIX
        if file.name == TENSOR_INDEX:
            TensorBundle(file.with_suffix(""))
        elif file.name == "hparams.json":
            _read_hparams(file)
        elif file.name == "encoder.json":
            _read_encoder(file)
        else:
            _read_merges(file)
    except ConfigError:
        return False
    return True


def _check_shapes(bundle: TensorBundle, config: GPT2Config) -> None:
    """Refuse a checkpoint without all parameters of `config`, in their shapes."""
    layers = set()
    for name in bundle.entries:
        match = re.match(r"model/h(\d+)/", name)
        if match:
            layers.add(match[1])
    # The loop below would not notice layers that hparams.json does not claim.
    if len(layers) != config.n_layer:
        raise ConfigError(
            f"{bundle.index}: has {len(layers)} layers; hparams.json says {config.n_layer}"
        )
    for their_name, shape in config.shapes():
        name = _openai_name(their_name)
        if name.endswith("/w"):  # OpenAI's linear layers are convolutions over one token
            shape = (1, *shape)
        entry = bundle.entries.get(name)
        if entry is None:
            raise ConfigError(f"{bundle.index}: has no {name}")
        if entry.dtype != "<f4" or entry.shape != shape:
            raise ConfigError(
                f"{bundle.index}: {name} is {entry.shape} of {entry.dtype}; hparams.json makes it"
                f" {shape} of <f4"
            )


def _openai_name(name: str) -> str:
    """OpenAI's name of what Hugging Face calls `name`: h.0.ln_1.weight is model/h0/ln_1/g."""
    *modules, kind = re.sub(r"^h\.", "h", name).split(".")
    path = "/".join(["model", *modules])
    if modules[-1] in ("wte", "wpe"):
        return path
    if kind == "bias":
        return f"{path}/b"
    return f"{path}/g" if modules[-1].startswith("ln_") else f"{path}/w"


def _read_tensor(bundle: TensorBundle, name: str) -> Tensor:
    # Mapped, not read: `weights` copies each into memory of its own.
    tensor = torch.from_numpy(bundle.read(_openai_name(name)))
    if tensor.dim() == 3:  # (1, in, out)
        return tensor.squeeze(0)
    return tensor


def _read_hparams(file: Path) -> GPT2Config:
    try:
        sizes = HParams.model_validate_json(read_limited(file))
    except ValidationError as error:
        raise ConfigError(f"{file}: {first_problem(error)}") from None
    # What OpenAI's file does not tell, as dropout, is the default of transformers' GPT2Config.
    config = GPT2Config(
        vocab_size=sizes.n_vocab,
        n_positions=sizes.n_ctx,
        n_embd=sizes.n_embd,
        n_head=sizes.n_head,
        n_layer=sizes.n_layer,
    )
    try:
        config.check()
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None
    return config


def _read_prefix(file: Path) -> str:
    """The prefix of TensorFlow's file names.

    The path before it is that of whoever saved the model, and is ignored.
    """
    if not file.is_file():
        return PREFIX
    text = read_limited(file).decode("utf-8", errors="replace")
    match = re.search(r'^model_checkpoint_path: *"([^"\\\n]+)"', text, re.MULTILINE)
    prefix = PurePosixPath(match[1]).name if match else ""
    if prefix in ("", "..") or not prefix.isprintable():
        raise ConfigError(f"{file}: names no checkpoint (model_checkpoint_path)")
    return prefix


def _read_tokenizer(folder: Path, n_vocab: int) -> dict[str, Any] | None:
    encoder, merges = folder / "encoder.json", folder / "vocab.bpe"
    # Both or none: one file without the other is a download that was cut short.
    missing = [file for file in (encoder, merges) if not file.is_file()]
    if len(missing) == 1:
        raise ConfigError(
            f"{missing[0]}: missing; the vocabulary needs both {encoder.name} and {merges.name}"
        )
    if missing:
        return None
    vocabulary = _read_encoder(encoder)
    if len(vocabulary) > n_vocab:
        raise ConfigError(
            f"{encoder}: has {len(vocabulary)} tokens; by hparams.json the model has {n_vocab}"
        )
    pairs = _read_merges(merges)
    try:
        return state_of_vocabulary(vocabulary, pairs)
    except ValueError as error:
        raise ConfigError(
            f"{folder}: {encoder.name} and {merges.name} are not a vocabulary ({one_line(error)})"
        ) from None


def _read_encoder(file: Path) -> dict[str, int]:
    """Ids of tokens, which are written in GPT-2's printable stand-ins for bytes."""
    try:
        return TypeAdapter(dict[str, NonNegativeInt]).validate_json(read_limited(file), strict=True)
    except ValidationError as error:
        raise ConfigError(f"{file}: {first_problem(error)}") from None


def _read_merges(file: Path) -> list[str]:
    """The merges, pairs of tokens ("a b"), in their order."""
    try:
        text = read_limited(file).decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not UTF-8 text") from None
    # Not splitlines(): a token may contain another of the characters that end lines there.
    version, *merges = text.rstrip("\n").split("\n")
    if not version.startswith("#version") or any(merge.count(" ") != 1 for merge in merges):
        raise ConfigError(f"{file}: not a list of merges")
    return merges
