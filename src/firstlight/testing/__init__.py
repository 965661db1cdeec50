"""Checks of your own parts: each raises one AssertionError that says what does not hold.

In a test of pytest, or anywhere else: `check_model(lambda: MyModel(vocab_size=64, ...))`.
"""

from firstlight.testing.decoding import check_decoding
from firstlight.testing.loss import check_loss
from firstlight.testing.metric import check_metric
from firstlight.testing.model import check_model
from firstlight.testing.optimizer import check_optimizer
from firstlight.testing.schedule import check_schedule
from firstlight.testing.tokenizer import check_tokenizer

__all__ = [
    "check_decoding",
    "check_loss",
    "check_metric",
    "check_model",
    "check_optimizer",
    "check_schedule",
    "check_tokenizer",
]
