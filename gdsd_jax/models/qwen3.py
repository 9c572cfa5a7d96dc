"""Qwen3, autoregressive, and a2d-qwen3, the denoiser made from it.

Presets, tensor names, special ids and default sampler, as the released config.json files have
them. The two differ in who attends to whom, in the shift and in nothing else: their weights have
the same names and shapes.
"""

from gdsd_jax.models.config import ModelConfig, ids_of

MODEL_TYPES = {"qwen3": "Qwen3ForCausalLM", "a2d-qwen3": "A2DQwen3LMHeadModel"}
AUTOREGRESSIVE, DIFFUSION = "qwen3", "a2d-qwen3"
CONVENTIONS = {
    "qwen3": {"family": "qwen3", "qk_norm": True, "shift": True, "attention": "causal"},
    "a2d-qwen3": {"family": "a2d-qwen3", "qk_norm": True, "shift": False, "attention": "full"},
}
SAMPLERS = {"a2d-qwen3": {"kind": "block", "block_length": 4}}
# the mask is the first id that the tokenizer leaves free
MASK, END_OF_TEXT, END_OF_TURN = 151_669, 151_643, 151_645


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


def tiny(model_type: str) -> ModelConfig:
    """The embedded default; vocabulary and ids are the tokenizer's."""
    return ModelConfig(
        **CONVENTIONS[model_type],
        vocab_size=512,
        d_model=96,
        layers=3,
        heads=4,
        kv_heads=2,
        head_dim=24,
        d_ff=256,
        mask_id=1,
        pad_id=0,
        stop_ids=(0,),
        rope_theta=10_000.0,
        norm_eps=1e-6,
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
} | {f"{model_type.replace('-', '_')}_tiny": tiny(model_type) for model_type in MODEL_TYPES}

# our path -> the checkpoint's tensor; every 2-D tensor but the embedding is stored [out, in] there
TENSORS = {
    "embed.embedding": "model.embed_tokens.weight",
    "layers.attn_norm.scale": "model.layers.{i}.input_layernorm.weight",
    "layers.q.kernel": "model.layers.{i}.self_attn.q_proj.weight",
    "layers.k.kernel": "model.layers.{i}.self_attn.k_proj.weight",
    "layers.v.kernel": "model.layers.{i}.self_attn.v_proj.weight",
    "layers.q_norm.scale": "model.layers.{i}.self_attn.q_norm.weight",
    "layers.k_norm.scale": "model.layers.{i}.self_attn.k_norm.weight",
    "layers.o.kernel": "model.layers.{i}.self_attn.o_proj.weight",
    "layers.mlp_norm.scale": "model.layers.{i}.post_attention_layernorm.weight",
    "layers.gate.kernel": "model.layers.{i}.mlp.gate_proj.weight",
    "layers.up.kernel": "model.layers.{i}.mlp.up_proj.weight",
    "layers.down.kernel": "model.layers.{i}.mlp.down_proj.weight",
    "final_norm.scale": "model.norm.weight",
    "lm_head.kernel": "lm_head.weight",
}

# what the forward assumes; another value in config.json is refused by name
REQUIRED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "rope_scaling": None,
    "use_sliding_window": False,
}

# our field -> its entry of config.json, for all families of this layout
ENTRIES = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "d_ff": "intermediate_size",
    "rope_theta": "rope_theta",
    "norm_eps": "rms_norm_eps",
    "tied": "tie_word_embeddings",
}


def sizes_of(entries: dict) -> dict:
    """The fields of `ENTRIES`; KeyError names what is absent."""
    sizes = {field: entries[entry] for field, entry in ENTRIES.items()}
    return sizes | {"rope_theta": float(sizes["rope_theta"])}


def entries_of(config: ModelConfig, architecture: str) -> dict:
    """The inverse, with the model's type and ids."""
    return {
        "model_type": config.family,
        "architectures": [architecture],
        **{entry: getattr(config, field) for field, entry in ENTRIES.items()},
        "mask_token_id": config.mask_id,
        "pad_token_id": config.pad_id,
        "eos_token_id": config.stop_ids[0],
    }


def config_from_hf(entries: dict) -> ModelConfig:
    """`ModelConfig` from the entries of config.json; KeyError names what is absent."""
    mask_id, pad_id, stop_ids = ids_of(
        entries, mask=MASK, pad=END_OF_TEXT, ends=(END_OF_TURN, END_OF_TEXT)
    )
    return ModelConfig(
        **CONVENTIONS[entries["model_type"]],
        **sizes_of(entries),
        head_dim=entries["head_dim"],
        mask_id=mask_id,
        pad_id=pad_id,
        stop_ids=stop_ids,
    )


def config_to_hf(config: ModelConfig) -> dict:
    """The entries of config.json that lead back to this config; the rest is the class's default."""
    return {
        **entries_of(config, MODEL_TYPES[config.family]),
        "head_dim": config.head_dim,
        **REQUIRED,
    }
