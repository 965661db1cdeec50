"""In a Jupyter kernel: the bar, the figures, Ctrl-C, a second training; and the notebooks of the project."""

import json
import os
import shutil
from pathlib import Path

import pytest
from tiny_api import TINY

nbformat = pytest.importorskip("nbformat", reason="pip install nbclient ipykernel")
nbclient = pytest.importorskip("nbclient", reason="pip install nbclient ipykernel")
pytest.importorskip("ipykernel", reason="pip install nbclient ipykernel")

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NEEDS_NETWORK = "needs-network"
"""The tag of cells that a test leaves out."""
CELLS = [
    "import sys\nsys.modules['ipywidgets'] = None  # as if it were not installed",
    f"import firstlight\nrun = firstlight.train(**{TINY!r}, output_dir='first')",
    "run",
    "run.plot()",
    f"""
settings = {{"_target_": "stop_at.SignalAt", "batch": 2, "names": ["SIGINT"]}}
added = {{f"+callbacks.test.{{key}}": value for key, value in settings.items()}}
firstlight.train(**{TINY!r}, **added, output_dir='stopped')
""",
    "stopped = firstlight.Run('stopped')\nstopped.metrics['step']",
    "again = stopped.resume('~callbacks.test')",
    f"second = firstlight.train(**{TINY!r}, output_dir='second')",
    "[one.history()['val/loss'] == run.history()['val/loss'] for one in (again, second)]",
    "print(firstlight.load(run).generate('The lamp', max_new_tokens=4))",
]
INTERRUPTED = 4


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    """A function: execute a notebook, in a kernel with the environment of the tests."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "training"))
    monkeypatch.setenv("FIRSTLIGHT_ALLOW_TARGETS", "stop_at")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / ".jupyter"))

    def execute(notebook) -> None:
        resources = {"metadata": {"path": str(tmp_path)}}
        client = nbclient.NotebookClient(notebook, timeout=900, resources=resources)
        client.execute()

    return execute


def shown(cell, kind: str) -> list[str]:
    """What a cell has shown of a kind."""
    return [output.data[kind] for output in cell.outputs if kind in output.get("data", {})]


@pytest.mark.filterwarnings("default")
def test_a_kernel_shows_the_bar_and_figures_and_is_interrupted(kernel):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in CELLS])
    notebook.cells[INTERRUPTED].metadata["tags"] = ["raises-exception"]
    kernel(notebook)
    trained, run, figure, _, step, _, _, equal, text = notebook.cells[1:]
    bars = shown(trained, "text/html")
    assert len(bars) == 1 and bars[0].startswith('<progress value="4" max="4">')
    lines = "".join(output.text for output in trained.outputs if output.output_type == "stream")
    assert "train loss  val loss" in lines and "done: 4 steps" in lines
    assert "Warning" not in lines  # tqdm's, of ipywidgets
    assert "<img" in shown(run, "text/html")[0]
    assert len(shown(figure, "image/png")) == 1
    stopped = notebook.cells[INTERRUPTED].outputs
    errors = [output for output in stopped if output.output_type == "error"]
    assert [error.ename for error in errors] == ["Interrupted"]
    assert shown(step, "text/plain") == ["3"]
    assert shown(equal, "text/plain") == ["[True, True]"]
    assert text.outputs[0].text.startswith("The lamp")


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.name)
def test_a_notebook_is_kept_without_outputs(file):
    notebook = json.loads(file.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.long
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.name)
def test_a_notebook_runs_from_top_to_bottom(file, kernel, tmp_path, monkeypatch, request):
    monkeypatch.setenv("FIRSTLIGHT_CACHE_DIR", str(tmp_path / "cache"))
    if file.name == "the_book.ipynb":
        request.getfixturevalue("gpt2_vocabulary")
        (tmp_path / "cache").mkdir()
        shutil.copy(request.getfixturevalue("verdict"), tmp_path / "cache")
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    kept = []
    for cell in notebook.cells:
        if NEEDS_NETWORK not in cell.metadata.get("tags", []):
            kept.append(cell)
    assert len(notebook.cells) - len(kept) <= 2
    notebook.cells = kept
    kernel(notebook)
    assert os.listdir(tmp_path / "outputs")  # noqa: PTH208
