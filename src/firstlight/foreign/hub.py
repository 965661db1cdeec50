"""Models from Hugging Face's hub, kept in its own cache and checked there."""

import functools
import json
import re
from pathlib import Path

from firstlight.data.cache import cache_dir
from firstlight.data.download import has_digest
from firstlight.data.files import read_limited
from firstlight.data.hub_errors import hub_reason
from firstlight.errors import ConfigError, shorten
from firstlight.output import note

GPT2_NAMES = {
    "gpt2": "openai-community/gpt2",  # 124M parameters
    "gpt2-medium": "openai-community/gpt2-medium",  # 355M
    "gpt2-large": "openai-community/gpt2-large",  # 774M
    "gpt2-xl": "openai-community/gpt2-xl",  # 1558M
}
"""The repositories of the published GPT-2s."""

_WANTED = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "*.safetensors",
    "model.safetensors.index.json",
]
"""Files to download: none that can run code, as .bin, .h5 and .py can."""
_checked: dict[Path, tuple[int, int, int]] = {}
"""Inode, size and time of files that this process has found whole: gigabytes are hashed once."""
_WAYS_OUT = "give a folder that has it (hf:FOLDER), or a mirror (HF_ENDPOINT=https://...)"


def download_repo(repo: str, revision: str | None = None) -> Path:
    """Download `repo` ("owner/name") into the hub's cache, unless it is there; its folder.

    `revision` is a branch, a tag or a commit; None is the main branch. Progress is shown on stderr.

    Raises:
        ConfigError: it cannot be downloaded, or has no weights as safetensors.
    """
    import httpx2  # the hub's client, some of whose errors it does not translate
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    fetch = functools.partial(snapshot_download, repo, revision=revision, cache_dir=_cache_folder())
    try:
        # The config first: one page tells whether gigabytes of weights would be of any use.
        folder = Path(fetch(allow_patterns=["config.json"]))
        _check_architecture(repo, folder / "config.json")
        folder = Path(fetch(allow_patterns=_WANTED, ignore_patterns=["*/*"]))
        # The hub's client takes a file of the right name for whole, whatever has happened to its
        # disk.
        damaged = sorted(file.name for file in folder.iterdir() if not _is_whole(file))
        if damaged:
            note(
                f"{', '.join(damaged)} of {repo} in the cache ({folder}): damaged, downloading"
                " again"
            )
            folder = Path(fetch(allow_patterns=damaged, force_download=True))
    # RuntimeError is what hf_xet raises, the hub's faster protocol.
    except (OSError, httpx2.HTTPError, HFValidationError, RuntimeError) as error:
        reason = hub_reason(error, revision)
        raise ConfigError(f"{shorten(repo)} cannot be downloaded: {reason}; {_WAYS_OUT}") from error
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"{repo} has no weights as .safetensors, and others are not read; {_WAYS_OUT}"
        )
    return folder


def _cache_folder() -> Path:
    """The hub's own cache, or ours for a user without a home directory."""
    from huggingface_hub.constants import HF_HUB_CACHE

    # For such a user it is ~/..., which is not expanded: a folder named ~ in the working folder.
    if HF_HUB_CACHE.startswith("~"):
        return cache_dir() / "huggingface"
    return Path(HF_HUB_CACHE)


def _is_whole(file: Path) -> bool:
    try:
        check_content(file)
    except ConfigError:
        return False
    return True


def _check_architecture(repo: str, config: Path) -> None:
    try:
        model_type = json.loads(read_limited(config))["model_type"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return  # whoever reads the folder says what is wrong with it
    if model_type != "gpt2":
        kind = shorten(repr(model_type))
        raise ConfigError(
            f"{repo} is a {kind}; only the architecture of GPT-2 can be read from the hub"
        )


def check_content(file: Path) -> None:
    """Compare a file of the hub's cache with the hash that is its name there.

    That is a SHA-256, or git's SHA-1 for small files.

    Raises:
        ConfigError: it is not what was downloaded, or cannot be read.
    """
    if not file.is_symlink():
        return
    # One step only: the blob may be a link as well, into a store with hashes of another kind.
    blob = file.readlink()
    if blob.parent.name != "blobs" or not re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", blob.name):
        return
    try:
        status = file.stat()
        state = status.st_ino, status.st_size, status.st_mtime_ns
        if _checked.get(file) == state:
            return
        is_whole = has_digest(file, blob.name)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    if not is_whole:
        raise ConfigError(
            f"{file}: damaged, its hash is not the hub's; delete {file.resolve()} and try again"
        )
    _checked[file] = state
