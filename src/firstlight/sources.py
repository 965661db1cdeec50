"""What a checkpoint may be called on the command line, and reading it, whatever program has written it."""

from collections.abc import Callable
from pathlib import Path

from firstlight.checkpoints.checkpoint import Checkpoint, load_plain, read_tensors
from firstlight.checkpoints.find import CHECKPOINTS, best_of, checkpoints_of, newest_run
from firstlight.checkpoints.manifest import MANIFEST, WEIGHTS, is_checkpoint_folder, read_manifest
from firstlight.checkpoints.model_file import read_model_file
from firstlight.data.files import user_path
from firstlight.errors import ConfigError, DamagedError, one_line, shorten
from firstlight.foreign import hub, openai
from firstlight.foreign.book import book_config, from_book, is_book_state_dict
from firstlight.foreign.hub import GPT2_NAMES
from firstlight.foreign.huggingface import is_huggingface_folder, read_huggingface
from firstlight.foreign.openai import is_openai_folder, read_openai


def find_checkpoint(name: str, *, best: bool = True, key: str = "checkpoint") -> Path:
    """What `name` means: a checkpoint, a run folder (its best, or its newest), "last" (the newest run), or GPT-2.

    GPT-2 is a folder of Hugging Face's files or OpenAI's, or a name: gpt2, hf:REPO, hf:FOLDER, openai:124M; a folder of
    Hugging Face's may also hold a Qwen3 or a Llama. What a name means is downloaded, once. `key` is the setting that an
    error is about.

    Raises:
        ConfigError: there is none.
    """
    try:
        if downloaded := _published(name):
            return downloaded
    except ConfigError as error:
        raise ConfigError(f"{key} ({name}): {error}") from error
    if "://" in name:
        raise ConfigError(f"{key} ({name}) must be a file or a run folder: download it first")
    path = newest_run() if name == "last" else user_path(name)
    if _is_there(path, Path.is_file):
        return path
    if not _is_there(path, Path.exists):
        raise ConfigError(f"{key} ({name}): there is no such file or run folder")
    if is_huggingface_folder(path) or is_openai_folder(path):
        return path
    if (path / MANIFEST).is_file():
        return path
    saved = checkpoints_of(path)
    if not saved:
        raise ConfigError(f"{key} ({name}) is a folder without a checkpoint ({CHECKPOINTS}/step_*)")
    return best_of(saved) if best else saved[-1]


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of ours (a folder, or its `.safetensors`), the book's (`.pth`), or a folder of GPT-2's files.

    Raises:
        ConfigError: it is damaged, no checkpoint, or holds code (which is not run).
    """
    if is_checkpoint_folder(path):
        manifest = read_manifest(path)
        try:
            stored = read_model_file(path / WEIGHTS)
        except ConfigError as error:  # whatever it has become: the manifest says what it was
            raise DamagedError(str(error)) from None
        if stored.sha256 != manifest.files[WEIGHTS].sha256:
            raise DamagedError(f"{path}: damaged: its {WEIGHTS} is that of another checkpoint")
        return Checkpoint(path, stored.weights, stored.config, stored.tokenizer, manifest.step)
    if path.is_dir():
        read = read_openai if is_openai_folder(path) else read_huggingface
        weights, config, tokenizer = read(path)
        return Checkpoint(path, weights, config, tokenizer, None)
    if path.suffix == ".safetensors":
        stored = read_model_file(path)
        return Checkpoint(path, stored.weights, stored.config, stored.tokenizer, None)
    raw = load_plain(path)
    state = raw.get("model_state_dict", raw)
    if isinstance(state, dict):  # torch.compile(model) saves its names like this
        state = {str(name).removeprefix("_orig_mod."): tensor for name, tensor in state.items()}
        if is_book_state_dict(state):
            state = read_tensors(path, state)
            try:
                config = book_config(state)
            except ValueError as error:
                raise ConfigError(f"{path}: not a whole model of the book ({one_line(error)})") from None
            return Checkpoint(path, from_book(state), config, None, None, guessed=("n_heads",))
    keys = shorten(", ".join(map(str, list(raw)[:5])))
    raise ConfigError(f"{path}: neither a checkpoint of firstlight nor of the book (its keys: {keys})")


def _is_there(path: Path, test: Callable[[Path], bool]) -> bool:
    try:
        return test(path)
    except OSError:  # a name too long for a file
        return False


def _published(name: str) -> Path | None:
    """The folder of a GPT-2 that `name` is the name of, downloaded if need be; None for other names."""
    if name in GPT2_NAMES:
        return hub.download(GPT2_NAMES[name])
    source, _, rest = name.partition(":")
    if source == "openai":
        return openai.download(rest)
    if source == "hf" and not rest:
        raise ConfigError("name a repository or a folder: hf:owner/name, hf:./folder")
    if source == "hf":
        folder = user_path(rest)
        repo, _, revision = rest.partition("@")
        return folder if folder.is_dir() else hub.download(repo, revision or None)
    return None
