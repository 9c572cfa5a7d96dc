"""diffu-GRPO: token-level GRPO, each token scored in one step from the fully masked completion.

arXiv 2504.12216 and its code, dllm-reasoning/d1. B rows, K views, G completion columns; nats unless
said. Unlike in the released code, views come from explicit keys instead of reseeded global
generators, and old scores from the same function as the loss, without dropout.
"""

import dataclasses

from gdsd_jax.mistakes import check_choices, check_share
from gdsd_jax.objectives.checks import check_clip
from gdsd_jax.objectives.clipping import token_loss, tokens
from gdsd_jax.objectives.objective import Objective
from gdsd_jax.scoring import counted, draw_full_masks, view_token_scores
from gdsd_jax.types import Array, Batch, Denoiser, PyTree


@dataclasses.dataclass(frozen=True)
class DiffuGrpoConfig:
    """How tokens are clipped and masked. Defaults are the released values.

    Attributes:
      epsilon_low: token ratios are kept above 1 - epsilon_low.
      epsilon_high: token ratios are kept below 1 + epsilon_high.
      beta: weight of the k3 KL to the reference policy, per token.
      mask_prompt: probability with which a prompt token is masked; 0 scores with the prompt as the
        rollout saw it.
      count: tokens in the mean, the "answer" through its end token or the "full" width.
    """

    epsilon_low: float = 0.5
    epsilon_high: float = 0.5
    beta: float = 0.04
    mask_prompt: float = 0.15
    count: str = "answer"

    def __post_init__(self):
        check_choices(self, count=("full", "answer"))
        check_clip(self)
        check_share(self, "mask_prompt")


def views(config: DiffuGrpoConfig, batch: Batch, draws: int, rng: Array) -> Array:
    """The whole completion masked, and some of the prompt; bool [K, B, L]."""
    return draw_full_masks(rng, draws, batch, config.mask_prompt)


def scores(
    denoiser: Denoiser, config: DiffuGrpoConfig, params: PyTree, batch: Batch
) -> tuple[Array, Array]:
    """(old, reference) log-probabilities of the tokens at these parameters, [K, B, G] nats."""
    logp_KxBxG = view_token_scores(denoiser, params, batch, batch.masks_KxBxL)
    return logp_KxBxG, logp_KxBxG


def loss(
    denoiser: Denoiser, config: DiffuGrpoConfig, params: PyTree, batch: Batch
) -> tuple[Array, dict[str, Array]]:
    """- mean over tokens of min(r A, clip(r) A) - beta k3, r the ratio to the old policy."""
    logp_KxBxG, _ = scores(denoiser, config, params, batch)
    return token_loss(logp_KxBxG, batch, config, counted(batch, config.count)[None])


OBJECTIVE = Objective(DiffuGrpoConfig, loss, views, scores, count=tokens)
