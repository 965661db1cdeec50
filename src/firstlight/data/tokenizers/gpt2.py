"""GPT-2's own vocabulary (Radford et al. 2019), through tiktoken."""

import tiktoken

from firstlight.config import VocabSize
from firstlight.data.tokenizers.base import Tokenizer


class GPT2Tokenizer(Tokenizer):
    """50,257 ids; tiktoken downloads the vocabulary once (1.5 MB) and keeps it."""

    def __init__(self, *, vocab_size: VocabSize = 50257) -> None:
        self.vocab_size = vocab_size

    def build(self, documents: list[str]) -> tiktoken.Encoding:
        # tiktoken downloads with requests and passes on its errors.
        import requests

        try:
            return tiktoken.get_encoding("gpt2")
        except (requests.RequestException, OSError) as error:
            raise ValueError(
                "GPT-2's vocabulary (tiktoken's vocab.bpe and encoder.json) is not on this machine"
                f" and cannot be downloaded ({type(error).__name__}); set TIKTOKEN_CACHE_DIR to a"
                " folder that has it, or use tokenizer=bpe or tokenizer=bytes, which need no"
                " network"
            ) from error
