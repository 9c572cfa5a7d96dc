"""How attention is computed.

By XLA anywhere, on CPUs a few rows at a time, by cuDNN on NVIDIA GPUs, by splash attention (Pallas)
on TPUs. A kernel computes whole rows, forward and gradient, on one device.
`sharding.split_attention` spreads it over a mesh. B rows, Q of their L columns, H query heads, K
key heads, d head width, G = H / K.
"""

from collections.abc import Callable
import dataclasses
import math
from typing import Any, NamedTuple

import flax.struct
import jax
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
)
import jax.numpy as jnp
import numpy as np

from gdsd_jax.models.attention import attention_mask
from gdsd_jax.models.config import ModelConfig
from gdsd_jax.types import Array

LANES = 128  # a splash tile's sides are multiples of it
# columns; larger ones skip less of a sparse mask and crowd the chip's own memory
LARGEST_TILE = 512
SCORES_BYTES = 16 << 20  # of float32 scores that `rows_attention` makes at once
CUDNN_HEADS = 128  # the widest that cuDNN takes on every GPU it takes


class Kernel(NamedTuple):
    """One way to compute attention.

    Attributes:
      mask: `(spec, valid_BxL, columns) -> mask`, what `attend` must know of who looks at whom. It
        is made once for all layers: a tree of arrays with an entry for each row, or one for all.
        `valid_BxL` None: every column is valid.
      attend: `(q_BxLxHxd, k_BxLxKxd, v_BxLxKxd, mask) -> BxLxHxd`, softmax attention with scale
        1/sqrt(d). Query head h reads key head h // (H / K). What a padding column gets is finite;
        nobody reads it.
    """

    mask: Callable[..., Any]
    attend: Callable[..., Array]


def xla_attention(
    q_BxQxHxd: Array, k_BxLxKxd: Array, v_BxLxKxd: Array, mask: Array | None
) -> Array:
    """The reference; `mask` [1|B, 1, 1|Q, L]."""
    return jax.nn.dot_product_attention(
        q_BxQxHxd, k_BxLxKxd, v_BxLxKxd, mask=mask, implementation="xla"
    )


def rows_attention(
    q_BxLxHxd: Array, k_BxLxKxd: Array, v_BxLxKxd: Array, mask: Array | None
) -> Array:
    """The same, a few rows at a time, as many as have `SCORES_BYTES` of scores.

    So few scores stay in a processor's cache.
    """
    rows, columns, heads = q_BxLxHxd.shape[:3]
    fitting = max(1, SCORES_BYTES // (4 * heads * columns * columns))
    some = max(count for count in range(1, rows + 1) if rows % count == 0 and count <= fitting)

    def share(x):
        return x.reshape(rows // some, some, *x.shape[1:])

    own = mask is not None and mask.shape[0] == rows  # a mask that is one for all stays outside

    def attend(part):
        q_bxLxHxd, k_bxLxKxd, v_bxLxKxd, *masks = part
        return attend_to(
            q_bxLxHxd,
            [(k_bxLxKxd.transpose(0, 2, 3, 1), v_bxLxKxd.swapaxes(1, 2))],
            masks[0] if own else mask,
        )

    arrays = [q_BxLxHxd, k_BxLxKxd, v_BxLxKxd]
    if own:
        arrays.append(mask)
    parts = tuple(map(share, arrays))
    if some == rows:
        return attend(tuple(x[0] for x in parts))
    return jax.lax.map(attend, parts).reshape(q_BxLxHxd.shape)


def attend_to(q_BxQxHxd: Array, parts: list[tuple[Array, Array]], mask: Array | None) -> Array:
    """Attention of Q columns to parts of rows, (keys [B, K, d, S], values [B, K, S, d]) each.

    The parts are nowhere copied. `mask` [1|B, 1, 1|Q, L], L the parts' columns one after another.
    With a cache no other kernel is used: the scores are small, a kernel would fill up its tiles,
    and splash masks cannot begin at a column that is only known while the program runs.
    """
    rows, queries, heads, width = q_BxQxHxd.shape
    key_heads = parts[0][0].shape[1]
    q_BxQxKxGxd = q_BxQxHxd.reshape(rows, queries, key_heads, -1, width)
    q_BxKxGxQxd = q_BxQxKxGxd.transpose(0, 2, 3, 1, 4) * width**-0.5

    def score(k):
        return jnp.einsum("bkgqd,bkds->bkgqs", q_BxKxGxQxd, k, preferred_element_type=jnp.float32)

    scores = jnp.concatenate([score(k) for k, _ in parts], axis=-1)
    if mask is not None:
        scores = jnp.where(mask[:, :, None], scores, jnp.finfo(jnp.float32).min)
    share = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    ends = np.cumsum([v.shape[2] for _, v in parts])[:-1]

    def mean(share, v):
        return jnp.einsum("bkgqs,bksd->bkgqd", share, v, preferred_element_type=jnp.float32)

    attended = sum(
        mean(own.astype(v.dtype), v) for own, (_, v) in zip(jnp.split(share, ends, axis=-1), parts)
    )
    # of d columns, which are fewer than the keys
    attended = attended / jnp.sum(share, axis=-1)[..., None]
    attended_BxQxKxGxd = attended.astype(q_BxQxHxd.dtype).transpose(0, 3, 1, 2, 4)
    return attended_BxQxKxGxd.reshape(rows, queries, heads, width)


def cudnn_attention(
    q_BxLxHxd: Array, k_BxLxKxd: Array, v_BxLxKxd: Array, mask: Array | None
) -> Array:
    """cuDNN's flash attention.

    It takes an even number of columns, and it reads a mask as an added [1|B, 1, L, L].
    """
    columns, odd = q_BxLxHxd.shape[1], q_BxLxHxd.shape[1] % 2
    if odd and mask is None:
        mask = jnp.ones((1, 1, 1, columns), bool)
    if mask is not None:
        mask = jnp.broadcast_to(mask, (mask.shape[0], 1, columns, columns))
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, odd), (0, odd)))
        q_BxLxHxd, k_BxLxKxd, v_BxLxKxd = (
            padded(x, columns + odd) for x in (q_BxLxHxd, k_BxLxKxd, v_BxLxKxd)
        )
    found = jax.nn.dot_product_attention(
        q_BxLxHxd, k_BxLxKxd, v_BxLxKxd, mask=mask, implementation="cudnn"
    )
    return found[:, :columns]


@flax.struct.dataclass
class Segments:
    """Who looks at whom, for splash attention: what `spec` allows among columns of the same id."""

    ids_BxL: Array  # int32 [1|B, L], 1 valid and 0 padding
    spec: Any = flax.struct.field(pytree_node=False)


@dataclasses.dataclass(frozen=True)
class LazyMask(splash_attention_mask.Mask):
    """`spec.allowed` on a square of `side` columns, of which `columns` are the row's.

    Splash attention asks for it tile by tile, on the host. It skips tiles where nothing is allowed.
    The device holds tiles that are allowed in part, each pattern once. For the kinds there are
    these lie along a few diagonals, so their number grows with L and not with L².
    """

    spec: Any
    columns: int
    side: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.side, self.side

    def __getitem__(self, tile: tuple[slice, slice]) -> np.ndarray:
        query, key = (np.arange(part.start, part.stop) for part in tile)
        allowed = self.spec.allowed(query[:, None], key[None, :], self.columns)
        return np.ones((len(query), len(key)), bool) if allowed is None else allowed


def make_splash(largest_tile: int = LARGEST_TILE, interpret: bool = False) -> Kernel:
    """Splash attention; `interpret`: by XLA operations, anywhere and slowly, for tests."""

    def mask(spec, valid_BxL: Array | None, columns: int) -> Segments:
        if valid_BxL is None:
            return Segments(jnp.ones((1, columns), jnp.int32), spec)
        return Segments(valid_BxL.astype(jnp.int32), spec)

    def attend(q_BxLxHxd, k_BxLxKxd, v_BxLxKxd, segments: Segments) -> Array:
        rows, columns, _, width = q_BxLxHxd.shape
        tile, side = tiling(columns, largest_tile)
        kernel = splash_kernel(LazyMask(segments.spec, columns, side), tile, interpret)
        # 0, as all padding
        ids_BxS = padded(jnp.broadcast_to(segments.ids_BxL, (rows, columns)), side)
        # the kernel has no scale of its own
        heads_first = (
            padded(x, side).swapaxes(1, 2) for x in (q_BxLxHxd * width**-0.5, k_BxLxKxd, v_BxLxKxd)
        )
        attended_BxHxSxd = jax.vmap(kernel)(
            *heads_first, splash_attention_kernel.SegmentIds(ids_BxS, ids_BxS)
        )
        return attended_BxHxSxd.swapaxes(1, 2)[:, :columns]

    return Kernel(mask, attend)


def splash_kernel(mask: LazyMask, tile: int, interpret: bool) -> Callable[..., Array]:
    """`kernel(q_HxSxd, k_KxSxd, v_KxSxd, segment_ids) -> HxSxd` of one row.

    The heads share the mask.
    """
    sides = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
    return splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([mask]),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
        block_sizes=splash_attention_kernel.BlockSizes(**dict.fromkeys(sides, tile)),
    )


def tiling(columns: int, largest: int) -> tuple[int, int]:
    """(tile, side) in columns: the fewest equal tiles that a row of `columns` fits in.

    `tile` is the side of one, at most `largest`, and `side` that of all of them together.
    """
    count = math.ceil(columns / largest)
    tile = LANES * math.ceil(columns / count / LANES)
    return tile, count * tile


def padded(x_BxLx_: Array, columns: int) -> Array:
    """The array with zeros behind its last column, `columns` in all."""
    others = ((0, 0),) * (x_BxLx_.ndim - 2)
    return jnp.pad(x_BxLx_, ((0, 0), (0, columns - x_BxLx_.shape[1]), *others))


XLA = Kernel(attention_mask, xla_attention)
KERNELS = {  # fastest first
    "splash": make_splash(),
    "cudnn": Kernel(attention_mask, cudnn_attention),
    "rows": Kernel(attention_mask, rows_attention),
    "xla": XLA,
}


def find_kernel(name: str, config: ModelConfig, device) -> Kernel:
    """The kernel of that name; "auto": the fastest that can serve.

    Args:
      config: the model.
      device: what it runs on, also a device of a topology.

    Raises:
      ValueError: an unknown name, or a kernel that cannot serve; one line says why.
    """
    if name == "auto":
        name = next(other for other in KERNELS if obstacle(other, config, device) is None)
    if name not in KERNELS:
        raise ValueError(
            f"attention_kernel={name!r}: choose one of {', '.join(('auto', *KERNELS))}"
        )
    reason = obstacle(name, config, device)
    if reason is not None:
        raise ValueError(f"attention_kernel={name!r} {reason}; or choose auto")
    return KERNELS[name]


def obstacle(name: str, config: ModelConfig, device) -> str | None:
    """Why a kernel cannot serve; None where it can."""
    if name == "splash" and device.platform != "tpu":
        return f"needs a TPU, this is a {device.platform}"
    if name == "rows" and device.platform != "cpu":
        return f"is for CPUs, this is a {device.platform}"
    if name == "cudnn":
        # others say gfx942 and the like
        nvidia = device.platform == "gpu" and device.compute_capability[0].isdigit()
        if not nvidia or float(device.compute_capability) < 8:
            needed = "an NVIDIA GPU of compute capability 8.0 or later"
            return f"needs {needed}, this is a {device.device_kind}"
        if config.dtype != "bfloat16":
            return f"computes in bfloat16 and not in {config.dtype}: set dtype=bfloat16"
        if config.head_dim % 8 or config.head_dim > CUDNN_HEADS:
            needed = f"heads of a multiple of 8 and at most {CUDNN_HEADS}"
            return f"needs {needed}, the model's are {config.head_dim} wide"
    return None
