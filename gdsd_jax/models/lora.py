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

    b is zero, so the policy starts unchanged. a is uniform within 1 / sqrt(in), as in PEFT, whose
    learning rates are published.
    """
    shapes, adapters = projection_shapes(config), {}
    for number, target in enumerate(config.lora_targets):
        width_in, width_out = shapes[target]
        rng_target = jax.random.fold_in(rng, number)
        shape, bound = (config.layers, width_in, config.lora_rank), width_in**-0.5
        adapters[target] = {
            "a": jax.random.uniform(rng_target, shape, minval=-bound, maxval=bound),
            "b": jnp.zeros((config.layers, config.lora_rank, width_out), jnp.float32),
        }
    return {"layers": adapters}


def merge(
    kernel: np.ndarray, a: np.ndarray, b: np.ndarray, scale: float, dtype: np.dtype
) -> np.ndarray:
    """kernel + scale x a b, layer by layer on the host.

    A kernel [N, I, O] with a [N, I, r] and b [N, r, O], or all without N. Sums are in float32, then
    cast to `dtype`.
    """
    merged = np.empty(kernel.shape, dtype)
    single = kernel.ndim == 2
    parts = (x[None] if single else x for x in (merged, kernel, a, b))
    for out_IxO, kernel_IxO, a_Ixr, b_rxO in zip(*parts):
        change_IxO = np.asarray(a_Ixr, np.float32) @ np.asarray(b_rxO, np.float32)
        out_IxO[...] = kernel_IxO.astype(np.float32) + np.float32(scale) * change_IxO
    return merged
