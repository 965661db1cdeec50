"""docs/environment.md names every environment variable that firstlight reads, sets or mentions."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
SOURCE = sorted((ROOT / "src").rglob("*.py"))
TEXTS = [
    *SOURCE,
    *(ROOT / "conf").rglob("*.yaml"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "examples").rglob("*.md"),
    *(ROOT / "src" / "firstlight" / "new" / "template").rglob("*.md"),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "Makefile",
]
KNOWN = re.compile(
    r"\b(?:FIRSTLIGHT|TIKTOKEN|HF|WANDB|MLFLOW|HYDRA|OPTUNA|SLURM|OMP|MKL|CUDA|ATEN|PYTHON|XDG)"
    r"_?[A-Z_]*[A-Z]\b"
)
NO_VARIABLES = {"CUDA", "MLFLOW", "HYDRA", "SLURM", "WANDB", "PYTHON", "HFLM", "HFS", "HF"}
OF_ENVIRON = ("get", "pop", "setdefault")
OF_OURS = ("given", "number")  # of processes.py
ANY = {"name", "key"}  # over tables whose texts stand in the source; what a config looks up


def constants() -> dict[str, str]:
    """The texts that are assigned to names in capitals, anywhere in the source."""
    found: dict[str, str] = {}
    for file in SOURCE:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Assign):
                continue
            for target in node.targets:
                many = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                pairs = (
                    zip(target.elts, node.value.elts, strict=True)
                    if many
                    else [(target, node.value)]
                )
                for name, value in pairs:
                    is_text = isinstance(value, ast.Constant) and isinstance(value.value, str)
                    if isinstance(name, ast.Name) and is_text:
                        found.setdefault(name.id, value.value)
    return found


def is_environ(node: ast.expr) -> bool:
    return ast.unparse(node) in ("os.environ", "environ", "environment")


def accessed(file: Path) -> list[ast.expr]:
    """What stands for the name of a variable, at each place that reads or sets one."""
    found: list[ast.expr] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Subscript) and is_environ(node.value):
            found.append(node.slice)
        elif isinstance(node, ast.Compare) and is_environ(node.comparators[0]):
            found.append(node.left)
        elif isinstance(node, ast.Call) and node.args:
            owner, _, method = ast.unparse(node.func).rpartition(".")
            is_ours = owner in ("", "processes") and method in OF_OURS
            if is_ours or (owner == "os.environ" and method in OF_ENVIRON):
                found.append(node.args[0])
    return found


def test_every_variable_that_the_source_reads_or_sets_is_on_the_page():
    texts, missing, unknown = constants(), set(), set()
    for file in SOURCE:
        for node in accessed(file):
            name = ast.unparse(node).rpartition(".")[2]
            value = node.value if isinstance(node, ast.Constant) else texts.get(name)
            if value is None and name not in ANY:
                unknown.add(f"{file.relative_to(ROOT)}: {name}")
            elif isinstance(value, str) and value.isupper() and f"`{value}`" not in PAGE:
                missing.add(value)
    assert (missing, unknown) == (set(), set())


def test_the_search_finds_what_is_read():
    found = {ast.unparse(node) for file in SOURCE for node in accessed(file)}
    assert {
        "SWEEP",
        "FOUND_RUN",
        "'FIRSTLIGHT_CACHE_DIR'",
        "'SLURM_JOB_ID'",
        "URLS",
        "TOLD",
    } <= found


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_variable_that_a_text_mentions_is_on_the_page(file):
    mentioned = set(KNOWN.findall(file.read_text(encoding="utf-8"))) - NO_VARIABLES
    assert {name for name in mentioned if not re.search(rf"`{name}\b", PAGE)} == set()


def test_the_page_names_none_that_is_gone():
    source = "".join(file.read_text(encoding="utf-8") for file in SOURCE)
    assert [
        name for name in re.findall(r"`(FIRSTLIGHT_[A-Z_]+)`", PAGE) if name not in source
    ] == []
