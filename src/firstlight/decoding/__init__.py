"""From logits to text: decoding strategies, filters, and the loop that feeds tokens back."""
