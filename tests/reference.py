"""What the tests compare with: denoiser, scores and GDSD loss in float64 NumPy, tiny denoisers.

Written from the papers and the released code alone; nothing here calls the library's computations.
B rows, L columns, P prompt columns, G completion columns, K mask draws, V vocabulary.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from gdsd_jax import models, types

MASK, PAD = 1, 0
# Llama 3's, for heads of 6: of three frequencies one is kept, one lies between, one is slowed
SCALING = (8.0, 1.0, 4.0, 256.0)


def tiny(**changes) -> models.ModelConfig:
    """A denoiser with grouped heads whose width is not heads x head_dim.

    No two sizes are the same, so that none can be taken for another.
    """
    sizes = dict(
        family="llada",
        vocab_size=40,
        d_model=20,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=6,
        d_ff=28,
        mask_id=MASK,
        pad_id=PAD,
        stop_ids=(PAD,),
        rope_theta=10_000.0,
    )
    return models.ModelConfig(**{**sizes, **changes})


def random_tree(shapes, seed: int = 0, scale: float = 1.0):
    """Random float32 leaves, of norm scales and biases too.

    Zeros and ones would hide a missing multiplication.
    """
    rng = np.random.default_rng(seed)

    def leaf(keys, shape):
        name = keys[-1].key
        inputs = shape.shape[-2] if name in ("kernel", "a", "b") else 1
        values = scale * rng.standard_normal(shape.shape) / np.sqrt(inputs)
        return jnp.asarray(values + (name == "scale"), jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def random_params(config: models.ModelConfig, seed: int = 0):
    return random_tree(models.param_shapes(config), seed)


def attending_params(config: models.ModelConfig, seed: int = 6):
    """Random weights whose attention weighs enough that masked positions differ."""
    params = random_params(config, seed)
    params["layers"]["o"]["kernel"] *= 4.0
    return params


def random_adapters(config: models.ModelConfig, seed: int = 5):
    """Adapters that are not zero."""
    shapes = jax.eval_shape(lambda rng: models.init_lora(config, rng), jax.random.key(0))
    return random_tree(shapes, seed, scale=0.5)


def merged(base, lora, config: models.ModelConfig):
    """W + (alpha / rank) a b, layer by layer."""
    layers, scale = dict(base["layers"]), config.lora_alpha / config.lora_rank
    for target, pair in lora["layers"].items():
        change = np.stack([a @ b for a, b in zip(np.float64(pair["a"]), np.float64(pair["b"]))])
        kernel = np.float64(layers[target]["kernel"]) + scale * change
        layers[target] = layers[target] | {"kernel": jnp.asarray(kernel, jnp.float32)}
    return base | {"layers": layers}


def random_batch(
    config, rows: int, prompt_len: int, gen: int, draws: int, seed: int = 0, **fields
) -> types.Batch:
    """Left-padded prompts, full completions of differing answer length.

    Row 0 has no mask and row 1 all of them.
    """
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, config.vocab_size, (rows, prompt_len + gen)).astype(np.int32)
    valid = np.ones(tokens.shape, bool)
    for row in range(rows):
        pad = row % prompt_len
        valid[row, :pad], tokens[row, :pad] = False, config.pad_id
    masks = rng.random((draws, rows, prompt_len + gen)) < 0.5
    masks[:, :, :prompt_len] = False
    masks[:, 0], masks[:, 1, prompt_len:] = False, True
    length = np.array([gen - 2 * (row % (gen // 2)) for row in range(rows)], np.int32)
    arrays = dict(
        tokens_BxL=tokens,
        valid_BxL=valid,
        completion_len_B=length,
        masks_KxBxL=masks,
        advantages_B=rng.standard_normal(rows).astype(np.float32),
    )
    return types.Batch(**jax.tree.map(jnp.asarray, {**arrays, **fields}), prompt_len=prompt_len)


# ---------------------------------------------------------------- denoisers without a network


def position_denoiser(vocab_size: int) -> types.Denoiser:
    """Logits are the parameters themselves, params["z"] [B, L, V], whatever is masked.

    So gradients separate by row.
    """
    config = SimpleNamespace(vocab_size=vocab_size, mask_id=MASK, pad_id=PAD, stop_ids=())

    def features(params, tokens_BxL, *, valid_BxL=None):
        # a row's views side by side
        return jnp.repeat(params["z"], tokens_BxL.shape[0] // params["z"].shape[0], axis=0)

    return types.Denoiser(
        config, features, lambda params, h: h, lambda trainable, frozen: trainable
    )


def constant_denoiser(logits_V, tokenizer_size: int | None = None) -> types.Denoiser:
    """The same distribution at every position, whatever the state."""
    config = SimpleNamespace(
        vocab_size=len(logits_V),
        mask_id=MASK,
        pad_id=PAD,
        stop_ids=(),
        tokenizer_size=tokenizer_size,
        autoregressive=False,
    )
    return types.Denoiser(
        config,
        lambda params, tokens, *, valid_BxL=None: jnp.zeros((*tokens.shape, 1), jnp.float32),
        lambda params, h: (
            h + jnp.asarray(logits_V, jnp.float32).reshape((1,) * (h.ndim - 1) + (-1,))
        ),
        lambda trainable, frozen: trainable,
    )


# ---------------------------------------------------------------- the forward


def rms(x, scale, eps):
    return scale * x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)


def rates(config):
    """Radians a position that each pair of a head turns by, from the wavelengths in positions.

    Pair i turns by theta^(-2i/d). Scaled, a wavelength below original / high stays, one above
    original / low is `factor` times as long, and between them the rate is a mixture of both.
    """
    found = []
    for i in range(config.head_dim // 2):
        rate = config.rope_theta ** (-2 * i / config.head_dim)
        if config.rope_scaling is not None:
            factor, low, high, original = config.rope_scaling
            wavelength = 2 * np.pi / rate
            if wavelength > original / low:
                rate /= factor
            elif wavelength > original / high:
                share = (original / wavelength - low) / (high - low)
                rate = share * rate + (1 - share) * rate / factor
        found.append(rate)
    return np.array(found)


def rope(x_LxHxd, positions_L, config):
    """Half-split rotation as complex multiplication of the pairs (i, i + d/2)."""
    half = x_LxHxd.shape[-1] // 2
    angle = positions_L[:, None, None] * rates(config)[None, None]
    turned = (x_LxHxd[..., :half] + 1j * x_LxHxd[..., half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], axis=-1)


def attend(q_LxHxd, k_LxKxd, v_LxKxd, allowed_LxL):
    """Per head; a query that may look nowhere gives zero (nobody reads it)."""
    out = np.zeros(q_LxHxd.shape)
    for head in range(q_LxHxd.shape[1]):
        key_head = head // (q_LxHxd.shape[1] // k_LxKxd.shape[1])
        dots = q_LxHxd[:, head] @ k_LxKxd[:, key_head].T / np.sqrt(q_LxHxd.shape[2])
        weights = np.where(allowed_LxL, np.exp(dots - dots.max()), 0.0)
        total = np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
        out[:, head] = weights @ v_LxKxd[:, key_head] / total
    return out


def row_forward(config, params, tokens_L, valid_L, positions_L, allowed_LxL):
    """Logits [L, V] of one row; `params` in float64. Adapters, if any, are summed into the kernels
    first."""
    layers = params["layers"]
    x = params["embed"]["embedding"][tokens_L]
    for n in range(config.layers):

        def project(name, y, n=n):
            bias = layers[name]["bias"][n] if "bias" in layers[name] else 0.0
            return y @ layers[name]["kernel"][n] + bias

        h = rms(x, layers["attn_norm"]["scale"][n], config.norm_eps)
        q, k, v = (project(name, h).reshape(len(tokens_L), -1, config.head_dim) for name in "qkv")
        if config.qk_norm:
            q = rms(q, layers["q_norm"]["scale"][n], config.norm_eps)
            k = rms(k, layers["k_norm"]["scale"][n], config.norm_eps)
        q, k = (rope(y, positions_L, config) for y in (q, k))
        attended = attend(q, k, v, allowed_LxL & valid_L[None, :])
        x = x + project("o", attended.reshape(len(tokens_L), -1))
        h = rms(x, layers["mlp_norm"]["scale"][n], config.norm_eps)
        gate = project("gate", h)
        x = x + project("down", gate / (1 + np.exp(-gate)) * project("up", h))
    x = rms(x, params["final_norm"]["scale"], config.norm_eps)
    if config.shift:
        x = np.stack([x[max(np.flatnonzero(valid_L[:i]), default=i)] for i in range(len(x))])
    return x @ (params["embed"]["embedding"].T if config.tied else params["lm_head"]["kernel"])


def float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def forward(config, params, tokens_BxL, valid_BxL=None, positions_BxL=None, allowed_LxL=None):
    """Logits float64 [B, L, V]: row i scores the token at i."""
    params, tokens_BxL = float64(params), np.asarray(tokens_BxL)
    valid_BxL = np.ones(tokens_BxL.shape, bool) if valid_BxL is None else np.asarray(valid_BxL)
    if positions_BxL is None:
        positions_BxL = np.maximum(np.cumsum(valid_BxL, axis=1) - 1, 0)
    if allowed_LxL is None:
        allowed_LxL = np.ones((tokens_BxL.shape[1],) * 2, bool)
    rows = zip(tokens_BxL, valid_BxL, positions_BxL)
    return np.stack([row_forward(config, params, *row, allowed_LxL) for row in rows])


def allowed_doubled(prompt_len, gen, block):
    """Who may look at whom in [prompt | clean | noised], row by row, padding apart."""
    columns = prompt_len + 2 * gen
    allowed = np.zeros((columns, columns), bool)
    for p in range(prompt_len):
        allowed[p, : prompt_len - block * ((prompt_len - 1 - p) // block)] = True
    for i in range(gen):
        start, end = i // block * block, min((i // block + 1) * block, gen)
        allowed[prompt_len + i, : prompt_len + end] = True
        allowed[prompt_len + gen + i, : prompt_len + start] = True
        allowed[prompt_len + gen + i, prompt_len + gen + start : prompt_len + gen + end] = True
    return allowed


def doubled_logits(config, params, tokens, view, valid, prompt_len, block, causal=False):
    """Logits float64 [B, G, V] of the noised part of the row [prompt | tokens | view].

    `causal`: inside each part too.
    """
    tokens, view, valid = (np.asarray(x) for x in (tokens, view, valid))
    positions = np.maximum(np.cumsum(valid, axis=1) - 1, 0)
    row = np.concatenate(
        [view[:, :prompt_len], tokens[:, prompt_len:], view[:, prompt_len:]], axis=1
    )
    valid, positions = (np.concatenate([x, x[:, prompt_len:]], axis=1) for x in (valid, positions))
    gen = tokens.shape[1] - prompt_len
    allowed = allowed_doubled(prompt_len, gen, block)
    allowed = allowed & np.tril(np.ones_like(allowed)) if causal else allowed
    return forward(config, params, row, valid, positions, allowed)[:, prompt_len + gen :]


# ---------------------------------------------------------------- scores and the loss


def log_softmax(z):
    top = z.max(axis=-1, keepdims=True)
    return z - top - np.log(np.sum(np.exp(z - top), axis=-1, keepdims=True))


def centred_logp(z_V, token, centring, k):
    """log-probability less the mean of all tokens' ("vocab") or of the k largest ("top_k")."""
    logp_V = log_softmax(z_V)
    best = {"none": 0, "vocab": len(logp_V), "top_k": k}[centring]
    return logp_V[token] - (np.sort(logp_V)[::-1][:best].mean() if best else 0.0)


def pair_scores(logits_fn, mask_id, batch, *, weighting, count, centring="none", k=0):
    """(plain, centred) scores float64 [K, B].

    `logits_fn(tokens, valid) -> [B, L, V]` is called on each half apart.
    """
    tokens, valid, masks = (
        np.asarray(x) for x in (batch.tokens_BxL, batch.valid_BxL, batch.masks_KxBxL)
    )
    rows, columns = tokens.shape
    scores = np.zeros((2, len(masks), rows))
    lengths = completion_lengths(batch, count)
    for draw, mask in enumerate(masks):
        completion = np.zeros(mask.shape, bool)
        for row in range(rows):
            completion[row, batch.prompt_len : batch.prompt_len + lengths[row]] = True
        hidden = mask & ~completion  # what does not count and is masked, in both halves
        for half in (mask, (completion & ~mask) | hidden):
            logits = logits_fn(np.where(half, mask_id, tokens), valid)
            for row in range(rows):
                places = np.flatnonzero(half[row] & completion[row])
                weight = 0.5
                if weighting == "elbo":
                    weight = 0.5 * (lengths[row] + 1) / max(len(places), 1)
                for place in places:
                    z, token = logits[row, place], tokens[row, place]
                    scores[0, draw, row] += weight * log_softmax(z)[token]
                    scores[1, draw, row] += weight * centred_logp(z, token, centring, k)
    return scores


def completion_lengths(batch, count):
    rows, columns = batch.tokens_BxL.shape
    if count == "answer":
        return np.asarray(batch.completion_len_B)
    return np.full(rows, columns - batch.prompt_len)


def gdsd_loss(logits_fn, mask_id, batch, config):
    """arXiv 2605.29398's loss with psi in sequence units: loops, one term a (draw, row)."""
    plain, centred = pair_scores(
        logits_fn,
        mask_id,
        batch,
        weighting=config.weighting,
        count=config.count,
        centring=config.centring,
        k=config.centring_k,
    )
    lengths, total = completion_lengths(batch, config.count), 0.0
    for draw, row in np.ndindex(plain.shape):
        advantage, length = float(batch.advantages_B[row]), lengths[row]
        move = (centred[draw, row] - float(batch.old_KxB[draw, row])) / length
        if config.trust is not None:
            low, high = config.trust
            if move > high and (config.trust_sides == "two" or advantage > 0):
                move = high
            if move < -low and (config.trust_sides == "two" or advantage < 0):
                move = -low
        drift = plain[draw, row] - float(batch.ref_KxB[draw, row])
        weight = length / (batch.tokens_BxL.shape[1] - batch.prompt_len) if config.by_length else 1
        total += weight**2 * (move - config.psi * advantage / length) ** 2
        total += config.beta * 0.5 * drift**2 / length
    return total / plain.size
