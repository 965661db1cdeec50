"""Files of a dataset on Hugging Face's hub: which there are, and how to have them here."""

import fnmatch
import json
import re
import shutil
from pathlib import Path

import filelock

from firstlight.data.download import DownloadError, RemoteFile, bytes_here, download, has_digest
from firstlight.data.hub_errors import hub_reason
from firstlight.errors import ConfigError, counted, shorten
from firstlight.files import inside, locked, replace_text
from firstlight.output import note

LISTING = ".files.json"
"""In the folder of a revision: its files by the pattern that was asked for."""
LOCK = ".lock"
PATIENCE = 24 * 3600
"""Seconds to wait for another process that downloads the same files."""
COMMIT = re.compile("[0-9a-f]{40}")


def downloaded(repo: str, revision: str, patterns: list[str], folder: Path) -> list[Path]:
    """Return the files of `repo` that match `patterns`, in the order of their names.

    They are kept in `folder`, below the commit that `revision` (a branch, a tag or a commit) means
    now. What is there is compared with its hash, and not downloaded again. Of a commit whose files
    are there nothing is asked of the hub.

    Raises:
        DownloadError: they cannot be downloaded, or no file matches.
        OSError: the disk is full, or fails.
    """
    commit = revision if COMMIT.fullmatch(revision) else _commit_of(repo, revision)
    place = folder / repo.replace("/", "--") / commit
    place.mkdir(parents=True, exist_ok=True)
    try:
        # Processes of one run, or several commands, may begin at once: one of them downloads.
        with locked(place / LOCK, timeout=PATIENCE):
            wanted = _wanted(repo, commit, patterns, place)
            return _here(wanted, place)
    except filelock.Timeout:
        raise DownloadError(f"another process has been downloading to {place} for a day") from None


def _commit_of(repo: str, revision: str) -> str:
    """Ask the hub which commit a branch or a tag means."""
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    try:
        commit = HfApi().dataset_info(repo, revision=revision).sha
    except (OSError, httpx2.HTTPError, HFValidationError) as error:
        raise DownloadError(hub_reason(error, revision)) from error
    if commit is None or not COMMIT.fullmatch(commit):
        raise DownloadError("the hub does not say which commit this is")
    return commit


def _wanted(repo: str, commit: str, patterns: list[str], place: Path) -> list[RemoteFile]:
    """List the files that match, from an earlier call if there was one."""
    try:
        known = json.loads((place / LISTING).read_text(encoding="utf-8"))
        found = {pattern: [RemoteFile(**file) for file in known[pattern]] for pattern in known}
    except (OSError, ValueError, TypeError, AttributeError):
        found = {}  # the first call, or a damaged listing: the hub has it
    unknown = [pattern for pattern in patterns if pattern not in found]
    if unknown:
        found |= {pattern: _listed(repo, commit, pattern) for pattern in unknown}
        content = {pattern: [vars(file) for file in matches] for pattern, matches in found.items()}
        replace_text(place / LISTING, json.dumps(content, indent=1))
    files = {file.name: file for pattern in patterns for file in found[pattern]}
    return [files[name] for name in sorted(files)]


def _listed(repo: str, commit: str, pattern: str) -> list[RemoteFile]:
    """Ask the hub for the files that match `pattern`."""
    import httpx2
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.hf_api import RepoFile

    # A dataset may have thousands of files: only the folder before the first wildcard is listed.
    fixed = re.split(r"[*?\[]", pattern)[0]
    top = fixed.rpartition("/")[0]
    try:
        tree = HfApi().list_repo_tree(
            repo, top or None, recursive=True, revision=commit, repo_type="dataset"
        )
        entries = [entry for entry in tree if isinstance(entry, RepoFile)]
    except (OSError, httpx2.HTTPError, HFValidationError) as error:
        raise DownloadError(hub_reason(error, commit)) from error
    files: list[RemoteFile] = []
    for entry in entries:
        if not fnmatch.fnmatchcase(entry.path, pattern):
            continue
        url = hf_hub_url(repo, entry.path, repo_type="dataset", revision=commit)
        # Of a small file, which is not in LFS, the hub has git's hash alone.
        digest = entry.lfs.sha256 if entry.lfs is not None else entry.blob_id
        files.append(RemoteFile(entry.path, url, entry.size, digest))
    if not files:
        some = ", ".join(sorted(entry.path for entry in entries)[:5]) or "none"
        raise DownloadError(
            f"no file matches {shorten(repr(pattern))}; in {top or 'it'} there are: {some} ..."
        )
    return files


def _here(wanted: list[RemoteFile], place: Path) -> list[Path]:
    """Download what is missing or damaged of `wanted`; return all as local files."""
    from huggingface_hub.utils import build_hf_headers

    files = [_local(place, file.name) for file in wanted]
    missing: list[tuple[RemoteFile, Path]] = []
    for remote, file in zip(wanted, files, strict=True):
        if not file.exists():
            missing.append((remote, file))
        # The size first: it costs nothing, and a file of gigabytes takes a while to hash.
        elif file.stat().st_size != remote.size or not has_digest(file, remote.digest):
            note(f"{file} is damaged: downloading it again")
            file.unlink()
            missing.append((remote, file))
    if missing:
        _check_space(missing, place)
        headers = build_hf_headers()
        for remote, file in missing:
            file.parent.mkdir(parents=True, exist_ok=True)
            download(remote, file, headers)
    return files


def _local(place: Path, name: str) -> Path:
    """Where a file of the repository is kept; its name comes from the network."""
    file = place
    try:
        for part in name.split("/"):
            file = inside(file, part)
    except ConfigError as error:
        raise DownloadError(str(error)) from None
    return file


def _check_space(missing: list[tuple[RemoteFile, Path]], place: Path) -> None:
    """Say what will be downloaded, and refuse what does not fit on the disk."""
    n_bytes = sum(remote.size - bytes_here(remote, file) for remote, file in missing)
    free = shutil.disk_usage(place).free
    what = f"{counted(len(missing), 'file')}, {n_bytes / 1e9:,.2f} GB"
    if n_bytes > free:
        raise DownloadError(
            f"{what} are to be downloaded, and {place} has {free / 1e9:,.2f} GB free; give another"
            " data.folder=..."
        )
    note(f"downloading {what}, to {place}")
