"""Metrics of evaluations: numbers summed over batches, and a value computed from the sums."""
