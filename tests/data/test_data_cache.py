"""Caches save time: where there is none, or it cannot be used, nothing else changes."""

import atexit
import os
from pathlib import Path

import pytest

from firstlight.data import cache
from firstlight.data.tokenizers.bpe import BPETokenizer


@pytest.fixture
def homeless(monkeypatch):
    """A user without HOME, whom the system does not know."""
    import pwd

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "FIRSTLIGHT_CACHE_DIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    cache._temporary.cache_clear()
    yield
    cache._temporary.cache_clear()


@pytest.mark.parametrize("home", [None, "", "here"])
def test_without_a_home_the_cache_is_temporary_and_said(homeless, home, monkeypatch, capsys):
    if home is not None:
        monkeypatch.setenv("HOME", home)
    removals = []
    monkeypatch.setattr(atexit, "register", lambda *call, **_: removals.append(call))
    folder = cache.cache_dir()
    assert folder.is_absolute() and folder.is_dir() and cache.cache_dir() == folder
    assert capsys.readouterr().err.count("set FIRSTLIGHT_CACHE_DIR") == 1
    [(remove, place)] = removals
    remove(place)
    assert not folder.exists()


def test_a_home_in_the_name_of_the_cache_is_followed(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("FIRSTLIGHT_CACHE_DIR", "~/cache")
    assert cache.cache_dir() == Path("/home/somebody/cache")


def test_a_relative_xdg_cache_home_is_not_believed(monkeypatch):
    monkeypatch.delenv("FIRSTLIGHT_CACHE_DIR")
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert cache.cache_dir().is_absolute()


@pytest.mark.parametrize("name", [os.devnull, "/proc", "x" * 300])
def test_a_cache_that_cannot_be_read_or_written_changes_nothing(name, monkeypatch):
    monkeypatch.setenv("FIRSTLIGHT_CACHE_DIR", name)
    tokenizer = BPETokenizer(vocab_size=260)
    tokenizer.fit(["the lamp, the lamp, the lamp"])
    assert tokenizer.encoding.n_vocab == 260
