"""The mesh and which array lies where on it; the library's only file that knows its axes' names.

`data` and `fsdp` split the rows of a batch; `fsdp` and `tensor` split parameters.
"""

from collections.abc import Callable, Mapping
import dataclasses
import math
import re

import jax
from jax.experimental import mesh_utils
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from gdsd_jax.types import Denoiser, PyTree

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")
ROLLOUT_WEIGHTS = ("auto", "whole", "split")  # along fsdp, while a rollout goes on

# first match over the parameter's path wins; stacked leaves carry their layer axis first
RULES = (
    (r"embed/embedding$", P("tensor", "fsdp")),
    (r"lm_head/kernel$", P(None, ("fsdp", "tensor"))),  # by words: see `by_vocabulary`
    (r"layers/(q|k|v|gate|up)/kernel$", P(None, "fsdp", "tensor")),
    (r"layers/(o|down)/kernel$", P(None, "tensor", "fsdp")),
    (r"layers/(q|k|v|gate|up)/scale$", P(None, None, "tensor")),  # of int8 kernels, by columns
    (r"layers/(o|down)/scale$", P(None, None, "fsdp")),
    (r"layers/(q|k|v)/bias$", P(None, "tensor")),
    (r"layers/(q|k|v|gate|up)/a$", P(None, "fsdp", None)),
    (r"layers/(q|k|v|gate|up)/b$", P(None, None, ("tensor", "fsdp"))),
    (r"layers/(o|down)/a$", P(None, ("tensor", "fsdp"), None)),
    (r"layers/(o|down)/b$", P(None, None, "fsdp")),
    (r"norm/scale$", P()),
)
# elements; a bigger array that no rule names is a mistake, not something to replicate
LARGE = 1 << 16


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh within a TPU slice; -1 takes what the others leave, see `make_mesh`.

    Attributes:
      data: parts of a batch's rows; each holds whole parameters.
      fsdp: parts of a batch's rows and of the parameters, which each layer collects.
      tensor: parts of each layer's heads and widths; all of them hold the same rows.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


BY_FSDP = {"data": 1, "fsdp": -1}  # all devices hold parts of the parameters


def make_mesh(sizes: Mapping[str, int], devices=None, rows: int | None = None) -> Mesh:
    """Mesh of `data` x `fsdp` x `tensor`; one size may be -1 and takes what is left.

    If `fsdp` and `tensor` both are -1, `fsdp` takes as many devices as `rows` can be split over and
    `tensor` the rest. The sizes are those within a TPU slice: with several slices `data` is that
    much larger, and it alone crosses them.

    Raises:
      ValueError: sizes that do not multiply to the number of devices, or leave it open.
    """
    devices = jax.devices() if devices is None else devices
    slices = len({slice_of(device) for device in devices})
    shape = {axis: sizes.get(axis, 1) for axis in AXES}
    refusal = ValueError(f"mesh {shape} does not fit {len(devices) // slices} devices")
    known = [size for size in shape.values() if size != -1]
    left, rest = divmod(len(devices) // slices, math.prod(known) or 1)
    if rest or min(known, default=1) < 1:
        raise refusal
    both_open = shape["fsdp"] == -1 and shape["tensor"] == -1
    if rows and both_open and shape["data"] != -1:
        shape["fsdp"] = math.gcd(rows // math.gcd(rows, slices * shape["data"]), left)
        left //= shape["fsdp"]
    if list(shape.values()).count(-1) > 1:
        raise ValueError(f"{refusal}: only one size may be -1, or fsdp and tensor both")
    inside = [left if size == -1 else size for size in shape.values()]
    if slices * math.prod(inside) != len(devices):
        raise refusal
    # A side of the physical torus may be cut, as by 32 x 2 on a cube of 4 x 4 x 4.
    settings = dict(devices=devices, allow_split_physical_axes=True)
    if slices == 1:
        grid = mesh_utils.create_device_mesh(inside, **settings)
    else:
        grid = mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1), **settings)
    # Auto: the partitioner infers what the rules leave open (jax 0.10 defaults to Explicit)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def slice_of(device) -> int:
    """Number of a device's TPU slice; 0 for other devices, whose links the caller knows."""
    if device.platform != "tpu":
        return 0
    return getattr(device, "slice_index", None) or 0


def spec_of(path: str, shape: tuple[int, ...]) -> P:
    """The first rule that matches; scalars and small arrays are replicated."""
    for pattern, spec in RULES:
        if re.search(pattern, path):
            return spec
    if int(np.prod(shape)) > LARGE:
        raise ValueError(f"no sharding rule matches {path} {shape}: add one to sharding.RULES")
    return P()


def shardings(mesh: Mesh, tree: PyTree) -> PyTree:
    """NamedSharding of every leaf of a (possibly abstract) tree: parameters, adapters or optimizer
    state.

    Raises:
      ValueError: a large leaf without a rule, or an axis that the mesh does not divide.
    """

    def place(keys, leaf):
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        spec = spec_of(path, leaf.shape)
        for size, part in zip(leaf.shape, spec):
            axes = axes_of(part)
            if size % math.prod(mesh.shape[axis] for axis in axes):
                told = " ".join(f"{axis}={mesh.shape[axis]}" for axis in axes)
                raise ValueError(
                    f"{path} {leaf.shape}: {size} is not divisible by mesh axis {told}"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, tree)


def axes_of(part: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes in one entry of a PartitionSpec."""
    if part is None:
        return ()
    return (part,) if isinstance(part, str) else part


def gathered(places: PyTree) -> PyTree:
    """The same places, but whole along `fsdp`: parameters that no layer has to collect again."""

    def without(part):
        kept = tuple(axis for axis in axes_of(part) if axis != "fsdp")
        if len(kept) == 1:
            return kept[0]
        return kept or None

    def whole(place):
        return NamedSharding(place.mesh, P(*map(without, place.spec)))

    return jax.tree.map(whole, places)


def bytes_per_device(tree: PyTree, places: PyTree) -> int:
    """What one device holds of a (possibly abstract) tree."""

    def size(x, place):
        return math.prod(place.shard_shape(x.shape)) * x.dtype.itemsize

    return sum(jax.tree.leaves(jax.tree.map(size, tree, places)))


def check_vocabulary(mesh: Mesh, words: int) -> None:
    """ValueError where the mesh does not divide a vocabulary of so many words."""
    parts = mesh.shape["fsdp"] * mesh.shape["tensor"]
    if words % parts:
        raise ValueError(f"a vocabulary of {words} is not divisible by fsdp * tensor = {parts}")


def by_vocabulary(mesh: Mesh, denoiser: Denoiser) -> Denoiser:
    """The denoiser whose logits lie split over the vocabulary, for losses.

    States are collected, which are far smaller than the head, and the sums of a softmax cross the
    mesh, one number a token. A sampler's rows stay where they are: see `by_rows`.
    """
    check_vocabulary(mesh, denoiser.config.vocab_size)
    place = row_placer(mesh)

    def unembed(params, h):
        # a chunk is cut out where its rows lie: it alone is collected
        h = constrained(mesh, place(h), "data")
        return constrained(mesh, denoiser.unembed(params, h), "data", ("fsdp", "tensor"))

    return denoiser._replace(unembed=unembed, logit_shards=mesh.size)


def by_rows(mesh: Mesh, denoiser: Denoiser) -> Denoiser:
    """The denoiser whose logits stay with their rows, for samplers, which draw noise row by row."""

    def unembed(params, h):
        return constrained(mesh, denoiser.unembed(params, h), ROWS, "tensor")

    return denoiser._replace(unembed=unembed)


def constrained(mesh: Mesh, x, first, last=None):
    """`x` with its first and last axis split as named, and no other."""
    spec = P(first, *[None] * (x.ndim - 2), last)
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, P())


def rows(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Rows split over `data` and `fsdp`, behind `leading` unsplit axes."""
    return NamedSharding(mesh, P(*[None] * leading, ROWS))


def row_placer(mesh: Mesh) -> Callable:
    """`place(x) -> x` with its rows split, where their number is divisible.

    It is for the states between layers: there the partitioner may follow the parameters' split and
    keep all rows on every device.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"]

    def place(x):
        return x if x.shape[0] % parts else constrained(mesh, x, ROWS)

    return place


def split_attention(mesh: Mesh, attend: Callable) -> Callable:
    """`attend(q, k, v, mask)` [B, L, heads, d] by each device for its own rows and heads.

    The partitioner cannot split the kernels themselves. Rows or heads whose number is not divisible
    are computed by every device. `mask` is a tree of arrays with an entry for each row, or one for
    all.
    """

    def split(q, k, v, mask):
        heads = None if q.shape[2] % mesh.shape["tensor"] else "tensor"
        if heads and k.shape[2] % mesh.shape["tensor"]:
            k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
        rows = None if q.shape[0] % (mesh.shape["data"] * mesh.shape["fsdp"]) else ROWS
        place = P(rows, None, heads)
        places = jax.tree.map(lambda x: P(rows if x.shape[0] == q.shape[0] else None), mask)
        specs = dict(in_specs=(place, place, place, places), out_specs=place)
        # check_vma=False: Pallas kernels do not say along which axes their results differ
        return jax.shard_map(attend, mesh=mesh, check_vma=False, **specs)(q, k, v, mask)

    return split


def row_shards(mesh: Mesh) -> int:
    """Over how many parts of the mesh a batch's rows go round."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


def check_rows(mesh: Mesh, count: int, what: str) -> None:
    """ValueError where `count` rows cannot be split evenly."""
    parts = row_shards(mesh)
    if count % parts:
        raise ValueError(
            f"{what}={count} must be a multiple of the {parts} row shards "
            f"of mesh {dict(mesh.shape)}"
        )


def in_parts(mesh: Mesh, fn: Callable, count: int, *trees: PyTree) -> PyTree:
    """`fn(*trees)` of every count-th row, then of the next ones, and so on, joined again: each part
    has rows of every device. `count` divides a device's rows; every leaf is [B, ...]."""

    def cut(x):
        return x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)

    def joined(x):
        return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])

    parts = jax.tree.map(cut, trees)
    parts = jax.lax.with_sharding_constraint(parts, rows(mesh, leading=1))
    return jax.tree.map(joined, jax.lax.map(lambda one: fn(*one), parts))


def global_rows(mesh: Mesh, tree: PyTree) -> PyTree:
    """Host arrays with all rows, the same in every process -> arrays split over the mesh."""
    return global_arrays(rows(mesh), tree)


def everywhere(mesh: Mesh, tree: PyTree) -> PyTree:
    """The same host value on every device."""
    return global_arrays(replicated(mesh), tree)


def global_arrays(place: NamedSharding, tree: PyTree) -> PyTree:
    """Each process puts its own devices' part of the host arrays there."""

    def put(x):
        return jax.make_array_from_callback(x.shape, place, lambda index: x[index])

    # the transfer is meant, whatever the guard of the loop says
    with jax.transfer_guard_host_to_device("allow"):
        return jax.tree.map(lambda x: put(np.asarray(x)), tree)


def fetch(mesh: Mesh, tree: PyTree) -> PyTree:
    """Arrays as NumPy ones, whole in every process."""
    if jax.process_count() > 1:
        tree = jax.jit(as_it_is, out_shardings=replicated(mesh))(tree)
    return jax.device_get(tree)


def as_it_is(tree: PyTree) -> PyTree:
    """The tree. A function with a name, so that `fetch` compiles it once."""
    return tree
