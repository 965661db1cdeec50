"""Which parameters train, and at which rate, by patterns of their names: for fine-tuning.

Patterns are those of a shell: `*` matches any characters, including dots, `?` matches one, `[0-3]`
one of several. A pattern selects the parameters that it matches and those of the modules that it
matches: `tok_emb` selects `tok_emb.weight`, `trf_blocks.[0-3]` all of the first four blocks.
"""

import math
import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn
from torch.optim import Optimizer

from firstlight.config import NonEmpty
from firstlight.errors import ConfigError, shorten
from firstlight.model.base import LanguageModel
from firstlight.optim.groups import keep, split

Patterns = NonEmpty | list[NonEmpty]
"""One pattern, or several."""
MOST_NAMES = 8
"""The most modules that a message lists."""


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of `model` that train, by name; a tied one once."""
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def frozen(make: Callable[..., LanguageModel], patterns: Patterns | None) -> LanguageModel:
    """Build a model with `make`, and freeze the parameters that `patterns` match.

    A parameter with two names (a tied head) is frozen if either matches.

    Raises:
        ConfigError: a pattern matches no name, or nothing is left to train.
    """
    # After construction, not in it: the weights are drawn in the same order whatever is frozen.
    model = make()
    for pattern in _listed(patterns):
        for parameter in _fitting(model, pattern, f"freeze ({shorten(pattern)})").values():
            parameter.requires_grad_(False)
    if patterns and model.n_trained == 0:
        raise ConfigError(f"freeze ({shorten(str(patterns))}): nothing is left to train")
    return model


def check_rates(lr_scale: Patterns | None) -> None:
    """Check the form of `lr_scale`, which needs no model.

    Raises:
        ConfigError: an element is not PATTERN:FACTOR, with a factor above 0.
    """
    for text in _listed(lr_scale):
        _rate(text)


def optimizer_by_name(
    model: LanguageModel, *, make: Callable[[LanguageModel], Optimizer], lr_scale: Patterns | None
) -> Optimizer:
    """Make the optimizer of the parameters that train, with learning rates by name.

    Each element of `lr_scale`, PATTERN:FACTOR, multiplies the rate of the parameters that the
    pattern matches, at every step of the schedule; the last one that matches a parameter decides.
    They get groups of their own, after the optimizer's: its first group keeps the schedule's rate.

    Raises:
        ConfigError: a pattern matches no name, or only parameters that do not train.
        ValueError: the optimizer leaves out parameters that are not frozen.
    """
    # Made with all parameters, so that factories of any kind work, and reduced afterwards.
    optimizer = make(model)
    _check_all_taken(optimizer, model)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            # Some optimizers make the state of all parameters at the start.
            if not parameter.requires_grad:
                optimizer.state.pop(parameter, None)
        keep(group, [parameter.requires_grad for parameter in group["params"]])
    for factor, parameters in _by_rate(model, lr_scale).items():
        split(optimizer, parameters, {"lr": factor})
    return optimizer


def _check_all_taken(optimizer: Optimizer, model: LanguageModel) -> None:
    """Refuse an optimizer without some of the parameters that train.

    They would never change, and nothing would reset their gradients, which clipping counts.

    Raises:
        ValueError: it is such an optimizer.
    """
    taken = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    named = model.named_parameters()
    left = [name for name, p in named if p.requires_grad and id(p) not in taken]
    if left:
        more = f" (nor {len(left) - 1} others)" if len(left) > 1 else ""
        raise ValueError(
            f"the {type(optimizer).__name__} does not have {shorten(left[0])}{more}, so it would"
            " never train: give it all of model.parameters(), and keep parameters as they are with"
            " freeze=PATTERN"
        )


def rates(model: LanguageModel, lr_scale: Patterns | None) -> dict[float, int]:
    """Count the numbers of `model` that train at each factor of the learning rate but 1."""
    by_rate = _by_rate(model, lr_scale)
    return {factor: sum(p.numel() for p in params) for factor, params in by_rate.items()}


def _by_rate(model: LanguageModel, lr_scale: Patterns | None) -> dict[float, set[nn.Parameter]]:
    factor_of: dict[nn.Parameter, float] = {}
    for text in _listed(lr_scale):
        pattern, factor = _rate(text)
        where = f"lr_scale ({shorten(text)})"
        # A frozen parameter in no group of the optimizer has no rate.
        fitting = [p for p in _fitting(model, pattern, where).values() if p.requires_grad]
        if not fitting:
            raise ConfigError(f"{where}: none of these parameters trains: freeze has all of them")
        # A later element replaces an earlier one, as later words of a command line do.
        factor_of |= dict.fromkeys(fitting, factor)
    by_rate: dict[float, set[nn.Parameter]] = {}
    for parameter, factor in factor_of.items():
        if factor != 1:
            by_rate.setdefault(factor, set()).add(parameter)
    return by_rate


def _rate(text: str) -> tuple[str, float]:
    """Parse an element of `lr_scale`: its pattern and its factor."""
    pattern, colon, number = text.rpartition(":")
    try:
        factor = float(number)
    except ValueError:
        factor = math.nan
    if not colon or not pattern or not (0 < factor < math.inf):
        raise ConfigError(
            f"lr_scale ({shorten(text)}): expected PATTERN:FACTOR with a factor above 0, e.g."
            " tok_emb:0.1 (freeze=PATTERN keeps parameters as they are)"
        )
    return pattern, factor


def _listed(patterns: Patterns | None) -> list[str]:
    if patterns is None:
        return []
    return [patterns] if isinstance(patterns, str) else patterns


def _fitting(model: LanguageModel, pattern: str, where: str) -> dict[str, nn.Parameter]:
    """Return the parameters that `pattern` matches, by name.

    Raises:
        ConfigError: it matches none; the message begins with `where`.
    """
    # Without removing duplicates a tied matrix is found under both of its names.
    named = dict(model.named_parameters(remove_duplicate=False))
    found = {
        name: parameter
        for name, parameter in named.items()
        if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
    }
    if not found:
        near = _nearest(pattern, list(named))
        raise ConfigError(f"{where}: matches no parameter of {type(model).__name__}; {near}")
    return found


def _nearest(pattern: str, names: list[str]) -> str:
    """Suggest names of parameters or modules like `pattern`, or else the outermost modules."""
    known: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        for n in range(1, len(parts) + 1):
            known[".".join(parts[:n])] = None
    # A pattern is compared as the name that it may have been meant for: blocks.[0-3] as blocks.0.
    plain = re.sub(r"\[[^\]]*\]", "0", pattern).strip("*.?")
    close = get_close_matches(plain, known, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    outermost = list(dict.fromkeys(name.partition(".")[0] for name in names))
    more = ", ..." if len(outermost) > MOST_NAMES else ""
    return f"its modules are {', '.join(outermost[:MOST_NAMES])}{more}"
