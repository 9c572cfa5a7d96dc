"""Dream: presets, tensor names, special ids and default sampler.

arXiv 2508.15487 and the released checkpoints' config.json. It is Qwen2.5's shape, made
bidirectional: q, k and v have biases, and still the state of column i - 1 scores token i.
"""

from gdsd_jax import json_files
from gdsd_jax.models import llama, qwen2
from gdsd_jax.models.config import ModelConfig

MODEL_TYPES = {"Dream": "DreamModel"}
AUTOREGRESSIVE, DIFFUSION = None, "Dream"
CONVENTIONS = {
    "Dream": {"family": "Dream", "qkv_bias": True, "shift": True, "freeze_pad": True},
}
SAMPLERS = {"Dream": {"kind": "dream"}}
MASK, END_OF_TEXT, END_OF_TURN = 151_666, 151_643, 151_645
IDS = dict(mask=MASK, pad=END_OF_TEXT, ends=(END_OF_TEXT, END_OF_TURN))

DREAM_7B = ModelConfig(
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
)
PRESETS = {  # one shape: Dream's Base and Instruct, and the coders that were trained from them
    "dream_7b": DREAM_7B,
    "dream_coder_7b": DREAM_7B,
    "diffucoder_7b": DREAM_7B,
}

TENSORS = qwen2.TENSORS

REQUIRED = qwen2.REQUIRED


def config_from_hf(entries: dict) -> ModelConfig:
    """`ModelConfig` from the entries of config.json; ValueError names what is wrong."""
    width, heads = (
        json_files.entry(entries, name, "size") for name in ("hidden_size", "num_attention_heads")
    )
    return llama.config_of(entries, CONVENTIONS, IDS, head_dim=width // heads)


def config_to_hf(config: ModelConfig) -> dict:
    """The entries of config.json that lead back to this config; the rest is the class's default."""
    entries = llama.entries_of(config, MODEL_TYPES[config.family])
    return {**entries, "bos_token_id": config.stop_ids[0], **REQUIRED}
