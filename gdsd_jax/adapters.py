"""Low-rank adapters in folders, in the layout of the PEFT library, and summed into weights.

A tree of adapters is {"layers": {projection: {"a": [N, I, r], "b": [N, r, O]}}}, to which one that
was read can add "lm_head": {"a": [I, r], "b": [r, O]}. N layers, I and O the widths of the kernel
[N, I, O] or [I, O] that they change.
"""

from collections.abc import Mapping
import dataclasses
import json
import math

from etils import epath
import numpy as np

from gdsd_jax import hf, hub, json_files
from gdsd_jax.mistakes import prefixed
from gdsd_jax.models import FAMILIES, PROJECTIONS, ModelConfig, merge, param_shapes
from gdsd_jax.types import LazyArray, PyTree

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# Entries that change what is computed. Another value is refused by name; null and empty are off.
REQUIRED = {
    "peft_type": "LORA",
    "bias": "none",
    "fan_in_fan_out": False,
    "use_dora": False,
    "use_qalora": False,
    "use_bdlora": False,
    "lora_bias": False,
    "modules_to_save": None,
    "alpha_pattern": {},
    "rank_pattern": {},
    "layers_to_transform": None,
    "layer_replication": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "kasa_config": None,
    "monteclora_config": None,
}
# `init_lora_weights` that begin so change the base's weights too, which the folder does not hold
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


# ---------------------------------------------------------------- writing


def save(folder, config: ModelConfig, adapters: PyTree, base: str) -> None:
    """Writes adapters of the layers: adapter_model.safetensors and adapter_config.json.

    `base` is the weights they belong to: a folder, or owner/name@hash on the hub.
    """
    folder, tensors, names = epath.Path(folder), {}, FAMILIES[config.family].TENSORS
    for target, pair in adapters["layers"].items():
        for i, name in enumerate(hf.tensor_names(f"layers.{target}.kernel", config)):
            for letter in "ab":
                tensors[adapter_name(name, letter)] = np.asarray(pair[letter][i]).T
    folder.mkdir(parents=True, exist_ok=True)
    plan = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    hf.write_file(folder / WEIGHTS, plan, iter(tensors.values()))
    modules = [
        names[f"layers.{target}.kernel"].removesuffix(".weight") for target in adapters["layers"]
    ]
    entries = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": hub.split(base).name or base,
        "revision": hub.split(base).revision or None,
        "r": config.lora_rank,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        # a pattern, since the last part of a name can also be that of a module outside the layers
        # (LLaDA's ff_out)
        "target_modules": "|".join(modules).replace(".", r"\.").replace("{i}", r"\d+"),
    }
    (folder / CONFIG).write_text(json.dumps(entries, indent=2))


def adapter_name(tensor: str, letter: str) -> str:
    """PEFT's name of "a" or "b" beside a tensor of the base, which ends in "weight"."""
    return f"{PREFIX}{tensor.removesuffix('weight')}lora_{letter.upper()}.weight"


# ---------------------------------------------------------------- reading


def load(folder, config: ModelConfig) -> tuple[ModelConfig, PyTree]:
    """(the config with rank, alpha and targets, adapters in float32) of a folder that PEFT wrote.

    Adapters of the head come too, which `lora_targets` does not name. PEFT scales by alpha over
    the root of the rank where `use_rslora` says so; `lora_alpha` then makes up for it.

    Raises:
      ValueError: no such folder, adapters that are computed otherwise, or that are another
        model's; one line names it.
    """
    folder = epath.Path(folder)
    entries = read_config(folder)
    rank, alpha = entries["r"], float(entries["lora_alpha"])
    if entries.get("use_rslora"):
        alpha *= math.sqrt(rank)
    if not (folder / WEIGHTS).exists():
        raise ValueError(f"{folder}: no {WEIGHTS} there; save the adapters as safetensors")
    pairs = read_pairs(folder / WEIGHTS, config, rank)
    adapters = {}
    for path, pair in pairs.items():
        *groups, name = path.removesuffix(".kernel").split(".")
        (adapters.setdefault(groups[0], {}) if groups else adapters)[name] = pair
    targets = tuple(name for name in PROJECTIONS if name in adapters.get("layers", {}))
    config = dataclasses.replace(config, lora_rank=rank, lora_alpha=alpha, lora_targets=targets)
    return config, adapters


def read_config(folder: epath.Path) -> dict:
    """The entries of adapter_config.json, of which none is refused."""
    path = folder / CONFIG
    if not path.exists():
        raise ValueError(f"{folder}: no {CONFIG} there; give a folder that PEFT saved")
    entries = json_files.read_object(path, "save the adapters again")
    with prefixed(f"{path}: ", "; save the adapters again"):
        json_files.entry(entries, "r", "size")
        json_files.entry(entries, "lora_alpha", "number")
        json_files.entry(entries, "use_rslora", "flag", False)
    for key, wanted in REQUIRED.items():
        value = entries.get(key, wanted)
        if value != wanted and (value or wanted):
            raise ValueError(f"{path}: {key}={value!r} is not supported, only {wanted!r}")
    start = entries.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
        raise ValueError(
            f"{path}: init_lora_weights={start!r} is not supported: these adapters belong to "
            "changed weights, which are not there; convert them to plain ones with PEFT"
        )
    return entries


def read_pairs(file: epath.Path, config: ModelConfig, rank: int) -> dict[str, dict]:
    """{path of a kernel: {"a", "b"}} of adapter_model.safetensors.

    Raises:
      ValueError: tensors that are missing, mis-shaped or of no kernel here; one line names some.
    """
    tensors, shapes = hf.read_header(file), hf.paths_of(param_shapes(config))
    pairs, problems, known = {}, [], set()
    for path in (*(f"layers.{name}.kernel" for name in PROJECTIONS), "lm_head.kernel"):
        if path not in shapes:
            continue  # a tied head
        width_in, width_out = shapes[path].shape[-2:]
        wanted = {"a": (rank, width_in), "b": (width_out, rank)}
        names = {
            letter: [adapter_name(name, letter) for name in hf.tensor_names(path, config)]
            for letter in wanted
        }
        known.update(*names.values())
        if tensors.keys().isdisjoint((*names["a"], *names["b"])):
            continue
        faults = [
            fault
            for letter, shape in wanted.items()
            for name in names[letter]
            if (fault := hf.fault_of(name, tensors.get(name), shape, CONFIG))
        ]
        problems += faults
        if not faults:
            pairs[path] = {
                letter: stack(path, [tensors[name] for name in names[letter]]) for letter in wanted
            }
    problems += [f"unknown {name}" for name in tensors if name not in known]
    if not pairs and not problems:
        problems = ["no adapters"]
    if problems:
        raise ValueError(f"{file}: {hf.first_of(problems)}")
    return pairs


def stack(path: str, parts: list[hf.Tensor]) -> np.ndarray:
    """float32 [N, in, out] of tensors [out, in]; of the head, one without N."""
    every = (slice(None), slice(None))
    found = [np.float32(hf.read_tensor(part, every)).T for part in parts]
    return np.stack(found) if hf.stacked(path) else found[0]


# ---------------------------------------------------------------- merging


def summed(
    params: Mapping, adapters: Mapping, config: ModelConfig, dtype: str | None = None
) -> PyTree:
    """The `LazyArray`s with the adapters summed into each kernel, in float32, as it is read.

    `dtype` is what all are then cast to; None: their own.
    """
    pairs = hf.paths_of(adapters)

    def change(path: str, leaf: LazyArray) -> LazyArray:
        wanted = np.dtype(dtype or leaf.dtype)
        group = path.removesuffix(".kernel")

        def read(index=None):
            *layers, rows, columns = index or (slice(None),) * len(leaf.shape)
            a = pairs[f"{group}.a"][(*layers, rows)]
            b = pairs[f"{group}.b"][(*layers, slice(None), columns)]
            return merge(leaf.read(index), a, b, config.lora_alpha / config.lora_rank, wanted)

        def cast(index=None):
            return leaf.read(index).astype(wanted)

        adapted = path.endswith(".kernel") and f"{group}.a" in pairs
        return dataclasses.replace(leaf, dtype=wanted, read=read if adapted else cast)

    return hf.nested({path: change(path, leaf) for path, leaf in hf.paths_of(params).items()})
