"""What training lowers, token by token. Evaluation always measures the plain cross-entropy beside it."""
