"""Weights from files and into files, nothing of which is ever executed."""
