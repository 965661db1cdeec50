"""Does killing and resuming a run change it? Tried on the user's own config."""
