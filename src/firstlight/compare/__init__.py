"""Runs beside each other: what differs, and whether it means anything."""
