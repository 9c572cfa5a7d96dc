"""Every family's logits are the reference implementations', with padding, under every mask."""

import dataclasses
import json
from pathlib import Path
import re

import jax
import numpy as np
import pytest

from gdsd_jax import hf, models

# the references' own folders, and small ones that transformers computed, see tests/golden/make.py
REFERENCES = ("llada", "dream", "qwen3", "a2d-qwen3", "llama", "qwen2")
HERE = Path(__file__).resolve().parents[1] / "golden"
OWN = ("llama", "llama3", "qwen2", "qwen3")
# of the largest logit: ten times what float32 rounding of both sides leaves, and far below any
# change of formula
RELATIVE = 1e-5


@pytest.fixture(scope="module", params=[*REFERENCES, *(HERE / name for name in OWN)], ids=str)
def family(request):
    if request.param in REFERENCES:
        folder = request.getfixturevalue("golden") / request.param
        if not folder.is_dir():
            pytest.skip(f"no {folder}")
        return load(folder)
    return load(request.param)


@pytest.fixture(scope="module")
def a2d(golden):
    return load(golden / "a2d-qwen3")


def load(folder):
    """(config, params, inputs, outputs).

    The golden logits are those of the checkpoints' own forwards, not shifted.
    """
    config = models.config_from_hf(folder)
    inputs, outputs = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
    return config, hf.load(folder, config), dict(inputs), dict(outputs)


def same(ours, theirs, what=""):
    """Equal but for rounding."""
    atol = RELATIVE * np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, atol=atol, rtol=0, err_msg=what)


def logits_of(config, params, tokens, **options):
    denoiser = models.make_denoiser(config)
    attention = options.pop("attention", None)

    def fn(p, t, o):
        return denoiser.unembed(p, denoiser.features(p, t, attention=attention, **o))

    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(fn)(params, tokens, options))


def unshifted(config):
    return dataclasses.replace(config, shift=False)


@pytest.mark.parametrize("padding", ["full", "leftpad", "rightpad"])
def test_logits_are_the_references(family, padding):
    config, params, inputs, outputs = family
    tokens = inputs[f"{padding}_input_ids"]
    everywhere = np.ones_like(tokens, bool)
    valid = inputs.get(f"{padding}_attention_mask", everywhere).astype(bool)
    compared = outputs.get(f"{padding}_compare_mask", everywhere)
    ways = {"_logits": dict(valid_BxL=valid), "_logits_nomask": {}}
    if f"{padding}_position_ids" in inputs:
        ways["_logits_posids"] = dict(
            valid_BxL=valid, positions_BxL=inputs[f"{padding}_position_ids"]
        )
    for way in [way for way in ways if padding + way in outputs]:
        rows = everywhere if way == "_logits_nomask" else compared
        ours = logits_of(unshifted(config), params, tokens, **ways[way])
        same(ours[rows], outputs[padding + way][rows], way)


@pytest.mark.parametrize("padding", ["full", "leftpad"])
def test_features_are_aligned(family, padding):
    """Where the family shifts, column i has the reference's logits of the valid column before."""
    config, params, inputs, outputs = family
    tokens = inputs[f"{padding}_input_ids"]
    valid = inputs.get(f"{padding}_attention_mask", np.ones_like(tokens)).astype(bool)
    wanted = outputs[f"{padding}_logits"].copy()
    if config.shift:
        for row, column in zip(*np.nonzero(valid)):
            before = max(np.flatnonzero(valid[row, :column]), default=column)
            wanted[row, column] = outputs[f"{padding}_logits"][row, before]
    ours = logits_of(config, params, tokens, valid_BxL=valid)
    same(ours[valid], wanted[valid])
    if padding == "full" and "full_logits_shifted" in outputs:
        same(ours, outputs["full_logits_shifted"])


def test_next_token_log_probabilities_are_the_teachers(golden):
    config, params, inputs, outputs = load(golden / "qwen3")
    logp = jax.nn.log_softmax(logits_of(config, params, inputs["full_input_ids"]))
    own = np.take_along_axis(np.asarray(logp), inputs["full_input_ids"][..., None], axis=-1)[
        :, 1:, 0
    ]
    same(own, outputs["full_next_token_logps"])


def test_block_causal_logits_are_the_references(a2d):
    assert_block_causal(*a2d)


@pytest.mark.parametrize("name", OWN)
def test_students_see_blocks_as_transformers_does(name):
    """The autoregressive model's weights under its student's model type; a block of 64 is the whole
    row."""
    config, *rest = load(HERE / name)
    student = models.to_denoiser(config)
    assert not student.shift and student.family == f"a2d-{config.family}"
    assert_block_causal(student, *rest)


def test_sdar_is_a_student_of_qwen3s_shape(tmp_path):
    """Under its own model type, whose config.json names no mask."""
    entries = json.loads((HERE / "qwen3" / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps(entries | {"model_type": "sdar", "vocab_size": 151_936, "eos_token_id": 151_643})
    )
    config = models.config_from_hf(tmp_path)
    assert (config.family, config.mask_id, config.pad_id) == ("sdar", 151_669, 151_643)
    assert config.stop_ids == (151_643, 151_645)
    small = dataclasses.replace(config, vocab_size=40, mask_id=1)
    params = hf.load(HERE / "qwen3", small)
    assert_block_causal(small, params, *load(HERE / "qwen3")[2:])


def assert_block_causal(config, params, inputs, outputs):
    names = [
        name.removesuffix("_input_ids")
        for name in inputs
        if re.fullmatch(r"blockcausal\d+_input_ids", name)
    ]
    assert names
    for name in names:
        # padding looks nowhere, not even at itself
        valid = np.einsum("bll->bl", inputs[f"{name}_attention_mask"])
        spec = models.BlockCausal(int(name.removeprefix("blockcausal")))
        ours = logits_of(
            config, params, inputs[f"{name}_input_ids"], valid_BxL=valid, attention=spec
        )
        rows = outputs[f"{name}_compare_mask"]
        same(ours[rows], outputs[f"{name}_logits"][rows], name)


def test_doubled_logits_are_the_references(a2d):
    """The reference's row is [noised | clean], ours [prompt | clean | noised], without a prompt."""
    config, params, inputs, outputs = a2d
    tokens = np.concatenate([inputs["bd3lm_clean_ids"], inputs["bd3lm_noisy_ids"]], axis=1)
    ours = logits_of(
        config, params, tokens, attention=models.Doubled(0, int(inputs["bd3lm_block_size"]))
    )
    noised, clean = np.split(outputs["bd3lm_logits"], 2, axis=1)
    same(ours, np.concatenate([clean, noised], axis=1))


def test_bfloat16_stays_close(family):
    config, params, inputs, _ = family
    exact = logits_of(config, params, inputs["full_input_ids"])
    params = jax.tree.map(lambda x: x.astype("bfloat16"), params)
    rounded = logits_of(
        dataclasses.replace(config, dtype="bfloat16"), params, inputs["full_input_ids"]
    )
    # weights and activations with 8 bits (4e-3) and about ten roundings on the way
    assert 0 < np.linalg.norm(rounded - exact) < 3e-2 * np.linalg.norm(exact)
