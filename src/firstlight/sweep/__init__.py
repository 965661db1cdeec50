"""Sweeps: many trials of one config, each in its own process, kept in a ledger.

The ledger survives the death of any of these processes.
"""
