"""How fast a device multiplies, copies and attends.

B rows, L columns, H heads, d head width.
"""

from collections.abc import Callable
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from gdsd_jax import models


def timed(fn, *args, repeats: int) -> float:
    """Median seconds of `fn(*args)`, without the first call, which compiles.

    `fn` must not donate its arguments.
    """
    jax.block_until_ready(fn(*args))
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(fn(*args))
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def product_rate(side: int, dtype: str) -> float:
    """Operations a second of one `side` x `side` matrix product."""
    a = jax.random.normal(jax.random.key(0), (side, side), dtype)
    b = jax.random.normal(jax.random.key(1), (side, side), dtype)
    return 2 * side**3 / timed(jax.jit(jnp.matmul), a, b, repeats=9)


def copy_rate(dtype: str) -> float:
    """Bytes a second that an array of a quarter GiB is read and written with."""
    x = jnp.ones((1 << 28) // jnp.dtype(dtype).itemsize, dtype)
    return 2 * x.nbytes / timed(jax.jit(lambda x: x + 1), x, repeats=9)


def attention_rates(model: models.ModelConfig, rows: int, columns: int, block: int) -> dict:
    """Of cuDNN's attention and XLA's in bfloat16, under masks: {kernel: {mask: {"ms", "error"}}}.

    A kernel that cannot serve is {"left_out": why}.

    Args:
      model: its heads, in bfloat16.
      rows: B; of the first one the left half is padding.
      columns: L.
      block: columns of a block, of the block-causal mask.

    Returns: for each mask
      ms: of forward and gradient together.
      error: the largest difference from XLA's in float32, of output and gradients, over the largest
        number there.
    """
    found, device = {}, jax.devices()[0]
    valid_BxL = jnp.ones((rows, columns), bool).at[0, : columns // 2].set(False)
    masks = {
        "full": (models.Full(), None),
        "padding": (models.Full(), valid_BxL),
        "block-causal": (models.BlockCausal(block), valid_BxL),
    }
    for name in ("cudnn", "xla"):
        try:
            kernel = models.find_kernel(name, model, device)
        except ValueError as error:
            found[name] = {"left_out": str(error)}
            continue
        found[name] = {
            mask: compared(kernel, spec, valid, model, (rows, columns))
            for mask, (spec, valid) in masks.items()
        }
    return found


def compared(kernel, spec, valid_BxL, model: models.ModelConfig, shape: tuple[int, int]) -> dict:
    """{"ms", "error"} of one kernel under one mask, as `attention_rates` says."""
    heads = model.heads, model.kv_heads, model.kv_heads, model.heads
    keys = jax.random.split(jax.random.key(0), len(heads))
    arrays = [
        jax.random.normal(key, (*shape, count, model.head_dim), jnp.bfloat16)
        for key, count in zip(keys, heads)
    ]
    if valid_BxL is not None:  # nobody reads what padding gets
        arrays[-1] *= valid_BxL[:, :, None, None]

    def outcome(kernel) -> Callable:
        @jax.jit
        def fn(*qkv, cotangent):
            mask = kernel.mask(spec, valid_BxL, shape[1])
            attended, pull = jax.vjp(lambda *qkv: kernel.attend(*qkv, mask), *qkv)
            return attended, *pull(cotangent)

        return lambda *arrays: fn(*arrays[:-1], cotangent=arrays[-1])

    with jax.default_matmul_precision("highest"):
        exact = outcome(models.KERNELS["xla"])(*(x.astype("float32") for x in arrays))
    errors = []
    for ours, theirs in zip(outcome(kernel)(*arrays), exact):
        ours, theirs = np.asarray(ours, np.float32), np.asarray(theirs)
        if valid_BxL is not None:
            ours, theirs = ours[valid_BxL], theirs[valid_BxL]
        errors.append(np.abs(ours - theirs).max() / np.abs(theirs).max())
    ms = 1e3 * timed(outcome(kernel), *arrays, repeats=9)
    return {"ms": ms, "error": float(max(errors))}
