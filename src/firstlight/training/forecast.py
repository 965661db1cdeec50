"""What a run will be: its size, its work, its phases, and what about it is probably wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from firstlight.data.leakage import SEARCHED, Leakage
from firstlight.data.token_data import TokenDataModule
from firstlight.model.base import LanguageModel
from firstlight.optim.base import Schedule, phases_of
from firstlight.processes import n_cores
from firstlight.training.callbacks.throughput import training_flops_per_token
from firstlight.training.clock import Clock

if TYPE_CHECKING:
    from firstlight.training.plan import Plan
    from firstlight.training.trainer import Trainer

FORWARD = 1 / 3
"""Of the operations of a training pass, those of its forward pass; an evaluation has no other."""
USUAL_TOKENS, FEW_TOKENS = 20, 4
"""Tokens a parameter: those of a model that is best for its work (Hoffmann et al. 2022,
"Chinchilla"), and how many are far below."""
MANY_PASSES = 40
"""Passes over a text after which more of them are worth next to nothing (Muennighoff et al. 2023,
"Scaling data-constrained language models")."""
FEW_WINDOWS = 8
"""Validation windows with fewer of which the loss is that of a page, not of a text."""
COUNTED = 2**22
"""Tokens in which ids are counted; those of a larger text only look rarer."""
SMALL = 1e15
"""Operations of a run that takes at most hours of a CPU, or seconds of a GPU: one to learn from, as
the book's and the default are. Of a larger one it matters what it is worth."""
MUCH_LEAKED = 0.05
"""Share of validation's n-grams in training above which its loss is better than of a new text."""
MUCH_NEVER = 0.05
"""Share of validation's tokens above which ids that training never shows matter to its loss."""
MUCH_UNUSED = 0.1
"""Share of a model's parameters in the embeddings of ids that do not occur."""


@dataclass(frozen=True)
class Phase:
    """A part of a run."""

    steps: int
    tokens: int
    share: float
    """Of the run's steps."""


@dataclass(frozen=True)
class Forecast:
    """A run in figures, before it begins; a resumed run is counted from its own beginning."""

    parameters: dict[str, int]
    """By part of the model; a tied matrix counts where it comes first."""
    n_parameters: int
    n_trained: int
    flops_per_token: float | None
    """Of a training pass, forward and backward; None if they cannot be counted."""
    steps: int
    tokens_per_step: int
    tokens: int
    flops: float | None
    """Of all steps, without evaluations."""
    tokens_per_parameter: float
    epochs: float
    passes: float
    """Over the text; with overlapping windows an epoch is several of them."""
    warmup: Phase
    decay: Phase
    validation_windows: int
    evaluations: int
    """Without that of the untrained model."""
    evaluated_tokens: int
    """Of each evaluation, of both splits."""
    evaluation_share: float
    """Of all operations, with the score of the test split; samples, which take time and hardly an
    operation, are not counted."""
    checkpoint_bytes: int
    """Of what the run leaves on disk at most, and writes before it removes an older one."""
    free_bytes: int | None
    """Of the disk of the run folder; None if its file system does not tell."""
    leakage: Leakage | None
    """What of validation stands in training; None if the texts are too long to look at once."""
    warnings: list[str]
    """What is probably not as it was meant to be."""
    of_size: list[str]
    """Those of them that say that a run is too short or too long, or its text too small."""

    @property
    def is_small(self) -> bool:
        """Whether the run costs so little that its size needs no defence."""
        return self.flops is not None and self.flops < SMALL


def forecast(plan: Plan, schedule: Schedule) -> Forecast:
    """The forecast of a run."""
    model, data, clock = plan.network, plan.data, plan.trainer.clock
    tokens = clock.tokens_after(clock.max_steps)
    flops = flops_per_token(model)
    # A model that was trained before has seen more tokens, and its vocabulary is given.
    is_new = plan.config.get("init_from") is None
    before, after = phases_of(schedule, max_steps=clock.max_steps, peak=plan.sizes.peak_lr)
    evaluated, n_evaluations = _evaluated_tokens(data), clock.n_evaluations
    of_evaluations = FORWARD * (n_evaluations * evaluated + data.n_final)
    passes, leakage = data.passes_after(clock.total_batches), leakage_in(data)
    of_size = _warnings(model, data, tokens, passes, is_new=is_new)
    if is_new:
        of_size += _never_trained(leakage)
    return Forecast(
        parameters=parameters_by_part(model),
        n_parameters=model.n_parameters,
        n_trained=model.n_trained,
        flops_per_token=flops,
        steps=clock.max_steps,
        tokens_per_step=data.batch_size * data.context_length * clock.batches_per_step,
        tokens=tokens,
        flops=None if flops is None else flops * tokens,
        tokens_per_parameter=tokens / model.n_parameters,
        epochs=clock.epochs_after(clock.max_steps),
        passes=passes,
        warmup=_phase(clock, 0, before),
        decay=_phase(clock, clock.max_steps - after, clock.max_steps),
        validation_windows=_validation_windows(data),
        evaluations=n_evaluations,
        evaluated_tokens=evaluated,
        evaluation_share=of_evaluations / (tokens + of_evaluations),
        checkpoint_bytes=plan.disk.needed,
        free_bytes=plan.disk.free,
        leakage=leakage,
        warnings=[
            *of_size,
            *_crowded(plan.trainer),
            *_leaked(leakage),
        ],
        of_size=of_size,
    )


def flops_per_token(model: LanguageModel) -> float | None:
    """Floating-point operations of a training pass; None if they cannot be counted."""
    try:
        return training_flops_per_token(model)
    except Exception:  # a model of the user's own: what is wrong with it, its first step will say
        return None


def parameters_by_part(model: LanguageModel) -> dict[str, int]:
    """Parameters of each part of the model, and of the parts of its blocks, all blocks together."""
    found: dict[str, int] = {}
    counted: set[nn.Parameter] = set()
    for name, parameter in model.named_parameters():
        if parameter in counted:
            continue
        counted.add(parameter)
        part = _part_of(name)
        found[part] = found.get(part, 0) + parameter.numel()
    return found


def _part_of(name: str) -> str:
    """`trf_blocks.*.att` of trf_blocks.3.att.W_query.weight, `tok_emb` of tok_emb.weight."""
    first, *others = name.split(".")
    if len(others) > 1 and others[0].isdigit():
        return f"{first}.*.{others[1]}"
    return first


def _phase(clock: Clock, first: int, end: int) -> Phase:
    tokens = clock.tokens_after(end) - clock.tokens_after(first)
    return Phase(end - first, tokens, (end - first) / clock.max_steps)


def _evaluated_tokens(data: TokenDataModule) -> int:
    """Tokens of an evaluation: validation, and as many batches of training windows."""
    of_training = data.eval_batches or data.n_eval_batches(data.windows["val"])
    return data.n_scored("val", data.eval_batches) + data.n_scored("train", of_training)


def _validation_windows(data: TokenDataModule) -> int:
    n_windows = len(data.windows["val"])
    if data.eval_batches is None:
        return n_windows
    return min(n_windows, data.eval_batches * data.batch_size)


def _warnings(
    model: LanguageModel, data: TokenDataModule, tokens: int, passes: float, *, is_new: bool
) -> list[str]:
    """What is probably wrong with a run, each in a sentence."""
    found: list[str] = []
    ratio = tokens / model.n_parameters
    if is_new and ratio < FEW_TOKENS:
        found.append(
            f"{ratio:.2g} training tokens a parameter, where about {USUAL_TOKENS} are usual: a"
            " smaller model would come as far, or a longer run further"
        )
    if passes >= MANY_PASSES:
        found.append(
            f"{passes:,.0f} passes over the text: after some {MANY_PASSES} the model learns the"
            " text by heart, and hardly anything else; take more text, or fewer steps"
        )
    windows = _validation_windows(data)
    if windows < FEW_WINDOWS:
        found.append(
            f"validation is {windows} window{'s' if windows > 1 else ''} of"
            f" {data.context_length} tokens: its loss says little about other texts; lower"
            " data.train_ratio, or take more text"
        )
    if is_new and (unused := _unused_ids(model, data)):
        found.append(unused)
    return found


def _crowded(trainer: Trainer) -> list[str]:
    """The warning about more processes than the CPU has cores for."""
    # A device of a CPU is a process with threads of its own: more of them than cores only take
    # turns, and meet once a step besides.
    n_processes, cores = trainer.num_devices, n_cores()
    if trainer.strategy.root_device.type != "cpu" or n_processes <= cores:
        return []
    return [
        f"{n_processes} processes share {cores} core{'s' if cores > 1 else ''} of this CPU:"
        f" trainer.devices={cores} is faster"
    ]


def leakage_in(data: TokenDataModule) -> Leakage | None:
    """Compare validation with training, if that takes about a second at most."""
    n_tokens = data.windows["train"].n_tokens + data.windows["val"].n_tokens
    return data.leakage() if n_tokens <= SEARCHED else None


def _leaked(leakage: Leakage | None) -> list[str]:
    """The warning about a validation text that stands in the training text."""
    if leakage is None or leakage.share is None or leakage.share < MUCH_LEAKED:
        return []
    return [
        f"{leakage.share:.1%} of validation's {leakage.n}-grams stand in the training text: its"
        " loss is lower than that of a text that training does not have; leave repetitions out"
    ]


def _never_trained(leakage: Leakage | None) -> list[str]:
    """The warning about ids that only validation has."""
    if leakage is None or leakage.never_share < MUCH_NEVER:
        return []
    return [
        f"{leakage.never_share:.1%} of validation's tokens are never trained on: nowhere in the"
        " training text; take more text, or a tokenizer with fewer ids"
    ]


def _unused_ids(model: LanguageModel, data: TokenDataModule) -> str:
    """The warning about a vocabulary that is too large for the text; "" if it is not."""
    used = ids_used(data)
    known = data.tokenizer.encoding.n_vocab
    n_unused = model.vocab_size - used
    # Of a tied model the matrix counts once; its shape is that of the output.
    width = model.output_weight.shape[1]
    if used > known / 2 or n_unused * width < MUCH_UNUSED * model.n_parameters:
        return ""
    share = n_unused * width / model.n_parameters
    return (
        f"of the {model.vocab_size:,} ids of the vocabulary {used:,} occur in the training text:"
        f" the embeddings of the others are {share:.0%} of the parameters; take a tokenizer with"
        " fewer ids"
    )


def ids_used(data: TokenDataModule) -> int:
    """How many different ids occur in the training text, of a large one in its first tokens."""
    seen: set[int] = set()
    n_tokens = 0
    for chunk in data.windows["train"].chunks():
        # Not np.unique, which sorts: this is a part of the start of every run.
        seen.update(np.flatnonzero(np.bincount(chunk)).tolist())
        n_tokens += len(chunk)
        if n_tokens >= COUNTED:
            break
    return len(seen)
