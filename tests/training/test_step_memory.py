"""The memory of a step from shapes alone is that of real steps."""

from functools import partial

import pytest
import torch

from firstlight.loss.base import losses_of
from firstlight.loss.cross_entropy import CrossEntropy
from firstlight.model.gpt import GPT
from firstlight.model.modern import ModernGPT
from firstlight.optim.adamw import adamw
from firstlight.optim.muon import muon
from firstlight.training.activation_checkpointing import checkpoint_activations
from firstlight.training.memory.held import Held
from firstlight.training.memory.step import step_memory

SIZES = {"vocab_size": 300, "context_length": 64, "emb_dim": 64, "n_heads": 4, "n_layers": 2}
GPT_DROPOUT = partial(GPT, **SIZES, drop_rate=0.1, dropout="fast")
MODERN = partial(ModernGPT, **SIZES, n_kv_heads=2)
LENGTH, WINDOWS = 64, 4


def of_real_steps(make, make_optimizer, precision, n_parts, *, is_checkpointed=False):
    """Bytes that the second of two steps holds at its peak, weights included."""
    model = make().train()
    if is_checkpointed:
        checkpoint_activations(model)
    weights = sum(4 * p.numel() for p in model.parameters())
    optimizer = make_optimizer(model)
    ids = torch.zeros(WINDOWS, LENGTH, dtype=torch.int64)
    with Held() as held:
        for _ in range(2):
            held.most = held.now
            for _ in range(n_parts):
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                    hidden = model.hidden(ids).flatten(0, 1)
                    loss = losses_of(CrossEntropy(), hidden, model.output_weight, ids.flatten())
                del hidden
                loss.mean().backward()
                del loss
            optimizer.step()
            optimizer.zero_grad()
    return weights + held.most


@pytest.mark.parametrize(
    ("make", "make_optimizer", "precision", "n_parts"),
    [
        (GPT_DROPOUT, adamw, "32-true", 1),
        (GPT_DROPOUT, adamw, "bf16-mixed", 2),
        (MODERN, muon, "32-true", 2),
        (MODERN, adamw, "bf16-mixed", 1),
    ],
    ids=["dropout", "bfloat16 in parts", "Muon in parts", "grouped queries in bfloat16"],
)
def test_the_peak_is_that_of_real_steps(make, make_optimizer, precision, n_parts):
    make_optimizer = partial(make_optimizer, lr=1e-3)
    found = step_memory(
        make,
        CrossEntropy(),
        make_optimizer,
        precision=precision,
        context_length=LENGTH,
        n_windows=WINDOWS,
        n_parts=n_parts,
    )
    assert found is not None
    real = of_real_steps(make, make_optimizer, precision, n_parts)
    # Not to the byte: a kernel's scratch, and numbers of a few bytes.
    assert found.peak == pytest.approx(real, rel=0.02)
    assert found.peak == sum(found.parts.values())
    assert found.weights == found.gradients == sum(4 * p.numel() for p in make().parameters())


def test_each_further_window_takes_as_much_as_the_one_before():
    few, more, most = (
        step_memory(
            MODERN,
            CrossEntropy(),
            partial(adamw, lr=1e-3),
            precision="bf16-mixed",
            context_length=LENGTH,
            n_windows=n,
            n_parts=2,
        )
        for n in (8, 12, 16)
    )
    assert most.of_pass - more.of_pass == pytest.approx(more.of_pass - few.of_pass, rel=0.02)


def test_what_is_computed_again_is_not_kept():
    ask = partial(
        step_memory,
        GPT_DROPOUT,
        CrossEntropy(),
        partial(adamw, lr=1e-3),
        precision="32-true",
        context_length=LENGTH,
        n_windows=WINDOWS,
    )
    kept, again = ask(), ask(activation_checkpointing=True)
    real = of_real_steps(GPT_DROPOUT, partial(adamw, lr=1e-3), "32-true", 1, is_checkpointed=True)
    assert again.peak == pytest.approx(real, rel=0.02)
    assert again.activations < kept.activations / 2


class Curious(GPT):
    def hidden(self, ids, cache=None):
        hidden = super().hidden(ids, cache)
        return hidden * float(hidden.sum() > 0)


def test_of_a_model_that_looks_at_numbers_the_memory_is_not_known():
    assert (
        step_memory(
            partial(Curious, **SIZES),
            CrossEntropy(),
            partial(adamw, lr=1e-3),
            precision="32-true",
            context_length=LENGTH,
            n_windows=1,
        )
        is None
    )
