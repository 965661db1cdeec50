"""Tokens on disk: llm.c's `.bin` files, what stands beside them, and training from them."""
