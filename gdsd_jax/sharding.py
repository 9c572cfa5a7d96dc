"""The mesh and who lies where on it; the only file that knows the mesh axes' names.

`data` and `fsdp` split the rows of a batch; `fsdp` and `tensor` split parameters.
"""
import re

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gdsd_jax.types import PyTree

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")

# first match over the parameter's path wins; stacked leaves carry their layer axis first
RULES = (
    (r"embed/embedding$", P("tensor", "fsdp")),
    (r"lm_head/kernel$", P("fsdp", "tensor")),
    (r"layers/(q|k|v|gate|up)/kernel$", P(None, "fsdp", "tensor")),
    (r"layers/(o|down)/kernel$", P(None, "tensor", "fsdp")),
    (r"layers/(q|k|v)/bias$", P(None, "tensor")),
    (r"layers/(q|k|v|gate|up)/a$", P(None, "fsdp", None)),
    (r"layers/(q|k|v|gate|up)/b$", P(None, None, "tensor")),
    (r"layers/(o|down)/a$", P(None, "tensor", None)),
    (r"layers/(o|down)/b$", P(None, None, "fsdp")),
    (r"(norm|_norm)/scale$", P()),
)
LARGE = 1 << 16  # elements; a bigger array that no rule names is a mistake, not something to replicate


def make_mesh(sizes: dict[str, int], devices=None) -> Mesh:
    """Mesh of `data` x `fsdp` x `tensor`; one size may be -1 and takes what is left.

    Raises:
      ValueError: sizes that do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = [sizes.get(axis, 1) for axis in AXES]
    known = int(np.prod([size for size in shape if size != -1]))
    if shape.count(-1) > 1 or min(size for size in [*shape, 1] if size != -1) < 1 or len(devices) % known:
        raise ValueError(f"mesh {dict(zip(AXES, shape))} does not fit {len(devices)} devices")
    shape = [len(devices) // known if size == -1 else size for size in shape]
    if int(np.prod(shape)) != len(devices):
        raise ValueError(f"mesh {dict(zip(AXES, shape))} does not fit {len(devices)} devices")
    # Auto: the partitioner infers what the rules leave open (jax 0.10 defaults to Explicit)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def spec_of(path: str, shape: tuple[int, ...]) -> P:
    """The first rule that matches; scalars and small arrays are replicated."""
    for pattern, spec in RULES:
        if re.search(pattern, path):
            return spec
    if int(np.prod(shape)) > LARGE:
        raise ValueError(f"no sharding rule matches {path} {shape}: add one to sharding.RULES")
    return P()


def shardings(mesh: Mesh, tree: PyTree) -> PyTree:
    """NamedSharding of every leaf of a (possibly abstract) tree: parameters, adapters or optimizer state.

    Raises:
      ValueError: a large leaf without a rule, or an axis that the mesh does not divide.
    """

    def place(keys, leaf):
        path = "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in keys)
        spec = spec_of(path, leaf.shape)
        for size, axis in zip(leaf.shape, spec):
            if axis is not None and size % mesh.shape[axis]:
                raise ValueError(f"{path} {leaf.shape}: {size} is not divisible by mesh axis {axis}={mesh.shape[axis]}")
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, tree)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def rows(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Rows split over `data` and `fsdp`, behind `leading` unsplit axes."""
    return NamedSharding(mesh, P(*[None] * leading, ROWS))


def check_rows(mesh: Mesh, count: int, what: str) -> None:
    """ValueError where `count` rows cannot be split evenly."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if count % parts:
        raise ValueError(f"{what}={count} must be a multiple of the {parts} row shards of mesh {dict(mesh.shape)}")


def global_rows(mesh: Mesh, tree: PyTree) -> PyTree:
    """Host arrays holding this process's rows -> one array over all processes."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(rows(mesh), np.asarray(x)), tree)


def everywhere(mesh: Mesh, tree: PyTree) -> PyTree:
    """The same host value on every device."""
    return jax.device_put(tree, replicated(mesh))
