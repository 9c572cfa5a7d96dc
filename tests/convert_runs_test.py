"""launch/convert.py on runs: adapters merged and kept, and a run that starts from its folder."""

import dataclasses
import json
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from gdsd_jax import adapters, checkpoint, hf, models, tokenizers
from gdsd_jax.tasks.coding import dataset
from tests import folders
from tests.convert_test import run
from tests.folders import LLADA
from tests.processes import xla_flags
from tests.reference import random_adapters

ROOT = Path(__file__).resolve().parents[1]


def save_run(folder, config, base):
    """A workdir as a run with adapters over the converted folder `base` leaves it."""
    lora = random_adapters(config)
    checkpoints = checkpoint.Checkpoints(folder / "checkpoints")
    checkpoints.save(4, {"state": {"trainable": jax.tree.map(jnp.zeros_like, lora)}}, {})
    checkpoints.save(12, {"state": {"trainable": lora}}, {})
    checkpoints.close()
    entries = {
        "init_from": str(base),
        "lora_rank": config.lora_rank,
        "lora_alpha": config.lora_alpha,
        "lora_targets": config.lora_targets,
        "task": "coding",
        "model": "llada_8b",
    }
    (folder / "config.json").write_text(json.dumps(entries))
    return lora


def logits_of(config, trainable, frozen):
    denoiser = models.make_denoiser(config)
    tokens = np.random.default_rng(0).integers(2, 40, (2, 7))

    def fn(t, f):
        return denoiser.unembed(p := denoiser.bind(t, f), denoiser.features(p, tokens))

    with jax.default_matmul_precision("highest"):
        return jax.jit(fn)(trainable, frozen)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder, config, adapters): in/ from Hugging Face, base/ converted, work/ with adapters over
    it."""
    folder = tmp_path_factory.mktemp("trained")
    config = dataclasses.replace(LLADA, lora_rank=3, lora_alpha=6.0)
    folders.write(folder / "in")
    assert run(f"--from_hf={folder / 'in'}", f"--to_orbax={folder / 'base'}") == 0
    (folder / "work").mkdir()
    return folder, config, save_run(folder / "work", config, folder / "base")


def test_merged_adapters_give_the_same_logits(trained):
    folder, config, lora = trained
    assert run(f"--from_orbax={folder / 'work'}", f"--to_hf={folder / 'merged'}") == 0
    base, merged = hf.load(folder / "in", LLADA), hf.load(folder / "merged", LLADA)
    unmerged = np.asarray(logits_of(config, lora, {"base": base}))
    assert np.abs(unmerged - logits_of(LLADA, base, {})).max() > 0.1  # the adapters do something
    # one product instead of two sums in float32: rounding
    np.testing.assert_allclose(
        logits_of(LLADA, merged, {}), unmerged, atol=1e-5 * max(1, np.abs(unmerged).max())
    )


def test_kept_adapters_have_pefts_layout(trained):
    folder, config, lora = trained
    assert run(f"--from_orbax={folder / 'work'}", f"--to_hf={folder / 'kept'}", "--lora=keep") == 0
    names = sorted(path.name for path in (folder / "kept").iterdir())
    assert names == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    entries = json.loads((folder / "kept" / "adapter_config.json").read_text())
    assert (entries["peft_type"], entries["r"], entries["lora_alpha"]) == ("LORA", 3, 6.0)
    assert entries["base_model_name_or_path"] == str(folder / "in")
    tensors = load_file(folder / "kept" / "adapter_model.safetensors")
    assert len(tensors) == 2 * 7 * LLADA.layers
    weights = hf.paths_of(hf.load(folder / "in", LLADA))
    for target in models.PROJECTIONS:
        for i, name in enumerate(hf.tensor_names(f"layers.{target}.kernel", LLADA)):
            module = name.removesuffix(".weight")
            assert re.fullmatch(entries["target_modules"], module)
            a, b = (tensors[f"base_model.model.{module}.lora_{letter}.weight"] for letter in "AB")
            # PEFT adds B A to its [out, in] weight
            change = entries["lora_alpha"] / entries["r"] * (b @ a).T
            assert change.shape == weights[f"layers.{target}.kernel"].shape[1:]
            ours = (
                2.0
                * np.asarray(lora["layers"][target]["a"][i])
                @ np.asarray(lora["layers"][target]["b"][i])
            )
            summed = np.abs(entries["lora_alpha"] / entries["r"] * np.abs(b) @ np.abs(a)).T
            np.testing.assert_array_less(np.abs(change - ours), 1e-6 * summed)
    # the head, of the same last name
    assert not re.fullmatch(entries["target_modules"], "model.transformer.ff_out")


def test_kept_adapters_have_the_dtype_asked_for(trained):
    folder = trained[0]
    command = (f"--from_orbax={folder / 'work'}", "--lora=keep", "--dtype=bfloat16")
    assert run(*command, f"--to_hf={folder / 'kept_bfloat16'}") == 0
    tensors = load_file(folder / "kept_bfloat16" / "adapter_model.safetensors")
    assert {tensor.dtype.name for tensor in tensors.values()} == {"bfloat16"}


def test_a_base_of_the_hub_is_named_as_peft_looks_it_up(tmp_path):
    config = dataclasses.replace(LLADA, lora_rank=3)
    wanted = {"owner/name@0123abcd": ("owner/name", "0123abcd"), "owner/name": ("owner/name", None)}
    for base, (name, revision) in wanted.items():
        adapters.save(tmp_path, config, random_adapters(config), base)
        entries = json.loads((tmp_path / "adapter_config.json").read_text())
        assert (entries["base_model_name_or_path"], entries["revision"]) == (name, revision)


def test_adapters_over_trained_weights_are_not_kept_alone(trained, tmp_path, capsys):
    """Nor over weights that other adapters were summed into: no folder holds what they belong
    to."""
    folder, config, lora = trained
    whole = hf.load(folder / "in", LLADA)
    checkpoints = checkpoint.Checkpoints(tmp_path / "whole" / "checkpoints")
    checkpoints.save(4, {"state": {"trainable": whole}}, {})
    checkpoints.close()
    entries = {"init_from": str(folder / "base"), "task": "coding", "model": "llada_8b"}
    (tmp_path / "whole" / "config.json").write_text(json.dumps(entries))
    adapters.save(tmp_path / "peft", config, lora, "base")
    summed = (f"--from_hf={folder / 'in'}", f"--adapter={tmp_path / 'peft'}")
    assert run(*summed, f"--to_orbax={tmp_path / 'summed'}") == 0
    for base in ("whole", "summed"):
        (tmp_path / f"over_{base}").mkdir()
        save_run(tmp_path / f"over_{base}", config, tmp_path / base)
        command = (f"--from_orbax={tmp_path / f'over_{base}'}", f"--to_hf={tmp_path / 'out'}")
        assert run(*command, "--lora=keep") == 2 and not (tmp_path / "out").exists()
        assert "its adapters stand over weights that were trained" in capsys.readouterr().err
        assert run(*command) == 0
        shutil.rmtree(tmp_path / "out")


def test_there_must_be_adapters_to_keep(trained, capsys):
    folder = trained[0]
    assert run(f"--from_orbax={folder / 'base'}", f"--to_hf={folder / 'none'}", "--lora=keep") == 2
    assert "there are no adapters" in capsys.readouterr().err and not (folder / "none").exists()


@pytest.mark.slow
def test_a_run_starts_from_a_converted_folder_and_goes_back(tmp_path):
    """Folder -> orbax -> training with adapters on all seven projections -> folder: only the
    projections have moved."""
    dataset.build(tmp_path / "data")
    tokenizer = tokenizers.load(dataset.folder(tmp_path / "data"))
    ids = {
        name: getattr(tokenizer, name) for name in ("vocab_size", "mask_id", "pad_id", "stop_ids")
    }
    preset = dataclasses.replace(models.MODELS["llada_tiny"], **ids)
    before = folders.write(tmp_path / "in", preset, shards=2)
    shutil.copyfile(
        Path(dataset.folder(tmp_path / "data")) / "tokenizer.model",
        tmp_path / "in" / "tokenizer.model",
    )
    assert run(f"--from_hf={tmp_path / 'in'}", f"--to_orbax={tmp_path / 'orbax'}") == 0
    config = (
        f"configs/coding.py:tiny,init_from={tmp_path / 'orbax'},data_dir={tmp_path / 'data'},"
        "lora_rank=4,lora_alpha=8.0,rounds=1,mesh.data=1,prompts_per_round=4,group_size=2,"
        "inner_iterations=2,sft.steps=2,sft.batch=8,eval_problems=4,sft_optimizer.warmup_steps=0"
    )
    command = [
        sys.executable,
        "launch/main.py",
        f"--config={config}",
        f"--workdir={tmp_path / 'work'}",
    ]
    environment = os.environ | {"XLA_FLAGS": xla_flags()}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert run(f"--from_orbax={tmp_path / 'work'}", f"--to_hf={tmp_path / 'out'}") == 0
    after = folders.read(tmp_path / "out")
    moved = {name.split(".")[-2] for name in after if not np.array_equal(after[name], before[name])}
    projections = {"q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"}
    assert moved == projections
    np.testing.assert_array_equal(
        after["model.transformer.ff_out.weight"], before["model.transformer.ff_out.weight"]
    )
    assert (tmp_path / "out" / "tokenizer.model").exists()
