"""Run folders: made, found, read. Nothing here needs torch."""
