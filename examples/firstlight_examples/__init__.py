"""Three models for firstlight, in a package of their own."""
