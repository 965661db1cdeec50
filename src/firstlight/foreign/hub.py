"""Models from Hugging Face's hub, kept in its own cache and checked there."""

import errno
import hashlib
import json
import re
from pathlib import Path

from firstlight.data.cache import cache_dir
from firstlight.data.files import read_limited
from firstlight.errors import ConfigError, shorten
from firstlight.output import note

GPT2_NAMES = {
    name: f"openai-community/{name}"  # 124M, 355M, 774M, 1558M parameters
    for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
}
"""The published GPT-2s, and the repositories that have them."""

_WANTED = (
    *("config.json", "generation_config.json", "tokenizer.json", "vocab.json", "merges.txt"),
    *("*.safetensors", "model.safetensors.index.json"),
)  # and never what a program would have to be trusted for: .bin, .h5, .py
_checked: dict[Path, tuple[int, int, int]] = {}
"""Files that this process has found whole, and what they were then: gigabytes are read once."""
_WAYS_OUT = "give a folder that has it (hf:FOLDER), or a mirror (HF_ENDPOINT=https://...)"


def download(repo: str, revision: str | None = None) -> Path:
    """The folder of `repo` ("owner/name") in the hub's cache; what is there already is not downloaded again.

    `revision` is a branch, a tag or a commit; None is the main branch. Progress is shown on stderr.

    Raises:
        ConfigError: it cannot be had, or has no weights as safetensors.
    """
    import httpx2  # the hub's client, some of whose errors it lets through
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    folder = _cache_folder()

    try:
        # The config first: it is a page that tells whether gigabytes of weights would be of any use.
        path = snapshot_download(repo, revision=revision, cache_dir=folder, allow_patterns=["config.json"])
        _check_architecture(repo, Path(path) / "config.json")
        path = snapshot_download(
            repo, revision=revision, cache_dir=folder, allow_patterns=list(_WANTED), ignore_patterns=["*/*"]
        )
        if damaged := sorted(file.name for file in Path(path).iterdir() if not _is_whole(file)):
            note(f"{', '.join(damaged)} of {repo} in the cache ({path}): damaged, downloading again")
            path = snapshot_download(
                repo, revision=revision, cache_dir=folder, allow_patterns=damaged, force_download=True
            )
    except (OSError, httpx2.HTTPError, HFValidationError, RuntimeError) as error:  # RuntimeError is hf_xet's
        reason = _reason(error, revision)
        raise ConfigError(f"{shorten(repo)} cannot be downloaded: {reason}; {_WAYS_OUT}") from error
    if not any(Path(path).glob("*.safetensors")):
        raise ConfigError(f"{repo} has no weights as .safetensors, and others are not read; {_WAYS_OUT}")
    return Path(path)


def _cache_folder() -> Path:
    """The hub's own cache. Without a home folder it would be one of the name ~ in the working folder: then ours."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return cache_dir() / "huggingface" if HF_HUB_CACHE.startswith("~") else Path(HF_HUB_CACHE)


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
        raise ConfigError(
            f"{repo} is a {shorten(repr(model_type))}; only the architecture of GPT-2 is read from the hub"
        )


def check_content(file: Path) -> None:
    """Compare a file of the hub's cache with the hash that it is stored under: a sha256, or of small ones git's SHA-1.

    Raises:
        ConfigError: it is not what was downloaded, or cannot be read.
    """
    if not file.is_symlink():
        return
    blob = file.readlink()  # one step: the blob may be a link too, into a store with hashes of another kind
    if blob.parent.name != "blobs" or not re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", blob.name):
        return
    try:
        status = file.stat()
        state = status.st_ino, status.st_size, status.st_mtime_ns
        if _checked.get(file) == state:
            return
        with file.open("rb") as content:
            if len(blob.name) == 64:
                found = hashlib.file_digest(content, "sha256").hexdigest()
            else:
                data = content.read()
                found = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    if found != blob.name:
        raise ConfigError(f"{file}: damaged, its hash is not the hub's; delete {file.resolve()} and try again")
    _checked[file] = state


def _reason(error: Exception, revision: str | None) -> str:
    """What went wrong, in the user's words."""
    from huggingface_hub import constants, errors

    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else None
    if isinstance(cause, errors.HfHubHTTPError):  # hidden behind "not in the cache either"
        error = cause
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.HFValidationError):
        return "a repository is called owner/name"
    if isinstance(error, errors.GatedRepoError):
        return "it is gated: ask for access on its page, then `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {revision!r}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private (then `hf auth login`)"
    if status in (401, 403):
        return f"access is refused ({status}; `hf auth login` may help)"
    if status is not None:
        return f"{constants.ENDPOINT} answers {status}"
    if isinstance(error, errors.IncompleteSnapshotError):
        return f"an earlier download was not finished, and {constants.ENDPOINT} cannot be reached"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return f"it was not downloaded before, and {constants.ENDPOINT} cannot be reached ({type(cause).__name__})"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space is left in {constants.HF_HUB_CACHE} (HF_HOME moves it)"
    return shorten(
        (str(error).splitlines() or [type(error).__name__])[0], 120
    )  # what follows is advice for programmers
