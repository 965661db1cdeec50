"""A scaling ladder: sizes at equal compute, a prediction of the next, and whether it was right."""
