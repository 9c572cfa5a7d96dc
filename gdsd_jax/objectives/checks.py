"""Refusals, by name: of impossible settings, and of batches that lack what an objective reads."""

from gdsd_jax.types import Batch

# field of a batch -> (its dtype and shape, what it holds). B rows, L columns, G of the completion,
# K mask draws.
FIELDS = {
    "tokens_BxL": ("int32 [B, L]", "prompts, left-padded, and then completions"),
    "valid_BxL": ("bool [B, L]", "False on the padding before a prompt, which nobody attends to"),
    "completion_len_B": ("int32 [B]", "tokens of each completion through its stop id"),
    "masks_KxBxL": ("bool [K, B, L]", "True where a token is masked, as make_views_fn draws them"),
    "advantages_B": ("float32 [B]", "such as advantages.leave_one_out(rewards_B, group_size)"),
    "rewards_B": ("float32 [B]", "the reward of each completion"),
    "solved_B": ("bool [B]", "whether the completion solves its problem"),
    "group_B": ("int32 [B]", "the same number for completions of the same prompt"),
    "old_KxB": ("float32 [K, B] or [K, B, G]", "scores before the update, of make_score_fn"),
    "ref_KxB": ("float32 [K, B] or [K, B, G]", "the reference policy's scores, of make_score_fn"),
    "noised_BxL": ("int32 [B, L]", "tokens_BxL with the mask id where a token is masked"),
    "step_map_BxG": ("int32 [B, G]", "the pass of each token, Rollout.uncut.step_map_BxG"),
    "logp_BxG": ("float32 [B, G]", "the sampler's log-probabilities, Rollout.logp_BxG"),
}


def check_fields(reader: str, batch: Batch, *fields: str) -> None:
    """ValueError naming the first field that is None, its shape and what to give."""
    for field in fields:
        if getattr(batch, field) is None:
            shape, content = FIELDS[field]
            raise ValueError(
                f"{reader} reads batch.{field}, which is None: give {shape}, {content}"
            )


def check_clip(config) -> None:
    """ValueError unless 0 <= epsilon_low <= 1, 0 <= epsilon_high and 0 <= beta."""
    if not 0 <= config.epsilon_low <= 1 or config.epsilon_high < 0:
        raise ValueError(
            f"epsilon_low={config.epsilon_low}, epsilon_high={config.epsilon_high}: ratios are "
            "kept within 1 - epsilon_low .. 1 + epsilon_high, give 0 <= epsilon_low <= 1 and "
            "epsilon_high >= 0"
        )
    if config.beta < 0:
        raise ValueError(f"beta={config.beta} must not be negative")


def check_exact(name: str, sampler, temperature: float, threshold: float | None) -> None:
    """ValueError naming the first setting by which tokens come from another law than the model's
    softmax at their state, so that recorded log-probabilities are not those of the rollout."""
    cache = sampler.cache if sampler.approximate else None
    given = (
        ("temperature", temperature, 1.0),
        ("threshold", threshold, None),
        ("sampler.top_p", sampler.top_p, 1.0),
        ("sampler.cfg_scale", sampler.cfg_scale, 0.0),
        ("sampler.reference_quirks", sampler.reference_quirks, False),
        ("sampler.cache", cache, None),
    )
    for key, value, wanted in given:
        if value != wanted:
            mend = "none" if wanted is None else str(wanted).lower()
            raise ValueError(
                f"{key}={value}: objective {name!r} takes each token for a draw from the model's "
                f"softmax at its state: set {key}={mend}"
            )


def check_left_to_right(name: str, sampler) -> None:
    """ValueError unless completions are written from left to right, one token a pass."""
    in_order = sampler.block_length == 1 or sampler.order == "left_to_right"
    if in_order and sampler.steps_per_block >= sampler.block_length:
        return
    mend = "sampler.block_length=1"
    if sampler.kind == "block":
        mend = "sampler.remasking=left_to_right"
    raise ValueError(
        f"objective {name!r} takes answers that are written left to right, one token a pass: set "
        f"{mend} and sampler.steps={sampler.gen_length}"
    )
