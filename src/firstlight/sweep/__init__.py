"""Sweeps: many trials of one config, each in a process of its own, kept in a ledger that survives
all of them.
"""
