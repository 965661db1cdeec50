import bz2
import gzip
import json
import lzma
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from firstlight.data.files import read_text
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
    """A factory: serve `content` (None: 404) on this machine, and return its address and how to
    stop it.
    """
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
    assert read([str(tmp_path / "b.txt"), str(tmp_path / "a.txt")]) == [
        "text of b.txt",
        "text of a.txt",
    ]


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
    (document,) = source(
        TheVerdictData, url="http://127.0.0.1:1/", folder=str(tmp_path)
    ).documents()
    assert len(document) == 20_479


def test_a_verdict_that_was_damaged_is_downloaded_again_and_that_is_said(
    server, verdict, tmp_path, capsys
):
    (tmp_path / "the-verdict.txt").write_bytes(verdict.read_bytes().replace(b"Jack", b"jack", 1))
    url, _ = server(verdict.read_bytes())
    (document,) = source(TheVerdictData, url=url, folder=str(tmp_path)).documents()
    assert len(document) == 20_479 and "jack" not in document
    assert (
        f"note: {tmp_path / 'the-verdict.txt'} is not the text of the book"
        in capsys.readouterr().err
    )


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


def text_data(path, **settings):
    data = source(TextData, path=str(path), **settings)
    data.setup()
    return data


STORY = "The lamp was lit, and nobody on the quay had seen who did it. " * 4


def test_hidden_files_and_backups_are_left_out_at_any_depth_and_it_is_said(tmp_path):
    for name in (
        "a.txt",
        ".a.txt",
        ".ipynb_checkpoints/a-checkpoint.txt",
        "deep/.git/x.md",
        "deep/b~/b.txt",
        "c.txt~",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(STORY + name)
    (tmp_path / "code.py").write_text("x")
    data = text_data(tmp_path)
    assert data.documents() == [STORY + "a.txt"]
    assert data.summary().startswith(
        "1 file; left out: 5 hidden, 1 not .txt or .md\n1 document, 253 bytes; "
    )


def test_what_runs_write_is_left_out_of_a_folder_unless_it_is_named_itself(tmp_path):
    mine = (
        "a.txt",
        "notes/.hydra/config.yaml",
        "notes/b.txt",
        "0" * 32 + "/c.txt",
    )  # another program's, a name
    runs = ("outputs/x/.hydra/config.yaml", "outputs/x/environment.json", "outputs/x/samples.txt")
    of_mlflow = (f"outputs/mlflow/{'a1' * 16}/artifacts/sample/step_8.txt",)
    for name in (*mine, *runs, *of_mlflow):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(STORY + name)
    data = text_data(tmp_path)
    assert sorted(data.documents()) == sorted(
        STORY + name for name in mine if name.endswith(".txt")
    )
    assert data.summary().startswith(
        "3 files; left out: 1 hidden, 2 run folders\n3 documents, 798 bytes; "
    )
    with pytest.raises(ValueError, match=r"without \.txt or \.md files \(left out: 1 run folder\)"):
        read(tmp_path / "outputs" / "mlflow")
    assert read(tmp_path / "outputs" / "x") == [STORY + "outputs/x/samples.txt"]


def test_what_is_named_itself_is_read_even_if_it_is_hidden(tmp_path):
    (tmp_path / ".notes").mkdir()
    for name in (".notes/a.txt", ".b.txt", "c~"):
        (tmp_path / name).write_text(name)
    assert read([str(tmp_path / name) for name in (".notes", ".b.txt", "c~")]) == [
        ".notes/a.txt",
        ".b.txt",
        "c~",
    ]


def test_a_folder_with_hidden_texts_alone_says_so(tmp_path):
    (tmp_path / ".a.txt").write_text(STORY)
    with pytest.raises(ValueError, match=r"without \.txt or \.md files \(left out: 1 hidden\)"):
        read(tmp_path)


def test_the_order_of_files_depends_neither_on_the_file_system_nor_on_how_it_writes_letters(
    tmp_path, monkeypatch
):
    names = [
        "a.txt",
        "cafe\u0301.txt",
        "caff.txt",
        "caf\u00ea.txt",
        "z/a.txt",
        "b/z.txt",
    ]  # é as two characters, ê as one
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    wanted = ["a.txt", "b/z.txt", "caff.txt", "cafe\u0301.txt", "caf\u00ea.txt", "z/a.txt"]
    assert read(tmp_path) == wanted
    walk = os.walk

    def backwards(*args, **kwargs):
        for place, folders, files in walk(*args, **kwargs):
            folders.reverse()
            yield place, folders, sorted(files, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    assert read(tmp_path) == wanted


def test_what_is_odd_about_the_files_is_noted(tmp_path):
    (tmp_path / "a.txt").write_text(STORY)
    (tmp_path / "b.txt").symlink_to("a.txt")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "circle").symlink_to(tmp_path)
    (tmp_path / "broken.txt").symlink_to("nowhere")
    empty, twice, links = text_data(tmp_path).notes
    assert "empty.txt has no text" in empty
    assert "b.txt has the same text as" in twice and "training and validation may share it" in twice
    assert "circle: a link to a folder, which is not followed" in links


def lines(path, texts, field="text"):
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts))
    return str(path)


def test_documents_that_training_and_validation_share_are_noted(tmp_path):
    texts = [f"The lamp {n} was lit." for n in range(40)]
    one = lines(tmp_path / "a.jsonl", texts)
    two = lines(tmp_path / "b.jsonl", texts[::-1])
    for path in ([one, one], [one, two]):
        data = source(TextData, path=path, format="auto")
        data.setup()
        [note] = data.notes
        assert note.startswith("training and validation share ")
        assert "documents (100% of the text after training's), so val/loss" in note
    alone = source(TextData, path=one, format="auto")
    alone.setup()
    assert alone.notes == []


def test_a_few_headings_in_both_splits_are_usual(tmp_path):
    texts = [f"{n} " * 200 for n in range(40)]
    texts[2] = texts[-2] = "See also"
    data = source(TextData, path=lines(tmp_path / "a.jsonl", texts), format="auto")
    data.setup()
    assert data.notes == [] and data.statistics.n_duplicates == 1


def test_a_field_that_no_file_has_a_use_for_is_noted(tmp_path):
    plain = str(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text(STORY)
    rows = lines(tmp_path / "b.jsonl", [STORY + "!"], field="content")
    for path, is_noted in (([plain], True), ([plain, rows], False)):
        data = source(TextData, path=path, format="auto", field="content")
        data.setup()
        assert any("field (content) has no effect" in note for note in data.notes) == is_noted


def test_one_file_that_is_named_twice_is_noted(tmp_path):
    (tmp_path / "a.txt").write_text(STORY)
    data = source(TextData, path=[str(tmp_path), str(tmp_path / "a.txt")])
    data.setup()
    assert "has the same text as" in data.notes[0]


def test_a_folder_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text(STORY)
    (tmp_path / "secret").mkdir()
    scandir = os.scandir

    def deny(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(ValueError, match=r"path \(.*secret\) cannot be read: Permission denied"):
        read(tmp_path)


KINDS = {
    "UTF-16": (STORY.encode("utf-16"), "iconv -f utf-16 "),
    "UTF-16 of the other order": (b"\xfe\xff" + STORY.encode("utf-16-be"), "iconv -f utf-16 "),
    "UTF-16 without a mark": (STORY.encode("utf-16-le"), "iconv -f utf-16-le "),
    "UTF-16, big end first, without a mark": (STORY.encode("utf-16-be"), "iconv -f utf-16-be "),
    "UTF-16 of Russian without a mark": (
        ("Лампа горела. " * 20).encode("utf-16-le"),
        "iconv -f utf-16-le ",
    ),
    "UTF-32": (STORY.encode("utf-32"), "iconv -f utf-32 "),
    "UTF-32 without a mark": (STORY.encode("utf-32-be"), "iconv -f utf-32-be "),
    "gzip": (gzip.compress(STORY.encode()), "gunzip -c"),
    "bzip2": (bz2.compress(STORY.encode()), "bzip2 -dc"),
    "xz": (lzma.compress(STORY.encode()), "xz -dc"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x00abc", "zstd -dc"),
    "zip": (b"PK\x03\x04\x0a\0\0\0\0\0a.txt" + STORY.encode(), "unzip"),
    "docx": (
        b"PK\x03\x04\x14\0\x06\0[Content_Types].xml PK\x03\x04 word/document.xml" + b"x" * 40,
        "Word's .docx",
    ),
    "tar": (b"a.txt".ljust(257, b"\0") + b"ustar\x0000" + b"\0" * 200 + STORY.encode(), "tar -xf"),
    "PDF": (b"%PDF-1.4\n1 0 obj <<>> endobj\n", "pdftotext"),
    "PDF with compressed parts": (
        b"%PDF-1.4 \xe2\xe3 stream " + gzip.compress(STORY.encode()),
        "pdftotext",
    ),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "ps2ascii"),
    "RTF": (rb"{\rtf1\ansi The lamp}", "RTF"),
    "GIF": (b"GIF89a\x10\0\x10\0\xf0\0\0", "a GIF picture"),
    "PNG": (b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", "a PNG picture"),
    "SQLite": (b"SQLite format 3\0\x10\0\x01\x01", "an SQLite database"),
    "parquet": (b"PAR1\x15\x04\x15" + b"abc" * 20 + b"PAR1", "parquet"),
    "something binary": (bytes(range(32)) * 10, "binary data"),
    "latin1": (
        "né à Paris, été".encode("latin-1"),
        "it looks like latin1; convert it: iconv -f latin1 -t utf-8",
    ),
    "cp1252": ("“né” à Paris, été".encode("cp1252"), "it looks like cp1252"),
    "cp1251": (("Лампа горела всю ночь " * 5).encode("cp1251"), "find its encoding"),
    "Shift-JIS": (("灯りがともった" * 5).encode("shift_jis"), "find its encoding"),
    "UTF-8, damaged": (
        ("né à Paris, été " * 4).encode() + b"\xc3",
        "it is UTF-8 except in 1 place",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_not_utf8_text_is_named_for_what_it_is(tmp_path, kind):
    content, words = KINDS[kind]
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"is not (UTF-8 text|text in UTF-8)") as caught:
        read_text(tmp_path / "a.txt")
    assert words in str(caught.value)
    assert ("latin1" in str(caught.value)) == (kind == "latin1")


@pytest.mark.parametrize(
    "text",
    [
        *(
            STORY,
            "PK is a name",
            "a\0b" + STORY,
            "\x1b[1mbold\x1b[0m",
            "ЛАМПА",
            "灯",
            "",
            "\n",
            "%",
            "BZh9 is a rank",
        ),
        *(
            "GIF89a is a format — née 1989",
            "PAR1 began late",
            "%PDF-1.7 is a header",
            "BZh91AY&SY begins a block",
        ),
        *("%!PS-Adobe-3.0 is one, too", "{\\rtf1 is a third", "x" * 257 + "ustar is a mark"),
    ],
)
def test_text_in_utf8_is_read_whatever_it_begins_with(tmp_path, text):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert read_text(tmp_path / "a.txt") == text
