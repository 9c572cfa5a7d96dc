"""Low-rank adapters as a tree of their own, with the same paths as the weights they stand beside."""
import jax
import jax.numpy as jnp

from gdsd_jax.models.config import ModelConfig
from gdsd_jax.types import Array, PyTree


def projection_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """[in, out] of each projection of a layer."""
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    width, ff = config.d_model, config.d_ff
    return {
        "q": (width, queries), "k": (width, keys), "v": (width, keys), "o": (queries, width),
        "gate": (width, ff), "up": (width, ff), "down": (ff, width),
    }  # fmt: skip


def init_lora(config: ModelConfig, rng: Array) -> PyTree:
    """{"layers": {target: {"a": [N, in, r], "b": [N, r, out]}}} float32; b is zero, so the policy starts unchanged."""
    shapes, adapters = projection_shapes(config), {}
    for number, target in enumerate(config.lora_targets):
        width_in, width_out = shapes[target]
        a = jax.random.normal(jax.random.fold_in(rng, number), (config.layers, width_in, config.lora_rank))
        adapters[target] = {
            "a": a / jnp.sqrt(float(width_in)),
            "b": jnp.zeros((config.layers, config.lora_rank, width_out), jnp.float32),
        }
    return {"layers": adapters}
