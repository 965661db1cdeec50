"""Language models: ids (B, T) -> logits (B, T, V)."""
