"""GPT-2's `config.json` in Hugging Face's format."""

from typing import Any

from firstlight.model.gpt import GPT, TransformerBlock


def gpt2_config(model: GPT) -> dict[str, Any]:
    """What transformers' `GPT2Config` needs to be this model."""
    block = model.trf_blocks[0]
    assert isinstance(block, TransformerBlock)
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_positions": model.context_length,
        "n_embd": model.tok_emb.embedding_dim,
        "n_layer": len(model.trf_blocks),
        "n_head": block.att.n_heads,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), model.drop_emb.p),
    }
