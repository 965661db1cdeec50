"""GPT-2 in Hugging Face's format: the logits of transformers; bad folders are one line."""

import hashlib
import json
import pickle
import shutil

import pytest
import safetensors.torch
import torch
import transformers

from firstlight.checkpoints.checkpoint import Checkpoint
from firstlight.data.tokenizers.bytes import BytesTokenizer
from firstlight.data.tokenizers.huggingface import write_tokenizer
from firstlight.errors import ConfigError
from firstlight.foreign.huggingface import is_huggingface_folder, read_huggingface

pytestmark = pytest.mark.cpu

SIZES = {"vocab_size": 300, "n_positions": 16, "n_embd": 24, "n_layer": 2, "n_head": 3}
LAYOUTS = {"gpt2": (12, 12), "gpt2-medium": (24, 16), "gpt2-large": (36, 20), "gpt2-xl": (48, 25)}
IDS = torch.randint(300, (2, 16), generator=torch.Generator().manual_seed(1))


def their_gpt2(**changes):
    """A random `GPT2LMHeadModel`, with weights large enough for mistakes to show."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = transformers.GPT2Config(
            **SIZES | {"initializer_range": 0.1, "bos_token_id": 0, "eos_token_id": 0} | changes
        )
        model = transformers.GPT2LMHeadModel(config).eval()
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # norms and biases are ones and zeros otherwise
                torch.nn.init.normal_(
                    parameter, mean=float(".ln_" in name and name.endswith("weight")), std=0.1
                )
    return model


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The folder of a small GPT-2 that transformers saved, and its tokenizer; not to be changed."""
    folder = tmp_path_factory.mktemp("original")
    their_gpt2().save_pretrained(folder)
    tokenizer = BytesTokenizer()
    tokenizer.fit([])
    write_tokenizer(tokenizer.state_dict(), folder, context_length=16)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(original, tmp_path / "model")


def load(folder):
    """The model that we make of a folder."""
    weights, config, tokenizer = read_huggingface(folder)
    return Checkpoint(folder, weights, config, tokenizer, None).build_model()


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
    return line


def change_config(folder, **changes):
    file = folder / "config.json"
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def change_tensors(folder, change):
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors)
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.one_in(2)
def test_logits_are_those_of_transformers(tmp_path, layout, tied):
    n_layer, n_head = LAYOUTS[layout]
    theirs = their_gpt2(n_layer=n_layer, n_head=n_head, n_embd=2 * n_head, tie_word_embeddings=tied)
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    with torch.no_grad():
        difference = (ours(IDS) - theirs(IDS).logits).abs().max().item()
    print(f"{layout}: {difference:.1e}")
    assert difference < 1e-4


def test_sections_and_tokenizer_are_those_of_the_folder(original):
    _, config, tokenizer = read_huggingface(original)
    model = config["model"]
    assert [
        model[k] for k in ("vocab_size", "context_length", "emb_dim", "n_layers", "n_heads")
    ] == [*SIZES.values()]
    assert (model["drop_rate"], model["qkv_bias"], model["tie_weights"]) == (0.1, True, True)
    assert config["tokenizer"] == {
        "_target_": "firstlight.data.tokenizers.gpt2.GPT2Tokenizer",
        "vocab_size": 300,
    }
    assert tokenizer["vocab_size"] == 300
    checkpoint = Checkpoint(original, {}, config, tokenizer, None)
    assert checkpoint.build_tokenizer().encode("abc") == [97, 98, 99]
    assert is_huggingface_folder(original)


def test_without_tokenizer_files_it_is_gpt2s(folder):
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / name).unlink()
    assert read_huggingface(folder)[2] is None


def test_names_without_their_prefix_and_old_masks_are_read_as_well(folder, original):
    def rename(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 16, 16, dtype=torch.bool)
        tensors["h.1.attn.masked_bias"] = torch.tensor(-1e4)

    change_tensors(folder, rename)
    assert torch.equal(load(folder)(IDS), load(original)(IDS))


def test_a_copy_of_the_embedding_as_head_is_read_once(folder, original):
    change_tensors(
        folder, lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"].clone()})
    )
    assert torch.equal(load(folder)(IDS), load(original)(IDS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_becomes_float32(folder, dtype):
    halves = {}

    def halve(tensors):
        tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()})
        halves.update(tensors)

    change_tensors(folder, halve)
    weights, *_ = read_huggingface(folder)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert torch.equal(weights["tok_emb.weight"], halves["transformer.wte.weight"].float())


def test_the_weights_are_a_copy_that_the_file_can_be_deleted_behind(folder):
    weights, *_ = read_huggingface(folder)
    shutil.rmtree(folder)
    assert all(
        tensor.is_contiguous() and torch.isfinite(tensor).all() for tensor in weights.values()
    )


def test_shards_are_read_through_their_index(folder, original):
    (folder / "model.safetensors").unlink()
    transformers.GPT2LMHeadModel.from_pretrained(original).save_pretrained(
        folder, max_shard_size="20KB"
    )
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert torch.equal(load(folder)(IDS), load(original)(IDS))
    next(folder.glob("model-00002*")).unlink()
    refusal(folder, "model-00002", "missing")


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "model.bin", 3]
)
def test_an_index_cannot_name_files_elsewhere(folder, name):
    shutil.copy(folder / "model.safetensors", folder.parent)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"wte.weight": name}})
    )
    refusal(folder, "index.json", str(name))


@pytest.mark.parametrize("content", ["{}", '{"weight_map": 3}', '{"weight_map": {}}', "[]", "{"])
def test_a_damaged_index_is_refused(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    refusal(folder, "model.safetensors.index.json")


def test_dropout_rates_that_differ_are_told(folder, capsys):
    change_config(folder, attn_pdrop=0.0, resid_pdrop=0.2)
    _, config, _ = read_huggingface(folder)
    assert config["model"]["drop_rate"] == 0.2
    assert "resid 0.2, embd 0.1, attn 0.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {
            "tie_word_embeddings": ...,
            "n_inner": ...,
            "layer_norm_epsilon": ...,
            "scale_attn_weights": ...,
        },
        {
            "n_inner": 96,
            "activation_function": "gelu_pytorch_tanh",
            "reorder_and_upcast_attn": True,
        },
    ],
    ids=["nothing said", "other words for the same"],
)
def test_what_is_the_same_model_is_read(folder, original, changes):
    change_config(folder, **changes)
    assert torch.equal(load(folder)(IDS), load(original)(IDS))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
            ["model_type is 'bert'", "BertForMaskedLM"],
        ),
        ({"model_type": "llama"}, ["max_position_embeddings", "required"]),
        ({"model_type": ..., "architectures": ...}, ["GPT-2", "model_type is None"]),
        ({"model_type": ["gpt2"]}, ["model_type is ['gpt2']"]),
        ({"activation_function": "relu"}, ["activation_function ('relu')", "gelu_new"]),
        ({"layer_norm_epsilon": 1e-6}, ["layer_norm_epsilon (1e-06)", "1e-05"]),
        ({"scale_attn_weights": False}, ["scale_attn_weights (False)"]),
        ({"scale_attn_by_inverse_layer_idx": True}, ["scale_attn_by_inverse_layer_idx (True)"]),
        ({"add_cross_attention": True}, ["add_cross_attention (True)"]),
        ({"tie_word_embeddings": "yes"}, ["tie_word_embeddings ('yes')"]),
        ({"tie_word_embeddings": False}, ["lm_head.weight"]),
        ({"n_inner": 50}, ["n_inner (50)", "96"]),
        ({"n_head": 5}, ["n_embd (24)", "n_head (5)"]),
        ({"n_head": 0}, ["n_head (0)"]),
        ({"n_layer": -1}, ["n_layer (-1)"]),
        ({"n_layer": "2"}, ["n_layer ('2')"]),
        ({"n_layer": 2.0}, ["n_layer (2.0)"]),
        ({"n_layer": True}, ["n_layer (True)"]),
        ({"n_layer": ...}, ["n_layer", "required"]),
        ({"n_layer": 3}, ["h.2.attn.c_attn.weight", "n_layer 3"]),
        ({"n_layer": 10**15}, ["h.2.attn.c_attn.weight"]),
        ({"n_layer": 1}, ["h.1.", "no place", "n_layer 1"]),
        ({"n_embd": 48}, ["(300, 24)", "(300, 48)"]),
        ({"n_embd": 3 * 10**18}, ["(300, 24)"]),
        ({"n_positions": 1024}, ["wpe.weight", "(16, 24)", "(1024, 24)"]),
        ({"vocab_size": 50257}, ["wte.weight", "(300, 24)", "(50257, 24)"]),
        ({"resid_pdrop": 1.0}, ["resid_pdrop (1.0)"]),
        ({"attn_pdrop": None}, ["attn_pdrop (None)"]),
    ],
    ids=str,
)
def test_a_config_of_another_model_is_refused_before_anything_is_read(folder, changes, words):
    change_config(folder, **changes)
    refusal(folder, *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("transformer.ln_f.bias"), ["no ln_f.bias"]),
        (lambda t: t.pop("transformer.h.1.mlp.c_fc.weight"), ["no h.1.mlp.c_fc.weight"]),
        (lambda t: t.clear(), ["no wte.weight"]),
        (lambda t: t.update({"score.weight": torch.zeros(2, 24)}), ["score.weight", "no place"]),
        (
            lambda t: t.update({"transformer.ln_f.bias": torch.zeros(25)}),
            ["ln_f.bias", "(25,)", "(24,)"],
        ),
        (
            lambda t: t.update({"transformer.ln_f.bias": torch.zeros(24, dtype=torch.int8)}),
            ["ln_f.bias is I8", "BF16"],
        ),
        (
            lambda t: t.update({"lm_head.weight": torch.zeros(300, 24)}),
            ["lm_head.weight is not wte.weight"],
        ),
        (
            lambda t: t.update({"lm_head.weight": torch.zeros(301, 24)}),
            ["lm_head.weight", "(301, 24)"],
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_tensors_of_another_model_are_refused_by_name(folder, change, words):
    change_tensors(folder, change)
    refusal(folder, *words)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:100],
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: bytes(range(256)) * 40,
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: pickle.dumps({"wte.weight": [0.0]}),
    ],
    ids=[
        "empty",
        "cut in its header",
        "a byte short",
        "a byte more",
        "noise",
        "a header of 2^64 bytes",
        "a pickle",
    ],
)
def test_a_damaged_file_is_refused_in_one_line(folder, damage):
    file = folder / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    refusal(folder, "model.safetensors: damaged, or not a safetensors file")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000], ids=lambda c: repr(c[:3])
)
def test_a_config_that_is_no_object_is_refused(folder, content):
    (folder / "config.json").write_bytes(content)
    refusal(folder, "config.json")


def test_a_folder_without_a_config_is_refused(folder):
    (folder / "config.json").unlink()
    assert not is_huggingface_folder(folder)
    refusal(folder, "config.json: cannot be read")


def test_a_folder_of_pickles_is_refused_with_the_way_to_convert_them(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert is_huggingface_folder(folder)
    refusal(folder, "pytorch_model.bin", "pickle", "save_pretrained")


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    refusal(folder, "neither model.safetensors")


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(folder):
    change_config(folder, vocab_size=200)
    change_tensors(folder, lambda t: t.update({"transformer.wte.weight": torch.zeros(200, 24)}))
    refusal(folder, "257 ids", "vocab_size of 200")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_file_of_the_hubs_cache_is_compared_with_its_sha256(folder, original, name):
    file, blobs = folder / name, folder / "blobs"
    blobs.mkdir()
    blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
    file.rename(blob)
    file.symlink_to(blob)
    assert torch.equal(load(folder)(IDS), load(original)(IDS))
    content = bytearray(blob.read_bytes())
    content[-9] ^= 1
    blob.write_bytes(content)
    refusal(folder, f"{name}: damaged, its hash is not the hub's", str(blob))


def test_a_tokenizer_of_another_kind_is_refused(folder):
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"normalizer": {"type": "NFC"}}))
    refusal(folder, "tokenizer.json", "normalizer (NFC)")
