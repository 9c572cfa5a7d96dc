"""Hugging Face folders both ways, sharded and not, and everything that can be wrong with them."""

import dataclasses
import json
import warnings

from etils import epath
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from gdsd_jax import hf, models, sharding
from launch import convert
from tests import folders
from tests.folders import DREAM, LLADA, LLAMA, QWEN2, QWEN3, SDAR
from tests.reference import PAD

BFLOAT16 = ml_dtypes.bfloat16


def same_bytes(tensors, others):
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == others[name].dtype and tensor.shape == others[name].shape, name
        assert tensor.tobytes() == others[name].tobytes(), name


@pytest.mark.parametrize("stored", [np.float32, np.float16, BFLOAT16])
@pytest.mark.parametrize("shards", [1, 3])
def test_every_tensor_lands_in_its_place(tmp_path, stored, shards):
    tensors = folders.write(tmp_path, dtype=stored, shards=shards)
    config = models.config_from_hf(tmp_path)
    assert config == LLADA
    params = hf.paths_of(hf.load(tmp_path, config))
    block = "model.transformer.blocks.1."
    for path, name, transposed in (
        ("embed.embedding", "model.transformer.wte.weight", False),
        # same leaf name as the block's down
        ("lm_head.kernel", "model.transformer.ff_out.weight", True),
        ("layers.down.kernel", block + "ff_out.weight", True),
        ("layers.gate.kernel", block + "ff_proj.weight", True),
        ("layers.up.kernel", block + "up_proj.weight", True),
        ("layers.o.kernel", block + "attn_out.weight", True),
        ("layers.mlp_norm.scale", block + "ff_norm.weight", False),
    ):
        leaf = params[path][1] if path.startswith("layers") else params[path]
        wanted = tensors[name].astype(np.float32)
        assert leaf.dtype == jnp.float32
        np.testing.assert_array_equal(leaf, wanted.T if transposed else wanted)


def test_parameters_take_the_dtype_asked_for_or_the_stored_one(tmp_path):
    folders.write(tmp_path)
    for dtype, wanted in (("bfloat16", "bfloat16"), (None, "float32")):
        params = hf.load(tmp_path, LLADA, dtype=dtype)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(wanted)}


def test_frequencies_that_older_models_store_are_left_out(tmp_path):
    """A buffer, which config.json says as well."""
    name = "model.layers.{}.self_attn.rotary_emb.inv_freq"
    buffers = {name.format(i): np.ones(4, np.float32) for i in range(LLAMA.layers)}
    folders.write(tmp_path, LLAMA, folders.random_tensors(LLAMA) | buffers)
    assert "rotary_emb" not in str(hf.paths_of(hf.load(tmp_path, LLAMA)).keys())


@pytest.mark.parametrize("duplicate", [False, True])
def test_tied_heads_are_absent_or_a_duplicate(tmp_path, duplicate):
    tensors = folders.random_tensors(QWEN3)
    head = {"lm_head.weight": tensors["model.embed_tokens.weight"]} if duplicate else {}
    folders.write(tmp_path, QWEN3, tensors | head)
    params = hf.load(tmp_path, QWEN3)
    assert "lm_head" not in params
    np.testing.assert_array_equal(
        params["embed"]["embedding"], tensors["model.embed_tokens.weight"]
    )


@pytest.mark.parametrize("row", [0, 39])
def test_a_head_of_its_own_is_not_lost(tmp_path, row):
    """Training of the head alone leaves such folders, whose config.json still ties it; transformers
    5 takes both as they are."""
    tensors = folders.random_tensors(QWEN3)
    head = tensors["model.embed_tokens.weight"].copy()
    head[row] += 1
    folders.write(tmp_path, QWEN3, tensors | {"lm_head.weight": head})
    with pytest.raises(ValueError, match="lm_head.weight is not model.embed_tokens") as error:
        hf.load(tmp_path, QWEN3)
    assert "set tie_word_embeddings=false" in str(error.value) and "\n" not in str(error.value)


def test_each_device_reads_only_its_slice(tmp_path, monkeypatch):
    """On a mesh the arrays are the same, placed by the rules, and no read is larger than what a
    device holds."""
    config = dataclasses.replace(LLADA, d_ff=32)
    folders.write(tmp_path, config, shards=2)
    whole, reads = hf.load(tmp_path, config), []
    read_tensor = hf.read_tensor
    monkeypatch.setattr(hf, "read_tensor", lambda *a: reads.append(part := read_tensor(*a)) or part)
    mesh = sharding.make_mesh({"fsdp": 4, "tensor": 2})
    params = hf.load(tmp_path, config, mesh=mesh)
    jax.tree.map(np.testing.assert_array_equal, params, whole)
    assert (
        params["layers"]["gate"]["kernel"].sharding
        == sharding.shardings(mesh, whole)["layers"]["gate"]["kernel"]
    )
    assert max(part.size for part in reads) == whole["embed"]["embedding"].size // 8


def test_blocks_smaller_than_a_tensor_give_the_same_values(tmp_path, monkeypatch):
    """Whole tensors and parts of their rows and columns, a few rows at a time; a file that has been
    cut meanwhile is named."""
    monkeypatch.setattr(hf, "BLOCK_BYTES", 300)
    tensors = folders.write(tmp_path)
    found, _ = hf.tensors_of(epath.Path(tmp_path))
    name = "model.transformer.wte.weight"
    for index in (
        (slice(None), slice(None)),
        (slice(3, 38), slice(5, 9)),
        (slice(7, 8), slice(None)),
        (slice(40, 40), slice(None)),
    ):
        values = hf.read_tensor(found[name], index)
        np.testing.assert_array_equal(values, tensors[name][index])
    norm = "model.transformer.ln_f.weight"
    values = hf.read_tensor(found[norm], (slice(1, 4),))
    np.testing.assert_array_equal(values, tensors[norm][1:4])
    last = max(found.values(), key=lambda tensor: tensor.start)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"ends inside {last.name}; download it again"):
        hf.read_tensor(last, tuple(slice(None) for _ in last.shape))


def test_folders_lie_in_a_bucket_too(bucket, tmp_path):
    """Shards and index written to gs:// and read from there, whole and sharded over a mesh."""
    folders.write(tmp_path)
    params = hf.load(tmp_path, LLADA)
    hf.save("gs://bucket/model", LLADA, params, max_shard_bytes=8000)
    assert len(bucket.names("bucket/model/model-")) > 2
    assert models.config_from_hf("gs://bucket/model") == LLADA
    jax.tree.map(np.testing.assert_array_equal, hf.load("gs://bucket/model", LLADA), params)
    mesh = sharding.make_mesh({"fsdp": 2, "tensor": 2, "data": 2})
    split = hf.load("gs://bucket/model", LLADA, mesh=mesh)
    jax.tree.map(np.testing.assert_array_equal, split, params)


def test_what_does_not_fit_is_listed_in_one_line(tmp_path):
    tensors = folders.random_tensors(LLADA)
    del (
        tensors["model.transformer.blocks.1.k_proj.weight"],
        tensors["model.transformer.ln_f.weight"],
    )
    tensors["model.transformer.blocks.0.up_proj.weight"] = np.ones((2, 3), np.float32)
    tensors["model.transformer.blocks.0.ff_norm.weight"] = np.ones(24, np.int8)
    # a layer too many
    tensors["model.transformer.blocks.2.q_proj.weight"] = np.ones((24, 24), np.float32)
    folders.write(tmp_path, tensors=tensors)
    with pytest.raises(ValueError) as error:
        hf.load(tmp_path, LLADA)
    assert "\n" not in str(error.value)
    for words in (
        str(tmp_path),
        "missing model.transformer.blocks.1.k_proj.weight",
        "missing model.transformer.ln_f.weight",
        "blocks.0.up_proj.weight has shape [2, 3], config.json says [28, 24]",
        "blocks.0.ff_norm.weight is stored as I8, known: F32, F16, BF16",
        "unknown model.transformer.blocks.2.q_proj.weight",
    ):
        assert words in str(error.value)


def drop_a_shard(folder):
    (folder / "model-00002-of-00002.safetensors").unlink()


def cut_a_shard(folder):
    path = folder / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def misplace_a_tensor(folder):
    index = json.loads((folder / hf.INDEX).read_text())
    index["weight_map"]["model.transformer.wte.weight"] = "model-00002-of-00002.safetensors"
    (folder / hf.INDEX).write_text(json.dumps(index))


def change_header(change):
    """A damage of the first shard: its header by `change(entries)`, its values as they were."""

    def damage(folder):
        path = folder / "model-00001-of-00002.safetensors"
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        entries = json.loads(data[8 : 8 + length])
        change(entries)
        header = json.dumps(entries).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])

    return damage


def grow_a_shape(entries):
    entries["model.transformer.wte.weight"]["shape"][0] += 1


def leave_a_gap(entries):
    offsets = entries["model.transformer.wte.weight"]["data_offsets"]
    offsets[:] = [offsets[0] + 96, offsets[1] + 96]


def only_pickled(folder):
    (folder / hf.INDEX).rename(folder / "pytorch_model.bin.index.json")


DAMAGES = {
    drop_a_shard: "no model-00002-of-00002.safetensors there; download",
    cut_a_shard: "model-00002-of-00002.safetensors: unreadable safetensors file.*download it again",
    change_header(grow_a_shape): "wte.weight does not take the bytes that the header says",
    change_header(leave_a_gap): "does not take the bytes that the header says",
    change_header(dict.clear): "00001-of-00002.safetensors: unreadable safetensors file",
    misplace_a_tensor: (
        "places model.transformer.wte.weight in model-00002-of-00002.safetensors, which does not"
    ),
    lambda folder: (folder / "model-00001-of-00002.safetensors").write_bytes(b"<html>"): (
        "00001-of-00002.safetensors: unreadable safetensors file"
    ),
    lambda folder: (folder / "model-00001-of-00002.safetensors").write_bytes(b""): (
        "00001-of-00002.safetensors: unreadable safetensors file"
    ),
    lambda folder: (folder / hf.INDEX).write_text("{"): "index.json: not readable JSON",
    lambda folder: (folder / hf.INDEX).unlink(): "no model.safetensors there",
    only_pickled: "there, only pytorch_model.bin, .*: save the model as safetensors with",
}


def test_the_index_says_which_shard_counts(tmp_path):
    """Each shard holds all tensors, of which only those that the index places in it are right."""
    right = folders.write(tmp_path, shards=2)
    places = json.loads((tmp_path / hf.INDEX).read_text())["weight_map"]
    for file in sorted(set(places.values())):
        mixed = {
            name: values if places[name] == file else values + 1 for name, values in right.items()
        }
        save_file(mixed | {"left.over": np.ones(3, np.float32)}, tmp_path / file)
    tensors, problems = hf.tensors_of(epath.Path(tmp_path))
    assert not problems and tensors.keys() == right.keys()
    for name, tensor in tensors.items():
        found = hf.read_tensor(tensor, (slice(None),) * len(tensor.shape))
        np.testing.assert_array_equal(found, right[name])


EXPORTED = {  # entries of the source's config.json -> those of the export
    "dtype": ({"dtype": "bfloat16"}, {"dtype": ...}),
    "torch_dtype": ({"torch_dtype": "bfloat16"}, {"torch_dtype": "float32"}),
    "quantised": ({"quantization_config": {"bits": 4}}, {"quantization_config": ...}),
    "vocabulary": ({"vocab_size": 30, "embedding_size": 30}, {"vocab_size": 40}),
    "mask": (
        {"mask_token_id": 7, "mask_id": 7},
        dict.fromkeys(("mask_token_id", "mask_id"), LLADA.mask_id),
    ),
    "tied": ({"weight_tying": True}, {"weight_tying": False}),
    "tied by another name": ({"tie_word_embeddings": True}, {"tie_word_embeddings": False}),
    "rotations": ({"rope_theta": 5.0}, {"rope_theta": 10_000.0}),
    "new rotations": ({"rope_parameters": {"rope_theta": 5.0}}, {"rope_parameters": ...}),
    "the same, otherwise": (
        {"eos_token_id": [PAD], "colour": 3},
        {"eos_token_id": [PAD], "colour": 3},
    ),
}


@pytest.mark.parametrize("name", EXPORTED)
def test_an_export_says_what_was_written(tmp_path, name):
    """Whatever the config.json said that the model came with."""
    given, wanted = EXPORTED[name]
    params = models.init_params(folders.LLADA, jax.random.key(0))
    hf.save(tmp_path, folders.LLADA, params, entries=models.config_to_hf(folders.LLADA) | given)
    entries = json.loads((tmp_path / "config.json").read_text())
    assert {key: entries.get(key, ...) for key in wanted} == wanted
    assert models.config_from_hf(tmp_path) == folders.LLADA


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folders_are_named(tmp_path, damage):
    folders.write(tmp_path, shards=2)
    damage(tmp_path)
    with pytest.raises(ValueError, match=DAMAGES[damage]) as error:
        hf.load(tmp_path, LLADA)
    assert "\n" not in str(error.value)


def test_broken_numbers_warn(tmp_path):
    tensors = folders.random_tensors(LLADA, BFLOAT16)
    tensors["model.transformer.blocks.1.q_proj.weight"][3, 2:4] = np.nan, np.inf
    folders.write(tmp_path, tensors=tensors)
    with pytest.warns(
        UserWarning,
        match="model.safetensors: model.transformer.blocks.1.q_proj.weight holds 2 values",
    ):
        params = hf.load(tmp_path, LLADA)
    assert np.isnan(params["layers"]["q"]["kernel"][1, 2, 3])
    folders.write(tmp_path)
    with warnings.catch_warnings(action="error"):
        hf.load(tmp_path, LLADA)


@pytest.mark.parametrize("way", [("from_hf", "to_orbax"), ("from_orbax", "to_hf")])
def test_values_beyond_float16_are_not_made_infinite(tmp_path, capsys, way):
    tensors = folders.random_tensors(QWEN3)
    tensors["model.layers.1.self_attn.k_proj.weight"][3, 2] = 1e5
    folders.write(tmp_path / "in", QWEN3, tensors)
    assert convert.main([f"--from_hf={tmp_path / 'in'}", f"--to_orbax={tmp_path / 'orbax'}"]) == 0
    source = tmp_path / ("in" if way[0] == "from_hf" else "orbax")
    flags = [f"--{way[0]}={source}", f"--{way[1]}={tmp_path / 'out'}", "--dtype=float16"]
    assert convert.main(flags) == 2
    said = "error: --dtype=float16: layers.k.kernel has 1 values that are infinite in it"
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "config, dtype",
    [
        (LLADA, BFLOAT16),
        (DREAM, np.float16),
        (QWEN3, np.float32),
        (LLAMA, np.float32),
        (QWEN2, BFLOAT16),
        (SDAR, BFLOAT16),
    ],
)
def test_what_is_loaded_is_saved_byte_for_byte(tmp_path, config, dtype):
    tensors = folders.write(tmp_path / "in", config, dtype=dtype, shards=2)
    assert models.config_from_hf(tmp_path / "in") == config
    hf.save(
        tmp_path / "out", config, hf.load(tmp_path / "in", config, dtype=None), max_shard_bytes=8000
    )
    assert models.config_from_hf(tmp_path / "out") == config
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    # the headers come on top
    assert len(files) > 2 and all(file.stat().st_size < 8000 + 4000 for file in files)
    same_bytes(folders.read(tmp_path / "out"), tensors)
    jax.tree.map(  # through the index
        np.testing.assert_array_equal,
        hf.load(tmp_path / "out", config),
        hf.load(tmp_path / "in", config),
    )


def test_one_file_needs_no_index(tmp_path):
    tensors = folders.write(tmp_path / "in")
    params = hf.load(tmp_path / "in", LLADA)
    hf.save(tmp_path / "out", LLADA, params, dtype="bfloat16", entries={"auto_map": {"a": "b"}})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    same_bytes(
        folders.read(tmp_path / "out"),
        {name: tensor.astype(BFLOAT16) for name, tensor in tensors.items()},
    )
    entries = json.loads((tmp_path / "out" / "config.json").read_text())
    assert entries["auto_map"] == {"a": "b"} and entries["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize("first, second", [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_folder_that_is_written_again_holds_the_new_weights(tmp_path, first, second):
    """In several files and then in one, and the other way round."""
    folders.write(tmp_path / "in")
    params = hf.load(tmp_path / "in", LLADA)
    changed = jax.tree.map(lambda x: x + 1, params)
    size = 3 * sum(x.size for x in jax.tree.leaves(params))  # bytes, between the two
    for weights, dtype in ((params, first), (changed, second)):
        hf.save(tmp_path / "out", LLADA, weights, dtype=dtype, max_shard_bytes=size)
        assert (tmp_path / "out" / hf.INDEX).exists() == (dtype == "float32")
        found = hf.load(tmp_path / "out", LLADA, "float32")
        wanted = hf.paths_of(weights)
        for name, values in hf.paths_of(found).items():
            np.testing.assert_array_equal(values, np.float32(wanted[name].astype(dtype)), name)


def test_other_parameters_are_not_saved(tmp_path):
    folders.write(tmp_path)
    params = hf.load(tmp_path, LLADA)
    with pytest.raises(ValueError, match="layers.k.bias"):
        hf.save(tmp_path / "out", dataclasses.replace(LLADA, qkv_bias=True), params)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [QWEN3, LLAMA, dataclasses.replace(LLAMA, rope_scaling=None, tied=False), QWEN2],
    ids=["qwen3", "llama3", "llama", "qwen2"],
)
def test_the_saved_folder_loads_in_transformers(tmp_path, config):
    torch = pytest.importorskip(
        "torch", reason="torch is not installed; it is only needed for this comparison"
    )
    transformers = pytest.importorskip("transformers")
    folders.write(tmp_path / "in", config)
    params = hf.load(tmp_path / "in", config)
    hf.save(tmp_path / "out", config, params, max_shard_bytes=8000)
    tokens = np.random.default_rng(0).integers(2, 40, (2, 60))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        theirs = model(torch.tensor(tokens)).logits.numpy()
    denoiser = models.make_denoiser(dataclasses.replace(config, shift=False))
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(lambda p: denoiser.unembed(p, denoiser.features(p, tokens)))(params)
    # float32 rounding on both sides
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
