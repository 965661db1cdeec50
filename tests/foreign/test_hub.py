"""Downloads from a hub on this machine: what is fetched and kept; each failure is one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from fake_hub import FakeHub

from firstlight.errors import ConfigError
from firstlight.foreign.hub import GPT2_NAMES, check_content, download_repo

REPO = "somebody/tiny-gpt2"
FILES = {
    "config.json": b'{"model_type": "gpt2"}',
    "merges.txt": b"#version: 0.2\n",
    "model.safetensors": safetensors.torch.save({"wte.weight": torch.zeros(4, 3)}),
}
UNWANTED = {
    "pytorch_model.bin": b"a pickle",
    "tf_model.h5": b"keras",
    "modeling.py": b"import os",
    "README.md": b"# words",
    "onnx/model.safetensors": b"another program's",
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A running hub that huggingface_hub believes in, and an empty cache."""
    from huggingface_hub import constants

    with FakeHub(REPO, FILES | UNWANTED) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            server.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield server


def refusal(repo=REPO, revision=None):
    """The message of a failed download; each names the repository and the ways out."""
    with pytest.raises(ConfigError) as caught:
        download_repo(repo, revision)
    line = str(caught.value)
    print(line)
    assert "\n" not in line and len(f"firstlight: {line}") < 300
    assert repo in line and "hf:FOLDER" in line and "HF_ENDPOINT" in line
    return line


def in_process_of_its_own(hub, tmp_path, **environment):
    """Download in a new process, as huggingface_hub reads its settings when it is imported."""
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        **environment,
    }
    code = f"from firstlight.foreign.hub import download_repo; print(download_repo({REPO!r}))"
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_model_is_downloaded_into_the_hubs_own_cache_and_found_there_offline(hub, tmp_path):
    first = in_process_of_its_own(hub, tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith(
        str(tmp_path / "home" / "hub" / "models--somebody--tiny-gpt2" / "snapshots")
    )
    assert hub.downloaded() == sorted(FILES)
    assert "Fetching" in first.stderr  # the progress bars
    hub.requests.clear()
    offline = in_process_of_its_own(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert offline.stdout == first.stdout
    unreachable = in_process_of_its_own(hub, tmp_path, HF_ENDPOINT="http://127.0.0.1:1")
    assert unreachable.stdout == first.stdout
    assert hub.requests == []


def test_nothing_that_a_program_would_have_to_be_trusted_for_is_downloaded(hub):
    folder = download_repo(REPO)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == FILES
    assert hub.downloaded() == sorted(FILES)


def test_what_is_there_is_not_downloaded_again(hub):
    first = download_repo(REPO)
    hub.requests.clear()
    assert download_repo(REPO) == first
    assert hub.downloaded() == []


def test_what_was_downloaded_before_is_used_while_the_hub_fails(hub):
    first = download_repo(REPO)
    for error in (503, ""), (401, "RepoNotFound"), (500, ""):
        hub.error = error
        assert download_repo(REPO) == first


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ((404, "RepoNotFound"), "no such repository, or it is private"),
        ((401, ""), "access is refused (401"),
        ((403, "GatedRepo"), "it is gated"),
        ((401, "GatedRepo"), "it is gated"),
        ((403, ""), "access is refused"),
        ((503, ""), "answers 503"),
    ],
    ids=str,
)
def test_an_answer_that_is_an_error_is_explained(hub, error, words):
    hub.error = error
    assert words in refusal()


def test_a_repository_that_is_not_there_is_named(hub):
    assert "no such repository" in refusal("somebody/else")


def test_a_revision_that_is_not_there_is_named(hub):
    assert "no revision 'v9'" in refusal(revision="v9")


@pytest.mark.parametrize("name", ["a/b/c", "spaces in/it", "--", "https://huggingface.co/gpt2"])
def test_a_name_that_is_none_is_refused_without_asking(hub, name):
    assert "owner/name" in refusal(name)
    assert hub.requests == []


def test_a_hub_that_cannot_be_reached_is_named(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert "http://127.0.0.1:1 cannot be reached (ConnectError)" in refusal()


def test_offline_a_model_that_was_not_downloaded_is_refused(hub, tmp_path):
    result = in_process_of_its_own(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert "was not downloaded before" in result.stderr.splitlines()[-1]


def test_a_body_that_ends_early_is_refused_and_not_kept(hub):
    hub.served["model.safetensors"] = FILES["model.safetensors"][:-5]
    assert "Consistency check failed" in refusal()
    hub.served.clear()
    assert (download_repo(REPO) / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_an_unfinished_download_is_not_taken_for_a_whole_one(hub, monkeypatch):
    from huggingface_hub import constants

    hub.served["model.safetensors"] = b"short"
    refusal()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert "an earlier download was not finished" in refusal()


def test_a_full_disk_is_called_so(hub, monkeypatch):
    import huggingface_hub

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    assert "no space is left in" in refusal()


def test_a_repository_without_safetensors_is_refused(hub):
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"a pickle"}
    assert "no weights as .safetensors" in refusal()
    assert "pytorch_model.bin" not in hub.downloaded()


def test_content_of_another_sha256_is_refused_until_it_is_deleted(hub):
    right = FILES["model.safetensors"]
    hub.served["model.safetensors"] = right[:-1] + bytes([right[-1] ^ 1])
    file = download_repo(REPO) / "model.safetensors"
    with pytest.raises(
        ConfigError, match=rf"^{file}: damaged.* delete {file.resolve()} and try again$"
    ):
        check_content(file)
    hub.served.clear()
    file.resolve().unlink()
    check_content(download_repo(REPO) / "model.safetensors")
    assert file.read_bytes() == right


@pytest.mark.parametrize("name", ["model.safetensors", "merges.txt"])
def test_a_file_of_the_cache_that_is_damaged_is_downloaded_again_and_that_is_said(
    name, hub, capsys
):
    file = download_repo(REPO) / name
    hub.requests.clear()
    right = FILES[name]
    file.resolve().write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    again = download_repo(REPO) / name
    assert again.read_bytes() == right
    assert hub.downloaded() == [name]
    assert f"note: {name} of {REPO} in the cache" in capsys.readouterr().err


def test_files_that_no_hub_stored_are_not_compared_with_their_names(tmp_path):
    (tmp_path / "blobs").mkdir()
    named_otherwise = tmp_path / "blobs" / ("a" * 39)
    named_otherwise.write_bytes(b"x")
    (tmp_path / "link.safetensors").symlink_to(named_otherwise)
    check_content(tmp_path / "link.safetensors")
    check_content(named_otherwise)


def test_small_files_are_compared_with_the_sha1_that_git_gives_them(tmp_path):
    (tmp_path / "blobs").mkdir()
    blob = (
        tmp_path / "blobs" / "bd9dbf5aae1a3862dd1526723246b20206e5fc37"
    )  # git hash-object of "what is up, doc?"
    blob.write_bytes(b"what is up, doc?")
    (tmp_path / "config.json").symlink_to(blob)
    check_content(tmp_path / "config.json")
    blob.write_bytes(b"what is up, Doc?")
    with pytest.raises(ConfigError, match="its hash is not the hub's"):
        check_content(tmp_path / "config.json")


def test_the_published_sizes_have_names():
    assert list(GPT2_NAMES) == ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]


def test_without_a_home_the_hub_is_not_kept_in_the_working_folder(tmp_path, monkeypatch):
    from huggingface_hub import constants

    from firstlight.foreign.hub import _cache_folder

    assert _cache_folder() == Path(constants.HF_HUB_CACHE)
    monkeypatch.setattr(
        constants, "HF_HUB_CACHE", "~/.cache/huggingface/hub"
    )  # what expanduser leaves
    monkeypatch.setenv("FIRSTLIGHT_CACHE_DIR", str(tmp_path))
    assert _cache_folder() == tmp_path / "huggingface"
