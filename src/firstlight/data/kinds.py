"""What a file is that is not UTF-8 text, by its first bytes, and what makes text of it."""

import re
from dataclasses import dataclass

HEAD = 2**16
"""Bytes that are looked at."""
UNPRINTABLE = 0.1
"""Part of the characters that are control characters, from which on it is no text: a stray NUL is only odd."""
CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
"""Bytes that texts do not have: not tab, newline, form feed, nor the escape of coloured logs."""


@dataclass(frozen=True)
class Kind:
    """What a file is, and what to do with it."""

    name: str
    way_out: str


def _packed(name: str, command: str) -> Kind:
    return Kind(name, f"unpack it: {command} FILE > FILE.txt")


def _converted(name: str, command: str) -> Kind:
    return Kind(name, f"convert it, e.g. {command}")


def _encoded(name: str) -> Kind:
    return Kind(name.upper(), f"convert it: iconv -f {name} -t utf-8 FILE > FILE.txt")


WORD = _converted("Word's .docx", "pandoc FILE -t plain -o FILE.txt")
PDF = _converted("PDF", "pdftotext FILE FILE.txt")
POSTSCRIPT = _converted("PostScript", "ps2ascii FILE FILE.txt")
RTF = _converted("RTF", "pandoc FILE -t plain -o FILE.txt")
BINARY = Kind("binary data", "give a text file")
OFFICE = (  # zip files, by a name in them
    (b"word/", WORD),
    (b"xl/", _converted("Excel's .xlsx", "soffice --convert-to csv FILE")),
    (b"ppt/", _converted("PowerPoint's .pptx", "soffice --convert-to pdf FILE, then pdftotext")),
    (b"mimetypeapplication/epub+zip", _converted("an EPUB book", "pandoc FILE -t plain -o FILE.txt")),
    (b"mimetypeapplication/vnd.oasis.", _converted("an OpenDocument file", "soffice --convert-to txt:Text FILE")),
)
BEGINNINGS = (
    (b"\xff\xfe\0\0", _encoded("utf-32")),  # before UTF-16, whose mark it begins with
    (b"\0\0\xfe\xff", _encoded("utf-32")),
    (b"\xff\xfe", _encoded("utf-16")),
    (b"\xfe\xff", _encoded("utf-16")),
    (b"\x1f\x8b", _packed("gzip", "gunzip -c")),
    (b"\x1f\x9d", _packed("compress", "gunzip -c")),
    (b"\xfd7zXZ\0", _packed("xz", "xz -dc")),
    (b"\x28\xb5\x2f\xfd", _packed("zstd", "zstd -dc")),
    (b"\x04\x22\x4d\x18", _packed("lz4", "lz4 -dc")),
    (b"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", "unpack it: 7z x FILE")),
    (b"Rar!\x1a\x07", Kind("a rar archive", "unpack it: unrar x FILE")),
    (b"%PDF-", PDF),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _converted("an old Office file", "soffice --convert-to txt:Text FILE")),
    (b"SQLite format 3\0", _converted("an SQLite database", "sqlite3 FILE 'SELECT text FROM docs' > FILE.txt")),
    (b"PAR1", _converted("parquet", "duckdb -noheader -list -c \"SELECT text FROM 'FILE'\" > FILE.txt")),
    (b"ARROW1\0\0", Kind("Arrow", "write its column of text to a file, e.g. with pyarrow")),
    (b"\x89HDF\r\n\x1a\n", Kind("HDF5", "write its texts to a file, e.g. with h5py")),
    (b"\x93NUMPY", Kind("a NumPy array", "give the text that it was made from")),
    (b"\x89PNG\r\n\x1a\n", Kind("a PNG picture", "give a text file")),
    (b"\xff\xd8\xff", Kind("a JPEG picture", "give a text file")),
    (b"GIF87a", Kind("a GIF picture", "give a text file")),
    (b"GIF89a", Kind("a GIF picture", "give a text file")),
    (b"\x7fELF", Kind("a program", "give a text file")),
)
FORMATTED = (  # all of the file may be ASCII: told by what has to follow those letters
    (re.compile(rb"%PDF-\d\.\d\s+(%|\d+ \d+ obj\b)"), PDF),
    (re.compile(rb"%!PS-Adobe-\d\.\d( EPSF-\d\.\d)?[ \t]*[\r\n]+%"), POSTSCRIPT),
    (re.compile(rb"\{\\rtf1\s*\\[a-z]"), RTF),
)
WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")


def kind_of(data: bytes) -> Kind | None:
    """What `data` is, if that is seen from its first bytes, whether or not it can be read as UTF-8; None: text, perhaps
    in another encoding of single bytes.

    A text may begin with the letters that a format begins with ("GIF89a is ..."): a binary file has other bytes, too.
    """
    head = data[:HEAD]
    controls = CONTROLS.findall(head)
    if found := next((kind for form, kind in FORMATTED if form.match(head)), None):
        return found
    if (controls or not head[:2].isascii()) and (found := _binary_kind(head)):  # UTF-16 may have no control byte
        return found
    if len(controls) <= UNPRINTABLE * len(head):
        return None
    wide = [encoding for encoding in WIDE if _reads_as(head, encoding)]
    return _encoded(max(wide, key=WIDE.index)) if wide else BINARY


def _binary_kind(head: bytes) -> Kind | None:
    """What a file is that is not all text, by the letters and marks that its format begins with."""
    if head.startswith(b"PK\x03\x04"):
        inside = next((kind for name, kind in OFFICE if name in head), None)
        return inside or Kind("a zip archive", "unpack it: unzip FILE")
    if head.startswith(b"BZh") and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):  # a block, or the end of none
        return _packed("bzip2", "bzip2 -dc")
    if head[257:262] == b"ustar":
        return Kind("a tar archive", "unpack it: tar -xf FILE")
    return next((kind for beginning, kind in BEGINNINGS if head.startswith(beginning)), None)


def _reads_as(head: bytes, encoding: str) -> bool:
    """Is `head` text in an encoding of two or four bytes a character?"""
    try:
        text = head[: len(head) // 4 * 4].decode(encoding, errors="strict")
    except UnicodeDecodeError as error:
        if error.end < len(head) // 4 * 4:  # not a pair that HEAD has cut in two
            return False
        text = head[: error.start].decode(encoding, errors="strict")
    # Read in the wrong order of bytes a space or a newline is a rare character: every text has some.
    is_text = sum(character.isprintable() or character.isspace() for character in text) > 0.95 * len(text)
    return is_text and any(character in " \n" for character in text)


def other_encoding(data: bytes) -> str:
    """What to do with `data`, which is not UTF-8 and of no `kind_of` above."""
    text = data.decode("utf-8", errors="replace")
    n_wrong = text.count("\ufffd")
    n_right = sum(character > "\x7f" for character in text) - n_wrong
    if n_right > n_wrong:
        places = f"{n_wrong:,} place{'s' if n_wrong > 1 else ''}"
        return f"it is UTF-8 but for {places}; iconv -c -f utf-8 -t utf-8 leaves out what is wrong"
    letters = len(re.findall(rb"[A-Za-z]", data))
    high = len(re.findall(rb"[\x80-\xff]", data))
    if high <= letters and not re.search(rb"[\x81\x8d\x8f\x90\x9d]", data):
        # Western text is mostly ASCII; 0x80 to 0x9f are letters and quotes in Windows' encoding alone.
        name = "cp1252" if re.search(rb"[\x80-\x9f]", data) else "latin1"
        return f"it looks like {name}; convert it: iconv -f {name} -t utf-8 FILE > FILE.txt"
    return "find its encoding (uchardet FILE; cp1251, gb18030, shift_jis, ...): iconv -f ENCODING -t utf-8"
