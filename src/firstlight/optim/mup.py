"""muP, the maximal update parametrization (Yang et al. 2022, "Tensor Programs V").

That of their table 8, in which the embedding and the output matrix may share one tensor, for a
model k times as wide as the one whose learning rate is taken. With Adam each number of a gradient
moves its weight by about the learning rate. So a hidden matrix, whose products are sums over k
times as many terms that agree, gets 1 / k of the rate; its first weights, of which k times as many
independent ones are added up, get 1 / sqrt(k) of their size. The logits are multiplied by 1 / k: by
the gain of the last norm, which changes neither the passes of the model nor what is exported.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import optim
from torch.optim import Optimizer

from firstlight.errors import ConfigError
from firstlight.model.base import LanguageModel
from firstlight.model.width import WidthParts
from firstlight.optim.groups import split
from firstlight.optim.muon import MuonAdamW
from firstlight.optim.parametrization import Parametrization


class MuP(Parametrization):
    """At `base_width` nothing changes; at k times that width rates and first weights do.

    The width of a head stays, so attention keeps its factor 1 / sqrt(head width).
    """

    def __init__(self, *, base_width: Annotated[int, Field(gt=0, le=2**16)] = 64) -> None:
        self.base_width = base_width

    @torch.no_grad()
    def begin(self, model: LanguageModel) -> None:
        """See `Parametrization.begin`.

        Raises:
            ConfigError: see `_parts_of`.
        """
        parts, k = self._parts_of(model)
        for parameter in parts.hidden:
            parameter.mul_(k**-0.5)
        for parameter in parts.last_norm:
            parameter.mul_(1 / k)

    def adapt(self, optimizer: Optimizer, model: LanguageModel) -> None:
        """See `Parametrization.adapt`.

        Raises:
            ConfigError: it is neither AdamW nor Muon with AdamW; or see `_parts_of`.
        """
        if not isinstance(optimizer, optim.AdamW | MuonAdamW):
            raise ConfigError(
                f"parametrization: muP is not defined here for {type(optimizer).__name__}, only for"
                " AdamW and Muon; take optimizer=adamw, or leave parametrization out"
            )
        parts, k = self._parts_of(model)
        if k == 1:
            return
        # All gradients but that of the last norm are 1 / k as large, and so must be what AdamW adds
        # to them. Muon divides by the norm of the whole matrix, which stays.
        for group in optimizer.param_groups:
            if "ns_steps" not in group:
                group["eps"] /= k
        groups_of_muon = [group for group in optimizer.param_groups if "ns_steps" in group]
        of_muon = {parameter for group in groups_of_muon for parameter in group["params"]}
        hidden = set(parts.hidden)
        # The product of rate and weight decay stays, and with it the number of steps over which the
        # weights are an average (Wang & Aitchison 2024).
        split(optimizer, hidden - of_muon, {"lr": 1 / k, "weight_decay": k})
        # Muon's step has singular values of one size: those of a hidden matrix must stay (Yang et
        # al. 2023, "A spectral condition for feature learning"), and match_rms_adamw multiplies
        # them by 0.2 * sqrt(max(rows, columns)).
        split(optimizer, hidden & of_muon, {"lr": k**-0.5, "weight_decay": k**0.5})
        split(optimizer, set(parts.last_norm), {"lr": 1 / k, "weight_decay": k, "eps": k})

    def describe(self, model: LanguageModel) -> str:
        parts, k = self._parts_of(model)
        heads = f", heads {parts.head_width} wide at both" if parts.head_width > 1 else ""
        return f"muP, {k:g} x the width of {self.base_width}{heads}"

    def _parts_of(self, model: LanguageModel) -> tuple[WidthParts, float]:
        """The parameters that follow the width of `model`, and how many times the base's it is.

        Raises:
            ConfigError: the model does not say which those are, or its heads do not fit the base.
        """
        try:
            parts = model.width_parts()
        except ValueError as error:
            raise ConfigError(f"parametrization: {error}") from error
        if self.base_width % parts.head_width:
            raise ConfigError(
                f"parametrization.base_width ({self.base_width}) must be a multiple of the width of"
                f" a head ({parts.head_width}): heads are as wide at every width, and a wider model"
                " has more of them (model.n_heads)"
            )
        return parts, model.output_weight.shape[1] / self.base_width
