"""Files of a dataset from a hub on this machine: resumed, checked, and whole or not there."""

import json

import pytest
from fake_hub import COMMIT, FakeHub

from firstlight.data import download, hub_files
from firstlight.data.cache import cache_dir
from firstlight.data.hub import HubData
from firstlight.data.order import SeededOrder
from firstlight.data.tokenizers.bytes import BytesTokenizer

REPO = "somebody/stories"


def lines(start, n=2000):
    """Documents in 300 kB: several of the blocks that a download writes."""
    rows = [{"text": f"Story {start + i}.", "more": "x" * 120} for i in range(n)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


FILES = {
    "README.md": b"# About the stories",
    "data/train-0.jsonl": lines(0),
    "data/train-1.jsonl": lines(2000),
    "data/valid.jsonl": lines(4000),
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A running hub that huggingface_hub believes in, and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("FIRSTLIGHT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSES", (0.01, 0.01))
    with FakeHub(REPO, FILES, kind="datasets") as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            server.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield server


def data(dataset=REPO, files="data/train-*.jsonl", **settings):
    return HubData(
        dataset=dataset,
        files=files,
        tokenizer=BytesTokenizer(),
        order=SeededOrder(seed=1),
        context_length=8,
        **settings,
    )


def refusal(**settings):
    with pytest.raises(ValueError, match=r"^dataset \(") as caught:
        data(**settings).documents()
    line = str(caught.value)
    print(line)
    assert "\n" not in line and len(line) < 300
    return line


def test_the_files_that_match_are_read_in_the_order_of_their_names(hub):
    source = data()
    documents = source.documents()
    assert documents == [f"Story {i}." for i in range(4000)]
    assert hub.downloaded() == ["train-0.jsonl", "train-1.jsonl"]
    assert source.source() == f"{REPO}, 2 files"
    assert list(source.iter_pieces(1000)) == documents
    assert data(files=["data/valid.jsonl", "data/train-1*"]).documents()[0] == "Story 2000."


def test_a_commit_that_is_here_needs_no_hub(hub):
    first = data(f"{REPO}@{COMMIT}").documents()
    hub.requests.clear()
    hub.error = (503, "")
    assert data(f"{REPO}@{COMMIT}").documents() == first
    assert hub.requests == []


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_connection_that_is_cut_is_resumed_at_the_byte_where_it_was(hub, knows_ranges):
    hub.knows_ranges = knows_ranges
    hub.cuts = [0, download.BLOCK + 1000, 2 * download.BLOCK]
    assert len(data(files="data/train-0.jsonl").documents()) == 2000
    # Without ranges the second part replaces the first.
    blocks = 1, 3 if knows_ranges else 2
    assert hub.ranges == [None, None, *(f"bytes={n * download.BLOCK}-" for n in blocks)]


def test_what_a_killed_command_left_is_resumed_by_the_next_one(hub, tmp_path, monkeypatch):
    hub.cuts = [2 * download.BLOCK] + [0] * 9
    monkeypatch.setattr(download, "PAUSES", ())
    assert "the connection was cut; what has come is kept" in refusal()
    [part] = (tmp_path / "cache").rglob("*.part")
    assert part.read_bytes() == FILES["data/train-0.jsonl"][: 2 * download.BLOCK]
    assert not list((tmp_path / "cache").rglob("*.jsonl"))
    hub.cuts, hub.ranges = [], []
    assert len(data().documents()) == 4000
    assert hub.ranges == [f"bytes={2 * download.BLOCK}-", None]


def test_what_is_left_of_something_else_is_downloaded_from_the_start(hub, tmp_path, capsys):
    name = "data/train-0.jsonl"
    place = cache_dir() / "datasets" / "somebody--stories" / COMMIT
    (place / "data").mkdir(parents=True)
    (place / f"{name}.part").write_bytes(b"another file's beginning")
    assert len(data(files=name).documents()) == 2000
    assert "downloading it from the start" in capsys.readouterr().err
    (place / name).unlink()
    (place / f"{name}.part").write_bytes(b"x" * 10**6)  # longer than the file
    assert len(data(files=name).documents()) == 2000


def test_other_content_than_was_announced_is_refused_and_not_kept(hub, tmp_path):
    right = FILES["data/train-0.jsonl"]
    hub.served["data/train-0.jsonl"] = right[:-5] + b"xxxx\n"
    assert "does not have the checksum" in refusal()
    assert not list((tmp_path / "cache").rglob("train*"))
    hub.served["data/train-0.jsonl"] = right + b"more" * 10**6  # only what was announced is taken
    assert len(data(files="data/train-0.jsonl").documents()) == 2000


def test_a_file_that_was_damaged_here_is_downloaded_again(hub, capsys):
    for damage in (lambda content: content[:-1] + b"?", lambda content: content[:-1]):
        source = data()
        source.documents()
        file = source.files()[1]
        file.write_bytes(damage(file.read_bytes()))
        hub.requests.clear()
        capsys.readouterr()
        assert len(data().documents()) == 4000
        assert hub.downloaded() == ["train-1.jsonl"]
        assert f"{file} is damaged" in capsys.readouterr().err


def test_a_server_that_sends_nothing_is_given_up_on(hub, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", (5.0, 0.05))
    monkeypatch.setattr(download, "PAUSES", (0.01,))
    hub.stall = 0.5
    line = refusal()
    assert "nothing came for 0.05 s" in line and "give the command again" in line


def test_a_hub_that_is_not_there_is_named(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert "http://127.0.0.1:1 cannot be reached (ConnectError)" in refusal()


def test_a_file_server_that_is_not_there_is_named(hub, monkeypatch):
    from huggingface_hub import constants

    elsewhere = "http://127.0.0.1:1/{repo_id}/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", elsewhere)
    assert "the server cannot be reached" in refusal()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dataset": "somebody/else"}, "no such repository"),
        ({"dataset": f"{REPO}@v9"}, "no revision 'v9'"),
        ({"dataset": "no name"}, "owner/name"),
        ({"files": "data/*.parquet"}, "no file matches 'data/*.parquet'; in data there are: data/"),
        ({"field": "content"}, "content"),
    ],
    ids=str,
)
def test_what_is_not_there_is_named(hub, settings, words):
    if "field" in settings:
        with pytest.raises(ValueError, match=words):
            data(**settings).documents()
        return
    assert words in refusal(**settings)


def test_an_answer_of_the_file_server_is_explained(hub, monkeypatch):
    monkeypatch.setattr(hub_files, "_listed", listed_before_it_fails(hub, (403, "")))
    assert "answers 403 (access may have to be asked for" in refusal()
    hub.error = None
    monkeypatch.setattr(hub_files, "_listed", listed_before_it_fails(hub, (503, "")))
    assert "answers 503; what has come is kept" in refusal(files="data/train-0*")


def listed_before_it_fails(hub, error, listed=hub_files._listed):
    """A hub that gives the list of files, and then an error instead of each."""

    def list_and_fail(*arguments):
        found = listed(*arguments)
        hub.error = error
        return found

    return list_and_fail


def test_a_name_that_leads_out_of_the_folder_is_refused(hub, tmp_path):
    hub.files = {"data/../../../train-out.jsonl": lines(0)}
    assert "is not the name of something in this folder" in refusal(files="data/*")
    assert not list(tmp_path.rglob("train-out*"))


def test_a_full_disk_is_told_before_anything_is_downloaded(hub, monkeypatch):
    usage = hub_files.shutil._ntuple_diskusage(10, 9, 1)
    monkeypatch.setattr(hub_files.shutil, "disk_usage", lambda _: usage)
    assert "2 files, 0.00 GB are to be downloaded" in refusal()
    assert hub.downloaded() == []


def test_small_files_have_the_hash_that_git_gives_them(hub):
    [text] = data(files="README.md").documents()
    assert text == "# About the stories"
    hub.served["README.md"] = b"# About the stores!"
    assert "checksum" in refusal(files="README*", folder=str(cache_dir() / "other"))
