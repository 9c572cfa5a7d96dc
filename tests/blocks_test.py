"""The blocks that weights have learnt with: from config.json and runs to manifests, samplers and
notes, and back."""

import argparse
import dataclasses
import json

import pytest

from gdsd_jax import checkpoint, models, sampling, weights
from gdsd_jax.inference import generation
from launch import convert
from launch import eval as launch_eval
from launch import generate as launch_generate
from tests import folders
from tests.reference import random_params, tiny

BY_BLOCKS = ("sdar_4b", "a2d_qwen3_4b", "a2d_qwen2p5_7b", "a2d_llama3p2_1b")
OTHERS = ("llada_8b", "dream_7b", "qwen3_4b", "qwen2p5_7b", "llama3p1_8b")
A2D = tiny(family="a2d-qwen3", qk_norm=True)  # small enough to be written


def read(folder, entries: dict):
    (folder / "config.json").write_text(json.dumps(entries))
    return models.config_from_hf(folder)


def run(*arguments) -> None:
    assert convert.main([str(argument) for argument in arguments]) == 0


@pytest.mark.parametrize("name", [*BY_BLOCKS, *OTHERS])
def test_config_json_tells_the_blocks_of_block_causal_types(name, tmp_path):
    """Elsewhere the entry may mean something else."""
    plain = models.MODELS[name]
    config = read(tmp_path, models.config_to_hf(plain) | {"block_size": 32})
    if name in OTHERS:
        assert config == plain
        assert models.default_sampler(config) == models.default_sampler(plain)
        return
    assert config == dataclasses.replace(plain, block_length=32)
    assert models.default_sampler(config) == {"kind": "block", "block_length": 32}
    assert read(tmp_path, models.config_to_hf(config)) == config
    assert read(tmp_path, models.config_to_hf(plain) | {"block_size": None}) == plain
    for wrong in (0, -4, 4.0, "4", True, [4]):
        with pytest.raises(ValueError, match="block_size=.*: give a whole number from 1 on"):
            read(tmp_path, models.config_to_hf(plain) | {"block_size": wrong})


def test_an_export_says_the_blocks_that_were_learnt():
    """In place of those that the model came with; its other entries stay."""
    came = models.config_to_hf(folders.SDAR) | {"block_size": 4, "auto_map": {"AutoModel": "x.Y"}}
    learnt = models.with_blocks(folders.SDAR, 16)
    assert models.export_entries(learnt, came, "float32")["block_size"] == 16
    kept = models.with_blocks(folders.SDAR, 4)
    assert models.export_entries(kept, came, "float32") == came | {"torch_dtype": "float32"}
    # what is not known is not said
    assert "block_size" not in models.export_entries(folders.SDAR, {}, "float32")
    assert models.with_blocks(folders.SDAR, None) == folders.SDAR
    assert models.with_blocks(folders.LLADA, 8) == folders.LLADA


def test_a_teacher_has_no_blocks():
    learnt = models.with_blocks(models.MODELS["a2d_qwen3_4b"], 8)
    assert models.to_autoregressive(learnt) == models.MODELS["qwen3_4b"]
    assert models.to_denoiser(learnt) == learnt


def test_manifests_of_earlier_versions_load_and_know_no_blocks():
    """And those of models whose blocks are not known are still such manifests."""
    entries = json.loads(json.dumps(models.config_to_json(A2D)))
    assert "block_length" not in entries and models.config_from_json(entries) == A2D
    learnt = models.with_blocks(A2D, 8)
    entries = json.loads(json.dumps(models.config_to_json(learnt)))
    assert entries["block_length"] == 8 and models.config_from_json(entries) == learnt
    with pytest.raises(ValueError, match="block_length=0: give a whole number"):
        models.config_from_json(entries | {"block_length": 0})
    with pytest.raises(ValueError, match="block_length=0 must be at least 1"):
        dataclasses.replace(A2D, block_length=0)


# ---------------------------------------------------------------- folders and runs


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder: student/ weights that no blocks are known of, run/ a workdir that has taught them
    blocks of 8, hf/ its export, again/ that converted."""
    folder = tmp_path_factory.mktemp("places")
    folders.write(folder / "in", A2D)
    folders.write_tokenizer(folder / "in", A2D)
    run(f"--from_hf={folder / 'in'}", f"--to_orbax={folder / 'student'}")
    checkpoints = checkpoint.Checkpoints(folder / "run" / "checkpoints")
    checkpoints.save(2, {"state": {"trainable": random_params(A2D)}}, {})
    checkpoints.close()
    entries = {"init_from": str(folder / "student"), "task": "prompts", "model": None}
    entries["sampler"] = {"kind": "block", "gen_length": 24, "block_length": 8, "steps": 24}
    (folder / "run" / "config.json").write_text(json.dumps(entries))
    run(f"--from_orbax={folder / 'run'}", f"--to_hf={folder / 'hf'}")
    run(f"--from_hf={folder / 'hf'}", f"--to_orbax={folder / 'again'}")
    return folder


def blocks_of(folder) -> tuple[int, int | None]:
    """(the sampler's, those that the model is known to have learnt with)."""
    chosen, model, _ = weights.read_folder(folder)
    assert chosen.sampler.kind == "block"
    return chosen.sampler.block_length, model.block_length


def test_what_a_run_taught_is_what_its_export_samples_with(places):
    assert json.loads((places / "hf" / "config.json").read_text())["block_size"] == 8
    assert checkpoint.read_manifest(places / "again")["model"]["block_length"] == 8
    assert blocks_of(places / "student") == (4, None)
    for name in ("run", "hf", "again"):
        assert blocks_of(places / name) == (8, 8)


def test_a_run_from_a_run_knows_what_that_has_learnt(places):
    chosen = weights.build({"init_from": str(places / "run"), "model": None})
    model, _ = weights.read_model(chosen)
    assert model.block_length == 8


def test_a_default_completion_has_whole_blocks(tmp_path):
    config = dataclasses.replace(A2D, block_length=24)
    folders.write(tmp_path, config)
    chosen = weights.settings_to_use(tmp_path, models.config_from_hf(tmp_path), ())
    assert (chosen.sampler.block_length, chosen.sampler.gen_length) == (24, 264)


# ---------------------------------------------------------------- notes


def test_other_blocks_than_those_learnt_are_noted():
    eight = sampling.SamplerConfig(kind="block", gen_length=24, block_length=8)
    said = (
        "sampler.block_length=8, but these weights have learnt with blocks of 4 tokens: "
        "sampler.block_length=4 is their own"
    )
    assert sampling.attention_doubts(eight, "block", 4, "these weights") == [said]
    for learnt in (8, None):
        assert sampling.attention_doubts(eight, "block", learnt, "these weights") == []
    (kinds,) = sampling.attention_doubts(eight, "llada", None, "these weights")
    assert kinds.startswith("sampler.kind=block takes block-causal attention, but these weights")
    full = sampling.SamplerConfig(gen_length=24, block_length=8)
    assert sampling.attention_doubts(full, "llada", None, "these weights") == []
    (kinds,) = sampling.attention_doubts(full, "block", 4, "these weights")
    assert kinds.startswith("sampler.kind=llada takes full attention, but these weights")


@pytest.mark.parametrize("name", ["run", "again", "student"])
def test_evaluations_and_the_harness_note_them_too(places, name):
    """Weights that no blocks are known of have none of their own."""
    said = "sampler.block_length=2, but these weights have learnt with blocks of 8 tokens"
    own, model, _ = weights.read_folder(places / name)
    chosen = weights.replace(own, {"sampler.block_length": 2})
    notes = launch_eval.doubts_of(chosen, model, str(places / name))
    if name == "student":
        assert notes == []
        return
    assert any(said in note for note in notes)
    with pytest.warns(UserWarning, match=said):
        generation.load_model(str(places / name), "block_length=2", "data=-1,fsdp=1")


@pytest.mark.parametrize("name", ["run", "again", "hf"])
def test_answers_are_noted_too(places, name, capsys):
    asked = dict(checkpoint=str(places / name), thinking=False, dtype=None, mesh="data=-1,fsdp=1")
    launch_generate.read_model(argparse.Namespace(**asked, sampler=""))
    assert capsys.readouterr().err == ""
    launch_generate.read_model(argparse.Namespace(**asked, sampler="block_length=2"))
    assert capsys.readouterr().err == (
        "note: sampler.block_length=2, but these weights have learnt with blocks of 8 tokens: "
        "sampler.block_length=8 is their own\n"
    )
