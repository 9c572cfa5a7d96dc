"""LLaDA: presets, tensor names and special ids (specs/models.md section 1)."""
from gdsd_jax.models.config import ModelConfig

PRESETS = {
    "llada_8b": ModelConfig(
        family="llada", vocab_size=126_464, d_model=4096, layers=32, heads=32, kv_heads=32, head_dim=128, d_ff=12_288,
        mask_id=126_336, pad_id=126_081, stop_ids=(126_081, 126_348), rope_theta=500_000.0, norm_eps=1e-5,
    ),
    "llada_tiny": ModelConfig(  # the embedded default; the vocabulary is the tokenizer's
        family="llada", vocab_size=512, d_model=96, layers=3, heads=4, kv_heads=4, head_dim=24, d_ff=256,
        mask_id=1, pad_id=0, stop_ids=(0,), rope_theta=10_000.0, norm_eps=1e-5,
    ),
}  # fmt: skip

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
    "block_type": "llama", "activation_type": "silu", "layer_norm_type": "rms", "alibi": False, "rope": True,
    "include_bias": False, "include_qkv_bias": False, "attention_layer_norm": False, "scale_logits": False,
    "input_emb_norm": False,
}  # fmt: skip


def config_from_hf(entries: dict) -> ModelConfig:
    """`ModelConfig` from the entries of config.json; KeyError names what is absent."""
    width, heads = entries["d_model"], entries["n_heads"]
    end = entries["eos_token_id"]
    turn_end = 126_348  # <|eot_id|>, in the vocabulary of the released models only
    return ModelConfig(
        family="llada", vocab_size=entries.get("embedding_size") or entries["vocab_size"], d_model=width,
        layers=entries["n_layers"], heads=heads, kv_heads=entries.get("n_kv_heads") or heads, head_dim=width // heads,
        d_ff=entries["mlp_hidden_size"], mask_id=entries["mask_token_id"], pad_id=entries["pad_token_id"],
        stop_ids=(end, turn_end) if turn_end < entries["vocab_size"] else (end,),
        rope_theta=entries["rope_theta"], norm_eps=entries["rms_norm_eps"], tied=entries["weight_tying"],
    )  # fmt: skip
