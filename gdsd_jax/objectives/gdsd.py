"""Guided Denoiser Self-Distillation: move the score of each completion by psi times its advantage.

arXiv 2605.29398; specs/gdsd.md sections 2 to 5. B rows, K mask draws, G completion columns; nats unless said.
"""
import dataclasses

import jax
import jax.numpy as jnp

from gdsd_jax.scoring import Centring, Scores, counted, pair_scores
from gdsd_jax.types import Array, Batch, Denoiser, PyTree


@dataclasses.dataclass(frozen=True)
class GdsdConfig:
    """How the denoiser is guided.

    Attributes:
      psi: guidance, nats per unit of advantage on the whole sequence (paper Table 4: 10); per token under a preset.
      weighting: of token scores, "elbo" (unbiased, specs/gdsd.md section 3.2) or "uniform".
      centring: "none", "vocab" (token-logit centralisation, Eq. 8) or "top_k" (over the `centring_k` best tokens).
      centring_k: tokens in the mean of "top_k".
      detach_centre: no gradient through the mean.
      trust: (low, high), how far the per-token score may move from the old one, nats; None = anywhere.
        Under a preset the released (epsilon_low, epsilon_high), a ratio bound on the raw sum.
      trust_sides: "two" stops the gradient outside the region, "one" only beyond it in the advantage's direction.
      beta: weight of the k2 KL to the reference policy on normalised scores.
      count: positions that count, "full" width (padding included, as the models are trained) or the "answer".
      preset: "r1" for the released formula: psi per token, clip on the raw sum, sum over masks (section 3.3).
    """

    psi: float = 10.0
    weighting: str = "elbo"
    centring: str = "none"
    centring_k: int = 64
    detach_centre: bool = False
    trust: tuple[float, float] | None = (0.02, 0.02)
    trust_sides: str = "two"
    beta: float = 0.0
    count: str = "full"
    preset: str | None = None

    def __post_init__(self):
        choices = {
            "weighting": ("elbo", "uniform"), "centring": ("none", "vocab", "top_k"), "trust_sides": ("one", "two"),
            "count": ("full", "answer"), "preset": (None, "r1"),
        }  # fmt: skip
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                raise ValueError(f"{key}={getattr(self, key)!r}: choose one of {allowed}")
        if self.trust is not None and not (len(self.trust) == 2 and min(self.trust) > 0):
            raise ValueError(f"trust={self.trust!r}: give two positive numbers, (low, high), or None")
        if self.preset is not None and self.trust is None:
            raise ValueError(f"preset={self.preset!r} needs trust=(epsilon_low, epsilon_high)")


def sequence_scores(denoiser: Denoiser, config: GdsdConfig, params: PyTree, batch: Batch) -> Scores:
    centring = Centring(config.centring, config.centring_k, config.detach_centre)
    return pair_scores(
        denoiser, params, batch, weighting=config.weighting, count=config.count, centring=centring
    )


def scores(denoiser: Denoiser, config: GdsdConfig, params: PyTree, batch: Batch) -> tuple[Array, Array]:
    """What the loss compares with: (old, reference) scores at these parameters, [K, B] nats."""
    found = sequence_scores(denoiser, config, params, batch)
    return found.centred_KxB, found.plain_KxB


def loss(denoiser: Denoiser, config: GdsdConfig, params: PyTree, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """mean (u - psi A / L)^2 + beta mean (l - l_ref)^2 / 2L, with u the score's move per token inside the trust region."""
    score = sequence_scores(denoiser, config, params, batch)
    old_KxB = jax.lax.stop_gradient(score.centred_KxB) if batch.old_KxB is None else batch.old_KxB
    ref_KxB = jax.lax.stop_gradient(score.plain_KxB) if batch.ref_KxB is None else batch.ref_KxB
    length_1xB = jnp.sum(counted(batch, config.count), axis=1)[None].astype(jnp.float32)
    advantage_1xB = batch.advantages_B[None]

    move_KxB = score.centred_KxB - old_KxB
    kl_KxB = 0.5 * jnp.square(score.plain_KxB - ref_KxB) / length_1xB
    if config.preset == "r1":
        low, high = config.trust
        kept_KxB = jnp.clip(move_KxB, jnp.log1p(-low), jnp.log1p(high))
        target_KxB = config.psi * advantage_1xB
        main = jnp.mean(jnp.sum(jnp.square(kept_KxB / length_1xB - target_KxB), axis=0))
        outside_KxB = kept_KxB != move_KxB
    else:
        move_KxB = move_KxB / length_1xB
        target_KxB = config.psi * advantage_1xB / length_1xB
        kept_KxB, outside_KxB = within_trust(move_KxB, advantage_1xB, config)
        main = jnp.mean(jnp.square(kept_KxB - target_KxB))
    metrics = {
        "score": jnp.mean(score.plain_KxB / length_1xB),
        "kl": jnp.mean(kl_KxB),
        "trust": jnp.mean(jnp.any(outside_KxB, axis=0)),
        "move": jnp.mean(jnp.abs(move_KxB)),
        "target": jnp.mean(jnp.abs(target_KxB)),
    }
    return main + config.beta * jnp.mean(kl_KxB), metrics


def within_trust(move_KxB: Array, advantage_1xB: Array, config: GdsdConfig) -> tuple[Array, Array]:
    """(move limited to the trust region, bool where it was outside); the limit passes no gradient."""
    if config.trust is None:
        return move_KxB, jnp.zeros(move_KxB.shape, bool)
    low, high = config.trust
    kept_KxB = jnp.clip(move_KxB, -low, high)
    outside_KxB = kept_KxB != move_KxB
    if config.trust_sides == "one":
        outside_KxB &= jnp.sign(move_KxB) == jnp.sign(advantage_1xB)
    return jnp.where(outside_KxB, kept_KxB, move_KxB), outside_KxB
