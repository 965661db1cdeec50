"""Text to batches: texts, tokenizers, windows, order."""
