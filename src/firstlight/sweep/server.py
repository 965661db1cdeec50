"""Imported by the process from which trials are forked, before the first of them."""

from firstlight.sweep.preloaded import prepare

prepare()
