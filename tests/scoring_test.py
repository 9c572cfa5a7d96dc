"""Sequence scores against float64 NumPy and exact enumeration; masks; the chunked projection."""

import itertools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import models, sampling, scoring
from gdsd_jax.scoring import Centring
from gdsd_jax.types import Batch, Denoiser, Prompts
from tests import reference
from tests.reference import MASK, PAD, random_batch, random_params, tiny

MODEL = tiny()


@pytest.fixture(scope="module")
def params():
    return random_params(MODEL)


@pytest.fixture(scope="module")
def batch():
    batch = random_batch(MODEL, rows=4, prompt_len=3, gen=8, draws=2)
    masks = np.array(batch.masks_KxBxL)
    masks[1, 3, 2] = True  # a masked prompt position is hidden in the first half and never scored
    return batch.replace(masks_KxBxL=jnp.asarray(masks))


SCORES = {
    "uniform": dict(weighting="uniform", count="full"),
    "elbo": dict(weighting="elbo", count="full"),
    "elbo, answer, vocab": dict(weighting="elbo", count="answer", centring=Centring("vocab")),
    "uniform, answer, top 5": dict(
        weighting="uniform", count="answer", centring=Centring("top_k", 5, True)
    ),
}


@pytest.fixture(scope="module")
def found(params, batch):
    denoiser = models.make_denoiser(MODEL)

    def score_all(p, b):
        return {
            name: scoring.pair_scores(denoiser, p, b, **options) for name, options in SCORES.items()
        }

    return jax.jit(score_all)(params, batch)


def test_a_block_causal_denoiser_is_scored_on_the_doubled_row(params, batch):
    """A block of a view sees the clean blocks before it and its own masked self.

    Also behind a masked prompt token.
    """
    batch = batch.replace(block=4)
    denoiser = models.make_denoiser(MODEL)
    pair = jax.jit(lambda p, b: scoring.pair_scores(denoiser, p, b, **SCORES["elbo"]).plain_KxB)

    def doubled(view, valid):
        return reference.doubled_logits(MODEL, params, batch.tokens_BxL, view, valid, 3, 4)

    def logits_fn(view, valid):
        return np.pad(doubled(view, valid), ((0, 0), (3, 0), (0, 0)))

    plain, _ = reference.pair_scores(logits_fn, MASK, batch, **SCORES["elbo"])
    np.testing.assert_allclose(pair(params, batch), plain, rtol=2e-5)  # as below


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("shift", [False, True])
def test_views_are_the_states_of_a_rollout_by_blocks(shift, block):
    """Of the first token of each block, which is taken from the fully masked one: the shifted state
    behind it is that of the block before, whose tokens are known by then."""
    model = tiny(vocab_size=32, shift=shift, stop_ids=())
    denoiser, params = models.make_denoiser(model), random_params(model)
    sampler = sampling.SamplerConfig(
        kind="block", gen_length=8, block_length=block, steps=8, remasking="left_to_right"
    )
    tokens_BxP = jnp.array([[PAD, 3, 4, 6], [7, 8, 3, 3]])
    valid_BxP = jnp.array([[False, True, True, True], [True] * 4])
    prompts = Prompts(tokens_BxP, valid_BxP, temperature_B=jnp.ones(2))
    keys = jax.random.split(jax.random.key(1), 2)
    uncut = jax.jit(sampling.make_rollout_fn(denoiser, sampler))(params, prompts, keys).uncut
    valid_BxL = jnp.concatenate([valid_BxP, jnp.ones((2, 8), bool)], axis=1)
    masks_BxL = jnp.tile(jnp.arange(12) >= 4, (2, 1))
    tokens_BxL = jnp.concatenate([tokens_BxP, uncut.tokens_BxG], axis=1)
    lengths = jnp.full(2, 8)
    batch = Batch(tokens_BxL, valid_BxL, lengths, masks_BxL[None], prompt_len=4, block=block)
    (found_BxG,) = scoring.view_token_scores(denoiser, params, batch, masks_BxL[None])
    np.testing.assert_allclose(found_BxG[:, ::block], uncut.logp_BxG[:, ::block], atol=1e-5)


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_the_float64_rendering(name, found, params, batch):
    """Row 0 has no masked position, row 1 all of them: one half of the pair is then empty."""
    options = dict(SCORES[name])
    centring = options.pop("centring", Centring())

    def logits_fn(tokens, valid):
        return reference.forward(MODEL, params, tokens, valid)

    plain, centred = reference.pair_scores(
        logits_fn, MASK, batch, **options, centring=centring.kind, k=centring.k
    )
    # float32 over sums of at most 8 weighted terms; a lost or doubled position is 1e-1
    np.testing.assert_allclose(found[name].plain_KxB, plain, rtol=2e-5)
    np.testing.assert_allclose(
        found[name].centred_KxB, centred, rtol=2e-5, atol=2e-5 * np.abs(centred).max()
    )


def test_empty_halves_have_finite_gradients(batch):
    """No position masked, and all of them: the guarded divisions leave no NaN behind."""
    z = jnp.asarray(
        np.random.default_rng(0).standard_normal((*batch.tokens_BxL.shape, 40)), jnp.float32
    )

    def total(z):
        return jnp.sum(
            scoring.pair_scores(
                reference.position_denoiser(40), {"z": z}, batch, weighting="elbo", count="answer"
            ).plain_KxB
        )

    grads = np.asarray(jax.jit(jax.grad(total))(z))
    assert np.all(np.isfinite(grads))
    assert np.all(np.any(grads != 0, axis=(1, 2)))  # every row still learns


def table_denoiser(vocab, length):
    """Arbitrary logits for every state of `length` tokens after one prompt token."""
    config = SimpleNamespace(vocab_size=vocab + 2, mask_id=MASK, pad_id=PAD, stop_ids=())

    def features(params, tokens_BxL, *, valid_BxL=None):
        power = (vocab + 2) ** jnp.arange(length)[None]
        h_BxGxV = params[jnp.sum(tokens_BxL[:, 1:] * power, axis=1)]
        return jnp.pad(h_BxGxV, ((0, 0), (1, 0), (0, 0)))

    return Denoiser(config, features, lambda params, h: h, lambda trainable, frozen: trainable)


def test_expected_elbo_score_is_the_elbo():
    """Three tokens from three, over all masks, weighted by their probability.

    The score is the mean over all orders of revealing the tokens one by one of the log-probability
    of the sequence.
    """
    length, vocab = 3, 3
    table = (
        np.random.default_rng(0)
        .standard_normal(((vocab + 2) ** length, length, vocab + 2))
        .astype(np.float32)
    )
    denoiser, masks = (
        table_denoiser(vocab, length),
        list(itertools.product([False, True], repeat=length)),
    )
    probability = np.array([1 / (length + 1) / math.comb(length, sum(mask)) for mask in masks])

    def code(state):
        return sum(token * (vocab + 2) ** i for i, token in enumerate(state))

    for tokens in ((2, 3, 4), (4, 4, 2)):
        batch = Batch(
            jnp.array([[2, *tokens]]),
            jnp.ones((1, length + 1), bool),
            jnp.array([length]),
            jnp.array([[[False, *mask]] for mask in masks]),
            prompt_len=1,
        )
        score = scoring.pair_scores(
            denoiser, jnp.asarray(table), batch, weighting="elbo", count="full"
        ).plain_KxB
        elbo, orders = 0.0, list(itertools.permutations(range(length)))
        for order in orders:
            state = [MASK] * length
            for place in order:
                elbo += reference.log_softmax(np.float64(table[code(state), place]))[
                    tokens[place]
                ] / len(orders)
                state[place] = tokens[place]
        # float32 rounding
        assert np.sum(probability * np.asarray(score)[:, 0]) == pytest.approx(elbo, rel=1e-5)


@pytest.mark.parametrize("rows, length", [(4, 12), (6, 256), (10, 7), (1, 5), (8, 3)])
def test_counts_are_the_released_sequence(rows, length):
    """torch.round(linspace(k, k + (b - 1)(L + 1) / b, b)) mod (L + 1).

    At its ties, and ours, rounding decides.
    """
    for k in range(length + 1):
        exact = k + np.arange(rows) * (length + 1) / rows
        released = np.round(exact).astype(int) % (length + 1)
        offset = jnp.float32((k + 0.5) / (length + 1))
        ours = np.asarray(scoring.stratified_counts(offset, jnp.full((rows,), length)))
        tied = np.isclose(exact % 1, 0.5)
        np.testing.assert_array_equal(ours[~tied], released[~tied])
        away = (ours - released) % (length + 1)
        assert np.all(np.minimum(away, length + 1 - away)[tied] <= 1)


def test_masks_are_uniform_in_number_and_place():
    """Every row masks 0 .. length of its own positions equally often, each half the time."""
    length = np.array([5, 3, 1])
    draws, prompt_len, gen = 6000, 2, 5
    masks = np.asarray(
        scoring.draw_masks(
            jax.random.key(3), draws, prompt_len, prompt_len + gen, jnp.asarray(length)
        )
    )
    assert not masks[:, :, :prompt_len].any()
    for row, own in enumerate(length):
        assert not masks[:, row, prompt_len + own :].any()
        seen = np.bincount(masks[:, row].sum(axis=1), minlength=own + 1)
        expected = draws / (own + 1)
        # chi-square, 99.9% for 1, 3 and 5 degrees of freedom
        assert np.sum((seen - expected) ** 2 / expected) < {1: 10.8, 3: 16.3, 5: 20.5}[own]
        share = masks[:, row, prompt_len : prompt_len + own].mean(axis=0)
        np.testing.assert_allclose(share, 0.5, atol=0.025)  # four standard errors


def test_masked_places_are_independent_of_the_count():
    """Given two masked positions of four, each of the six pairs is as likely."""
    masks = np.asarray(scoring.draw_masks(jax.random.key(4), 6000, 0, 4, jnp.full((1,), 4)))[:, 0]
    pairs = masks[masks.sum(axis=1) == 2] @ (1 << np.arange(4))
    seen = np.unique(pairs, return_counts=True)[1]
    assert len(seen) == 6
    # 5 degrees of freedom: 99.9%
    assert np.sum((seen - len(pairs) / 6) ** 2 / (len(pairs) / 6)) < 20.5


def test_rows_of_a_draw_are_spread_and_draws_differ():
    """Eight rows take eight different eighths of the mask ratios.

    Keys alone decide, and each draw has its own.
    """
    length = jnp.full((8,), 63)
    masks = np.asarray(scoring.draw_masks(jax.random.key(0), 3, 1, 64, length))
    counts = masks.sum(axis=2)
    for draw in counts:
        assert len(set(draw // 8)) == 8
    assert len({tuple(draw) for draw in counts}) == 3
    np.testing.assert_array_equal(masks, scoring.draw_masks(jax.random.key(0), 3, 1, 64, length))


@pytest.mark.parametrize("kind", ["none", "top_k"])
def test_chunks_change_nothing(monkeypatch, params, kind):
    """Chunks of columns give the whole projection's scores and gradients."""
    rng, denoiser = np.random.default_rng(0), models.make_denoiser(MODEL)
    h = jnp.asarray(rng.standard_normal((2, 12, MODEL.d_model)), jnp.float32)
    tokens, weights = (
        jnp.asarray(rng.integers(0, 40, (2, 12))),
        jnp.asarray(rng.standard_normal((2, 12)), jnp.float32),
    )

    def run():
        def total(params, h):
            logp, centred = scoring.token_scores(denoiser, params, h, tokens, Centring(kind, 4))
            return jnp.sum(weights * (logp + centred)), (logp, centred)

        step = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
        return step(params, h), str(jax.make_jaxpr(total)(params, h))

    whole, whole_program = run()
    # 5 columns would fit: the largest divisor of 12 is 4
    monkeypatch.setattr(scoring, "CHUNK_BYTES", 4 * 2 * 40 * 5)
    chunked, program = run()
    assert "f32[2,12,40]" in whole_program
    assert "f32[2,12,40]" not in program and "f32[2,4,40]" in program
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), chunked, whole
    )


def test_centring_identities():
    """Values z_y - mean z (arXiv 2605.29398, Eq. 8), and the three gradients."""
    logits = np.random.default_rng(1).standard_normal(9) * 3
    token, k = 4, 3
    softmax = np.exp(reference.log_softmax(logits))
    onehot, best = np.eye(9)[token], np.zeros(9)
    best[np.argsort(logits)[-k:]] = 1 / k
    denoiser = Denoiser(SimpleNamespace(vocab_size=9), None, lambda params, h: h, None)

    def centred(kind, detach=False):
        def fn(z):
            return scoring.token_scores(
                denoiser, {}, z[None, None], jnp.array([[token]]), Centring(kind, k, detach)
            )

        z = jnp.asarray(logits, jnp.float32)
        plain = fn(z)[0]
        np.testing.assert_allclose(plain, [[reference.log_softmax(logits)[token]]], rtol=1e-5)
        return jax.value_and_grad(lambda z: fn(z)[1][0, 0])(z)

    def close(a, b):
        np.testing.assert_allclose(a, b, atol=2e-6)  # float32 rounding of values near 1

    value, gradient = centred("none")
    close(value, reference.log_softmax(logits)[token])
    close(gradient, onehot - softmax)
    for kind, centre in (("vocab", np.full(9, 1 / 9)), ("top_k", best)):
        value, gradient = centred(kind)
        close(value, logits[token] - logits @ centre)
        # the same of log-probabilities: Eq. 8
        close(value, reference.centred_logp(logits, token, kind, k))
        close(gradient, onehot - centre)
        value, gradient = centred(kind, detach=True)
        close(value, logits[token] - logits @ centre)
        close(gradient, onehot)


@pytest.mark.parametrize("shards", [1, 4, 5, 7])  # 7 does not divide the vocabulary
def test_the_largest_by_shards_are_top_k_with_its_ties(shards):
    x = np.random.default_rng(0).integers(0, 6, (3, 2, 20)).astype(np.float32)
    for k in (1, 6, 20, 30):
        found = jax.jit(scoring.largest, static_argnums=(1, 2))(x, k, shards)
        for ours, theirs in zip(found, jax.lax.top_k(x, min(k, 20))):
            np.testing.assert_array_equal(ours, theirs)
