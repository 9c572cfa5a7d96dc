"""The families: presets, default samplers, and config.json to a `ModelConfig` and back.

A family is a module of data. It states MODEL_TYPES (model_type -> architecture), AUTOREGRESSIVE and
DIFFUSION (the model types that share its weights, or None), CONVENTIONS (model type -> fields of
the config), SAMPLERS (model type -> fields of its default SamplerConfig), PRESETS, TENSORS (our
path -> the checkpoint's tensor), REQUIRED (what the forward assumes of config.json), and the
functions `config_from_hf(entries)` and `config_to_hf(config)`. The length of blocks is read and
written here, for all types whose sampler has blocks.
"""

from collections.abc import Callable
import dataclasses
import functools

from etils import epath

from gdsd_jax import extensions, hf_tokenizer, json_files
from gdsd_jax.mistakes import prefixed
from gdsd_jax.models import dream, llada, llama, qwen2, qwen3, sdar
from gdsd_jax.models.config import ModelConfig

MODULES = (llada, dream, qwen3, qwen2, llama, sdar)
LORA = ("lora_rank", "lora_alpha", "lora_targets")
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
# entries of config.json that tell of the stored weights, not of those that are written
UNTRUE = ("dtype", "quantization_config", "compression_config")
# where rotations may be described
ROPE = ("rope_scaling", "rope_parameters", "rope_theta")
BLOCK = "block_size"  # the entry of config.json that tells the tokens of a block, as in SDAR's
# an entry that families without it may have inherited -> the field that it tells
TWINS = {"tie_word_embeddings": "tied", "mask_id": "mask_id"}
# fields of a `ModelConfig` that config.json tells
TOLD = tuple(
    field.name
    for field in dataclasses.fields(ModelConfig)
    if field.name not in ("tokenizer_size", "dtype", "remat", *LORA)
)
Spelling = Callable[[int], str | None]  # an id's token; None: it stands for none
# how released tokenizers spell the ids that stand in for absent entries, masks apart
SPELLED = {
    llada.END_OF_TEXT: "<|endoftext|>",
    llada.END_OF_TURN: "<|eot_id|>",
    qwen3.END_OF_TEXT: "<|endoftext|>",
    qwen3.END_OF_TURN: "<|im_end|>",
}
# what every forward assumes of config.json, and of autoregressive models besides
COMMON, CAUSAL = {"partial_rotary_factor": 1.0}, {"is_causal": True}
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

    An autoregressive model's is exactly that of blocks of one token. Blocks that the weights have
    learnt with go before those of the type.
    """
    if config.autoregressive:
        return {"kind": "block", "block_length": 1}
    fields = dict(FAMILIES[config.family].SAMPLERS.get(config.family, {}))
    if has_blocks(config.family) and config.block_length is not None:
        fields["block_length"] = config.block_length
    return fields


def has_blocks(model_type: str) -> bool:
    """Whether models of the type attend by blocks."""
    return "block_length" in FAMILIES[model_type].SAMPLERS.get(model_type, {})


def with_blocks(config: ModelConfig, block_length: int | None) -> ModelConfig:
    """The config of weights that have learnt with blocks of so many tokens.

    It is the same for None, and for a type without blocks.
    """
    if block_length is None or not has_blocks(config.family):
        return config
    return dataclasses.replace(config, block_length=block_length)


def config_from_hf(folder) -> ModelConfig:
    """`ModelConfig` of a Hugging Face folder.

    Raises:
      ValueError: no config.json, an unknown family, or an entry that the forward does not support;
        one line names it.
    """
    path = epath.Path(folder) / "config.json"
    if not path.exists():
        raise ValueError(f"{folder}: no config.json there; give a Hugging Face model folder")
    entries = with_generation(folder, json_files.read_object(path))
    return config_from_entries(path, entries, spelling_in(epath.Path(folder)))


def spelling_in(folder: epath.Path) -> Spelling | None:
    """The spelling of ids by a folder's tokenizer, which is read when it is asked for the first
    time; None where there is none that lists its tokens."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        return None

    @functools.cache
    def tokenizer():
        return hf_tokenizer.read_tokenizer(folder, hf_tokenizer.read_settings(folder))

    return lambda i: tokenizer().id_to_token(i)


def with_generation(folder, entries: dict) -> dict:
    """config.json's entries with the ids that generation_config.json says: further ends, and what
    pads where config.json says none.

    Raises:
      ValueError: an id that is none; one line.
    """
    path = epath.Path(folder) / "generation_config.json"
    if not path.exists():
        return entries
    found = json_files.read_object(path)
    with prefixed(f"{path}: "):
        further = as_list(json_files.entry(found, "eos_token_id", "ids", []))
        pad = json_files.entry(found, "pad_token_id", "id", None)
    with prefixed(f"{epath.Path(folder) / 'config.json'}: "):
        ends = as_list(json_files.entry(entries, "eos_token_id", "ids", []))
    if further:
        entries = entries | {"eos_token_id": list(dict.fromkeys([*ends, *further]))}
    if entries.get("pad_token_id") is None:
        entries = entries | {"pad_token_id": pad}
    return entries


def as_list(ids: int | list[int]) -> list[int]:
    """The ids of an entry that may be one alone."""
    return ids if isinstance(ids, list) else [ids]


def config_from_entries(path, entries: dict, spelled: Spelling | None = None) -> ModelConfig:
    """`ModelConfig` of config.json's entries; errors name `path`, where they are from.

    With `spelled`, by the model's tokenizer, released ids stand in for absent entries only where
    they are the same tokens there.

    Raises:
      ValueError: as `config_from_hf`.
    """
    with prefixed(f"{path}: "):
        name = json_files.entry(entries, "model_type", "text", "")
        refuse_other_models(name, entries)
        entries = with_plain_rope(entries)
        refuse_unsupported(entries, FAMILIES[name].REQUIRED)
        if entries.get("num_key_value_heads", ...) is None:
            entries = entries | {"num_key_value_heads": entries.get("num_attention_heads")}
        # null is absent, as it is in Hugging Face's classes
        given = {key: value for key, value in entries.items() if value is not None}
        is_causal = name == FAMILIES[name].AUTOREGRESSIVE
        refuse_unsupported(given, COMMON | (CAUSAL if is_causal else {}))
        config = FAMILIES[name].config_from_hf(given)
        if has_blocks(name):  # elsewhere the entry may mean something else
            config = with_blocks(config, json_files.entry(given, BLOCK, "size", None))
        refuse_outside(config)
    if spelled is not None:
        config = without_strangers(config, given, spelled)
    if config.mask_id is None and name == FAMILIES[name].DIFFUSION:
        raise ValueError(f"{path}: entry 'mask_token_id' is missing; add the mask token's id")
    return config


def refuse_outside(config: ModelConfig) -> None:
    """ValueError where an id has no row in the embedding."""
    for entry, ids in (("pad_token_id", (config.pad_id,)), ("eos_token_id", config.stop_ids)):
        if max(ids) >= config.vocab_size:
            raise ValueError(
                f"{entry}={max(ids)} lies outside the vocabulary of {config.vocab_size}: give the "
                "id of a token that the model has"
            )


def without_strangers(config: ModelConfig, entries: dict, spelled: Spelling) -> ModelConfig:
    """The config without ids that no entry names and that are other tokens than the released."""
    ends = as_list(entries["eos_token_id"])
    same = {i for i, text in SPELLED.items() if spelled(i) == text}
    stop_ids = tuple(i for i in config.stop_ids if i in ends or i in same)
    pad_id, mask_id = config.pad_id, config.mask_id
    is_pad = "pad_token_id" in entries or pad_id in stop_ids or pad_id in same
    if mask_id is not None and "mask_token_id" not in entries:
        text = spelled(mask_id)
        mask_id = mask_id if text is None or "mask" in text.lower() else None
    pad_id = pad_id if is_pad else stop_ids[0]
    return dataclasses.replace(config, mask_id=mask_id, pad_id=pad_id, stop_ids=stop_ids)


def config_to_hf(config: ModelConfig) -> dict:
    """Entries of a config.json that `config_from_hf` reads back as the same config."""
    entries = FAMILIES[config.family].config_to_hf(config)
    if has_blocks(config.family) and config.block_length is not None:
        entries[BLOCK] = config.block_length
    return entries


def export_entries(config: ModelConfig, entries: dict, dtype: str) -> dict:
    """config.json of an exported model, which came with a config.json of these entries.

    They stay as they are where they lead back to the same model; where they do not, ours take
    their place. An entry that tells by another name what ours tell does not stay beside them.
    """
    ours = config_to_hf(config) | {"torch_dtype": dtype}
    theirs = {name: value for name, value in entries.items() if name not in UNTRUE}
    both = ours | theirs | {"torch_dtype": dtype}
    try:
        found = config_from_entries("config.json", both)
    except ValueError:
        found = None
    if found is None or any(getattr(found, name) != getattr(config, name) for name in TOLD):
        both = {name: value for name, value in theirs.items() if name not in ROPE} | ours
    twins = {name: getattr(config, field) for name, field in TWINS.items() if name in both}
    return both | twins


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
    """`rope_theta` and `rope_scaling`, also from transformers 5's `rope_parameters`.

    ValueError where the two entries contradict one another.
    """
    old, new = (
        rope_of(json_files.entry(entries, name, "object", {}))
        for name in ("rope_scaling", "rope_parameters")
    )
    if any(old[name] != new[name] for name in old.keys() & new.keys()):
        raise ValueError(f"rope_scaling={old!r} and rope_parameters={new!r} differ: drop one")
    rope, plain = old | new, entries | {"rope_scaling": None}
    if "rope_theta" in rope:
        plain["rope_theta"] = rope.pop("rope_theta")
    if rope and rope != {"rope_type": "default"}:
        plain["rope_scaling"] = {"rope_type": "default", **rope}
    return plain


def rope_of(entries: dict) -> dict:
    """The entries of rotations, with the kind under its name of today."""
    kind = {"rope_type": entries["type"]} if "type" in entries else {}
    return kind | {name: value for name, value in entries.items() if name != "type"}


def refuse_other_models(name: str, entries: dict) -> None:
    """ValueError that gives the reason why a model_type, or one with experts, cannot be read."""
    if name in REFUSED:
        raise ValueError(f"model_type {name!r} is not supported: {REFUSED[name]}")
    if name not in FAMILIES:
        raise ValueError(f"unknown model_type {name!r}, known: {', '.join(FAMILIES)}")
    for key in EXPERTS:
        if json_files.entry(entries, key, "whole number", 0) > 1:
            raise ValueError(
                f"{key}={entries[key]!r} is not supported: a mixture of experts, and no "
                "forward here routes tokens to experts"
            )


def refuse_unsupported(entries: dict, required: dict) -> None:
    """ValueError naming the first entry whose value the forward does not compute.

    A null counts as off.
    """
    for key, wanted in required.items():
        value = entries.get(key, wanted)
        value = "silu" if value == "swish" else value  # two names of one function
        off = value is None and not wanted
        if value != wanted and not off:
            raise ValueError(f"{key}={value!r} is not supported, only {wanted!r}")
    layer_types = json_files.entry(entries, "layer_types", "list", [])
    if any(kind != "full_attention" for kind in layer_types):
        raise ValueError(f"layer_types={layer_types!r} is not supported, only 'full_attention'")
