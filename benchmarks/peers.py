"""Code of other projects, loaded from a clone."""

import importlib.util
from pathlib import Path
from types import ModuleType


def load_nanogpt(folder: Path) -> ModuleType:
    """Import model.py from a clone of https://github.com/karpathy/nanoGPT."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
