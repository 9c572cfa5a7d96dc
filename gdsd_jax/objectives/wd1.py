"""wd1: a likelihood weighted up for good completions and down for bad ones, without ratios.

The code of xiaohangt/wd1. B rows, K views, G completion columns; nats unless said. The released
weights are a softmax over whatever rows share a micro-batch. Here it is over the completions of one
prompt. That is the same where a micro-batch is one group, as in the released recipes.
`softmax_over="batch"` restores it.
"""

import dataclasses

import jax.numpy as jnp

from gdsd_jax.advantages import group_count, group_softmax, used_share
from gdsd_jax.mistakes import check_choices, check_least, check_share
from gdsd_jax.objectives.objective import Objective
from gdsd_jax.scoring import counted, draw_full_masks, score_length, view_token_scores
from gdsd_jax.types import Array, Batch, Denoiser, PyTree


@dataclasses.dataclass(frozen=True)
class Wd1Config:
    """How completions are weighed. Defaults are the released values, but for `softmax_over`.

    Attributes:
      psi: weights are softmax(psi A) and softmax(- psi A), per unit of advantage.
      negative: share of the second weights; 0 learns from good completions only.
      mask_prompt: probability with which a prompt token is masked in the scoring view.
      count: tokens in the score, the "answer" through its end token or the "full" width.
      softmax_over: the completions of one prompt ("group") or the rows of a slice ("batch",
        released).
    """

    psi: float = 1.0
    negative: float = 1.0
    mask_prompt: float = 0.15
    count: str = "answer"
    softmax_over: str = "group"

    def __post_init__(self):
        check_choices(self, count=("full", "answer"), softmax_over=("group", "batch"))
        check_share(self, "mask_prompt")
        check_least(self, psi=0, negative=0)


def views(config: Wd1Config, batch: Batch, draws: int, rng: Array) -> Array:
    """The whole completion masked, and some of the prompt; bool [K, B, L]."""
    return draw_full_masks(rng, draws, batch, config.mask_prompt)


def loss(
    denoiser: Denoiser, config: Wd1Config, params: PyTree, batch: Batch
) -> tuple[Array, dict[str, Array]]:
    """Sum over a group of (w- - w+) l, mean over groups.

    l is the summed one-step log-probability, and w+- = softmax(+- psi A) over the group.
    """
    counted_BxG = counted(batch, config.count)
    logp_KxBxG = view_token_scores(denoiser, params, batch, batch.masks_KxBxL)
    score_B = jnp.mean(jnp.sum(logp_KxBxG * counted_BxG[None], axis=-1), axis=0)
    group_B = batch.group_B if config.softmax_over == "group" else None
    good_B, bad_B = (
        group_softmax(sign * config.psi * batch.advantages_B, group_B, batch.rewards_B)
        for sign in (1, -1)
    )
    groups = group_count(group_B)
    zero = jnp.float32(0.0)
    metrics = {
        "score": jnp.mean(score_B / score_length(batch, config.count)),
        "kl": zero,  # nothing is compared with
        "trust": zero,
        # share of completions that w+ uses
        "effective": used_share(good_B),
    }
    return jnp.sum((config.negative * bad_B - good_B) * score_B) / groups, metrics


OBJECTIVE = Objective(Wd1Config, loss, views, by_group=True)
