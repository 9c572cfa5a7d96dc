"""Dream: presets, tensor names, special ids and default sampler.

arXiv 2508.15487 and the released checkpoints' config.json. It is Qwen2.5's shape, made
bidirectional: q, k and v have biases, and still the state of column i - 1 scores token i.
"""

from gdsd_jax.models import qwen3
from gdsd_jax.models.config import ModelConfig, ids_of

MODEL_TYPES = {"Dream": "DreamModel"}
AUTOREGRESSIVE, DIFFUSION = None, "Dream"
CONVENTIONS = {
    "Dream": {"family": "Dream", "qkv_bias": True, "shift": True, "freeze_pad": True},
}
SAMPLERS = {"Dream": {"kind": "dream"}}
MASK, END_OF_TEXT, END_OF_TURN = 151_666, 151_643, 151_645

PRESETS = {
    "dream_7b": ModelConfig(  # Base and Instruct
        **CONVENTIONS["Dream"],
        vocab_size=152_064,
        d_model=3584,
        layers=28,
        heads=28,
        kv_heads=4,
        head_dim=128,
        d_ff=18_944,
        mask_id=MASK,
        pad_id=END_OF_TEXT,
        stop_ids=(END_OF_TEXT, END_OF_TURN),
        rope_theta=1e6,
        norm_eps=1e-6,
    ),
}

TENSORS = {
    path: name
    for path, name in qwen3.TENSORS.items()
    if not path.endswith(("q_norm.scale", "k_norm.scale"))
}
TENSORS |= {
    f"layers.{p}.bias": TENSORS[f"layers.{p}.kernel"].replace("weight", "bias") for p in "qkv"
}

REQUIRED = {
    "hidden_act": "silu",
    "rope_scaling": None,
    "use_mrope": False,
    "use_sliding_window": False,
}


def config_from_hf(entries: dict) -> ModelConfig:
    """`ModelConfig` from the entries of config.json; KeyError names what is absent."""
    sizes = qwen3.sizes_of(entries)
    mask_id, pad_id, stop_ids = ids_of(
        entries, mask=MASK, pad=END_OF_TEXT, ends=(END_OF_TEXT, END_OF_TURN)
    )
    return ModelConfig(
        **CONVENTIONS["Dream"],
        **sizes,
        head_dim=sizes["d_model"] // sizes["heads"],
        mask_id=mask_id,
        pad_id=pad_id,
        stop_ids=stop_ids,
    )


def config_to_hf(config: ModelConfig) -> dict:
    """The entries of config.json that lead back to this config; the rest is the class's default."""
    entries = qwen3.entries_of(config, MODEL_TYPES[config.family])
    return {**entries, "bos_token_id": config.stop_ids[0], **REQUIRED}
