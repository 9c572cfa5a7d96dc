"""Denoisers: `make_denoiser(config)` turns a `ModelConfig` into pure functions over plain parameter trees."""
import json

import jax
import jax.numpy as jnp
from etils import epath

from gdsd_jax.models import llada
from gdsd_jax.models.attention import KINDS, BlockCausal, Causal, Full
from gdsd_jax.models.attention import attention_mask, positions_of, previous_valid, xla_attention
from gdsd_jax.models.cache import make_cache_fns
from gdsd_jax.models.config import PROJECTIONS, ModelConfig
from gdsd_jax.models.lora import init_lora
from gdsd_jax.models.transformer import Transformer
from gdsd_jax.types import Array, Denoiser, PyTree

__all__ = [
    "FAMILIES", "MODELS", "PROJECTIONS", "BlockCausal", "Causal", "Full", "ModelConfig", "config_from_hf", "init_lora",
    "init_params", "make_denoiser", "param_shapes",
]  # fmt: skip

FAMILIES = {"llada": llada}
MODELS = {name: preset for family in FAMILIES.values() for name, preset in family.PRESETS.items()}


def make_denoiser(config: ModelConfig, attend=xla_attention) -> Denoiser:
    """The `Denoiser` of a config. `attend(q, k, v, mask)` replaces the attention kernel."""
    module = Transformer(config, attend)

    def variables(params: PyTree) -> dict:
        weights = {name: leaf for name, leaf in params.items() if name != "lora"}
        return {"params": weights, "lora": params["lora"]} if "lora" in params else {"params": weights}

    def features(params, tokens_BxL, *, valid_BxL=None, positions_BxL=None, attention=None):
        everywhere_BxL = jnp.ones(tokens_BxL.shape, bool) if valid_BxL is None else valid_BxL
        if positions_BxL is None:
            positions_BxL = positions_of(everywhere_BxL)
        mask = attention_mask(attention or KINDS[config.attention], valid_BxL, tokens_BxL.shape[1])
        h_BxLxD = module.apply(variables(params), tokens_BxL, mask, positions_BxL, method="hidden")
        if config.shift:
            h_BxLxD = jnp.take_along_axis(h_BxLxD, previous_valid(everywhere_BxL)[..., None], axis=1)
        return h_BxLxD

    def unembed(params, h):
        return module.apply(variables(params), h, method="logits")

    def bind(trainable, frozen):
        return {**frozen["base"], "lora": trainable} if "base" in frozen else trainable

    def hidden(params, *args):
        return module.apply(variables(params), *args, method="extend")

    return Denoiser(config, features, unembed, bind, *make_cache_fns(config, hidden), BlockCausal)


def init_params(config: ModelConfig, rng: Array) -> PyTree:
    """Random float32 weights in the tree of specs/models.md section 0. Jit it with out_shardings to place them."""
    tokens_1x1 = jnp.zeros((1, 1), jnp.int32)
    return Transformer(config, xla_attention).init(rng, tokens_1x1, None, tokens_1x1)["params"]


def param_shapes(config: ModelConfig) -> PyTree:
    """The same tree as abstract arrays."""
    return jax.eval_shape(lambda rng: init_params(config, rng), jax.random.key(0))


def config_from_hf(folder) -> ModelConfig:
    """`ModelConfig` of a Hugging Face folder.

    Raises:
      ValueError: no config.json, an unknown family, or an entry the forward does not support; one line names it.
    """
    path = epath.Path(folder) / "config.json"
    if not path.exists():
        raise ValueError(f"{folder}: no config.json there; give a Hugging Face model folder")
    entries = json.loads(path.read_text())
    name = entries.get("model_type")
    if name not in FAMILIES:
        raise ValueError(f"{path}: unknown model_type {name!r}, known: {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    for key, wanted in family.REQUIRED.items():
        if entries.get(key, wanted) != wanted:
            raise ValueError(f"{path}: {key}={entries[key]!r} is not supported, only {wanted!r}")
    try:
        return family.config_from_hf(entries)
    except KeyError as error:
        raise ValueError(f"{path}: entry {error} is missing") from None
