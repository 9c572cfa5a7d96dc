"""Checkpoints with damaged files: the newest whole one is taken, and none is taken for whole."""

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import (
    checkpoint,
    checksums,
    experiment,
    paths,
    resume,
    settings,
    sharding,
    train,
    weights,
)
from gdsd_jax.checkpoint import Checkpoints, Damaged
from tests.contents import contents

TREE = {
    "a": jnp.arange(3000.0).reshape(30, 100),
    "b": jnp.linspace(-1, 1, 7, dtype=jnp.bfloat16),
    "c": jnp.array([True, False]),
    "n": jnp.int32(3),
}


def emptied(content: bytes) -> bytes:
    return b""


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    """One bit of the byte in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :]


DAMAGES = (emptied, cut, flipped)


# ---------------------------------------------------------------- checksums


def reference(x) -> int:
    """The same sum in Python's whole numbers."""
    x = np.asarray(x)
    total = 0
    bits = x.astype(np.uint32) if x.dtype == bool else x.view(f"u{x.dtype.itemsize}")
    for place, value in enumerate(bits.ravel().tolist()):
        weight = place * 0x9E3779B1 % 2**32
        weight = (weight ^ (weight >> 15)) * 0x85EBCA77 % 2**32
        total += value * ((weight ^ (weight >> 13)) | 1)
    return total % 2**32


def test_a_checksum_is_the_sum_that_is_told_wherever_the_array_lies():
    found = checksums.checksums(TREE)
    for name, array in TREE.items():
        assert found[name].tolist() == [reference(array), 1], name
    rows = np.arange(64 * 48, dtype=np.float32).reshape(64, 48)
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    for axes in ((), ("data",), (None, "fsdp"), ("fsdp", "tensor")):
        place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        (one,) = checksums.checksums({"x": jax.device_put(rows, place)}).values()
        assert one.tolist() == [reference(rows), 1], axes


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_seen(value):
    array = np.ones((3, 4), np.float32)
    array[1, 2] = value
    assert checksums.checksums({"x": array})["x"][1] == 0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_checksum_is_one_pass_that_writes_no_products(dtype):
    """Every round computes those of the whole state."""
    array = jax.ShapeDtypeStruct((30, 256, 512), dtype)
    compiled = checksums.checksums.lower({"x": array}).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < array.size / 8


# ---------------------------------------------------------------- files


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, TREE, {"round": 7})
    checkpoints.close()
    return checkpoints


def read(checkpoints: Checkpoints):
    """(state, host) of checkpoint 1."""
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), TREE
    )
    return checkpoints.restore(1, shapes), checkpoints.host(1)


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_damaged_file_goes_unseen(saved, damage):
    """Each file of a checkpoint in turn: it is told of in one line, or does not matter."""
    files = list(paths.files_in(saved.place(1)))
    assert len(files) > 10
    refused = 0
    for path in files:
        content = path.read_bytes()
        path.write_bytes(damage(content))
        refused += is_refused(saved)
        path.write_bytes(content)
    assert refused > len(files) / 3
    read(saved)


def is_refused(saved) -> bool:
    """Whether a checkpoint is told to be damaged, in one line; else it holds what was written."""
    try:
        state, host = read(saved)
    except Damaged as error:
        assert str(saved.place(1)) in str(error) and "\n" not in str(error)
        return True
    jax.tree.map(np.testing.assert_array_equal, state, TREE)
    assert host == {"round": 7}
    return False


def test_a_file_that_is_gone_or_a_folder_is_seen(saved):
    """Also each folder of a checkpoint, but for that of the checksums: without it the checkpoint is
    one of an earlier version."""
    kept = {path: path.read_bytes() for path in paths.files_in(saved.place(1))}
    refused = 0
    for path, content in kept.items():
        path.unlink()
        refused += is_refused(saved)
        path.mkdir()
        refused += is_refused(saved)
        path.rmdir()
        path.write_bytes(content)
    assert refused > len(kept) / 3
    for name in ("state", "host"):
        shutil.move(saved.place(1) / name, saved.place(1) / "away")
        assert is_refused(saved)
        (saved.place(1) / name).write_bytes(b"")
        assert is_refused(saved)
        (saved.place(1) / name).unlink()
        shutil.move(saved.place(1) / "away", saved.place(1) / name)
    read(saved)


def test_other_numbers_than_were_written_are_seen(saved, tmp_path):
    """Though every file is whole: one bit of one number differs."""
    other = Checkpoints(tmp_path / "other")
    array = np.asarray(TREE["a"]).copy()
    array[3, 4] = np.nextafter(array[3, 4], np.float32(1e9))
    other.save(1, TREE | {"a": jnp.asarray(array)}, {"round": 7})
    other.close()
    shutil.rmtree(saved.place(1) / "state")
    shutil.copytree(other.place(1) / "state", saved.place(1) / "state")
    with pytest.raises(Damaged, match=": a is not what was written there"):
        read(saved)


@pytest.mark.parametrize(
    "error", [PermissionError("no"), ValueError("UNAVAILABLE: no network"), MemoryError("full")]
)
def test_what_may_pass_is_no_damage(saved, monkeypatch, error):
    """The newest checkpoint is not put aside because a network was away; also not where orbax
    wraps the error."""

    def fail(*_, **__):
        raise RuntimeError("while reading") from error

    monkeypatch.setattr(checkpoint.ocp.PyTreeCheckpointHandler, "restore", fail)
    with pytest.raises(OSError, match="checkpoints/1 cannot be read .RuntimeError: while reading"):
        read(saved)


def test_weights_may_be_read_in_another_type(tmp_path):
    """As a frozen base in bfloat16; those that are not converted are compared."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, {"state": {"trainable": TREE}}, {})
    checkpoints.close()

    def wanted(x):
        dtype = jnp.bfloat16 if x.dtype == jnp.float32 else x.dtype
        return jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding)

    found = checkpoint.load_trainable(tmp_path, jax.tree.map(wanted, TREE))
    assert found["a"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(found["a"], TREE["a"].astype(jnp.bfloat16))


def test_a_checkpoint_without_checksums_is_read(saved):
    """One of an early version; what it holds is not said to be good."""
    shutil.rmtree(saved.place(1) / "checksums")
    state, host = read(saved)
    jax.tree.map(np.testing.assert_array_equal, state, TREE)
    assert host == {"round": 7} and saved.checked is None


@pytest.mark.parametrize("text", [None, "[]", "null", "{}"])
def test_checksums_that_are_lost_are_damage(tmp_path, text):
    """A checkpoint of the present format always has some."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, TREE, {"format": checkpoint.FORMAT, "round": 7})
    checkpoints.close()
    folder = checkpoints.place(1) / "checksums"
    shutil.rmtree(folder) if text is None else (folder / "metadata").write_text(text)
    for read_part in (checkpoints.host, lambda number: read(checkpoints)):
        with pytest.raises(Damaged, match="its checksums are (lost|none)"):
            read_part(1)


def test_a_folder_of_another_name_is_no_checkpoint(saved):
    """Orbax reads 0001 as a number too."""
    shutil.copytree(saved.place(1), saved.folder / "0012")
    assert saved.iterations() == [1]


def test_a_clock_that_jumps_does_not_end_a_save(tmp_path, monkeypatch):
    """An hour with every look at it."""
    now = iter(range(0, 10**9, 3600))
    monkeypatch.setattr("time.time", lambda: float(next(now)))
    checkpoints = Checkpoints(tmp_path)
    for iteration in (1, 2, 3):
        checkpoints.save(iteration, TREE, {})
    checkpoints.wait()
    assert checkpoints.iterations() == [3, 2]


def test_what_cannot_be_written_is_one_line(tmp_path):
    """Here for want of room, as on a full disk; what was written before stays."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, TREE, {})
    noise = np.random.default_rng(0).standard_normal(2**19, np.float32)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
        with pytest.raises(checkpoint.NotSaved, match="a checkpoint cannot be written") as error:
            checkpoints.save(2, {"a": jnp.asarray(noise)}, {})
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value) and "File too large)" in str(error.value)
    assert checkpoints.iterations() == [1]


ARRAYS = """
import logging, pathlib, resource, signal, sys
import jax
from gdsd_jax import checkpoint

logging.getLogger("absl").setLevel(logging.CRITICAL)
folder = pathlib.Path(sys.argv[1])
small = {f"a{i}": jax.random.normal(jax.random.key(i), (1000,)) for i in range(64)}
large = {f"a{i}": jax.random.normal(jax.random.key(i), (100, 100)) for i in range(64)}

def fill_the_disk():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

def spoil():
    for path in folder.rglob("0.0"):
        path.write_bytes(b"damage")

try:
    CALLS
except Exception as error:
    print(type(error).__name__)
"""
CALLS = {
    "NotSaved": "fill_the_disk(); checkpoint.Checkpoints(folder).save(1, small, {})",
    "ValueError": "fill_the_disk(); checkpoint.save_params(folder, large, {})",
    "Damaged": "checkpoint.save_params(folder, large, {}); spoil(); "
    "checkpoint.load_params(folder, large)",
}


@pytest.mark.parametrize("error", CALLS)
def test_of_arrays_that_fail_together_one_is_told(tmp_path, error):
    """And nothing more when the process ends, and forgets the others."""
    command = [sys.executable, "-c", ARRAYS.replace("CALLS", CALLS[error]), tmp_path]
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "0"}  # warns where it cannot write
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == f"{error}\n" and done.stderr == ""


# ---------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def prepared(workdir):
    found = experiment.prepare(settings.read(workdir), say=len)
    with contextlib.closing(found.task):
        yield found


@pytest.fixture
def copy(workdir, tmp_path):
    """The workdir of a run with one checkpoint more, which is the same."""
    folder = tmp_path / "run"
    shutil.copytree(workdir, folder)
    newest = checkpoint.latest_iteration(folder)
    shutil.copytree(folder / "checkpoints" / str(newest), folder / "checkpoints" / "9")
    return folder


def biggest(folder) -> epath.Path:
    return max(paths.files_in(epath.Path(folder)), key=lambda path: path.stat().length)


def spoil(path, damage) -> None:
    path.write_bytes(damage(path.read_bytes()))


PARTS = {"array": biggest, "shapes": lambda folder: folder / "state" / "_METADATA"}
PARTS["host"] = lambda folder: folder / "host" / "metadata"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("part", PARTS)
def test_the_newest_whole_checkpoint_is_taken(prepared, copy, part, damage):
    """And no file is changed by that."""
    spoil(PARTS[part](copy / "checkpoints" / "9"), damage)
    before = contents(copy)
    checkpoints = Checkpoints(copy / "checkpoints")
    older = checkpoints.iterations()[1]
    found = resume.resume_newest(prepared, None, checkpoints, None)
    assert list(found.damaged) == [9] and str(checkpoints.place(9)) in found.damaged[9]
    assert found.progress.phase == "rl" and checkpoints.checked == older
    assert before == contents(copy)


@pytest.mark.parametrize(
    "entries",
    [{"round": "x"}, {"round": -1}, {"lines": "7"}, {"cursor": [1, 2]}, {"phase": "zzz"}, {"a": 1}],
)
def test_entries_of_another_kind_are_damage(prepared, copy, entries):
    """Though the sum be right."""
    place = copy / "checkpoints" / "9"
    host = json.loads((place / "host" / "metadata").read_text()) | entries
    sums = json.loads((place / "checksums" / "metadata").read_text())
    (place / "host" / "metadata").write_text(json.dumps(host))
    (place / "checksums" / "metadata").write_text(
        json.dumps(sums | {"host": checksums.sum_of(host)})
    )
    found = resume.resume_newest(prepared, None, Checkpoints(copy / "checkpoints"), None)
    assert "entries are not those of a run" in found.damaged[9]


def test_where_none_is_whole_one_line_says_so(prepared, copy):
    checkpoints = Checkpoints(copy / "checkpoints")
    for iteration in checkpoints.iterations():
        spoil(biggest(checkpoints.place(iteration)), cut)
    with pytest.raises(Damaged, match="no checkpoint there is whole.*delete that folder") as error:
        resume.resume_newest(prepared, None, checkpoints, None)
    assert "\n" not in str(error.value)


def test_a_run_goes_on_and_keeps_the_damaged_one_aside(prepared, copy):
    spoil(biggest(copy / "checkpoints" / "9"), flipped)
    content = biggest(copy / "checkpoints" / "9").read_bytes()
    said = []
    train.train(prepared, copy, say=said.append)
    assert said[0].startswith(str(copy / "checkpoints" / "9"))
    assert said[0].endswith(f": moved to {copy}/damaged/9-1")
    assert said[1].startswith(f"resuming {copy}: rl, round 0")
    assert biggest(copy / "damaged" / "9-1").read_bytes() == content
    assert not (copy / "checkpoints" / "9").exists()


def test_a_damaged_model_is_one_line_for_its_readers(copy):
    spoil(biggest(copy / "checkpoints" / "9"), cut)
    with pytest.raises(ValueError, match="checkpoints/9 .*move that folder away") as error:
        weights.load(copy)
    assert "\n" not in str(error.value)
    shutil.rmtree(copy / "checkpoints" / "9")
    weights.load(copy)


def test_a_folder_moves_in_a_bucket_too(bucket):
    checkpoints = Checkpoints("gs://bucket/run/checkpoints")
    checkpoints.save(4, TREE, {})
    checkpoints.wait()
    before = {
        name.rpartition("/4/")[2]: bucket.objects[name][1] for name in bucket.names("bucket/")
    }
    assert str(checkpoints.put_aside(4)) == "gs://bucket/run/damaged/4-1"
    after = {
        name.rpartition("/4-1/")[2]: bucket.objects[name][1] for name in bucket.names("bucket/")
    }
    assert after == before and checkpoints.iterations() == []
