"""Low-rank adapters: a tree of their own, with the paths of the weights that they change."""

import jax
import jax.numpy as jnp
import numpy as np

from gdsd_jax.models.config import ModelConfig
from gdsd_jax.types import Array, PyTree


def projection_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """[in, out] of each projection of a layer."""
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    width, ff = config.d_model, config.d_ff
    return {
        "q": (width, queries),
        "k": (width, keys),
        "v": (width, keys),
        "o": (queries, width),
        "gate": (width, ff),
        "up": (width, ff),
        "down": (ff, width),
    }


def init_lora(config: ModelConfig, rng: Array) -> PyTree:
    """{"layers": {target: {"a": [N, in, r], "b": [N, r, out]}}}, float32.

    b is zero, so the policy starts unchanged.
    """
    shapes, adapters = projection_shapes(config), {}
    for number, target in enumerate(config.lora_targets):
        width_in, width_out = shapes[target]
        rng_target = jax.random.fold_in(rng, number)
        a = jax.random.normal(rng_target, (config.layers, width_in, config.lora_rank))
        adapters[target] = {
            "a": a / jnp.sqrt(float(width_in)),
            "b": jnp.zeros((config.layers, config.lora_rank, width_out), jnp.float32),
        }
    return {"layers": adapters}


def merge(kernel_NxIxO: np.ndarray, pair: dict, config: ModelConfig, dtype: np.dtype) -> np.ndarray:
    """The kernel with its adapters summed in, layer by layer on the host.

    `pair` holds "a" [N, I, r] and "b" [N, r, O]. Sums are in float32, then cast to `dtype`.
    """
    scale = np.float32(config.lora_alpha / config.lora_rank)
    merged = np.empty(kernel_NxIxO.shape, dtype)
    for n, (a_Ixr, b_rxO) in enumerate(zip(pair["a"], pair["b"])):
        change = np.asarray(a_Ixr, np.float32) @ np.asarray(b_rxO, np.float32)
        merged[n] = kernel_NxIxO[n].astype(np.float32) + scale * change
    return merged
