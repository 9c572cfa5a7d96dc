"""Checkpoints by orbax: device state as arrays, the host's part as JSON; visible only when
complete."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import functools
import json
import operator
from typing import Any

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from gdsd_jax import json_files, paths, version
from gdsd_jax.checksums import checksums, read_json, read_sums, sum_of
from gdsd_jax.damage import Damaged, naming_damage, reason_of, silence_late_arrays
from gdsd_jax.hosts import Hosts, trim_heap
from gdsd_jax.types import LazyArray, PyTree


class OtherSettings(paths.WorkdirError):
    """A checkpoint does not hold what the run's config asks for."""


class NotSaved(OSError):
    """A checkpoint that could not be written, such as on a full disk."""


FORMAT = 4  # of a checkpoint; 3 had no probe, 2 no best number, 1 no names in its buffer
# A wait of orbax ends after this many seconds of the wall clock, which may jump by hours.
PATIENCE_S = 10**7


class Checkpoints:
    """The checkpoints of one run.

    A checkpoint is `{"state": tree of arrays, "host": JSON, "checksums": JSON}` under its iteration
    number; earlier versions wrote no checksums.

    Attributes:
      checked: the newest one whose numbers were checked by this process, while it was written or
        read; None = there is none.
    """

    def __init__(self, folder, keep: int = 2, hosts: Hosts | None = None):
        """Makes no folder: what writes first does. All processes in `hosts` make the same calls."""
        self.folder, self.keep = paths.absolute(folder), keep
        # on CPUs what is written lies in the memory that the next update needs, and the same cores
        # compress it
        self.beside = jax.default_backend() != "cpu"
        self.hosts = Hosts() if hosts is None else hosts
        self.checked: int | None = None

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
            "checksums": ocp.JsonCheckpointHandler(multiprocessing_options=together),
        }
        # folders that are made meanwhile are waited for by the wall clock, whatever the patience
        waits = ocp.options.AsyncOptions(
            timeout_secs=PATIENCE_S, create_directories_asynchronously=False
        )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self.keep,
            create=False,
            multiprocessing_options=together,
            enable_async_checkpointing=self.beside,
            async_options=waits,
        )
        return ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def save(
        self,
        iteration: int,
        state: PyTree,
        host: dict,
        sums: dict | None = None,
        over: bool = False,
    ) -> None:
        """Starts writing, on CPUs writes; arrays may be donated when this returns.

        Args:
          iteration: its number; nothing is done where that is the newest one.
          state: tree of arrays.
          host: JSON.
          sums: `checksums_of(state)`; None = they are computed here, after what the devices do now.
          over: it takes the place of those of its number and of later ones.

        Raises:
          ValueError: there is a later one, and `over` is not set.
          FloatingPointError: a number that is not finite; names its array, and nothing is written.
          NotSaved: this checkpoint, or the one before, could not be written.
        """
        with self.naming_faults():
            # orbax remembers what this process began: all processes get the same answer
            newest = self.manager.latest_step()
        if newest is not None and newest >= iteration and not over:
            if newest == iteration:
                return  # below it orbax would do nothing either
            raise ValueError(f"{self.folder}: {newest} is there, {iteration} cannot follow it")
        sums = checksums_of(state) if sums is None else sums
        for name, (_, finite) in sums.items():
            if not finite:
                raise FloatingPointError(f"{name} is not finite, no checkpoint of it is written")
        told = {name: int(value) for name, (value, _) in sums.items()} | {"host": sum_of(host)}
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state),
            host=ocp.args.JsonSave(host),
            checksums=ocp.args.JsonSave(told),
        )
        with self.naming_faults():
            for later in self.manager.all_steps():
                if later >= iteration:
                    self.manager.delete(later)
            self.manager.save(iteration, args=items)
        if not self.beside:
            trim_heap()
        self.checked = iteration

    @contextlib.contextmanager
    def naming_faults(self) -> Iterator[None]:
        """NotSaved, one line, in place of whatever orbax raises while it writes."""
        silence_late_arrays()
        try:
            yield
        except Exception as error:
            raise NotSaved(
                f"{self.folder}: a checkpoint cannot be written ({reason_of(error)}): the ones "
                "before it are kept; mend that and start the same command again"
            ) from error

    def iterations(self) -> list[int]:
        """Numbers of the complete checkpoints, newest first."""
        return iterations_in(self.folder)

    def latest(self) -> int | None:
        """The newest complete checkpoint; None where there is none."""
        return next(iter(self.iterations()), None)

    def shapes(self, iteration: int) -> dict[str, Any]:
        """The state's arrays, abstract; raises Damaged."""
        return self.agreed(lambda: stored_in(self.place(iteration)))

    def host(self, iteration: int) -> dict:
        """The host's part; raises Damaged."""
        return self.agreed(lambda: read_host(self.place(iteration)))

    def place(self, iteration: int) -> epath.Path:
        """The folder of a checkpoint."""
        return self.folder / str(iteration)

    def restore(self, iteration: int, abstract: PyTree) -> PyTree:
        """The state, placed as the abstract arrays' shardings say.

        Raises:
          OtherSettings: it holds other arrays or shapes; one line names the folder and the mend.
          Damaged: it cannot be read, or holds other numbers than were written.
        """
        place = self.place(iteration)
        wrong = first_difference(self.agreed(lambda: stored_in(place)), abstract)
        if wrong is not None:
            raise OtherSettings(
                f"{self.folder}: checkpoint {iteration} was written with other settings than the "
                "config's; give another --workdir, or the settings in its config.json (first "
                f"difference at {wrong})"
            )
        state, sums = self.agreed(lambda: read_state(place, abstract))
        check_sums(place, state, sums)
        self.checked = iteration if sums else None
        return state

    def agreed(self, read: Callable[[], Any]) -> Any:
        """What `read()` returns; where it raises Damaged in one process, all of them do."""
        found, damage = None, None
        try:
            found = read()
        except Damaged as error:
            damage = str(error)
        for told in self.hosts.exchange(damage):
            if told is not None:
                raise Damaged(told)
        return found

    def put_aside(self, iteration: int, where: str = "damaged") -> epath.Path:
        """Moves a checkpoint out of the way, into `where` beside the others; returns its place."""
        aside = self.folder.parent / where
        number = 1
        while (place := aside / f"{iteration}-{number}").exists():
            number += 1
        if self.hosts.first:
            paths.move(self.place(iteration), place)
        self.hosts.exchange(None)
        return place

    def wait(self) -> None:
        """Returns when everything saved so far is complete on disk; raises NotSaved."""
        if "manager" not in vars(self):
            return  # nothing was
        with self.naming_faults():
            self.manager.wait_until_finished()

    def close(self) -> None:
        """Ends what writes here, when everything is complete on disk; raises NotSaved."""
        if "manager" in vars(self):
            with self.naming_faults():
                self.manager.close()


def iterations_in(folder: epath.Path) -> list[int]:
    """Numbers of the complete checkpoints in a folder, newest first."""
    if not folder.is_dir():
        return []
    found = ocp.utils.checkpoint_steps(folder)  # takes 0012 for 12 too, which no run writes
    return sorted({one for one in found if (folder / str(one)).is_dir()}, reverse=True)


def checksums_of(tree: PyTree) -> dict[str, np.ndarray]:
    """{name of an array, as orbax stores it: its checksum and whether it is finite, uint32 [2]};
    waits for what the devices do before."""
    return jax.device_get(checksums(named(tree)))


def read_host(place: epath.Path) -> dict:
    """The host's part of the checkpoint at `place`; raises Damaged."""
    with naming_damage(place):
        host, sums = read_json(place / "host"), read_sums(place)
        if not isinstance(host, dict) or (sums and sums["host"] != sum_of(host)):
            raise ValueError("host is not what was written there")
        return host


def format_of(host: Mapping[str, Any], place: str = "the checkpoint") -> int:
    """The format of a checkpoint, by the host's part; OtherSettings for one of a later version."""
    try:
        return version.format_of(host, FORMAT, place)
    except ValueError as error:
        raise OtherSettings(str(error)) from None


def stored_in(place: epath.Path) -> PyTree:
    """Shapes of the state of the checkpoint at `place`; raises Damaged."""
    with naming_damage(place):
        return ocp.PyTreeCheckpointHandler().metadata(place / "state").tree


def read_state(place: epath.Path, abstract: PyTree) -> tuple[PyTree, dict[str, int]]:
    """(a part of the state of the checkpoint at `place`, the checksums of its arrays, but for those
    that are read in another type; none in earlier versions); raises Damaged."""
    with naming_damage(place):
        sums, stored = read_sums(place), named(stored_in(place))
        restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
        state = ocp.PyTreeCheckpointHandler().restore(
            place / "state",
            args=ocp.args.PyTreeRestore(abstract, restore_args, partial_restore=True),
        )
        same = [name for name, x in named(state).items() if x.dtype == stored[name].dtype]
        return state, {name: sums[name] for name in same if sums}


def check_sums(place: epath.Path, state: PyTree, sums: Mapping[str, int]) -> None:
    """Damaged where an array is not the one that was written."""
    found = checksums_of(state) if sums else {}
    for name, value in sums.items():
        if found[name][0] != value:
            raise Damaged(f"{place}: {name} is not what was written there")


def is_converted(folder) -> bool:
    """Whether launch/convert.py wrote the folder; ValueError for an address that cannot be."""
    return (paths.absolute(folder) / "manifest.json").exists()


def has_adapters(folder) -> bool:
    """Whether launch/convert.py kept adapters beside the weights of the folder."""
    return (paths.absolute(folder) / ADAPTERS).exists()


def load_trainable(workdir, abstract: PyTree, *keys: str) -> PyTree:
    """Weights or adapters of a run's newest checkpoint, without its optimizer state, placed as
    `abstract` says; others than the trained ones by the `keys` under which they lie.

    Raises:
      ValueError: no checkpoint, one of another model, or a damaged one; one line names the folder
        and the mend.
    """
    newest = latest_iteration(workdir)
    if newest is None:
        raise ValueError(
            f"{workdir}: no finished checkpoint there; "
            f"train with launch/main.py --workdir={workdir}"
        )
    place = paths.absolute(workdir) / "checkpoints" / str(newest)
    keys = keys or ("state", "trainable")  # of resume.as_saved
    item = functools.reduce(lambda tree, key: {key: tree}, reversed(keys), abstract)
    try:
        format_of(read_host(place), str(place))
        same_shapes(workdir, functools.reduce(operator.getitem, keys, stored_in(place)), abstract)
        restored, sums = read_state(place, item)
        check_sums(place, restored, sums)
    except Damaged as error:
        raise Damaged(f"{error}: move that folder away, then the one before it is used") from None
    return functools.reduce(operator.getitem, keys, restored)


def latest_iteration(workdir) -> int | None:
    """Number of a run's newest finished checkpoint, None where there is none; the run may be going
    on."""
    return next(iter(iterations_in(paths.absolute(workdir) / "checkpoints")), None)


CONVERTED = 1  # format of a converted model's folder
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
            "kvstore": paths.kvstore(folder),
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


def save_params(folder, params: PyTree, manifest: dict, adapters: PyTree | None = None) -> None:
    """A finished model: orbax folders of parameters and of adapters, if there are any, and
    manifest.json, written last.

    The leaves are jax arrays, or `LazyArray`s, of which only a slab is in memory at a time.
    """
    folder = paths.absolute(folder)
    silence_late_arrays()
    registry = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, ocp.type_handlers.ArrayHandler()), (LazyArray, _Streamed())
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_ocdbt=False)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(folder / PARAMS, args=ocp.args.PyTreeSave(params), force=True)
        if adapters is not None:
            checkpointer.save(folder / ADAPTERS, args=ocp.args.PyTreeSave(adapters), force=True)
    entries = version.stamp(CONVERTED) | manifest
    (folder / "manifest.json").write_text(json.dumps(entries, indent=2))


def read_manifest(folder) -> dict:
    """What `launch/convert.py` wrote beside the parameters.

    Raises:
      ValueError: no converted model there, or an unreadable manifest, or a later version's.
    """
    path = epath.Path(folder) / "manifest.json"
    if not path.exists():
        raise ValueError(
            f"{folder}: no converted model there (manifest.json); write one with launch/convert.py"
        )
    manifest = json_files.read_object(path, "convert the model again")
    version.format_of(manifest, CONVERTED, str(path))
    return manifest


def load_params(folder, abstract: PyTree, part: str = PARAMS) -> PyTree:
    """Parameters of a converted model, or its ADAPTERS, placed as the abstract arrays' shardings
    say.

    Raises:
      ValueError: nothing there, another model's shapes, or files that cannot be read; one line
        names the folder.
    """
    read_manifest(folder)
    here = paths.absolute(folder) / part
    with ocp.StandardCheckpointer() as checkpointer:
        with naming_damage(here):
            stored = dict(checkpointer.metadata(here).item_metadata or {})
        same_shapes(folder, stored, abstract)
        with naming_damage(here):
            return checkpointer.restore(here, abstract)


def same_shapes(folder, found: PyTree, abstract: PyTree) -> None:
    """ValueError naming the first array that is missing, extra or of another shape."""
    wrong = first_difference(found, abstract)
    if wrong is not None:
        raise paths.WorkdirError(f"{folder}: holds another model, first difference at {wrong}")


def first_difference(stored: PyTree, abstract: PyTree) -> str | None:
    """The first array, by name, that one of two trees lacks or has in another shape; None where
    they agree."""
    have, want = (
        {name: tuple(leaf.shape) for name, leaf in named(tree).items()}
        for tree in (stored, abstract)
    )
    wrong = [name for name in have.keys() | want.keys() if have.get(name) != want.get(name)]
    return min(wrong, default=None)


def named(tree: PyTree) -> dict[str, Any]:
    """{name of an array, as orbax stores it: the array, or what stands for it}."""
    return {
        ".".join(ocp.utils.tuple_path_from_keypath(path)): leaf
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
    with naming_damage(folder):
        found = ocp.PyTreeCheckpointHandler().restore(
            folder, args=ocp.args.PyTreeRestore(item, restore_args=args, partial_restore=True)
        )
    for key in keys:
        found = found[key]
    return found if index is None else found[index]
