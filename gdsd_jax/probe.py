"""The probe: what a round's updates did to a few of its completions, by one yardstick for all
objectives.

Of at most `probe_rows` rows the ELBO under fixed masks and the likelihood of the rollout's own
commits are taken before the updates and after the last one. Both are of the same tokens, those that
the sampler committed, with everything behind them masked. A round costs 2 x 4 mask pairs and one
replay of these rows; two replays where a cache or int8 approximates the rollout. A replay is a
forward a pass, which for large weights is bound by their way to the chips: with `probe_tokens` the
likelihood is estimated from a few tokens of each row, the same before and after. R rows, P prompt
columns, G completion columns; nats.
"""

from collections.abc import Callable
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsd_jax import objectives, sharding
from gdsd_jax.sampling import SamplerConfig, existing, replay, spread
from gdsd_jax.scoring import draw_masks, pair_scores
from gdsd_jax.settings import Settings
from gdsd_jax.types import Array, Batch, Denoiser, Prompts, PyTree, Rollout, Uncut

PAIRS = 4  # of complementary masks


class Probed(NamedTuple):
    """The rows that are looked at, and what was found before the round's updates."""

    tokens_RxP: Array  # int32
    valid_RxP: Array  # bool
    tokens_RxG: Array  # int32, of the uncut completion
    step_map_RxG: Array  # int32, of the uncut completion
    elbo_R: Array  # float32 nats
    trajectory_R: Array  # float32 nats


class Probe(NamedTuple):
    """The two halves of the measurement, jitted."""

    # (trainable, frozen, prompts, rollout, rng) -> Probed
    before: Callable
    # (trainable, frozen, slices, probed, rng) -> {name: float32}, the numbers of a probe line
    after: Callable


def make_probe(denoiser: Denoiser, settings: Settings, mesh: jax.sharding.Mesh) -> Probe | None:
    """The probe of a run; None: there is none.

    Nothing is looked at where no rewards ask for moves, and nothing under the released samplers'
    quirks, whose completions have gaps.
    """
    row_R, group_R = rows_of(settings)
    rows, sampler, objective = len(row_R), settings.sampler, objectives.find(settings.objective)
    if not rows or not objective.rewards or sampler.reference_quirks:
        return None
    place, shards = sharding.replicated(mesh), sharding.row_shards(mesh)
    tokens = settings.probe_tokens if settings.probe_tokens < sampler.gen_length else 0

    def likelihoods_of(params, probed: Probed) -> Array:
        wide = widened((probed, looked_at(probed, tokens)), rows, shards)
        return likelihoods(denoiser, sampler, params, *wide, tokens)[:rows]

    def bounds_of(params, probed: Probed, rng: Array) -> Array:
        return bounds(denoiser, sampler, params, widened(probed, rows, shards), rng)[:rows]

    def before(trainable, frozen, prompts: Prompts, rollout: Rollout, rng: Array) -> Probed:
        params = denoiser.bind(trainable, frozen)
        prompts, uncut = jax.tree.map(lambda x: x[row_R], (prompts, rollout.uncut))
        asked, zeros_R = (prompts.tokens_BxP, prompts.valid_BxP), jnp.zeros(rows)
        found = Probed(*asked, uncut.tokens_BxG, uncut.step_map_BxG, zeros_R, zeros_R)
        if settings.approximate:  # what was recorded is not the law of exact rollouts
            trajectory_R = likelihoods_of(params, found)
        else:
            trajectory_R = totals(found, uncut.logp_BxG, looked_at(found, tokens))
        elbo_R = bounds_of(params, found, rng)
        found = found._replace(elbo_R=elbo_R, trajectory_R=trajectory_R)
        return jax.lax.with_sharding_constraint(found, place)

    def after(trainable, frozen, slices: Batch, probed: Probed, rng: Array) -> dict[str, Array]:
        params = denoiser.bind(trainable, frozen)
        elbo_R, trajectory_R = bounds_of(params, probed, rng), likelihoods_of(params, probed)
        asked_R = objective.asked(
            settings.objective_config,
            slices.advantages_B.reshape(-1)[row_R],
            committed_length(probed),
        )
        found = numbers(probed, elbo_R, trajectory_R, asked_R, group_R)
        return jax.lax.with_sharding_constraint(found, place)

    return Probe(jax.jit(before), jax.jit(after))


def widened(tree: PyTree, rows: int, shards: int) -> PyTree:
    """The rows of all arrays and then some of them again, so many that `shards` devices divide
    them: else each device computes all of them."""
    row_W = np.resize(np.arange(rows), math.ceil(rows / shards) * shards)
    return jax.tree.map(lambda x: x[row_W], tree)


def looked_at(probed: Probed, tokens: int) -> Array:
    """bool [R, G], `tokens` of each row's commits, evenly spread; 0 = all."""
    committed_RxG = probed.step_map_RxG > 0
    if not tokens:
        return committed_RxG
    return committed_RxG & spread(committed_length(probed), tokens, committed_RxG.shape[1])


def totals(probed: Probed, logp_RxG: Array, looked_RxG: Array) -> Array:
    """float32 [R], nats of the rows' own commits, from the tokens that are looked at."""
    count_R = jnp.maximum(jnp.sum(looked_RxG, axis=1), 1)
    total_R = jnp.sum(jnp.where(looked_RxG, logp_RxG, 0.0), axis=1)
    return total_R / count_R * committed_length(probed)


def likelihoods(
    denoiser: Denoiser,
    sampler: SamplerConfig,
    params: PyTree,
    probed: Probed,
    looked_RxG: Array,
    tokens: int,
) -> Array:
    """float32 [R], nats of the rows' own commits, by a replay of `tokens` of each; 0 = all."""
    picked = (looked_RxG, tokens) if tokens else None
    logp_RxG = replay(
        denoiser,
        params,
        probed.tokens_RxP,
        probed.valid_RxP,
        uncut_of(probed),
        block=sampler.causal_block,
        passes=sampler.most_passes,
        picked=picked,
    )
    return totals(probed, logp_RxG, looked_RxG)


def bounds(
    denoiser: Denoiser, sampler: SamplerConfig, params: PyTree, probed: Probed, rng: Array
) -> Array:
    """float32 [R], the ELBO of what was committed, nats; the same masks for the same `rng`."""
    batch = committed_batch(denoiser.config, probed, sampler.causal_block, rng)
    score = pair_scores(denoiser, params, batch, weighting="elbo", count="answer")
    return jnp.mean(score.plain_KxB, axis=0)


def rows_of(settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """(the rows that are looked at, the number of each one's group), int [R].

    Whole groups, evenly spread over the round; where none fits, the first rows of the first.
    """
    size = settings.group_size
    groups = min(settings.probe_rows // size, settings.prompts_per_round)
    if not groups:
        rows = min(settings.probe_rows, size)
        return np.arange(rows), np.zeros(rows, int)
    first_N = np.arange(groups) * settings.prompts_per_round // groups * size
    row_NxG = first_N[:, None] + np.arange(size)[None, :]
    return row_NxG.reshape(-1), np.repeat(np.arange(groups), size)


def uncut_of(probed: Probed) -> Uncut:
    """The rows' completions, without what was recorded of each token."""
    return Uncut(probed.tokens_RxG, probed.step_map_RxG, None)


def committed_length(probed: Probed) -> Array:
    """int32 [R], how many tokens the sampler committed."""
    return jnp.sum(probed.step_map_RxG > 0, axis=1)


def committed_batch(model, probed: Probed, block: int | None, rng: Array) -> Batch:
    """A batch whose completions are what the sampler committed, under fresh masks.

    Behind that the uncut completion holds the mask already, or columns that do not exist.
    """
    exists_RxG = existing(model, uncut_of(probed))
    length_R = committed_length(probed)
    prompt_len, columns = probed.tokens_RxP.shape[1], probed.tokens_RxG.shape[1]
    return Batch(
        tokens_BxL=jnp.concatenate([probed.tokens_RxP, probed.tokens_RxG], axis=1),
        valid_BxL=jnp.concatenate([probed.valid_RxP, exists_RxG], axis=1),
        completion_len_B=length_R,
        masks_KxBxL=draw_masks(rng, PAIRS, prompt_len, prompt_len + columns, length_R),
        prompt_len=prompt_len,
        block=block,
    )


def numbers(
    probed: Probed, elbo_R: Array, trajectory_R: Array, asked_R: Array, group_R: np.ndarray
) -> dict[str, Array]:
    """The numbers of a probe line; `meanings.MEANINGS` says what each is.

    Args:
      probed: before the updates.
      elbo_R: after them, nats.
      trajectory_R: after them, nats.
      asked_R: nats that the objective asks for.
      group_R: rows of one prompt share a number.
    """
    length_R = jnp.maximum(committed_length(probed), 1).astype(jnp.float32)
    move_R = (elbo_R - probed.elbo_R) / length_R
    true_move_R = (trajectory_R - probed.trajectory_R) / length_R
    target_R = asked_R / length_R
    weight_R = jax.nn.softmax(elbo_R - probed.elbo_R)
    asked, size = jnp.sum(jnp.square(target_R)), jnp.sum(jnp.abs(target_R))
    left = jnp.sum(jnp.abs(move_R - target_R))
    bound_R, truth_R = probed.elbo_R / length_R, probed.trajectory_R / length_R
    one_R, other_R = within(bound_R, group_R), within(truth_R, group_R)
    spreads = {
        "mismatch_elbo_var": jnp.mean(jnp.square(one_R)),
        "mismatch_trajectory_var": jnp.mean(jnp.square(other_R)),
        "mismatch_cov": jnp.mean(one_R * other_R),
    }
    scale = jnp.sqrt(spreads["mismatch_elbo_var"] * spreads["mismatch_trajectory_var"])
    return {
        "move": jnp.mean(jnp.abs(move_R)),
        "target": jnp.mean(jnp.abs(target_R)),
        # NaN, not told, if nothing is asked for
        "move_share": jnp.sum(move_R * target_R) / asked,
        "residual_share": jnp.where(size > 0, left / size, jnp.nan),
        "ess": 1.0 / (len(weight_R) * jnp.sum(jnp.square(weight_R))),
        "mismatch_gap": jnp.mean(bound_R - truth_R),
        "mismatch_corr": spreads["mismatch_cov"] / scale,
        "mismatch_signs": jnp.mean(jnp.sign(move_R) == jnp.sign(true_move_R), where=move_R != 0),
        **spreads,
    }


def within(x_R: Array, group_R: np.ndarray) -> Array:
    """The values less the means of their groups."""
    same_RxR = (group_R[:, None] == group_R[None, :]).astype(np.float32)
    return x_R - (same_RxR / same_RxR.sum(axis=1)) @ x_R
