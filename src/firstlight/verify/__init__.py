"""Does a run that is killed and resumed become the run that was never killed? Tried on a config of
the user's.
"""
