"""GPT-2 as OpenAI published it (Radford et al. 2019): a TensorFlow checkpoint, hyperparameters and a vocabulary."""

import hashlib
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
from firstlight.errors import ConfigError, did_you_mean, one_line, shorten
from firstlight.files import locked, replace_text
from firstlight.foreign.gpt2 import Size, from_gpt2, gpt2_section, gpt2_tokenizer_section
from firstlight.foreign.tensorflow import TensorBundle
from firstlight.output import note

SIZES = ("124M", "355M", "774M", "1558M")
URLS = "FIRSTLIGHT_OPENAI_URLS"
"""Environment variable: where to download from instead, in this order, separated by commas. Each address has a folder
for each size."""
DEFAULT_URLS = (
    "https://openaipublic.blob.core.windows.net/gpt-2/models",
    "https://f001.backblazeb2.com/file/LLMs-from-scratch/gpt2",  # the book's copy, for where the first is blocked
)
PREFIX = "model.ckpt"
INDEX = f"{PREFIX}.index"
DATA = f"{PREFIX}.data-00000-of-00001"
FILES = ("checkpoint", "hparams.json", "encoder.json", "vocab.bpe", INDEX, DATA)
"""The large one last, behind the index that tells its size."""


class HParams(BaseModel):
    """The sizes of a model, in OpenAI's words."""

    model_config = ConfigDict(strict=True, frozen=True)

    n_vocab: Size
    n_ctx: Size
    n_embd: Size
    n_head: Size
    n_layer: Size


def download(size: str) -> Path:
    """The folder in the cache with the files of the model of `size`; those that are whole are not downloaded again.

    Raises:
        ConfigError: there is no such size, no address has all the files, or they cannot be written.
    """
    if size not in SIZES:
        raise ConfigError(f"GPT-2 ({size}) must be one of {', '.join(SIZES)}{did_you_mean(size, SIZES)}")
    folder = cache_dir() / "gpt2" / size
    addresses = [url.strip().rstrip("/") for url in os.environ.get(URLS, "").split(",") if url.strip()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            is_same = _is_same(folder / name)
            if not is_same:
                note(f"{folder / name}: not what was downloaded, its checksum differs: downloading it again")
            if not is_same or not _is_whole(folder / name, folder):
                _download_file(name, folder, [f"{url}/{size}/{name}" for url in addresses or DEFAULT_URLS])
    except OSError as error:
        raise ConfigError(
            f"cannot write {error.filename or folder} ({error.strerror}); set FIRSTLIGHT_CACHE_DIR to a folder with "
            f"room for GPT-2 ({size})"
        ) from None
    return folder


def is_openai_folder(folder: Path) -> bool:
    """Is this a folder of files like OpenAI's?"""
    return any((folder / name).is_file() for name in ("hparams.json", INDEX))


def read_openai(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any] | None]:
    """Weights, config and state of the tokenizer (None without a vocabulary) from a folder of files like OpenAI's.

    Raises:
        ConfigError: a file is missing, damaged or of another model.
    """
    try:
        sizes = _read_hparams(folder / "hparams.json")
        bundle = TensorBundle(folder / _read_prefix(folder / "checkpoint"))
        layout = _layout(sizes, bundle)
        tokenizer = _read_tokenizer(folder, sizes.n_vocab)
        weights = from_gpt2(lambda name: _read_tensor(bundle, *layout[name]), n_layers=sizes.n_layer)
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: cannot be read ({error.strerror})") from None
    model = gpt2_section(
        vocab_size=sizes.n_vocab,
        context_length=sizes.n_ctx,
        emb_dim=sizes.n_embd,
        n_heads=sizes.n_head,
        n_layers=sizes.n_layer,
    )
    return weights, {"model": model, "tokenizer": gpt2_tokenizer_section(sizes.n_vocab)}, tokenizer


def _download_file(name: str, folder: Path, urls: list[str]) -> None:
    """Put the file of that name into `folder`, from the first of `urls` that has it; it appears there whole.

    Raises:
        ConfigError: none of them has it.
        OSError: it cannot be written.
    """
    get = pooch.HTTPDownloader(progressbar=True, timeout=20, chunk_size=2**20)
    failures = []
    for url in urls:
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            file = Path(temporary, name)
            try:
                get(url, str(file), None)  # type: ignore[arg-type]
            except requests.RequestException as error:  # also fewer bytes than were announced
                failures.append(f"{url} ({_status(error)})")
                continue
            if _is_whole(file, folder):
                _keep_checksum(folder, name, _sha256(file))
                file.replace(folder / name)
                return
            failures.append(f"{url} (another file than it should be)")
    raise ConfigError(
        f"cannot download {name} of GPT-2: {', '.join(failures)}; put {', '.join(FILES)} into {folder}, use a "
        "folder of your own that has them, or hf:FOLDER with the files of Hugging Face"
    )


def _is_same(file: Path) -> bool:
    """Is the file what was downloaded? Of one that was not, or by an earlier version, nothing is known."""
    known = _checksums(file.parent).get(file.name)
    return known is None or not file.is_file() or known == _sha256(file)


def _keep_checksum(folder: Path, name: str, sha256: str) -> None:
    file = _checksum_file(folder)
    with locked(file.with_name(f"{file.name}.lock"), timeout=-1):  # several trials of a sweep may download at once
        known = {**_checksums(folder), name: sha256}
        replace_text(file, "".join(f"{digest}  {name}\n" for name, digest in known.items()))


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 by name, of the files that were downloaded."""
    file = _checksum_file(folder)
    text = read_limited(file).decode("utf-8", errors="replace") if file.is_file() else ""
    return {name: sha256 for sha256, name in re.findall(r"^([0-9a-f]{64})  (\S+)$", text, re.MULTILINE)}


def _checksum_file(folder: Path) -> Path:
    """Beside the folder of a model, in the form of sha256sum: what its files were when they were downloaded."""
    return folder.with_name(f"{folder.name}.sha256")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _status(error: requests.RequestException) -> str:
    if error.response is None:
        return type(error).__name__
    error.response.close()  # pooch does not
    return f"{error.response.status_code} {error.response.reason}"


def _is_whole(file: Path, folder: Path) -> bool:
    """Is the file there, and what its name says? Of the data only the size is compared: reading checks every tensor."""
    if not file.is_file():
        return False
    try:
        if file.name == DATA:
            return file.stat().st_size == TensorBundle(folder / PREFIX).data_size(0)
        if file.name == INDEX:
            TensorBundle(file.with_suffix(""))
        elif file.name == "checkpoint":
            return _read_prefix(file) == PREFIX
        else:
            {"hparams.json": _read_hparams, "encoder.json": _read_encoder, "vocab.bpe": _read_merges}[file.name](file)
    except ConfigError:
        return False
    return True


def _layout(sizes: HParams, bundle: TensorBundle) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensor of the bundle, and its shape, for every name of Hugging Face's; all are there and of that shape."""
    layers = {match[1] for name in bundle.entries if (match := re.match(r"model/h(\d+)/", name))}
    if len(layers) != sizes.n_layer:  # compared before a name is made for each
        raise ConfigError(f"{bundle.index}: has {len(layers)} layers; hparams.json says {sizes.n_layer}")
    c = sizes.n_embd
    layout: dict[str, tuple[str, tuple[int, ...]]] = {
        "wte.weight": ("model/wte", (sizes.n_vocab, c)),
        "wpe.weight": ("model/wpe", (sizes.n_ctx, c)),
    }
    norms = [("ln_f", "model/ln_f")]
    for layer in range(sizes.n_layer):
        theirs, openai = f"h.{layer}", f"model/h{layer}"
        norms += [(f"{theirs}.{norm}", f"{openai}/{norm}") for norm in ("ln_1", "ln_2")]
        for block, part, n_in, n_out in (
            ("attn", "c_attn", c, 3 * c),
            ("attn", "c_proj", c, c),
            ("mlp", "c_fc", c, 4 * c),
            ("mlp", "c_proj", 4 * c, c),
        ):
            layout[f"{theirs}.{block}.{part}.weight"] = (f"{openai}/{block}/{part}/w", (1, n_in, n_out))
            layout[f"{theirs}.{block}.{part}.bias"] = (f"{openai}/{block}/{part}/b", (n_out,))
    for theirs, openai in norms:
        layout |= {f"{theirs}.weight": (f"{openai}/g", (c,)), f"{theirs}.bias": (f"{openai}/b", (c,))}
    for name, shape in layout.values():
        entry = bundle.entries.get(name)
        if entry is None:
            raise ConfigError(f"{bundle.index}: has no {name}")
        if entry.dtype != "<f4" or entry.shape != shape:
            raise ConfigError(
                f"{bundle.index}: {name} is {entry.shape} of {entry.dtype}; hparams.json makes it {shape} of <f4"
            )
    return layout


def _read_tensor(bundle: TensorBundle, name: str, shape: tuple[int, ...]) -> Tensor:
    """As Hugging Face has it: matrices without the leading axis of OpenAI's convolutions."""
    tensor = torch.from_numpy(bundle.read(name))
    return tensor.squeeze(0) if len(shape) == 3 else tensor


def _read_hparams(file: Path) -> HParams:
    try:
        sizes = HParams.model_validate_json(read_limited(file))
    except ValidationError as error:
        raise ConfigError(f"{file}: {_first_problem(error)}") from None
    if sizes.n_embd % sizes.n_head:
        raise ConfigError(f"{file}: n_embd ({sizes.n_embd}) must be divisible by n_head ({sizes.n_head})")
    return sizes


def _read_prefix(file: Path) -> str:
    """What the names of TensorFlow's files begin with. A path before it is that of who saved them, and is ignored."""
    if not file.is_file():
        return PREFIX
    match = re.search(
        r'^model_checkpoint_path: *"([^"\\\n]+)"', read_limited(file).decode("utf-8", errors="replace"), re.MULTILINE
    )
    prefix = PurePosixPath(match[1]).name if match else ""
    if prefix in ("", "..") or not prefix.isprintable():
        raise ConfigError(f"{file}: names no checkpoint (model_checkpoint_path)")
    return prefix


def _read_tokenizer(folder: Path, n_vocab: int) -> dict[str, Any] | None:
    encoder, merges = folder / "encoder.json", folder / "vocab.bpe"
    missing = [file for file in (encoder, merges) if not file.is_file()]
    if len(missing) == 1:
        raise ConfigError(f"{missing[0]}: there is no such file, which the other half of the vocabulary needs")
    if missing:
        return None
    vocabulary = _read_encoder(encoder)
    if len(vocabulary) > n_vocab:
        raise ConfigError(f"{encoder}: has {len(vocabulary)} tokens; by hparams.json the model has {n_vocab}")
    pairs = _read_merges(merges)
    try:
        return state_of_vocabulary(vocabulary, pairs)
    except ValueError as error:
        raise ConfigError(f"{folder}: {encoder.name} and {merges.name} are no vocabulary ({one_line(error)})") from None


def _read_encoder(file: Path) -> dict[str, int]:
    """Ids of tokens, whose bytes have printable characters as stand-ins."""
    try:
        return TypeAdapter(dict[str, NonNegativeInt]).validate_json(read_limited(file), strict=True)
    except ValidationError as error:
        raise ConfigError(f"{file}: {_first_problem(error)}") from None


def _read_merges(file: Path) -> list[str]:
    """Pairs of tokens ("a b"), the first merge first."""
    try:
        version, *merges = read_limited(file).decode("utf-8").replace("\r\n", "\n").rstrip("\n").split("\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not UTF-8 text") from None
    if not version.startswith("#version") or any(merge.count(" ") != 1 for merge in merges):
        raise ConfigError(f"{file}: not a list of merges")
    return merges


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    return shorten(": ".join([*map(str, problem["loc"]), problem["msg"]]), 200)
