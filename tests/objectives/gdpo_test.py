"""GDPO's bound against the quadrature on a toy, every mask listed.

B rows, G completion columns.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import objectives
from gdsd_jax.objectives import GdpoConfig, gdpo
from gdsd_jax.types import Batch
from tests import toy
from tests.reference import MASK

PARAMS = toy.params(scale=0.5)
ANSWERS = toy.ANSWERS[[0, 5, 13, 26]]
MASKS = np.array(list(itertools.product([False, True], repeat=toy.G)))


def batch_of(masks_KxBxL) -> Batch:
    rows = len(ANSWERS)
    tokens = np.concatenate([np.full((rows, 1), 2), ANSWERS], axis=1)
    return Batch(
        jnp.asarray(tokens, jnp.int32),
        jnp.ones(tokens.shape, bool),
        jnp.full((rows,), toy.G),
        masks_KxBxL if masks_KxBxL is None else jnp.asarray(masks_KxBxL),
        prompt_len=1,
    )


def chances(level: float) -> dict[int, float]:
    """How many of the columns are masked, with which probability."""
    low = int(np.floor(level * toy.G))
    return {low: 1 - (level * toy.G - low), low + 1: level * toy.G - low}


def sums(answer) -> dict[int, float]:
    """count -> mean over all masks of that many of the sum of what they mask."""
    found = {}
    for mask in MASKS:
        now = toy.logp(PARAMS, [MASK if hidden else token for hidden, token in zip(mask, answer)])
        own = sum(now[i, answer[i]] for i in np.flatnonzero(mask))
        found.setdefault(int(mask.sum()), []).append(own)
    return {count: float(np.mean(values)) for count, values in found.items()}


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_the_expected_bound_is_the_quadrature(levels):
    node, weight = np.polynomial.legendre.leggauss(levels)
    node, weight = (1 + node) / 2, weight / 2
    config, (lower, _) = GdpoConfig(levels=levels), gdpo.quadrature(levels)
    # each pair of levels under each of the masks, the same for all rows
    views = np.broadcast_to(
        np.pad(MASKS, ((0, 0), (1, 0)))[:, None, None], (len(MASKS), len(lower), len(ANSWERS), 4)
    )
    score_fn = objectives.make_score_fn("gdpo", toy.denoiser(), config)
    score, _ = score_fn(PARAMS, batch_of(views.reshape(-1, *views.shape[2:])))
    score = np.asarray(score, np.float64).reshape(len(MASKS), len(lower), len(ANSWERS))
    bound = np.zeros(len(ANSWERS))
    for place, level in enumerate(lower):
        for mask, one in zip(MASKS, score[:, place] / len(lower)):
            alike = np.sum(MASKS.sum(axis=1) == mask.sum())
            bound += chances(level).get(int(mask.sum()), 0.0) / alike * one
    for row, answer in enumerate(ANSWERS):
        own = sums(answer)
        wanted = sum(
            w
            / t
            * sum(chance * own[count] for count, chance in chances(t).items() if chance > 1e-9)
            for t, w in zip(node, weight)
        )
        assert bound[row] == pytest.approx(wanted, rel=1e-5)


def test_a_denoiser_that_does_not_look_has_its_own_likelihood_as_the_bound():
    """Rounding adds nothing, however few tokens there are: the weights of a token have mean 1."""
    for levels in (1, 2, 3, 5):
        config, (lower, weight) = GdpoConfig(levels=levels), gdpo.quadrature(levels)
        assert sum(weight) * 2 == pytest.approx(1.0)
        views = objectives.make_views_fn("gdpo", config)(batch_of(None), 3000, jax.random.key(0))
        masks = np.asarray(views)[:, :, 1:].reshape(3000, len(lower), len(ANSWERS), toy.G)
        share = masks.mean(axis=(0, 2))  # how often each column is masked
        np.testing.assert_allclose(share, np.tile(lower[:, None], (1, toy.G)), atol=0.02)
        # counts are the rounded ones
        counts = masks.sum(axis=-1)
        for place, level in enumerate(lower):
            assert set(np.unique(counts[:, place])) <= set(chances(level))


def test_impossible_levels_are_refused():
    for levels in (0, 17):
        with pytest.raises(ValueError, match=f"levels={levels} must lie in 1 .. 16"):
            GdpoConfig(levels=levels)
