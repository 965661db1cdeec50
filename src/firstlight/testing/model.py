"""Does a model keep the contract of `LanguageModel`?

The properties are what training, checkpoints and decoding take for granted. A fault in one of them
raises nothing by itself: a model that sees the next token trains, and looks very good.
"""

from collections.abc import Callable, Collection

from firstlight.model.base import LanguageModel
from firstlight.testing.model_case import ModelCase
from firstlight.testing.model_decoding import ModelInDecoding
from firstlight.testing.model_training import ModelInTraining
from firstlight.testing.properties import Property, check_all


def check_model(
    make: Callable[[], LanguageModel], *, skip: Collection[str] = (), tolerance: float = 1e-4
) -> dict[str, str]:
    """Check that what `make` returns keeps the contract of `LanguageModel`.

    Choose small sizes: a few hundred passes are made, with the weights of the constructor and some
    noise, so that matrices that begin at zero do not hide anything. Logits may differ by
    `tolerance`, relative to how much they vary. Properties in `skip` are left out. Returns what
    became of each property; one of a cache is "not applicable" if `new_cache` returns None.

    Raises:
        AssertionError: the first property that does not hold: where, by how much, what to do.
        ValueError: `skip` names no property.
    """
    case = ModelCase(make, tolerance)
    # The function itself first: what decoding and training show of a model that is not causal would
    # mislead.
    properties = [*_of_the_function(case), *_of_training(case), *_of_decoding(case)]
    return check_all("model", properties, skip)


def _of_the_function(case: ModelCase) -> list[Property]:
    return [
        Property(
            "contract",
            case.contract,
            "See LanguageModel in firstlight/model/base.py for what it must have.",
        ),
        Property(
            "determinism",
            case.determinism,
            "In evaluation the logits are a function of the ids and the weights: draw random"
            " numbers only if self.training, from torch's generator, and keep no state on self.",
        ),
        Property(
            "causality",
            case.causality,
            "The logits at a place may depend on ids up to it alone: look for a mask that is off by"
            " one, and for means, norms or sorting over the time dimension.",
        ),
        Property(
            "batch",
            case.batch,
            "The rows of a batch are texts of their own: look for a reshape that mixes them, and"
            " for norms or capacities over the batch.",
        ),
        Property(
            "projection",
            case.projection,
            "The loss is computed from hidden(ids) and output_weight, without the logits: project"
            " must be hidden @ output_weight.T, and forward project(hidden(ids)).",
        ),
    ]


def _of_training(case: ModelCase) -> list[Property]:
    training = ModelInTraining(case)
    return [
        Property(
            "gradient",
            training.gradient,
            "Use the parameter in hidden(), without detach() or .data; else remove it, or set"
            " requires_grad=False.",
        ),
        Property(
            "save and load",
            training.save_and_load,
            "A checkpoint holds parameters and persistent buffers; all else must follow from the"
            " arguments of the constructor.",
        ),
        Property(
            "bfloat16",
            training.bfloat16,
            "Keep tensors in buffers, which model.bfloat16() converts, and make others with the"
            " dtype and device of an input.",
        ),
    ]


def _of_decoding(case: ModelCase) -> list[Property]:
    decoding = ModelInDecoding(case)
    return [
        Property(
            "cache",
            decoding.cache,
            "With a cache of the tokens before, hidden() must continue where they ended: positions"
            " from cache.positions, keys and values (or a state) from the cache, and"
            " cache.advance(n) after the last layer. Without a new_cache all is computed anew.",
        ),
        Property(
            "padding",
            decoding.padding,
            "Rows of unequal length are padded at the left: take positions and mask from the cache"
            " (positions_and_mask), or leave a state as it is where cache.used is False.",
        ),
        Property(
            "select",
            decoding.select,
            "cache.select(rows) must reorder everything that the cache keeps.",
        ),
        Property(
            "rewind",
            decoding.rewind,
            "cache.rewind(length) must forget all places from length on; set can_rewind=False on"
            " the class if only 0 is possible.",
        ),
        Property(
            "window",
            decoding.window,
            "Beyond context_length the cache is emptied with rewind(0), and the last context_length"
            " tokens are computed again.",
        ),
        Property(
            "fused",
            decoding.fused,
            "fused() may change how a model computes, not what; leave it out if you have no use"
            " for it.",
        ),
    ]
