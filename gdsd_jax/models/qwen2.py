"""Qwen2 and Qwen2.5, autoregressive, and a2d-qwen2, the denoiser made from them.

Presets, special ids and default sampler, as the released config.json files have them. It is
Llama's layout with biases on q, k and v.
"""

from gdsd_jax.models import llama
from gdsd_jax.models.config import ModelConfig

MODEL_TYPES = {"qwen2": "Qwen2ForCausalLM", "a2d-qwen2": "A2DQwen2LMHeadModel"}
AUTOREGRESSIVE, DIFFUSION = "qwen2", "a2d-qwen2"
CONVENTIONS = llama.pair_of("qwen2", qkv_bias=True)
SAMPLERS = {"a2d-qwen2": {"kind": "block", "block_length": 4}}
# the mask is the first id that the tokenizer leaves free
MASK, END_OF_TEXT, END_OF_TURN = 151_665, 151_643, 151_645
IDS = dict(mask=MASK, pad=END_OF_TEXT, ends=(END_OF_TURN, END_OF_TEXT))

SIZES = {  # vocab_size, d_model, layers, heads, kv_heads, head_dim, d_ff, tied; Coder has the same
    "0p5b": (151_936, 896, 24, 14, 2, 64, 4864, True),
    "1p5b": (151_936, 1536, 28, 12, 2, 128, 8960, True),
    "7b": (152_064, 3584, 28, 28, 4, 128, 18_944, False),
}


def released(model_type: str, vocab_size: int, *sizes, tied: bool) -> ModelConfig:
    """A released size; the sizes are d_model, layers, heads, kv_heads, head_dim and d_ff."""
    names = ("d_model", "layers", "heads", "kv_heads", "head_dim", "d_ff")
    return ModelConfig(
        **CONVENTIONS[model_type],
        vocab_size=vocab_size,
        **dict(zip(names, sizes)),
        mask_id=MASK,
        pad_id=END_OF_TEXT,
        stop_ids=(END_OF_TURN, END_OF_TEXT),
        rope_theta=1e6,
        norm_eps=1e-6,
        tied=tied,
    )


PRESETS = {
    f"{prefix}qwen2p5_{size}": released(model_type, *sizes, tied=tied)
    for prefix, model_type in (("", "qwen2"), ("a2d_", "a2d-qwen2"))
    for size, (*sizes, tied) in SIZES.items()
} | {
    "qwen2_tiny": llama.tiny(CONVENTIONS["qwen2"]),
    "a2d_qwen2_tiny": llama.tiny(CONVENTIONS["a2d-qwen2"]),
}

TENSORS = llama.TENSORS | {
    f"layers.{p}.bias": llama.TENSORS[f"layers.{p}.kernel"].replace("weight", "bias") for p in "qkv"
}

REQUIRED = {
    "hidden_act": "silu",
    "rope_scaling": None,
    "use_mrope": False,
    "use_sliding_window": False,
}


def config_from_hf(entries: dict) -> ModelConfig:
    """`ModelConfig` from the entries of config.json; ValueError names what is wrong."""
    return llama.config_of(entries, CONVENTIONS, llama.ids_for(entries["model_type"], IDS))


def config_to_hf(config: ModelConfig) -> dict:
    """The entries of config.json that lead back to this config; the rest is the class's default."""
    entries = llama.entries_of(config, MODEL_TYPES[config.family])
    return {**entries, "head_dim": config.head_dim, **REQUIRED}
