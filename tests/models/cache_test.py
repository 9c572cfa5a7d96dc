"""Forwards of a few columns with a cache, against full forwards and a float64 rendering."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import models
from tests.reference import SCALING, attend, float64, forward, random_params, rms, rope, tiny

L, START, Q = 12, 5, 4
FAMILIES = {
    "LLaDA": tiny(kv_heads=4),
    "Dream": tiny(qkv_bias=True, shift=True, rope_theta=1e6, norm_eps=1e-6),
    "a2d-qwen3": tiny(qk_norm=True, tied=True),
    "a2d-qwen2": tiny(qkv_bias=True, rope_theta=1e6, norm_eps=1e-6),
    "a2d-llama": tiny(tied=True, rope_scaling=SCALING),
}
BLOCKS = models.BlockCausal(Q, offset=START)
VALID = np.ones((3, L), bool)
VALID[1, :4] = VALID[2, :7] = False  # left padding, once into the block itself
VALID[0, 10:] = False  # a cap
OLD = np.random.default_rng(3).integers(2, 40, (3, L)).astype(np.int32)
NEW = np.random.default_rng(4).integers(2, 40, (3, L)).astype(np.int32)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    config = FAMILIES[request.param]
    denoiser = models.make_denoiser(config)
    extend = jax.jit(denoiser.extend, static_argnames=("write", "attention", "seen"))
    return config, random_params(config, seed=1), denoiser, extend


def filled(family, tokens, attention=None):
    """(features of all columns, the cache behind them)."""
    _, params, denoiser, extend = family
    cache = denoiser.init_cache(params, *tokens.shape, valid_BxL=jnp.asarray(VALID))
    return extend(params, tokens, cache, 0, write=True, attention=attention)


def test_a_refresh_is_a_full_forward_and_a_block_after_it_gives_its_rows(family):
    _, params, denoiser, extend = family
    h_BxLxD, cache = filled(family, OLD)
    full = np.asarray(jax.jit(lambda v: denoiser.features(params, OLD, valid_BxL=v))(VALID))
    # the same sums in another order: float32 rounding
    np.testing.assert_allclose(
        np.asarray(h_BxLxD)[VALID], full[VALID], rtol=0, atol=1e-5 * np.abs(full).max()
    )
    for columns, seen in ((Q, None), (L - START, START)):  # "dual", "prefix"
        h, _ = extend(params, OLD[:, START : START + columns], cache, START, write=False, seen=seen)
        rows = slice(START, START + columns)
        real = VALID[:, rows]
        np.testing.assert_allclose(
            np.asarray(h)[real], full[:, rows][real], rtol=0, atol=1e-5 * np.abs(full).max()
        )


def stale_row(config, params, old, new, valid, columns):
    """Logits float64 [Q, V] of `new` at `columns`.

    Their layers read the keys and values that a pass over `old` left.
    """
    layers, positions = params["layers"], np.maximum(np.cumsum(valid) - 1, 0)
    both = params["embed"]["embedding"][old], params["embed"]["embedding"][new]

    def qkv(x, n, places):
        h = rms(x, layers["attn_norm"]["scale"][n], config.norm_eps)
        found = []
        for name in "qkv":
            y = h @ layers[name]["kernel"][n] + (
                layers[name]["bias"][n] if config.qkv_bias else 0.0
            )
            y = y.reshape(len(x), -1, config.head_dim)
            if config.qk_norm and name != "v":
                y = rms(y, layers[f"{name}_norm"]["scale"][n], config.norm_eps)
            found.append(y if name == "v" else rope(y, places, config))
        return found

    def rest(x, attended, n):
        x = x + attended.reshape(len(x), -1) @ layers["o"]["kernel"][n]
        h = rms(x, layers["mlp_norm"]["scale"][n], config.norm_eps)
        gate, up = (h @ layers[name]["kernel"][n] for name in ("gate", "up"))
        return x + (gate / (1 + np.exp(-gate)) * up) @ layers["down"]["kernel"][n]

    x_old, x_new = both[0], both[1][columns]
    for n in range(config.layers):
        q, k, v = qkv(x_old, n, positions)
        q_new, k_new, v_new = qkv(x_new, n, positions[columns])
        k_mixed, v_mixed = k.copy(), v.copy()
        k_mixed[columns], v_mixed[columns] = k_new, v_new
        allowed = np.tile(valid[None, :], (len(old), 1))
        x_old = rest(x_old, attend(q, k, v, allowed), n)
        x_new = rest(x_new, attend(q_new, k_mixed, v_mixed, allowed[: len(columns)]), n)
    states = x_old.copy()
    states[columns] = x_new
    if config.shift:
        states = np.stack(
            [states[max(np.flatnonzero(valid[:i]), default=i)] for i in range(len(states))]
        )
    head = params["embed"]["embedding"].T if config.tied else params["lm_head"]["kernel"]
    return rms(states[columns], params["final_norm"]["scale"], config.norm_eps) @ head


def test_other_tokens_beside_kept_columns_are_the_float64_rendering(family):
    config, params, denoiser, extend = family
    cache = filled(family, OLD)[1]
    h, after = extend(params, NEW[:, START : START + Q], cache, START, write=False)
    ours, columns = np.asarray(denoiser.unembed(params, h)), np.arange(START, START + Q)
    for row in range(len(OLD)):
        theirs = stale_row(config, float64(params), OLD[row], NEW[row], VALID[row], columns)
        real = VALID[row, columns]
        np.testing.assert_allclose(ours[row][real], theirs[real], atol=2e-5 * np.abs(theirs).max())
    jax.tree.map(np.testing.assert_array_equal, after, cache)  # not written


def test_written_columns_are_seen_later(family):
    """Block by block under block-causal attention the cache is exact.

    The features are the full forward's.
    """
    config, params, denoiser, extend = family
    cache = denoiser.init_cache(params, *NEW.shape, valid_BxL=jnp.asarray(VALID))
    parts = []
    # nothing behind a block counts
    for start, end, seen in ((0, START, 0), (START, START + Q, START + 1), (START + Q, L, None)):
        h, cache = extend(
            params, NEW[:, start:end], cache, start, write=True, attention=BLOCKS, seen=seen
        )
        parts.append(np.asarray(denoiser.unembed(params, h)))
    block_L = (np.arange(L) - START) // Q
    theirs = forward(config, params, NEW, VALID, allowed_LxL=block_L[None, :] <= block_L[:, None])
    found = np.concatenate(parts, axis=1)
    np.testing.assert_allclose(found[VALID], theirs[VALID], atol=2e-5 * np.abs(theirs).max())
