"""The families: presets, default samplers, and config.json to a `ModelConfig` and back.

A family is a module of data. It states MODEL_TYPES (model_type -> architecture), AUTOREGRESSIVE and
DIFFUSION (the model types that share its weights, or None), CONVENTIONS (model type -> fields of
the config), SAMPLERS (model type -> fields of its default SamplerConfig), PRESETS, TENSORS (our
path -> the checkpoint's tensor), REQUIRED (what the forward assumes of config.json), and the
functions `config_from_hf(entries)` and `config_to_hf(config)`.
"""

import dataclasses
import json

from etils import epath

from gdsd_jax import extensions
from gdsd_jax.models import dream, llada, llama, qwen2, qwen3, sdar
from gdsd_jax.models.config import ModelConfig

MODULES = (llada, dream, qwen3, qwen2, llama, sdar)
FAMILIES = {model_type: family for family in MODULES for model_type in family.MODEL_TYPES}
MODELS = {name: config for family in MODULES for name, config in family.PRESETS.items()}
# model_type -> why a model that users may try is not computed here
REFUSED = {
    "lladamoe": "a mixture of experts, and no forward here routes tokens to experts",
    "llada2_moe": "a mixture of experts with partial rotations, and no forward here has either",
    "sdar_moe": "a mixture of experts, and no forward here routes tokens to experts",
    "diffusion_gemma": (
        "its noise is random tokens instead of masks, and all scores and samplers here are those "
        "of masks"
    ),
    "Fast_dLLM_Qwen": (
        "it unmasks sub-blocks of 8 inside of blocks of 32 that attend as a whole, and no sampler "
        "here does"
    ),
}
# entries of config.json that count experts
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def preset(name: str) -> ModelConfig:
    """A preset of `MODELS`, or the PRESET of a .py file.

    Raises:
      ValueError: an unknown name, a file whose PRESET is no `ModelConfig`, or one of a family that
        there is not.
    """
    config = extensions.load(name, MODELS, "PRESET", what="model")
    if not isinstance(config, ModelConfig):
        kind = type(config).__name__
        raise ValueError(f"model={name}: PRESET is a {kind}, give a models.ModelConfig")
    if config.family not in FAMILIES:
        raise ValueError(
            f"model={name}: unknown family {config.family!r}, known: {', '.join(FAMILIES)}"
        )
    return config


def default_sampler(config: ModelConfig) -> dict:
    """The fields of `SamplerConfig` that the model's type asks for.

    An autoregressive model's is exactly that of blocks of one token.
    """
    if config.autoregressive:
        return {"kind": "block", "block_length": 1}
    return dict(FAMILIES[config.family].SAMPLERS.get(config.family, {}))


def config_from_hf(folder) -> ModelConfig:
    """`ModelConfig` of a Hugging Face folder.

    Raises:
      ValueError: no config.json, an unknown family, or an entry that the forward does not support;
        one line names it.
    """
    path = epath.Path(folder) / "config.json"
    if not path.exists():
        raise ValueError(f"{folder}: no config.json there; give a Hugging Face model folder")
    try:
        entries = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not readable JSON ({error}); copy it again") from None
    return config_from_entries(path, entries)


def config_from_entries(path, entries: dict) -> ModelConfig:
    """`ModelConfig` of config.json's entries; errors name `path`, where they are from.

    Raises:
      ValueError: as `config_from_hf`.
    """
    name = entries.get("model_type")
    refuse_other_models(path, name, entries)
    entries = with_plain_rope(entries)
    refuse_unsupported(path, entries, FAMILIES[name].REQUIRED)
    try:
        config = FAMILIES[name].config_from_hf(entries)
    except KeyError as error:
        raise ValueError(f"{path}: entry {error} is missing") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    if config.mask_id is None and name == FAMILIES[name].DIFFUSION:
        raise ValueError(f"{path}: entry 'mask_token_id' is missing; add the mask token's id")
    return config


def config_to_hf(config: ModelConfig) -> dict:
    """Entries of a config.json that `config_from_hf` reads back as the same config."""
    return FAMILIES[config.family].config_to_hf(config)


def to_denoiser(config: ModelConfig) -> ModelConfig:
    """The denoiser that starts from an autoregressive model's weights.

    Raises:
      ValueError: a family without an autoregressive model.
    """
    return as_type(config, "DIFFUSION", "a denoiser of another type")


def to_autoregressive(config: ModelConfig) -> ModelConfig:
    """The autoregressive model whose weights a denoiser started from: its teacher.

    Raises:
      ValueError: a family without an autoregressive model.
    """
    return as_type(config, "AUTOREGRESSIVE", "autoregressive")


def as_type(config: ModelConfig, role: str, said: str) -> ModelConfig:
    """The same weights as another model type, the family's AUTOREGRESSIVE or DIFFUSION."""
    with_both = [one for one in MODULES if one.AUTOREGRESSIVE and one.DIFFUSION]
    family = FAMILIES[config.family]
    if family not in with_both:
        pairs = "; ".join(f"{one.AUTOREGRESSIVE} and {one.DIFFUSION}" for one in with_both)
        raise ValueError(
            f"a {config.family} model cannot become {said}: only {pairs} share weights"
        )
    return dataclasses.replace(config, **family.CONVENTIONS[getattr(family, role)])


def with_plain_rope(entries: dict) -> dict:
    """`rope_theta` and `rope_scaling`, also from transformers 5's `rope_parameters`."""
    rope = dict(entries.get("rope_parameters") or entries.get("rope_scaling") or {})
    theta = rope.pop("rope_theta", None)
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    plain = entries | {"rope_scaling": None}
    if kind != "default" or rope:
        plain["rope_scaling"] = {"rope_type": kind, **rope}
    if theta is not None:
        plain["rope_theta"] = theta
    return plain


def refuse_other_models(path, name: str | None, entries: dict) -> None:
    """ValueError that gives the reason why a model_type, or one with experts, cannot be read."""
    if name in REFUSED:
        raise ValueError(f"{path}: model_type {name!r} is not supported: {REFUSED[name]}")
    if name not in FAMILIES:
        raise ValueError(f"{path}: unknown model_type {name!r}, known: {', '.join(FAMILIES)}")
    for key in EXPERTS:
        if (entries.get(key) or 0) > 1:
            raise ValueError(
                f"{path}: {key}={entries[key]!r} is not supported: a mixture of experts, and no "
                "forward here routes tokens to experts"
            )


def refuse_unsupported(path, entries: dict, required: dict) -> None:
    """ValueError naming the first entry whose value the forward does not compute.

    A null counts as off.
    """
    for key, wanted in required.items():
        value = entries.get(key, wanted)
        off = value is None and not wanted
        if value != wanted and not off:
            raise ValueError(f"{path}: {key}={value!r} is not supported, only {wanted!r}")
    layer_types = entries.get("layer_types") or ()
    if any(kind != "full_attention" for kind in layer_types):
        raise ValueError(
            f"{path}: layer_types={layer_types!r} is not supported, only 'full_attention'"
        )
