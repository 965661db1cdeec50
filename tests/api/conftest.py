"""Runs of a tiny model, made by the API in a folder of their own."""

import pytest

import firstlight

TINY = {
    "tokenizer": "bytes",
    "model": {"emb_dim": 16, "n_layers": 1, "n_heads": 2, "context_length": 16},
    "data": {"batch_size": 2, "eval_batches": 2},
    "scheduler": {"warmup_steps": 1},
    "trainer": {"max_steps": 4, "eval_every_n_steps": 2, "log_every_n_steps": 1},
    "callbacks": {"sample_generation": {"max_new_tokens": 4}},
}
"""Settings of a run that takes a moment."""


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
