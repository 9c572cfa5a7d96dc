"""Llama, autoregressive, and a2d-llama, the denoiser made from it; SmolLM2 is of this family too.

Presets, tensor names, special ids and default sampler, as the released config.json files have
them. The tensors and entries are also those that Qwen and Dream go on from: their modules say what
they add.
"""

from gdsd_jax import json_files
from gdsd_jax.models.config import ModelConfig, ends_entry, ids_of

MODEL_TYPES = {"llama": "LlamaForCausalLM", "a2d-llama": "A2DLlamaLMHeadModel"}
AUTOREGRESSIVE, DIFFUSION = "llama", "a2d-llama"


def pair_of(model_type: str, **fields) -> dict[str, dict]:
    """CONVENTIONS of an autoregressive model and of the denoiser made from it.

    They differ in who attends to whom, which leaves the first without blocks, in the shift and in
    nothing else: their weights have the same names and shapes.
    """
    both = {
        model_type: {"shift": True, "attention": "causal", "block_length": None},
        f"a2d-{model_type}": {"shift": False, "attention": "full"},
    }
    return {name: {"family": name, **fields, **ways} for name, ways in both.items()}


CONVENTIONS = pair_of("llama")
SAMPLERS = {"a2d-llama": {"kind": "block", "block_length": 4}}


def tiny(conventions: dict) -> ModelConfig:
    """A model for minutes on a CPU; vocabulary and ids are the tokenizer's."""
    return ModelConfig(
        **conventions,
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


SMOLLM2_135M = dict(
    d_model=576,
    layers=30,
    heads=9,
    kv_heads=3,
    head_dim=64,
    d_ff=1536,
    pad_id=2,
    stop_ids=(2,),
    rope_theta=1e5,
    tied=True,
)
LLAMA_3 = dict(
    vocab_size=128_256,
    heads=32,
    kv_heads=8,
    pad_id=128_001,
    stop_ids=(128_001, 128_008, 128_009),
    rope_theta=500_000.0,
)
LLAMA_3P1_8B = LLAMA_3 | dict(
    d_model=4096, layers=32, head_dim=128, d_ff=14_336, rope_scaling=(8.0, 1.0, 4.0, 8192.0)
)
LLAMA_3P2_1B = LLAMA_3 | dict(
    d_model=2048,
    layers=16,
    head_dim=64,
    d_ff=8192,
    tied=True,
    rope_scaling=(32.0, 1.0, 4.0, 8192.0),
)
# Llama has no mask. SmolLM2's words take all rows of its embedding: one more, filled up to what
# meshes divide. Of Llama 3's reserved tokens the first stands for it.
PRESETS = {
    "smollm2_135m": ModelConfig(
        **CONVENTIONS["llama"], **SMOLLM2_135M, vocab_size=49_152, mask_id=None
    ),
    "a2d_smollm2_135m": ModelConfig(
        **CONVENTIONS["a2d-llama"], **SMOLLM2_135M, vocab_size=49_280, mask_id=49_152
    ),
}
PRESETS |= {
    prefix + name: ModelConfig(**CONVENTIONS[model_type], **sizes, mask_id=mask_id)
    for prefix, model_type, mask_id in (("", "llama", None), ("a2d_", "a2d-llama", 128_002))
    for name, sizes in (("llama3p2_1b", LLAMA_3P2_1B), ("llama3p1_8b", LLAMA_3P1_8B))
} | {"llama_tiny": tiny(CONVENTIONS["llama"]), "a2d_llama_tiny": tiny(CONVENTIONS["a2d-llama"])}

# our path -> the checkpoint's tensor; every 2-D tensor but the embedding is stored [out, in] there
TENSORS = {
    "embed.embedding": "model.embed_tokens.weight",
    "layers.attn_norm.scale": "model.layers.{i}.input_layernorm.weight",
    "layers.q.kernel": "model.layers.{i}.self_attn.q_proj.weight",
    "layers.k.kernel": "model.layers.{i}.self_attn.k_proj.weight",
    "layers.v.kernel": "model.layers.{i}.self_attn.v_proj.weight",
    "layers.o.kernel": "model.layers.{i}.self_attn.o_proj.weight",
    "layers.mlp_norm.scale": "model.layers.{i}.post_attention_layernorm.weight",
    "layers.gate.kernel": "model.layers.{i}.mlp.gate_proj.weight",
    "layers.up.kernel": "model.layers.{i}.mlp.up_proj.weight",
    "layers.down.kernel": "model.layers.{i}.mlp.down_proj.weight",
    "final_norm.scale": "model.norm.weight",
    "lm_head.kernel": "lm_head.weight",
}

# what the forward assumes; another value in config.json is refused by name
REQUIRED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
# what config.json of older models leaves out, as transformers' LlamaConfig has it
DEFAULTS = {"rope_theta": 10_000.0, "tie_word_embeddings": False}
# the parameters of scaled rotations, in the order of `ModelConfig.rope_scaling`
SCALING = (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
)

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


# what an entry of `ENTRIES` is, where it is no size
KINDS = {"rope_theta": "number", "rms_norm_eps": "number", "tie_word_embeddings": "flag"}


def sizes_of(entries: dict) -> dict:
    """The fields of `ENTRIES` and head_dim; ValueError names what is absent or of another type."""
    sizes = {
        field: json_files.entry(entries, entry, KINDS.get(entry, "size"))
        for field, entry in ENTRIES.items()
    }
    derived = sizes["d_model"] // sizes["heads"]
    head_dim = json_files.entry(entries, "head_dim", "size", derived)
    return sizes | {"rope_theta": float(sizes["rope_theta"]), "head_dim": head_dim}


def config_of(entries: dict, conventions: dict, ids: dict, **fields) -> ModelConfig:
    """`ModelConfig` of a family of this layout, from the entries of config.json.

    Args:
      conventions: the family's CONVENTIONS.
      ids: what `ids_of` takes besides the entries.
      fields: of the config, which go before those of the entries.

    Raises:
      ValueError: it names the entry that is absent or of another type.
    """
    mask_id, pad_id, stop_ids = ids_of(entries, **ids)
    return ModelConfig(
        **conventions[entries["model_type"]],
        **sizes_of(entries) | {"mask_id": mask_id, "pad_id": pad_id, "stop_ids": stop_ids} | fields,
    )


def ids_for(model_type: str, ids: dict) -> dict:
    """What `ids_of` takes of a family of two types: an autoregressive model has no mask."""
    return ids if model_type.startswith("a2d-") else ids | {"mask": None}


def entries_of(config: ModelConfig, architecture: str) -> dict:
    """The inverse, head_dim apart, with the model's type and ids."""
    return {
        "model_type": config.family,
        "architectures": [architecture],
        **{entry: getattr(config, field) for field, entry in ENTRIES.items()},
        "mask_token_id": config.mask_id,
        "pad_token_id": config.pad_id,
        "eos_token_id": ends_entry(config),
    }


def scaling_of(entries: dict) -> tuple[float, ...] | None:
    """`ModelConfig.rope_scaling` from the entry of that name.

    Raises:
      ValueError: rotations scaled in another way than Llama 3's.
      ValueError: a parameter is absent or no number.
    """
    scaling = entries.get("rope_scaling")
    if scaling is None:
        return None
    if scaling["rope_type"] != "llama3" or scaling.keys() - {"rope_type", *SCALING}:
        raise ValueError(
            f"rope_scaling={scaling!r} is not supported, only rope_type 'llama3' with "
            f"{', '.join(SCALING)}"
        )
    return tuple(float(json_files.entry(scaling, name, "number")) for name in SCALING)


def config_from_hf(entries: dict) -> ModelConfig:
    """`ModelConfig` from the entries of config.json; ValueError names what is wrong."""
    heads = json_files.entry(entries, "num_attention_heads", "size")
    entries = DEFAULTS | {"num_key_value_heads": heads} | entries
    return config_of(entries, CONVENTIONS, {}, rope_scaling=scaling_of(entries))


def config_to_hf(config: ModelConfig) -> dict:
    """The entries of config.json that lead back to this config; the rest is the class's default."""
    scaling = None
    if config.rope_scaling is not None:
        scaling = {"rope_type": "llama3", **dict(zip(SCALING, config.rope_scaling))}
    return {
        **entries_of(config, MODEL_TYPES[config.family]),
        "head_dim": config.head_dim,
        "rope_scaling": scaling,
        **REQUIRED,
    }
