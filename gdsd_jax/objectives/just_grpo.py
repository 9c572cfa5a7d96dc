"""JustGRPO: GRPO on answers that are written left to right, with their exact likelihood.

arXiv 2601.15165 and its code, LeapLabTHU/JustGRPO. Token i is scored with everything before it
shown and everything from it on masked, one forward a token, under the model's own attention. A
causal mask over a model that was trained without one is not its likelihood. Of a block-causal
denoiser token n of every block is scored by one forward of the row [prompt | clean | noised]. The
released loss is the sum over the full width, padding included, divided by the width and by the
completions that have an advantage; here it is the mean over the answers' tokens. B rows, K draws, S
states, L columns, G completion columns, N passes; nats.
"""

import dataclasses

import jax
import jax.numpy as jnp

from gdsd_jax.mistakes import check_least
from gdsd_jax.objectives.checks import check_clip, check_exact, check_fields, check_left_to_right
from gdsd_jax.objectives.clipping import token_loss
from gdsd_jax.objectives.objective import Objective
from gdsd_jax.objectives.trajectory import replayed
from gdsd_jax.sampling import pass_numbers
from gdsd_jax.scoring import counted, ranks
from gdsd_jax.types import Array, Batch, Denoiser, PyTree


@dataclasses.dataclass(frozen=True)
class JustGrpoConfig:
    """How tokens are clipped, and how many of them are scored.

    Attributes:
      epsilon_low: token ratios are kept above 1 - epsilon_low (released: 0.2).
      epsilon_high: token ratios are kept below 1 + epsilon_high (released: 0.2).
      beta: weight of the k3 KL to the reference policy, per token (released: none).
      states: of an answer, drawn anew for each draw: its tokens, or of a block-causal denoiser the
        places within a block. They count for those that are not drawn. 0 = all (released).
    """

    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    beta: float = 0.0
    states: int = 0

    def __post_init__(self):
        check_clip(self)
        check_least(self, states=0)


def rollouts(sampler, temperature: float, threshold: float | None) -> None:
    """ValueError unless answers are written left to right, one token a pass, by the softmax."""
    check_exact("just_grpo", sampler, temperature, threshold)
    check_left_to_right("just_grpo", sampler)


def numbers_of(batch: Batch) -> Array:
    """int32 [B, G], the pass of each answer token, and 0 behind the end."""
    number_BxG = pass_numbers(batch.step_map_BxG, batch.block)
    return jnp.where(counted(batch, "answer"), number_BxG, 0)


def views(config: JustGrpoConfig, batch: Batch, draws: int, rng: Array) -> Array:
    """The tokens that are scored, bool [K, B, L].

    Raises:
      ValueError: a batch without the passes that committed its tokens.
    """
    check_fields("a view of objective 'just_grpo'", batch, "step_map_BxG")
    number_BxG = numbers_of(batch)
    scored_KxBxG = jnp.broadcast_to(number_BxG > 0, (draws, *number_BxG.shape))
    if config.states:
        most = batch.block or number_BxG.shape[1]
        is_pass_BxN = 1 + jnp.arange(most)[None, :] <= jnp.max(number_BxG, axis=1)[:, None]

        def draw(rng):
            order_BxN = jax.random.uniform(rng, is_pass_BxN.shape)
            drawn_BxN = is_pass_BxN & (ranks(order_BxN, is_pass_BxN) < config.states)
            place_BxG = jnp.clip(number_BxG - 1, 0, most - 1)
            return jnp.take_along_axis(drawn_BxN, place_BxG, axis=1)

        scored_KxBxG &= jax.vmap(draw)(jax.random.split(rng, draws))
    return jnp.pad(scored_KxBxG, ((0, 0), (0, 0), (batch.prompt_len, 0)))


def scores(
    denoiser: Denoiser, config: JustGrpoConfig, params: PyTree, batch: Batch
) -> tuple[Array, Array]:
    """(old, reference) log-probabilities of the tokens that are scored, [K, B, G] nats."""
    check_fields("a score of objective 'just_grpo'", batch, "step_map_BxG")

    def score(scored_BxG):
        picked = (scored_BxG, config.states) if config.states else None
        logp_BxG = replayed(denoiser, params, batch, picked=picked)
        return jnp.where(scored_BxG, logp_BxG, 0.0)

    logp_KxBxG = jax.lax.map(score, scored(batch))
    return logp_KxBxG, logp_KxBxG


def scored(batch: Batch) -> Array:
    """bool [K, B, G], the answer tokens that the views ask for."""
    return batch.masks_KxBxL[:, :, batch.prompt_len :] & (numbers_of(batch) > 0)[None]


def weights(config: JustGrpoConfig, batch: Batch) -> Array:
    """float32 [K, B, G], for how many answer tokens each scored one counts."""
    scored_KxBxG = scored(batch).astype(jnp.float32)
    if not config.states:
        return scored_KxBxG
    passes_B = jnp.max(numbers_of(batch), axis=1)
    share_B = jnp.maximum(passes_B, 1) / jnp.clip(passes_B, 1, config.states)
    return scored_KxBxG * share_B[None, :, None]


def loss(
    denoiser: Denoiser, config: JustGrpoConfig, params: PyTree, batch: Batch
) -> tuple[Array, dict[str, Array]]:
    """- mean over answer tokens of min(r A, clip(r) A) - beta k3, r the ratio to the old policy."""
    if batch.mean_count is None:
        batch = batch.replace(mean_count=tokens(config, batch))
    logp_KxBxG, _ = scores(denoiser, config, params, batch)
    return token_loss(logp_KxBxG, batch, config, weights(config, batch))


def tokens(config: JustGrpoConfig, batch: Batch) -> Array:
    """Answer tokens of the rows, float32, at least 1."""
    return jnp.maximum(jnp.sum(numbers_of(batch) > 0), 1).astype(jnp.float32)


OBJECTIVE = Objective(
    JustGrpoConfig,
    loss,
    views,
    scores,
    uncut=True,
    reads=("masks_KxBxL", "step_map_BxG", "advantages_B"),
    count=tokens,
    rollouts=rollouts,
)
