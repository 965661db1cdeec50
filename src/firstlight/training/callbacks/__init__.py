"""What happens around training; no callback changes its numbers."""
