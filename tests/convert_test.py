"""launch/convert.py: both ways, killed and refused."""

import dataclasses
import hashlib
import importlib.util
import json
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys
import time

from etils import epath
import jax
import ml_dtypes
import numpy as np
import pytest
import tokenizers as hf_tokenizers

from gdsd_jax import checkpoint, hf, models, paths, tokenizers
from gdsd_jax.tasks.coding import dataset
from launch import convert
from tests import folders
from tests.folders import DREAM, LLADA, LLAMA, QWEN2, QWEN3, SDAR
from tests.scripts import code_of

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "JAX_PLATFORMS": "cpu",
}


def run(*arguments) -> int:
    return convert.main([str(argument) for argument in arguments])


def there_and_back(folder, source, *options):
    assert run(f"--from_hf={source}", f"--to_orbax={folder / 'orbax'}", *options) == 0
    assert (
        run(f"--from_orbax={folder / 'orbax'}", f"--to_hf={folder / 'hf'}", "--max_shard_gb=8e-6")
        == 0
    )
    return folders.read(folder / "hf")


@pytest.mark.parametrize(
    "config, dtype, shards",
    [
        (LLADA, ml_dtypes.bfloat16, 3),
        (DREAM, np.float16, 1),
        (QWEN3, np.float32, 2),
        (LLAMA, np.float32, 1),
        (SDAR, ml_dtypes.bfloat16, 2),
    ],
)
def test_there_and_back_is_byte_for_byte(tmp_path, config, dtype, shards, capsys):
    tensors = folders.write(tmp_path / "in", config, dtype=dtype, shards=shards)
    found = there_and_back(tmp_path, tmp_path / "in")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and found[name].tobytes() == tensor.tobytes(), name
    assert models.config_from_hf(tmp_path / "hf") == config
    errors = capsys.readouterr().err
    assert "warning:" in errors and "no tokenizer there" in errors and "converting: 100%" in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "in", "orbax"]


def test_the_manifest_says_where_the_weights_came_from(tmp_path):
    dataset.build(tmp_path / "data")
    size = tokenizers.load(dataset.folder(tmp_path / "data")).vocab_size
    config = dataclasses.replace(LLADA, vocab_size=size)
    entries = models.config_to_hf(config) | {"auto_map": {"AutoModel": "code.Model"}}
    folders.write(tmp_path / "in", config, shards=2, entries=entries)
    for name in ("tokenizer.model", "code.py", "generation_config.json", "weights.bin"):
        (tmp_path / "in" / name).write_bytes(b"{}")
    shutil.copyfile(
        Path(dataset.folder(tmp_path / "data")) / "tokenizer.model",
        tmp_path / "in" / "tokenizer.model",
    )
    there_and_back(tmp_path, tmp_path / "in", "--dtype=bfloat16")
    manifest = checkpoint.read_manifest(tmp_path / "orbax")
    assert manifest["family"] == "llada" and manifest["dtype"] == ["bfloat16"]
    assert models.config_from_json(manifest["model"]) == config
    hashed = {path.name for path in (tmp_path / "in").glob("model*")} | {"config.json"}
    assert manifest["sha256"] == {
        name: hashlib.sha256((tmp_path / "in" / name).read_bytes()).hexdigest() for name in hashed
    }
    copied = ["code.py", "generation_config.json", "tokenizer.model"]
    assert manifest["tokenizer"] == copied
    for folder in ("orbax", "hf"):
        assert all(
            (tmp_path / folder / name).read_bytes() == (tmp_path / "in" / name).read_bytes()
            for name in copied
        )
    entries = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (
        entries["auto_map"] == {"AutoModel": "code.Model"} and entries["torch_dtype"] == "bfloat16"
    )


# ---------------------------------------------------------------- a denoiser to be


def write_words(folder, words: int, config=QWEN3) -> dict:
    """A folder with a tokenizer of so many words and no mask, and its tensors."""
    entries = {
        key: value for key, value in models.config_to_hf(config).items() if key != "mask_token_id"
    }
    tensors = folders.write(folder, config, entries=entries)
    vocabulary = {f"w{i}": i for i in range(words)}
    hf_tokenizers.Tokenizer(hf_tokenizers.models.WordLevel(vocabulary, unk_token="w0")).save(
        str(folder / "tokenizer.json")
    )
    (folder / "tokenizer_config.json").write_text('{"added_tokens_decoder": {}, "eos_token": "w0"}')
    return tensors


@pytest.mark.parametrize("config", [QWEN3, QWEN2, LLAMA], ids=lambda config: config.family)
def test_an_autoregressive_model_becomes_a_denoiser_and_is_exported_as_one(tmp_path, config):
    """The weights stay, byte for byte; type, mask and tokenizer change, in the converted folder and
    back in a released layout."""
    tensors = write_words(tmp_path / "in", 37, config)
    found = there_and_back(tmp_path, tmp_path / "in", "--a2d")
    assert {name: tensor.tobytes() for name, tensor in found.items()} == {
        name: x.tobytes() for name, x in tensors.items()
    }
    wanted = dataclasses.replace(models.to_denoiser(config), mask_id=37)
    student = f"a2d-{config.family}"
    assert (wanted.family, wanted.shift, wanted.attention) == (student, False, "full")
    assert models.config_from_json(checkpoint.read_manifest(tmp_path / "orbax")["model"]) == wanted
    assert models.config_from_hf(tmp_path / "hf") == wanted
    entries = json.loads((tmp_path / "hf" / "config.json").read_text())
    name = {"qwen3": "Qwen3", "qwen2": "Qwen2", "llama": "Llama"}[config.family]
    assert entries["model_type"] == student
    assert entries["architectures"] == [f"A2D{name}LMHeadModel"]
    for folder in ("orbax", "hf"):
        tokenizer = tokenizers.load(tmp_path / folder, pad_id=0, mask_id=37, stop_ids=(0,))
        assert tokenizer.vocab_size == 38 and tokenizer.encode("<|mask|>") == [37]
        settings = json.loads((tmp_path / folder / "tokenizer_config.json").read_text())
        assert (
            settings["mask_token"]
            == settings["added_tokens_decoder"]["37"]["content"]
            == "<|mask|>"
        )


def test_what_cannot_become_a_denoiser_is_refused(tmp_path, capsys):
    folders.write(tmp_path / "llada")
    assert run(f"--from_hf={tmp_path / 'llada'}", f"--to_orbax={tmp_path / 'out'}", "--a2d") == 2
    assert "a llada model cannot become a denoiser of another type" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        run(f"--from_orbax={tmp_path / 'llada'}", f"--to_hf={tmp_path / 'out'}", "--a2d")


# ---------------------------------------------------------------- refusals


def no_folder(folder):
    shutil.rmtree(folder)


def unknown_family(folder):
    (folder / "config.json").write_text('{"model_type": "gpt2"}')


def cut_shard(folder):
    path = folder / "model-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def extra_tensor(folder):
    folders.write(
        folder, tensors=folders.random_tensors(LLADA) | {"extra": np.ones(1, np.float32)}, shards=2
    )


def broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{")


def larger_tokenizer(folder):
    folders.write_tokenizer(folder, dataclasses.replace(LLADA, vocab_size=43))


DAMAGES = {
    no_folder: "no config.json there",
    unknown_family: "unknown model_type 'gpt2', known: llada",
    cut_shard: "unreadable safetensors file",
    extra_tensor: "unknown extra",
    larger_tokenizer: "in: the tokenizer has 41 ids, the model only 40; copy the model's own",
    broken_tokenizer: "tokenizer.json is not a readable tokenizer",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_folders_leave_the_destination_alone(tmp_path, damage, capsys):
    folders.write(tmp_path / "in", shards=2)
    damage(tmp_path / "in")
    refused(tmp_path, capsys, DAMAGES[damage])
    assert not (tmp_path / "out").exists()


def refused(folder, capsys, words, way=("from_hf", "to_orbax")):
    """Exit code 2, one line with these words, and nothing half-written beside the destination."""
    before = {path for path in folder.rglob("*") if path.is_file()}
    flags = f"--{way[0]}={folder / 'in'}", f"--{way[1]}={folder / 'out'}"
    assert code_of(lambda: run(*flags)) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and re.search(words, errors[0])
    assert {path for path in folder.rglob("*") if path.is_file()} == before


def test_a_destination_in_use_is_refused(tmp_path, capsys):
    folders.write(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    refused(tmp_path, capsys, "out is not empty; name a new folder")
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").write_text("a file")
    refused(tmp_path, capsys, "out is a file; name a folder")


def test_a_full_disk_is_refused(tmp_path, capsys, monkeypatch):
    folders.write(tmp_path / "in")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
        refused(tmp_path, capsys, "GB free, out takes up to 0.0 GB; make room")
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:  # the disk fills while arrays are written
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
        refused(tmp_path, capsys, "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)


def test_orbax_folders_that_are_none_are_refused(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    refused(
        tmp_path,
        capsys,
        "neither the manifest.json of a converted model nor",
        ("from_orbax", "to_hf"),
    )
    (tmp_path / "in" / "manifest.json").write_text("{")
    refused(tmp_path, capsys, "manifest.json: not readable JSON", ("from_orbax", "to_hf"))
    folders.write(tmp_path / "model")
    assert run(f"--from_hf={tmp_path / 'model'}", f"--to_orbax={tmp_path / 'good'}") == 0
    shutil.copyfile(tmp_path / "good" / "manifest.json", tmp_path / "in" / "manifest.json")
    capsys.readouterr()
    refused(tmp_path, capsys, "params: no complete orbax checkpoint", ("from_orbax", "to_hf"))


@pytest.mark.parametrize(
    "arguments",
    [["--from_hf=a"], ["--from_hf=a", "--to_hf=b"], ["--from_hf=a", "--to_orbax=b", "--lora=keep"]],
)
def test_half_a_command_is_refused(arguments):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2


def test_a_killed_conversion_leaves_nothing_that_looks_finished(tmp_path):
    folders.write(tmp_path / "in", shards=2)
    endless = tmp_path / "in" / "endless.safetensors"
    os.mkfifo(endless)  # the conversion waits for its content until it is killed
    command = [
        sys.executable,
        "launch/convert.py",
        f"--from_hf={tmp_path / 'in'}",
        f"--to_orbax={tmp_path / 'out'}",
    ]
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    while not (tmp_path / ".out.partial").exists() and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists() and (tmp_path / ".out.partial").exists()
    endless.unlink()
    (tmp_path / "out").mkdir()  # an empty folder may be there
    assert run(*command[2:]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


# ---------------------------------------------------------------- object stores


def fill_bucket(folder) -> None:
    """Every file of a local folder, under gs://bucket/in."""
    for path in folder.iterdir():
        epath.Path(path).copy(f"gs://bucket/in/{path.name}")


def test_a_bucket_holds_models_both_ways(bucket, tmp_path, monkeypatch):
    """Folder in a bucket -> converted folder there -> folder there: the tokenizer, the manifest and
    the weights are read from their addresses, and nothing goes to the local disk."""
    tensors = write_words(tmp_path / "in", words=37)
    fill_bucket(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert run("--from_hf=gs://bucket/in", "--to_orbax=gs://bucket/model", "--a2d") == 0
    assert bucket.changes[-2:] == ["bucket/model/manifest.json", "-bucket/model/.unfinished"]
    manifest = checkpoint.read_manifest("gs://bucket/model")
    assert manifest["source"] == "gs://bucket/in" and "model.safetensors" in manifest["sha256"]
    tokenizer = tokenizers.load("gs://bucket/model", pad_id=0, mask_id=37, stop_ids=(0,))
    assert tokenizer.encode("<|mask|>") == [37] and tokenizer.vocab_size == 38
    config = models.config_from_json(manifest["model"])
    params = checkpoint.load_params("gs://bucket/model", models.param_shapes(config))
    embedding = tensors["model.embed_tokens.weight"]
    np.testing.assert_array_equal(params["embed"]["embedding"], embedding)
    assert run("--from_orbax=gs://bucket/model", "--to_hf=gs://bucket/out") == 0
    assert bucket.changes[-2:] == ["bucket/out/config.json", "-bucket/out/.unfinished"]
    assert models.config_from_hf("gs://bucket/out") == config
    there = hf.load("gs://bucket/out", config)
    jax.tree.map(np.testing.assert_array_equal, there, hf.load(tmp_path / "in", config))
    assert not [*(tmp_path / "empty").iterdir()]


def test_a_bucket_shows_no_half_of_a_model(bucket, tmp_path, capsys, monkeypatch):
    """What is there is refused; what a killed conversion left is cleared; a fault leaves
    nothing."""
    folders.write(tmp_path / "in")
    epath.Path("gs://bucket/out/mine.txt").write_text("precious")
    command = f"--from_hf={tmp_path / 'in'}", "--to_orbax=gs://bucket/out"
    assert run(*command) == 2
    assert "gs://bucket/out is not empty" in capsys.readouterr().err
    assert [*bucket.objects] == ["bucket/out/mine.txt"]
    (epath.Path("gs://bucket/out") / paths.UNFINISHED).write_text("killed")
    with monkeypatch.context() as patch:
        patch.setattr(hf, "read_tensor", lambda *_: 1 / 0)
        assert run(*command) == 1
        assert "error: ZeroDivisionError" in capsys.readouterr().err
    assert not bucket.objects
    assert run(*command) == 0 and "bucket/out/manifest.json" in bucket.objects


def test_the_package_that_addresses_need_is_named(tmp_path, capsys):
    if importlib.util.find_spec("gcsfs"):
        pytest.skip("gcsfs is installed")
    assert run("--from_hf=gs://bucket/model", f"--to_orbax={tmp_path / 'out'}") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "gcsfs" in errors[0]


def test_addresses_of_other_kinds_are_refused(tmp_path, capsys):
    assert run("--from_hf=http://host/model", f"--to_orbax={tmp_path}") == 2
    assert "http://host/model: give a local path or gs://" in capsys.readouterr().err
