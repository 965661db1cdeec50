import pytest
import torch
import torch.nn.functional as F
from torch import nn

from firstlight.decoding.beam import BeamSearch
from firstlight.decoding.greedy import Greedy
from firstlight.model.base import LanguageModel
from firstlight.model.cache import KVCache
from firstlight.model.int8 import Int8Linear, quantize_int8

pytestmark = pytest.mark.cpu

BF16 = 2**-8
"""The largest relative error of a number rounded to bfloat16 (8 bits of mantissa), and of one
rounded twice, 2 ** -9 each."""


@pytest.fixture
def linear():
    """A factory of float layers, with rows of very different size."""

    def make(*, bias=True, inputs=48, outputs=40):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layer = nn.Linear(inputs, outputs, bias=bias)
            with torch.no_grad():
                layer.weight *= torch.logspace(-3, 1, outputs)[:, None]
        return layer

    return make


@pytest.fixture
def bigram():
    """A model that leaves its head to `LanguageModel.project`, as docs/extending.md shows it."""

    class Bigram(LanguageModel):
        vocab_size, context_length = 16, 4

        def __init__(self):
            super().__init__()
            self.tok_emb, self.out_head = nn.Embedding(16, 8), nn.Linear(8, 16, bias=False)

        @property
        def output_weight(self):
            return self.out_head.weight

        def hidden(self, ids, cache=None):
            if cache is not None:
                cache.advance(ids.shape[1])
            return self.tok_emb(ids)

        def new_cache(self):
            return KVCache(n_layers=0, context_length=4)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Bigram()


def test_no_weight_is_further_off_than_half_a_step(linear):
    layer = linear()
    rounded = Int8Linear(layer)
    assert rounded.weight.dtype == torch.int8
    step = rounded.scale.float()[:, None]
    # Half a step, and where a scale was rounded down to bfloat16 the largest weight is cut at 127
    # of them.
    assert ((rounded.weight[:, :48] * step - layer.weight).abs() <= step * (0.5 + 1e-3)).all()
    assert (rounded.weight.abs().amax(dim=1) >= 126).all()  # every row uses its whole range


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (3, 5)], ids=str)
@pytest.mark.parametrize(
    "inputs", [1, 12, 17, 31, 32, 48, 100]
)  # torch's kernel itself reads beyond some of them
def test_the_product_is_as_close_as_the_rounding_of_its_factors_allows(linear, bias, shape, inputs):
    layer = linear(bias=bias, inputs=inputs)
    rounded = Int8Linear(layer)
    x = torch.randn(*shape, inputs, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        exact, found = layer(x), rounded(x).float()
    size = x.abs() @ layer.weight.abs().t()  # (..., out), the sum of |x| |w|
    steps = x.abs().sum(dim=-1, keepdim=True) * rounded.scale.float()
    own = 0.0 if layer.bias is None else layer.bias.abs()
    assert found.shape == exact.shape
    assert (
        (found - exact).abs()
        <= steps * 0.501 * (1 + BF16) + BF16 * (size + own) + BF16 * exact.abs()
    ).all()


def test_weights_of_nothing_stay_nothing():
    layer = nn.Linear(8, 4)
    nn.init.zeros_(layer.weight)
    rounded = Int8Linear(layer)
    assert not rounded.weight.any()
    assert torch.equal(rounded(torch.ones(1, 1, 8))[0, 0], layer.bias.bfloat16())


@pytest.mark.parametrize("tie_weights", [False, True], ids=["untied", "tied"])
def test_all_linear_layers_with_the_head_are_in_8_bits_and_the_embeddings_are_not(
    tiny_gpt, tie_weights
):
    model = tiny_gpt(tie_weights=tie_weights)
    embedding = model.tok_emb.weight.detach().bfloat16()
    n_linear = sum(isinstance(module, nn.Linear) for module in model.modules())
    assert quantize_int8(model) is model
    assert not any(isinstance(module, nn.Linear) for module in model.modules())
    assert (
        sum(isinstance(module, Int8Linear) for module in model.modules()) == n_linear == 2 * 6 + 1
    )
    assert isinstance(model.out_head, Int8Linear)
    assert torch.equal(model.tok_emb.weight, embedding)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.device.type == "cpu"


def test_a_head_that_the_model_reads_itself_stays_as_it_is(bigram):
    expected = bigram.bfloat16()(torch.tensor([[1, 2]]))
    assert torch.equal(quantize_int8(bigram)(torch.tensor([[1, 2]])), expected)
    assert len(Greedy().generate(bigram, [[1]], max_new_tokens=6)[0][0].ids) == 6


@pytest.mark.parametrize("tie_weights", [False, True], ids=["untied", "tied"])
def test_the_loss_of_a_trained_model_hardly_changes(tiny_model, tie_weights):
    model = tiny_model(vocab_size=16, context_length=16, emb_dim=24, tie_weights=tie_weights)
    ids = torch.randint(16, (1, 17), generator=torch.Generator().manual_seed(2)).expand(4, -1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def loss():
        return F.cross_entropy(model(ids[:, :-1]).float().flatten(0, 1), ids[:, 1:].flatten())

    for _ in range(40):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        before = loss()
        assert before < 0.2  # of ln 16 = 2.8: it has learned something that there is to lose
        quantize_int8(model)
        assert abs(loss() - before) < 0.05 * before + 0.01


@pytest.mark.parametrize("decoding", [Greedy(), BeamSearch(n_beams=3)], ids=["greedy", "beam"])
def test_a_model_in_8_bits_decodes_batches_with_a_cache(tiny_model, decoding):
    model = quantize_int8(tiny_model())
    found = decoding.generate(model, [[1, 2, 3], [4]], max_new_tokens=9)
    assert [len(row.ids) for [row] in found] == [9, 9]
