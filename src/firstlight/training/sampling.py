"""A sample of the model that is being trained."""

from dataclasses import dataclass

from firstlight.data.tokenizers.base import Tokenizer
from firstlight.decoding.base import Decoding
from firstlight.training.trainer import Trainer


@dataclass(frozen=True)
class Sample:
    """A prompt, and how the model has continued it."""

    text: str
    """Both, up to the end of the text."""
    new_ids: list[int]
    """Of the continuation, without the id that ended it."""


def sample(
    trainer: Trainer, decoding: Decoding, prompt: str, *, max_new_tokens: int, seed: int = 0
) -> str:
    """The prompt and its continuation by the model as it is now, in the precision of the run.

    Training is not affected: the draws come from a generator of their own, seeded with `seed`.
    """
    return continued(trainer, decoding, prompt, max_new_tokens=max_new_tokens, seed=seed).text


def continued(
    trainer: Trainer, decoding: Decoding, prompt: str, *, max_new_tokens: int, seed: int = 0
) -> Sample:
    """The same as `sample`, with the ids of the continuation."""
    module = trainer.lightning_module
    tokenizer: Tokenizer = module.data.tokenizer  # type: ignore[assignment]
    ids = tokenizer.encode(prompt)
    with trainer.precision_plugin.forward_context():
        [[continuation]] = decoding.generate(
            module.model,  # type: ignore[arg-type]
            [ids],
            max_new_tokens=max_new_tokens,
            eos_id=tokenizer.end_of_text,
            seeds=[seed],
            unused=tokenizer.without_token(module.model.vocab_size),  # type: ignore[arg-type]
        )
    text = tokenizer.decode_document(ids + continuation.ids)
    return Sample(text, [i for i in continuation.ids if i != tokenizer.end_of_text])
