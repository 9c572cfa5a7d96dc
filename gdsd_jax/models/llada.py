"""LLaDA: presets, tensor names, special ids and default sampler.

arXiv 2502.09992 and the released checkpoints' config.json.
"""

from gdsd_jax import json_files
from gdsd_jax.models.config import ModelConfig, ends_entry, ids_of

MODEL_TYPES = {"llada": "LLaDAModelLM"}  # model_type -> architecture, as config.json has them
AUTOREGRESSIVE, DIFFUSION = None, "llada"  # model types; None: there is no such model
CONVENTIONS = {"llada": {"family": "llada"}}  # the fields that follow from a model type
SAMPLERS = {"llada": {"kind": "llada"}}  # model type -> fields of its default SamplerConfig
MASK, END_OF_TEXT, END_OF_TURN = 126_336, 126_081, 126_348

LLADA_8B = ModelConfig(
    **CONVENTIONS["llada"],
    vocab_size=126_464,
    d_model=4096,
    layers=32,
    heads=32,
    kv_heads=32,
    head_dim=128,
    d_ff=12_288,
    mask_id=MASK,
    pad_id=END_OF_TEXT,
    stop_ids=(END_OF_TEXT, END_OF_TURN),
    rope_theta=500_000.0,
    norm_eps=1e-5,
)
PRESETS = {
    "llada_8b": LLADA_8B,  # Base and Instruct
    "llada_1p5": LLADA_8B,
    "llada_tiny": ModelConfig(  # the embedded default; the vocabulary is the tokenizer's
        **CONVENTIONS["llada"],
        vocab_size=512,
        d_model=96,
        layers=3,
        heads=4,
        kv_heads=4,
        head_dim=24,
        d_ff=256,
        mask_id=1,
        pad_id=0,
        stop_ids=(0,),
        rope_theta=10_000.0,
        norm_eps=1e-5,
    ),
}

# our path -> the checkpoint's tensor; every 2-D tensor but the embedding is stored [out, in] there
TENSORS = {
    "embed.embedding": "model.transformer.wte.weight",
    "layers.attn_norm.scale": "model.transformer.blocks.{i}.attn_norm.weight",
    "layers.q.kernel": "model.transformer.blocks.{i}.q_proj.weight",
    "layers.k.kernel": "model.transformer.blocks.{i}.k_proj.weight",
    "layers.v.kernel": "model.transformer.blocks.{i}.v_proj.weight",
    "layers.o.kernel": "model.transformer.blocks.{i}.attn_out.weight",
    "layers.mlp_norm.scale": "model.transformer.blocks.{i}.ff_norm.weight",
    "layers.gate.kernel": "model.transformer.blocks.{i}.ff_proj.weight",
    "layers.up.kernel": "model.transformer.blocks.{i}.up_proj.weight",
    "layers.down.kernel": "model.transformer.blocks.{i}.ff_out.weight",
    "final_norm.scale": "model.transformer.ln_f.weight",
    "lm_head.kernel": "model.transformer.ff_out.weight",
}

# what the forward assumes; another value in config.json is refused by name
REQUIRED = {
    "block_type": "llama",
    "activation_type": "silu",
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "alibi": False,
    "rope": True,
    "rope_scaling": None,
    "include_bias": False,
    "include_qkv_bias": False,
    "bias_for_layer_norm": False,
    "attention_layer_norm": False,
    "multi_query_attention": False,
    "clip_qkv": None,
    "scale_logits": False,
    "input_emb_norm": False,
}


def config_from_hf(entries: dict) -> ModelConfig:
    """`ModelConfig` from the entries of config.json; ValueError names what is wrong."""

    def size(name: str, default=json_files.REQUIRED) -> int:
        return json_files.entry(entries, name, "size", default)

    width, heads = size("d_model"), size("n_heads")
    mask_id, pad_id, stop_ids = ids_of(
        entries, mask=MASK, pad=END_OF_TEXT, ends=(END_OF_TEXT, END_OF_TURN)
    )
    return ModelConfig(
        **CONVENTIONS["llada"],
        vocab_size=size("embedding_size", size("vocab_size")),
        d_model=width,
        layers=size("n_layers"),
        heads=heads,
        kv_heads=size("n_kv_heads", heads),
        head_dim=width // heads,
        d_ff=size("mlp_hidden_size"),
        mask_id=mask_id,
        pad_id=pad_id,
        stop_ids=stop_ids,
        rope_theta=float(json_files.entry(entries, "rope_theta", "number")),
        norm_eps=json_files.entry(entries, "rms_norm_eps", "number"),
        tied=json_files.entry(entries, "weight_tying", "flag"),
    )


def config_to_hf(config: ModelConfig) -> dict:
    """The entries of config.json that lead back to this config; the rest is the class's default."""
    return {
        "model_type": config.family,
        "architectures": [MODEL_TYPES[config.family]],
        "vocab_size": config.vocab_size,
        "embedding_size": config.vocab_size,
        "d_model": config.d_model,
        "n_layers": config.layers,
        "n_heads": config.heads,
        "n_kv_heads": config.kv_heads,
        "mlp_hidden_size": config.d_ff,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_eps,
        "weight_tying": config.tied,
        "mask_token_id": config.mask_id,
        "pad_token_id": config.pad_id,
        "eos_token_id": ends_entry(config),
        **REQUIRED,
    }
