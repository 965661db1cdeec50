"""Runs of a tiny model, made by the API in a folder of their own."""

import pytest
from tiny_api import TINY

import firstlight


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> dict:
    """Settings of a tiny run; the working folder is an empty one."""
    monkeypatch.chdir(tmp_path)
    return TINY


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> firstlight.Run:
    """A run of these settings, to be looked at."""
    folder = tmp_path_factory.mktemp("api") / "run"
    return firstlight.train(**TINY, output_dir=folder)
