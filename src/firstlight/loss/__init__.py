"""Training losses per token; evaluations measure plain cross-entropy whatever the loss."""
