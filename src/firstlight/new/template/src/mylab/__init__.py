"""Parts for firstlight."""
