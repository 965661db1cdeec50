"""From logits to text: strategies, the filters they are made of, and the loop that feeds tokens back."""
