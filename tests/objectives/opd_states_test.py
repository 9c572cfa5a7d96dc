"""States for distillation come from the sampler's own trace; their passes and chances.

And a teacher's sampling, token by token. Written from arXiv 2606.06712. B rows, P prompt and G
completion columns.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import models, objectives, sampling, scoring
from gdsd_jax.objectives import OpdConfig
from gdsd_jax.sampling import make_passes, with_defaults
from gdsd_jax.types import Batch, Prompts
from tests.reference import MASK, PAD, attending_params, forward, log_softmax, random_params, tiny

ROWS, P, G, BLOCK, V = 8, 6, 12, 4, 24
MODEL = tiny(vocab_size=V, layers=1, qk_norm=True, stop_ids=(5, 9))
SAMPLER = sampling.SamplerConfig(kind="block", gen_length=G, block_length=BLOCK, steps=G)


@pytest.fixture(scope="module")
def params():
    return attending_params(MODEL)


@pytest.fixture(scope="module")
def prompts():
    """Temperatures, thresholds and caps of every kind.

    The prompts are padded to no multiple of a block.
    """
    tokens = np.random.default_rng(1).integers(10, V, (ROWS, P)).astype(np.int32)
    valid = np.arange(P)[None, :] >= np.array([0, 1, 4, 2, 0, 3, 0, 5])[:, None]
    inf = np.inf
    return Prompts(
        jnp.asarray(np.where(valid, tokens, PAD)),
        jnp.asarray(valid),
        temperature_B=jnp.array([0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0]),
        threshold_B=jnp.array([inf, -1.0, 0.2, 0.15, 0.1, inf, 1.0, 0.3]),
        max_length_B=jnp.array([12, 12, 12, 8, 12, 12, 12, 12]),
    )


@pytest.fixture(scope="module")
def traced(params, prompts):
    """(rollout, {(row, block): states of the block that a pass began with}), pass by pass."""
    passes, prompts = make_passes(models.make_denoiser(MODEL), SAMPLER), with_defaults(prompts, G)
    rng_B, seen = jax.random.split(jax.random.key(3), ROWS), {}
    advance = jax.jit(lambda state: passes.advance(params, prompts, rng_B, state))
    state = jax.jit(lambda: passes.begin(params, prompts))()
    while passes.running(state):
        masked, tokens = np.asarray(state.masked_BxG), np.asarray(state.tokens_BxL)[:, -G:]
        block = slice(int(state.block) * BLOCK, (int(state.block) + 1) * BLOCK)
        for row in np.flatnonzero(~np.asarray(state.done_B)):
            if masked[row, block].any():
                shown = tuple(np.where(masked[row, block], MASK, tokens[row, block]).tolist())
                seen.setdefault((row, int(state.block)), []).append(shown)
        state = advance(state)
    return jax.tree.map(np.asarray, passes.end(prompts, state)), seen


@pytest.fixture(scope="module")
def batch(prompts, traced):
    rollout, _ = traced
    return Batch(
        jnp.concatenate([prompts.tokens_BxP, rollout.uncut.tokens_BxG], axis=1),
        jnp.concatenate([prompts.valid_BxP, jnp.ones((ROWS, G), bool)], axis=1),
        jnp.asarray(rollout.length_B),
        None,
        step_map_BxG=jnp.asarray(rollout.uncut.step_map_BxG),
        prompt_len=P,
        block=BLOCK,
    )


def views(batch, states, draws=1, seed=0):
    views_fn = objectives.make_views_fn("opd", OpdConfig(states=states))
    return np.asarray(views_fn(batch, draws, jax.random.key(seed)))


def test_passes_are_those_of_the_sampler(traced):
    """Greedy with the schedule alone: four passes a block, every step once.

    A threshold below 0 gives one pass, one of 1 changes nothing.
    """
    rollout, seen = traced
    for row, each in ((0, BLOCK), (6, BLOCK), (1, 1)):
        blocks = -(-rollout.length_B[row] // BLOCK)
        assert rollout.passes_B[row] == each * blocks
        for block in range(blocks):
            steps = rollout.uncut.step_map_BxG[row, block * BLOCK : (block + 1) * BLOCK]
            assert sorted(steps) == sorted(each * block + 1 + np.arange(BLOCK) * (each > 1))
            assert len(seen[row, block]) == each


def test_every_state_is_in_the_trace(traced, batch):
    """Each block that is masked at all is one that a pass began with.

    That holds with what was committed behind the stop. "all" holds each of those whose pass
    committed a token of the answer, and "stitched" draws among them alike.
    """
    rollout, seen = traced
    tokens = np.asarray(batch.tokens_BxL)[:, P:]
    drawn = np.concatenate([views(batch, "all"), views(batch, "stitched", draws=200)])
    assert not drawn[:, :, :P].any()
    counts = {}
    for number, masks in enumerate(drawn[:, :, P:]):
        for row, block in np.ndindex(ROWS, G // BLOCK):
            place = slice(block * BLOCK, (block + 1) * BLOCK)
            if not masks[row, place].any():
                continue
            state = tuple(np.where(masks[row, place], MASK, tokens[row, place]).tolist())
            assert state in seen[row, block], (row, block)
            key = row, block, state
            counts.setdefault(key, [0, 0])[number >= BLOCK] += 1
    for (row, block), states in seen.items():
        inside = np.arange(block * BLOCK, (block + 1) * BLOCK) < rollout.length_B[row]
        steps = rollout.uncut.step_map_BxG[row, block * BLOCK : (block + 1) * BLOCK]
        useful = [states[step - steps.min()] for step in sorted(set(steps[inside]))]
        assert all(counts[row, block, state][0] == 1 for state in useful)
        # 200 draws at 1/4 have a standard deviation of 6
        assert all(abs(counts[row, block, state][1] - 200 / len(useful)) < 31 for state in useful)
    assert sum(all_ for all_, _ in counts.values()) == len(counts)
    # blocks of several lengths were there
    assert len({len(states) for states in seen.values()}) > 2


def test_doubled_row_sees_what_the_cached_sampler_saw(traced, batch, params):
    """What a pass with the cache recorded is the doubled row's log-probability at that state."""
    rollout, _ = traced
    masks = views(batch, "all")
    score = jax.jit(
        lambda b, m: scoring.view_token_scores(models.make_denoiser(MODEL), params, b, m)
    )
    found = np.asarray(score(batch, jnp.asarray(masks)))
    step = rollout.uncut.step_map_BxG.reshape(ROWS, -1, BLOCK)
    masked = masks[:, :, P:].reshape(-1, ROWS, G // BLOCK, BLOCK)
    started = np.where(masked, step, 10**6).min(axis=-1, keepdims=True)
    now = (masked & (step == started)).reshape(-1, ROWS, G) & (
        np.arange(G) < rollout.length_B[:, None]
    )
    assert (now.sum(axis=0) == (np.arange(G) < rollout.length_B[:, None])).all()  # each token once
    # the same sums in another order
    np.testing.assert_allclose(
        found[now], np.broadcast_to(rollout.logp_BxG, now.shape)[now], atol=2e-5
    )


def test_nothing_is_supervised_behind_the_end(traced, batch):
    """Every masked block has an answer token masked, also without what lies behind the stop."""
    rollout, _ = traced
    inside = np.arange(G)[None] < rollout.length_B[:, None]
    cut = batch.replace(step_map_BxG=jnp.asarray(rollout.step_map_BxG))
    for states in ("all", "stitched", "random"):
        masks = views(batch, states, draws=20)[:, :, P:]
        per_block = (masks & inside).reshape(-1, ROWS, G // BLOCK, BLOCK).any(axis=-1)
        has_answer = inside.reshape(ROWS, -1, BLOCK).any(axis=-1)
        if states != "all":
            assert (per_block == has_answer).all()
        if states != "random":
            assert not views(cut, states, draws=20)[:, :, P:][:, ~inside].any()
            assert not masks.reshape(*per_block.shape, BLOCK)[:, ~has_answer].any()


def test_random_masks_have_a_share_a_block():
    """The number masked of 4 is uniform for a uniform share, but that one is forced.

    0 and 1 together have 2 of 5.
    """
    many = Batch(
        jnp.zeros((500, P + G), jnp.int32),
        jnp.ones((500, P + G), bool),
        jnp.full(500, G),
        None,
        prompt_len=P,
        block=BLOCK,
    )
    count = views(many, "random")[0, :, P:].reshape(-1, BLOCK).sum(axis=-1)
    share = np.bincount(count, minlength=5) / len(count)
    # 1500 blocks: 4 standard deviations
    np.testing.assert_allclose(share, [0, 0.4, 0.2, 0.2, 0.2], atol=0.05)


def test_blocks_that_do_not_fit_are_refused(batch):
    with pytest.raises(ValueError, match="whole number of blocks of 5"):
        views(batch.replace(block=5), "stitched")


def test_blocks_of_one_are_the_autoregressive_model(prompts):
    """A causal, shifted model under the block sampler is decoded token by token.

    Greedy tokens and their log-probabilities are those of a float64 loop.
    """
    model = dataclasses.replace(MODEL, shift=True, attention="causal")
    params = random_params(model, seed=6)
    sampler = sampling.SamplerConfig(kind="block", gen_length=G, block_length=1, steps=G)
    greedy = Prompts(prompts.tokens_BxP[:3], prompts.valid_BxP[:3])
    rollout = sampling.make_rollout_fn(models.make_denoiser(model), sampler)(
        params, greedy, jax.random.split(jax.random.key(0), 3)
    )
    for row in range(3):
        tokens = list(np.asarray(greedy.tokens_BxP[row]))
        valid = list(np.asarray(greedy.valid_BxP[row]))
        for i in range(int(rollout.length_B[row])):
            row_ids, row_valid = np.array([*tokens, PAD]), np.array([*valid, True])
            causal = np.tril(np.ones((len(row_ids),) * 2, bool))
            logp = log_softmax(
                forward(model, params, row_ids[None], row_valid[None], allowed_LxL=causal)[0, -1]
            )
            best = int(np.argmax(np.where(np.arange(V) == MASK, -np.inf, logp)))
            assert rollout.tokens_BxG[row, i] == best
            assert rollout.logp_BxG[row, i] == pytest.approx(logp[best], abs=2e-5)
            tokens.append(best)
            valid.append(True)
        assert rollout.length_B[row] == G or tokens[-1] in model.stop_ids
