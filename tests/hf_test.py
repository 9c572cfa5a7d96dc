"""Hugging Face folders: the reference's logits, its dtypes, and everything that can be wrong with a folder."""
import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from gdsd_jax import hf, models
from tests.reference import tiny

CONFIG = tiny(d_model=24)  # LLaDA derives head_dim from it
ENTRIES = {
    "model_type": "llada", "d_model": 24, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "mlp_hidden_size": 28,
    "vocab_size": 40, "embedding_size": 40, "mask_token_id": 1, "pad_token_id": 0, "eos_token_id": 0,
    "rope_theta": 10_000.0, "rms_norm_eps": 1e-5, "weight_tying": False, "block_type": "llama",
}  # fmt: skip


def write_folder(folder, changes=(), drop=(), dtype=np.float32, entries=ENTRIES):
    """A folder in the released layout: tensors [out, in], counted up so that a swap of any two shows."""
    config, tensors = CONFIG, {}
    names = models.FAMILIES["llada"].TENSORS
    for path, leaf in hf.paths_of(models.param_shapes(config)).items():
        layered = path.startswith("layers.")
        for i in range(config.layers if layered else 1):
            shape = leaf.shape[1:] if layered else leaf.shape
            shape = shape[::-1] if path.endswith("kernel") else shape
            values = np.random.default_rng(len(tensors)).standard_normal(shape)
            tensors[names[path].format(i=i)] = np.ascontiguousarray(values.astype(dtype))
    tensors = {name: tensor for name, tensor in (tensors | dict(changes)).items() if name not in drop}
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(entries))
    return tensors


@pytest.mark.parametrize("stored", [np.float32, ml_dtypes.bfloat16])
def test_every_tensor_lands_in_its_place(tmp_path, stored):
    tensors = write_folder(tmp_path, dtype=stored)
    config = models.config_from_hf(tmp_path)
    assert config == CONFIG
    params = hf.load(tmp_path, config)
    block = "model.transformer.blocks.1."
    for path, name, transposed in (
        (("embed", "embedding"), "model.transformer.wte.weight", False),
        (("lm_head", "kernel"), "model.transformer.ff_out.weight", True),  # same leaf name as the block's down
        (("layers", "down", "kernel"), block + "ff_out.weight", True),
        (("layers", "gate", "kernel"), block + "ff_proj.weight", True),
        (("layers", "up", "kernel"), block + "up_proj.weight", True),
        (("layers", "o", "kernel"), block + "attn_out.weight", True),
        (("layers", "mlp_norm", "scale"), block + "ff_norm.weight", False),
    ):
        leaf = params
        for key in path:
            leaf = leaf[key]
        leaf = leaf[1] if path[0] == "layers" else leaf
        wanted = tensors[name].astype(np.float32)
        assert leaf.dtype == jnp.float32
        np.testing.assert_array_equal(leaf, wanted.T if transposed else wanted)


def test_parameters_can_be_kept_in_bfloat16(tmp_path):
    write_folder(tmp_path)
    params = hf.load(tmp_path, CONFIG, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(drop=("model.transformer.blocks.1.k_proj.weight",)), ["missing", "blocks.1.k_proj"]),
        (dict(changes={"model.transformer.extra": np.ones(2, np.float32)}), ["unknown", "model.transformer.extra"]),
        (dict(changes={"model.transformer.blocks.0.up_proj.weight": np.ones((2, 2), np.float32)}), ["layers.up.kernel"]),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(tmp_path, options, words):
    write_folder(tmp_path, **options)
    with pytest.raises(ValueError) as error:
        hf.load(tmp_path, CONFIG)
    assert all(word in str(error.value) for word in [str(tmp_path), *words]) and "\n" not in str(error.value)


def test_broken_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="model.safetensors"):
        hf.load(tmp_path, CONFIG)
    (tmp_path / "model.safetensors").write_bytes(b"not a tensor file")
    with pytest.raises(ValueError, match="unreadable.*download it again"):
        hf.load(tmp_path, CONFIG)


def test_a_missing_shard_is_named(golden, tmp_path):
    for name in ("config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"):
        shutil.copyfile(golden / "llada" / name, tmp_path / name)
    with pytest.raises(ValueError, match="model-00002-of-00002.safetensors"):
        hf.load(tmp_path, models.config_from_hf(tmp_path))
