"""The Python API: what the verbs of the command line do, as functions that return objects."""

import warnings

# In a notebook without ipywidgets tqdm warns when a library first imports this (pooch, Optuna).
# Its bars, those of downloads, are lines of text then, and nothing is wrong.
with warnings.catch_warnings(action="ignore"):
    import tqdm.auto  # noqa: F401
