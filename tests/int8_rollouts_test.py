"""Rollouts in int8 and in parts: the same on every mesh, near the model's own, guarded, whole where
their bytes fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import coding, opdlm
from gdsd_jax import chips, models, sampling, settings, sharding, steps, weights
from gdsd_jax.types import Prompts
from tests.reference import random_adapters, random_params, tiny

ROWS, P = 16, 4
# every split width is divisible by 8
MODEL = tiny(
    vocab_size=48, d_model=32, kv_heads=4, head_dim=8, d_ff=64, lora_rank=2, lora_alpha=2.0
)
SAMPLER = sampling.SamplerConfig(gen_length=8, block_length=4, steps=8)
MESHES = {"1x8x1": dict(fsdp=8), "2x2x2": dict(data=2, fsdp=2, tensor=2)}


@pytest.fixture(scope="module")
def inputs():
    """(trainable, frozen, prompts, rng) on the host."""
    rng = np.random.default_rng(3)
    prompts = Prompts(
        jnp.asarray(rng.integers(2, 40, (ROWS, P)), jnp.int32),
        jnp.asarray(np.arange(P)[None, :] >= np.arange(ROWS)[:, None] % P),
        temperature_B=jnp.asarray(np.arange(ROWS) % 2, jnp.float32),
        threshold_B=jnp.full(ROWS, jnp.inf),
        max_length_B=jnp.asarray(8 - np.arange(ROWS) % 3, jnp.int32),
        index_B=jnp.arange(ROWS, dtype=jnp.int32) // 4,
        sample_B=jnp.arange(ROWS, dtype=jnp.int32) % 4,
    )
    frozen = {"base": random_params(MODEL)}
    return random_adapters(MODEL), frozen, prompts, jax.random.key(4)


def rolled(inputs, mesh_sizes=None, **options):
    """A rollout on some devices, by default on one."""
    devices = None if mesh_sizes else jax.devices()[:1]
    mesh = sharding.make_mesh(mesh_sizes or {}, devices)
    trainable, frozen, prompts, rng = inputs
    placed = [jax.device_put(x, sharding.shardings(mesh, x)) for x in (trainable, frozen)]
    placed += [jax.device_put(prompts, sharding.rows(mesh)), rng]
    denoiser = weights.on_mesh(MODEL, mesh)
    return jax.device_get(steps.make_sampler(denoiser, SAMPLER, mesh, **options)(*placed))


@pytest.fixture(scope="module")
def in_int8(inputs):
    return rolled(inputs, quant="int8")


@pytest.mark.parametrize(
    "name, placing, parts", [("1x8x1", "whole", 1), ("1x8x1", "split", 2), ("2x2x2", "whole", 2)]
)
def test_a_rollout_in_int8_does_not_depend_on_mesh_or_parts(inputs, in_int8, name, placing, parts):
    found = rolled(inputs, MESHES[name], weights=placing, quant="int8", parts=parts)
    for field in ("tokens_BxG", "step_map_BxG", "length_B", "passes_B"):
        np.testing.assert_array_equal(getattr(found, field), getattr(in_int8, field))
    # a step of an input may be rounded the other way where float32 sums go in another order
    np.testing.assert_allclose(found.logp_BxG, in_int8.logp_BxG, atol=0.02)
    assert np.mean(np.abs(found.logp_BxG - in_int8.logp_BxG)) < 1e-3


def test_parts_change_nothing(inputs):
    exact, parted = rolled(inputs), rolled(inputs, parts=4)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), exact, parted)


def test_drift_is_that_of_int8(inputs, in_int8):
    """The recorded log-probabilities against the unquantised model's at the same states; none where
    the guard samples with that."""
    overrides = f"tiny,prompts_per_round=4,group_size=4,slices=1,drift_share=1,prompt_length={P}"
    sampler = "sampler.gen_length=8,sampler.block_length=4,sampler.steps=8"
    chosen = settings.parse(coding.get_config(f"{overrides},{sampler},rollout_quant=int8"))
    mesh = sharding.make_mesh({}, jax.devices()[:1])
    calls = steps.make_steps(weights.on_mesh(MODEL, mesh), chosen, mesh)
    jax.tree.map(np.testing.assert_array_equal, calls.sample(*inputs), in_int8)
    assert 1e-4 < calls.drift(*inputs[:3], in_int8).mean < 0.2
    exact = calls.sample_exactly(*inputs)
    assert calls.drift(*inputs[:3], exact).max < 1e-4
    plain = settings.replace(chosen, {"rollout_quant": "none"})
    calls = steps.make_steps(weights.on_mesh(MODEL, mesh), plain, mesh)
    assert calls.drift is None and calls.sample is calls.sample_exactly


@pytest.mark.parametrize("share, shards, rows", [(0.125, 8, 8), (0.14, 8, 16), (0.9, 8, 64)])
def test_drift_is_of_rows_that_the_devices_divide(monkeypatch, share, shards, rows):
    """Of 64; else each device would compute all of them."""
    counts = []
    monkeypatch.setattr(
        steps.sampling, "take_rows", lambda tree, count: (counts.append(count), tree)[1]
    )
    monkeypatch.setattr(steps.sampling, "drift", lambda *_: jnp.zeros(()))
    given = f"tiny,prompts_per_round=8,group_size=8,rollout_quant=int8,drift_share={share}"
    chosen = settings.parse(coding.get_config(given))
    denoiser = models.make_denoiser(MODEL)
    jax.eval_shape(steps.make_drift(denoiser, chosen, shards), {}, {}, {}, {})
    assert counts == [rows]


def test_distillation_looks_at_no_drift():
    """As with a cache: nothing is compared with what the rollout recorded."""
    chosen = settings.parse(opdlm.get_config("tiny,rollout_quant=int8"))
    assert chosen.approximate and steps.make_drift(models.make_denoiser(MODEL), chosen) is None


@pytest.mark.parametrize("quant, whole", [("none", False), ("int8", True)])
def test_8b_weights_are_whole_on_a_v5e_chip_in_int8(monkeypatch, quant, whole):
    monkeypatch.setattr(chips, "memory_of", lambda device: chips.CHIPS["TPU v5 lite"].memory)
    base = models.MODELS["llada_8b"]
    rank = dict(lora_rank=128, lora_alpha=128.0, dtype="bfloat16")
    model = models.ModelConfig(**{**vars(base), **rank})
    params = jax.eval_shape(
        lambda rng: models.init_params(model, rng) | {"lora": models.init_lora(model, rng)},
        jax.random.key(0),
    )
    mesh = sharding.make_mesh(dict(fsdp=8))
    sampled = jax.eval_shape(lambda params: steps.cast(params, model, quant), params)
    assert steps.are_whole(sampled, "auto", mesh) is whole


REFUSED = {
    "rollout_quant=int4": "rollout_quant='int4': choose one of none, int8",
    "rollout_parts=0": "rollout_parts=0 must be at least 1",
    "rollout_parts=7": "rollout_parts=7 must divide the 256 completions of a round",
    "rollout_parts=2,sampler.reference_quirks=true": "rollout_parts=2: with sampler.reference_quir",
    "objective=trajectory,rollout_quant=int8": (
        "rollout_quant=int8: objective 'trajectory' takes each token for a draw from the model's "
        "softmax at its state: set rollout_quant=none"
    ),
    "objective=just_grpo,sampler.block_length=1,sampler.steps=24,rollout_quant=int8": (
        "rollout_quant=int8: objective 'just_grpo' takes each token"
    ),
}


@pytest.mark.parametrize("override", REFUSED)
def test_settings_that_do_not_go_together_are_refused(override):
    with pytest.raises(ValueError) as error:
        settings.parse(coding.get_config(f"tiny,{override}"))
    assert REFUSED[override] in str(error.value) and "\n" not in str(error.value)
