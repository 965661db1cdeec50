"""Other people's file systems: what a run can do without may be missing; what it needs is tested
before it starts.

tests/faults does the same from below Python, with whole runs.
"""

import errno
import fcntl
import mmap
import os
from pathlib import Path

import pytest
from filelock import Timeout

from firstlight import files
from firstlight.errors import ConfigError


def failing(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EROFS])
def test_permissions_that_cannot_be_set_stay_as_they_are(tmp_path, monkeypatch, number):
    file = tmp_path / "file"
    file.touch(0o600)
    monkeypatch.setattr(Path, "chmod", failing(number))
    files.give_usual_mode(file)


def test_a_disk_that_fails_is_not_mistaken_for_one_without_permissions(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "chmod", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        files.give_usual_mode(tmp_path)


def test_others_may_read_as_far_as_the_umask_allows_it(tmp_path):
    file = tmp_path / "file"
    file.touch(0o600)
    before = os.umask(0o027)
    try:
        files.give_usual_mode(file)
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_where_nothing_can_be_locked_a_note_says_so_once(tmp_path, monkeypatch, number, capsys):
    monkeypatch.setattr(fcntl, "flock", failing(number))
    for _ in range(2):
        with files.locked(tmp_path / ".lock"):
            pass
    said = capsys.readouterr().err
    assert said.count("this file system cannot lock files") == 1


def test_a_lock_that_is_held_is_not_mistaken_for_a_missing_one(tmp_path):
    with files.locked(tmp_path / ".lock"), pytest.raises(Timeout), files.locked(tmp_path / ".lock"):
        pass


def test_a_lock_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match=r"Not a directory|File exists"),
        files.locked(tmp_path / "file" / ".lock"),
    ):
        pass


@pytest.mark.parametrize(
    ("module", "name", "number", "words"),
    [
        (Path, "replace", errno.EEXIST, "replace a file by renaming another (File exists)"),
        (Path, "rename", errno.EPERM, "rename a folder (Operation not permitted)"),
        (os, "fsync", errno.ENOSYS, "put a file on disk with fsync (Function not implemented)"),
        (mmap, "mmap", errno.ENODEV, "map a file into memory (No such device)"),
        (files, "open_to_append", errno.EOPNOTSUPP, "append to a file"),
        (Path, "mkdir", errno.EPERM, "make a folder (Operation not permitted)"),
    ],
)
def test_what_a_file_system_cannot_do_is_named_and_nothing_is_left(
    tmp_path, monkeypatch, module, name, number, words
):
    files.check_file_system(tmp_path, "output_dir (a)", "give another one")
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(module, name, failing(number))
        with pytest.raises(ConfigError) as refused:
            files.check_file_system(tmp_path, "output_dir (a)", "give another one")
    said = str(refused.value)
    assert said.startswith(f"output_dir (a): this file system cannot {words}") and said.endswith(
        "; give another one"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_is_tested_beside_the_folder_that_is_to_be_made(tmp_path):
    assert files.existing_place(tmp_path / "new" / "newer") == tmp_path
    (tmp_path / "empty").mkdir()
    assert files.existing_place(tmp_path / "empty") == tmp_path
    with pytest.raises(OSError, match="File name too long"):
        files.existing_place(tmp_path / ("x" * 300))


def test_a_file_that_cannot_be_mapped_is_known(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    assert files.can_be_mapped(file) and files.can_be_mapped(tmp_path / "none")
    file.write_bytes(b"a")
    assert files.can_be_mapped(file)
    monkeypatch.setattr(mmap, "mmap", failing(errno.ENODEV))
    assert not files.can_be_mapped(file)
