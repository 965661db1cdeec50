"""Runs of a second, and metrics whose values a test decides."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def scripted_metrics_are_allowed(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("FIRSTLIGHT_ALLOW_TARGETS", "scripted")
