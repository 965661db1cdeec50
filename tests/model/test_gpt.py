import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from firstlight.compose.compose import compose_config
from firstlight.config import build, to_plain
from firstlight.foreign.book import from_book
from firstlight.model.gpt import GPT

pytestmark = pytest.mark.cpu


class BookNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return self.scale * (x - mean) / torch.sqrt(var + 1e-5) + self.shift


class BookGELU(nn.Module):
    def forward(self, x):
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class BookAttention(nn.Module):
    def __init__(self, dim, n_heads, context, drop_rate, qkv_bias):
        super().__init__()
        self.n_heads = n_heads
        self.W_query, self.W_key, self.W_value = (
            nn.Linear(dim, dim, bias=qkv_bias) for _ in range(3)
        )
        self.out_proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(drop_rate)
        self.register_buffer("mask", torch.triu(torch.ones(context, context), diagonal=1))

    def forward(self, x):
        b, t, c = x.shape
        heads = (b, t, self.n_heads, c // self.n_heads)
        q, k, v = (
            w(x).view(heads).transpose(1, 2) for w in (self.W_query, self.W_key, self.W_value)
        )
        scores = (q @ k.transpose(2, 3)).masked_fill(self.mask.bool()[:t, :t], -torch.inf)
        weights = self.dropout(torch.softmax(scores / k.shape[-1] ** 0.5, dim=-1))
        return self.out_proj((weights @ v).transpose(1, 2).reshape(b, t, c))


class BookBlock(nn.Module):
    def __init__(self, dim, n_heads, context, drop_rate, qkv_bias):
        super().__init__()
        self.att = BookAttention(dim, n_heads, context, drop_rate, qkv_bias)
        self.ff = nn.Module()
        self.ff.layers = nn.Sequential(nn.Linear(dim, 4 * dim), BookGELU(), nn.Linear(4 * dim, dim))
        self.norm1, self.norm2 = BookNorm(dim), BookNorm(dim)
        self.drop_shortcut = nn.Dropout(drop_rate)

    def forward(self, x):
        x = x + self.drop_shortcut(self.att(self.norm1(x)))
        return x + self.drop_shortcut(self.ff.layers(self.norm2(x)))


class BookGPT(nn.Module):
    """The book's chapter 4, formula by formula: what `GPT` must compute."""

    def __init__(
        self,
        *,
        vocab_size,
        context_length,
        emb_dim,
        n_heads,
        n_layers,
        drop_rate,
        qkv_bias=False,
        tie_weights=False,
    ):
        super().__init__()
        self.tok_emb, self.pos_emb = (
            nn.Embedding(vocab_size, emb_dim),
            nn.Embedding(context_length, emb_dim),
        )
        self.drop_emb = nn.Dropout(drop_rate)
        self.trf_blocks = nn.Sequential(
            *(
                BookBlock(emb_dim, n_heads, context_length, drop_rate, qkv_bias)
                for _ in range(n_layers)
            )
        )
        self.final_norm = BookNorm(emb_dim)
        self.out_head = nn.Linear(emb_dim, vocab_size, bias=False)
        if tie_weights:
            self.out_head.weight = self.tok_emb.weight

    def forward(self, ids):
        x = self.drop_emb(self.tok_emb(ids) + self.pos_emb(torch.arange(ids.shape[1])))
        return self.out_head(self.final_norm(self.trf_blocks(x)))


CONFIGS = {
    "plain": {},
    "one head": {"n_heads": 1},
    "qkv bias": {"qkv_bias": True},
    "tied": {"tie_weights": True},
    "deep, tied, with bias": {
        "n_layers": 4,
        "tie_weights": True,
        "qkv_bias": True,
        "emb_dim": 32,
        "n_heads": 4,
    },
}


def twins(drop_rate=0.0, **changes):
    """The book's model with random weights, and ours with the same ones."""
    sizes = {
        "vocab_size": 31,
        "context_length": 8,
        "emb_dim": 12,
        "n_heads": 3,
        "n_layers": 2,
        "drop_rate": drop_rate,
    }
    torch.manual_seed(0)
    book, ours = BookGPT(**(sizes | changes)), GPT(**(sizes | changes))
    for parameter in book.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours.load_state_dict(from_book(book.state_dict()))
    return book, ours


def some_ids(batch=2, length=8, vocab=31):
    return torch.randint(vocab, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)], ids=["f32", "f64"]
)
def test_logits_and_gradients_are_those_of_the_books_formulas(changes, dtype, tolerance):
    book, ours = (model.to(dtype).eval() for model in twins(**changes))
    inputs, targets = some_ids(), some_ids().flip(0)

    assert (ours(inputs) - book(inputs)).abs().max() < tolerance

    for model in (book, ours):
        F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
    expected = from_book({name: p.grad for name, p in book.named_parameters()})
    gradients = {name: p.grad for name, p in ours.named_parameters()}
    assert gradients.keys() == expected.keys()
    assert max((gradients[name] - expected[name]).abs().max() for name in expected) < tolerance


def test_dropout_draws_the_random_numbers_that_the_book_draws():
    book, ours = twins(drop_rate=0.3)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = book.train()(some_ids())
        torch.manual_seed(5)
        assert (ours.train()(some_ids()) - expected).abs().max() < 1e-4


def test_an_untrained_model_has_the_weights_that_the_book_draws_with_the_same_seed():
    sizes = {
        "vocab_size": 31,
        "context_length": 8,
        "emb_dim": 12,
        "n_heads": 3,
        "n_layers": 2,
        "drop_rate": 0.1,
    }
    with torch.random.fork_rng():
        torch.manual_seed(123)
        expected = from_book(BookGPT(**sizes).state_dict())
        torch.manual_seed(123)
        weights = GPT(**sizes).state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def from_transformers(theirs):
    """The state dict of a `GPT2LMHeadModel` with our names."""
    renamed = {
        "wte": "tok_emb",
        "wpe": "pos_emb",
        "ln_f": "final_norm",
        "lm_head": "out_head",
        "h": "trf_blocks",
    }
    renamed |= {
        "ln_1": "norm1",
        "ln_2": "norm2",
        "attn": "att",
        "mlp": "ff",
        "c_fc": "layers.0",
        "transformer": None,
    }
    state = {}
    for name, tensor in theirs.items():
        parts = [
            (
                {"mlp": "layers.2", "attn": "out_proj"}[before]
                if part == "c_proj"
                else renamed.get(part, part)
            )
            for before, part in zip(["", *name.split(".")], name.split("."), strict=False)
        ]
        ours = ".".join(filter(None, parts))
        if tensor.dim() == 2 and ".h." in name:
            tensor = tensor.t()  # their Conv1D keeps matrices the other way round
        if "c_attn" in ours:
            for each, part in zip(("W_query", "W_key", "W_value"), tensor.chunk(3), strict=True):
                state[ours.replace("c_attn", each)] = part
        else:
            state[ours] = tensor
    return state


def test_logits_are_those_of_transformers_gpt2():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=31, n_positions=8, n_embd=12, n_head=3, n_layer=2, bos_token_id=0, eos_token_id=0
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    torch.manual_seed(0)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = GPT(
        vocab_size=31,
        context_length=8,
        emb_dim=12,
        n_heads=3,
        n_layers=2,
        qkv_bias=True,
        tie_weights=True,
    )
    ours.load_state_dict(from_transformers(theirs.state_dict()))
    assert (ours.eval()(some_ids()) - theirs(some_ids()).logits).abs().max() < 1e-4


def test_later_tokens_do_not_change_earlier_logits(tiny_gpt):
    # Through gradients: comparing logits of two inputs can miss a leak that happens to be small.
    model, embedded = tiny_gpt(), []
    model.drop_emb.register_forward_hook(lambda _module, _args, output: embedded.append(output))
    logits = model(some_ids())
    for t in range(8):
        (gradient,) = torch.autograd.grad(logits[:, t, 0].sum(), embedded[0], retain_graph=True)
        reached = gradient.abs().sum(dim=-1) > 0  # (B, T)
        assert reached[:, : t + 1].all() and not reached[:, t + 1 :].any()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2_small", 162_419_712),
        ("gpt2_medium", 354_823_168),
        ("gpt2_large", 774_030_080),
        ("gpt2_xl", 1_557_611_200),
    ],
)
def test_configured_models_have_their_published_number_of_parameters(name, parameters):
    config = to_plain(compose_config("train", [f"model={name}", "tokenizer=gpt2"]))
    with torch.device("meta"):
        assert build({"model": config["model"]})["model"]().n_parameters == parameters


def test_tied_weights_share_storage_and_are_counted_once(tiny_gpt):
    tied, untied = tiny_gpt(tie_weights=True), tiny_gpt()
    assert tied.output_weight.data_ptr() == tied.tok_emb.weight.data_ptr()
    assert untied.n_parameters - tied.n_parameters == 31 * 12


def test_gpt2_initialisation_has_the_published_standard_deviations():
    torch.manual_seed(0)
    model = GPT(
        vocab_size=500,
        context_length=64,
        emb_dim=128,
        n_heads=4,
        n_layers=8,
        qkv_bias=True,
        init="gpt2",
    )
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            assert parameter.unique().tolist() == [1.0 if name.endswith("weight") else 0.0], name
        else:
            into_residual = name.endswith(("out_proj.weight", "layers.2.weight"))
            assert parameter.std().item() == pytest.approx(
                0.02 / 4 if into_residual else 0.02, rel=0.03
            ), name


def test_dropout_is_active_in_training_mode_only(tiny_gpt):
    model, ids = tiny_gpt(drop_rate=0.5), some_ids()
    assert torch.equal(model(ids), tiny_gpt(drop_rate=0.0)(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(ValueError, match=r"emb_dim \(100\) must be divisible by n_heads \(3\)"):
        GPT(vocab_size=31, context_length=8, emb_dim=100, n_heads=3, n_layers=1)
