"""Qwen3, autoregressive, and a2d-qwen3, the denoiser made from it.

Presets, special ids and default sampler, as the released config.json files have them. It is Llama's
layout with norms of queries and keys.
"""

from gdsd_jax import json_files
from gdsd_jax.models import llama
from gdsd_jax.models.config import ModelConfig

MODEL_TYPES = {"qwen3": "Qwen3ForCausalLM", "a2d-qwen3": "A2DQwen3LMHeadModel"}
AUTOREGRESSIVE, DIFFUSION = "qwen3", "a2d-qwen3"
CONVENTIONS = llama.pair_of("qwen3", qk_norm=True)
SAMPLERS = {"a2d-qwen3": {"kind": "block", "block_length": 4}}
# the mask is the first id that the tokenizer leaves free
MASK, END_OF_TEXT, END_OF_TURN = 151_669, 151_643, 151_645
IDS = dict(mask=MASK, pad=END_OF_TEXT, ends=(END_OF_TURN, END_OF_TEXT))


def released(
    model_type: str, d_model: int, layers: int, heads: int, d_ff: int, tied: bool
) -> ModelConfig:
    """A released size."""
    return ModelConfig(
        **CONVENTIONS[model_type],
        vocab_size=151_936,
        d_model=d_model,
        layers=layers,
        heads=heads,
        kv_heads=8,
        head_dim=128,
        d_ff=d_ff,
        mask_id=MASK,
        pad_id=END_OF_TEXT,
        stop_ids=(END_OF_TURN, END_OF_TEXT),
        rope_theta=1e6,
        norm_eps=1e-6,
        tied=tied,
    )


SIZES = {  # d_model, layers, heads, d_ff, tied
    "0p6b": (1024, 28, 16, 3072, True),
    "1p7b": (2048, 28, 16, 6144, True),
    "4b": (2560, 36, 32, 9728, True),
    "8b": (4096, 36, 32, 12_288, False),
}
PRESETS = {
    f"{model_type.replace('-', '_')}_{size}": released(model_type, *shape)
    for model_type in MODEL_TYPES
    for size, shape in SIZES.items()
} | {
    f"{model_type.replace('-', '_')}_tiny": llama.tiny(CONVENTIONS[model_type])
    for model_type in MODEL_TYPES
}

TENSORS = llama.TENSORS | {
    f"layers.{p}_norm.scale": f"model.layers.{{i}}.self_attn.{p}_norm.weight" for p in "qk"
}

# what the forward assumes; another value in config.json is refused by name
REQUIRED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "rope_scaling": None,
    "use_sliding_window": False,
}


def config_from_hf(entries: dict) -> ModelConfig:
    """`ModelConfig` from the entries of config.json; ValueError names what is wrong."""
    head_dim = json_files.entry(entries, "head_dim", "size")
    ids = llama.ids_for(entries["model_type"], IDS)
    return llama.config_of(entries, CONVENTIONS, ids, head_dim=head_dim)


def config_to_hf(config: ModelConfig) -> dict:
    """The entries of config.json that lead back to this config; the rest is the class's default."""
    entries = llama.entries_of(config, MODEL_TYPES[config.family])
    return {**entries, "head_dim": config.head_dim, **REQUIRED}
