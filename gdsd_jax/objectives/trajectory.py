"""Trajectory objectives: the likelihood of the steps that the rollout took, in place of a bound.

As in TraceRL (arXiv 2509.06949) and CJ-GRPO (arXiv 2509.23924) each token is scored at the state in
which the sampler committed it. What is raised or lowered is the likelihood of the commits given
their order. That is the likelihood of the answer only where the order does not look at the sampled
token: `origin`, `random`, `left_to_right`, `entropy` and `topk_margin`. The softmax is the model's
own, the mask's share included, which is never drawn and which training makes vanish. B rows, G
completion columns; nats.
"""

import dataclasses

import jax
import jax.numpy as jnp

from gdsd_jax.mistakes import check_choices, check_least
from gdsd_jax.objectives.checks import check_clip, check_exact, check_fields
from gdsd_jax.objectives.clipping import token_loss
from gdsd_jax.objectives.moves import shares
from gdsd_jax.objectives.objective import Objective, one_nat
from gdsd_jax.sampling import replay
from gdsd_jax.types import Array, Batch, Denoiser, PyTree, Uncut


@dataclasses.dataclass(frozen=True)
class TrajectoryConfig:
    """What is done with the likelihood of the recorded steps.

    Attributes:
      form: "ppo" clips the ratio of each token, "squared" regresses the move of the whole
        likelihood on psi times the advantage, as GDSD does with its score.
      epsilon_low: of "ppo": token ratios are kept above 1 - epsilon_low. Of "squared": the move a
        token passes no gradient below - epsilon_low nats.
      epsilon_high: the same upwards.
      psi: of "squared": nats per unit of advantage on the whole completion.
      beta: weight of the KL to the reference policy: k3 per token, or of "squared" k2.
      groups: 0 = every pass is replayed, exactly. Else so many groups of consecutive passes, whose
        tokens are scored at the state before the group: cheaper, and another law.
    """

    form: str = "ppo"
    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    psi: float = 10.0
    beta: float = 0.0
    groups: int = 0

    def __post_init__(self):
        check_choices(self, form=("ppo", "squared"))
        check_clip(self)
        check_least(self, psi=0, groups=0)


def rollouts(sampler, temperature: float, threshold: float | None) -> None:
    """ValueError unless each token is drawn from the model's own softmax at its state."""
    check_exact("trajectory", sampler, temperature, threshold)


def views(config: TrajectoryConfig, batch: Batch, draws: int, rng: Array) -> Array:
    """The whole completion, bool [1, B, L]: the states are those of the rollout, nothing is drawn.

    So no number of draws adds anything.
    """
    is_completion_L = jnp.arange(batch.tokens_BxL.shape[1]) >= batch.prompt_len
    return jnp.broadcast_to(is_completion_L[None, None], (1, *batch.tokens_BxL.shape))


def replayed(denoiser: Denoiser, params: PyTree, batch: Batch, **which) -> Array:
    """float32 [B, G], each token at its state, of a batch of an objective that is `uncut`; `which`
    tells `replay` the groups, or the picked tokens."""
    columns = batch.prompt_len
    return replay(
        denoiser,
        params,
        batch.tokens_BxL[:, :columns],
        batch.valid_BxL[:, :columns],
        Uncut(batch.tokens_BxL[:, columns:], batch.step_map_BxG, batch.logp_BxG),
        block=batch.block,
        passes=batch.passes,
        **which,
    )


def scores(
    denoiser: Denoiser, config: TrajectoryConfig, params: PyTree, batch: Batch
) -> tuple[Array, Array]:
    """(old, reference) log-probabilities of the tokens, [1, B, G] nats.

    Exact old ones are those that the rollout recorded.
    """
    check_fields("a score of objective 'trajectory'", batch, "step_map_BxG", "logp_BxG")
    logp_1xBxG = replayed(denoiser, params, batch, groups=config.groups)[None]
    old_1xBxG = logp_1xBxG if config.groups else batch.logp_BxG[None]
    return old_1xBxG, logp_1xBxG


def committed(batch: Batch) -> Array:
    """bool [B, G], the tokens that the sampler committed, also behind the end of an answer."""
    return batch.step_map_BxG > 0


def loss(
    denoiser: Denoiser, config: TrajectoryConfig, params: PyTree, batch: Batch
) -> tuple[Array, dict[str, Array]]:
    """ "ppo": - mean over committed tokens of min(r A, clip(r) A) - beta k3.

    "squared": mean over rows of (move - psi A / L)^2 + beta (l - l_ref)^2 / 2L, with l the sum over
    the L committed tokens of a row and move = (l - l_old) / L, limited to the epsilons.
    """
    logp_1xBxG = replayed(denoiser, params, batch, groups=config.groups)[None]
    if config.form == "ppo":
        return token_loss(logp_1xBxG, batch, config, committed(batch)[None])
    score_B = jnp.sum(logp_1xBxG[0], axis=1)
    present_B = jax.lax.stop_gradient(score_B)
    old_B = present_B if batch.old_KxB is None else jnp.sum(batch.old_KxB[0], axis=1)
    ref_B = present_B if batch.ref_KxB is None else jnp.sum(batch.ref_KxB[0], axis=1)
    some_B = jnp.any(committed(batch), axis=1)
    length_B = jnp.maximum(jnp.sum(committed(batch), axis=1), 1).astype(jnp.float32)
    rows = count(config, batch) if batch.mean_count is None else batch.mean_count

    def mean(x_B):
        return jnp.sum(jnp.where(some_B, x_B, 0.0)) / rows

    move_B = (score_B - old_B) / length_B
    target_B = config.psi * batch.advantages_B / length_B
    limited_B = jnp.clip(move_B, -config.epsilon_low, config.epsilon_high)
    residual_B = limited_B - target_B
    kl = mean(0.5 * jnp.square(score_B - ref_B) / length_B)
    metrics = {
        "score": mean(score_B / length_B),
        "kl": kl,
        "trust": mean((limited_B != move_B).astype(jnp.float32)),
        "move": mean(jnp.abs(move_B)),
        "target": mean(jnp.abs(target_B)),
        "residual": mean(jnp.abs(residual_B)),
        **shares(residual_B, target_B),
    }
    return mean(jnp.square(residual_B)) + config.beta * kl, metrics


def count(config: TrajectoryConfig, batch: Batch) -> Array:
    """Committed tokens, or of "squared" rows that have some, float32, at least 1."""
    found_BxG = committed(batch)
    if config.form == "squared":
        found_BxG = jnp.any(found_BxG, axis=1)
    return jnp.maximum(jnp.sum(found_BxG), 1).astype(jnp.float32)


def asked(config: TrajectoryConfig, advantages_B: Array, length_B: Array) -> Array:
    """psi A nats of "squared"; "ppo" has no target."""
    if config.form == "ppo":
        return one_nat(config, advantages_B, length_B)
    return config.psi * advantages_B


OBJECTIVE = Objective(
    TrajectoryConfig,
    loss,
    views,
    scores,
    uncut=True,
    reads=("step_map_BxG", "advantages_B"),
    count=count,
    asked=asked,
    rollouts=rollouts,
)
