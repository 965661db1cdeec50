import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from firstlight.data.lamplighters import LamplightersData
from firstlight.data.order import SeededOrder
from firstlight.data.pydoc import PydocData
from firstlight.data.text import TextData
from firstlight.data.the_verdict import TheVerdictData
from firstlight.data.tokenizers.bytes import BytesTokenizer


def source(kind, **settings):
    return kind(tokenizer=BytesTokenizer(), order=SeededOrder(seed=1), context_length=8, **settings)


def read(path):
    return source(TextData, path=path if isinstance(path, list) else str(path)).documents()


@pytest.fixture
def server(monkeypatch):
    """A factory: serve `content` (None: 404) on this machine, and return its address and how to stop it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = []

    def serve(content):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200 if content is not None else 404)
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *args):
                pass

        httpd = HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()

        def stop():
            httpd.shutdown()
            thread.join()
            httpd.server_close()

        running.append(stop)
        return f"http://127.0.0.1:{httpd.server_port}/the-verdict.txt", lambda: running.pop()()

    yield serve
    for stop in running:
        stop()


def test_a_file_is_one_document_and_a_list_is_several(tmp_path):
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_text(f"text of {name}")
    assert read(tmp_path / "a.txt") == ["text of a.txt"]
    assert read([str(tmp_path / "b.txt"), str(tmp_path / "a.txt")]) == ["text of b.txt", "text of a.txt"]


def test_of_a_folder_all_text_files_are_read_in_the_order_of_their_names(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("z.md", "deep/er/b.TXT", "a.txt", "picture.png", "deep/code.py"):
        (tmp_path / name).write_text(name)
    assert read(tmp_path) == ["a.txt", "deep/er/b.TXT", "z.md"]


def test_a_byte_order_mark_is_dropped_and_line_ends_become_newlines(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert read(tmp_path / "a.txt") == ["one\ntwo\nthree\n"]


def test_text_that_is_not_utf8_is_refused_with_the_place_of_the_first_wrong_byte(tmp_path):
    (tmp_path / "a.txt").write_bytes("né à Paris".encode() + "é".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.txt\) is not UTF-8 text: byte 12 is 0xe9"):
        read(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("files", "wanted", "message"),
    [
        ({}, "missing.txt", r"missing\.txt.*no such file"),
        ({"picture.png": "x"}, "", r"folder without \.txt or \.md files"),
        ({"a.txt": ""}, "a.txt", "has no text"),
        ({"a.txt": " \n\t"}, "", "has no text"),
    ],
    ids=["missing", "folder without text", "empty", "blank"],
)
def test_a_path_without_text_is_refused(tmp_path, files, wanted, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / wanted)


def test_an_empty_list_of_paths_is_refused():
    with pytest.raises(ValueError, match=r"data\.path=FILE"):
        read([])


def test_pydoc_is_a_long_text_in_every_python():
    pytest.importorskip("pydoc_data.topics")
    (document,) = source(PydocData).documents()
    assert len(document) > 300_000


def test_the_lamplighters_are_plain_ascii_prose():
    (document,) = source(LamplightersData).documents()
    assert document.isascii()
    assert len(document) > 60_000


def test_the_verdict_is_downloaded_once_and_kept(server, verdict, tmp_path):
    url, stop = server(verdict.read_bytes())
    data = source(TheVerdictData, url=url, folder=str(tmp_path / "new"))
    (document,) = data.documents()
    assert document == verdict.read_text(encoding="utf-8")
    stop()
    assert data.documents() == [document]


def test_a_verdict_that_was_put_by_hand_needs_no_network(verdict, tmp_path):
    (tmp_path / "the-verdict.txt").write_bytes(verdict.read_bytes())
    (document,) = source(TheVerdictData, url="http://127.0.0.1:1/", folder=str(tmp_path)).documents()
    assert len(document) == 20_479


def test_a_verdict_that_was_damaged_is_downloaded_again_and_that_is_said(server, verdict, tmp_path, capsys):
    (tmp_path / "the-verdict.txt").write_bytes(verdict.read_bytes().replace(b"Jack", b"jack", 1))
    url, _ = server(verdict.read_bytes())
    (document,) = source(TheVerdictData, url=url, folder=str(tmp_path)).documents()
    assert len(document) == 20_479 and "jack" not in document
    assert f"note: {tmp_path / 'the-verdict.txt'} is not the text of the book" in capsys.readouterr().err


def test_another_text_at_the_address_is_refused_and_leaves_nothing_behind(server, tmp_path):
    url, _ = server(b"<html>Sign in to this network</html>")
    with pytest.raises(ValueError, match="is not the text of the book"):
        source(TheVerdictData, url=url, folder=str(tmp_path)).documents()
    assert list(tmp_path.iterdir()) == []


def refused_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


@pytest.mark.parametrize("answer", ["no server", "not found"])
def test_a_failed_download_says_in_one_line_where_to_put_the_file(answer, server, tmp_path):
    url = f"http://127.0.0.1:{refused_port()}/" if answer == "no server" else server(None)[0]
    with pytest.raises(ValueError, match="cannot download") as caught:
        source(TheVerdictData, url=url, folder=str(tmp_path)).documents()
    if answer == "not found":
        caught.value.__cause__.response.close()  # pooch does not
    assert str(tmp_path / "the-verdict.txt") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
