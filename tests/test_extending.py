"""Every walk-through of docs/extending.md, as a reader would follow it, in a copy of the
checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
INTRODUCTION, *SECTIONS = re.split(r"^## ", PAGE, flags=re.M)
QUICK = (
    "trainer.max_steps=21 data.batch_size=2 data.eval_batches=1"
    " callbacks.sample_generation.max_new_tokens=3"
)
DRIVER = """
import os, shlex, sys
from firstlight.cli import main
for line in sys.stdin.read().splitlines():
    command, *words = shlex.split(line)
    if command == "export":
        os.environ.update(word.split("=") for word in words)
        sys.path.append(os.environ["PYTHONPATH"])
    else:
        assert main(words) == 0, line
"""


@pytest.mark.long
def test_every_walk_through_works(tmp_path):
    for folder in ("src", "conf"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "__init__.py").touch()
    commands = []
    for section in SECTIONS:
        files = re.findall(
            r"^`((?:src|conf|mylab|myconf)/\S+)`[^\n]*\n\n```\w+\n(.*?)^```",
            section,
            flags=re.M | re.S,
        )
        assert len(files) == 2, f"one .py and one .yaml: {section.splitlines()[0]}"
        for name, text in files:
            assert not (tmp_path / name).exists(), (
                f"{name} is there already: choose another example"
            )
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        commands += re.findall(r"^```sh\n(.*?)\n```", section, flags=re.M | re.S)
    assert len(commands) == len(SECTIONS) == 10
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path / "src"),
        "FIRSTLIGHT_CACHE_DIR": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",  # other tests run beside this
    }
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input="\n".join(f"{line} {QUICK}" if " train " in line else line for line in commands),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [(name, text)] = re.findall(
        r"^`(tests/\S+)`\n\n```python\n(.*?)^```", INTRODUCTION, flags=re.M | re.S
    )
    (tmp_path / "tests").mkdir()
    (tmp_path / name).write_text(text, encoding="utf-8")
    checked = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", name],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.splitlines()[0])
def test_examples_are_formatted_as_the_project_is(section):
    for code in re.findall(r"^```python\n(.*?)^```", section, flags=re.M | re.S):
        ruff = [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--stdin-filename",
            str(ROOT / "src" / "example.py"),
            "-",
        ]
        checked = subprocess.run(ruff, input=code, capture_output=True, text=True, cwd=ROOT)
        assert checked.returncode == 0, checked.stdout
