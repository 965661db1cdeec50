"""Properties of a model in training, and on its way through a checkpoint."""

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstlight.checkpoints.checkpoint import Checkpoint, load_weights
from firstlight.checkpoints.model_file import read_model_file, save_model_file
from firstlight.errors import one_line
from firstlight.model.base import LanguageModel
from firstlight.model.construction import check_made_again, outline_of, without_weights
from firstlight.testing.model_case import ModelCase
from firstlight.testing.properties import Broken, difference

BATCHES = 8
"""Each parameter must matter for one of this many batches and draws of weights: an expert may not
be needed in the first."""
SAME = 1e-5
"""How far logits may be apart after loading: at another place in memory, weights may be added up in
another order."""
IN_BFLOAT16 = 0.3
"""How far logits in bfloat16 may be from those in float32: 8 bits, in every layer."""


class ModelInTraining:
    """The model of `case` in training."""

    def __init__(self, case: ModelCase) -> None:
        self.case = case

    def loss(self, model: LanguageModel, seed: int = 0) -> Tensor:
        """What training lowers, of a batch."""
        ids = self.case.ids(model, seed=seed)
        hidden, auxiliary = model.hidden_and_auxiliary_loss(ids)
        logits = F.linear(hidden, model.output_weight).flatten(0, 1).float()
        loss = F.cross_entropy(logits, ids.roll(-1, dims=1).flatten())
        return loss if auxiliary is None else loss + auxiliary

    def gradient(self) -> None:
        missing: set[str] = set()
        # Another draw of weights each time: an activation that is zero for all inputs of one draw
        # is not for those of the next.
        for seed in range(BATCHES):
            model = self.case.model(seed).train()
            if seed == 0:
                missing = {name for name, p in model.named_parameters() if p.requires_grad}
            if not missing:
                raise Broken("no parameter requires a gradient")
            loss = self.loss(model, seed)
            if loss.dim() != 0 or not bool(loss.isfinite()):
                raise Broken(f"the loss of a batch is {loss.detach()}, not a finite number")
            loss.backward()
            for name, parameter in model.named_parameters():
                if parameter.grad is None:
                    continue
                if not bool(parameter.grad.isfinite().all()):
                    raise Broken(f"that of {name} is not finite")
                if bool(parameter.grad.any()):
                    missing.discard(name)
            if not missing:
                return
        first, more = sorted(missing)[0], len(missing) - 1
        others = f" (nor {more} others)" if more else ""
        raise Broken(f"none reaches {first}{others}, in {BATCHES} batches")

    def save_and_load(self) -> None:
        try:
            outline = outline_of(without_weights(self.case.make))
            check_made_again(outline, self.case.make())
        except ValueError as error:
            raise Broken(one_line(error)) from None
        model = self.case.model()
        # Before and after training: a buffer may change only in training.
        self._must_survive(model, "saved and loaded")
        model.train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        for seed in range(2):
            optimizer.zero_grad()
            self.loss(model, seed).backward()
            optimizer.step()
        self._must_survive(model.eval(), "trained for two steps, saved and loaded")

    @torch.no_grad()
    def _must_survive(self, model: LanguageModel, when: str) -> None:
        """Compare `model` with what a checkpoint of it becomes.

        Raises:
            Broken: its logits differ.
        """
        loaded = loaded_again(self.case, model)
        ids = self.case.ids(model)
        size, place = difference(loaded(ids), model(ids))
        if size > SAME:
            raise Broken(
                f"{when}, the logits differ, at {place} by {size:.2g} of how much they vary"
                f"{_suspect(model, loaded)}"
            )

    @torch.no_grad()
    def bfloat16(self) -> None:
        model = self.case.model()
        ids = self.case.ids(model)
        wanted = model(ids)
        with torch.autocast("cpu", torch.bfloat16):
            _must_be_near(model(ids), wanted, "under autocast")
        model.bfloat16()
        found = model(ids)
        if found.dtype != torch.bfloat16:
            raise Broken(f"after model.bfloat16() the logits are {found.dtype}")
        _must_be_near(found, wanted, "after model.bfloat16()")


def _must_be_near(found: Tensor, wanted: Tensor, when: str) -> None:
    """Compare logits on the whole: at some places a model may decide otherwise, as experts do.

    Raises:
        Broken: they are far apart.
    """
    apart = float((found.float() - wanted).square().mean().sqrt() / wanted.std())
    if not apart <= IN_BFLOAT16:  # also if it is nan
        raise Broken(
            f"{when} the logits are far from those in float32 (root mean square {apart:.2g}, in"
            f" units of how much they vary; {IN_BFLOAT16} is allowed)"
        )


def loaded_again(case: ModelCase, model: LanguageModel) -> LanguageModel:
    """What a checkpoint of `model` becomes, as every command builds it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        # Through the real functions and a real file, not a copy of the state dict in memory.
        save_model_file(model.state_dict(), path, config={}, tokenizer=None)
        weights = read_model_file(path).weights
    loaded = without_weights(case.make)
    load_weights(loaded, Checkpoint(path, weights, {}, None, step=None), assign=True)
    return loaded.eval()


def _suspect(model: nn.Module, loaded: nn.Module) -> str:
    """The first buffer that differs after loading, in words."""
    twins = dict(loaded.named_buffers())
    for name, buffer in model.named_buffers():
        if name not in twins or not torch.equal(buffer, twins[name]):
            return f": the buffer {name} differs, because it is not persistent and has changed"
    return ": something that is neither a parameter nor a buffer has been lost"
