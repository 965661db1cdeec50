"""Identify a file that is not UTF-8 text by its first bytes, and say how to convert it."""

import codecs
import re
from dataclasses import dataclass

from firstlight.errors import counted

HEAD = 2**16
"""Number of bytes examined."""
UNPRINTABLE = 0.1
"""A text may have this share of control characters: a stray NUL does not make it binary."""
CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
"""Control bytes other than those of texts: tab, newline, form feed and coloured logs' escape."""


@dataclass(frozen=True)
class Kind:
    """A file format, and what to do with such a file."""

    name: str
    way_out: str


def _format(beginning: bytes, name: str, way_out: str) -> tuple[re.Pattern[bytes], Kind]:
    return re.compile(beginning, re.DOTALL), Kind(name, way_out)


# These files may be all ASCII, like a text that begins with the same letters, so each pattern
# includes what must follow them.
ASCII_FORMATS = (
    _format(rb"%PDF-\d\.\d\s+(%|\d+ \d+ obj\b)", "PDF", "convert it, e.g. pdftotext FILE FILE.txt"),
    _format(
        rb"%!PS-Adobe-\d\.\d( EPSF-\d\.\d)?[ \t]*[\r\n]+%",
        "PostScript",
        "convert it, e.g. ps2ascii FILE FILE.txt",
    ),
    _format(rb"\{\\rtf1\s*\\[a-z]", "RTF", "convert it, e.g. pandoc FILE -t plain -o FILE.txt"),
)
BINARY_FORMATS = (
    # Office and EPUB files are zip archives: a file name inside tells which.
    _format(
        rb"PK\x03\x04.*word/", "Word's .docx", "convert it, e.g. pandoc FILE -t plain -o FILE.txt"
    ),
    _format(rb"PK\x03\x04.*xl/", "Excel's .xlsx", "convert it, e.g. soffice --convert-to csv FILE"),
    _format(
        rb"PK\x03\x04.*ppt/",
        "PowerPoint's .pptx",
        "convert it, e.g. soffice --convert-to pdf FILE, then pdftotext",
    ),
    _format(
        rb"PK\x03\x04.*mimetypeapplication/epub\+zip",
        "an EPUB book",
        "convert it, e.g. pandoc FILE -t plain -o FILE.txt",
    ),
    _format(
        rb"PK\x03\x04.*mimetypeapplication/vnd\.oasis\.",
        "an OpenDocument file",
        "convert it, e.g. soffice --convert-to txt:Text FILE",
    ),
    _format(rb"PK\x03\x04", "a zip archive", "unpack it: unzip FILE"),
    # After the header comes a block, or the end of an empty file.
    _format(
        rb"BZh.(1AY&SY|\x17rE8P\x90)",
        "bzip2",
        "name it FILE.bz2, or bzip2 -dc FILE > FILE.txt",
    ),
    _format(rb".{257}ustar", "a tar archive", "unpack it: tar -xf FILE"),
    # UTF-32 before UTF-16: its byte-order mark begins with that of UTF-16.
    _format(rb"\xff\xfe\0\0", "UTF-32", "convert it: iconv -f utf-32 -t utf-8 FILE > FILE.txt"),
    _format(rb"\0\0\xfe\xff", "UTF-32", "convert it: iconv -f utf-32 -t utf-8 FILE > FILE.txt"),
    _format(rb"\xff\xfe", "UTF-16", "convert it: iconv -f utf-16 -t utf-8 FILE > FILE.txt"),
    _format(rb"\xfe\xff", "UTF-16", "convert it: iconv -f utf-16 -t utf-8 FILE > FILE.txt"),
    _format(rb"\x1f\x8b", "gzip", "name it FILE.gz, or gunzip -c FILE > FILE.txt"),
    _format(rb"\x1f\x9d", "compress", "unpack it: gunzip -c FILE > FILE.txt"),
    _format(rb"\xfd7zXZ\0", "xz", "name it FILE.xz, or xz -dc FILE > FILE.txt"),
    _format(
        rb"\x28\xb5\x2f\xfd",
        "zstd",
        "name it FILE.zst, or zstd -dc FILE > FILE.txt",
    ),
    _format(rb"\x04\x22\x4d\x18", "lz4", "unpack it: lz4 -dc FILE > FILE.txt"),
    _format(rb"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it: 7z x FILE"),
    _format(rb"Rar!\x1a\x07", "a rar archive", "unpack it: unrar x FILE"),
    _format(rb"%PDF-", "PDF", "convert it, e.g. pdftotext FILE FILE.txt"),
    _format(
        rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "an old Office file",
        "convert it, e.g. soffice --convert-to txt:Text FILE",
    ),
    _format(
        rb"SQLite format 3\0",
        "an SQLite database",
        "convert it, e.g. sqlite3 FILE 'SELECT text FROM docs' > FILE.txt",
    ),
    _format(
        rb"PAR1",
        "parquet",
        "name it FILE.parquet, and leave the format to its name",
    ),
    _format(rb"ARROW1\0\0", "Arrow", "write its column of text to a file, e.g. with pyarrow"),
    _format(rb"\x89HDF\r\n\x1a\n", "HDF5", "write its texts to a file, e.g. with h5py"),
    _format(rb"\x93NUMPY", "a NumPy array", "give the text that it was made from"),
    _format(rb"\x89PNG\r\n\x1a\n", "a PNG picture", "give a text file"),
    _format(rb"\xff\xd8\xff", "a JPEG picture", "give a text file"),
    _format(rb"GIF8[79]a", "a GIF picture", "give a text file"),
    _format(rb"\x7fELF", "a program", "give a text file"),
)
WIDE = ("utf-32-be", "utf-32-le", "utf-16-be", "utf-16-le")
"""Encodings with two or four bytes per character; the first that fits is taken."""


def kind_of(data: bytes) -> Kind | None:
    """Identify `data` by its first bytes; None for text, in whatever encoding.

    A text may begin with the letters of a format ("GIF89a is ..."), but only a binary file has
    control bytes as well.
    """
    head = data[:HEAD]
    for pattern, kind in ASCII_FORMATS:
        if pattern.match(head):
            return kind
    n_controls = len(CONTROLS.findall(head))
    # UTF-16 may have no control byte, but its byte-order mark is not ASCII.
    if n_controls > 0 or not head[:2].isascii():
        for pattern, kind in BINARY_FORMATS:
            if pattern.match(head):
                return kind
    if n_controls <= UNPRINTABLE * len(head):
        return None
    # UTF-16 and UTF-32 without a byte-order mark are full of NULs.
    for encoding in WIDE:
        if _reads_as(head, encoding):
            return Kind(
                encoding.upper(), f"convert it: iconv -f {encoding} -t utf-8 FILE > FILE.txt"
            )
    return Kind("binary data", "give a text file")


def _reads_as(head: bytes, encoding: str) -> bool:
    """Whether `head`, which may end inside a character, is text in `encoding`."""
    try:
        # An incremental decoder accepts an incomplete character at the end.
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return False
    n_printable = sum(character.isprintable() or character.isspace() for character in text)
    # In the wrong byte order, spaces and newlines become rare characters; every text has some.
    return n_printable > 0.95 * len(text) and (" " in text or "\n" in text)


def way_to_utf8(data: bytes) -> str:
    """Say what `data`, which is not UTF-8, is instead, and how to convert it."""
    found = kind_of(data)
    return _other_encoding(data) if found is None else f"it is {found.name}; {found.way_out}"


def _other_encoding(data: bytes) -> str:
    """Say how to convert `data`, which is neither UTF-8 nor of a known `Kind`."""
    text = data.decode("utf-8", errors="replace")
    n_wrong = text.count("\ufffd")
    n_right = sum(character > "\x7f" for character in text) - n_wrong
    # More characters beyond ASCII decode than fail: a damaged UTF-8 file, not another encoding.
    if n_right > n_wrong:
        places = counted(n_wrong, "place")
        return (
            f"it is UTF-8 except in {places}; iconv -c -f utf-8 -t utf-8 leaves out what is wrong"
        )
    letters = len(re.findall(rb"[A-Za-z]", data))
    high = len(re.findall(rb"[\x80-\xff]", data))
    # cp1252 leaves these five bytes undefined.
    if high <= letters and not re.search(rb"[\x81\x8d\x8f\x90\x9d]", data):
        # Western text is mostly ASCII; of the two encodings only Windows' has letters and quotes at
        # 0x80 to 0x9f.
        name = "cp1252" if re.search(rb"[\x80-\x9f]", data) else "latin1"
        return f"it looks like {name}; convert it: iconv -f {name} -t utf-8 FILE > FILE.txt"
    return (
        "find its encoding (uchardet FILE; cp1251, gb18030, shift_jis, ...): iconv -f ENCODING -t"
        " utf-8"
    )
