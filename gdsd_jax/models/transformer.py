"""The one forward of all families: a pre-norm decoder, scanned over stacked layers.

B rows, L columns, D width, H heads, d head width, F feed-forward width, V vocabulary, N layers.
Flax's modules are used in this file alone. Everybody else sees plain nested dicts of arrays.
"""

from collections.abc import Callable
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from gdsd_jax.models.config import ModelConfig
from gdsd_jax.models.kernels import attend_to
from gdsd_jax.models.quantised import int8_product
from gdsd_jax.types import Array

REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class RMSNorm(nn.Module):
    """x over its root mean square, times a learned scale; computed in float32."""

    eps: float

    @nn.compact
    def __call__(self, x):
        scale_D = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        x32 = x.astype(jnp.float32)
        normed = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return scale_D.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,)) * normed.astype(x.dtype)


class Projection(nn.Module):
    """x W, plus x A B where the `lora` collection holds adapters for this layer.

    Attributes:
      multiply: x W of an int8 kernel, which has its scale beside it; of `quantised.py`.
    """

    config: ModelConfig
    features: int
    use_bias: bool = False
    init_scale: float = 1.0
    multiply: Callable = int8_product

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.variance_scaling(self.init_scale, "fan_in", "normal")
        kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
        # one flat product: for 3-D ones XLA's CPU backend copies the cotangent
        rows = x.reshape(-1, x.shape[-1])
        if self.has_variable("params", "scale"):
            y = self.multiply(rows, kernel, self.get_variable("params", "scale"))
        else:
            y = rows @ kernel.astype(x.dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + bias.astype(x.dtype)[None]
        if self.has_variable("lora", "a"):
            a, b = (self.get_variable("lora", name).astype(x.dtype) for name in "ab")
            y = y + (rows @ a) @ b * (self.config.lora_alpha / a.shape[-1])
        return y.reshape(*x.shape[:-1], self.features)


def frequencies(config: ModelConfig) -> Array:
    """Rotary frequencies [d / 2], float32, radians a position.

    Scaled as Llama 3.1's, pairs that turn more than `high` times within the original context keep
    theirs, those that turn less than `low` times are slowed by `factor`, and between the two the
    frequency goes from one to the other linearly in the turns.
    """
    half = config.head_dim // 2
    frequency_d = config.rope_theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if config.rope_scaling is None:
        return frequency_d
    factor, low, high, original = config.rope_scaling
    turns_d = original * frequency_d / (2 * math.pi)
    kept_d = jnp.clip((turns_d - low) / (high - low), 0.0, 1.0)
    return frequency_d * (kept_d + (1.0 - kept_d) / factor)


def rotate(x_BxLxHxd: Array, positions_BxL: Array, frequency_d: Array) -> Array:
    """Rotary embedding, half-split, computed in float32 whatever the input's dtype."""
    angle_BxLxd = positions_BxL[..., None].astype(jnp.float32) * frequency_d[None, None, :]
    angle_BxLx1xd = angle_BxLxd[:, :, None, :]
    cos, sin = jnp.cos(angle_BxLx1xd), jnp.sin(angle_BxLx1xd)
    first, second = jnp.split(x_BxLxHxd.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BxLxHxd.dtype)


class Block(nn.Module):
    """One layer: attention, then the gated feed-forward, each added to its input.

    Attributes:
      attend: `Kernel.attend`, for whole rows.
      place: says where the states [B, L, D] lie on a mesh.
      multiply: as in `Projection`.
    """

    config: ModelConfig
    attend: Callable
    place: Callable
    multiply: Callable

    @nn.compact
    def __call__(self, x_BxLxD, cache, mask, positions_BxL, return_kv):
        """(states of the L columns, their own keys and values).

        Args:
          cache: (keys [B, K, d, S], values [B, K, S, d]) of the rows' other columns. None: the L
            columns are whole rows.
          mask: what the kernel's `mask` gave; with a cache, bool [1|B, 1, 1|L, seen + L], and the
            cache's first `seen` columns are looked at.
          return_kv: a static bool. True: keys [B, K, d, L] and values [B, K, L, d] come back, for
            a cache. False: None in their place.
        """
        cfg = self.config
        # keeps the residual stream's variance flat at the start
        residual_scale = 1.0 / (2 * cfg.layers)
        h_BxLxD = RMSNorm(cfg.norm_eps, name="attn_norm")(x_BxLxD)

        def project(name, x, width, **options):
            return Projection(cfg, width, multiply=self.multiply, name=name, **options)(x)

        def heads(name, count):
            y = project(name, h_BxLxD, count * cfg.head_dim, use_bias=cfg.qkv_bias)
            return y.reshape(*y.shape[:2], count, cfg.head_dim)

        q, k, v = heads("q", cfg.heads), heads("k", cfg.kv_heads), heads("v", cfg.kv_heads)
        if cfg.qk_norm:
            q, k = RMSNorm(cfg.norm_eps, name="q_norm")(q), RMSNorm(cfg.norm_eps, name="k_norm")(k)
        frequency_d = frequencies(cfg)
        q, k = rotate(q, positions_BxL, frequency_d), rotate(k, positions_BxL, frequency_d)
        kv = heads_first(k, v)
        if cache is None:
            attended = self.attend(q, k, v, mask)
        else:
            seen = mask.shape[-1] - x_BxLxD.shape[1]
            seen_kv = (cache[0][..., :seen], cache[1][:, :, :seen])
            attended = attend_to(q, [seen_kv, kv], mask)
        attended = attended.reshape(*attended.shape[:2], cfg.heads * cfg.head_dim)
        x_BxLxD = self.place(
            x_BxLxD + project("o", attended, cfg.d_model, init_scale=residual_scale)
        )

        h_BxLxD = RMSNorm(cfg.norm_eps, name="mlp_norm")(x_BxLxD)
        gate_BxLxF = jax.nn.silu(project("gate", h_BxLxD, cfg.d_ff))
        inner_BxLxF = gate_BxLxF * project("up", h_BxLxD, cfg.d_ff)
        down_BxLxD = project("down", inner_BxLxF, cfg.d_model, init_scale=residual_scale)
        return self.place(x_BxLxD + down_BxLxD), kv if return_kv else None


def heads_first(k_BxLxKxd: Array, v_BxLxKxd: Array) -> tuple[Array, Array]:
    """(keys [B, K, d, L], values [B, K, L, d]): the layout of a cache."""
    return k_BxLxKxd.transpose(0, 2, 3, 1), v_BxLxKxd.swapaxes(1, 2)


class Transformer(nn.Module):
    """Embedding, layers, head; `attend`, `place` and `multiply` as in `Block`."""

    config: ModelConfig
    attend: Callable
    place: Callable = lambda x: x
    multiply: Callable = int8_product

    def setup(self):
        cfg = self.config
        block = Block
        if cfg.remat != "none":
            block = nn.remat(
                Block,
                policy=REMAT_POLICIES[cfg.remat],
                prevent_cse=False,
                static_argnums=(5,),  # return_kv, counted from self
            )
        scanned = nn.scan(
            block,
            variable_axes={"params": 0, "lora": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=cfg.layers,
        )
        self.embed = nn.Embed(
            cfg.vocab_size, cfg.d_model, embedding_init=nn.initializers.normal(1.0)
        )
        self.layers = scanned(cfg, self.attend, self.place, self.multiply)
        self.final_norm = RMSNorm(cfg.norm_eps)
        if not cfg.tied:
            self.lm_head = Projection(cfg, cfg.vocab_size)

    def hidden(self, tokens_BxL, mask, positions_BxL):
        """[B, L, D] after the last norm, not shifted."""
        return self.extend(tokens_BxL, None, mask, positions_BxL, return_kv=False)[0]

    def extend(self, tokens_BxQ, cache, mask, positions_BxQ, return_kv):
        """(states [B, Q, D], keys and values of these columns or None), of all layers.

        Arguments and results as in `Block.__call__`, with a leading axis N in the cache, the keys
        and the values.
        """
        x_BxQxD = self.embed.embedding.astype(self.config.dtype)[tokens_BxQ]
        if self.config.freeze_pad:
            is_pad_BxQx1 = (tokens_BxQ == self.config.pad_id)[..., None]
            x_BxQxD = jnp.where(is_pad_BxQx1, jax.lax.stop_gradient(x_BxQxD), x_BxQxD)
        x_BxQxD, kv = self.layers(self.place(x_BxQxD), cache, mask, positions_BxQ, return_kv)
        return self.final_norm(x_BxQxD), kv

    def logits(self, h):
        """float32 logits of any [..., D]."""
        if self.config.tied:
            return (h @ self.embed.embedding.astype(h.dtype).T).astype(jnp.float32)
        return self.lm_head(h).astype(jnp.float32)

    def __call__(self, tokens_BxL, mask, positions_BxL):
        return self.logits(self.hidden(tokens_BxL, mask, positions_BxL))
