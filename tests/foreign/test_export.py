"""Exported models load elsewhere as the same model; files appear whole and replace nothing."""

import errno
import json

import pytest
import safetensors.torch
import torch
import transformers
from safetensors import SafetensorError, safe_open

from firstlight.checkpoints.checkpoint import Checkpoint
from firstlight.checkpoints.model_file import save_model_file
from firstlight.cli import main
from firstlight.data.tokenizers.base import StoredTokenizer
from firstlight.data.tokenizers.bpe import BPETokenizer
from firstlight.data.tokenizers.bytes import BytesTokenizer
from firstlight.decoding.greedy import Greedy
from firstlight.errors import ConfigError
from firstlight.foreign.export import export_huggingface, export_safetensors
from firstlight.foreign.huggingface import read_huggingface
from firstlight.model.base import LanguageModel
from firstlight.model.gpt import GPT
from firstlight.sources import load_checkpoint

pytestmark = pytest.mark.cpu

SIZES = {
    "vocab_size": 300,
    "context_length": 8,
    "emb_dim": 12,
    "n_heads": 3,
    "n_layers": 2,
    "drop_rate": 0.1,
}
LAYOUTS = {"gpt2": (12, 12), "gpt2-medium": (24, 16), "gpt2-large": (36, 20), "gpt2-xl": (48, 25)}
IDS = torch.randint(300, (2, 8), generator=torch.Generator().manual_seed(1))
TEXT = "The lamp went out,\n\n  and the harbour (1907) was dark. 日本 👩‍👩‍👧 don't "


@pytest.fixture
def tokenizer(tmp_path, monkeypatch):
    monkeypatch.setenv("FIRSTLIGHT_CACHE_DIR", str(tmp_path / "cache"))
    fitted = BPETokenizer(vocab_size=300)
    fitted.fit(["the lamp and the harbour, " * 9])
    return fitted


@pytest.fixture
def checkpoint(tiny_gpt, tokenizer, tmp_path):
    """A factory: a saved model as a file, and the model itself."""

    def save(**changes):
        model, file = tiny_gpt(**(SIZES | changes)), tmp_path / "saved.safetensors"
        config = {
            "model": {"_target_": "firstlight.model.gpt.GPT", "_partial_": True, **SIZES, **changes}
        }
        save_model_file(model.state_dict(), file, config=config, tokenizer=tokenizer.state_dict())
        return file, model

    return save


def read_back(folder):
    """The model that we make of an exported folder."""
    weights, config, tokenizer = read_huggingface(folder)
    return Checkpoint(folder, weights, config, tokenizer, None).build_model()


def files(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("qkv_bias", [True, False], ids=["with biases", "without biases"])
def test_transformers_loads_the_same_model_and_tokenizer(
    tiny_gpt, tokenizer, tmp_path, tied, qkv_bias, caplog, recwarn, monkeypatch
):
    monkeypatch.setattr(transformers.utils.logging.get_logger("transformers"), "propagate", True)
    model, out = tiny_gpt(**SIZES, tie_weights=tied, qkv_bias=qkv_bias), tmp_path / "out"
    export_huggingface(model, tokenizer, out)
    theirs, missing = transformers.AutoModelForCausalLM.from_pretrained(
        out, output_loading_info=True
    )
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert not any(missing.values())
    assert caplog.messages == [] and list(recwarn) == []
    with torch.no_grad():
        difference = (theirs.eval()(IDS).logits - model(IDS)).abs().max().item()
    print(f"{difference:.1e}")
    assert difference <= 1e-5
    assert their_tokenizer.encode(TEXT) == tokenizer.encode(TEXT)
    assert theirs.config.tie_word_embeddings is tied
    assert (
        theirs.config.eos_token_id == theirs.generation_config.eos_token_id == tokenizer.end_of_text
    )
    assert theirs.config.attn_pdrop == theirs.config.embd_pdrop == theirs.config.resid_pdrop == 0.1
    continued = theirs.generate(IDS[:1, :3], max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert continued.shape == (1, 6)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("qk_norm", [True, False], ids=["Qwen3", "Llama"])
def test_transformers_loads_a_modern_model_as_its_own(
    tiny_modern, tokenizer, tmp_path, qk_norm, tied, caplog, recwarn, monkeypatch
):
    monkeypatch.setattr(transformers.utils.logging.get_logger("transformers"), "propagate", True)
    changes = {"qk_norm": qk_norm, "tie_weights": tied, "rope_theta": 500.0, "drop_rate": 0.1}
    model, out = tiny_modern(vocab_size=300, **changes), tmp_path / "out"
    export_huggingface(model, tokenizer, out)
    theirs, missing = transformers.AutoModelForCausalLM.from_pretrained(
        out, output_loading_info=True
    )
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert type(theirs).__name__ == ("Qwen3ForCausalLM" if qk_norm else "LlamaForCausalLM")
    assert not any(missing.values())
    assert caplog.messages == [] and list(recwarn) == []
    with torch.no_grad():
        expected = model(IDS)
        difference = (theirs.eval()(IDS).logits - expected).abs().max().item()
    print(f"{difference:.1e} of {expected.abs().max().item():.1f}")
    assert difference <= 1e-5 * expected.abs().max()
    assert their_tokenizer.encode(TEXT) == tokenizer.encode(TEXT)
    assert their_tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert (theirs.config.tie_word_embeddings, theirs.config.attention_dropout) == (tied, 0.1)
    assert theirs.config.max_position_embeddings == their_tokenizer.model_max_length == 8
    assert (
        theirs.config.eos_token_id == theirs.generation_config.eos_token_id == tokenizer.end_of_text
    )
    continued = theirs.generate(IDS[:1, :3], max_new_tokens=3, do_sample=False, pad_token_id=0)
    [[greedy]] = Greedy().generate(model, IDS[:1, :3].tolist(), max_new_tokens=3)
    assert continued[0, 3:].tolist() == greedy.ids


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.one_in(2)
def test_the_published_layouts_give_transformers_logits_in_both_directions(
    tiny_gpt, tokenizer, tmp_path, layout
):
    n_layers, n_heads = LAYOUTS[layout]
    model = tiny_gpt(
        **SIZES | {"n_layers": n_layers, "n_heads": n_heads, "emb_dim": 2 * n_heads}, qkv_bias=True
    )
    export_huggingface(model, tokenizer, tmp_path / "ours")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours").eval()
    theirs.save_pretrained(tmp_path / "theirs")
    back = read_back(tmp_path / "theirs")
    with torch.no_grad():
        expected, logits = model(IDS), theirs(IDS).logits
        print(f"{layout}: {(logits - expected).abs().max().item():.1e}")
        assert (logits - expected).abs().max() < 1e-4
        assert torch.equal(back(IDS), expected)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_an_exported_model_comes_back_bit_for_bit(tiny_gpt, tokenizer, tmp_path, tied):
    model = tiny_gpt(**SIZES, tie_weights=tied, qkv_bias=True)
    export_huggingface(model, tokenizer, tmp_path / "out")
    back = read_back(tmp_path / "out")
    assert back.state_dict().keys() == model.state_dict().keys()
    assert all(
        torch.equal(back.state_dict()[name], tensor) for name, tensor in model.state_dict().items()
    )
    assert torch.equal(back(IDS), model(IDS))
    assert back.n_parameters == model.n_parameters


def test_biases_that_the_model_lacks_are_zeros(tiny_gpt, tokenizer, tmp_path):
    model = tiny_gpt(**SIZES)
    export_huggingface(model, tokenizer, tmp_path / "out")
    state = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(state["transformer.h.1.attn.c_attn.bias"], torch.zeros(36))
    assert torch.equal(read_back(tmp_path / "out")(IDS), model(IDS))


def test_a_folder_has_what_other_programs_look_for_and_nothing_else(tiny_gpt, tokenizer, tmp_path):
    out = tmp_path / "some" / "new" / "folder"
    export_huggingface(tiny_gpt(**SIZES, tie_weights=True), tokenizer, out)
    weights, vocabulary = (
        ["config.json", "generation_config.json", "model.safetensors"],
        ["merges.txt", "vocab.json"],
    )
    assert files(out) == sorted([*weights, *vocabulary, "tokenizer.json", "tokenizer_config.json"])
    assert files(tmp_path / "some" / "new") == [
        "folder",
        *(f"folder/{name}" for name in files(out)),
    ]
    with safe_open(out / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        names = list(file.keys())
    assert "lm_head.weight" not in names and not any("_orig_mod" in name for name in names)
    assert json.loads((out / "config.json").read_text())["dtype"] == "float32"


def test_a_model_with_a_tokenizer_of_bytes_is_exported(tiny_gpt, tmp_path):
    tokenizer = BytesTokenizer(vocab_size=300)
    tokenizer.fit([])
    export_huggingface(tiny_gpt(**SIZES), tokenizer, tmp_path / "out")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").encode(
        TEXT
    ) == tokenizer.encode(TEXT)


def test_safetensors_have_our_names_and_load_as_a_checkpoint(checkpoint, tokenizer, tmp_path):
    file, model = checkpoint(tie_weights=True)
    export_safetensors(
        model, tokenizer, tmp_path / "a" / "out.safetensors", config=load_checkpoint(file).config
    )
    state = safetensors.torch.load_file(tmp_path / "a" / "out.safetensors")
    assert len({"tok_emb.weight", "out_head.weight"} & state.keys()) == 1
    assert {"tok_emb.weight", "out_head.weight", *state} == set(model.state_dict())
    assert files(tmp_path / "a") == ["out.safetensors"]
    again = load_checkpoint(tmp_path / "a" / "out.safetensors")
    assert torch.equal(again.build_model()(IDS), model(IDS))
    assert again.build_tokenizer().encode(TEXT) == tokenizer.encode(TEXT)


class Other(LanguageModel):
    """A model that transformers does not have."""

    vocab_size, context_length = 300, 8
    hidden = new_cache = output_weight = None


def test_another_architecture_is_refused_for_hf_and_told_what_works(tokenizer, tmp_path):
    with pytest.raises(
        ConfigError, match=r"^Other cannot be exported with format=hf.*format=safetensors"
    ):
        export_huggingface(Other(), tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_hugging_face_cannot_have_is_refused(tiny_gpt, tokenizer, tmp_path):
    other = StoredTokenizer(tokenizer.state_dict() | {"pattern": r"\w+|\W+"})
    with pytest.raises(ConfigError, match=r"format=hf: .*only GPT-2's pattern"):
        export_huggingface(tiny_gpt(**SIZES), other, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error"),
    ],
    ids=["the system says so", "safetensors says so"],
)
@pytest.mark.parametrize("format", ["hf", "safetensors"])
def test_a_full_disk_leaves_nothing(checkpoint, tmp_path, monkeypatch, capsys, error, format):
    file, _ = checkpoint()
    monkeypatch.setattr(safetensors.torch, "save_file", lambda *_, **__: raise_(error))
    before = files(tmp_path)
    out = tmp_path / "new" / "parent" / "out.safetensors"
    assert main(["export", f"checkpoint={file}", f"format={format}", f"out={out}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"out ({out}): cannot be written" in line and "nothing is left" in line
    assert files(tmp_path) == before


def raise_(error):
    raise error


def test_an_interrupted_export_leaves_nothing(tiny_gpt, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(
        safetensors.torch, "save_file", lambda *_, **__: raise_(KeyboardInterrupt())
    )
    before = files(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        export_huggingface(tiny_gpt(**SIZES), tokenizer, tmp_path / "out")
    assert files(tmp_path) == before


def test_a_place_that_cannot_be_written_to_is_refused(tiny_gpt, tokenizer, tmp_path):
    (tmp_path / "a file").write_text("x")
    with pytest.raises(ConfigError, match=r"out \(.*a file/out\): cannot be written \(.*a file"):
        export_huggingface(tiny_gpt(**SIZES), tokenizer, tmp_path / "a file" / "out")


@pytest.mark.parametrize("format", ["hf", "safetensors"])
@pytest.mark.parametrize("what", ["a file", "a folder", "a dangling link"])
def test_what_is_there_is_not_replaced(checkpoint, tmp_path, capsys, format, what):
    file, _ = checkpoint()
    out = tmp_path / "out.safetensors"
    if what == "a folder":
        out.mkdir()
        (out / "precious.txt").write_text("x")
    elif what == "a file":
        out.write_text("x")
    else:
        out.symlink_to(tmp_path / "nowhere")
    before = files(tmp_path)
    assert main(["export", f"checkpoint={file}", f"format={format}", f"out={out}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(out) in line and "nothing is overwritten" in line
    assert files(tmp_path) == before


def test_an_empty_folder_may_be_filled(checkpoint, tmp_path, capsys):
    file, model = checkpoint(qkv_bias=True)
    (tmp_path / "out").mkdir()
    assert main(["export", f"checkpoint={file}", f"out={tmp_path / 'out'}"]) == 0
    assert torch.equal(read_back(tmp_path / "out")(IDS), model(IDS))
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert (
        str(tmp_path / "out") in out
        and " MB)" in out
        and "AutoModelForCausalLM.from_pretrained" in out
    )


def test_the_verb_writes_a_file_of_safetensors(checkpoint, tmp_path, capsys):
    file, model = checkpoint()
    out = tmp_path / "new" / "model.safetensors"
    assert main(["export", f"checkpoint={file}", "format=safetensors", f"out={out}"]) == 0
    assert torch.equal(load_checkpoint(out).build_model()(IDS), model(IDS))
    assert f"checkpoint={out}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["out=x", "checkpoint=nowhere"], "no such file or run folder"),
        (["out=x"], "checkpoint: a value is needed"),
        (["checkpoint=x"], "out: a value is needed"),
        (["checkpoint=x", "out=''"], "out: expected non-empty str"),
        (
            ["checkpoint=x", "out=x", "format=onnx"],
            "format: expected 'hf' or 'safetensors', got 'onnx'",
        ),
        (["checkpoint=gpt2", "out=x.bin", "format=safetensors"], "give out=FILE.safetensors"),
        (["checkpoint=x", "out=x.bin", "format=safetensors"], "checkpoint (x): no such file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_of_the_command_line_is_one_line(tmp_path, monkeypatch, capsys, overrides, words):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *overrides]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert files(tmp_path) == []


def test_a_subclass_is_not_exported_as_its_parent(tmp_path):
    """It may compute something else with weights of the same names."""

    class Other(GPT):
        pass

    model = Other(vocab_size=257, context_length=8, emb_dim=12, n_heads=3, n_layers=1)
    with pytest.raises(ConfigError, match="Other cannot be exported"):
        export_huggingface(model, BytesTokenizer(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
