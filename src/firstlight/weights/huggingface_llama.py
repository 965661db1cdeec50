"""The `config.json` of Llama and of Qwen3 in Hugging Face's format."""

from typing import Any

from firstlight.model.modern import EPS, ModernGPT, TransformerBlock


def llama_config(model: ModernGPT) -> dict[str, Any]:
    """What transformers' `Qwen3Config`, or without QK-norm its `LlamaConfig`, needs to be this model.

    Theirs know dropout of the attention weights alone.
    """
    block = model.trf_blocks[0]
    assert isinstance(block, TransformerBlock)
    is_qwen3 = block.att.query_norm is not None
    own: dict[str, Any] = {"use_sliding_window": False} if is_qwen3 else {"mlp_bias": False}
    return {
        "model_type": "qwen3" if is_qwen3 else "llama",
        "architectures": ["Qwen3ForCausalLM" if is_qwen3 else "LlamaForCausalLM"],
        "max_position_embeddings": model.context_length,
        "hidden_size": model.tok_emb.embedding_dim,
        "intermediate_size": block.ff.down.in_features,
        "num_hidden_layers": len(model.trf_blocks),
        "num_attention_heads": block.att.n_heads,
        "num_key_value_heads": block.att.n_kv_heads,
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": EPS,
        "rope_theta": model.rope_theta,  # for transformers 4 and readers of its time
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "attention_bias": False,
        "attention_dropout": model.drop_emb.p,
        **own,
    }
