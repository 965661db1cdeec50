"""The documents in a file, one after another: plain text, JSON lines, Parquet."""

import codecs
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from firstlight.data.checks import check_size, memory_for_text, no_such_field
from firstlight.data.compressed import (
    COMPRESSIONS,
    compression_of,
    open_bytes,
    without_compression,
)
from firstlight.data.files import check_is_text, decoded, leads_to, not_utf8, read_text
from firstlight.data.kinds import HEAD, kind_of, way_to_utf8
from firstlight.data.parquet import read_parquet
from firstlight.data.tokenizers.base import pieces_of
from firstlight.errors import shorten

Format = Literal["auto", "text", "jsonl", "parquet"]
TEXT_SUFFIXES = (".txt", ".md")
JSONL_SUFFIXES = (".jsonl", ".ndjson")
PARQUET_SUFFIXES = (".parquet",)
BLOCK = 2**20
"""Bytes of a text that are read at once."""


def suffixes_of(format: Format) -> tuple[str, ...]:
    """The endings of the files that are read in a folder.

    With "text" they are those that earlier versions read.
    """
    if format == "text":
        return TEXT_SUFFIXES
    if format == "parquet":
        return PARQUET_SUFFIXES
    plain = JSONL_SUFFIXES if format == "jsonl" else (*TEXT_SUFFIXES, *JSONL_SUFFIXES)
    compressed = tuple(f"{end}{compression}" for end in plain for compression in COMPRESSIONS)
    others = PARQUET_SUFFIXES if format == "auto" else ()
    return (*plain, *compressed, *others)


def format_of(file: Path, format: Format = "auto") -> Format:
    """What `file` is read as: with "auto" by its name, plain text if that does not tell."""
    if format != "auto":
        return format
    name = without_compression(file.name.lower())
    if name.endswith(JSONL_SUFFIXES):
        return "jsonl"
    return "parquet" if name.endswith(PARQUET_SUFFIXES) else "text"


def read_documents(file: Path, *, format: Format = "auto", field: str = "text") -> Iterator[str]:
    """The documents of `file`, in its order; one at a time is in memory.

    A text is one document. A line of JSON, or a row of Parquet, is one, in the field or column
    `field`; those without text are left out.

    Raises:
        MissingFileError: no such file.
        ValueError: it cannot be read, is damaged, has no such field, or a document needs more
            memory than is free.
    """
    # Asked now, once for a file: what other programs take meanwhile cannot be known.
    yield from READERS[format_of(file, format)](file, field, memory_for_text())


def stream_text(file: Path) -> Iterator[str]:
    """Yield a plain text in blocks, however long it is; see `read_documents`."""
    decode = codecs.getincrementaldecoder("utf-8-sig")().decode
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    n_bytes = 0
    with open_bytes(file) as stream:
        while True:
            block = stream.read(BLOCK)
            try:
                text = decode(block, final=not block)
            except UnicodeDecodeError as error:
                # What was left of the block before is in front of this one.
                place = n_bytes + error.start - (len(error.object) - len(block))
                raise not_utf8(error, file, place) from None
            if n_bytes == 0:
                check_is_text(text, file)
            n_bytes += len(block)
            yield newlines.decode(text, final=not block)
            if not block:
                return


def documents_in(blocks: Iterable[str], end: str | None, longest: int) -> Iterator[str]:
    """Cut a text, given in `blocks`, into documents: at each `end`, and where one is too long.

    A document of more than `longest` characters is cut before a space between words, if there is
    one, into documents of half as many or more.
    """
    for document, _ in pieces_of(blocks, end, longest // 2):
        yield document


def _read_text(file: Path, field: str, most: int) -> Iterator[str]:
    if compression_of(file) is None:
        if leads_to(file, Path.is_file):
            # Before reading: a plain file tells its size.
            check_size(f"path ({file})", file.stat().st_size, most)
        yield read_text(file)
        return
    with open_bytes(file) as stream:
        data = _read_limited(stream, file, most)
    yield decoded(data, file)


def _read_limited(stream: IO[bytes], file: Path, most: int) -> bytes:
    parts: list[bytes] = []
    n_bytes = 0
    # In parts, so that a small file that expands to more than memory holds is refused in time.
    while part := stream.read(2**20):
        n_bytes += len(part)
        check_size(f"path ({file})", n_bytes, most)
        parts.append(part)
    return b"".join(parts)


def _read_jsonl(file: Path, field: str, most: int) -> Iterator[str]:
    _check_kind(file)
    with open_bytes(file) as stream:
        # Lines of bytes end at b"\n" alone; str.splitlines would also end one at U+2028, inside a
        # string.
        for number, line in enumerate(_lines(stream, file, most), 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")  # a byte-order mark
            if not line.strip():
                continue
            text = _text_of(line, field, _Place(file, number))
            if text.strip():
                yield text


def _check_kind(file: Path) -> None:
    """Refuse what is not text by the beginning of the file: its first line may not tell.

    Raises:
        ValueError: it is in another format, which is named.
    """
    with open_bytes(file) as stream:
        found = kind_of(stream.read(HEAD))
    if found is not None:
        raise ValueError(f"path ({file}) is not JSON lines, but {found.name}; {found.way_out}")


def _lines(stream: IO[bytes], file: Path, most: int) -> Iterator[bytes]:
    # With a limit: a file without line ends is one line, of any length.
    what = f"path ({file}), one line,"
    while line := stream.readline(most + 1):
        check_size(what, len(line), most)
        yield line


class _Place(NamedTuple):
    """A line of a file; its words are only made for a message."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"path ({self.file}), line {self.line:,}"


def _text_of(line: bytes, field: str, where: _Place) -> str:
    """The field of a line of JSON."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        wrong = f"byte {error.start} of it is 0x{line[error.start]:02x}"
        raise ValueError(f"{where} is not UTF-8: {wrong}; {way_to_utf8(line)}") from None
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at character {error.pos + 1}"
        raise ValueError(f"{where} is not JSON: {reason}{_one_line_each(line)}") from None
    except (ValueError, RecursionError):  # numbers of 5,000 digits, brackets within brackets
        raise ValueError(f"{where} is not JSON that can be read") from None
    if not isinstance(row, dict):
        advice = "; jq -c '.[]' FILE writes the elements of a list" if isinstance(row, list) else ""
        raise ValueError(f"{where} is {_kind(row)}, not an object with fields{advice}")
    if field not in row:
        raise ValueError(f"{where} {no_such_field('field', field, list(row))}")
    text = row[field]
    if not isinstance(text, str):
        raise ValueError(f"{where}: the field {shorten(repr(field))} is {_kind(text)}, not a text")
    if not text.isascii() and b"\\u" in line:
        text = _HALF_PAIR.sub("\ufffd", text)
    return text


def _one_line_each(line: bytes) -> str:
    """What to do with JSON that is spread over several lines, of which `line` is the first."""
    if line.lstrip().startswith(b"["):
        return "; one object a line is wanted: jq -c '.[]' FILE"
    is_begun = line.strip() == b"{" or line.rstrip().endswith(b",")
    return "; one object a line is wanted: jq -c . FILE" if is_begun else ""


_HALF_PAIR = re.compile("[\ud800-\udfff]")
"""JSON can spell half of a surrogate pair, which is not a character, and UTF-8 cannot hold it."""


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")


READERS: dict[str, Callable[[Path, str, int], Iterator[str]]] = {
    "text": _read_text,
    "jsonl": _read_jsonl,
    "parquet": read_parquet,
}
