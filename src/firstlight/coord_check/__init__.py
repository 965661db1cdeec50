"""The coordinate check: whether layers put out as much, and move as far, at any width."""
