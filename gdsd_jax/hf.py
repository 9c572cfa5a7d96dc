"""Hugging Face folders <-> parameter trees, both ways by the family's one table of names.

Nothing here holds more than one stacked array: reading makes a tree of `LazyArray`s, writing goes
leaf by leaf. Folders are local or addresses of an object store.
"""

from collections.abc import Iterator, Mapping, Sequence
import itertools
import json
import math
import os
from typing import NamedTuple
import warnings

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from gdsd_jax import json_files, sharding
from gdsd_jax.mistakes import prefixed
from gdsd_jax.models import FAMILIES, ModelConfig, export_entries, param_shapes
from gdsd_jax.types import LazyArray, PyTree

DTYPES = {"F32": np.dtype("float32"), "F16": np.dtype("float16"), "BF16": np.dtype(jnp.bfloat16)}
CODES = {dtype: code for code, dtype in DTYPES.items()}
INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
BUFFER = ".rotary_emb.inv_freq"  # of older models: what config.json says of rotations
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
SHOWN = 6  # tensors of a fault that are named
EMBEDDING = "embed.embedding"
BLOCK_BYTES = 4 << 20  # of a tensor, read at a time


class Tensor(NamedTuple):
    """Where a tensor lies, and what its file says of it."""

    file: epath.Path
    name: str
    shape: tuple[int, ...]
    code: str  # a key of DTYPES, or another that we do not read
    start: int  # its first byte in the file

    @property
    def dtype(self) -> np.dtype | None:
        """Of its values; None where we do not read them."""
        return DTYPES.get(self.code)

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        return read_tensor(self, index)


def paths_of(tree: PyTree, prefix: str = "") -> dict[str, object]:
    """{"layers.q.kernel": leaf, ...} of a nested dict."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= paths_of(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
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


def stacked(path: str) -> bool:
    """Our leaf has a leading axis of layers."""
    return path.startswith("layers.")


def transposed(path: str) -> bool:
    """Kernels are [in, out] here and [out, in] there."""
    return path.endswith("kernel")


def tensor_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a tensor behind our leaf of that shape."""
    inner = shape[1:] if stacked(path) else shape
    return inner[::-1] if transposed(path) else inner


def fill(out: np.ndarray, values: np.ndarray, path: str) -> np.ndarray:
    """`out` filled with a tensor of our leaf, turned from its layout there to ours or back."""
    if not transposed(path):
        out[...] = values
    else:  # sixteen rows at a time stay in the cache, which is five times as fast as all at once
        for start in range(0, len(values), 16):
            out[:, start : start + 16] = values[start : start + 16].T
    return out


# ---------------------------------------------------------------- reading


def load(
    folder,
    config: ModelConfig,
    dtype: str | None = "float32",
    mesh: jax.sharding.Mesh | None = None,
) -> PyTree:
    """Parameters of a Hugging Face folder as a nested dict of arrays, on the default device or
    sharded over `mesh`.

    With a mesh each host keeps only the slices that its devices hold. `dtype` None keeps the stored
    one. NaN and infinities in the weights warn.

    Raises:
      ValueError: missing, extra or mis-shaped tensors or unreadable files; one line lists the first
        of them.
    """
    lazy = open_folder(folder, config, dtype)
    if mesh is None:
        return jax.tree.map(lambda leaf: jax.device_put(leaf.read()), lazy)
    places = sharding.shardings(mesh, lazy)
    return jax.tree.map(
        lambda leaf, place: jax.make_array_from_callback(leaf.shape, place, leaf.read), lazy, places
    )


def open_folder(folder, config: ModelConfig, dtype: str | None = None) -> PyTree:
    """The parameters of a Hugging Face folder as `LazyArray`s; only the files' headers are read.
    Raises as `load`."""
    folder = epath.Path(folder)
    tensors, problems = tensors_of(folder)
    return open_tensors(folder, tensors, config, dtype, problems)


def open_tensors(
    source,
    tensors: Mapping[str, Tensor | LazyArray],
    config: ModelConfig,
    dtype: str | None = None,
    problems: Sequence[str] = (),
) -> PyTree:
    """The parameters behind a checkpoint's tensors, as `LazyArray`s.

    Args:
      source: where the tensors are from, for errors.
      tensors: by the names that the family gives them; 2-D ones are [out, in].
      problems: what is wrong with them already.

    Raises:
      ValueError: as `load`.
    """
    flat, wanted, problems = {}, set(), list(problems)
    for path, leaf in paths_of(param_shapes(config)).items():
        names = tensor_names(path, config)
        wanted.update(names)
        shape = tensor_shape(path, leaf.shape)
        problems += [fault for name in names if (fault := fault_of(name, tensors.get(name), shape))]
        if not problems:
            parts = [tensors[name] for name in names]
            stored = jnp.result_type(*{part.dtype for part in parts})
            flat[path] = lazy_array(path, leaf.shape, np.dtype(dtype or stored), parts)
    if config.tied:  # the head may be stored once more
        names = [FAMILIES[config.family].TENSORS[path] for path in ("lm_head.kernel", EMBEDDING)]
        wanted.update(names)
        if set(names) <= tensors.keys() and not problems:
            fault = fault_of_head(names, *(tensors[name] for name in names))
            problems += [] if fault is None else [fault]
    problems += [
        f"unknown {name}" for name in tensors if name not in wanted and not name.endswith(BUFFER)
    ]
    if problems:
        raise ValueError(f"{source}: {first_of(problems)}")
    return nested(flat)


def fault_of_head(
    names: Sequence[str], head: Tensor | LazyArray, embedding: Tensor | LazyArray
) -> str | None:
    """What is wrong with a stored head that should be the embedding; None where it is that. Newer
    versions of transformers take another one as it is."""
    step = max(1, BLOCK_BYTES // (8 * embedding.shape[1]))

    def is_same(begin: int) -> bool:
        part = slice(begin, begin + step), slice(None)
        one, other = (tensor.read(part).astype(np.float32) for tensor in (head, embedding))
        return np.array_equal(one, other, equal_nan=True)

    if head.shape == embedding.shape and all(map(is_same, range(0, embedding.shape[0], step))):
        return None
    said = f"{names[0]} is not {names[1]}, though config.json ties them"
    return f"{said}: set tie_word_embeddings=false there"


def first_of(problems: Sequence[str]) -> str:
    """The first problems of a model's tensors, and how many others there are, as a part of a
    line."""
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return "; ".join(problems[:SHOWN]) + more


def fault_of(
    name: str,
    tensor: Tensor | LazyArray | None,
    shape: tuple[int, ...],
    said_by: str = "config.json",
) -> str | None:
    """What is wrong with a tensor of the shape that the file `said_by` asks for; None where nothing
    is."""
    if tensor is None:
        return f"missing {name}"
    if tensor.shape != shape:
        return f"{name} has shape {list(tensor.shape)}, {said_by} says {list(shape)}"
    if tensor.dtype is None:
        return f"{name} is stored as {tensor.code}, known: {', '.join(DTYPES)}"
    return None


def lazy_array(
    path: str, shape: tuple[int, ...], dtype: np.dtype, parts: list[Tensor | LazyArray]
) -> LazyArray:
    """Our leaf over the checkpoint's tensors; each is read by itself, so a stack is never in memory
    twice."""

    def read(index=None) -> np.ndarray:
        index = tuple(index or (slice(None),) * len(shape))
        inner = index[1:] if stacked(path) else index
        chosen = parts[index[0]] if stacked(path) else parts
        out = np.empty([len(range(*part.indices(size))) for part, size in zip(index, shape)], dtype)
        for row, part in zip(out if stacked(path) else out[None], chosen):
            fill(row, part.read(inner[::-1] if transposed(path) else inner), path)
        return out

    return LazyArray(tuple(shape), dtype, read)


def read_tensor(tensor: Tensor, index: tuple[slice, ...]) -> np.ndarray:
    """A slice of a tensor, one of each axis; no more than a block of other values is in memory."""
    rows, *columns = index
    rows, dtype = range(*rows.indices(tensor.shape[0])), DTYPES[tensor.code]
    shape = [len(range(*part.indices(size))) for part, size in zip(index, tensor.shape)]
    values, broken = np.empty(shape, dtype), 0
    row_bytes = math.prod(tensor.shape[1:]) * dtype.itemsize
    step = max(1, BLOCK_BYTES // max(row_bytes, 1))
    with tensor.file.open("rb") as file:
        file.seek(tensor.start + rows.start * row_bytes)
        for first in range(0, len(rows), step):
            count = min(step, len(rows) - first)
            data = file.read(count * row_bytes)
            if len(data) < count * row_bytes:
                raise ValueError(f"{tensor.file}: ends inside {tensor.name}; download it again")
            block = np.frombuffer(data, dtype).reshape(count, *tensor.shape[1:])[:, *columns]
            values[first : first + count] = block
            broken += block.size - np.count_nonzero(np.isfinite(block))
    if broken:
        warnings.warn(
            f"{tensor.file}: {tensor.name} holds {broken} values that are NaN or infinite",
            stacklevel=2,
        )
    return values


def tensors_of(folder: epath.Path) -> tuple[dict[str, Tensor], list[str]]:
    """({name: tensor}, what is wrong with the index), from the index and its shards or from the
    single file. The index alone says which shard's tensor counts, and which tensors there are.

    Raises:
      ValueError: a file is absent or unreadable, one line naming it.
    """
    index = folder / INDEX
    if not index.exists():
        return header_in(folder, WHOLE), []
    places = read_index(index)
    headers = {file: header_in(folder, file) for file in sorted(set(places.values()))}
    tensors = {name: headers[file][name] for name, file in places.items() if name in headers[file]}
    absent = [
        f"{INDEX} places {name} in {file}, which does not hold it"
        for name, file in places.items()
        if name not in tensors
    ]
    return tensors, absent


def header_in(folder: epath.Path, file: str) -> dict[str, Tensor]:
    """`read_header` of a folder's file; ValueError also where it is not there."""
    if not (folder / file).exists():
        if any((folder / name).exists() for name in PICKLED):
            raise ValueError(
                f"{folder}: no {file} there, only pytorch_model.bin, which can run any code: save "
                "the model as safetensors with transformers' save_pretrained"
            )
        raise ValueError(f"{folder}: no {file} there; download the whole model folder")
    return read_header(folder / file)


def read_index(path: epath.Path) -> dict[str, str]:
    """{tensor: the file that holds it}, where several files hold it the one that counts.

    Raises:
      ValueError: it is not of this form; one line names it.
    """
    entries = json_files.read_object(path, "download it again")
    with prefixed(f"{path}: ", "; download it again"):
        places = json_files.entry(entries, "weight_map", "object")
        for name in places:
            file = json_files.entry(places, name, "text")
            if epath.Path(file).name != file:
                raise ValueError(f"{name}={file!r:.60}: give the name of a file beside the index")
    return places


def read_header(path: epath.Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, without their values.

    The file is the length of the header in eight bytes, the header as JSON, then the values of all
    tensors without gaps (https://huggingface.co/docs/safetensors).

    Raises:
      ValueError: the file is not of this form; one line names it.
    """
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            size = file.tell()
            file.seek(0)
            start = 8 + int.from_bytes(file.read(8), "little")
            if not 8 < start <= size:
                raise ValueError("the header does not fit the file")
            header = json_files.parse(file.read(start - 8))
        header.pop("__metadata__", None)
        tensors, end = {}, 0
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, stop = entry["data_offsets"]
            shape, code = tuple(entry["shape"]), entry["dtype"]
            if not all(map(json_files.is_whole, (begin, stop, *shape))):
                raise ValueError(f"{name}: data_offsets and shape are whole numbers")
            fits = code not in DTYPES or stop - begin == size_of(shape, DTYPES[code])
            if begin != end or not fits:
                raise ValueError(f"{name} does not take the bytes that the header says")
            tensors[name] = Tensor(path, name, shape, code, start + begin)
            end = stop
        if start + end != size:
            raise ValueError(f"{size} bytes, the header says {start + end}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: unreadable safetensors file ({error}); download it again"
        ) from None
    return tensors


# ---------------------------------------------------------------- writing


def save(
    folder,
    config: ModelConfig,
    params: PyTree,
    *,
    dtype: str | None = None,
    max_shard_bytes: int = 5 << 30,
    entries: dict | None = None,
) -> None:
    """Writes a folder that Hugging Face's tools load: one file or shards with an index, config.json
    last.

    Leaves are arrays or `LazyArray`s, of which one is in memory at a time. `dtype` None keeps each
    leaf's own. `entries` are those of the config.json that the model came with, which stay where
    they say what is written.

    Raises:
      ValueError: parameters that are not this config's, naming the first difference.
    """
    folder, flat = epath.Path(folder), paths_of(params)
    shapes = {path: leaf.shape for path, leaf in paths_of(param_shapes(config)).items()}
    wrong = shapes.items() ^ {path: tuple(leaf.shape) for path, leaf in flat.items()}.items()
    if wrong:
        raise ValueError(f"parameters do not fit the config, first difference at {min(wrong)[0]}")
    folder.mkdir(parents=True, exist_ok=True)
    dtypes = {path: np.dtype(dtype or leaf.dtype) for path, leaf in flat.items()}
    plan = {
        name: (tensor_shape(path, shapes[path]), dtypes[path])
        for path in flat
        for name in tensor_names(path, config)
    }
    shards = split(plan, max_shard_bytes)
    parts = (tensors_behind(path, leaf, dtypes[path]) for path, leaf in flat.items())
    tensors = itertools.chain.from_iterable(parts)
    for file, names in shards.items():
        part = {name: plan[name] for name in names}
        write_file(folder / file, part, itertools.islice(tensors, len(names)))
    if len(shards) > 1:
        write_index(folder, shards, plan)
    # of what was there before, else it would be what is loaded
    (folder / (WHOLE if len(shards) > 1 else INDEX)).unlink(missing_ok=True)
    written = export_entries(config, entries or {}, dtypes["embed.embedding"].name)
    (folder / "config.json").write_text(json.dumps(written, indent=2))


def write_index(folder, shards: dict, plan: dict) -> None:
    """The index: which file holds each tensor, and the bytes of all."""
    places = {name: file for file, names in shards.items() for name in names}
    total = sum(size_of(*plan[name]) for name in plan)
    (folder / INDEX).write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=2)
    )


def tensors_behind(path: str, leaf, dtype: np.dtype) -> Iterator[np.ndarray]:
    """The checkpoint's tensors behind our leaf, one after another, in the order of their names."""
    values = leaf.read() if isinstance(leaf, LazyArray) else np.asarray(leaf)
    for part in values if stacked(path) else values[None]:
        shape = part.shape[::-1] if transposed(path) else part.shape
        yield fill(np.empty(shape, dtype), part, path)


def size_of(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Bytes of a tensor."""
    return math.prod(shape) * dtype.itemsize


def split(plan: dict[str, tuple], max_shard_bytes: int) -> dict[str, list[str]]:
    """{file: names}, filled in order."""
    groups, size = [[]], 0
    for name, tensor in plan.items():
        if groups[-1] and size + size_of(*tensor) > max_shard_bytes:
            groups, size = [*groups, []], 0
        groups[-1].append(name)
        size += size_of(*tensor)
    if len(groups) == 1:
        return {WHOLE: groups[0]}
    return {
        f"model-{number:05}-of-{len(groups):05}.safetensors": names
        for number, names in enumerate(groups, 1)
    }


def write_file(path: epath.Path, plan: dict[str, tuple], tensors: Iterator[np.ndarray]) -> None:
    """A safetensors file, tensor by tensor: the length of the header, the header as JSON, then the
    values."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, dtype) in plan.items():
        begin, end = end, end + size_of(shape, dtype)
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # values begin at a multiple of eight bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            file.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8))
