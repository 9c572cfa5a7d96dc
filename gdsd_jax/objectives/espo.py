"""ESPO: PPO on whole sequences, the ELBO in place of the likelihood.

The code of ML-GSAI/ESPO. B rows, K mask draws; nats unless said. Masks come from explicit keys, and
old scores from the same function as the loss, both without dropout. Padding before a prompt is
never attended to.
"""

import dataclasses

from gdsd_jax.mistakes import check_choices
from gdsd_jax.objectives.checks import check_clip
from gdsd_jax.objectives.clipping import sequence_loss
from gdsd_jax.objectives.objective import Objective
from gdsd_jax.scoring import draw_pairs, pair_scores, rows_counted
from gdsd_jax.types import Array, Batch, Denoiser, PyTree


@dataclasses.dataclass(frozen=True)
class EspoConfig:
    """How sequences are clipped and scored.

    Attributes:
      epsilon_low: the ratio exp(move of the score per token) is kept above 1 - epsilon_low
        (released: 0.2, for countdown 0; 4e-4 in the demonstrations alone).
      epsilon_high: the ratio is kept below 1 + epsilon_high (released: as epsilon_low).
      beta: weight of the k2 KL to the reference policy, half the squared difference of scores per
        token.
      weighting: weights of token scores, "elbo" (released) or "uniform".
      count: positions that count, the "full" width (released: padding included) or the "answer"
        through its end token.
    """

    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    beta: float = 0.0
    weighting: str = "elbo"
    count: str = "full"

    def __post_init__(self):
        check_choices(self, weighting=("elbo", "uniform"), count=("full", "answer"))
        check_clip(self)


def views(config: EspoConfig, batch: Batch, draws: int, rng: Array) -> Array:
    """Complementary pairs, stratified over the batch; bool [K, B, L], one half of each."""
    return draw_pairs(rng, draws, batch, config.count)


def scores(
    denoiser: Denoiser, config: EspoConfig, params: PyTree, batch: Batch
) -> tuple[Array, Array]:
    """(old, reference) scores at these parameters, [K, B] nats.

    The loss compares their means over the draws.
    """
    score = pair_scores(denoiser, params, batch, weighting=config.weighting, count=config.count)
    return score.plain_KxB, score.plain_KxB


def loss(
    denoiser: Denoiser, config: EspoConfig, params: PyTree, batch: Batch
) -> tuple[Array, dict[str, Array]]:
    """- mean min(r A, clip(r) A) + beta mean (l - l_ref)^2 / 2L with r = exp((l - l_old) / L).

    l, l_old and l_ref are means over the draws.
    """
    return sequence_loss(scores(denoiser, config, params, batch)[0], batch, config)


OBJECTIVE = Objective(EspoConfig, loss, views, scores, count=rows_counted)
