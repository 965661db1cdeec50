"""Tokenizers, all of them built on `tiktoken.Encoding`."""
