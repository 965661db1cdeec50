"""The Python API: what the verbs of the command line do, as functions that return objects."""
