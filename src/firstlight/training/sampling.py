"""A sample of the model that is being trained."""

from firstlight.data.tokenizers.base import Tokenizer
from firstlight.decoding.base import Decoding
from firstlight.training.trainer import Trainer


def sample(
    trainer: Trainer, decoding: Decoding, prompt: str, *, max_new_tokens: int, seed: int = 0
) -> str:
    """The prompt and its continuation by the model as it is now, in the precision of the run.

    Training is not affected: the draws come from a generator of their own, seeded with `seed`.
    """
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
    return tokenizer.decode_document(ids + continuation.ids)
