"""What `firstlight.files` promises of every file and folder that is written."""

import errno
import os

import pytest

from firstlight.errors import ConfigError
from firstlight.files import (
    check_links,
    inside,
    open_new,
    open_to_append,
    replace_text,
    replacing,
    sync_folder,
    temporary_of,
)


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "",
        "a/b",
        "/etc",
        "../precious",
        "a\\b",
        "a\0b",
        3,
        None,
        ["a"],
        "a" * 256,
        "\ud800",
    ],
)
def test_what_is_not_one_plain_name_is_not_inside(tmp_path, name):
    with pytest.raises(ConfigError, match="is not the name of something in this folder"):
        inside(tmp_path, name)


@pytest.mark.parametrize("name", ["0_lr-1e-3", "..a", "a b", "été", ".hidden"])
def test_a_plain_name_is_inside(tmp_path, name):
    assert inside(tmp_path, name) == tmp_path / name


def test_a_link_is_not_inside(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="a link"):
        inside(tmp_path, "link")


@pytest.fixture
def precious(tmp_path):
    """A file outside of the folder `run`, which exists."""
    (tmp_path / "run" / "sub").mkdir(parents=True)
    file = tmp_path / "precious"
    file.write_text("thesis")
    return file


@pytest.mark.parametrize(
    "target", ["../../precious", "../../not_there", "../..", "../../run_2", "link"]
)
def test_links_that_lead_out_are_found_at_any_depth(tmp_path, precious, target):
    (tmp_path / "run_2").mkdir()
    (tmp_path / "run" / "sub" / "link").symlink_to(target)
    with pytest.raises(ConfigError, match=r"run/sub/link: a link that leads out of .*run;"):
        check_links(tmp_path / "run")


def test_links_that_stay_inside_are_left_alone_and_so_is_a_folder_that_is_one(tmp_path, precious):
    (tmp_path / "run" / "latest").symlink_to("sub")
    (tmp_path / "alias").symlink_to("run")
    check_links(tmp_path / "alias")


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "dangling"])
def test_a_new_file_is_never_written_through_a_link(tmp_path, precious, kind):
    file = tmp_path / "run" / "file"
    if kind == "hardlink":
        file.hardlink_to(precious)
    else:
        file.symlink_to("../precious" if kind == "symlink" else "../not_there")
    with open_new(file) as stream:
        stream.write("mine")
    assert (file.read_text(), precious.read_text()) == ("mine", "thesis")
    assert not (tmp_path / "not_there").exists()


def test_a_temporary_file_that_is_a_link_is_not_written_through(tmp_path, precious):
    file = tmp_path / "run" / "config.yaml"
    temporary_of(file).symlink_to("../precious")
    replace_text(file, "mine")
    assert (file.read_text(), precious.read_text()) == ("mine", "thesis")
    assert not temporary_of(file).is_symlink()


def test_text_is_not_added_through_a_symbolic_link(tmp_path, precious):
    file = tmp_path / "run" / "samples.txt"
    file.symlink_to("../precious")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)), open_to_append(file):
        pass
    assert precious.read_text() == "thesis"


def test_text_is_added_to_a_copy_of_a_file_with_another_name(tmp_path, precious):
    file = tmp_path / "run" / "samples.txt"
    file.hardlink_to(precious)
    with open_to_append(file) as stream:
        stream.write("+")
    assert (file.read_text(), precious.read_text()) == ("thesis+", "thesis")


def test_a_file_keeps_its_content_until_all_of_the_new_one_is_written(tmp_path):
    file = tmp_path / "file"
    replace_text(file, "old\n")

    def write():
        with replacing(file) as stream:
            stream.write("new")
            stream.flush()
            assert file.read_text() == "old\n"
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write()
    assert file.read_text() == "old\n"
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


def test_text_is_utf_8_and_newlines_are_as_written(tmp_path):
    replace_text(tmp_path / "file", "道\r\n\r\n")
    assert (tmp_path / "file").read_bytes() == "道\r\n\r\n".encode()


def test_new_files_have_the_rights_that_the_users_mask_leaves(tmp_path):
    mask = os.umask(0o027)
    try:
        replace_text(tmp_path / "file", "")
    finally:
        os.umask(mask)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
def test_a_file_system_that_cannot_sync_a_folder_is_good_enough(tmp_path, monkeypatch, number):
    def fsync(_descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    sync_folder(tmp_path)


def test_a_disk_that_fails_is_heard_of(tmp_path, monkeypatch):
    def fsync(_descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        sync_folder(tmp_path)
