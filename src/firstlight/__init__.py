"""firstlight: pre-train small GPT language models from scratch as reproducible experiments."""

__version__ = "0.1.0"
