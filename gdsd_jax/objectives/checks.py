"""Refusals of impossible settings and of incomplete batches, by name."""

from collections.abc import Iterable

from gdsd_jax.types import Batch


def check_choices(config, **choices: tuple) -> None:
    """ValueError naming the first field whose value is not among those allowed."""
    for key, allowed in choices.items():
        if getattr(config, key) not in allowed:
            raise ValueError(f"{key}={getattr(config, key)!r}: choose one of {allowed}")


def check_clip(config) -> None:
    """ValueError unless 0 <= epsilon_low <= 1, 0 <= epsilon_high and 0 <= beta."""
    if not 0 <= config.epsilon_low <= 1 or config.epsilon_high < 0:
        raise ValueError(
            f"epsilon_low={config.epsilon_low}, epsilon_high={config.epsilon_high}: "
            "ratios are kept within 1 - epsilon_low .. 1 + epsilon_high, "
            "give 0 <= epsilon_low <= 1 and epsilon_high >= 0"
        )
    if config.beta < 0:
        raise ValueError(f"beta={config.beta} must not be negative")


def check_probability(config, key: str) -> None:
    """ValueError unless the field is a probability."""
    if not 0 <= getattr(config, key) <= 1:
        raise ValueError(f"{key}={getattr(config, key)} is no probability")


BATCH_FIELDS = {
    "tokens_BxL": "int32 [B, L], the prompt and then the completion",
    "valid_BxL": "bool [B, L], False on padding; all True where nothing is padded",
    "completion_len_B": "int32 [B], each completion's tokens through its first stop id",
    "masks_KxBxL": "bool [K, B, L], True where the denoiser sees the mask token, as the "
    "objective's make_views_fn draws them",
    "advantages_B": "float32 [B], each completion's advantage",
    "rewards_B": "float32 [B], each completion's reward",
}


def check_batch(name: str, batch: Batch, fields: Iterable[str]) -> None:
    """ValueError naming the first of the fields that the batch lacks, and what to give."""
    for field in fields:
        if getattr(batch, field) is None:
            raise ValueError(
                f"objective {name!r} needs batch.{field}, which is None: give {BATCH_FIELDS[field]}"
            )
