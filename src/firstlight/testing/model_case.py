"""A model that is checked, and the properties of it as a function of ids."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstlight.loss.cross_entropy import CrossEntropy
from firstlight.model.base import LanguageModel
from firstlight.model.contract import check_attributes, check_shapes
from firstlight.testing.properties import Broken, made_by, must_agree

NOISE = 0.05
"""Standard deviation of what is added to the first weights."""
LONGEST = 48
"""Tokens of a text, at most; the model's context if that is shorter."""


class ModelCase:
    """Models that `make` returns, all with the same weights, and ids for them."""

    def __init__(self, make: Callable[[], LanguageModel], tolerance: float) -> None:
        self.make, self.tolerance = make, tolerance

    def model(self, seed: int = 0) -> LanguageModel:
        """A new one in evaluation mode; its weights are the same for the same seed."""
        torch.manual_seed(seed)
        model = self.make().eval()
        # A generator of its own: how much a constructor draws must not decide the noise.
        generator = torch.Generator().manual_seed(seed)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.is_floating_point():
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter += NOISE * noise.to(parameter)
            if not bool(model(self.ids(model)).isfinite().all()):  # a parameter with a narrow range
                for parameter, was in zip(model.parameters(), before, strict=True):
                    parameter.copy_(was)
        return model

    def n_tokens(self, model: LanguageModel) -> int:
        """Tokens of a text."""
        return min(model.context_length, LONGEST)

    def ids(self, model: LanguageModel, n_rows: int = 3, seed: int = 0) -> Tensor:
        """Some ids (B, T)."""
        generator = torch.Generator().manual_seed(seed)
        shape = (n_rows, self.n_tokens(model))
        return torch.randint(model.vocab_size, shape, generator=generator)

    @torch.no_grad()
    def contract(self) -> None:
        model = made_by(self.make, LanguageModel).eval()
        try:
            check_attributes(model)
        except ValueError as error:
            raise Broken(str(error)) from None
        if model.context_length < 4:
            raise Broken(f"context_length is {model.context_length}: give make at least 4")
        # One token is decoding, two the shortest training, and the whole context the edge.
        for n_tokens in sorted({1, 2, self.n_tokens(model), model.context_length}):
            self._shapes(model, torch.zeros(2, n_tokens, dtype=torch.long))
        _check_registered(model)

    def _shapes(self, model: LanguageModel, ids: Tensor) -> None:
        try:
            check_shapes(model, ids, model.hidden(ids))
        except ValueError as error:
            raise Broken(str(error)) from None
        logits = model(ids)
        if logits.shape != (*ids.shape, model.vocab_size):
            raise Broken(f"for ids {tuple(ids.shape)} forward returns {tuple(logits.shape)}")
        if not bool(logits.isfinite().all()):
            raise Broken(f"logits of {ids.shape[1]} tokens are not finite")

    @torch.no_grad()
    def determinism(self) -> None:
        model = self.model()
        ids, others = self.ids(model), self.ids(model, seed=1)
        state = torch.get_rng_state()
        first = model(ids)
        must_agree(
            model(ids),
            first,
            0,
            "in evaluation mode two passes over one batch differ at {place}",
        )
        if not torch.equal(torch.get_rng_state(), state):
            raise Broken("in evaluation mode a pass draws random numbers")
        # A state on self would show only after another batch.
        model(others)
        must_agree(model(ids), first, 0, "logits depend on what was computed before, at {place}")
        must_agree(
            self.model()(ids), first, 0, "made twice from one seed, the models differ at {place}"
        )
        passes: list[Tensor] = []
        for _ in range(2):
            model = self.model().train()
            passes.append(_seeded(model, ids))
        must_agree(
            passes[1], passes[0], 0, "in training mode two passes from one seed differ at {place}"
        )

    @torch.no_grad()
    def causality(self) -> None:
        for is_training in (False, True):
            mode = "training" if is_training else "evaluation"
            model = self.model().train(is_training)
            ids = self.ids(model)
            wanted, n_tokens = _seeded(model, ids), ids.shape[1]
            # The first places and the last show a mask that is off by one, the middle all else.
            for place in sorted({1, 2, n_tokens // 2, n_tokens - 1}):
                changed = ids.clone()
                changed[:, place:] = (ids[:, place:] + 1) % model.vocab_size
                # A pass in training may change buffers: each is the first of its model.
                found = _seeded(self.model().train(is_training), changed)
                what = (
                    f"in {mode} mode other ids from place {place} on change the logits before it,"
                    " (row, place, id) = {place}"
                )
                must_agree(found[:, :place], wanted[:, :place], self.tolerance, what)
            if is_training:  # dropout draws other masks for other shapes
                continue
            for place in (1, n_tokens // 2):
                what = f"the logits of the first {place} tokens alone differ, at {{place}}"
                must_agree(model(ids[:, :place]), wanted[:, :place], self.tolerance, what)

    @torch.no_grad()
    def batch(self) -> None:
        model = self.model()
        ids = self.ids(model)
        together = model(ids)
        for row in range(len(ids)):
            what = f"row {row} of a batch has different logits than alone, at {{place}}"
            must_agree(together[row : row + 1], model(ids[row : row + 1]), self.tolerance, what)

    @torch.no_grad()
    def projection(self) -> None:
        model = self.model()
        ids = self.ids(model)
        hidden, logits = model.hidden(ids), model(ids)
        plain = F.linear(hidden, model.output_weight)
        what = "forward is not hidden @ output_weight.T at {place}"
        must_agree(logits, plain, self.tolerance, what)
        must_agree(
            model.project(hidden), plain, self.tolerance, "project is not that product at {place}"
        )
        # The loss never sees the logits (loss/base.py), so a scale in forward alone would be lost.
        targets = ids.roll(-1, dims=1).flatten()
        fused = CrossEntropy()(hidden.flatten(0, 1), model.output_weight, targets)
        wanted = F.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="none")
        what = "the fused loss is not that of the logits, token {place}"
        must_agree(fused, wanted, self.tolerance, what)


def _seeded(model: LanguageModel, ids: Tensor) -> Tensor:
    """Logits (B, T, V), with the same dropout for the same shape."""
    torch.manual_seed(1)
    return model(ids)


def _check_registered(model: nn.Module) -> None:
    """Refuse tensors that no module has registered: they would not move to another device.

    Raises:
        Broken: there is one.
    """
    for prefix, module in model.named_modules():
        # vars and not getattr: parameters and buffers are in dictionaries of their own there.
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                where = f"{prefix}.{name}".lstrip(".")
                raise Broken(
                    f"{where} is a tensor that is neither a parameter nor a buffer: use"
                    f" self.register_buffer({name!r}, ..., persistent=False)"
                )
