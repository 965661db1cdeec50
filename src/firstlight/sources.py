"""Find a checkpoint by its name on the command line, and read it, whichever program wrote it."""

from pathlib import Path
from typing import Any

from firstlight.checkpoints.checkpoint import Checkpoint, load_plain, read_tensors
from firstlight.checkpoints.find import CHECKPOINTS, best_of, checkpoints_of, run_named
from firstlight.checkpoints.folder_io import read_model
from firstlight.checkpoints.manifest import (
    MANIFEST,
    WEIGHTS,
    is_checkpoint_folder,
    read_manifest,
)
from firstlight.checkpoints.model_file import read_model_config, read_model_file
from firstlight.data.files import leads_to, user_path
from firstlight.errors import ConfigError, one_line, shorten
from firstlight.foreign import hub, huggingface, openai
from firstlight.foreign.book import book_config, from_book, is_book_state_dict
from firstlight.foreign.huggingface import is_huggingface_folder, read_huggingface
from firstlight.foreign.openai import is_openai_folder, read_openai


def find_checkpoint(name: str, *, best: bool = True, key: str = "checkpoint") -> Path:
    """Find the file or folder of a checkpoint; a published model is downloaded once.

    `name` is a checkpoint, a run folder (its best checkpoint, or the newest if not `best`), "last"
    (the newest run), a folder of Hugging Face's or OpenAI's files, or a published model: gpt2,
    hf:REPO, hf:FOLDER, openai:124M. Errors are about the setting `key`.

    Raises:
        ConfigError: it does not exist, or cannot be downloaded.
    """
    try:
        # Published names first: a file called gpt2 is meant by ./gpt2.
        published = _find_published(name)
    except ConfigError as error:
        raise ConfigError(f"{key} ({name}): {error}") from error
    if published is not None:
        return published
    if "://" in name:
        raise ConfigError(f"{key} ({name}): must be a file or a run folder; download it first")
    path = run_named(name)
    if not leads_to(path):
        raise ConfigError(f"{key} ({name}): no such file or run folder")
    # One checkpoint: ours, or a folder of another program's files.
    if path.is_file() or (path / MANIFEST).is_file():
        return path
    if is_huggingface_folder(path) or is_openai_folder(path):
        return path
    # A run folder: choose among its checkpoints.
    saved = checkpoints_of(path)
    if not saved:
        raise ConfigError(f"{key} ({name}): a folder without a checkpoint ({CHECKPOINTS}/step_*)")
    return best_of(saved) if best else saved[-1]


def check_named(name: str) -> None:
    """Refuse a `checkpoint` that is not on this machine, unless it can be downloaded.

    For what is said first: a wrong name, before anything else that is wrong with a command.

    Raises:
        ConfigError: it does not exist.
    """
    is_published = name in hub.GPT2_NAMES or name.startswith(("openai:", "hf:"))
    if not is_published:
        find_checkpoint(name)


def _find_published(name: str) -> Path | None:
    """The folder of the published model `name`, downloaded if necessary; None for other names.

    Raises:
        ConfigError: it cannot be downloaded.
    """
    if name in hub.GPT2_NAMES:
        return hub.download_repo(hub.GPT2_NAMES[name])
    source, _, rest = name.partition(":")
    if source == "openai":
        return openai.download_gpt2(rest)
    if source != "hf":
        return None
    if not rest:
        raise ConfigError("name a repository or a folder: hf:owner/name, hf:./folder")
    folder = user_path(rest)
    if leads_to(folder, Path.is_dir):  # it goes before a repository of the same name
        if not is_huggingface_folder(folder):
            raise ConfigError(
                "a folder without config.json, which Hugging Face's format has; firstlight's own"
                " runs and checkpoints are named without hf:"
            )
        return folder
    if leads_to(folder, Path.is_file):
        raise ConfigError("a file; hf: takes the folder that it is in, or a repository")
    if rest.startswith(("./", "../", "/", "~")) or leads_to(folder):
        raise ConfigError("no such folder")
    repo, _, revision = rest.partition("@")
    return hub.download_repo(repo, revision or None)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of ours (folder or `.safetensors`), the book's `.pth`, or a published one.

    Raises:
        DamagedError: it is damaged.
        ConfigError: it is not a checkpoint, or holds code (which is not run).
    """
    if is_checkpoint_folder(path):
        return read_model(path, read_manifest(path))
    if path.is_dir():
        read = read_openai if is_openai_folder(path) else read_huggingface
        return Checkpoint(path, *read(path), step=None)
    if path.suffix == ".safetensors":
        stored = read_model_file(path)
        return Checkpoint(path, stored.weights, stored.config, stored.tokenizer, step=None)
    return _load_book(path)


def read_config(path: Path) -> dict[str, Any]:
    """Read the config of a checkpoint: `model`, `tokenizer` and what else it tells of its run.

    For every checkpoint that `load_checkpoint` reads. The weights are not read, except those of the
    book's files, to find their sizes.

    Raises:
        DamagedError: it is damaged.
        ConfigError: it is not a checkpoint, or holds code (which is not run).
    """
    if is_checkpoint_folder(path):
        return read_model_config(path / WEIGHTS)
    if path.is_dir():
        read = openai.read_sections if is_openai_folder(path) else huggingface.read_sections
        return read(path)
    if path.suffix == ".safetensors":
        return read_model_config(path)
    return _load_book(path).config


def _load_book(file: Path) -> Checkpoint:
    """Read a file that the book's code has saved: a state dict, or the model's and optimizer's."""
    raw = load_plain(file)
    state = raw.get("model_state_dict", raw)
    if isinstance(state, dict):
        # torch.compile(model) saves its names with a prefix
        state = {str(name).removeprefix("_orig_mod."): tensor for name, tensor in state.items()}
    if not isinstance(state, dict) or not is_book_state_dict(state):
        keys = shorten(", ".join(map(str, list(raw)[:5])))
        raise ConfigError(
            f"{file}: neither a checkpoint of firstlight nor of the book (its keys: {keys})"
        )
    weights = read_tensors(file, state)
    try:
        config = book_config(weights)
    except ValueError as error:
        raise ConfigError(f"{file}: not a whole model of the book ({one_line(error)})") from None
    # The number of heads leaves no trace in the shapes of the weights.
    return Checkpoint(file, from_book(weights), config, None, step=None, guessed=("n_heads",))
