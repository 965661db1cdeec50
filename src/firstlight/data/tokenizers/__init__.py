"""Tokenizers, every one a `tiktoken.Encoding`."""
