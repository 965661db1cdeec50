"""The smallest models of others: the book's `.pth`, Hugging Face's folders, OpenAI's folder; for
tests to spoil.
"""

import json
from pathlib import Path

import torch
from bundle_writer import write_bundle

from firstlight.data.tokenizers.bytes import BytesTokenizer
from firstlight.foreign.export import export_huggingface
from firstlight.foreign.gpt2 import to_gpt2
from firstlight.model.gpt import GPT
from firstlight.model.modern import ModernGPT

SIZES = {"vocab_size": 257, "context_length": 8, "emb_dim": 12, "n_heads": 3, "n_layers": 1}
HPARAMS = {"n_vocab": 257, "n_ctx": 8, "n_embd": 12, "n_head": 3, "n_layer": 1}


def small_gpt(**changes) -> GPT:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT(**(SIZES | {"drop_rate": 0.0} | changes)).eval()


def bytes_tokenizer() -> BytesTokenizer:
    tokenizer = BytesTokenizer()
    tokenizer.fit([])
    return tokenizer


def book_state() -> dict[str, torch.Tensor]:
    """A state dict with the names of the book's `GPTModel`."""
    state = {}
    for name, weight in small_gpt(emb_dim=64, n_heads=1).state_dict().items():
        module, _, kind = name.rpartition(".")
        is_norm = module.rpartition(".")[2] in ("norm1", "norm2", "final_norm")
        state[f"{module}.{ {'weight': 'scale', 'bias': 'shift'}[kind] }" if is_norm else name] = (
            weight
        )
    return state


def write_book(file: Path) -> Path:
    torch.save(book_state(), file)
    return file


def write_huggingface(folder: Path) -> Path:
    export_huggingface(small_gpt(qkv_bias=True, tie_weights=True), bytes_tokenizer(), folder)
    return folder


def write_qwen3(folder: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ModernGPT(**SIZES, n_kv_heads=1)
    export_huggingface(model, bytes_tokenizer(), folder)
    return folder


def write_openai(folder: Path) -> Path:
    folder.mkdir()
    tensors = {}
    for name, weight in to_gpt2(
        small_gpt(qkv_bias=True, tie_weights=True).state_dict(), n_layers=1
    ).items():
        *parts, kind = name.removeprefix("transformer.").replace("h.0", "h0").split(".")
        is_matrix = parts[-1].startswith("c_")
        ends = (
            []
            if parts[-1] in ("wte", "wpe")
            else [{"weight": "w" if is_matrix else "g", "bias": "b"}[kind]]
        )
        content = weight[None] if is_matrix and kind == "weight" else weight
        tensors["/".join(["model", *parts, *ends])] = content.detach().contiguous().numpy()
    write_bundle(folder / "model.ckpt", tensors)
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\n')
    (folder / "hparams.json").write_text(json.dumps(HPARAMS))
    export_huggingface(small_gpt(), bytes_tokenizer(), folder / "hf")
    (folder / "hf" / "vocab.json").rename(folder / "encoder.json")
    (folder / "hf" / "merges.txt").rename(folder / "vocab.bpe")
    for file in (folder / "hf").iterdir():
        file.unlink()
    (folder / "hf").rmdir()
    return folder
