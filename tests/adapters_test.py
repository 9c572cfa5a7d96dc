"""Adapters that PEFT saved, in tests/golden: summed into the weights, kept beside them, trained on,
and what is refused."""

import dataclasses
import json
from pathlib import Path
import shutil

from etils import epath
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
import tokenizers as hf_tokenizers

from gdsd_jax import adapters, checkpoint, hf, models, sharding, weights
from launch import convert
from tests.folders import LLADA
from tests.reference import random_adapters

GOLDEN = Path(__file__).resolve().parent / "golden"
LLAMA, NAMES = GOLDEN / "llama", ("all", "rslora")
# of the largest logit: float32 rounding
RELATIVE = 1e-5


def run(*arguments) -> int:
    return convert.main([str(argument) for argument in arguments])


def golden(name: str) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, the adapted model's logits as PEFT's own code computed them)."""
    inputs, outputs = np.load(LLAMA / "inputs.npz"), np.load(LLAMA / "outputs.npz")
    return inputs["full_input_ids"], outputs[f"{name}_logits"]


def assert_golden(config, params, name: str) -> None:
    """Under the autoregressive model's mask, without its shift."""
    denoiser, (tokens, theirs) = models.make_denoiser(config), golden(name)

    def fn(params):
        h = denoiser.features(params, tokens, attention=models.Causal())
        return denoiser.unembed(params, h)

    with jax.default_matmul_precision("highest"):
        ours = np.asarray(jax.jit(fn)(params))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=RELATIVE * np.abs(theirs).max())
    plain = np.load(LLAMA / "outputs.npz")["full_logits"]
    assert np.abs(plain - theirs).max() > 0.1  # the adapters do something


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    """The golden llama as the folder of a student, with a tokenizer."""
    folder = tmp_path_factory.mktemp("student")
    shutil.copyfile(LLAMA / "model.safetensors", folder / "model.safetensors")
    entries = json.loads((LLAMA / "config.json").read_text())
    entries |= {"model_type": "a2d-llama", "mask_token_id": 39, "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(entries))
    vocabulary = {f"w{i}": i for i in range(40)}
    model = hf_tokenizers.models.WordLevel(vocabulary, unk_token="w0")
    hf_tokenizers.Tokenizer(model).save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module", params=NAMES)
def kept(request, student, tmp_path_factory) -> tuple[str, Path]:
    """(name, converted folder that holds base and adapters)."""
    folder, name = tmp_path_factory.mktemp("kept") / "model", request.param
    there = LLAMA / "adapters" / name
    assert (
        run(f"--from_hf={student}", f"--adapter={there}", f"--to_orbax={folder}", "--lora=keep")
        == 0
    )
    return name, folder


@pytest.mark.parametrize("name", NAMES)
def test_summed_adapters_give_pefts_logits(name, tmp_path):
    there = LLAMA / "adapters" / name
    out = tmp_path / "model"
    assert run(f"--from_hf={LLAMA}", f"--adapter={there}", f"--to_orbax={out}") == 0
    manifest = checkpoint.read_manifest(out)
    assert manifest["adapter"] == str(there) and adapters.WEIGHTS in manifest["sha256"]
    config = dataclasses.replace(models.config_from_json(manifest["model"]), shift=False)
    assert config.lora_rank == 0
    assert_golden(config, checkpoint.load_params(out, models.param_shapes(config)), name)


def test_a_head_of_the_same_last_name_is_adapted_too(tmp_path):
    """PEFT takes LLaDA's ff_out for the layers' and the head's alike; all weights are then what
    PEFT's own merge makes of them."""
    folder = GOLDEN / "llada"
    adapter = f"--adapter={folder / 'adapters' / 'espo'}"
    assert run(f"--from_hf={folder}", adapter, f"--to_orbax={tmp_path / 'model'}") == 0
    assert run(f"--from_orbax={tmp_path / 'model'}", f"--to_hf={tmp_path / 'out'}") == 0
    ours, theirs = (
        load_file(tmp_path / "out" / "model.safetensors"),
        load_file(folder / "merged.safetensors"),
    )
    base = load_file(folder / "model.safetensors")
    assert ours.keys() == theirs.keys() == base.keys()
    for name, wanted in theirs.items():
        moved = np.abs(wanted - base[name]).max()
        assert (moved > 0) == (wanted.ndim == 2 and "wte" not in name), name
        # one product of rank 2 and one sum in float32
        np.testing.assert_allclose(ours[name], wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


def test_kept_adapters_give_pefts_logits(kept):
    name, folder = kept
    denoiser, params, _ = weights.load(folder, mesh=sharding.make_mesh({}, jax.devices()[:1]))
    assert denoiser.config.lora_rank and set(params) >= {"embed", "lora"}
    assert_golden(denoiser.config, params, name)


def test_kept_adapters_go_out_as_they_came(kept, tmp_path):
    """Alone in PEFT's layout, and summed up."""
    name, folder = kept
    assert run(f"--from_orbax={folder}", f"--to_hf={tmp_path / 'alone'}", "--lora=keep") == 0
    ours, theirs = (
        load_file(there / adapters.WEIGHTS)
        for there in (tmp_path / "alone", LLAMA / "adapters" / name)
    )
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[tensor], theirs[tensor]) for tensor in ours)
    assert run(f"--from_orbax={folder}", f"--to_hf={tmp_path / 'summed'}") == 0
    config = models.config_from_hf(tmp_path / "summed")
    assert_golden(config, hf.load(tmp_path / "summed", config), name)


def test_a_run_goes_on_from_kept_adapters(kept):
    """It starts from them, compares with a copy of them, and refuses settings of others."""
    _, folder = kept
    chosen = weights.settings_of(folder)
    model, _ = weights.read_model(chosen)
    mesh = sharding.make_mesh({}, jax.devices()[:1])
    trainable, frozen = weights.initial_weights(chosen, model, mesh, jax.random.key(0))
    stored = checkpoint.lazy_params(folder / checkpoint.ADAPTERS)
    jax.tree.map(lambda x, leaf: np.testing.assert_array_equal(x, leaf.read()), trainable, stored)
    assert frozen.keys() == {"base"}
    teacher = weights.copies_of(dataclasses.replace(chosen, objective="opd"), trainable)["teacher"]
    jax.tree.map(np.testing.assert_array_equal, teacher, trainable)
    for change in ({"lora_rank": 7}, {"lora_alpha": 1.5}, {"lora_targets": ("o",)}):
        with pytest.raises(ValueError, match=f"holds adapters of {[*change][0]}=") as error:
            weights.read_model(dataclasses.replace(chosen, **change))
        assert "\n" not in str(error.value)


def test_the_hash_of_a_folder_counts_its_adapters(kept, student, tmp_path):
    assert run(f"--from_hf={student}", f"--to_orbax={tmp_path / 'base'}") == 0
    assert weights.hash_of(kept[1]) != weights.hash_of(tmp_path / "base")


def test_what_is_saved_is_loaded(tmp_path):
    config = dataclasses.replace(LLADA, lora_rank=3, lora_alpha=6.0, lora_targets=("q", "down"))
    ours = random_adapters(config)
    adapters.save(tmp_path, config, ours, "base")
    found, theirs = adapters.load(tmp_path, LLADA)
    assert found == config
    jax.tree.map(np.testing.assert_array_equal, theirs, ours)


@pytest.mark.parametrize("dtype", ["bfloat16", None])
def test_parts_of_a_sum_are_parts_of_the_whole(dtype):
    """Slices of layers, rows and columns, as a stored array is written; cast once, at the end."""
    config, adapted = (
        models.config_from_hf(GOLDEN / "llada"),
        GOLDEN / "llada" / "adapters" / "espo",
    )
    adapted, pairs = adapters.load(adapted, config)
    base = hf.open_folder(GOLDEN / "llada", config)
    whole = adapters.summed(base, pairs, adapted, dtype)
    exact = hf.paths_of(adapters.summed(base, pairs, adapted))
    for path, leaf in hf.paths_of(whole).items():
        values = leaf.read()
        assert values.dtype == leaf.dtype == np.dtype(dtype or "float32")
        np.testing.assert_array_equal(values, exact[path].read().astype(leaf.dtype))
        index = tuple(slice(size // 3, size - 1) for size in leaf.shape)
        summed = np.abs(exact[path].read()).max()
        tolerance = summed * (2.0**-8 if dtype else 1e-6)  # of a shorter product: rounding
        np.testing.assert_allclose(
            np.float32(leaf.read(index)), np.float32(values[index]), rtol=0, atol=tolerance
        )


# ---------------------------------------------------------------- refusals


A = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
ENTRIES = [  # (entries of adapter_config.json, what is said)
    ({"use_dora": True}, "use_dora=True is not supported"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save="),
    ({"bias": "all"}, "bias='all' is not supported, only 'none'"),
    ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern="),
    ({"rank_pattern": {"q_proj": 8}}, "rank_pattern="),
    ({"layers_to_transform": [0]}, "layers_to_transform="),
    ({"fan_in_fan_out": True}, "fan_in_fan_out="),
    ({"peft_type": "IA3"}, "peft_type='IA3' is not supported, only 'LORA'"),
    ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4.*changed weights"),
    ({"r": 0}, "r=0: give a whole number from 1 on"),
    ({"lora_alpha": None}, ".lora_alpha. is missing"),
    ({"r": 5}, "q_proj.lora_A.weight has shape .3, 24., adapter_config.json says .5, 24.; .* more"),
]
TENSORS = [  # (change of the tensors, what is said)
    (lambda tensors: tensors.pop(A), f"missing {A}"),
    (lambda tensors: tensors.update(other=np.ones(2, np.float32)), "unknown other"),
    (dict.clear, "no adapters"),
]


def damaged(folder: Path, entries: dict, change=lambda tensors: None) -> Path:
    """A copy of the golden adapters with other entries and tensors."""
    shutil.copytree(LLAMA / "adapters" / "all", folder)
    found = json.loads((folder / adapters.CONFIG).read_text())
    (folder / adapters.CONFIG).write_text(json.dumps(found | entries))
    tensors = load_file(folder / adapters.WEIGHTS)
    change(tensors)
    save_file(tensors, folder / adapters.WEIGHTS)
    return folder


@pytest.mark.parametrize(
    "entries, change, said",
    [(entries, lambda tensors: None, said) for entries, said in ENTRIES]
    + [({}, change, said) for change, said in TENSORS],
)
def test_adapters_that_are_computed_otherwise_are_refused(tmp_path, entries, change, said):
    folder = damaged(tmp_path / "adapter", entries, change)
    with pytest.raises(ValueError, match=said) as error:
        adapters.load(folder, models.config_from_hf(LLAMA))
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, said",
    [
        (adapters.CONFIG, "no adapter_config.json there"),
        (adapters.WEIGHTS, "no adapter_model.safetensors there"),
    ],
)
def test_missing_files_are_named(tmp_path, name, said):
    folder = damaged(tmp_path / "adapter", {})
    (folder / name).unlink()
    with pytest.raises(ValueError, match=said):
        adapters.load(epath.Path(folder), models.config_from_hf(LLAMA))


def test_the_script_refuses_before_it_writes(tmp_path, capsys):
    """Another model's adapters, adapters of the head that are to be kept, half a command."""
    out = f"--to_orbax={tmp_path / 'out'}"
    for base, adapter, options, said in (
        ("llada", LLAMA / "adapters" / "all", (), "unknown base_model.model.model.layers"),
        (
            "llada",
            GOLDEN / "llada" / "adapters" / "espo",
            ("--lora=keep",),
            "the head has an adapter",
        ),
    ):
        assert run(f"--from_hf={GOLDEN / base}", f"--adapter={adapter}", out, *options) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert len(errors) == 1 and said in errors[0] and not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        run(f"--from_orbax={tmp_path}", f"--to_hf={tmp_path / 'x'}", f"--adapter={tmp_path}")
