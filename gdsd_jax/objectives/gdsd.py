"""Guided Denoiser Self-Distillation: move the score of each completion by psi times its advantage.

arXiv 2605.29398. B rows, K mask draws, G completion columns; nats unless said.

The defaults differ from the released code, and the presets restore it. By default token-logit
centring does something, the weighting is the same whatever the centring, the trust region is on the
score per token, psi is on the whole sequence, and both terms are means over masks. As in the
released code the main term falls with L^2 and the KL with L. Masks are booleans from explicit keys,
halves without a masked token weigh nothing, and old scores come from the same function as the loss,
without dropout. Padding before a prompt is never attended to; that behind an answer is, as when it
was sampled.
"""

import dataclasses

import jax
import jax.numpy as jnp

from gdsd_jax.mistakes import Gathered, check_choices, check_least
from gdsd_jax.objectives.checks import check_fields
from gdsd_jax.objectives.divergences import DIVERGENCES
from gdsd_jax.objectives.moves import shares
from gdsd_jax.objectives.objective import Objective, compares_with_reference, one_nat
from gdsd_jax.scoring import (
    Centring,
    Scores,
    draw_pairs,
    pair_scores,
    row_mean,
    rows_counted,
    score_length,
)
from gdsd_jax.types import Array, Batch, Denoiser, PyTree


@dataclasses.dataclass(frozen=True)
class GdsdConfig:
    """How the denoiser is guided.

    Attributes:
      psi: guidance, nats per unit of advantage on the whole sequence (paper Table 4: 10); per token
        under a preset.
      weighting: weights of token scores, "elbo" (their expected sum over uniform masks is then the
        ELBO) or "uniform", a half each: psi and trust are then of half the sum of
        log-probabilities.
      centring: mean that is taken off token logits: "none", "vocab" (token-logit centralisation,
        Eq. 8) or "top_k" (over the `centring_k` best tokens).
      centring_k: tokens in the mean of "top_k" (released: 64; 8 for Dream on sudoku).
      detach_centre: let no gradient through the mean.
      trust: (low, high), how far the per-token score may move down or up from the old one, nats;
        None = anywhere. Under a preset the released (epsilon_low, epsilon_high), a ratio bound on
        the raw sum.
      trust_sides: "two" stops the gradient outside the region, "one" only beyond it in the
        advantage's direction.
      divergence: from the tilted teacher, of divergences.py: "squared", or with all else equal
        "forward", "reverse" or "linear", the policy gradient.
      anchor: what the teacher tilts, the "old" policy of the round or the "reference" (RSPO, arXiv
        2605.10218).
      beta: weight of the k2 KL to the reference policy on normalised scores.
      count: positions that count, the "full" width (padding included, as the models are trained) or
        the "answer" through its end token; what is behind it is then masked in both halves.
      by_length: weigh an answer's term by (L / width)^2, so that the gradient of its score is in
        proportion to psi A at any length. Otherwise it is to psi A / L^2, and where lengths differ
        (count="answer") short answers decide what is learnt.
      masks: "uniform" over the completion, or like the states of a sampler that goes block by
        block: the last blocks are masked whole and one of them in part, there at random positions
        ("block_random") or at those that the rollout committed with the lowest probability
        ("block_confidence", the later release).
      mask_block: tokens of a block of masks.
      preset: the released formula: psi per token, clip on the raw sum at both sides, sum over
        masks. "r1", or "r2", the later one, which is the same under ELBO weights. It sets no value:
        psi, trust and weighting are given beside it. None: the formula of the paper.
    """

    psi: float = 10.0
    weighting: str = "elbo"
    centring: str = "none"
    centring_k: int = 64
    detach_centre: bool = False
    trust: tuple[float, float] | None = (0.02, 0.02)
    trust_sides: str = "two"
    divergence: str = "squared"
    anchor: str = "old"
    beta: float = 0.0
    count: str = "full"
    by_length: bool = False
    masks: str = "uniform"
    mask_block: int = 32
    preset: str | None = None

    def __post_init__(self):
        wrong = Gathered()
        with wrong.check():
            check_choices(
                self,
                weighting=("elbo", "uniform"),
                centring=("none", "vocab", "top_k"),
                trust_sides=("one", "two"),
                divergence=tuple(DIVERGENCES),
                anchor=("old", "reference"),
                count=("full", "answer"),
                masks=("uniform", "block_random", "block_confidence"),
                preset=(None, "r1", "r2"),
            )
        with wrong.check():
            check_least(self, mask_block=1, centring_k=1)
        wrong.lines += [
            f"{key}={getattr(self, key)} must not be negative"
            for key in ("psi", "beta")
            if getattr(self, key) < 0
        ]
        if self.trust is not None and not (len(self.trust) == 2 and min(self.trust) > 0):
            wrong.lines.append(
                f"trust={self.trust!r}: give two positive numbers, (low, high), or None"
            )
        wrong.end()
        self.check_together()

    def check_together(self) -> None:
        """Mistakes of fields that are right alone."""
        wrong = Gathered()
        if self.preset is not None and (self.trust is None or self.trust[0] >= 1):
            wrong.lines.append(
                f"preset={self.preset!r} needs trust=(epsilon_low, epsilon_high), "
                "epsilon_low below 1"
            )
        if self.preset is not None and (self.divergence, self.anchor) != ("squared", "old"):
            wrong.lines.append(
                f"preset={self.preset!r} regresses on the old policy: leave divergence and anchor "
                "out"
            )
        if self.preset is not None and self.by_length:
            wrong.lines.append(f"preset={self.preset!r} weighs all lengths alike: not by_length")
        if self.anchor == "reference" and self.centring != "none":
            wrong.lines.append(
                f"anchor='reference' compares normalised scores: not centring={self.centring!r}"
            )
        if self.preset == "r2" and self.weighting != "elbo":
            wrong.lines.append(f"preset='r2' is ELBO-weighted, not weighting={self.weighting!r}")
        wrong.end()


def views(config: GdsdConfig, batch: Batch, draws: int, rng: Array) -> Array:
    """Complementary pairs, stratified over the batch; bool [K, B, L], one half of each.

    Raises:
      ValueError: masks by confidence of a batch without the rollout's log-probabilities.
    """
    if config.masks == "block_confidence":
        check_fields("masks='block_confidence'", batch, "logp_BxG")
    return draw_pairs(
        rng,
        draws,
        batch,
        config.count,
        block_length=None if config.masks == "uniform" else config.mask_block,
        order_BxG=batch.logp_BxG if config.masks == "block_confidence" else None,
    )


def sequence_scores(denoiser: Denoiser, config: GdsdConfig, params: PyTree, batch: Batch) -> Scores:
    """Scores of each pair under the config's weights and centring."""
    centring = Centring(config.centring, config.centring_k, config.detach_centre)
    return pair_scores(
        denoiser, params, batch, weighting=config.weighting, count=config.count, centring=centring
    )


def scores(
    denoiser: Denoiser, config: GdsdConfig, params: PyTree, batch: Batch
) -> tuple[Array, Array]:
    """(old, reference) scores at these parameters, [K, B] nats."""
    score = sequence_scores(denoiser, config, params, batch)
    return score.centred_KxB, score.plain_KxB


def loss(
    denoiser: Denoiser, config: GdsdConfig, params: PyTree, batch: Batch
) -> tuple[Array, dict[str, Array]]:
    """mean (u - psi A / L)^2 + beta mean (l - l_ref)^2 / 2L.

    u is the score's move per token, limited to the trust region. Of another divergence D the first
    term is mean 2 D(L u, psi A) / L^2; from the reference, u is the way from there. With
    `by_length` it is the mean of these terms times (L / width)^2.
    """
    score = sequence_scores(denoiser, config, params, batch)
    old_KxB = jax.lax.stop_gradient(score.centred_KxB) if batch.old_KxB is None else batch.old_KxB
    ref_KxB = jax.lax.stop_gradient(score.plain_KxB) if batch.ref_KxB is None else batch.ref_KxB
    length_1xB = score_length(batch, config.count)[None]
    advantage_1xB = batch.advantages_B[None]

    move_KxB = score.centred_KxB - old_KxB
    told_KxB = move_KxB / length_1xB
    kl_KxB = 0.5 * jnp.square(score.plain_KxB - ref_KxB) / length_1xB
    if config.preset is None:
        move_KxB = told_KxB
        target_1xB = config.psi * advantage_1xB / length_1xB
        limited_KxB, outside_KxB = within_trust(move_KxB, advantage_1xB, config)
        if config.anchor == "reference":
            limited_KxB = limited_KxB + (old_KxB - ref_KxB) / length_1xB
        residual_KxB = limited_KxB - target_1xB
        main_KxB, slope_KxB = divergence(config, limited_KxB, target_1xB, batch)
        main = row_mean(main_KxB, batch, config)
    else:
        low, high = config.trust
        limited_KxB = jnp.clip(move_KxB, jnp.log1p(-low), jnp.log1p(high))
        outside_KxB = limited_KxB != move_KxB
        target_1xB = config.psi * advantage_1xB
        residual_KxB = limited_KxB / length_1xB - target_1xB
        slope_KxB = 2 * residual_KxB / length_1xB
        # the sum over masks
        main = len(move_KxB) * row_mean(jnp.square(residual_KxB), batch, config)
    kl = row_mean(kl_KxB, batch, config)
    metrics = {
        "score": row_mean(score.plain_KxB / length_1xB, batch, config),
        "kl": kl,
        "kl_max": jnp.max(kl_KxB),
        "trust": jnp.mean(jnp.any(outside_KxB, axis=0)),
        "target": jnp.mean(jnp.abs(target_1xB)),
        "residual": jnp.mean(jnp.abs(residual_KxB)),
        **shares(residual_KxB, target_1xB),
        **diagnostics(score.centred_KxB / length_1xB, told_KxB, outside_KxB, slope_KxB),
    }
    return main + config.beta * kl, metrics


def divergence(
    config: GdsdConfig, move_KxB: Array, target_1xB: Array, batch: Batch
) -> tuple[Array, Array]:
    """(2 / L^2 times the divergence of a sequence, its derivative with respect to the score).

    With `by_length` 2 / width^2 times.
    """
    distance, length_1xB = DIVERGENCES[config.divergence], score_length(batch, config.count)[None]
    width = batch.tokens_BxL.shape[1] - batch.prompt_len
    scale_1xB = 2 / jnp.square(jnp.full_like(length_1xB, width) if config.by_length else length_1xB)
    goal_KxB = jnp.broadcast_to(length_1xB * target_1xB, move_KxB.shape)

    def total(way_KxB):
        x_KxB = scale_1xB * distance(way_KxB, goal_KxB)
        return jnp.sum(x_KxB), x_KxB

    slope_KxB, main_KxB = jax.grad(total, has_aux=True)(length_1xB * move_KxB)
    return main_KxB, slope_KxB


def within_trust(move_KxB: Array, advantage_1xB: Array, config: GdsdConfig) -> tuple[Array, Array]:
    """(move limited to the trust region, bool where it was outside).

    The limit passes no gradient.
    """
    if config.trust is None:
        return move_KxB, jnp.zeros(move_KxB.shape, bool)
    low, high = config.trust
    limited_KxB = jnp.clip(move_KxB, -low, high)
    outside_KxB = limited_KxB != move_KxB
    if config.trust_sides == "one":
        outside_KxB &= jnp.sign(move_KxB) == jnp.sign(advantage_1xB)
    return jnp.where(outside_KxB, limited_KxB, move_KxB), outside_KxB


def diagnostics(
    score_KxB: Array, move_KxB: Array, outside_KxB: Array, slope_KxB: Array
) -> dict[str, Array]:
    """Numbers that the later release logs.

    Scores and moves are per token, and their noise is that over the masks. The slope is the main
    term's with respect to a score; its mean over its spread is a signal-to-noise ratio.
    """
    spread, noise_B = jnp.float32(0.0), jnp.zeros(score_KxB.shape[1])
    if slope_KxB.size > 1:
        spread = jnp.std(slope_KxB, ddof=1)
    if len(score_KxB) > 1:
        noise_B = jnp.std(score_KxB, axis=0, ddof=1)
    return {
        "centred_score": jnp.mean(score_KxB),
        "centred_score_max": jnp.max(jnp.abs(score_KxB)),
        "score_noise": jnp.mean(noise_B),
        "move": jnp.mean(jnp.abs(move_KxB)),
        "move_max": jnp.max(jnp.abs(move_KxB)),
        "clipped": jnp.mean(outside_KxB.astype(jnp.float32)),
        "slope": jnp.mean(jnp.abs(slope_KxB)),
        "slope_spread": spread,
        "slope_snr": jnp.abs(jnp.mean(slope_KxB)) / (spread + 1e-12),
    }


def compares(config: GdsdConfig) -> bool:
    """Whether the reference policy is scored: it is weighed, or the teacher tilts it."""
    return compares_with_reference(config) or config.anchor == "reference"


def asked(config: GdsdConfig, advantages_B: Array, length_B: Array) -> Array:
    """psi A nats, under a preset a token; the linear divergence has no target, and that from the
    reference is nearer or farther as the policy has moved.

    A uniform score is half the sum of the tokens, which then moves by twice as much.
    """
    if config.divergence == "linear" or config.anchor == "reference":
        return one_nat(config, advantages_B, length_B)
    part = 0.5 if config.weighting == "uniform" else 1.0
    return config.psi / part * advantages_B * (1 if config.preset is None else length_B)


OBJECTIVE = Objective(
    GdsdConfig, loss, views, scores, reference=compares, count=rows_counted, asked=asked
)
