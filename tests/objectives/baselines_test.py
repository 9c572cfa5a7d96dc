"""diffu-GRPO, coupled-GRPO, wd1 and DMPO against float64 NumPy loops and finite differences.

Written from their released code alone. B rows, K draws, P prompt columns, G completion columns.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import coding
from gdsd_jax import models, objectives, settings
from gdsd_jax.advantages import NO_VERDICT
from gdsd_jax.objectives import CoupledGrpoConfig, DiffuGrpoConfig, DmpoConfig, Wd1Config
from gdsd_jax.objectives.clipping import clipped_gain, k3
from tests import reference
from tests.reference import MASK, random_batch, random_params, tiny

MODEL, P, G, GROUPS = tiny(), 3, 6, np.array([0, 0, 1, 1, 1])


@pytest.fixture(scope="module")
def params():
    return random_params(MODEL)


def token_logps(params, batch, mask_BxL):
    """float64 [B, G] of one view."""
    tokens = np.asarray(batch.tokens_BxL)
    logits = reference.forward(MODEL, params, np.where(mask_BxL, MASK, tokens), batch.valid_BxL)
    return np.take_along_axis(reference.log_softmax(logits), tokens[..., None], axis=-1)[:, P:, 0]


def whole_completion(batch):
    return np.arange(P + G) >= np.zeros((len(GROUPS), 1)) + P


def complement(mask_BxL, batch, count="full"):
    """The other half; what the mask covers behind what counts is masked in both."""
    lengths = reference.completion_lengths(batch, count)
    counted = (np.arange(P + G) >= P) & (np.arange(P + G) < P + lengths[:, None])
    return np.where(counted, ~mask_BxL, mask_BxL)


def diffu_scores(params, batch, config):
    return np.stack([token_logps(params, batch, mask) for mask in np.asarray(batch.masks_KxBxL)])


def coupled_scores(params, batch, config):
    """(full + pair / share masked with the token) / 2."""
    full, found = token_logps(params, batch, whole_completion(batch)), []
    for mask in np.asarray(batch.masks_KxBxL):
        one = token_logps(params, batch, mask)
        other = token_logps(params, batch, complement(mask, batch))
        t, score = mask[:, P:].mean(axis=1), np.zeros(full.shape)
        for i, n in np.ndindex(score.shape):
            pair = one[i, n] / t[i] if mask[i, P + n] else other[i, n] / (1 - t[i])
            score[i, n] = (full[i, n] + pair) / 2
        found.append(score)
    return np.array(found)


def grpo_loss(score_KxBxG, batch, config):
    total, count = 0.0, 0
    lengths = reference.completion_lengths(batch, config.count)
    for k, i, n in np.ndindex(score_KxBxG.shape):
        if n >= lengths[i]:
            continue
        ratio = math.exp(score_KxBxG[k, i, n] - float(batch.old_KxB[k, i, n]))
        a = float(batch.advantages_B[i])
        limited = min(max(ratio, 1 - config.epsilon_low), 1 + config.epsilon_high)
        d = float(batch.ref_KxB[k, i, n]) - score_KxBxG[k, i, n]
        total += min(ratio * a, limited * a) - config.beta * (math.exp(d) - d - 1)
        count += 1
    return -total / count


def softmax(x):
    return np.exp(x - np.max(x)) / np.sum(np.exp(x - np.max(x)))


def wd1_loss(score_KxBxG, batch, config):
    lengths = reference.completion_lengths(batch, config.count)
    advantages = np.float64(batch.advantages_B)
    score_B = [
        np.mean([score[i, :length].sum() for score in score_KxBxG])
        for i, length in enumerate(lengths)
    ]
    groups = [np.arange(5)]
    if config.softmax_over == "group":
        groups = [np.flatnonzero(GROUPS == g) for g in np.unique(GROUPS)]
    total = 0.0
    for rows in groups:
        good, bad = softmax(config.psi * advantages[rows]), softmax(-config.psi * advantages[rows])
        total += sum((config.negative * bad[j] - good[j]) * score_B[i] for j, i in enumerate(rows))
    return total / len(groups)


def dmpo_scores(params, batch, config):
    """[K, B]: mean over a pair of length / m times the sum over its m masked tokens."""
    lengths, found = reference.completion_lengths(batch, config.count), []
    for mask in np.asarray(batch.masks_KxBxL):
        score = np.zeros(len(lengths))
        for half in (mask, complement(mask, batch, config.count)):
            logp = token_logps(params, batch, half)
            for i, length in enumerate(lengths):
                places = np.flatnonzero(half[i, P : P + length])
                score[i] += length / max(len(places), 1) * logp[i, places].sum() / 2
        found.append(score)
    return np.array(found)


def dmpo_loss(score_KxB, batch, config):
    score, old, ref = (
        np.mean(np.float64(x), axis=0) for x in (score_KxB, batch.old_KxB, batch.ref_KxB)
    )
    rewards = np.float64(batch.rewards_B)
    lengths = reference.completion_lengths(batch, config.count)
    total = 0.0
    for g in np.unique(GROUPS):
        rows = np.flatnonzero(GROUPS == g)
        good = softmax(config.sharpness * (ref - old + rewards / config.alpha)[rows])
        bad = softmax(config.sharpness * (ref - old - rewards / config.alpha)[rows])
        total -= sum(
            (good[j] - config.centring * bad[j]) * score[i] / lengths[i] for j, i in enumerate(rows)
        )
    return total / len(np.unique(GROUPS))


CASES = {  # name: objective, config, its scores, its loss of them
    "diffu_grpo": (
        "diffu_grpo",
        DiffuGrpoConfig(epsilon_low=0.1, epsilon_high=0.2, beta=0.3),
        diffu_scores,
        grpo_loss,
    ),
    "coupled_grpo": (
        "coupled_grpo",
        CoupledGrpoConfig(epsilon_low=0.1, epsilon_high=0.2),
        coupled_scores,
        grpo_loss,
    ),
    "wd1": ("wd1", Wd1Config(psi=0.8), diffu_scores, wd1_loss),
    "wd1, released": (
        "wd1",
        Wd1Config(softmax_over="batch", negative=0.5, count="full"),
        diffu_scores,
        wd1_loss,
    ),
    "dmpo": ("dmpo", DmpoConfig(alpha=0.7, centring=0.6, count="answer"), dmpo_scores, dmpo_loss),
}


def make_batch(params, scores, config, compared):
    """Left-padded prompts, two draws, old and reference scores near the present ones.

    Pairs with an empty half for DMPO (rows 0 and 1 of `random_batch`), none for coupled GRPO, and
    masked prompt columns for the one-step views.
    """
    rng = np.random.default_rng(2)
    batch = random_batch(
        MODEL,
        rows=5,
        prompt_len=P,
        gen=G,
        draws=2,
        group_B=GROUPS,
        rewards_B=rng.random(5).astype(np.float32),
    )
    if scores is coupled_scores:
        masks = np.zeros((2, 5, P + G), bool)
        masks[0, :, P : P + 2] = masks[1, :, [P + 1, P + 3, P + 4]] = True
        batch = batch.replace(masks_KxBxL=jnp.asarray(masks))
    if scores is diffu_scores:
        masks = np.broadcast_to(whole_completion(batch), (2, 5, P + G)).copy()
        masks[0, 1, P - 1] = True
        batch = batch.replace(masks_KxBxL=jnp.asarray(masks))
    if compared:
        now = scores(params, batch, config)
        old, ref = (jnp.float32(now + 0.2 * rng.standard_normal(now.shape)) for _ in range(2))
        batch = batch.replace(old_KxB=old, ref_KxB=ref)
    return batch


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_are_the_float64_rendering(params, case):
    """Value, old scores, and the derivative along random directions in all parameters.

    The derivative is by central differences.
    """
    name, config, scores, numpy_loss = CASES[case]
    denoiser = models.make_denoiser(MODEL)
    score_fn = objectives.make_score_fn(name, denoiser, config)
    batch = make_batch(params, scores, config, compared=score_fn is not None)
    loss_fn = objectives.make_loss_fn(name, denoiser, config)

    def everything(params):
        found = score_fn(params, batch) if score_fn else ()
        return jax.value_and_grad(loss_fn, has_aux=True)(params, {}, batch), found

    ((loss, metrics), grads), found = jax.jit(everything)(params)

    def exact(params):
        return numpy_loss(scores(params, batch, config), batch, config)

    np.testing.assert_allclose(loss, exact(params), rtol=1e-4, atol=1e-6)
    for score in found:  # float32 sums of at most 6 log-probabilities under weights of at most 6
        np.testing.assert_allclose(score, scores(params, batch, config), rtol=5e-5)
    assert set(metrics) >= {"score", "kl", "trust"}
    if numpy_loss is grpo_loss:
        assert 0 < metrics["clipped"] < 1 and metrics["trust"] > 0

    leaves, tree = jax.tree.flatten(reference.float64(params))
    slopes = jax.tree.leaves(reference.float64(grads))
    norm, rng, step = math.sqrt(sum(np.sum(g * g) for g in slopes)), np.random.default_rng(0), 1e-6
    for _ in range(3):
        way = [rng.standard_normal(leaf.shape) for leaf in leaves]
        ahead, behind = (
            exact(jax.tree.unflatten(tree, [leaf + size * w for leaf, w in zip(leaves, way)]))
            for size in (step, -step)
        )
        slope = (ahead - behind) / (2 * step)
        # differences leave 1e-7; the rest is float32 rounding of the gradient's sums
        assert sum(np.sum(g * w) for g, w in zip(slopes, way)) == pytest.approx(
            slope, abs=2e-4 * norm
        )


@pytest.mark.parametrize("case", ["wd1", "wd1, released", "dmpo"])
@pytest.mark.parametrize("nothing", [NO_VERDICT, -np.inf])
def test_answers_without_a_verdict_are_not_learnt_from(params, case, nothing):
    """The weights are those of the others; whatever stands for such a row changes nothing."""
    name, config, scores, _ = CASES[case]
    denoiser = models.make_denoiser(MODEL)
    batch = make_batch(params, scores, config, compared=name == "dmpo")
    rewards = batch.rewards_B.at[1].set(nothing)
    batch = batch.replace(rewards_B=rewards, advantages_B=batch.advantages_B.at[1].set(0.0))
    grad_fn = jax.jit(
        jax.value_and_grad(objectives.make_loss_fn(name, denoiser, config), has_aux=True)
    )
    found = grad_fn(params, {}, batch)
    other = batch.replace(tokens_BxL=batch.tokens_BxL.at[1, P:].set(3))
    (loss, metrics), grads = grad_fn(params, {}, other)
    assert np.isfinite(loss) and loss == pytest.approx(float(found[0][0]), rel=1e-5)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(
            ours, theirs, atol=1e-5 * np.abs(theirs).max()
        ),
        grads,
        found[1],
    )
    alone = batch.replace(rewards_B=jnp.full(5, nothing))
    (loss, metrics), grads = grad_fn(params, {}, alone)
    assert loss == 0 and metrics["effective"] == 0
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    "name, config", [("diffu_grpo", DiffuGrpoConfig()), ("dmpo", DmpoConfig(alpha=0.7))]
)
def test_missing_old_scores_are_the_present_ones_without_gradient(name, config):
    """The first inner iteration: GRPO's is the policy gradient, DMPO weighs by rewards alone."""
    rng, denoiser = np.random.default_rng(0), reference.position_denoiser(MODEL.vocab_size)
    params = {"z": jnp.asarray(rng.standard_normal((5, P + G, MODEL.vocab_size)), jnp.float32)}
    batch = random_batch(
        MODEL,
        rows=5,
        prompt_len=P,
        gen=G,
        draws=2,
        group_B=GROUPS,
        rewards_B=rng.random(5).astype(np.float32),
    )
    now = objectives.make_score_fn(name, denoiser, config)(params, batch)[0]
    loss_fn = jax.value_and_grad(objectives.make_loss_fn(name, denoiser, config), has_aux=True)
    implied, given = (
        loss_fn(params, {}, batch),
        loss_fn(params, {}, batch.replace(old_KxB=now, ref_KxB=now)),
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), implied, given
    )
    assert np.abs(implied[1]["z"]).max() > 0.01


def test_gain_and_divergence_at_their_edges():
    """Nothing moves: the whole gradient, also with epsilon 0. Far away: no overflow, no NaN."""
    gradient = jax.grad(lambda x, a, low, high: clipped_gain(x, a, low, high)[0])
    for low, high in ((0.0, 0.0), (0.2, 0.2)):
        assert gradient(0.0, 1.5, low, high) == pytest.approx(1.5)
        assert gradient(0.0, -1.5, low, high) == pytest.approx(-1.5)
    # log ratio, advantage, gradient: zero only beyond the clip in the advantage's direction
    for x, a, wanted in (
        (0.5, 1.0, 0.0),
        (-0.5, 1.0, math.exp(-0.5)),
        (0.5, -1.0, -math.exp(0.5)),
        (-0.5, -1.0, 0.0),
    ):
        assert gradient(x, a, 0.2, 0.2) == pytest.approx(wanted, rel=1e-6)
    for x in (1e4, -1e4):
        assert np.isfinite(clipped_gain(jnp.float32(x), -1.0, 0.2, 0.2)[0]) and np.isfinite(
            gradient(x, 1.0, 0.2, 0.2)
        )
        assert np.isfinite(jax.grad(lambda y: k3(y, jnp.float32(0.0)))(jnp.float32(x)))
    # the pull to the reference does not let go of what has gone farthest
    slopes = [jax.grad(k3)(jnp.float32(-d), jnp.float32(0.0)) for d in (5.0, 19.0, 21.0, 60.0)]
    assert slopes == sorted(slopes, reverse=True) and slopes[-1] == slopes[-2] < -4e8


@pytest.mark.parametrize(
    "make, options, word",
    [
        (DiffuGrpoConfig, dict(epsilon_low=1.5), "epsilon_low"),
        (DiffuGrpoConfig, dict(beta=-1.0), "beta"),
        (DiffuGrpoConfig, dict(mask_prompt=2.0), "mask_prompt"),
        (CoupledGrpoConfig, dict(ratio_low=0.9), "ratio_low"),
        (CoupledGrpoConfig, dict(count="some"), "count"),
        (Wd1Config, dict(softmax_over="all"), "softmax_over"),
        (DmpoConfig, dict(alpha=0.0), "alpha"),
        (DmpoConfig, dict(mask_low=1.0), "mask_low"),
        (DmpoConfig, dict(sharpness=1.5), "sharpness"),
        (DmpoConfig, dict(centring=-0.1), "centring"),
        (Wd1Config, dict(psi=-1.0), "psi"),
        (Wd1Config, dict(negative=-1.0), "negative"),
    ],
)
def test_impossible_configs_are_refused_by_name(make, options, word):
    with pytest.raises(ValueError, match=word):
        make(**options)


def test_one_answer_a_prompt_is_enough_where_none_are_compared():
    """Fine-tuning on right answers takes each by itself."""
    assert settings.parse(coding.get_config("tiny,objective=rft,group_size=1")).rows == 32
    for name in ("gdsd", "dmpo", "wd1", "espo"):
        with pytest.raises(ValueError, match="group_size=1: advantages compare completions"):
            settings.parse(coding.get_config(f"tiny,objective={name},group_size=1"))
