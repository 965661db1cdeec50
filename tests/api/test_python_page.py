"""Every block of docs/python.md, one after another, as a reader would try them."""

import re
from pathlib import Path

import matplotlib
import pytest

import firstlight

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)


def test_there_are_blocks():
    assert len(BLOCKS) == 8
    for code in BLOCKS:
        compile(code, str(PAGE), "exec")


@pytest.mark.long
def test_every_block_works(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for code in BLOCKS:
        exec(compile(code, str(PAGE), "exec"), names)
    said = capsys.readouterr().out
    assert "optimiser.lr: " in said and "'optimizer.lr'" in said
    assert names["again"].metrics["step"] == 30 and names["best"].score is not None
    assert matplotlib.get_backend() is not None


def test_every_public_name_is_in_the_documentation():
    pages = "".join(file.read_text(encoding="utf-8") for file in PAGE.parent.glob("*.md"))
    for name in firstlight._HOMES:
        if name not in ("Comparison", "Generated", "Trial"):  # what a function returns
            assert f"firstlight.{name}" in pages, name
