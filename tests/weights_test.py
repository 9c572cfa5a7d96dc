"""A folder's model is the one that was saved: weights, adapters over their base, settings, the
tokenizer; others are refused."""

import dataclasses
import datetime
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tokenizers as hf_tokenizers

from configs import coding, opdlm
import gdsd_jax
from gdsd_jax import checkpoint, experiment, models, settings, sharding, tokenizers, weights
from launch import convert
from tests import folders
from tests.generate_test import SIZES, save_converted
from tests.reference import random_params, tiny


def load(folder):
    """(settings, model, mesh, trainable, frozen) as the launch scripts load them."""
    chosen, mesh = weights.settings_of(folder), sharding.make_mesh({"fsdp": -1})
    model, _ = weights.read_model(chosen, weights.kept_tokenizer(chosen, folder))
    return chosen, model, mesh, *weights.load_weights(folder, chosen, model, mesh)


def of_coding(*overrides: str) -> settings.Settings:
    return settings.parse(coding.get_config(",".join(["tiny", *overrides])))


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
    chosen, model, mesh, trainable, frozen = load(workdir)
    with ocp.CheckpointManager(workdir / "checkpoints") as manager:
        saved = manager.restore(
            newest, args=ocp.args.Composite(state=ocp.args.StandardRestore())
        ).state
    assert checkpoint.latest_iteration(workdir) == newest
    assert_equal_trees(trainable, saved["state"]["trainable"])
    assert model.lora_rank == chosen.lora_rank and set(frozen) == (
        {"base"} if chosen.lora_rank else set()
    )
    fresh = jax.jit(weights.make_trainable(chosen, model))(jax.random.key(chosen.seed))
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
    chosen, mesh = weights.settings_of(tmp_path), sharding.make_mesh({"data": -1})
    assert checkpoint.is_converted(tmp_path)
    assert (chosen.dtype, chosen.lora_rank) == ("float32", 0)
    trainable, frozen = weights.load_weights(tmp_path, chosen, config, mesh)
    assert frozen == {}
    assert_equal_trees(trainable, params)
    with pytest.raises(
        ValueError, match="holds another model, first difference at .*layers.*k.*bias"
    ):
        weights.load_weights(tmp_path, chosen, dataclasses.replace(config, kv_heads=4), mesh)


def test_weights_that_are_not_finite_are_not_started_from(tmp_path):
    """One line names the tensor; nothing could be learnt from them."""
    config = tiny(d_model=32, vocab_size=48)
    params = random_params(config)
    kernel = params["layers"]["q"]["kernel"]
    params["layers"]["q"]["kernel"] = kernel.at[1, 2, 3].set(jnp.nan)
    manifest = {"model": dataclasses.asdict(config), "dtype": ["float32"]}
    checkpoint.save_params(tmp_path, params, manifest)
    chosen, mesh = weights.settings_of(tmp_path), sharding.make_mesh({"data": -1})
    with pytest.raises(ValueError, match=r"layers\.q\.kernel holds NaN or infinity") as error:
        weights.initial_weights(chosen, config, mesh, None)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_run_goes_on_from_anothers_weights(workdir, lora_workdir, data_dir):
    """`init_from` takes a workdir too: its newest weights, its model and tokenizer, the new run's
    settings."""
    chosen = of_coding(
        "model=none", f"init_from={workdir}", "dtype=bfloat16", f"data_dir={data_dir}"
    )
    (model, tokenizer), mesh = weights.read_model(chosen), sharding.make_mesh({"data": -1})
    before = weights.settings_of(workdir)
    base, base_tokenizer = weights.read_model(before, weights.kept_tokenizer(before, workdir))
    assert (
        model == dataclasses.replace(base, dtype="bfloat16")
        and tokenizer.vocab_size == base_tokenizer.vocab_size
    )
    assert_equal_trees(weights.base_weights(chosen, model, mesh, None), load(workdir)[3])
    with pytest.raises(ValueError, match="init_from=.*: a run of adapters"):
        weights.read_model(of_coding(f"init_from={lora_workdir}", f"data_dir={data_dir}"))


def test_chat_templates_are_told_what_the_run_asks(tmp_path):
    """Whether its weights are a converted model's, another run's, or are only evaluated."""
    converted, before = tmp_path / "converted", tmp_path / "before"
    converted.mkdir()
    save_converted(converted, models.ModelConfig(family="llada", **SIZES))
    start = f"init_from={converted}"
    (before / "checkpoints" / "3").mkdir(parents=True)
    settings.write(before, of_coding("model=none", start, "enable_thinking=true"), "tests")
    for folder in (converted, before):
        for thinks in (False, True):
            chosen = of_coding("model=none", f"init_from={folder}", f"enable_thinking={thinks}")
            for _, tokenizer in (
                weights.read_model(chosen),
                experiment.model_of(chosen, None, folder),
            ):
                asked = tokenizer.chat_text([{"role": "user", "content": "ab"}])
                assert asked == ("[ab]!" if thinks else "[ab]"), (folder.name, thinks)


def test_a_runs_prompts_are_the_same_on_every_day(tmp_path):
    """Templates that write the date are told one, but where the tokenizer is asked by itself."""
    save_converted(tmp_path, models.ModelConfig(family="llada", **SIZES))
    (tmp_path / "chat_template.jinja").write_text("{{ strftime_now('%d %b %Y') }}")
    turns = [{"role": "user", "content": "ab"}]
    _, tokenizer = weights.read_model(of_coding("model=none", f"init_from={tmp_path}"))
    assert tokenizer.chat_text(turns) == "26 Jul 2024"
    ids = {name: SIZES[name] for name in ("pad_id", "mask_id", "stop_ids")}
    today = tokenizers.load(tmp_path, **ids).chat_text(turns)
    assert today.endswith(str(datetime.datetime.now().year))


def with_config(workdir, folder, **changes):
    """A copy of a workdir whose config.json has other entries."""
    shutil.copytree(workdir, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_a_student_does_not_become_the_teacher(monkeypatch, tmp_path):
    """Neither of the next run nor of one after that; what has only been taught may teach."""
    distilling = settings.parse(opdlm.get_config("tiny,init_from=base"))
    runs = {
        "student": distilling,
        "after": of_coding("init_from=student"),
        "taught": settings.replace(distilling, {"rounds": 0}),
        "own": settings.replace(distilling, {"init_from": None}),
    }
    monkeypatch.setattr(weights, "settings_of", lambda folder: runs[pathlib.Path(folder).name])
    monkeypatch.setattr(weights, "is_converted", lambda folder: folder.endswith("/base"))

    def check(start):
        weights.check_teacher(settings.replace(distilling, {"init_from": start}))

    for start in ("student", "after"):
        said = f"init_from=.*/{start}: .* would become the teacher: give init_from=.*/base, as in"
        with pytest.raises(ValueError, match=said):
            check(start)
        weights.check_teacher(of_coding(f"init_from={start}"))
    with pytest.raises(ValueError, match="would become the teacher: leave init_from out"):
        check("own")
    for start in ("taught", "base", None):
        check(start)
    new = settings.replace(distilling, {"init_from": "student"})
    with pytest.raises(ValueError, match="would become the teacher"):
        experiment.prepare(new, workdir=tmp_path)


def test_a_run_from_nothing_keeps_its_tokenizer(workdir, tmp_path):
    """Its workdir is all that its model needs: the problems that the tokenizer came from may be
    gone."""
    gone = tmp_path / "gone"
    assert (workdir / "tokenizer").is_dir()
    alone = with_config(workdir, tmp_path / "copy", data_dir=str(gone))
    denoiser, params, tokenizer = weights.load(alone)
    assert not gone.exists(), "the problems were built again"
    assert denoiser.config.vocab_size == tokenizer.vocab_size
    assert denoiser.config.mask_id == tokenizer.mask_id
    assert_equal_trees(params, load(workdir)[3])
    # so does a run that starts from there
    _, again = weights.read_model(of_coding(f"init_from={alone}"))
    text = "def f(items):\n    return sum(items)"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and again.encode(text) == ids


def test_a_run_of_an_earlier_version_has_its_tasks_tokenizer(workdir, data_dir, tmp_path):
    """It kept none of its own; a task without one says what is missing."""
    former = with_config(workdir, tmp_path / "former", data_dir=str(data_dir))
    kept = tokenizers.load(former / "tokenizer")
    shutil.rmtree(former / "tokenizer")
    text = "def f(items):\n    return max(items)"
    assert weights.load(former)[2].encode(text) == kept.encode(text)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "sum the items", "domain": "chat"}\n' * 2)
    changes = {"task": "prompts", "data_file": str(rows), "options": {}}
    without = with_config(former, tmp_path / "without", **changes)
    with pytest.raises(ValueError, match="without: the folder tokenizer is missing; copy the"):
        weights.load(without)


def test_names_and_adapters_are_told_how_to_become_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^owner/name is no folder here: .*--from_hf=owner/name "):
        gdsd_jax.load("owner/name")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=f"--from_hf=MODEL --adapter={tmp_path} --to_orbax=DIR"):
        gdsd_jax.load(tmp_path)


def test_other_folders_are_refused(workdir, tmp_path):
    with pytest.raises(ValueError, match="neither the manifest.json"):
        weights.settings_of(tmp_path)
    shutil.copy(workdir / "config.json", tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="neither the manifest.json"):  # nothing finished yet
        weights.settings_of(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="manifest.json: not readable JSON"):
        weights.settings_of(tmp_path)
    other = dataclasses.replace(models.MODELS["llada_tiny"], vocab_size=64)
    with pytest.raises(ValueError, match="holds another model"):
        weights.load_weights(
            workdir, weights.settings_of(workdir), other, sharding.make_mesh({"data": -1})
        )
    adapters = settings.replace(weights.settings_of(workdir), {"lora_rank": 2, "lora_alpha": 2.0})
    with pytest.raises(ValueError, match="holds another model"):
        weights.load_weights(
            workdir,
            adapters,
            dataclasses.replace(other, lora_rank=2),
            sharding.make_mesh({"data": -1}),
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_hugging_face_folder_loads_by_the_package_itself(dtype, tmp_path):
    """On eight devices, the same numbers as the files', with the tokenizer."""
    config = dataclasses.replace(folders.QWEN3, vocab_size=64, d_model=32, d_ff=64, head_dim=16)
    written = folders.write(tmp_path, config, dtype=jnp.dtype(dtype))
    vocabulary = {f"w{number}": number for number in range(60)}
    words = hf_tokenizers.models.WordLevel(vocabulary, unk_token="w0")
    hf_tokenizers.Tokenizer(words).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "w0"}')
    denoiser, params, tokenizer = gdsd_jax.load(tmp_path)
    assert denoiser.config.dtype == dtype and denoiser.config.tokenizer_size == 60
    assert tokenizer.encode("w3") == [3]
    embedding = params["embed"]["embedding"]
    assert embedding.dtype == dtype and len(embedding.sharding.device_set) == jax.device_count()
    np.testing.assert_array_equal(embedding, written["model.embed_tokens.weight"])
    tokens_BxL = jnp.array([[3, 4, 5, 6]] * 8)
    score = jax.jit(lambda params: denoiser.unembed(params, denoiser.features(params, tokens_BxL)))
    logits_BxLxV = score(params)
    assert logits_BxLxV.shape == (8, 4, 64) and bool(jnp.isfinite(logits_BxLxV).all())
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match="unknown model_type 'gpt2'"):
        gdsd_jax.load(tmp_path)


def test_a_folder_and_its_conversion_ask_alike(tmp_path):
    """Templates are told of thinking in both, though Hugging Face's folders have no settings."""
    folders.write(tmp_path / "in", folders.LLADA)
    folders.write_tokenizer(tmp_path / "in")
    template = "a{% if enable_thinking is defined and enable_thinking is false %}b{% endif %}"
    (tmp_path / "in" / "chat_template.jinja").write_text(template)
    assert convert.main([f"--from_hf={tmp_path / 'in'}", f"--to_orbax={tmp_path / 'out'}"]) == 0
    mesh = sharding.make_mesh({}, devices=jax.devices()[:1])
    turns = [{"role": "user", "content": "x"}]
    theirs, ours = (gdsd_jax.load(tmp_path / name, mesh)[2] for name in ("in", "out"))
    assert theirs.chat_text(turns) == ours.chat_text(turns) == "ab"


def test_the_package_exports_load_alone_and_is_quick_to_import():
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = gdsd_jax.lode
    code = "import sys, gdsd_jax; assert 'jax' not in sys.modules; print(gdsd_jax.load.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "gdsd_jax.weights"


def test_a_teacher_may_be_kept_in_half_the_bytes():
    chosen = settings.parse(opdlm.get_config("tiny,teacher_dtype=bfloat16"))
    trainable = {"w": jnp.full(3, 1 / 3)}
    (copy,) = weights.copies_of(chosen, trainable)["teacher"].values()
    assert copy.dtype == jnp.bfloat16 and trainable["w"].dtype == jnp.float32
    (plain,) = weights.copies_of(settings.replace(chosen, {"teacher_dtype": None}), trainable)[
        "teacher"
    ].values()
    assert plain.dtype == jnp.float32
