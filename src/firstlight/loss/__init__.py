"""Training losses, token by token. Evaluation always measures plain cross-entropy as well."""
