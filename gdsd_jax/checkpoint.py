"""Checkpoints by orbax: device state as arrays, the host's part as JSON; visible only when
complete."""

import ctypes
import functools
import json

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from gdsd_jax import paths
from gdsd_jax.types import LazyArray, PyTree


class OtherSettings(ValueError):
    """A checkpoint does not hold what the run's config asks for."""


class Checkpoints:
    """The checkpoints of one run, newest last.

    A checkpoint is `{"state": tree of arrays, "host": JSON}` under its iteration number.
    """

    def __init__(self, folder, keep: int = 2):
        """Makes no folder: what is asked for first does, and it writes."""
        self.folder, self.keep = paths.absolute(folder), keep
        # on CPUs what is written lies in the memory that the next update needs, and the same cores
        # compress it
        self.beside = jax.default_backend() != "cpu"

    @functools.cached_property
    def manager(self) -> ocp.CheckpointManager:
        """Orbax's; from then on the folder is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # the devices may be busy, with a rollout that a stop interrupts: processes meet without
        # them, and each array is written whole from its first copy, where parts of all copies would
        # be cut out on the devices
        together = ocp.options.MultiprocessingOptions(
            active_processes=set(range(jax.process_count()))
        )
        arrays = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
        registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
        handlers = {
            "state": ocp.PyTreeCheckpointHandler(
                type_handler_registry=registry, multiprocessing_options=together
            ),
            "host": ocp.JsonCheckpointHandler(multiprocessing_options=together),
        }
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self.keep,
            create=False,
            multiprocessing_options=together,
            enable_async_checkpointing=self.beside,
        )
        return ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def save(self, iteration: int, state: PyTree, host: dict) -> None:
        """Starts writing, on CPUs writes; arrays may be donated when this returns."""
        if self.manager.latest_step() == iteration:
            return
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), host=ocp.args.JsonSave(host))
        self.manager.save(iteration, args=items)
        if not self.beside:
            trim_heap()

    def latest(self) -> int | None:
        """The newest complete checkpoint; None where there is none."""
        return self.manager.latest_step() if self.folder.is_dir() else None

    def names(self, iteration: int) -> set[str]:
        """The entries of the state's outermost dict."""
        return set(self.manager.item_metadata(iteration).state.tree)

    def host(self, iteration: int) -> dict:
        return self.manager.restore(
            iteration, args=ocp.args.Composite(host=ocp.args.JsonRestore())
        ).host

    def restore(self, iteration: int, abstract: PyTree) -> PyTree:
        """The state, placed as the abstract arrays' shardings say.

        Raises:
          OtherSettings: it holds other arrays or shapes; one line names the folder and the mend.
        """
        stored = self.manager.item_metadata(iteration).state.tree
        wrong = first_difference(stored, abstract)
        if wrong is not None:
            raise OtherSettings(
                f"{self.folder}: checkpoint {iteration} was written with other settings than the "
                "config's; give another --workdir, or the settings in its config.json (first "
                f"difference at {wrong})"
            )
        places = ocp.checkpoint_utils.construct_restore_args(abstract)
        items = ocp.args.Composite(state=ocp.args.PyTreeRestore(abstract, restore_args=places))
        return self.manager.restore(iteration, args=items).state

    def wait(self) -> None:
        """Returns when everything saved so far is complete on disk."""
        self.manager.wait_until_finished()

    def close(self) -> None:
        self.manager.close()


def trim_heap() -> None:
    """Gives the system back what the host has freed; glibc keeps what its threads allocated, after
    a checkpoint about half the size of it."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def is_converted(folder) -> bool:
    """Whether launch/convert.py wrote the folder; ValueError for an address that cannot be."""
    return (paths.absolute(folder) / "manifest.json").exists()


def has_adapters(folder) -> bool:
    """Whether launch/convert.py kept adapters beside the weights of the folder."""
    return (paths.absolute(folder) / ADAPTERS).exists()


def load_trainable(workdir, abstract: PyTree) -> PyTree:
    """Weights or adapters of a run's newest checkpoint, without its optimizer state, placed as
    `abstract` says.

    Raises:
      ValueError: no checkpoint, or one of another model; one line names the folder and the mend.
    """
    newest = latest_iteration(workdir)
    if newest is None:
        raise ValueError(
            f"{workdir}: no finished checkpoint there; "
            f"train with launch/main.py --workdir={workdir}"
        )
    folder = paths.absolute(workdir) / "checkpoints" / str(newest) / "state"
    item = {"state": {"trainable": abstract}}  # the tree of resume.as_saved
    handler = ocp.PyTreeCheckpointHandler()
    same_shapes(workdir, handler.metadata(folder).tree["state"]["trainable"], abstract)
    restore_args = ocp.checkpoint_utils.construct_restore_args(item)
    restored = handler.restore(
        folder, args=ocp.args.PyTreeRestore(item, restore_args, partial_restore=True)
    )
    return restored["state"]["trainable"]


def latest_iteration(workdir) -> int | None:
    """Number of a run's newest finished checkpoint, None where there is none; the run may be going
    on."""
    folder = paths.absolute(workdir) / "checkpoints"
    return max(ocp.utils.checkpoint_steps(folder), default=None) if folder.is_dir() else None


PARAMS, ADAPTERS = "params", "adapters"  # orbax folders of a converted model
CHUNK_BYTES = 16 << 20  # of a stored array, uncompressed: the least that a reader decompresses


class _Streamed(ocp.type_handlers.NumpyHandler):
    """Writes `LazyArray` leaves, one after another and a slab of each at a time; they are read back
    as jax arrays."""

    def typestr(self) -> str:
        return "jax.Array"

    async def serialize(self, values, infos, args=None):
        for value, info in zip(values, infos):
            await info.await_path_creation()
            write_array(info.parent_dir / info.name, value)
        return []


def write_array(folder: epath.Path, array: LazyArray) -> None:
    """A zarr array, as orbax keeps each leaf, slab by slab: a layer of a stack, some words of an
    embedding or head."""
    axis = 0 if len(array.shape) > 2 else int(np.argmax(array.shape))
    chunk = [1, *array.shape[1:]] if len(array.shape) > 2 else list(array.shape)
    while np.prod(chunk) * array.dtype.itemsize > CHUNK_BYTES:
        widest = int(np.argmax(chunk))
        chunk[widest] = -(-chunk[widest] // 2)
    store = ts.open(
        {
            "driver": "zarr",
            "kvstore": kvstore(folder),
            "metadata": {"compressor": {"id": "zstd", "level": 1}},
        },
        create=True,
        dtype=array.dtype,
        shape=array.shape,
        chunk_layout=ts.ChunkLayout(chunk_shape=chunk),
    ).result()
    for start in range(0, array.shape[axis], chunk[axis]):
        slab = [slice(None)] * len(chunk)
        slab[axis] = slice(start, min(start + chunk[axis], array.shape[axis]))
        store[tuple(slab)].write(array.read(tuple(slab))).result()


def kvstore(folder: epath.Path) -> dict[str, str]:
    """Tensorstore's specification of an absolute folder, with its name as it is, not as a URL."""
    if not paths.is_remote(folder):
        return {"driver": "file", "path": f"{folder}/"}
    scheme, address = str(folder).split("://", 1)
    name, _, path = address.partition("/")
    driver = "gcs" if scheme == "gs" else scheme
    return {"driver": driver, "bucket": name, "path": f"{path}/"}


def save_params(folder, params: PyTree, manifest: dict, adapters: PyTree | None = None) -> None:
    """A finished model: orbax folders of parameters and of adapters, if there are any, and
    manifest.json, written last.

    The leaves are jax arrays, or `LazyArray`s, of which only a slab is in memory at a time.
    """
    folder = paths.absolute(folder)
    registry = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, ocp.type_handlers.ArrayHandler()), (LazyArray, _Streamed())
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_ocdbt=False)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(folder / PARAMS, args=ocp.args.PyTreeSave(params), force=True)
        if adapters is not None:
            checkpointer.save(folder / ADAPTERS, args=ocp.args.PyTreeSave(adapters), force=True)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))


def read_manifest(folder) -> dict:
    """What `launch/convert.py` wrote beside the parameters.

    Raises:
      ValueError: no converted model there, or an unreadable manifest.
    """
    path = epath.Path(folder) / "manifest.json"
    if not path.exists():
        raise ValueError(
            f"{folder}: no converted model there (manifest.json); write one with launch/convert.py"
        )
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not readable JSON ({error}); convert the model again") from None


def load_params(folder, abstract: PyTree, part: str = PARAMS) -> PyTree:
    """Parameters of a converted model, or its ADAPTERS, placed as the abstract arrays' shardings
    say.

    Raises:
      ValueError: nothing there, or another model's shapes; one line names the folder and the mend.
    """
    read_manifest(folder)
    here = paths.absolute(folder) / part
    with ocp.StandardCheckpointer() as checkpointer:
        same_shapes(folder, dict(checkpointer.metadata(here).item_metadata), abstract)
        return checkpointer.restore(here, abstract)


def same_shapes(folder, found: PyTree, abstract: PyTree) -> None:
    """ValueError naming the first array that is missing, extra or of another shape."""
    wrong = first_difference(found, abstract)
    if wrong is not None:
        raise ValueError(f"{folder}: holds another model, first difference at {wrong}")


def first_difference(stored: PyTree, abstract: PyTree) -> str | None:
    """The first array, by name, that one of two trees lacks or has in another shape; None where
    they agree."""
    have, want = shapes_of(stored), shapes_of(abstract)
    wrong = [name for name in have.keys() | want.keys() if have.get(name) != want.get(name)]
    return min(wrong, default=None)


def shapes_of(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """{name of an array, as orbax stores it: its shape}."""
    return {
        ".".join(ocp.utils.tuple_path_from_keypath(path)): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if hasattr(leaf, "shape")  # None and empty nodes are entries of their own to orbax
    }


def lazy_params(folder, *parents: str) -> PyTree:
    """The tree of `LazyArray`s below the keys `parents` of an orbax folder.

    `folder / "params"` of a converted model, or `WORKDIR/checkpoints/N/state` with the parents
    "state", "trainable".

    Raises:
      ValueError: no such orbax folder, or nothing under those keys.
    """
    folder = paths.absolute(folder)
    try:
        # not a Checkpointer: a run's folder `state` is a part of a checkpoint, and that warns of
        # files which only the whole one has
        found = ocp.PyTreeCheckpointHandler().metadata(folder).tree
        for name in parents:
            found = found[name]
    except (FileNotFoundError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{folder}: no complete orbax checkpoint there ({error})") from None

    def lazy(path, leaf):
        keys = [*parents, *(key.key for key in path)]

        def read(index=None):
            return read_leaf(folder, keys, leaf, index)

        return LazyArray(tuple(leaf.shape), np.dtype(leaf.dtype), read)

    return jax.tree_util.tree_map_with_path(lazy, found)


def read_leaf(folder: epath.Path, keys: list[str], leaf, index) -> np.ndarray:
    """One array of an orbax folder, or a part of it, without reading the others."""
    item, args = (
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
        ocp.RestoreArgs(restore_type=np.ndarray),
    )
    for key in reversed(keys):
        item, args = {key: item}, {key: args}
    found = ocp.PyTreeCheckpointHandler().restore(
        folder, args=ocp.args.PyTreeRestore(item, restore_args=args, partial_restore=True)
    )
    for key in keys:
        found = found[key]
    return found if index is None else found[index]
