"""Hugging Face folders -> parameter trees, from the family's one table (specs/models.md section 0)."""
import json

import jax
import numpy as np
from etils import epath
from safetensors import safe_open

from gdsd_jax.models import FAMILIES, ModelConfig, param_shapes
from gdsd_jax.types import PyTree


def paths_of(tree: PyTree, prefix: str = "") -> dict[str, object]:
    """{"layers.q.kernel": leaf, ...} of a nested dict."""
    flat = {}
    for name, value in tree.items():
        flat |= paths_of(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def nested(flat: dict[str, object]) -> PyTree:
    """The inverse of `paths_of`."""
    tree = {}
    for path, value in flat.items():
        *parents, leaf = path.split(".")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = value
    return tree


def tensor_names(path: str, config: ModelConfig) -> list[str]:
    """The checkpoint's tensors behind one of our leaves: one a layer, or one."""
    name = FAMILIES[config.family].TENSORS[path]
    return [name.format(i=i) for i in range(config.layers)] if "{i}" in name else [name]


def tensor_files(folder: epath.Path) -> dict[str, epath.Path]:
    """{tensor name: file}, from the index or from the single file."""
    index = folder / "model.safetensors.index.json"
    files = {}
    if index.exists():
        named = set(json.loads(index.read_text())["weight_map"].values())
    else:
        named = {"model.safetensors"}
    for name in sorted(named):
        if not (folder / name).exists():
            raise ValueError(f"{folder}: no {name} there; download the whole model folder")
        with open_tensors(folder / name) as tensors:
            files |= dict.fromkeys(tensors.keys(), folder / name)
    return files


def open_tensors(path: epath.Path):
    try:
        return safe_open(str(path), framework="numpy")
    except Exception as error:  # safetensors raises its own type; what users need is the file's name
        raise ValueError(f"{path}: unreadable safetensors file ({error}); download it again") from None


def load(folder, config: ModelConfig, dtype: str = "float32") -> PyTree:
    """Parameters of a Hugging Face folder as a nested dict of arrays on the default device.

    Raises:
      ValueError: a missing, extra or mis-shaped tensor or an unreadable file; one line lists all of them.
    """
    folder = epath.Path(folder)
    files, flat, problems = tensor_files(folder), {}, []
    shapes = paths_of(param_shapes(config))
    wanted = {name: path for path in shapes for name in tensor_names(path, config)}
    problems += [f"missing {name}" for name in wanted if name not in files]
    duplicate = FAMILIES[config.family].TENSORS["lm_head.kernel"] if config.tied else None
    problems += [f"unknown {name}" for name in files if name not in wanted and name != duplicate]
    if problems:
        raise ValueError(f"{folder}: {'; '.join(problems)}")
    for path, shape in shapes.items():
        parts = [read(files[name], name, path) for name in tensor_names(path, config)]
        wrong = {part.shape for part in parts} - {shape.shape[1:] if path.startswith("layers.") else shape.shape}
        if wrong:
            problems.append(f"{path} has shape {wrong.pop()}, config.json says {shape.shape}")
            continue
        stacked = np.stack(parts) if path.startswith("layers.") else parts[0]
        flat[path] = jax.device_put(np.ascontiguousarray(stacked.astype(dtype)))
    if problems:
        raise ValueError(f"{folder}: {'; '.join(problems)}")
    return nested(flat)


def read(file: epath.Path, name: str, path: str) -> np.ndarray:
    with open_tensors(file) as tensors:
        tensor = tensors.get_tensor(name)
    return tensor.T if path.endswith("kernel") else tensor
