"""Is a loss one that training can lower?"""

from collections.abc import Collection

import torch
from torch import Tensor

from firstlight.loss.base import Loss
from firstlight.testing.properties import Broken, Property, check_all, must_agree

N_TOKENS, EMB_DIM, VOCAB_SIZE = 24, 8, 13
STEP = 3e-3
"""To both sides, for the gradient: large enough for differences of float32."""


def check_loss(
    loss: Loss, *, skip: Collection[str] = (), tolerance: float = 1e-4
) -> dict[str, str]:
    """Check that `loss` keeps the contract of `Loss`; returns what became of each property.

    Raises:
        AssertionError: a property does not hold.
    """
    case = _Case(loss, tolerance)
    properties = [
        Property("shape", case.shape, "Return one float32 number for each target, (N,)."),
        Property(
            "determinism",
            case.determinism,
            "A loss is a function of its arguments: draw nothing, and leave them as they are.",
        ),
        Property(
            "tokens apart",
            case.tokens_apart,
            "Batches are cut into parts: the loss of a token may depend on its own row alone.",
        ),
        Property(
            "gradient",
            case.gradient,
            "Training needs the true gradient of the loss, of hidden and output_weight.",
        ),
        Property(
            "bfloat16", case.bfloat16, "Compute in float32 (logits.float()) and return float32."
        ),
    ]
    return check_all(type(loss).__name__, properties, skip)


class _Case:
    def __init__(self, loss: Loss, tolerance: float) -> None:
        self.loss, self.tolerance = loss, tolerance
        # Its own, so that a check gives the same result wherever it is called.
        generator = torch.Generator().manual_seed(0)
        self.hidden = torch.randn(N_TOKENS, EMB_DIM, generator=generator)
        self.weight = torch.randn(VOCAB_SIZE, EMB_DIM, generator=generator)
        self.targets = torch.randint(VOCAB_SIZE, (N_TOKENS,), generator=generator)

    def of(self, hidden: Tensor, weight: Tensor, targets: Tensor | None = None) -> Tensor:
        return self.loss(hidden, weight, self.targets if targets is None else targets)

    def shape(self) -> None:
        losses = self.of(self.hidden, self.weight)
        if losses.shape != (N_TOKENS,):
            raise Broken(f"of {N_TOKENS} targets it returns a shape of {tuple(losses.shape)}")
        if losses.dtype != torch.float32:
            raise Broken(f"it returns {losses.dtype}")
        if not bool(losses.isfinite().all()):
            raise Broken(
                f"the loss of token {int((~losses.isfinite()).nonzero()[0])} is not finite"
            )

    def determinism(self) -> None:
        before, state = [self.hidden.clone(), self.weight.clone()], torch.get_rng_state()
        first, second = (self.of(self.hidden, self.weight) for _ in range(2))
        must_agree(second, first, 0, "called twice, token {place} has two losses")
        if not torch.equal(torch.get_rng_state(), state):
            raise Broken("it draws random numbers")
        for name, was, now in zip(
            ("hidden", "output_weight"), before, (self.hidden, self.weight), strict=True
        ):
            if not torch.equal(was, now):
                raise Broken(f"it writes into {name}")

    def tokens_apart(self) -> None:
        whole = self.of(self.hidden, self.weight)
        # Of unequal size, as the last batch of an epoch may be.
        for rows in (slice(0, 5), slice(5, N_TOKENS)):
            part = self.of(self.hidden[rows], self.weight, self.targets[rows])
            what = (
                f"tokens {rows.start} to {rows.stop - 1} alone have different losses, at {{place}}"
            )
            must_agree(part, whole[rows], self.tolerance, what)

    def gradient(self) -> None:
        """Along a random line, by differences; a loss may compute in float32 all the same."""
        leaves = [t.double().requires_grad_() for t in (self.hidden, self.weight)]
        weights = torch.linspace(0.5, 1.5, N_TOKENS, dtype=torch.float64)
        grads = torch.autograd.grad((self.of(*leaves) * weights).sum(), leaves, allow_unused=True)
        generator = torch.Generator().manual_seed(1)
        for number, (name, grad) in enumerate(zip(("hidden", "output_weight"), grads, strict=True)):
            if grad is None:
                raise Broken(f"{name} gets none")
            way = torch.randn(grad.shape, generator=generator, dtype=torch.float64)
            moved: list[float] = []
            for size in (STEP, -STEP):
                at = [leaf.detach() for leaf in leaves]
                at[number] = at[number] + size * way
                moved.append(float((self.of(*at).double() * weights).sum()))
            wanted, found = (moved[0] - moved[1]) / (2 * STEP), float((grad * way).sum())
            if abs(wanted - found) > 0.02 * max(float(grad.norm()), abs(wanted)):
                raise Broken(f"that of {name} is {found:.4g} along a line where it is {wanted:.4g}")

    def bfloat16(self) -> None:
        hidden, weight = self.hidden.bfloat16(), self.weight.bfloat16()
        losses = self.of(hidden, weight)
        if losses.dtype != torch.float32:
            raise Broken(f"of bfloat16 hidden states it returns {losses.dtype}")
        wanted = self.of(hidden.float(), weight.float())
        must_agree(losses, wanted, 0.05, "the loss of token {place} is far from that in float32")
