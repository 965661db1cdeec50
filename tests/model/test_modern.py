import math

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from firstlight.compose.compose import compose_config
from firstlight.config import build, to_plain
from firstlight.model.modern import ModernGPT, rotated, rotation
from firstlight.training.callbacks.throughput import training_flops_per_token

pytestmark = pytest.mark.cpu

ARCHITECTURES = {
    "Qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, {"qk_norm": True}),
    "Llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {"qk_norm": False}),
}
SHAPES = {
    "heads in pairs": {"n_kv_heads": 3},
    "heads in threes": {"n_kv_heads": 2},
    "one head of keys": {"n_kv_heads": 1},
    "as many as heads": {"n_kv_heads": None},
    "tied": {"tie_weights": True},
    "slow and narrow": {"rope_theta": 1e6, "ff_dim": 20},
}
RENAMED = {
    "tok_emb": "model.embed_tokens", "trf_blocks": "model.layers", "att.W_query": "self_attn.q_proj",
    "att.W_key": "self_attn.k_proj", "att.W_value": "self_attn.v_proj", "att.out_proj": "self_attn.o_proj",
    "att.query_norm": "self_attn.q_norm", "att.key_norm": "self_attn.k_norm", "ff.": "mlp.", "gate": "gate_proj",
    "up.": "up_proj.", "down": "down_proj", "norm1": "input_layernorm", "norm2": "post_attention_layernorm",
    "final_norm": "model.norm", "out_head": "lm_head",
}  # fmt: skip


def some_ids(batch=2, length=8, vocab=31):
    return torch.randint(vocab, (batch, length), generator=torch.Generator().manual_seed(1))


def renamed(name):
    for ours, theirs in RENAMED.items():
        name = name.replace(ours, theirs)
    return name


def their_twin(model, architecture):
    """transformers' model with the weights of `model`."""
    config_class, model_class, _ = ARCHITECTURES[architecture]
    attention, ff = model.trf_blocks[0].att, model.trf_blocks[0].ff
    config = config_class(
        vocab_size=model.vocab_size,
        hidden_size=model.tok_emb.embedding_dim,
        intermediate_size=ff.down.in_features,
        num_hidden_layers=len(model.trf_blocks),
        num_attention_heads=attention.n_heads,
        num_key_value_heads=attention.n_kv_heads,
        head_dim=model.head_dim,
        max_position_embeddings=model.context_length,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": model.rope_theta},
        tie_word_embeddings=model.out_head.weight is model.tok_emb.weight,
        bos_token_id=0,
        eos_token_id=0,
    )
    theirs = model_class(config).eval()
    theirs.load_state_dict({renamed(name): tensor for name, tensor in model.state_dict().items()})
    return theirs


# ---- the same numbers as transformers


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_and_gradients_are_those_of_transformers(tiny_modern, architecture, shape):
    model = tiny_modern(context_length=64, **ARCHITECTURES[architecture][2], **SHAPES[shape])
    theirs, ids = their_twin(model, architecture), some_ids(length=64)
    logits, expected = model(ids), theirs(ids).logits
    print(f"{(logits - expected).abs().max().item():.1e} of {expected.abs().max().item():.1f}")
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)

    for found in (logits, expected):
        F.cross_entropy(found.flatten(0, 1), ids.flip(0).flatten()).backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    assert {renamed(name) for name, _ in model.named_parameters()} == gradients.keys()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[renamed(name)], atol=1e-5, rtol=1e-4)


# ---- positions


def test_scores_depend_on_the_distance_alone():
    generator = torch.Generator().manual_seed(0)
    query, key = (
        torch.randn(1, 1, 1, 8, generator=generator),
        torch.randn(1, 1, 1, 8, generator=generator),
    )

    def score(at, of):
        turned = [
            rotated(x, rotation(torch.tensor([p]), 8, 10_000.0))
            for x, p in ((query, at), (key, of))
        ]
        return float((turned[0] * turned[1]).sum())

    assert score(7, 7) == pytest.approx(float((query * key).sum()), abs=1e-5)
    for distance in (1, 3, 20):
        found = [score(at, at - distance) for at in (20, 21, 100, 900)]
        assert found == pytest.approx([found[0]] * 4, abs=1e-4)
    assert len({round(score(20, 20 - distance), 3) for distance in range(20)}) == 20
    assert score(5, 2) != pytest.approx(score(2, 5), abs=1e-3)  # before is not after


def test_each_pair_turns_at_its_own_speed():
    x = torch.zeros(1, 1, 1, 8)
    x[..., 1] = 1.0  # the second of four pairs
    turned = rotated(x, rotation(torch.tensor([3]), 8, 10_000.0)).flatten().tolist()
    angle = 3 * 10_000.0 ** (-2 / 8)
    assert turned == pytest.approx([0, math.cos(angle), 0, 0, 0, math.sin(angle), 0, 0], abs=1e-6)


def test_positions_of_each_row_are_turned_as_if_it_were_alone():
    x = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0))  # (B, H, T, D)
    positions = torch.tensor([[0, 1, 2, 3], [5, 6, 7, 900]])
    together = rotated(x, rotation(positions, 8, 10_000.0))
    for row in range(2):
        assert torch.equal(
            together[row], rotated(x[row : row + 1], rotation(positions[row], 8, 10_000.0))[0]
        )


@torch.no_grad()
def test_the_order_of_earlier_tokens_matters(tiny_modern):
    model, ids = (
        tiny_modern(n_layers=1),
        torch.tensor([[3, 4, 5]]),
    )  # one layer is blind to order without positions
    assert not torch.allclose(model(ids)[:, -1], model(ids[:, [1, 0, 2]])[:, -1], atol=1e-2)


@torch.no_grad()
def test_a_context_of_any_length_has_the_same_weights(tiny_modern):
    ids, short = some_ids(length=8), tiny_modern(context_length=8)
    long = tiny_modern(context_length=512)
    assert long.state_dict().keys() == short.state_dict().keys()
    assert not [name for name, _ in short.named_buffers()]
    assert torch.equal(long(ids), short(ids))


def test_angles_are_float32_in_a_model_of_bfloat16(tiny_modern):
    model, found = tiny_modern(context_length=1024).bfloat16(), []
    model.trf_blocks[0].register_forward_pre_hook(lambda _module, args: found.extend(args[1]))
    model(some_ids(1, 1024))
    exact = rotation(torch.arange(1024), model.head_dim, model.rope_theta)
    assert all(torch.equal(*pair) for pair in zip(found, exact, strict=True))
    assert exact[0].dtype == torch.float32


# ---- causality, precision, compilation


@pytest.mark.parametrize("changes", [{}, {"qk_norm": False}, {"n_kv_heads": 6}], ids=str)
def test_later_tokens_do_not_change_earlier_logits(tiny_modern, changes):
    # Through gradients: comparing logits of two inputs can miss a leak that happens to be small.
    model, embedded = tiny_modern(**changes), []
    model.drop_emb.register_forward_hook(lambda _module, _args, output: embedded.append(output))
    logits = model(some_ids())
    for t in range(8):
        (gradient,) = torch.autograd.grad(logits[:, t, 0].sum(), embedded[0], retain_graph=True)
        reached = gradient.abs().sum(dim=-1) > 0  # (B, T)
        assert reached[:, : t + 1].all() and not reached[:, t + 1 :].any()


@pytest.mark.parametrize("qk_norm", [True, False])
def test_logits_in_bfloat16_are_those_of_float32_but_for_rounding(tiny_modern, qk_norm):
    model, ids = tiny_modern(qk_norm=qk_norm), some_ids()
    exact = model(ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(ids)
        mixed.float().sum().backward()
        cache = model.new_cache()
        cached = torch.cat([model(part, cache) for part in ids.split(3, dim=1)], dim=1)
    altogether = model.bfloat16()(ids)
    assert mixed.dtype == altogether.dtype == torch.bfloat16
    size = exact.std()
    for found in (mixed, cached, altogether):
        assert (found.float() - exact).std() < 0.03 * size
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.filterwarnings(
    # torch 2.13's own, while its compiler is imported
    r"ignore:`torch.jit.script_method` is deprecated",
    r"ignore:`torch.jit.script` is deprecated",
)
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bf16-mixed"])
def test_it_is_one_graph_for_the_compiler(tiny_modern, autocast):
    from torch._dynamo.testing import CompileCounter

    torch.compiler.reset()
    count, model, ids = CompileCounter(), tiny_modern(drop_rate=0.1), some_ids()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        expected = model(ids)
        model.compile(fullgraph=True, dynamic=False, backend=count)
        assert torch.equal(model(ids), expected)
        model.train()(ids).sum().backward()
    assert count.frame_count == 2  # evaluation and training
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script")
def test_a_compiled_model_computes_the_same(tiny_modern):
    torch.compiler.reset()
    model, ids = tiny_modern(), some_ids()
    expected = model(ids)
    model.compile(fullgraph=True, dynamic=False)
    torch.testing.assert_close(model(ids), expected, atol=1e-5, rtol=1e-5)


def test_dropout_is_active_in_training_mode_only(tiny_modern):
    model, ids = tiny_modern(drop_rate=0.5), some_ids()
    assert torch.equal(model(ids), tiny_modern(drop_rate=0.0)(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))


@pytest.mark.parametrize("place", ["drop_emb", "trf_blocks.1.att", "trf_blocks.1.drop_shortcut"])
def test_each_dropout_has_an_effect_of_its_own(tiny_modern, place):
    model, ids = tiny_modern(drop_rate=0.5), some_ids()
    model.get_submodule(place).train()
    assert not torch.equal(model(ids), model(ids))


# ---- its size, its beginning, what it refuses


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("modern_nano", 11_224_192), ("modern_small", 114_115_584), ("modern_medium", 317_330_432)],
)
def test_configured_models_have_the_number_of_parameters_that_they_say(name, parameters):
    config = to_plain(compose_config("train", [f"model={name}", "tokenizer=gpt2"]))
    with torch.device("meta"):
        assert build({"model": config["model"]})["model"]().n_parameters == parameters


@pytest.mark.parametrize("size", ["nano", "small"])
def test_a_modern_model_has_no_more_matrices_than_the_gpt2_of_its_size(size):
    counts = []
    for name in (f"modern_{size}", {"nano": "nano", "small": "gpt2_small"}[size]):
        config = to_plain(compose_config("train", [f"model={name}", "tokenizer=gpt2"]))
        with torch.device("meta"):
            model = build({"model": config["model"]})["model"]()
        counts.append(sum(p.numel() for p in model.trf_blocks.parameters()))
    assert 0.8 * counts[1] < counts[0] < counts[1]


@pytest.mark.parametrize(
    ("emb_dim", "ff_dim"), [(12, 32), (24, 64), (192, 512), (768, 2048), (1024, 2752)]
)
def test_the_feed_forward_is_eight_thirds_as_wide_in_whole_blocks(emb_dim, ff_dim):
    with torch.device("meta"):
        model = ModernGPT(vocab_size=8, context_length=8, emb_dim=emb_dim, n_heads=2, n_layers=1)
    assert model.trf_blocks[0].ff.down.in_features == ff_dim
    assert 8 / 3 * emb_dim <= ff_dim < 8 / 3 * emb_dim + 32


def test_tied_weights_share_storage_and_are_counted_once(tiny_modern):
    tied, untied = tiny_modern(tie_weights=True), tiny_modern()
    assert tied.output_weight.data_ptr() == tied.tok_emb.weight.data_ptr()
    assert untied.n_parameters - tied.n_parameters == 31 * 24


def test_the_cache_keeps_the_heads_of_keys_alone(tiny_modern):
    model = tiny_modern(n_kv_heads=2)
    cache = model.new_cache()
    model(some_ids(), cache)
    assert [keys.shape for keys in (*cache.keys, *cache.values)] == [(2, 2, 8, 4)] * 4


def test_matrices_begin_with_the_published_standard_deviations():
    torch.manual_seed(0)
    model = ModernGPT(vocab_size=500, context_length=64, emb_dim=128, n_heads=4, n_layers=8)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert parameter.unique().tolist() == [1.0], name
        else:
            into_residual = name.endswith(("out_proj.weight", "down.weight"))
            assert parameter.std().item() == pytest.approx(
                0.02 / 4 if into_residual else 0.02, rel=0.03
            ), name


def test_only_norms_are_no_matrices(tiny_modern):
    vectors = {name for name, p in tiny_modern().named_parameters() if p.dim() != 2}
    assert vectors and all("norm" in name and name.endswith(".weight") for name in vectors)
    assert not any(isinstance(m, nn.Linear) and m.bias is not None for m in tiny_modern().modules())


def test_operations_are_counted_by_the_parameters_and_the_context(tiny_modern):
    model = tiny_modern(context_length=16)
    matrices = sum(
        p.numel() for n, p in model.named_parameters() if p.dim() == 2 and n != "tok_emb.weight"
    )
    attention = (
        2 * 2 * 16 * 24 * 2
    )  # scores and sums, a multiplication and an addition each, T * C, layers
    assert training_flops_per_token(model) == pytest.approx(3 * (2 * matrices + attention))


def test_weights_of_a_tied_model_are_a_head_of_their_own_and_not_the_other_way(tiny_modern):
    tied, untied = tiny_modern(tie_weights=True), tiny_modern()
    weights = {
        name: tensor for name, tensor in tied.state_dict().items() if name != "out_head.weight"
    }
    untied.load_state_dict(untied.adapted(weights))
    assert torch.equal(untied(some_ids()), tied(some_ids()))
    with pytest.raises(ValueError, match="tie_weights must be false"):
        tied.adapted(tiny_modern(seed=1).state_dict())


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"emb_dim": 100, "n_heads": 3}, r"emb_dim \(100\) must be divisible by n_heads \(3\)"),
        ({"n_kv_heads": 4}, r"n_heads \(6\) must be divisible by n_kv_heads \(4\)"),
        ({"n_kv_heads": 12}, r"n_heads \(6\) must be divisible by n_kv_heads \(12\)"),
        ({"emb_dim": 18}, r"emb_dim / n_heads \(3\) must be even"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_each_other_are_refused(tiny_modern, changes, rule):
    with pytest.raises(ValueError, match=rule):
        tiny_modern(**changes)
