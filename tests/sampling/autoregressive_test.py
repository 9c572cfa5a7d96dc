"""Autoregressive models write one token after another, by blocks of one, as a loop in plain Python
does that scores the whole row for every token."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import models, sampling, sharding, steps
from gdsd_jax.types import Prompts
from tests import twins
from tests.reference import attending_params, log_softmax, tiny

ROWS, P, G = 5, 6, 9
MODEL = tiny(
    **models.FAMILIES["llama"].CONVENTIONS["llama"],
    vocab_size=32,
    tokenizer_size=29,
    mask_id=None,
    pad_id=5,
    stop_ids=(5, 3, 12),
)
SAMPLER = dict(kind="block", gen_length=G, block_length=1, steps=G)


@pytest.fixture(scope="module")
def params():
    found = attending_params(MODEL, seed=3)
    found["lm_head"]["kernel"] *= 1.5
    return found


@pytest.fixture(scope="module")
def prompts():
    """Ragged prompts; temperatures and caps differ by row."""
    tokens = np.random.default_rng(1).integers(6, 29, (ROWS, P)).astype(np.int32)
    valid = np.arange(P)[None, :] >= np.array([0, 1, 5, 2, 0])[:, None]
    return Prompts(
        jnp.asarray(np.where(valid, tokens, MODEL.pad_id)),
        jnp.asarray(valid),
        temperature_B=jnp.array([0.0, 1.0, 0.7, 1.5, 0.0]),
        max_length_B=jnp.array([9, 9, 9, 7, 4]),
    )


RNG = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(4), i))(jnp.arange(ROWS))


def gumbel(key, shape):
    return np.asarray(jax.random.gumbel(key, shape), np.float64)


def written(logits_of, ids, rng, temperature, most, top_p):
    """(tokens, log-probabilities) of one row, from its prompt's ids."""
    tokens, logp = [], []
    size = max(1, math.gcd(MODEL.vocab_size, 512) // 8)
    for number in range(most):
        raw = logits_of([*ids, *tokens])
        z = raw / temperature if temperature else raw.copy()
        z[MODEL.tokenizer_size :] = -np.inf
        z = twins.truncated(z, top_p)
        token = int(np.argmax(z))
        if temperature:
            key = jax.random.fold_in(rng, number)
            groups = gumbel(jax.random.fold_in(key, 0), (1, len(z) // size))[0]
            token = twins.draw(z, groups, gumbel(jax.random.fold_in(key, 1), (1, size))[0])
        tokens.append(token)
        logp.append(log_softmax(raw)[token])
        if token in MODEL.stop_ids:
            break
    return tokens, logp


@pytest.mark.parametrize("cache", ["block", "none"])
@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_tokens_are_those_of_a_plain_loop(params, prompts, cache, top_p):
    """Greedy rows, warm ones, rows that stop, with the cache and without."""
    denoiser = models.make_denoiser(MODEL)

    @jax.jit
    def next_logits(tokens_1xL, length):
        # the raw state of the last token scores the one behind it, where the row is padded
        h = denoiser.features(params, tokens_1xL)
        return denoiser.unembed(params, h)[0, length]

    def logits_of(ids):
        row = np.zeros((1, P + G + 1), np.int32)
        row[0, : len(ids)] = ids
        return np.asarray(next_logits(row, len(ids)), np.float64)

    config = sampling.SamplerConfig(**SAMPLER, cache=cache, top_p=top_p)
    rollout = jax.device_get(sampling.make_rollout_fn(denoiser, config)(params, prompts, RNG))
    lengths = []
    for row in range(ROWS):
        ids = np.asarray(prompts.tokens_BxP[row])[np.asarray(prompts.valid_BxP[row])].tolist()
        tokens, logp = written(
            logits_of,
            ids,
            RNG[row],
            float(prompts.temperature_B[row]),
            int(prompts.max_length_B[row]),
            top_p,
        )
        length = int(rollout.length_B[row])
        assert rollout.tokens_BxG[row, :length].tolist() == tokens
        assert rollout.step_map_BxG[row, :length].tolist() == list(range(1, length + 1))
        np.testing.assert_allclose(rollout.logp_BxG[row, :length], logp, atol=2e-5)
        lengths.append(length)
    assert len({*lengths}) > 2 and min(lengths) < 4  # some rows stop


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(block_length=3), "sampler.block_length=1"),
        (dict(kind="llada"), "sampler.kind=block"),
        (dict(cfg_scale=1.0), "cfg_scale are of denoisers"),
        (dict(reference_quirks=True), "reference_quirks"),
    ],
)
def test_what_only_denoisers_can_is_refused(changes, words):
    config = sampling.SamplerConfig(**SAMPLER | changes)
    with pytest.raises(ValueError, match=words):
        sampling.make_rollout_fn(models.make_denoiser(MODEL), config)


def test_a_denoiser_needs_a_mask():
    model = dataclasses.replace(MODEL, attention="full")
    with pytest.raises(ValueError, match="a denoiser needs a mask"):
        sampling.make_rollout_fn(models.make_denoiser(model), sampling.SamplerConfig())


def test_a_teacher_ends_where_the_sampler_says(params, prompts):
    """As the student does, whose answers its own stand beside."""
    mesh = sharding.make_mesh({}, jax.devices()[:1])
    numbers, frozen = jnp.arange(ROWS), {"teacher": params}
    asked = prompts.replace(temperature_B=jnp.zeros(ROWS), index_B=numbers, sample_B=numbers)

    def taught(stop_ids):
        sampler = sampling.SamplerConfig(gen_length=G, block_length=G, stop_ids=stop_ids)
        teach = steps.make_teach(models.make_denoiser(MODEL), sampler, mesh)
        found = teach({}, frozen, asked, jax.random.key(0))
        return np.asarray(found.tokens_BxG), np.asarray(found.length_B)

    tokens_BxG, length_B = taught(None)
    end = int(tokens_BxG[0, 1])
    assert length_B[0] > 2 and end not in MODEL.stop_ids
    ended_BxG, ended_B = taught((end,))
    first = tokens_BxG[0].tolist().index(end) + 1
    assert ended_B[0] == first <= 2
    np.testing.assert_array_equal(ended_BxG[0, :first], tokens_BxG[0, :first])
