"""A file from the network: whole and checked, or not there; what a cut left is resumed."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import requests
from tqdm import tqdm

from firstlight.errors import shorten
from firstlight.files import open_to_append, sync, sync_folder
from firstlight.output import note

TIMEOUT = (10.0, 30.0)
"""Seconds to connect in, and in which a byte must come."""
PAUSES = (1.0, 2.0, 4.0)
"""Seconds before each further try, while tries bring nothing; then the download has failed."""
BLOCK = 2**16
"""Bytes that are written at once; fewer than that are lost when a connection is cut."""
PART = ".part"
"""Suffix of a file that is not whole yet."""


class DownloadError(ValueError):
    """A file cannot be downloaded; the message says why and what to do."""


@dataclass(frozen=True)
class RemoteFile:
    """A file that never changes: its address, size and hash."""

    name: str
    """Its path in the repository, with /."""
    url: str
    size: int
    digest: str
    """Its SHA-256 in 64 hex digits, or the SHA-1 in 40 that git gives it."""


def has_digest(file: Path, digest: str) -> bool:
    """Whether `file` has this SHA-256 (64 digits), or the SHA-1 (40) that git names it by.

    Raises:
        OSError: it cannot be read.
    """
    with file.open("rb") as content:
        if len(digest) == 64:
            return hashlib.file_digest(content, "sha256").hexdigest() == digest
        # Not for security: an OpenSSL in FIPS mode would refuse SHA-1 otherwise.
        sha1 = hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False)
        while block := content.read(BLOCK):
            sha1.update(block)
    return sha1.hexdigest() == digest


def download(remote: RemoteFile, file: Path, headers: dict[str, str]) -> None:
    """Download `remote` to `file`, which appears only once it is whole and has the right hash.

    Until then the bytes are in `file` + ".part", from whose end a later call, too, resumes.

    Raises:
        DownloadError: the server does not answer, refuses, or sends something else.
        OSError: the disk is full, or fails.
    """
    part = _part_of(file)
    was_resumed = _size(part) > 0
    _fetch_all(remote, part, headers)
    if not has_digest(part, remote.digest):
        part.unlink()
        # All of it has come just now: another try would bring the same.
        if not was_resumed:
            raise DownloadError(
                f"{remote.url}: what was sent does not have the checksum of the file; try again"
                " later, or another network"
            )
        note(f"{part} did not belong to this file, or was damaged: downloading it from the start")
        download(remote, file, headers)
        return
    part.replace(file)
    sync_folder(file.parent)


def bytes_here(remote: RemoteFile, file: Path) -> int:
    """Count the bytes that an earlier download of `remote` to `file` has left."""
    return min(_size(_part_of(file)), remote.size)


def _part_of(file: Path) -> Path:
    return file.with_name(file.name + PART)


def _fetch_all(remote: RemoteFile, part: Path, headers: dict[str, str]) -> None:
    """Fetch what is missing of `part`, with further tries as long as they bring anything."""
    failures = 0
    # disable=None: a bar in a terminal only.
    with tqdm(
        total=remote.size,
        initial=min(_size(part), remote.size),
        unit="B",
        unit_scale=True,
        desc=remote.name,
        disable=None,
    ) as bar:
        while (before := _size(part)) != remote.size:
            try:
                _fetch(remote, part, headers, bar)
                reason = "the connection was cut"
            except requests.RequestException as error:
                reason = _reason(error)
            if _size(part) > before:
                failures = 0
                continue
            if failures == len(PAUSES):
                raise DownloadError(
                    f"{remote.url}: {reason}; what has come is kept: give the command again to"
                    " resume the download"
                )
            time.sleep(PAUSES[failures])
            failures += 1


def _fetch(remote: RemoteFile, part: Path, headers: dict[str, str], bar: tqdm) -> None:
    """Ask once for what follows the end of `part`, and append what comes.

    Raises:
        requests.RequestException: the server cannot be reached, or the connection is cut.
        DownloadError: the server refuses.
    """
    first = _size(part)
    if first > remote.size:
        part.unlink()
        first = 0
    # Not compressed on the way: places in the file are counted, and its own bytes hashed.
    wanted = {**headers, "Accept-Encoding": "identity"}
    if first > 0:
        wanted["Range"] = f"bytes={first}-"
    with requests.get(remote.url, headers=wanted, stream=True, timeout=TIMEOUT) as response:
        _check_status(remote, response)
        if response.status_code != requests.codes.partial_content and first > 0:
            # The server knows no ranges: all of the file comes.
            part.unlink()
            bar.update(-first)
            first = 0
        with open_to_append(part, "ab") as stream:
            for block in response.iter_content(BLOCK):
                # Never more than the file has: a server that goes on sending would fill the disk.
                block = block[: remote.size - first]
                stream.write(block)
                first += len(block)
                bar.update(len(block))
                if first == remote.size:
                    break
            sync(stream)


def _check_status(remote: RemoteFile, response: requests.Response) -> None:
    """Refuse an answer that another try would not change.

    Raises:
        DownloadError: the server refuses.
        requests.HTTPError: it fails, and may answer in a moment.
    """
    status = response.status_code
    # Too slow, too often, out of order: the server itself says that it may pass.
    if status in (408, 429) or status >= 500:
        response.raise_for_status()
    if status not in (200, 206):
        access = " (access may have to be asked for, then `hf auth login`)"
        advice = access if status in (401, 403) else ""
        raise DownloadError(f"{remote.url}: the server answers {status}{advice}")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _reason(error: requests.RequestException) -> str:
    """What went wrong, in the user's words."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answers {error.response.status_code}"
    if isinstance(error, requests.ConnectTimeout):
        return f"no answer within {TIMEOUT[0]:g} s"
    # A time-out while the body is read is a ConnectionError to requests.
    if isinstance(error, requests.Timeout) or "timed out" in str(error).lower():
        return f"nothing came for {TIMEOUT[1]:g} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was cut"
    if isinstance(error, requests.ConnectionError):
        return "the server cannot be reached, or the connection was cut"
    return shorten(str(error) or type(error).__name__, 120)
