"""Memory: what a run needs, what there is, and batches in parts that fit."""
