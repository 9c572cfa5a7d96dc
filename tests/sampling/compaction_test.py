"""Rows that are done leave a rollout, and nobody notices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import models, sampling, sharding
from gdsd_jax.sampling import compaction
from gdsd_jax.steps import make_sampler
from gdsd_jax.types import Prompts
from tests.reference import PAD, attending_params, tiny

ROWS, P, G = 32, 5, 16
KEY = jax.random.key(7)
NORMED = tiny(vocab_size=32, stop_ids=(5, 9, 13), qk_norm=True)
SHIFTED = tiny(vocab_size=32, stop_ids=(5, 9, 13), qkv_bias=True, shift=True)
CASES = {
    "block": (NORMED, dict(kind="block")),
    "block, shifted": (SHIFTED, dict(kind="block")),
    "exact": (NORMED, dict()),
    "dual, shifted": (SHIFTED, dict(cache="dual")),
    "dream": (NORMED, dict(kind="dream", alg="origin")),
}


@pytest.fixture(scope="module")
def prompts():
    """Ragged prompts; temperatures, thresholds and caps differ by row, some rows write nothing."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(2, 24, (ROWS, P)).astype(np.int32)
    valid = np.arange(P)[None, :] >= rng.integers(0, P, ROWS)[:, None]
    return Prompts(
        jnp.asarray(np.where(valid, tokens, PAD)),
        jnp.asarray(valid),
        temperature_B=jnp.asarray(rng.choice([0.0, 0.7, 1.0], ROWS), jnp.float32),
        threshold_B=jnp.asarray(rng.choice([np.inf, 0.2], ROWS), jnp.float32),
        max_length_B=jnp.asarray(np.r_[rng.integers(0, G, ROWS - 4), [G] * 4], jnp.int32),
        index_B=jnp.arange(ROWS),
        sample_B=jnp.zeros(ROWS, jnp.int32),
    )


def of(**settings):
    return sampling.SamplerConfig(**{"gen_length": G, "block_length": 2, "steps": G, **settings})


def assert_same(found, wanted):
    for field in ("tokens_BxG", "step_map_BxG", "length_B", "passes_B"):
        np.testing.assert_array_equal(getattr(found, field), getattr(wanted, field), field)
    np.testing.assert_array_equal(found.uncut.tokens_BxG, wanted.uncut.tokens_BxG)
    # products of fewer rows may add in another order
    np.testing.assert_allclose(found.logp_BxG, wanted.logp_BxG, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_the_tokens_are_the_same(name, prompts):
    model, settings = CASES[name]
    config, rng_B = of(**settings), jax.random.split(KEY, ROWS)
    assert compaction.sizes_of(config, ROWS, 1) == (32, 16, 8)
    denoiser, params, seen = models.make_denoiser(model), attending_params(model), []

    def unembed(params, h):
        jax.debug.callback(functools.partial(seen.append, len(h)))
        return denoiser.unembed(params, h)

    noting = denoiser._replace(unembed=unembed)
    compact = sampling.make_rollout_fn(noting, config)(params, prompts, rng_B)
    jax.effects_barrier()
    assert set(seen) == {32, 16, 8}
    plain_fn = sampling.make_rollout_fn(denoiser, dataclasses.replace(config, compact=False))
    plain = plain_fn(params, prompts, rng_B)
    assert len(set(np.asarray(plain.length_B) // 2)) > 4  # the rows end in different blocks
    assert_same(compact, plain)


def test_every_device_keeps_its_rows(prompts):
    """On a mesh of 8: the same tokens, and no more crosses it than without."""
    mesh = sharding.make_mesh({"data": 4, "fsdp": 2})
    assert compaction.sizes_of(of(kind="block"), ROWS, 8) == (4, 2, 1)
    params = jax.device_put(
        attending_params(NORMED), sharding.shardings(mesh, attending_params(NORMED))
    )
    rows = sharding.global_rows(mesh, jax.tree.map(np.asarray, prompts))
    found = []
    for compact in (True, False):
        sample = make_sampler(models.make_denoiser(NORMED), of(kind="block", compact=compact), mesh)
        found.append(sample(params, {}, rows, jax.device_put(KEY, sharding.replicated(mesh))))
    assert_same(*jax.device_get(found))


def test_how_many_rows_stay():
    block = of(kind="block")
    assert compaction.sizes_of(block, 480, 16) == (30, 15, 7)
    assert compaction.sizes_of(block, 16, 1) == (16, 8)
    assert compaction.sizes_of(block, 15, 1) == (15,)
    assert compaction.sizes_of(block, 16, 16) == (1,)
    for other in (dict(compact=False), dict(block_length=4), dict(cfg_scale=0.5)):
        assert compaction.sizes_of(of(kind="block", **other), 64, 1) == (64,)
    assert compaction.sizes_of(of(reference_quirks=True), 64, 1) == (64,)


def test_rows_go_and_come_back():
    x_6x2 = jnp.arange(12).reshape(6, 2)
    row_2x2 = jnp.array([[2, 0], [1, 2]])
    taken = compaction.rows_taken(row_2x2, x_6x2)
    assert taken.tolist() == [[4, 5], [0, 1], [8, 9], [10, 11]]
    assert compaction.rows_taken(row_2x2, x_6x2.T, axis=1).tolist() == taken.T.tolist()
    back = compaction.rows_put(row_2x2, x_6x2, -taken)
    assert back.tolist() == [[0, -1], [2, 3], [-4, -5], [6, 7], [-8, -9], [-10, -11]]
