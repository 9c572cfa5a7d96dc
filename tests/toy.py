"""A denoiser small enough that every completion and every order can be listed.

Three tokens, three columns, one prompt column. The logits of a column are a table of its own and a
sum over the columns that are seen; the mask is never drawn.
"""

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from gdsd_jax.types import Denoiser
from tests.reference import MASK, PAD

P, G = 1, 3
TOKENS = (0, 2, 3)  # all but the mask
ANSWERS = np.array(list(itertools.product(TOKENS, repeat=G)), np.int32)
ORDERS = np.array(list(itertools.permutations(range(G))))
NEVER = -1e9  # the mask's logit


def params(seed: int = 0, scale: float = 1.0) -> dict:
    rng = np.random.default_rng(seed)
    shapes = {"own": (P + G, 4), "seen": (P + G, P + G, 4, 4)}
    return {
        name: jnp.asarray(scale * rng.standard_normal(x), jnp.float32) for name, x in shapes.items()
    }


def features(params, tokens_BxL, *, valid_BxL=None, attention=None):
    """Logits [B, L, 4] themselves, as features."""
    one_hot_BxLx4 = jax.nn.one_hot(tokens_BxL, 4)
    if valid_BxL is not None:
        one_hot_BxLx4 = one_hot_BxLx4 * valid_BxL[..., None]
    return params["own"][None] + jnp.einsum("bjv,ijvw->biw", one_hot_BxLx4, params["seen"])


def unembed(params, h):
    return jnp.where(jnp.arange(4) == MASK, NEVER, h)


def denoiser() -> Denoiser:
    config = SimpleNamespace(
        vocab_size=4,
        mask_id=MASK,
        pad_id=PAD,
        stop_ids=(),
        tokenizer_size=None,
        autoregressive=False,
    )
    return Denoiser(config, features, unembed, lambda trainable, frozen: trainable)


def logp(params, state) -> np.ndarray:
    """float64 [G, 4] of the completion in a state (a list of G tokens), in plain loops."""
    own, seen = (np.asarray(params[name], np.float64) for name in ("own", "seen"))
    row = [2, *state]
    found = np.zeros((G, 4))
    for i in range(G):
        z = own[P + i] + sum(seen[P + i, j, row[j]] for j in range(P + G))
        z[MASK] = -np.inf
        found[i] = z - np.log(np.sum(np.exp(z)))
    return found


def likelihood(params, answer, passes) -> float:
    """log-probability of the commits: `passes` is a list of lists of columns."""
    state, total = [MASK] * G, 0.0
    for columns in passes:
        now = logp(params, state)
        total += sum(now[i, answer[i]] for i in columns)
        for i in columns:
            state[i] = answer[i]
    return total
