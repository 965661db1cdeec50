"""Our checkpoints: a folder, its manifest, its files, nothing of which is ever executed."""
