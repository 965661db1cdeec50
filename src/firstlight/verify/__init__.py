"""Does a run that is killed and continued become the run that was never killed? Tried on a config of the user's."""
