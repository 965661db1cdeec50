import pytest
import torch

from firstlight.data.tokenizers.gpt2 import GPT2Tokenizer
from firstlight.foreign.book import from_book
from firstlight.sources import load_checkpoint

pytestmark = pytest.mark.cpu

NORMS = ("norm1", "norm2", "final_norm")
RENAMED = {
    f"{norm}.{ours}": f"{norm}.{book}"
    for norm in NORMS
    for ours, book in {"weight": "scale", "bias": "shift"}.items()
}


def as_the_book_saves_it(model):
    """Our weights under the names of the book's `GPTModel`, with its causal masks."""
    state = {}
    for name, tensor in model.state_dict().items():
        ours = next((n for n in RENAMED if name.endswith(n)), None)
        state[name.replace(ours, RENAMED[ours]) if ours else name] = tensor.clone()
    for layer in range(len(model.trf_blocks)):
        state[f"trf_blocks.{layer}.att.mask"] = torch.triu(
            torch.ones(model.context_length, model.context_length), 1
        )
    return state


def test_names_of_the_book_are_translated_and_masks_dropped(tiny_gpt):
    model = tiny_gpt(qkv_bias=True)
    translated = from_book(as_the_book_saves_it(model))
    assert translated.keys() == model.state_dict().keys()
    assert all(torch.equal(translated[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize(
    "with_optimizer", [False, True], ids=["model.pth", "model_and_optimizer.pth"]
)
def test_both_files_that_the_book_saves_give_its_model(
    tiny_gpt, tmp_path, qkv_bias, with_optimizer
):
    model = tiny_gpt(emb_dim=128, n_heads=2, n_layers=3, qkv_bias=qkv_bias)
    state = as_the_book_saves_it(model)
    optimizer = torch.optim.AdamW(model.parameters())
    saved = (
        {"model_state_dict": state, "optimizer_state_dict": optimizer.state_dict()}
        if with_optimizer
        else state
    )
    torch.save(saved, tmp_path / "model.pth")

    loaded = load_checkpoint(tmp_path / "model.pth").build_model()

    ids = torch.randint(31, (2, 8), generator=torch.Generator().manual_seed(1))
    assert not loaded.training
    assert (loaded.context_length, loaded.vocab_size) == (8, 31)
    assert torch.equal(loaded(ids), model(ids))


def test_a_model_of_the_book_reads_with_gpt2s_tokenizer(tiny_gpt, tmp_path, gpt2_vocabulary):
    model = tiny_gpt(vocab_size=50257, emb_dim=64, n_heads=1, n_layers=1)
    torch.save(as_the_book_saves_it(model), tmp_path / "model.pth")
    tokenizer = load_checkpoint(tmp_path / "model.pth").build_tokenizer()
    assert isinstance(tokenizer, GPT2Tokenizer)
    assert tokenizer.encode("Every effort moves you") == [6109, 3626, 6100, 345]
