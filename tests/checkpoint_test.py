"""Converted folders: written one array at a time, read back as one tree, whole or in parts."""

import weakref

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from gdsd_jax import checkpoint, sharding
from gdsd_jax.types import LazyArray

TREE = {
    "embed": {"embedding": np.arange(48, dtype=np.float32).reshape(8, 6)},
    "layers": {
        "q": {
            "kernel": np.arange(96).reshape(2, 8, 6).astype(ml_dtypes.bfloat16),
            "bias": np.ones((2, 6), np.float32),
        },
    },
}


def lazy(values):
    return LazyArray(
        values.shape, values.dtype, lambda index=None: values if index is None else values[index]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("converted")
    checkpoint.save_params(path, jax.tree.map(lazy, TREE), {"family": "llada"})
    return path


def test_lazy_arrays_pass_through_the_memory_slab_by_slab(tmp_path, monkeypatch):
    """When a layer is read, the one before has left the memory."""
    monkeypatch.setattr(checkpoint, "CHUNK_BYTES", 1000)
    shapes = {"stack": (3, 20, 30), "embedding": (100, 20), "head": (20, 100), "scale": (20,)}
    values = {
        name: np.random.default_rng(0).standard_normal(shape, np.float32)
        for name, shape in shapes.items()
    }
    alive, sizes = [], []

    def read(name):
        def part(index):
            assert not [array for array in alive if array() is not None], "read beside another"
            array = values[name][index].copy()
            alive.append(weakref.ref(array))
            sizes.append(array.size)
            return array

        return LazyArray(values[name].shape, values[name].dtype, part)

    checkpoint.save_params(tmp_path, {name: read(name) for name in values}, {})
    assert max(sizes) == 20 * 30 and sum(sizes) == sum(array.size for array in values.values())
    # an embedding and a head go some words at a time, whichever axis the words are
    assert sizes.count(20 * 13) >= 14
    abstract = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    jax.tree.map(np.testing.assert_array_equal, checkpoint.load_params(tmp_path, abstract), values)


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_a_converted_model_is_read_onto_its_places(folder, dtype):
    places = sharding.shardings(sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2}), TREE)

    def place(x, there):
        return jax.ShapeDtypeStruct(x.shape, dtype or x.dtype, sharding=there)

    abstract = jax.tree.map(place, TREE, places)
    params = checkpoint.load_params(folder, abstract)
    for leaf, wanted, shape in zip(*map(jax.tree.leaves, (params, TREE, abstract)), strict=True):
        assert leaf.dtype == shape.dtype and leaf.sharding == shape.sharding
        np.testing.assert_array_equal(leaf, wanted.astype(shape.dtype))


def test_arrays_of_the_device_are_written_too(tmp_path):
    params = jax.tree.map(jnp.asarray, TREE)
    checkpoint.save_params(tmp_path, params, {})
    found = checkpoint.load_params(tmp_path, jax.eval_shape(lambda: params))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found))
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_single_arrays_can_be_read(folder):
    found = checkpoint.lazy_params(folder / "params")
    kernel, wanted = found["layers"]["q"]["kernel"], TREE["layers"]["q"]["kernel"]
    assert (kernel.shape, kernel.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_array_equal(kernel.read(), wanted)
    part = (slice(1, 2), slice(2, 5), slice(None))
    np.testing.assert_array_equal(kernel.read(part), wanted[part])


def test_the_newest_state_of_a_run_can_be_read(tmp_path, caplog):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(
        3,
        {"state": {"trainable": jax.tree.map(jnp.asarray, TREE), "step": jnp.int32(3)}},
        {"round": 1},
    )
    checkpoints.close()
    found = checkpoint.lazy_params(tmp_path / "3" / "state", "state", "trainable")
    jax.tree.map(
        lambda leaf, wanted: np.testing.assert_array_equal(leaf.read(), wanted), found, TREE
    )
    # the library warns of nothing that a user could mend
    assert [one.getMessage() for one in caplog.records if one.levelname == "WARNING"] == []


def test_a_number_below_the_newest_is_no_checkpoint(tmp_path):
    """Nor is one passed over in silence; it may take the place of later ones."""
    checkpoints = checkpoint.Checkpoints(tmp_path, keep=2)
    for iteration in (3, 5):
        checkpoints.save(iteration, {"state": jnp.int32(iteration)}, {"round": iteration})
    with pytest.raises(ValueError, match=f"{tmp_path}: 5 is there, 4 cannot follow it"):
        checkpoints.save(4, {"state": jnp.int32(4)}, {"round": 4})
    with pytest.raises(FloatingPointError):
        checkpoints.save(4, {"state": jnp.float32(np.nan)}, {"round": 4}, over=True)
    assert checkpoints.iterations() == [5, 3]
    checkpoints.save(4, {"state": jnp.int32(4)}, {"round": 4}, over=True)
    checkpoints.wait()
    assert checkpoints.iterations() == [4, 3] and checkpoints.host(4) == {"round": 4}


def test_wrong_folders_are_named(folder, tmp_path):
    other = {**TREE, "embed": {"embedding": jax.ShapeDtypeStruct((8, 7), jnp.float32)}}
    with pytest.raises(ValueError, match="another model, first difference at .*embedding"):
        checkpoint.load_params(folder, other)
    with pytest.raises(ValueError, match="no converted model.*convert.py"):
        checkpoint.load_params(tmp_path, TREE)
    with pytest.raises(ValueError, match="no complete orbax checkpoint"):
        checkpoint.lazy_params(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="not readable JSON"):
        checkpoint.read_manifest(tmp_path)


def test_an_object_store_holds_models_and_checkpoints(bucket, monkeypatch, tmp_path):
    """Everything lies at its gs:// address and nothing on the local disk; the manifest comes
    last."""
    monkeypatch.chdir(tmp_path)
    checkpoint.save_params("gs://bucket/a model", jax.tree.map(lazy, TREE), {"family": "llada"})
    assert bucket.changes[-1] == "bucket/a model/manifest.json"
    assert checkpoint.read_manifest("gs://bucket/a model")["family"] == "llada"
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), TREE)
    params = checkpoint.load_params("gs://bucket/a model", abstract)
    jax.tree.map(np.testing.assert_array_equal, params, TREE)
    run, state = "gs://bucket/runs/1", {"state": {"trainable": jax.tree.map(jnp.asarray, TREE)}}
    checkpoints = checkpoint.Checkpoints(f"{run}/checkpoints", keep=1)
    for iteration in (3, 4):
        checkpoints.save(iteration, state, {"round": iteration})
    checkpoints.wait()
    assert checkpoints.host(4) == {"round": 4} and checkpoint.latest_iteration(run) == 4
    checkpoints.close()
    assert not bucket.names("bucket/runs/1/checkpoints/3/")
    again = checkpoint.lazy_params(f"{run}/checkpoints/4/state", "state", "trainable")
    loaded = checkpoint.load_trainable(run, abstract)
    for found in (jax.tree.map(lambda leaf: leaf.read(), again), loaded):
        jax.tree.map(np.testing.assert_array_equal, found, TREE)
    assert not [*tmp_path.iterdir()]


def test_a_folders_name_is_taken_as_it_is(tmp_path):
    """Spaces and percent signs are no escapes."""
    folder = tmp_path / "100%41 of it"
    checkpoint.save_params(folder, jax.tree.map(lazy, TREE), {})
    found = checkpoint.lazy_params(folder / "params")
    jax.tree.map(
        lambda leaf, wanted: np.testing.assert_array_equal(leaf.read(), wanted), found, TREE
    )
