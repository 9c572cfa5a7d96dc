"""On-policy distillation (OPDLM): the answers are the student's own, an autoregressive teacher
scores them.

arXiv 2606.06712; specs/opdlm.md sections 3 to 5. B rows, K states a row, G completion columns, N
blocks of C columns, V vocabulary; nats. At every masked position i of a state that the student's
sampler went through,

  KL( teacher(. | prompt, answer before i) || student(. | prompt, clean blocks before i's, i's block
  in that state) ).

Against the released code (section 11): lengths decide what counts, not pad values (2, 8); blocks
are counted from the end of the prompt in rollout and loss alike (3); token ids never pass through
text (4, 5); the teacher reads the answer once, causally, with a mask of its own (1).
"""

import dataclasses

import jax
import jax.numpy as jnp

from gdsd_jax.objectives.checks import check_choices, check_probability
from gdsd_jax.scoring import by_chunks, counted, largest, view_features
from gdsd_jax.types import Array, Batch, Denoiser, PyTree

RULED_OUT = -1e30  # nats
RELEASED_BLOCK = 4  # tokens, where a batch does not say


@dataclasses.dataclass(frozen=True)
class OpdConfig:
    """Attributes:
    teacher: an autoregressive denoiser with the student's vocabulary; its weights are
      `frozen["teacher"]`.
    divergence: of teacher T and student S: "forward" KL(T || S), "reverse" KL(S || T), "mixed",
      (1 - weight) forward + weight reverse, or "jsd", weight KL(T || M) + (1 - weight) KL(S || M)
      with M = weight T + (1 - weight) S; or "nll" of the answer's own tokens, for fine-tuning on
      a teacher's answers (section 9's SFT).
    weight: of "mixed" and "jsd", 0..1.
    top_k: sum over the teacher's k likeliest tokens alone, under full softmaxes (released: 16 at
      4B and 8B; None = all).
    states: "stitched", one state of each block, uniform over its rounds; "all" rounds, one after
      another in as many views as a block has tokens; "random" masks, whatever the rounds were
      (the paper's off-policy control).
    fill: what the teacher reads where a state is masked: the "clean" answer, in one pass for all
      states, or what the student would write there, "argmax", in blocks behind the clean answer
      (section 4; not used for the results).
    exclude_stop: no loss where the answer itself stops; stopping is then learned from where it
      should have.
    """

    teacher: Denoiser | None = None
    divergence: str = "forward"
    weight: float = 0.5
    top_k: int | None = None
    states: str = "stitched"
    fill: str = "clean"
    exclude_stop: bool = True

    def __post_init__(self):
        check_choices(
            self,
            divergence=("forward", "reverse", "mixed", "jsd", "nll"),
            states=("stitched", "all", "random"),
            fill=("clean", "argmax"),
        )
        check_probability(self, "weight")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(
                f"top_k={self.top_k} must be at least 1, or None for the whole vocabulary"
            )


def views(config: OpdConfig, batch: Batch, draws: int, rng: Array) -> Array:
    """Masks of the states, bool [K, B, L]: K = `draws`, or the tokens of a block under "all".

    Raises:
      ValueError: a completion that is no whole number of blocks.
    """
    rows, gen_length, block = (
        len(batch.completion_len_B),
        batch.tokens_BxL.shape[1] - batch.prompt_len,
        block_of(batch),
    )
    if gen_length % block:
        raise ValueError(
            f"a completion of {gen_length} columns is no whole number of "
            f"blocks of {block}: change one of them"
        )
    inside_BxNxC = counted(batch, "answer").reshape(rows, -1, block)
    if config.states == "random":
        masks = jax.vmap(lambda key: random_state(inside_BxNxC, key))(jax.random.split(rng, draws))
    else:
        step_BxNxC = batch.step_map_BxG.reshape(rows, -1, block)
        start_BxNxC, rounds_BxN = rounds_of(step_BxNxC, inside_BxNxC)
        if config.states == "all":
            number_KxBxN = jnp.broadcast_to(
                jnp.arange(block)[:, None, None], (block, *rounds_BxN.shape)
            )
        else:
            number_KxBxN = jnp.floor(
                jax.random.uniform(rng, (draws, *rounds_BxN.shape)) * rounds_BxN[None]
            ).astype(jnp.int32)
        masks = jax.vmap(
            lambda number_BxN: state_before(step_BxNxC, start_BxNxC, rounds_BxN, number_BxN)
        )(number_KxBxN)
    return jnp.pad(
        masks.reshape(len(masks), rows, gen_length), ((0, 0), (0, 0), (batch.prompt_len, 0))
    )


def block_of(batch: Batch) -> int:
    return batch.block or RELEASED_BLOCK


def rounds_of(step_BxNxC: Array, inside_BxNxC: Array) -> tuple[Array, Array]:
    """(step of each round of a block, in order [B, N, C], how many there are [B, N]): the distinct
    steps of its answer tokens. Columns beyond the last round hold the largest integer."""
    never = jnp.iinfo(jnp.int32).max
    earlier = jnp.tril(jnp.ones((step_BxNxC.shape[-1],) * 2, bool), -1)[None, None]
    same = (
        (step_BxNxC[..., None] == step_BxNxC[..., None, :]) & inside_BxNxC[..., None, :] & earlier
    )
    first_BxNxC = inside_BxNxC & ~jnp.any(same, axis=-1)
    return jnp.sort(jnp.where(first_BxNxC, step_BxNxC, never), axis=-1), jnp.sum(
        first_BxNxC, axis=-1
    )


def state_before(
    step_BxNxC: Array, start_BxNxC: Array, rounds_BxN: Array, number_BxN: Array
) -> Array:
    """bool [B, N, C], what was masked when round `number` of each block began; nothing beyond its
    last round."""
    start_BxN = jnp.take_along_axis(start_BxNxC, number_BxN[..., None], axis=-1)
    return (step_BxNxC >= start_BxN) & (number_BxN < rounds_BxN)[..., None]


def random_state(inside_BxNxC: Array, rng: Array) -> Array:
    """bool [B, N, C]: for each block a share, for each answer token a coin, at least one masked;
    and all behind the end."""
    rng_share, rng_coin = jax.random.split(rng)
    share_BxN = jax.random.uniform(rng_share, inside_BxNxC.shape[:2])
    coin_BxNxC = jnp.where(inside_BxNxC, jax.random.uniform(rng_coin, inside_BxNxC.shape), 2.0)
    lowest_BxNxC = coin_BxNxC == jnp.min(coin_BxNxC, axis=-1, keepdims=True)
    return (coin_BxNxC < share_BxN[..., None]) | lowest_BxNxC | ~inside_BxNxC


def kl(p_xV: Array, q_xV: Array) -> Array:
    """KL(p || q) of finite log-probabilities over the last axis."""
    return jnp.sum(jnp.exp(p_xV) * (p_xV - q_xV), axis=-1)


def divergence(config: OpdConfig, teacher_xV: Array, student_xV: Array) -> Array:
    """The config's divergence of two logits, float32 [...]; under `top_k` a part of it, which may
    be negative."""
    # what a logit of -inf rules out gets a finite floor, whose probability is 0 too: no term or
    # slope becomes NaN
    t_xV, s_xV = (
        jnp.maximum(jax.nn.log_softmax(x.astype(jnp.float32), axis=-1), RULED_OUT)
        for x in (teacher_xV, student_xV)
    )
    if config.top_k is not None:
        t_xV, best_xK = largest(
            t_xV, config.top_k, config.teacher.logit_shards if config.teacher else 1
        )
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


def loss(
    denoiser: Denoiser, config: OpdConfig, params: PyTree, batch: Batch, teacher_params: PyTree
) -> tuple[Array, dict[str, Array]]:
    """Mean over rows of the mean over their states of the mean divergence at masked answer tokens
    (section 5)."""
    check_teacher(denoiser, config)
    batch, masks_KxBxL = batch.replace(block=block_of(batch)), states(denoiser, batch)
    answer_BxG = batch.tokens_BxL[:, batch.prompt_len :]
    counted_BxG = scored(denoiser, config, batch)
    read_clean_BxGxD = teacher_features(config.teacher, teacher_params, batch)

    def one_state(mask_BxL):
        (h_BxGxD,) = view_features(denoiser, params, batch, mask_BxL[None])
        target_BxGxD = read_clean_BxGxD
        if config.fill == "argmax":
            written_BxG = guesses(denoiser, params, jax.lax.stop_gradient(h_BxGxD))
            target_BxGxD = filled_features(
                config.teacher, teacher_params, batch, mask_BxL, written_BxG
            )
        mask_BxG = mask_BxL[:, batch.prompt_len :] & counted_BxG
        # masked positions first: chunks of the vocabulary projection behind them are skipped
        order_BxG = jnp.argsort(~mask_BxG, axis=1, stable=True)

        def sort(x):
            return jnp.take_along_axis(x, order_BxG[(...,) + (None,) * (x.ndim - 2)], axis=1)

        score = make_score(denoiser, config, params, teacher_params)
        arrays = map(sort, (mask_BxG, answer_BxG, h_BxGxD, jax.lax.stop_gradient(target_BxGxD)))
        found = by_chunks(score, 2 * device_vocab(denoiser), *arrays)  # two models' logits
        count_B = jnp.sum(mask_BxG, axis=1)
        means = [jnp.sum(x_BxG, axis=1) / jnp.maximum(count_B, 1) for x_BxG in found]
        return *means, jnp.any(mask_BxL, axis=1), count_B

    divergence_KxB, score_KxB, some_KxB, count_KxB = jax.lax.map(one_state, masks_KxBxL)

    def over_states(x_KxB):
        return jnp.mean(jnp.sum(x_KxB, axis=0) / jnp.maximum(jnp.sum(some_KxB, axis=0), 1))

    loss = over_states(divergence_KxB)
    metrics = {
        "score": over_states(score_KxB),
        # the divergence; under "nll" from the answer's own tokens, each a distribution of one
        "kl": loss,
        "trust": jnp.float32(0.0),  # nothing is clipped
        # tokens a row that are scored
        "masked": jnp.mean(jnp.sum(count_KxB, axis=0).astype(jnp.float32)),
    }
    return loss, metrics


def check_teacher(denoiser: Denoiser, config: OpdConfig) -> None:
    """ValueError without a teacher that has the student's vocabulary."""
    vocab_size = denoiser.config.vocab_size
    if config.teacher is None or config.teacher.config.vocab_size != vocab_size:
        raise ValueError(
            f"distillation needs a teacher with the student's vocabulary of {vocab_size} tokens"
        )


def scored(denoiser: Denoiser, config: OpdConfig, batch: Batch) -> Array:
    """bool [B, G], the answer's positions that count where they are masked."""
    counted_BxG = counted(batch, "answer")
    if config.exclude_stop:
        answer_BxG = batch.tokens_BxL[:, batch.prompt_len :]
        counted_BxG &= ~jnp.isin(answer_BxG, jnp.array(denoiser.config.stop_ids, jnp.int32))
    return counted_BxG


def device_vocab(denoiser: Denoiser) -> int:
    """A device's part of the vocabulary, tokens."""
    return denoiser.config.vocab_size // denoiser.logit_shards


def states(denoiser: Denoiser, batch: Batch) -> Array:
    """The batch's masks, or one state a row given as tokens; bool [K, B, L]."""
    if batch.masks_KxBxL is None:
        return (batch.noised_BxL == denoiser.config.mask_id)[None]
    return batch.masks_KxBxL


def teacher_features(teacher: Denoiser, params: PyTree, batch: Batch) -> Array:
    """States [B, G, D] that score each answer token from what precedes it: one causal forward,
    shifted in `features`."""
    return teacher.features(params, batch.tokens_BxL, valid_BxL=batch.valid_BxL)[
        :, batch.prompt_len :
    ]


def guesses(denoiser: Denoiser, params: PyTree, h_BxGxD: Array) -> Array:
    """int32 [B, G], the student's likeliest token everywhere."""

    def likeliest(h_BxCxD):
        return jnp.argmax(denoiser.unembed(params, h_BxCxD), axis=-1).astype(jnp.int32)

    return by_chunks(likeliest, device_vocab(denoiser), h_BxGxD)


def filled_features(
    teacher: Denoiser, params: PyTree, batch: Batch, mask_BxL: Array, written_BxG: Array
) -> Array:
    """As `teacher_features`, each block of the answer read with `written_BxG` where it is
    masked."""
    prompt_len, tokens_BxL = batch.prompt_len, batch.tokens_BxL
    filled_BxG = jnp.where(mask_BxL[:, prompt_len:], written_BxG, tokens_BxL[:, prompt_len:])
    row_BxR = jnp.concatenate([tokens_BxL, filled_BxG], axis=1)
    valid_BxR = jnp.concatenate([batch.valid_BxL, batch.valid_BxL[:, prompt_len:]], axis=1)
    spec = teacher.doubled(prompt_len, batch.block, causal=True)
    return teacher.features(params, row_BxR, valid_BxL=valid_BxR, attention=spec)[
        :, -filled_BxG.shape[1] :
    ]


def make_score(denoiser: Denoiser, config: OpdConfig, params: PyTree, teacher_params: PyTree):
    """`(mask_BxC, tokens_BxC, student_BxCxD, teacher_BxCxD) -> (divergence, log-probability)`, [B,
    C], 0 where unmasked."""

    def score(mask_BxC, tokens_BxC, h_BxCxD, target_BxCxD):
        def masked():
            logits_BxCxV = denoiser.unembed(params, h_BxCxD)
            own_BxC = jnp.take_along_axis(logits_BxCxV, tokens_BxC[..., None], axis=-1)[..., 0]
            logp_BxC = own_BxC - jax.nn.logsumexp(logits_BxCxV, axis=-1)
            if config.divergence == "nll":
                found_BxC = -logp_BxC
            else:
                target_BxCxV = jax.lax.stop_gradient(
                    config.teacher.unembed(teacher_params, target_BxCxD)
                )
                found_BxC = divergence(config, target_BxCxV, logits_BxCxV)
            return jnp.where(mask_BxC, found_BxC, 0.0), jnp.where(
                mask_BxC, jax.lax.stop_gradient(logp_BxC), 0.0
            )

        nothing = jnp.zeros(mask_BxC.shape, jnp.float32)
        return jax.lax.cond(jnp.any(mask_BxC), masked, lambda: (nothing, nothing))

    return score
