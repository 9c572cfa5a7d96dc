"""SDAR and TraDo: block-causal denoisers that were trained on from Qwen3 (arXiv 2510.06303).

The tensors and the forward are a2d-qwen3's, in blocks of 4 unless config.json's block_size says
otherwise. Most of the released files name no mask token, and their heads are not tied.
"""

import dataclasses

from gdsd_jax import json_files
from gdsd_jax.models import llama, qwen3
from gdsd_jax.models.config import ModelConfig

MODEL_TYPES = {"sdar": "SDARForCausalLM"}
AUTOREGRESSIVE, DIFFUSION = None, "sdar"  # its weights are no longer an autoregressive model's
CONVENTIONS = {"sdar": qwen3.CONVENTIONS["a2d-qwen3"] | {"family": "sdar"}}
SAMPLERS = {"sdar": {"kind": "block", "block_length": 4}}
IDS = dict(mask=qwen3.MASK, pad=qwen3.END_OF_TEXT, ends=(qwen3.END_OF_TEXT, qwen3.END_OF_TURN))

PRESETS = {  # SDAR-Chat, and TraDo at 4b and 8b
    f"sdar_{size}": dataclasses.replace(
        qwen3.PRESETS[f"a2d_qwen3_{size}"], family="sdar", stop_ids=IDS["ends"], tied=False
    )
    for size in ("1p7b", "4b", "8b")
}

TENSORS, REQUIRED = qwen3.TENSORS, qwen3.REQUIRED


def config_from_hf(entries: dict) -> ModelConfig:
    """`ModelConfig` from the entries of config.json; ValueError names what is wrong."""
    head_dim = json_files.entry(entries, "head_dim", "size")
    return llama.config_of(entries, CONVENTIONS, IDS, head_dim=head_dim)


def config_to_hf(config: ModelConfig) -> dict:
    """The entries of config.json that lead back to this config; the rest is the class's default."""
    entries = llama.entries_of(config, MODEL_TYPES[config.family])
    return {**entries, "head_dim": config.head_dim, **REQUIRED}
