"""The families by the `model_type` of their config.json, and that file's translation to a
`ModelConfig` and back."""

import json

from etils import epath

from gdsd_jax.models import dream, llada, qwen3
from gdsd_jax.models.config import ModelConfig

FAMILIES = {
    model_type: family for family in (llada, dream, qwen3) for model_type in family.MODEL_TYPES
}
MODELS = {
    name: preset for family in (llada, dream, qwen3) for name, preset in family.PRESETS.items()
}


def config_from_hf(folder) -> ModelConfig:
    """`ModelConfig` of a Hugging Face folder.

    Raises:
      ValueError: no config.json, an unknown family, or an entry the forward does not support; one
        line names it.
    """
    path = epath.Path(folder) / "config.json"
    if not path.exists():
        raise ValueError(f"{folder}: no config.json there; give a Hugging Face model folder")
    try:
        entries = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not readable JSON ({error}); copy it again") from None
    name = entries.get("model_type")
    if name not in FAMILIES:
        raise ValueError(f"{path}: unknown model_type {name!r}, known: {', '.join(FAMILIES)}")
    entries = with_plain_rope(entries)
    refuse_unsupported(path, entries, FAMILIES[name].REQUIRED)
    try:
        return FAMILIES[name].config_from_hf(entries)
    except KeyError as error:
        raise ValueError(f"{path}: entry {error} is missing") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def config_to_hf(config: ModelConfig) -> dict:
    """Entries of a config.json that `config_from_hf` reads back as the same config."""
    return FAMILIES[config.family].config_to_hf(config)


def to_denoiser(config: ModelConfig) -> ModelConfig:
    """The block-causal student that starts from an autoregressive Qwen3's weights."""
    return qwen3.as_type(config, "a2d-qwen3")


def to_autoregressive(config: ModelConfig) -> ModelConfig:
    """The autoregressive model whose weights a student started from: its teacher."""
    return qwen3.as_type(config, "qwen3")


def with_plain_rope(entries: dict) -> dict:
    """transformers 5 writes `rope_parameters` where earlier versions write `rope_theta` and
    `rope_scaling`."""
    rope = dict(entries.get("rope_parameters") or entries.get("rope_scaling") or {})
    theta = rope.pop("rope_theta", None)
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    scaling = None if kind == "default" and not rope else {"rope_type": kind, **rope}
    return entries | {"rope_scaling": scaling} | ({} if theta is None else {"rope_theta": theta})


def refuse_unsupported(path, entries: dict, required: dict) -> None:
    """ValueError naming the first entry whose value the forward does not compute; null counts as
    off."""
    for key, wanted in required.items():
        value = entries.get(key, wanted)
        if value != wanted and not (value is None and not wanted):
            raise ValueError(f"{path}: {key}={value!r} is not supported, only {wanted!r}")
    if any(kind != "full_attention" for kind in entries.get("layer_types") or ()):
        raise ValueError(
            f"{path}: layer_types={entries['layer_types']!r} is not supported, "
            "only 'full_attention'"
        )
