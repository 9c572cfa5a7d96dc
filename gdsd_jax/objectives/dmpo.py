"""DMPO: cross-entropy towards the policy that the rewards ask for, by weighted denoising.

The code of yuchen-zhu-zyc/DMPO ("wdce"). B rows, K pairs of complementary masks (2K of the released
replicates), G completion columns; nats unless said. The released code estimates the
log-probabilities in the weights once, at masks of their own. Here they are the scores at the loss's
masks, before the first step of the round.
"""

import dataclasses

import jax
import jax.numpy as jnp

from gdsd_jax.advantages import group_count, group_softmax, used_share
from gdsd_jax.mistakes import check_choices, check_share
from gdsd_jax.objectives.objective import Objective
from gdsd_jax.scoring import counted, hiding_behind, pair_scores, score_length
from gdsd_jax.types import Array, Batch, Denoiser, PyTree


@dataclasses.dataclass(frozen=True)
class DmpoConfig:
    """How completions are weighed and masked. Defaults are the released values.

    Attributes:
      alpha: temperature of the wanted policy p_ref exp(r / alpha), reward units per nat.
      sharpness: factor on the weights' exponents, 0 .. 1 (released as "coeff").
      centring: share of the weights under the negated reward that is taken off (released as
        "centering_strength").
      mask_low: a token is masked with probability uniform in mask_low .. 1, one for each row and
        pair.
      count: positions that are masked and scored, the "full" width (released: padding included) or
        the "answer" through its end token.
    """

    alpha: float = 0.04
    sharpness: float = 1.0
    centring: float = 1.0
    mask_low: float = 0.1
    count: str = "full"

    def __post_init__(self):
        check_choices(self, count=("full", "answer"))
        if self.alpha <= 0:
            raise ValueError(f"alpha={self.alpha} must be positive")
        if not 0 <= self.mask_low < 1:
            raise ValueError(f"mask_low={self.mask_low}: give a probability below 1")
        check_share(self, "sharpness")
        check_share(self, "centring")


def views(config: DmpoConfig, batch: Batch, draws: int, rng: Array) -> Array:
    """Each token masked by its own coin; the complement is the pair. bool [K, B, L].

    What does not count is masked in both.
    """
    rng_ratio, rng_place = jax.random.split(rng)
    counted_BxG = counted(batch, config.count)
    ratio_KxBx1 = jax.random.uniform(
        rng_ratio, (draws, counted_BxG.shape[0], 1), minval=config.mask_low
    )
    coin_KxBxG = jax.random.bernoulli(rng_place, ratio_KxBx1, (draws, *counted_BxG.shape))
    masks_KxBxL = jnp.pad(coin_KxBxG, ((0, 0), (0, 0), (batch.prompt_len, 0)))
    return hiding_behind(masks_KxBxL, batch, config.count)


def scores(
    denoiser: Denoiser, config: DmpoConfig, params: PyTree, batch: Batch
) -> tuple[Array, Array]:
    """(old, reference) scores at these parameters, [K, B] nats.

    L / m times the sum over the m masked tokens, mean of the pair.
    """
    score = pair_scores(denoiser, params, batch, weighting="share", count=config.count)
    return score.plain_KxB, score.plain_KxB


def loss(
    denoiser: Denoiser, config: DmpoConfig, params: PyTree, batch: Batch
) -> tuple[Array, dict[str, Array]]:
    """- sum over a group of (w - centring w-) l / L, mean over groups.

    w and w- are the softmax over the group of sharpness (l_ref - l_old +- r / alpha).
    """
    score_B = jnp.mean(scores(denoiser, config, params, batch)[0], axis=0)
    present_B = jax.lax.stop_gradient(score_B)
    old_B = present_B if batch.old_KxB is None else jnp.mean(batch.old_KxB, axis=0)
    ref_B = present_B if batch.ref_KxB is None else jnp.mean(batch.ref_KxB, axis=0)
    length_B = score_length(batch, config.count)

    def weigh(sign):
        exponent_B = ref_B - old_B + sign * batch.rewards_B / config.alpha
        return group_softmax(config.sharpness * exponent_B, batch.group_B, batch.rewards_B)

    good_B, bad_B, groups = weigh(1), weigh(-1), group_count(batch.group_B)
    metrics = {
        "score": jnp.mean(score_B / length_B),
        "kl": jnp.mean(0.5 * jnp.square(score_B - ref_B) / length_B),
        "trust": jnp.float32(0.0),  # there is no region
        # share of completions that w uses
        "effective": used_share(good_B),
    }
    return -jnp.sum((good_B - config.centring * bad_B) * score_B / length_B) / groups, metrics


def always(config: DmpoConfig) -> bool:
    """The weights compare with the reference policy, whatever the config says."""
    return True


OBJECTIVE = Objective(
    DmpoConfig,
    loss,
    views,
    scores,
    reference=always,
    by_group=True,
    reads=("masks_KxBxL", "rewards_B"),
)
