"""Qwen3 and Llama: the logits of transformers; what differs from ours is refused."""

import json
import shutil

import pytest
import safetensors.torch
import torch
import transformers

from firstlight.checkpoints.checkpoint import Checkpoint
from firstlight.data.tokenizers.bytes import BytesTokenizer
from firstlight.errors import ConfigError
from firstlight.foreign.export import export_huggingface
from firstlight.foreign.huggingface import read_huggingface
from firstlight.sources import load_checkpoint

pytestmark = pytest.mark.cpu

IDS = torch.randint(300, (2, 8), generator=torch.Generator().manual_seed(1))
VARIANTS = {
    f"{'Qwen3' if qk_norm else 'Llama'}, {'tied' if tie_weights else 'untied'}": {
        "qk_norm": qk_norm,
        "tie_weights": tie_weights,
    }
    for qk_norm in (True, False)
    for tie_weights in (True, False)
}


@pytest.fixture
def tokenizer():
    fitted = BytesTokenizer(vocab_size=300)
    fitted.fit([])
    return fitted


@pytest.fixture
def written(tiny_modern, tokenizer, tmp_path):
    """A factory: the folder of an exported model, and the model."""

    def write(**changes):
        model = tiny_modern(
            **({"vocab_size": 300, "rope_theta": 500.0, "drop_rate": 0.1} | changes)
        )
        export_huggingface(model, tokenizer, tmp_path / "ours")
        return tmp_path / "ours", model

    return write


def load(folder):
    """The model that we make of a folder."""
    weights, config, tokenizer = read_huggingface(folder)
    return Checkpoint(folder, weights, config, tokenizer, None).build_model()


def change_config(folder, **changes):
    file = folder / "config.json"
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def change_tensors(folder, change):
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def refusal(folder, *words):
    """The line of a folder that is refused."""
    with pytest.raises(ConfigError) as caught:
        read_huggingface(folder)
    line = str(caught.value)
    print(line)
    assert "\n" not in line and len(line.replace(str(folder), "")) < 240
    assert line.startswith(str(folder))
    for word in words:
        assert word in line


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_an_exported_model_comes_back_bit_for_bit(written, tokenizer, changes):
    folder, model = written(**changes)
    loaded = load_checkpoint(folder)
    back = loaded.build_model()
    assert back.state_dict().keys() == model.state_dict().keys()
    assert all(
        torch.equal(back.state_dict()[name], tensor) for name, tensor in model.state_dict().items()
    )
    assert torch.equal(back(IDS), model(IDS))
    assert (back.n_parameters, back.context_length) == (model.n_parameters, model.context_length)
    assert (back.rope_theta, back.drop_emb.p) == (500.0, 0.1)
    assert loaded.build_tokenizer().encode("The lamp") == tokenizer.encode("The lamp")


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_what_transformers_saves_is_read_with_its_logits(written, tmp_path, changes):
    folder, _ = written(**changes)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    shutil.copy(folder / "tokenizer.json", tmp_path / "theirs")
    with torch.no_grad():
        assert (load(tmp_path / "theirs")(IDS) - theirs(IDS).logits).abs().max() < 1e-4


@pytest.mark.parametrize(
    "changes", [{"rope_parameters": ...}, {"rope_theta": ...}, {"head_dim": ...}], ids=str
)
def test_what_is_the_same_model_in_words_of_other_versions_is_read(written, changes):
    folder, model = written(qk_norm=False)
    change_config(folder, **changes)
    assert torch.equal(load(folder)(IDS), model(IDS))


def test_angles_that_older_versions_have_saved_are_no_weights(written):
    folder, model = written()
    change_tensors(
        folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)})
    )
    assert torch.equal(load(folder)(IDS), model(IDS))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, ["rope_scaling ({'rope_type'"]),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
            ["rope_parameters.rope_type ('yarn')"],
        ),
        ({"rope_parameters": {"rope_theta": 1e4, "factor": 2.0}}, ["rope_parameters.factor (2.0)"]),
        ({"rope_parameters": {"rope_theta": 0.0}}, ["rope_parameters.rope_theta (0.0)"]),
        ({"rope_theta": float("inf")}, ["rope_theta (inf)"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor (0.5)"]),
        ({"use_sliding_window": True}, ["use_sliding_window (True)"]),
        (
            {"layer_types": ["full_attention", "sliding_attention"]},
            ["layer_types.1 ('sliding_attention')"],
        ),
        ({"attention_bias": True}, ["attention_bias (True)"]),
        ({"mlp_bias": True}, ["mlp_bias (True)"]),
        ({"hidden_act": "gelu"}, ["hidden_act ('gelu')", "silu"]),
        ({"rms_norm_eps": 1e-5}, ["rms_norm_eps (1e-05)", "1e-06"]),
        ({"head_dim": 128}, ["head_dim (128)", "hidden_size / num_attention_heads (4)"]),
        ({"head_dim": ...}, ["head_dim (128)"]),  # Qwen3's default
        ({"num_attention_heads": 5}, ["hidden_size (24)", "2 * num_attention_heads (10)"]),
        (
            {"num_attention_heads": 8, "head_dim": 3},
            ["hidden_size (24)", "2 * num_attention_heads (16)"],
        ),
        ({"num_key_value_heads": 4}, ["num_attention_heads (6)", "num_key_value_heads (4)"]),
        ({"num_key_value_heads": 3}, ["k_proj.weight", "(8, 24)", "(12, 24)"]),
        ({"num_key_value_heads": ...}, ["num_key_value_heads (32)"]),
        ({"num_hidden_layers": 10**15}, ["layers.2.", "num_hidden_layers 1000000000000000"]),
        ({"num_hidden_layers": 1}, ["layers.1.", "no place in the Qwen3"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers (0)"]),
        ({"hidden_size": 6 * 2**60, "head_dim": 2**60}, ["(300, 24)"]),
        ({"intermediate_size": 65}, ["gate_proj.weight", "(64, 24)", "(65, 24)"]),
        ({"vocab_size": 10**400}, ["vocab_size"]),
        ({"attention_dropout": 1.0}, ["attention_dropout (1.0)"]),
        ({"tie_word_embeddings": False}, ["no lm_head.weight"]),
        ({"model_type": "llama"}, ["self_attn.k_norm", "no place in the Llama"]),
        ({"model_type": "qwen2"}, ["'qwen2'", "GPT-2, Qwen3, Llama"]),
    ],
    ids=str,
)
def test_a_config_of_another_model_is_refused_by_the_name_of_what_differs(written, changes, words):
    folder, _ = written(tie_weights=True)
    change_config(folder, **changes)
    refusal(folder, *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t.pop("model.layers.1.self_attn.k_norm.weight"),
            ["no layers.1.self_attn.k_norm.weight"],
        ),
        (
            lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(24)}),
            ["q_proj.bias", "no place"],
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.zeros(24, dtype=torch.int8)}),
            ["norm.weight is I8"],
        ),
        (
            lambda t: t.update({"lm_head.weight": torch.zeros(300, 24)}),
            ["lm_head.weight is not embed_tokens.weight"],
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_tensors_of_another_model_are_refused_by_name(written, change, words):
    folder, _ = written(tie_weights=True)
    change_tensors(folder, change)
    refusal(folder, *words)


def test_without_a_tokenizer_it_is_refused_for_there_is_no_usual_one(written):
    folder, _ = written()
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / name).unlink()
    refusal(folder, "no tokenizer.json")
