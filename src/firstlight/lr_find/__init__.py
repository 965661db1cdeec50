"""The range test of the learning rate: a short run whose rate rises, and its loss."""
