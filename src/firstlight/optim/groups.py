"""Parts of an optimizer's groups that get settings of their own."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

PER_PARAMETER = ("params", "param_names")
"""The keys of an optimizer's group that are lists with one element per parameter."""


def split(
    optimizer: Optimizer, parameters: Collection[nn.Parameter], factors: Mapping[str, float]
) -> None:
    """Move `parameters`, a set, from each group to a new one, whose settings are multiplied.

    `factors` are those of the settings, such as `lr`. The new groups come after the optimizer's:
    its first group, which may be left without parameters, keeps the schedule's rate.
    """
    for group in list(optimizer.param_groups):
        is_moved = [parameter in parameters for parameter in group["params"]]
        if not any(is_moved):
            continue
        moved = {
            key: list(value) if key in PER_PARAMETER else value for key, value in group.items()
        }
        keep(moved, is_moved)
        keep(group, [not moves for moves in is_moved])
        # With a rate of its own from the start: LambdaLR takes it for the group's base rate, so
        # each step's is the schedule's times the factor.
        scaled = {key: group[key] * factor for key, factor in factors.items()}
        optimizer.add_param_group(moved | scaled)


def keep(group: dict[str, Any], kept: Sequence[bool]) -> None:
    """Drop from a group, in place, the parameters that are not `kept`."""
    for key in PER_PARAMETER:
        if key in group:
            group[key][:] = [value for value, stays in zip(group[key], kept, strict=True) if stays]
