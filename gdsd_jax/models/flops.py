"""Floating-point operations that a denoiser needs, counted from its shape, for every MFU.

A multiply and an add are two operations. Norms, rotations, softmax and sampling are left out, as is
usual. What rematerialisation computes again counts once.
"""

from gdsd_jax.models.config import ModelConfig
from gdsd_jax.models.lora import projection_shapes


def features_flops(config: ModelConfig, rows: int, columns: int, keys: int | None = None) -> int:
    """`Denoiser.features` of `rows` sequences of `columns` tokens.

    With `keys`: `Denoiser.extend` of so many columns that attend to `keys` columns each.
    """
    if keys is None:
        keys = columns
    projections = sum(
        width_in * width_out for width_in, width_out in projection_shapes(config).values()
    )
    attention = 2 * keys * config.heads * config.head_dim  # scores and weighted values
    return 2 * rows * columns * config.layers * (projections + attention)


def unembed_flops(config: ModelConfig, positions: int) -> int:
    """`Denoiser.unembed` of so many positions."""
    return 2 * positions * config.d_model * config.vocab_size


def rollout_flops(config: ModelConfig, rows: int, columns: int, block: int, passes: int) -> int:
    """A rollout without a cache.

    Each denoising pass sees all columns and projects one block's positions to the vocabulary.
    """
    return passes * (features_flops(config, rows, columns) + unembed_flops(config, rows * block))


def update_flops(config: ModelConfig, rows: int, columns: int, completion: int) -> int:
    """An update of all weights on a pair of views, which need one projection together."""
    views = features_flops(config, 2 * rows, columns)
    projection = unembed_flops(config, rows * completion)
    return 3 * (views + projection)  # backward is twice forward
