"""Text from somebody else reaches a terminal as text: it neither steers it, nor is it read as
markup.
"""

import io
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from rich.table import Table

from firstlight import output
from firstlight.cli import main
from firstlight.console import SafeConsole
from firstlight.errors import printable_data, visible

ESCAPES = {
    "a colour": "\x1b[31mRED",
    "the clipboard": "\x1b]52;c;cm0gLXJm\x07",
    "a C1 sequence": "\x9b31m",
    "a title": "\x1b]0;title\x07",
    "backspaces": "rm\x08\x08ls",
    "a carriage return": "secret\rharmless",
    "right to left": "\u202egpj.exe",
    "markup": "[bold red]x[/] [link=http://x]y[/link]",
}
STEERS = set("\x1b\x9b\x07\x08\r\u202e")


def is_plain(text: str) -> bool:
    return not STEERS & set(text)


@pytest.mark.parametrize("text", ESCAPES.values(), ids=ESCAPES)
@pytest.mark.parametrize("where", ["a cell", "a heading", "a title", "a line"])
def test_a_console_shows_text_as_it_is_and_control_characters_visibly(where, text):
    stream = io.StringIO()
    console, table = (
        SafeConsole(width=200, file=stream),
        Table(title=text if where == "a title" else None),
    )
    table.add_column(text if where == "a heading" else "x")
    table.add_row(text if where == "a cell" else "y")
    console.print(text if where == "a line" else table)
    shown = stream.getvalue()
    assert is_plain(shown)
    if text.isprintable():
        assert "".join(text.split()) in "".join(shown.split())


@pytest.mark.parametrize("text", ESCAPES.values(), ids=ESCAPES)
def test_what_is_said_and_noted_is_plain(text, capfd):
    output.say(f"{text}\nsecond")
    output.note(text)
    out, err = capfd.readouterr()
    assert (
        is_plain(out) and is_plain(err) and out.endswith("\nsecond\n") and err.startswith("note: ")
    )


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_a_model_writes_is_visible_on_a_terminal_and_as_it_is_elsewhere(monkeypatch):
    text = "a\tb\nc\x1b[31m\x07\x9b\r\x7f\x00 \u4f60\u597d \U0001f600 \xa0."
    for stream, expected in ((io.StringIO(), text), (_Terminal(), visible(text))):
        monkeypatch.setattr(sys, "stdout", stream)
        output.write(text)
        assert stream.getvalue() == expected
    assert visible(text) == "a\tb\nc\\x1b[31m\\x07\\x9b\\r\\x7f\\x00 \u4f60\u597d \U0001f600 \xa0."


def test_data_is_made_printable_with_its_keys_and_keeps_its_newlines():
    assert printable_data({"\x1b": ["a\nb\x07", 1, None, ("\r",)]}) == {
        "\\x1b": ["a\nb\\x07", 1, None, ["\\r"]]
    }


@pytest.mark.parametrize("text", [ESCAPES["a colour"], ESCAPES["markup"]])
def test_runs_with_escapes_in_their_names_and_values_are_compared_without_them(
    text, trained, capfd
):
    for name, value in (("one", 1e-3), (text.replace("/", "_"), text)):
        run = Path(shutil.copytree(trained, name))
        config = yaml.safe_load((run / ".hydra/config.yaml").read_text())
        config["optimizer"]["lr"] = value
        (run / ".hydra/config.yaml").write_text(yaml.safe_dump(config))
    from firstlight.compare.command import compare, write_files
    from firstlight.compare.settings import CompareSettings
    from firstlight.compare.table import tables

    settings = CompareSettings(
        runs=["one", text.replace("/", "_")], metric="val/loss", weights="last", windows=0, accelerator="cpu",
        confidence=0.95, storage=None, out=None,
    )  # fmt: skip
    found = compare(settings)
    Path("out").mkdir()
    write_files(found, Path("out"))
    stream = io.StringIO()
    for table in tables(found):
        SafeConsole(width=200, file=stream).print(table)
    written = (
        stream.getvalue()
        + Path("out/compare.json").read_text()
        + Path("out/compare.html").read_text()
    )
    assert is_plain(written)
    if text.isprintable():
        assert text in stream.getvalue()
    assert is_plain("".join(capfd.readouterr()))


def test_a_run_folder_named_with_escapes_is_shown_without_them(trained, capfd):
    run = Path(shutil.copytree(trained, "run\x1b[31m"))
    assert main(["info", f"checkpoint='{run}'"]) == 0
    assert main(["info", f"checkpoint='{run}'", "format=json"]) == 0
    assert main(["train", f"resume='{run}'", "trainer.max_steps=3"]) == 0
    assert main(["train", f"resume='{run}'", "trainer.max_steps=2"]) == 2
    config = yaml.safe_load((run / ".hydra/config.yaml").read_text())
    (run / ".hydra/config.yaml").write_text(yaml.safe_dump({**config, "name": "${x}\x1b[31m"}))
    assert main(["train", f"resume='{run}'", "--cfg", "job"]) == 0
    out, err = capfd.readouterr()
    assert "run\\x1b[31m" in out and is_plain(out) and is_plain(err)
