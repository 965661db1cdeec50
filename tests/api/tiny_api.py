"""Settings of a tiny run, and what of a run is the same on every machine."""

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
NOT_THE_SAME = ("tokens_per_second", "mfu")
"""Columns that measure this machine."""


def numbers(run: firstlight.Run) -> dict:
    return {name: column for name, column in run.history().items() if name not in NOT_THE_SAME}
