"""Steps whose loss or gradient is nan or inf: skipped, reported, and too many end the run."""
