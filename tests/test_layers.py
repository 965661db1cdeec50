"""Imports point down only, from entry points to errors, in the order of LAYERS."""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "firstlight"
LAYERS = (
    {"errors", "private"},
    {"output", "statistics", "dial", "memorisation"},
    {"console"},
    {"help_page"},
    {"files", "processes", "process_group", "memory_limits"},
    {"lock", "launchers"},
    {"interpolation", "packages"},
    {"conf_files"},
    {"overrides"},
    {"config"},
    {"model"},
    {"data", "decoding", "loss", "metrics", "optim"},
    {"checkpoints"},
    {"foreign"},
    {"runs", "sources", "testing"},
    {"training"},
    {"compose"},
    {"lm_eval"},
    {"commands"},
    {"verify", "bench", "sweep", "new", "prepare", "board"},
    {"compare", "plan", "lr_find", "coord_check", "ladder"},
    {"verbs"},
    {"completion"},
    {"cli"},
    {"api"},
    {"__main__"},
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def part_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(file: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            assert node.module is not None
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules


TEMPLATE = SOURCE / "new" / "template"  # another project's files, once they are written
FILES = [
    file
    for file in sorted(SOURCE.rglob("*.py"))
    if file != SOURCE / "__init__.py" and not file.is_relative_to(TEMPLATE)
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_down_only(file: Path):
    own = part_of(file)
    for module in imports_of(file):
        if module.startswith("firstlight.") and module.split(".")[1] in RANK:
            other = module.split(".")[1]
            assert other == own or RANK[other] < RANK[own], (
                f"{file.relative_to(SOURCE)} ({own}) imports {module}"
            )


def test_no_private_module_of_hydras_is_imported():
    assert [
        file for file in FILES if any(module.startswith("hydra._") for module in imports_of(file))
    ] == []


HOMES_OF_PRIVATE_PLACES = {"private.py", "training/lightning.py"}
PRIVATE_BUT_DOCUMENTED = {"torch.utils._pytree", "torch.utils._python_dispatch", "_exit"}
ELSEWHERE = {
    "lm_eval/tasks.py: lm_eval.tasks._yaml_loader",  # an extra of its own, with tests of its own
}


def private_places_of(file: Path, ours: set[str]) -> set[str]:
    """Private names of libraries that a file uses; an operator of torch is named by its schema."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr):
            if not (node.attr in ours or ast.unparse(node).startswith("torch.ops.")):
                found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and re.search(r"(^|\.)_[^_]", node.module or ""):
            found.add(str(node.module))
    return found - PRIVATE_BUT_DOCUMENTED


def private_names_of_ours() -> set[str]:
    names: set[str] = set()
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            is_set = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif is_set and ast.unparse(node.value) == "self":
                names.add(node.attr)
    return names


def test_private_places_of_libraries_stand_in_two_files():
    ours, found = private_names_of_ours(), set()
    for file in FILES:
        name = str(file.relative_to(SOURCE))
        if name not in HOMES_OF_PRIVATE_PLACES:
            found |= {f"{name}: {place}" for place in private_places_of(file, ours)}
    assert found == ELSEWHERE


def test_a_decoder_or_a_callback_never_depends_on_one_model():
    users = [f for part in ("decoding", "training", "data") for f in (SOURCE / part).rglob("*.py")]
    assert not [
        f for f in users if imports_of(f) & {"firstlight.model.gpt", "firstlight.model.modern"}
    ]
