"""Denoisers: `make_denoiser(config)` gives pure functions over plain parameter trees."""

import functools

import jax
import jax.numpy as jnp

from gdsd_jax.models.attention import (
    KINDS,
    BlockCausal,
    Causal,
    Doubled,
    Full,
    attention_mask,
    positions_of,
    previous_valid,
)
from gdsd_jax.models.cache import make_cache_fns
from gdsd_jax.models.config import PROJECTIONS, ModelConfig, config_from_json, config_to_json
from gdsd_jax.models.families import (
    FAMILIES,
    MODELS,
    config_from_entries,
    config_from_hf,
    config_to_hf,
    default_sampler,
    export_entries,
    preset,
    to_autoregressive,
    to_denoiser,
    with_blocks,
)
from gdsd_jax.models.kernels import KERNELS, XLA, Kernel, find_kernel, make_splash, xla_attention
from gdsd_jax.models.lora import init_lora, merge
from gdsd_jax.models.quantised import int8_product, product_for, quantise_layers
from gdsd_jax.models.transformer import Transformer
from gdsd_jax.types import Array, Denoiser, PyTree

__all__ = [
    "FAMILIES",
    "KERNELS",
    "MODELS",
    "PROJECTIONS",
    "BlockCausal",
    "Causal",
    "Doubled",
    "Full",
    "Kernel",
    "ModelConfig",
    "attention_mask",
    "config_from_entries",
    "config_from_hf",
    "config_from_json",
    "config_to_hf",
    "config_to_json",
    "default_sampler",
    "export_entries",
    "find_kernel",
    "init_lora",
    "init_params",
    "int8_product",
    "make_denoiser",
    "make_splash",
    "merge",
    "param_shapes",
    "preset",
    "product_for",
    "quantise_layers",
    "to_autoregressive",
    "to_denoiser",
    "with_blocks",
]


def make_denoiser(
    config: ModelConfig,
    attention_kernel: Kernel = XLA,
    place=lambda x: x,
    multiply=int8_product,
) -> Denoiser:
    """The `Denoiser` of a config.

    Args:
      attention_kernel: computes the attention of `features`.
      place: `(x_BxLxD) -> x_BxLxD` says where the states between layers lie on a mesh, as
        `sharding.row_placer` does.
      multiply: `(x_TxI, kernel_IxO, scale_1xO) -> y_TxO`, the product with projections that
        `quantise_layers` made; `product_for` gives a device's.
    """
    module = Transformer(config, attention_kernel.attend, place, multiply)

    def variables(params: PyTree) -> dict:
        collections = {"params": {name: leaf for name, leaf in params.items() if name != "lora"}}
        if "lora" in params:
            collections["lora"] = params["lora"]
        return collections

    def features(params, tokens_BxL, *, valid_BxL=None, positions_BxL=None, attention=None):
        everywhere_BxL = jnp.ones(tokens_BxL.shape, bool) if valid_BxL is None else valid_BxL
        spec = attention or KINDS[config.attention]
        if positions_BxL is None:
            positions_BxL = positions_of(everywhere_BxL, spec)
        mask = attention_kernel.mask(spec, valid_BxL, tokens_BxL.shape[1])
        h_BxLxD = module.apply(variables(params), tokens_BxL, mask, positions_BxL, method="hidden")
        if config.shift:
            previous_BxL = previous_valid(everywhere_BxL, spec)
            h_BxLxD = jnp.take_along_axis(h_BxLxD, previous_BxL[..., None], axis=1)
        return h_BxLxD

    def unembed(params, h):
        return module.apply(variables(params), h, method="logits")

    def bind(trainable, frozen):
        return {**frozen["base"], "lora": trainable} if "base" in frozen else trainable

    def hidden(params, *args):
        return module.apply(variables(params), *args, method="extend")

    init_cache, extend = make_cache_fns(config, attention_kernel, hidden)
    doubled = functools.partial(Doubled, continues=True)
    return Denoiser(config, features, unembed, bind, init_cache, extend, BlockCausal, doubled)


def init_params(config: ModelConfig, rng: Array) -> PyTree:
    """Random float32 weights. Jit it with out_shardings to place them.

    {"embed": {"embedding" [V, D]}, "layers": {"q": {"kernel" [N, D, heads x d]}, ...},
    "final_norm": {"scale" [D]}, "lm_head": {"kernel" [D, V]}}: layers are stacked, and a tied
    model has no lm_head.
    """
    tokens_1x1 = jnp.zeros((1, 1), jnp.int32)
    return Transformer(config, xla_attention).init(rng, tokens_1x1, None, tokens_1x1)["params"]


def param_shapes(config: ModelConfig) -> PyTree:
    """The same tree as abstract arrays."""
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
