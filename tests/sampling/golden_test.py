"""Token for token what the released samplers give: greedy, with their quirks, float32 products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import hf, models, sampling
from gdsd_jax.types import Prompts

KINDS = {"llada": "llada", "dream": "dream", "a2d-qwen3": "block"}


@pytest.fixture(scope="module", params=KINDS)
def sampler(request, released):
    """(kind of sampler, denoiser, weights, stored cases)."""
    folder = released / request.param
    config = models.config_from_hf(folder)
    return (
        KINDS[request.param],
        models.make_denoiser(config),
        hf.load(folder, config),
        np.load(folder / "sampler.npz"),
    )


def settings_of(kind, stored, case):
    """(SamplerConfig's fields, prompt ids, which are real, prompt columns of the stored output)."""

    def get(name):
        return stored[f"{case}/{name}"]

    if kind == "block":
        ids = get("prompt_ids_leftpadded")
        valid = np.arange(ids.shape[1])[None, :] >= ids.shape[1] - get("prompt_lens")[:, None]
        fields = dict(
            gen_length=int(get("max_new_tokens")),
            block_length=int(get("block_size")),
            stop_ids=(int(get("eos_id")),),
        )
        return fields | {"steps": int(get("steps"))}, ids, valid, int(get("padded_prompt_len"))
    ids = get("prompt_ids")
    fields = dict(gen_length=int(get("gen_length")), steps=int(get("steps")))
    if kind == "llada":
        fields |= dict(block_length=int(get("block_length")), cfg_scale=float(get("cfg_scale")))
    else:
        fields |= dict(alg=str(get("alg")))
    return fields, ids, get("attention_mask").astype(bool), ids.shape[1]


def test_tokens_are_the_references(sampler):
    kind, denoiser, weights, stored = sampler
    cases = [str(name) for name in stored["case_names"]]
    assert cases
    for case in cases:
        fields, ids, valid, prompt_len = settings_of(kind, stored, case)
        config = sampling.SamplerConfig(kind=kind, reference_quirks=True, **fields)
        prompts = Prompts(jnp.asarray(ids), jnp.asarray(valid))
        rng_B = jax.random.split(jax.random.key(0), len(ids))  # greedy: unused
        with jax.default_matmul_precision("highest"):
            rollout = sampling.make_rollout_fn(denoiser, config)(weights, prompts, rng_B)
        wanted = stored[f"{case}/output_ids"][:, prompt_len:]
        np.testing.assert_array_equal(
            rollout.tokens_BxG[:, : wanted.shape[1]], wanted, err_msg=case
        )
        assert np.all(rollout.length_B == wanted.shape[1]), case


def test_without_quirks_nothing_is_left_masked(sampler):
    """Not in the case either in which the reference leaves most masks behind."""
    kind, denoiser, weights, stored = sampler
    case = max(
        stored["case_names"],
        key=lambda name: np.sum(stored[f"{name}/output_ids"] == denoiser.config.mask_id),
    )
    fields, ids, valid, _ = settings_of(kind, stored, case)
    config = sampling.SamplerConfig(kind=kind, **fields)
    rollout = sampling.make_rollout_fn(denoiser, config)(
        weights,
        Prompts(jnp.asarray(ids), jnp.asarray(valid)),
        jax.random.split(jax.random.key(0), len(ids)),
    )
    assert not np.any(rollout.tokens_BxG == denoiser.config.mask_id)
    assert np.all(rollout.step_map_BxG.max(axis=1) <= config.steps)
