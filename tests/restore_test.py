"""A folder's model is the one that was saved: weights, adapters over their base, settings; others
are refused."""

import dataclasses
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from configs import coding
from gdsd_jax import checkpoint, models, restore, run, sharding
from tests.reference import random_params, tiny


def load(folder):
    """(settings, model, mesh, trainable, frozen) as the launch scripts load them."""
    settings, mesh = restore.read_settings(folder), sharding.make_mesh({"fsdp": -1})
    model, _ = run.read_model(settings)
    return settings, model, mesh, *restore.load_weights(folder, model, mesh)


def assert_equal_trees(found, expected):
    found, expected = (
        dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (found, expected)
    )
    assert {jax.tree_util.keystr(path) for path in found} == {
        jax.tree_util.keystr(path) for path in expected
    }
    for path, leaf in found.items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("name, newest", [("workdir", 5), ("lora_workdir", 3)])
def test_a_workdir_gives_its_newest_weights(request, name, newest):
    workdir = request.getfixturevalue(name)
    settings, model, mesh, trainable, frozen = load(workdir)
    with ocp.CheckpointManager(workdir / "checkpoints") as manager:
        saved = manager.restore(
            newest, args=ocp.args.Composite(state=ocp.args.StandardRestore())
        ).state
    assert checkpoint.latest_iteration(workdir) == newest
    assert_equal_trees(trainable, saved["state"]["trainable"])
    assert model.lora_rank == settings.lora_rank and set(frozen) == (
        {"base"} if settings.lora_rank else set()
    )
    fresh = jax.jit(run.make_trainable(settings, model))(jax.random.key(settings.seed))
    assert any(
        np.any(np.asarray(a) != np.asarray(b))
        for a, b in zip(jax.tree.leaves(trainable), jax.tree.leaves(fresh))
    )
    assert all(leaf.sharding.mesh == mesh for leaf in jax.tree.leaves((trainable, frozen)))


def test_a_converted_folder_gives_its_weights(tmp_path):
    config = tiny(d_model=32, vocab_size=48, shift=True, qkv_bias=True)
    params = random_params(config)
    checkpoint.save_params(
        tmp_path, params, {"model": dataclasses.asdict(config), "dtype": ["float32"]}
    )
    settings, mesh = restore.read_settings(tmp_path), sharding.make_mesh({"data": -1})
    assert restore.is_converted(tmp_path) and (settings.dtype, settings.lora_rank) == ("float32", 0)
    trainable, frozen = restore.load_weights(tmp_path, config, mesh)
    assert frozen == {}
    assert_equal_trees(trainable, params)
    with pytest.raises(
        ValueError, match="holds another model, first difference at .*layers.*k.*bias"
    ):
        restore.load_weights(tmp_path, dataclasses.replace(config, kv_heads=4), mesh)


def test_a_run_goes_on_from_anothers_weights(workdir, lora_workdir, data_dir):
    """`init_from` takes a workdir too: its newest weights, its model and tokenizer, the new run's
    settings."""
    config = coding.get_config(
        f"tiny,model=none,init_from={workdir},dtype=bfloat16,data_dir={data_dir}"
    )
    (model, tokenizer), mesh = run.read_model(config), sharding.make_mesh({"data": -1})
    base, base_tokenizer = run.read_model(restore.read_settings(workdir))
    assert (
        model == dataclasses.replace(base, dtype="bfloat16")
        and tokenizer.vocab_size == base_tokenizer.vocab_size
    )
    assert_equal_trees(run.base_weights(config, model, mesh, None), load(workdir)[3])
    with pytest.raises(ValueError, match="init_from=.*: a run of adapters"):
        run.read_model(coding.get_config(f"tiny,init_from={lora_workdir},data_dir={data_dir}"))


def test_other_folders_are_refused(workdir, tmp_path):
    with pytest.raises(ValueError, match="neither the manifest.json"):
        restore.read_settings(tmp_path)
    shutil.copy(workdir / "config.json", tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="neither the manifest.json"):  # nothing finished yet
        restore.read_settings(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="manifest.json: not readable JSON"):
        restore.read_settings(tmp_path)
    other = models.MODELS["llada_tiny"]
    with pytest.raises(ValueError, match="holds another model"):
        restore.load_weights(
            workdir,
            dataclasses.replace(other, vocab_size=64, lora_rank=2),
            sharding.make_mesh({"data": -1}),
        )
