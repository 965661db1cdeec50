"""`check_model` passes what works, and names the property that a broken model lacks."""

import broken_models
import pytest
import torch
from broken_models import SIZES

from firstlight.model.modern import ModernGPT
from firstlight.testing import check_model

BROKEN = [
    ("NotAModel", "contract", "not a LanguageModel"),
    ("WrongShape", "contract", "output_weight is (12, 31)"),
    ("Unregistered", "contract", "register_buffer('scale'"),
    ("Drops", "determinism", "two passes"),
    ("DropsElsewhere", "determinism", "two passes"),
    ("Remembers", "determinism", "computed before"),
    ("Peeks", "causality", "in evaluation mode"),
    ("Norms", "causality", "in evaluation mode"),
    ("BatchNorm", "causality", "in training mode"),
    ("MixesRows", "batch", "row 0"),
    ("SoftCap", "projection", "forward is not"),
    ("Unused", "gradient", "forgotten.bias (nor 1 others)"),
    ("LosesBuffer", "save and load", "the buffer steps"),
    ("DrawsBuffer", "save and load", "offsets is not persistent"),
    ("LosesAttribute", "save and load", "neither a parameter nor a buffer"),
    ("Float32", "bfloat16", "BFloat16"),
    ("FusesWrongly", "fused", "fused, the model has different logits"),
    ("OffByOne", "cache", "after a cache of 1"),
    ("Forgets", "cache", "cache.length is 0"),
    ("IgnoresPadding", "padding", "row 0 (of 1 tokens)"),
    ("SelectsPadding", "select", "after select([1, 0])"),
    ("RewindsNothing", "rewind", "cache.length is 12"),
    ("KeepsState", "rewind", "after rewind(0)"),
]


@pytest.mark.parametrize(("name", "property", "words"), BROKEN, ids=[case[0] for case in BROKEN])
def test_a_broken_model_is_told_which_property_it_lacks(name, property, words):
    with pytest.raises(AssertionError) as failed:
        check_model(getattr(broken_models, name))
    message = str(failed.value)
    assert message.startswith(f"model: {property}: ") and words in message, message
    assert "\n" not in message and message.endswith(".")


@pytest.mark.parametrize("name", ["Plain", "ForgetsState", "Endless", "Uncached", "Detached"])
def test_what_works_passes(name):
    found = check_model(getattr(broken_models, name))
    assert {state.partition(":")[0] for state in found.values()} <= {"holds", "not applicable"}
    if name == "Uncached":
        lacking = {key for key, state in found.items() if "new_cache returns None" in state}
        assert lacking == {"cache", "select", "rewind"}
    elif name == "Endless":
        assert "no end" in found["window"]


def test_models_of_ours_pass():
    found = check_model(lambda: ModernGPT(**SIZES | {"emb_dim": 24}, n_kv_heads=1))
    assert set(found.values()) == {"holds"}


def test_a_property_can_be_left_out():
    assert check_model(broken_models.SoftCap, skip=["projection"])["projection"] == "skipped"
    with pytest.raises(ValueError, match=r"'projecton' is not a property; .*'projection'"):
        check_model(broken_models.Plain, skip=["projecton"])


def test_nothing_of_the_callers_changes():
    torch.manual_seed(5)
    state, n_threads = torch.get_rng_state(), torch.get_num_threads()
    check_model(broken_models.Plain)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == n_threads
