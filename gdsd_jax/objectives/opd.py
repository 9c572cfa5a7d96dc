"""On-policy distillation (OPDLM): a teacher scores the student's own answers.

arXiv 2606.06712. B rows, K states a row, G completion columns, N blocks of C columns, V vocabulary;
nats. The teacher is autoregressive. At every masked position i of a state that the student's
sampler went through, the loss is

  KL( teacher(. | prompt, answer before i) || student(. | prompt, clean blocks before i's, i's block
  in that state) ).

Unlike in the released code, lengths decide what counts and not pad values, blocks are counted from
the end of the prompt in rollout and loss alike, token ids never pass through text, and the teacher
reads the answer once, causally, with a mask of its own.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdsd_jax.mistakes import check_choices, check_share
from gdsd_jax.objectives.checks import check_fields
from gdsd_jax.objectives.objective import Objective
from gdsd_jax.scoring import by_chunks, counted, largest, view_features, vocab_part
from gdsd_jax.types import Array, Batch, Denoiser, PyTree

RULED_OUT = -1e30  # nats
RELEASED_BLOCK = 4  # tokens, where a batch does not say


@dataclasses.dataclass(frozen=True)
class OpdConfig:
    """How a teacher is distilled, and at which states.

    Attributes:
      teacher: an autoregressive denoiser with the student's vocabulary; its parameters are
        `frozen["teacher"]`.
      divergence: of teacher T and student S: "forward" KL(T || S), "reverse" KL(S || T), "mixed",
        (1 - weight) forward + weight reverse, or "jsd", weight KL(T || M) + (1 - weight) KL(S || M)
        with M = weight T + (1 - weight) S; or "nll" of the answer's own tokens, for fine-tuning on
        a teacher's answers.
      weight: of the parts of "mixed" and "jsd", 0..1.
      top_k: sum over the teacher's k likeliest tokens alone, under full softmaxes (released: 16 at
        4B and 8B); None = all.
      states: "stitched", one state of each block, uniform over the passes that committed its
        tokens; "all" of these, one after another in as many views as a block has tokens; or
        "random" masks, whatever the passes were (the paper's off-policy control).
      exclude_stop: take no loss where the answer itself stops; stopping is then learned from
        where it should have.
    """

    teacher: Denoiser | None = dataclasses.field(default=None, metadata={"setting": False})
    divergence: str = "forward"
    weight: float = 0.5
    top_k: int | None = None
    states: str = "stitched"
    exclude_stop: bool = True

    def __post_init__(self):
        check_choices(
            self,
            divergence=("forward", "reverse", "mixed", "jsd", "nll"),
            states=("stitched", "all", "random"),
        )
        check_share(self, "weight")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(
                f"top_k={self.top_k} must be at least 1, or None for the whole vocabulary"
            )


def views(config: OpdConfig, batch: Batch, draws: int, rng: Array) -> Array:
    """Masks of the states, bool [K, B, L]: K = `draws`, or the tokens of a block under "all".

    Raises:
      ValueError: a completion that is no whole number of blocks, or a batch without the passes
        that committed its tokens.
    """
    rows, gen_length = len(batch.completion_len_B), batch.tokens_BxL.shape[1] - batch.prompt_len
    block = block_of(batch)
    if gen_length % block:
        raise ValueError(
            f"a completion of {gen_length} columns is no whole number of blocks of {block}: "
            "change one of them"
        )
    inside_BxNxC = counted(batch, "answer").reshape(rows, -1, block)
    if config.states == "random":
        masks = jax.vmap(lambda key: random_state(inside_BxNxC, key))(jax.random.split(rng, draws))
    else:
        check_fields(f"states={config.states!r}", batch, "step_map_BxG")
        step_BxNxC = batch.step_map_BxG.reshape(rows, -1, block)
        start_BxNxC, passes_BxN = passes_of(step_BxNxC, inside_BxNxC)
        if config.states == "all":
            number_Kx1x1 = jnp.arange(block)[:, None, None]
            number_KxBxN = jnp.broadcast_to(number_Kx1x1, (block, *passes_BxN.shape))
        else:
            share_KxBxN = jax.random.uniform(rng, (draws, *passes_BxN.shape))
            number_KxBxN = jnp.floor(share_KxBxN * passes_BxN[None]).astype(jnp.int32)
        masks = jax.vmap(
            lambda number_BxN: state_before(step_BxNxC, start_BxNxC, passes_BxN, number_BxN)
        )(number_KxBxN)
    masks_KxBxG = masks.reshape(len(masks), rows, gen_length)
    return jnp.pad(masks_KxBxG, ((0, 0), (0, 0), (batch.prompt_len, 0)))


def block_of(batch: Batch) -> int:
    """Tokens of a block of the student."""
    return batch.block or RELEASED_BLOCK


def passes_of(step_BxNxC: Array, inside_BxNxC: Array) -> tuple[Array, Array]:
    """(step of each pass of a block, in order [B, N, C], how many passes there are [B, N]).

    A block's passes are the distinct steps of its answer tokens. Columns beyond the last pass hold
    the largest integer.
    """
    never = jnp.iinfo(jnp.int32).max
    earlier = jnp.tril(jnp.ones((step_BxNxC.shape[-1],) * 2, bool), -1)[None, None]
    same = step_BxNxC[..., None] == step_BxNxC[..., None, :]
    same = same & inside_BxNxC[..., None, :] & earlier
    first_BxNxC = inside_BxNxC & ~jnp.any(same, axis=-1)
    start_BxNxC = jnp.sort(jnp.where(first_BxNxC, step_BxNxC, never), axis=-1)
    return start_BxNxC, jnp.sum(first_BxNxC, axis=-1)


def state_before(
    step_BxNxC: Array, start_BxNxC: Array, passes_BxN: Array, number_BxN: Array
) -> Array:
    """bool [B, N, C], what was masked when pass `number` of each block began.

    Nothing is masked beyond a block's last pass.
    """
    start_BxN = jnp.take_along_axis(start_BxNxC, number_BxN[..., None], axis=-1)
    return (step_BxNxC >= start_BxN) & (number_BxN < passes_BxN)[..., None]


def random_state(inside_BxNxC: Array, rng: Array) -> Array:
    """bool [B, N, C]: for each block a share, for each answer token a coin, at least one masked.

    All behind the end of the answer is masked too.
    """
    rng_share, rng_coin = jax.random.split(rng)
    share_BxN = jax.random.uniform(rng_share, inside_BxNxC.shape[:2])
    coin_BxNxC = jnp.where(inside_BxNxC, jax.random.uniform(rng_coin, inside_BxNxC.shape), 2.0)
    lowest_BxNxC = coin_BxNxC == jnp.min(coin_BxNxC, axis=-1, keepdims=True)
    return (coin_BxNxC < share_BxN[..., None]) | lowest_BxNxC | ~inside_BxNxC


def kl(p_xV: Array, q_xV: Array) -> Array:
    """KL(p || q) of finite log-probabilities over the last axis, nats."""
    return jnp.sum(jnp.exp(p_xV) * (p_xV - q_xV), axis=-1)


def log_probabilities(logits_xV: Array) -> Array:
    """Log-softmax, float32, above a finite floor.

    What a logit of -inf rules out has probability 0 at the floor too, and no term or slope of a
    divergence becomes NaN.
    """
    return jnp.maximum(jax.nn.log_softmax(logits_xV.astype(jnp.float32), axis=-1), RULED_OUT)


def divergence(config: OpdConfig, teacher_xV: Array, student_xV: Array) -> Array:
    """The config's divergence of two logits, float32 [...] nats.

    Under `top_k` it is a part of it, which may be negative.
    """
    t_xV, s_xV = log_probabilities(teacher_xV), log_probabilities(student_xV)
    if config.top_k is not None:
        shards = 1 if config.teacher is None else config.teacher.logit_shards
        t_xV, best_xK = largest(t_xV, config.top_k, shards)
        s_xV = jnp.take_along_axis(s_xV, best_xK, axis=-1)
    weight = config.weight
    if config.divergence == "forward":
        return kl(t_xV, s_xV)
    if config.divergence == "reverse":
        return kl(s_xV, t_xV)
    if config.divergence == "mixed":
        return (1 - weight) * kl(t_xV, s_xV) + weight * kl(s_xV, t_xV)
    if weight in (0.0, 1.0):  # M is one of the two
        return jnp.zeros(t_xV.shape[:-1])
    m_xV = jnp.logaddexp(t_xV + jnp.log(weight), s_xV + jnp.log1p(-weight))
    return weight * kl(t_xV, m_xV) + (1 - weight) * kl(s_xV, m_xV)


class Apart(NamedTuple):
    """Student and teacher at each row's states, float32 [B] each.

    Attributes:
      divergence_B: mean over the row's states of the mean over their masked answer tokens, nats.
      score_B: the same of the answer's log-probability by the student, nats.
      masked_B: masked answer tokens of all its states.
    """

    divergence_B: Array
    score_B: Array
    masked_B: Array


def loss(
    denoiser: Denoiser, config: OpdConfig, params: PyTree, batch: Batch, teacher_params: PyTree
) -> tuple[Array, dict[str, Array]]:
    """Mean over rows of their divergence.

    Raises:
      ValueError: as `apart`.
    """
    found = apart(denoiser, config, params, batch, teacher_params)
    loss = jnp.mean(found.divergence_B)
    metrics = {
        "score": jnp.mean(found.score_B),
        # the divergence; under "nll" from the answer's own tokens, each a distribution of one
        "kl": loss,
        "trust": jnp.float32(0.0),  # nothing is clipped
        "masked": jnp.mean(found.masked_B),
    }
    return loss, metrics


def apart(
    denoiser: Denoiser, config: OpdConfig, params: PyTree, batch: Batch, teacher_params: PyTree
) -> Apart:
    """How far student and teacher are apart, row by row.

    Raises:
      ValueError: a teacher with another vocabulary, or a batch with neither masks nor states.
    """
    vocab_size = denoiser.config.vocab_size
    if config.teacher.config.vocab_size != vocab_size:
        raise ValueError(
            f"distillation needs a teacher with the student's vocabulary of {vocab_size} tokens, "
            f"this one has {config.teacher.config.vocab_size}"
        )
    batch, masks_KxBxL = batch.replace(block=block_of(batch)), states(denoiser, batch)
    answer_BxG = batch.tokens_BxL[:, batch.prompt_len :]
    counted_BxG = counted(batch, "answer")
    if config.exclude_stop:
        counted_BxG &= ~jnp.isin(answer_BxG, jnp.array(denoiser.config.stop_ids, jnp.int32))
    taught: tuple[Array, ...] = ()
    logits = vocab_part(denoiser)
    if config.divergence != "nll":  # which asks the teacher nothing
        target_BxGxD = teacher_features(config.teacher, teacher_params, batch)
        taught = (jax.lax.stop_gradient(target_BxGxD),)
        logits += vocab_part(config.teacher)
    score = make_score(denoiser, config, params, teacher_params)

    def one_state(mask_BxL):
        (h_BxGxD,) = view_features(denoiser, params, batch, mask_BxL[None])
        mask_BxG = mask_BxL[:, batch.prompt_len :] & counted_BxG
        arrays = masked_first(mask_BxG, mask_BxG, answer_BxG, h_BxGxD, *taught)
        scores = by_chunks(score, logits, *arrays)
        count_B = jnp.sum(mask_BxG, axis=1)
        means = [jnp.sum(x_BxG, axis=1) / jnp.maximum(count_B, 1) for x_BxG in scores]
        return *means, jnp.any(mask_BxL, axis=1), count_B

    divergence_KxB, score_KxB, some_KxB, count_KxB = jax.lax.map(one_state, masks_KxBxL)

    def over_states(x_KxB):
        return jnp.sum(x_KxB, axis=0) / jnp.maximum(jnp.sum(some_KxB, axis=0), 1)

    masked_B = jnp.sum(count_KxB, axis=0).astype(jnp.float32)
    return Apart(over_states(divergence_KxB), over_states(score_KxB), masked_B)


def states(denoiser: Denoiser, batch: Batch) -> Array:
    """The batch's masks, or one state a row given as tokens; bool [K, B, L]."""
    if batch.masks_KxBxL is None and batch.noised_BxL is not None:
        return (batch.noised_BxL == denoiser.config.mask_id)[None]
    check_fields("a loss without batch.noised_BxL", batch, "masks_KxBxL")
    return batch.masks_KxBxL


def masked_first(mask_BxG: Array, *arrays: Array) -> list[Array]:
    """The arrays [B, G, ...] with each row's masked columns first, in their order.

    Chunks of the vocabulary projection behind them are then skipped.
    """
    order_BxG = jnp.argsort(~mask_BxG, axis=1, stable=True)

    def sort(x):
        order = order_BxG.reshape(*order_BxG.shape, *[1] * (x.ndim - 2))
        return jnp.take_along_axis(x, order, axis=1)

    return [sort(x) for x in arrays]


def teacher_features(teacher: Denoiser, params: PyTree, batch: Batch) -> Array:
    """States [B, G, D] that score each answer token from what precedes it.

    One causal forward; `features` shifts.
    """
    h_BxLxD = teacher.features(params, batch.tokens_BxL, valid_BxL=batch.valid_BxL)
    return h_BxLxD[:, batch.prompt_len :]


def make_score(denoiser: Denoiser, config: OpdConfig, params: PyTree, teacher_params: PyTree):
    """`score(mask_BxC, tokens_BxC, student_BxCxD, teacher_BxCxD)`, the loss of some columns; under
    "nll" without the teacher's.

    It gives (divergence, log-probability), [B, C] nats both, 0 where unmasked.
    """

    def score(mask_BxC, tokens_BxC, h_BxCxD, target_BxCxD=None):
        def masked():
            logits_BxCxV = denoiser.unembed(params, h_BxCxD)
            own_BxC = jnp.take_along_axis(logits_BxCxV, tokens_BxC[..., None], axis=-1)[..., 0]
            logp_BxC = own_BxC - jax.nn.logsumexp(logits_BxCxV, axis=-1)
            if config.divergence == "nll":
                loss_BxC = -logp_BxC
            else:
                teacher_BxCxV = config.teacher.unembed(teacher_params, target_BxCxD)
                teacher_BxCxV = jax.lax.stop_gradient(teacher_BxCxV)
                loss_BxC = divergence(config, teacher_BxCxV, logits_BxCxV)
            logp_BxC = jax.lax.stop_gradient(logp_BxC)
            return jnp.where(mask_BxC, loss_BxC, 0.0), jnp.where(mask_BxC, logp_BxC, 0.0)

        nothing = jnp.zeros(mask_BxC.shape, jnp.float32)
        return jax.lax.cond(jnp.any(mask_BxC), masked, lambda: (nothing, nothing))

    return score


OBJECTIVE = Objective(OpdConfig, loss, views, rewards=False, teacher=True, uncut=True, reads=())
