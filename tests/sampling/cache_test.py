"""Caches change the cost of a rollout, and its numbers only between refreshes.

The drift tells by how much.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import hlo, models, sampling
from gdsd_jax.models import flops
from gdsd_jax.sampling import cache
from gdsd_jax.sampling.drift import spread
from gdsd_jax.types import Prompts
from tests.reference import PAD, attending_params, forward, log_softmax, tiny

ROWS, P, G = 4, 5, 12
KEY = jax.random.key(7)
SHIFTED = tiny(vocab_size=32, stop_ids=(5, 9, 13, 18), qkv_bias=True, shift=True)
NORMED = tiny(vocab_size=32, stop_ids=(5, 9, 13, 18), qk_norm=True)
EQUAL = {  # two samplers that must give the same tokens
    "dual": (SHIFTED, dict(cache="dual", refresh_every=1), dict(cache="none")),
    "dream, prefix": (
        NORMED,
        dict(kind="dream", block_length=None, cache="prefix", refresh_every=1),
        dict(kind="dream", block_length=None, cache="none"),
    ),
    "block": (NORMED, dict(kind="block", cache="block"), dict(kind="block", cache="none")),
    "block, shifted": (
        SHIFTED,
        dict(kind="block", cache="block"),
        dict(kind="block", cache="none"),
    ),
}


@pytest.fixture(scope="module")
def prompts():
    tokens = np.random.default_rng(1).integers(2, 24, (ROWS, P)).astype(np.int32)
    valid = np.arange(P)[None, :] >= np.array([0, 1, 4, 2])[:, None]
    return Prompts(
        jnp.asarray(np.where(valid, tokens, PAD)),
        jnp.asarray(valid),
        temperature_B=jnp.array([0.0, 1.0, 0.7, 1.0]),
        threshold_B=jnp.array([jnp.inf, jnp.inf, 0.3, 0.2]),
        max_length_B=jnp.array([12, 12, 9, 7]),
    )


def rolled(model, prompts, **settings):
    """(config, rollout), on the host."""
    config = sampling.SamplerConfig(**{"gen_length": G, "block_length": 6, "steps": 12, **settings})
    rollout_fn = sampling.make_rollout_fn(models.make_denoiser(model), config)
    rng_B = jax.random.split(KEY, ROWS)
    return config, jax.tree.map(np.asarray, rollout_fn(attending_params(model), prompts, rng_B))


@pytest.mark.parametrize("name", EQUAL)
def test_what_is_exact_gives_the_same_tokens(name, prompts, monkeypatch):
    # blocks here end at columns 12 and 18: some of the cache is left out
    monkeypatch.setattr(cache, "SEEN_LEAST", 7)
    model, cached, uncached = EQUAL[name]
    first, second = (rolled(model, prompts, **settings)[1] for settings in (cached, uncached))
    for field in ("tokens_BxG", "step_map_BxG", "length_B", "passes_B"):
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field))
    # float32 sums in another order
    np.testing.assert_allclose(first.logp_BxG, second.logp_BxG, atol=1e-5)


@pytest.mark.parametrize(
    "settings, beside",
    [
        (dict(kind="block", cache="block", block_length=1), 1),  # the prompt's
        (
            dict(kind="block", cache="block"),
            0,
        ),  # the prompt is one block, which the first pass saves
        (dict(kind="block", cache="none"), 0),
        (dict(cache="dual"), 0),
        (dict(cache="prefix"), 0),
        (dict(cache="none"), 0),
    ],
    ids=str,
)
def test_forwards_are_the_passes(settings, beside, prompts):
    """Counted while one row is answered: none but the prompt's does nothing but writing."""
    denoiser, forwards = models.make_denoiser(NORMED), []

    def counted(forward):
        def counting(*args, **kwargs):
            jax.debug.callback(lambda: forwards.append(1))
            return forward(*args, **kwargs)

        return counting

    config = sampling.SamplerConfig(**{"gen_length": G, "block_length": 6, "steps": 12, **settings})
    denoiser = denoiser._replace(
        features=counted(denoiser.features), extend=counted(denoiser.extend)
    )
    one = jax.tree.map(lambda x: x[2:3], prompts)  # several tokens a pass
    rollout_fn = sampling.make_rollout_fn(denoiser, config)
    rollout = rollout_fn(attending_params(NORMED), one, jax.random.split(KEY, 1))
    jax.effects_barrier()
    assert len(forwards) - beside == rollout.passes_B[0] > 1


def drift_of(model, config, prompts, rollout, tokens=0):
    denoiser = models.make_denoiser(model)
    fn = jax.jit(lambda *args: sampling.drift(denoiser, config, *args, tokens))
    return tuple(float(x) for x in fn(attending_params(model), prompts, rollout))


@pytest.mark.parametrize(
    "settings", [dict(cache="none"), dict(kind="block"), dict(kind="dream", block_length=None)]
)
def test_exact_rollouts_do_not_drift(settings, prompts):
    """Every state is rebuilt from the rollout, also those with tokens behind the stop id."""
    config, rollout = rolled(NORMED, prompts, **settings)
    assert np.any(rollout.uncut.tokens_BxG != rollout.tokens_BxG)
    assert drift_of(NORMED, config, prompts, rollout)[1] < 2e-5


@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("model", [NORMED, SHIFTED], ids=["plain", "shifted"])
@pytest.mark.parametrize(
    "settings",
    [dict(cache="none"), dict(kind="block"), dict(kind="dream", block_length=None), dict(steps=4)],
    ids=str,
)
def test_a_few_tokens_of_each_answer_tell_the_drift(settings, model, tokens, prompts):
    """Of recorded numbers that are off by one, also where passes commit several tokens."""
    config, rollout = rolled(model, prompts, **settings)
    off = rollout.replace(logp_BxG=rollout.logp_BxG + 1)
    np.testing.assert_allclose(drift_of(model, config, prompts, off, tokens), 1, atol=2e-5)
    none = rollout.replace(length_B=0 * rollout.length_B)
    assert drift_of(model, config, prompts, none, tokens) == (0, 0)


def test_the_tokens_looked_at_are_spread_and_others_in_each_row():
    length_B = np.array([12, 12, 12, 12, 3, 1])
    looked_BxG = np.asarray(spread(length_B, 3, G))
    assert looked_BxG.sum(axis=1).tolist() == [3, 3, 3, 3, 3, 1]
    thirds_4x3x4 = looked_BxG[:4].reshape(4, 3, 4)
    assert (thirds_4x3x4.sum(axis=2) == 1).all()
    assert len({row.tobytes() for row in looked_BxG[:4]}) > 2
    assert not np.any(looked_BxG & (np.arange(G) >= length_B[:, None]))


@pytest.mark.parametrize("looked_at", [0, 3])
def test_drift_is_the_float64_rendering(looked_at, prompts):
    model = SHIFTED
    config, rollout = rolled(model, prompts, cache="dual")
    looked_BxG = spread(rollout.length_B, looked_at or G, G)
    differences = []
    for row in range(ROWS):
        cap = int(prompts.max_length_B[row])
        valid = np.concatenate([prompts.valid_BxP[row], np.arange(G) < cap])
        steps, written = rollout.uncut.step_map_BxG[row], rollout.uncut.tokens_BxG[row]
        for i in np.flatnonzero(looked_BxG[row]):
            known = (steps > 0) & (steps < steps[i]) | (np.arange(G) >= cap)
            tokens = np.concatenate(
                [prompts.tokens_BxP[row], np.where(known, written, model.mask_id)]
            )
            logits = forward(model, attending_params(model), tokens[None], valid[None])[0, P + i]
            differences.append(abs(log_softmax(logits)[written[i]] - rollout.logp_BxG[row, i]))
    mean, worst = drift_of(model, config, prompts, rollout, looked_at)
    assert worst > 1e-3  # a stale cache shows
    np.testing.assert_allclose(
        [mean, worst], [np.mean(differences), np.max(differences)], rtol=1e-3, atol=1e-5
    )


def test_a_share_of_rows():
    assert sampling.take_rows({"x": jnp.arange(10)}, 3)["x"].tolist() == [0, 3, 6]


def test_only_stale_caches_are_approximate():
    dual = sampling.SamplerConfig(gen_length=G, cache="dual")
    assert dual.approximate and not dataclasses.replace(dual, refresh_every=1).approximate
    assert not sampling.SamplerConfig(kind="block", gen_length=G).approximate


def test_passes_that_commit_nothing_have_no_share():
    """Of the 16 steps of a block at most three commit something, and one of those writes."""
    dream = dict(kind="dream", gen_length=G, block_length=3, cache="dual")
    few, many = (sampling.SamplerConfig(**dream, steps=steps) for steps in (G, 64))
    assert (
        sampling.branch_shares(few, P) == sampling.branch_shares(many, P) == ((1 - 1 / 3, 1 / 3),)
    )


@pytest.mark.parametrize(
    "settings",
    [
        dict(cache="dual", refresh_every=2, steps=10),
        dict(cache="prefix"),
        dict(kind="block", cache="block"),
    ],
    ids=str,
)
def test_operations_are_counted_as_they_are_made(settings, monkeypatch):
    """What a rollout's program is said to compute is what a run of it does."""
    monkeypatch.setattr(cache, "SEEN_LEAST", 4)
    model = dataclasses.replace(NORMED, stop_ids=())  # so that no row is done early
    config = sampling.SamplerConfig(**{"gen_length": G, "block_length": 3, "steps": 12, **settings})
    done = []  # operations of each call

    def counted(function):
        def call(params, *args, **kwargs):
            jaxpr = jax.make_jaxpr(lambda *args: function(params, *args, **kwargs))(*args).jaxpr
            jax.debug.callback(functools.partial(done.append, hlo.operations(jaxpr)))
            return function(params, *args, **kwargs)

        return call

    plain = models.make_denoiser(model)
    counting = plain._replace(
        **{name: counted(getattr(plain, name)) for name in ("features", "extend", "unembed")}
    )
    tokens_BxP = jnp.ones((ROWS, P), jnp.int32)
    arguments = (
        attending_params(model),
        Prompts(tokens_BxP, tokens_BxP > 0),
        jax.random.split(KEY, ROWS),
    )
    jax.block_until_ready(sampling.make_rollout_fn(counting, config)(*arguments))
    jax.effects_barrier()
    jaxpr = jax.make_jaxpr(sampling.make_rollout_fn(plain, config))(*arguments).jaxpr
    shares = sampling.branch_shares(config, P)
    passes = config.blocks * config.steps_per_block
    assert hlo.operations(jaxpr, passes, shares) == pytest.approx(sum(done), rel=1e-9)
    if config.cache == "dual":
        writes = config.blocks * -(-config.steps_per_block // (config.refresh_every or 99))
        columns = P + G
        whole = flops.features_flops(model, ROWS, columns)
        part = flops.features_flops(model, ROWS, config.block_length, columns)
        words = flops.unembed_flops(model, ROWS * config.block_length)
        expected = writes * whole + (passes - writes) * part + passes * words
        assert sum(done) == pytest.approx(expected, rel=0.02)
