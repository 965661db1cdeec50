"""Imports point down only, from entry points to errors, in the order of LAYERS."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "firstlight"
LAYERS = (
    {"errors"},
    {"output", "console"},
    {"files", "processes", "process_group"},
    {"lock"},
    {"interpolation"},
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
    {"verify", "bench", "sweep"},
    {"compare"},
    {"verbs"},
    {"cli"},
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


FILES = [
    file
    for file in sorted(SOURCE.rglob("*.py"))
    if file.parent != SOURCE or file.name != "__init__.py"
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


def test_a_decoder_or_a_callback_never_depends_on_one_model():
    users = [f for part in ("decoding", "training", "data") for f in (SOURCE / part).rglob("*.py")]
    assert not [
        f for f in users if imports_of(f) & {"firstlight.model.gpt", "firstlight.model.modern"}
    ]
