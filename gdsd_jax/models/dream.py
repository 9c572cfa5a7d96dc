"""Dream: presets, tensor names and special ids (specs/models.md section 2).

Qwen2.5's shape, made bidirectional: biases on q, k and v, and still the state of column i - 1 scores token i.
"""
from gdsd_jax.models import qwen3
from gdsd_jax.models.config import ModelConfig, ids_of

MODEL_TYPES = {"Dream": "DreamModel"}
MASK, END_OF_TEXT, END_OF_TURN = 151_666, 151_643, 151_645
CONVENTIONS = {"family": "Dream", "qkv_bias": True, "shift": True, "freeze_pad": True}

PRESETS = {
    "dream_7b": ModelConfig(  # Base and Instruct
        **CONVENTIONS, vocab_size=152_064, d_model=3584, layers=28, heads=28, kv_heads=4, head_dim=128, d_ff=18_944,
        mask_id=MASK, pad_id=END_OF_TEXT, stop_ids=(END_OF_TEXT, END_OF_TURN), rope_theta=1e6, norm_eps=1e-6,
    ),
}  # fmt: skip

TENSORS = {path: name for path, name in qwen3.TENSORS.items() if not path.endswith(("q_norm.scale", "k_norm.scale"))}
TENSORS |= {f"layers.{p}.bias": TENSORS[f"layers.{p}.kernel"].replace("weight", "bias") for p in "qkv"}

REQUIRED = {"hidden_act": "silu", "rope_scaling": None, "use_mrope": False, "use_sliding_window": False}


def config_from_hf(entries: dict) -> ModelConfig:
    """`ModelConfig` from the entries of config.json; KeyError names what is absent."""
    width, heads = entries["hidden_size"], entries["num_attention_heads"]
    mask_id, pad_id, stop_ids = ids_of(entries, mask=MASK, pad=END_OF_TEXT, ends=(END_OF_TEXT, END_OF_TURN))
    return ModelConfig(
        **CONVENTIONS, vocab_size=entries["vocab_size"], d_model=width, layers=entries["num_hidden_layers"],
        heads=heads, kv_heads=entries["num_key_value_heads"], head_dim=width // heads,
        d_ff=entries["intermediate_size"], mask_id=mask_id, pad_id=pad_id, stop_ids=stop_ids,
        rope_theta=float(entries["rope_theta"]), norm_eps=entries["rms_norm_eps"], tied=entries["tie_word_embeddings"],
    )  # fmt: skip


def config_to_hf(config: ModelConfig) -> dict:
    """The entries of config.json that lead back to this config; the rest is the class's default."""
    return {
        "model_type": config.family, "architectures": [MODEL_TYPES[config.family]], "vocab_size": config.vocab_size,
        "hidden_size": config.d_model, "num_hidden_layers": config.layers, "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads, "intermediate_size": config.d_ff, "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_eps, "tie_word_embeddings": config.tied, "mask_token_id": config.mask_id,
        "pad_token_id": config.pad_id, "eos_token_id": config.stop_ids[0], "bos_token_id": config.stop_ids[0],
        **REQUIRED,
    }  # fmt: skip
