"""Sweeps: many trials of one config, each in a process of its own, kept in a ledger that survives all of them."""

SWEEP, TRIAL = "FIRSTLIGHT_SWEEP", "FIRSTLIGHT_TRIAL"
"""Environment variables of a trial's processes: the folder of the sweep, and the number of the row."""
