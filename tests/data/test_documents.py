"""Documents in files of every format, compressed or not, and what is refused of them."""

import bz2
import gzip
import importlib
import json
import lzma
import re
import tracemalloc
from pathlib import Path

import pytest

from firstlight.data import checks
from firstlight.data.order import SeededOrder
from firstlight.data.text import TextData
from firstlight.data.tokenizers.bytes import BytesTokenizer
from firstlight.memory_limits import Memory
from firstlight.packages import with_extra
from firstlight.runs.places import is_there

STORIES = [
    "The lamp was lit.\nNobody saw who did it.",
    "Лампа горела всю ночь.",
    "灯りがともった。",
]


def text_data(path, **settings):
    settings = {"format": "auto", "context_length": 8} | settings
    return TextData(
        path=path if isinstance(path, list) else str(path),
        tokenizer=BytesTokenizer(),
        order=SeededOrder(seed=1),
        **settings,
    )


def read(path, **settings):
    return text_data(path, **settings).documents()


def json_lines(texts, field="text"):
    return "".join(json.dumps({"id": n, field: text}) + "\n" for n, text in enumerate(texts))


def zstd(data, **settings):
    zstandard = pytest.importorskip("zstandard")
    return zstandard.ZstdCompressor(**settings).compress(data)


def gz(data):
    """Without the time, so that the names of the tests are the same in every process."""
    return gzip.compress(data, mtime=0)


COMPRESSORS = {".gz": gz, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.mark.parametrize("suffix", ["", *COMPRESSORS])
def test_a_text_is_the_same_compressed_or_not(tmp_path, suffix):
    content = "\ufeffone\r\ntwo\rthree — 灯\n".encode()
    file = tmp_path / f"a.txt{suffix}"
    file.write_bytes(COMPRESSORS.get(suffix, bytes)(content))
    assert read(file) == ["one\ntwo\nthree — 灯\n"]


@pytest.mark.parametrize("suffix", ["", *COMPRESSORS])
def test_each_line_of_json_is_a_document(tmp_path, suffix):
    lines = json_lines([*STORIES, " \n", ""]) + "\n"
    file = tmp_path / f"a.jsonl{suffix}"
    file.write_bytes(COMPRESSORS.get(suffix, bytes)(lines.encode()))
    data = text_data(file, train_ratio=0.5, batch_size=1)
    assert data.documents() == STORIES
    data.setup()
    ends = sum(int((ids == data.tokenizer.end_of_text).sum()) for ids in data.ids.values())
    assert ends == len(STORIES) - 1  # one between two documents of a split, or a split between them


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_frames_and_members_after_each_other_are_one_file(tmp_path, suffix):
    parts = [COMPRESSORS[suffix](line.encode()) for line in json_lines(STORIES).splitlines(True)]
    (tmp_path / f"a.jsonl{suffix}").write_bytes(b"".join(parts))
    assert read(tmp_path / f"a.jsonl{suffix}") == STORIES


def write_parquet(file, columns):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), file, row_group_size=2)
    return file


def test_each_row_of_parquet_is_a_document(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", {"text": [*STORIES, " "], "n": [1, 2, 3, 4]})
    assert read(file) == STORIES


def test_a_field_or_column_of_another_name_is_chosen(tmp_path):
    (tmp_path / "a.jsonl").write_text(json_lines(STORIES, "content"))
    assert read(tmp_path / "a.jsonl", field="content") == STORIES
    write_parquet(tmp_path / "b.parquet", {"content": STORIES})
    assert read(tmp_path, field="content") == STORIES * 2


def test_a_folder_of_mixed_files_is_read_in_the_order_of_names(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.jsonl").write_text(json_lines(STORIES))
    (tmp_path / "a.txt.gz").write_bytes(gz(b"first"))
    (tmp_path / "deep" / "c.md").write_text("last")
    (tmp_path / "code.py").write_text("x")
    data = text_data(tmp_path)
    assert data.documents() == list(data.iter_documents()) == ["first", *STORIES, "last"]
    assert data.source() == ("3 files; left out: 1 not .txt, .md, .jsonl, .ndjson or .parquet")


def test_a_run_of_an_earlier_version_reads_what_it_read(tmp_path):
    """Its config has no `format`: a folder is its plain texts, a named file the text that it is."""
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "b.jsonl").write_text(json_lines(STORIES))
    (tmp_path / "c.txt.gz").write_bytes(gz(b"last"))
    settings = {"tokenizer": BytesTokenizer(), "order": SeededOrder(seed=1), "context_length": 8}
    assert TextData(path=str(tmp_path), **settings).documents() == ["first"]
    lines = str(tmp_path / "b.jsonl")
    assert TextData(path=lines, **settings).documents() == [json_lines(STORIES)]


def test_a_pattern_stands_for_the_files_that_it_fits(tmp_path):
    for name in ("b.txt", "a.txt", "c.md", ".d.txt", "e.txt~", "deep/f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert read(tmp_path / "*.txt") == ["a.txt", "b.txt"]
    assert read([str(tmp_path / "**/*.txt"), str(tmp_path / "[c].md")]) == [
        "a.txt", "b.txt", "deep/f.txt", "c.md",
    ]  # fmt: skip
    (tmp_path / "[c].md").write_text("as it is named")
    assert read(tmp_path / "[c].md") == ["as it is named"]
    assert is_there(str(tmp_path / "*.txt")) and not is_there(str(tmp_path / "*.log"))
    with pytest.raises(ValueError, match=r"\*\.log\): no file matches this pattern"):
        read(tmp_path / "*.log")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"\n', "line 2 is not JSON: Expecting ',' delimiter at"),
        ("a.jsonl", b'[{"text": "a"}]', "line 1 is a list, not an object with fields; jq -c"),
        ("a.jsonl", b'[\n{"text": "a"}]', "line 1 is not JSON: .*one object a line is wanted: jq -c"),
        ("a.jsonl", b'{"content": "a", "id": 1}', "line 1 has no field 'text'; it has content, id: give"),
        ("a.jsonl", b'{"texts": "a"}', "has no field 'text'; did you mean 'texts'"),
        ("a.jsonl", b'{"text": 3}', "line 1: the field 'text' is a number, not a text"),
        ("a.jsonl", b'\n{"text": null}', "line 2: the field 'text' is null, not a text"),
        ("a.jsonl", b'{\n "text": "a"\n}', "line 1 is not JSON: .*one object a line is wanted: jq -c . FILE"),
        ("a.jsonl", '{"text": "a"}\n'.encode("utf-16"), "is not JSON lines, but UTF-16; convert it"),
        ("a.jsonl", b"PAR1\n\xe4\x15\x04" + b"a" * 99, "is not JSON lines, but parquet; name it FILE.parquet"),
        ("a.jsonl", gz(b'{"text": "a"}'), "is not JSON lines, but gzip; name it FILE.gz"),
        ("a.jsonl", b'{"text": "caf\xe9"}', "line 1 is not UTF-8: byte 13 of it is 0xe9; it looks like lat"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000, "line 1 is not JSON that can be read"),
        ("a.jsonl", b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "line 1 is not JSON that can be read"),
        ("a.jsonl", b"", "has no text in it"),
        ("a.txt", b"", "has no text in it"),
        ("a.txt.gz", gz(b""), "has no text in it"),
        ("a.txt.gz", b"", "is empty: a .gz file of nothing has some bytes"),
        ("a.txt.gz", b"The lamp", r"is not compressed as .gz says: it begins with b'The lamp'"),
        ("a.txt.xz", gz(b"a"), "is not compressed as .xz says"),
        ("a.txt.zst", b"The lamp", "is not compressed as .zst says"),
        ("a.txt.gz", gz(b"a" * 999)[:-9], "is cut short"),
        ("a.txt.bz2", bz2.compress(b"a" * 999)[:-9], "is cut short"),
        ("a.txt.xz", lzma.compress(b"a" * 999)[:-9], "is cut short"),
        ("a.txt.gz", gz(b"a" * 99)[:-8] + b"\1" * 8, "is damaged: CRC check failed"),
        ("a.txt.gz", gz(b"a") + b"more", "is damaged: Not a gzipped file"),
        ("a.txt.bz2", bz2.compress(b"a" * 99)[:20] + b"\1" * 40, "is (damaged|cut short)"),
        ("a.txt.xz", lzma.compress(b"a" * 99)[:20] + b"\1" * 80, "is damaged"),
        ("a.txt.gz", gz("né".encode("latin-1")), "is not UTF-8 text: byte 1 is 0xe9"),
        ("a.txt.gz", gz(gz(b"a")), "it is gzip"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_ends_in_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        read(tmp_path / name)
    assert f"path ({tmp_path / name})" in str(caught.value) and "\n" not in str(caught.value)


def test_several_names_with_a_comma_are_told_to_be_a_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(
        ValueError, match=r"no such file; several files are a list: 'data.path=\[a.t"
    ):
        read("a.txt,b.txt")
    with pytest.raises(ValueError, match=r"path \(c,d.txt\): no such file$"):
        read("c,d.txt")


@pytest.mark.parametrize("cut", [-1, -4, -9, 6])
def test_a_zstd_file_that_is_cut_short_is_refused(tmp_path, cut):
    content = zstd(b"The lamp was lit. " * 99, write_checksum=True)
    (tmp_path / "a.txt.zst").write_bytes(content[:cut])
    with pytest.raises(ValueError, match="is cut short"):
        read(tmp_path / "a.txt.zst")
    damaged = content[:20] + bytes([content[20] ^ 255]) + content[21:]
    (tmp_path / "a.txt.zst").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"is (damaged|cut short)"):
        read(tmp_path / "a.txt.zst")


def test_a_zstd_file_may_have_the_largest_window(tmp_path):
    """Dumps of the web are compressed with `zstd --long=31`."""
    zstandard = pytest.importorskip("zstandard")
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    content = compressor.compress(STORIES[0].encode()) + compressor.flush()
    (tmp_path / "a.txt.zst").write_bytes(content)
    assert read(tmp_path / "a.txt.zst") == STORIES[:1]


def test_texts_of_every_type_of_parquet_are_read(tmp_path):
    pa = pytest.importorskip("pyarrow")
    plain = pa.array(STORIES)
    views, large = plain.cast(pa.string_view()), plain.cast(pa.large_string())
    for column in (plain, large, views, plain.dictionary_encode()):
        assert read(write_parquet(tmp_path / "a.parquet", {"text": column})) == STORIES


def test_two_columns_of_one_name_are_refused(tmp_path):
    pa = pytest.importorskip("pyarrow")
    table = pa.table([["a"], ["b"]], names=["text", "text"])
    importlib.import_module("pyarrow.parquet").write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="has 2 columns 'text'; rename all but one"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"content": STORIES}, "has no column 'text'; it has content: give data.field="),
        ({"text": [1, 2]}, "column 'text' has values of type int64, not texts"),
        ({"text": ["a", None]}, "row 2: the column 'text' is null, not a text"),
        ({"text": [["a"]]}, "has values of type list<element: string>, not texts"),
        ({"text": [" ", ""]}, "has no text in it"),
    ],
)
def test_parquet_without_texts_ends_in_one_line(tmp_path, columns, words):
    file = write_parquet(tmp_path / "a.parquet", columns)
    with pytest.raises(ValueError, match=words):
        read(file)


def test_damaged_parquet_ends_in_one_line(tmp_path):
    content = write_parquet(tmp_path / "a.parquet", {"text": STORIES * 100}).read_bytes()
    for damaged in (b"", b"PAR1", content[:-20], content[:200] + b"\0" * 200 + content[400:]):
        (tmp_path / "a.parquet").write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"(is damaged, or not Parquet|is not UTF-8)"
        ) as caught:
            read(tmp_path / "a.parquet")
        assert "\n" not in str(caught.value)


def test_a_text_that_json_spells_in_halves_of_characters_is_one(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d\\ude00 and \\ud83d alone"}\n')
    assert read(tmp_path / "a.jsonl") == ["\U0001f600 and \ufffd alone"]


ZEROS = b"a" * 2**20


BOMBS = {
    "a.txt.gz": lambda: gz(ZEROS * 48),
    "a.jsonl.xz": lambda: lzma.compress(b'{"text": "' + ZEROS * 48 + b'"}'),
    "a.jsonl.bz2": lambda: bz2.compress((b'{"text": "' + ZEROS + b'"}\n') * 48),
    "a.txt.zst": lambda: zstd(ZEROS * 48),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_expands_beyond_memory_is_refused_before_it_is_there(tmp_path, monkeypatch, name):
    memory = Memory("this computer", 2**26, 3 * 2**23)
    monkeypatch.setattr(checks, "host_memory", lambda: memory)
    (tmp_path / name).write_bytes(BOMBS[name]())
    tracemalloc.start()
    try:
        with pytest.raises(
            ValueError, match=r"is too large: .* this computer has 0\.0 GB of memory"
        ):
            read(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


def test_parquet_that_expands_beyond_memory_is_refused(tmp_path, monkeypatch):
    file = write_parquet(tmp_path / "a.parquet", {"text": ["a" * 2**20] * 64})  # kept once
    monkeypatch.setattr(checks, "host_memory", lambda: Memory("this computer", 2**26, 3 * 2**23))
    with pytest.raises(ValueError, match="is too large"):
        read(file)
    assert sum(map(len, text_data(file).iter_documents())) == 2**26  # one at a time it fits


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("a.txt.zst", "zstandard", "zstd"), ("a.parquet", "pyarrow", "parquet")],
)
def test_a_missing_package_is_named_with_how_to_install_it(
    tmp_path, monkeypatch, name, package, extra
):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    (tmp_path / name).write_bytes(b"\x28\xb5\x2f\xfd")
    with pytest.raises(ValueError, match=re.escape(with_extra(extra))):
        read(tmp_path / name)


def test_a_format_is_taken_whatever_the_name(tmp_path):
    (tmp_path / "a.log").write_text(json_lines(STORIES))
    assert read(tmp_path / "a.log", format="jsonl") == STORIES
    assert read(tmp_path / "a.log") == [json_lines(STORIES)]
    (tmp_path / "b.jsonl").write_text(json_lines(STORIES))
    assert read(tmp_path, format="jsonl") == STORIES
    with pytest.raises(ValueError, match=r"folder without \.parquet files \(left out: 2 not"):
        read(tmp_path, format="parquet")


def test_a_missing_file_is_a_missing_file_in_every_format(tmp_path):
    for name in ("a.txt", "a.txt.gz", "a.jsonl", "a.parquet"):
        with pytest.raises(ValueError, match="no such file"):
            read(Path(tmp_path, name))
