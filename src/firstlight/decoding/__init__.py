"""From logits to text: decoding strategies, filters of logits, and the loop that feeds tokens
back."""
