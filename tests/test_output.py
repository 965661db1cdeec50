"""Standard output and error may lack characters, be closed, or be full."""

import io
import json
import math
import os
import subprocess
import sys
import warnings

import pytest
from terminal import in_a_terminal

from firstlight import __version__, output
from firstlight.cli import unsupported

PREPARED = "from firstlight import output; output.prepare(); "


def run(code, *arguments, shell=""):
    """`code` in a process of its own, with streams as `shell` says."""
    command = [
        "sh",
        "-c",
        f'exec "$@" {shell}',
        "sh",
        sys.executable,
        *arguments,
        "-c",
        PREPARED + code,
    ]
    return subprocess.run(command, capture_output=True, timeout=60, check=False)


def test_characters_that_the_encoding_lacks_are_escaped(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    output.prepare()
    output.write("naïve 道\n")
    assert raw.getvalue() == b"na\\xefve \\u9053\n"
    assert not output.is_unicode()


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "utf-16"])
def test_an_encoding_with_all_characters_is_known(monkeypatch, encoding):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert output.is_unicode()


def test_what_is_printed_where_output_is_closed_lands_in_no_file(tmp_path):
    """A library that prints writes to descriptor 1, whatever has that number."""
    code = (
        f"import os; file = open({str(tmp_path / 'file')!r}, 'w'); print('a'); os.write(1, b'b');"
        " os.write(2, b'c')"
    )
    done = run(code, shell="<&- >&- 2>&-")
    assert done.returncode == 0
    assert (tmp_path / "file").read_bytes() == b""


def test_a_result_that_cannot_be_written_is_an_error():
    code = "output.write('x')"
    assert b"standard output is closed" in run(code, shell=">&-").stderr


def test_what_is_told_ends_nothing_when_nobody_reads_any_more():
    reads, writes = os.pipe()
    os.close(reads)
    code = "output.tell('a' * 10_000); output.note('b'); output.tell('c'); print('d', flush=True)"
    done = subprocess.run(
        [sys.executable, "-c", PREPARED + code],
        stdout=writes,
        stderr=writes,
        check=False,
        timeout=60,
    )
    os.close(writes)
    assert done.returncode == 0


def test_only_linux_and_macos_and_some_pythons_are_served():
    assert unsupported("linux", (3, 11)) is None and unsupported("darwin", (3, 13)) is None
    assert "not on win32; on Windows use WSL" in str(unsupported("win32", (3, 12)))
    assert "not on freebsd14" in str(unsupported("freebsd14", (3, 12)))
    assert "Python 3.11 to 3.13, and this is 3.10" in str(unsupported("linux", (3, 10)))
    assert "this is 3.14" in str(unsupported("linux", (3, 14)))


def test_an_unsupported_system_is_refused_in_one_line(monkeypatch, capsys):
    from firstlight.cli import main

    monkeypatch.setattr(sys, "platform", "win32")
    assert main(["--version"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["train", "--help"]])
def test_help_for_which_there_is_no_room_is_one_line(arguments, monkeypatch, capsys):
    from firstlight.cli import main

    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    assert main(arguments) == 2
    assert (
        capsys.readouterr().err
        == "firstlight: standard output cannot be written: No space left on device\n"
    )


STOPS_AT_TORCH = """
import sys
from firstlight.cli import main

class Finder:
    def find_spec(self, name, *_):
        if name == "torch":
            sys.exit("TORCH")

sys.meta_path.insert(0, Finder())
main(sys.argv[1:])
"""


def test_a_terminal_shows_something_before_torch_is_imported():
    for verb, word in {"train": "seed=1", "info": "checkpoint=x"}.items():
        shown = in_a_terminal("-c", STOPS_AT_TORCH, verb, word, code=1)
        assert shown == f"firstlight {__version__}, {verb}: loading PyTorch ...\nTORCH\n"


@pytest.mark.parametrize("words", [["train", "--cfg", "job"], ["info", "-h"], ["new", "x=y"]])
def test_what_is_done_at_once_is_not_announced(words, capsys, monkeypatch):
    from firstlight.cli import main

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    main(words)
    assert "PyTorch" not in capsys.readouterr().err


def test_a_warning_of_a_library_is_a_note_without_its_source(capsys):
    place = "/usr/lib/python3/site-packages/torch/optim/lr_scheduler.py"
    shown = warnings.showwarning
    with output.library_warnings_as_notes(), warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn_explicit("call step()\nfirst", UserWarning, place, 3)
        warnings.warn_explicit("soon", FutureWarning, "/home/me/mine.py", 3)
    assert capsys.readouterr().err == "note: torch: call step() first\nnote: soon\n"
    assert warnings.showwarning is shown


def test_the_program_tells_warnings_so(capsys, monkeypatch):
    from firstlight.cli import main

    def warn(*_):
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.warn("a lamp is out", UserWarning, stacklevel=1)

    monkeypatch.setattr("firstlight.verbs.run", warn)
    assert main(["train"]) == 0
    assert capsys.readouterr().err == "note: a lamp is out\n"


def test_json_has_no_nan_and_no_infinity():
    told = {"val/loss": math.nan, "rows": [1, -math.inf, (2.5, "nan")], "name": "Infinity"}
    text = output.as_json(told)
    assert json.loads(text, parse_constant=pytest.fail) == {
        "val/loss": None,
        "rows": [1, None, [2.5, "nan"]],
        "name": "Infinity",
    }
