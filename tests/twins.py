"""The samplers once more: one row alone, for-loops over Python lists, float64. Written from
specs/gdsd.md section 7, specs/opdlm.md section 2 and design sections 3 and 5; of the library only
the denoiser's logits are used, and jax's random numbers from the keys that design section 3
prescribes.
"""

import math

import jax
import numpy as np

from tests.reference import log_softmax


def softmax(z):
    return np.exp(log_softmax(z))


def numbers(draw, key, shape):
    return np.asarray(draw(key, shape), np.float64)


def truncated(z, top_p):
    """Tokens from the likeliest on until their probability exceeds top_p; at least one."""
    kept, mass = np.full(len(z), -np.inf), 0.0
    for token in np.argsort(-z, kind="stable"):
        if mass > top_p:
            break
        kept[token] = z[token]
        mass += softmax(z)[token]
    return kept


def confidence(config, z, token):
    """Dream's, of the distribution that is sampled; -inf in z = forbidden."""
    p = softmax(z)
    if config.alg == "entropy":
        return float(np.sum(p * np.log(p + 1e-10)))
    if config.alg == "maskgit_plus":
        return p[token]
    best = np.sort(p)[::-1]
    return best[0] - best[1]


def draw(z, group_noise, member_noise):
    """A token from softmax(z): the group of neighbours that wins with its noise, then the member
    that wins with its own."""
    groups = z.reshape(len(group_noise), -1)
    with np.errstate(divide="ignore"):  # a group in which nothing may be drawn
        won = int(np.argmax(np.log(np.exp(groups - z.max()).sum(axis=1)) + group_noise))
    return won * groups.shape[1] + int(np.argmax(groups[won] + member_noise))


def propose(config, model, temperature, logits, raw, group_noise, member_noise, order_noise):
    """(order, token, log-probability, probability) of one position."""
    z = logits / temperature if temperature else logits.copy()
    z[model.mask_id] = -np.inf
    z = truncated(z, config.top_p)
    token = draw(z, group_noise, member_noise) if temperature else int(np.argmax(z))
    sure = softmax(logits)[token]
    if config.kind != "dream":
        order = sure if config.remasking == "low_confidence" else order_noise
    elif config.alg == "origin":
        order = None
    else:
        order = confidence(config, z, token)
        order = order / config.alg_temp + order_noise if config.alg_temp else order
    return order, token, log_softmax(raw)[token], sure


def pass_noise(config, key, width, vocab):
    """(of the groups of tokens, of their members, of the order) of one pass, for each position of
    the block."""
    size = max(1, math.gcd(vocab, 512) // 8)
    order = jax.random.gumbel if config.kind == "dream" else jax.random.uniform
    return (
        numbers(jax.random.gumbel, jax.random.fold_in(key, 0), (width, vocab // size)),
        numbers(jax.random.gumbel, jax.random.fold_in(key, 1), (width, size)),
        numbers(order, jax.random.fold_in(key, 2), (width,)),
    )


def rollout(look, prompts, row, rng, config, model):
    """(tokens, step_map, logp, length, passes) of one row.

    `look(tokens, valid, block, age) -> (logits, logits without the prompt)`, [C, V] of the block's
    positions; `age` counts the passes since the block began.
    """
    prompt_len, width, gen = prompts.tokens_BxP.shape[1], config.block_length, config.gen_length
    temperature, threshold = float(prompts.temperature_B[row]), float(prompts.threshold_B[row])
    cap = int(prompts.max_length_B[row])
    stop_ids = model.stop_ids if config.stop_ids is None else config.stop_ids
    tokens = (
        [int(t) for t in prompts.tokens_BxP[row]]
        + [model.mask_id] * cap
        + [model.pad_id] * (gen - cap)
    )
    valid = np.concatenate([np.asarray(prompts.valid_BxP[row]), np.arange(gen) < cap])
    step_map, logp, masked, passes, length = [0] * gen, [0.0] * gen, set(range(cap)), 0, cap
    for number, start in enumerate(range(0, cap, width)):
        block = set(range(start, start + width))
        due = scheduler(config, rng, number, len(masked & block))
        age = step = 0
        while masked & block:
            raw, without = look(np.array(tokens, np.int32), valid, number, age)
            key = jax.random.fold_in(rng, passes)
            noise = pass_noise(config, key, width, raw.shape[1])
            logits = raw if without is None else without + (1 + config.cfg_scale) * (raw - without)
            proposals = {
                i: propose(
                    config, model, temperature, *(x[i - start] for x in (logits, raw, *noise))
                )
                for i in sorted(masked & block)
            }
            step, chosen = due(step, {i: p[0] for i, p in proposals.items()})
            passes, age = passes + 1, age + 1
            for i in chosen | {i for i, p in proposals.items() if p[3] >= threshold}:
                tokens[prompt_len + i], logp[i], step_map[i] = (
                    proposals[i][1],
                    proposals[i][2],
                    passes,
                )
                masked.remove(i)
        stops = [i for i in sorted(block) if i < cap and tokens[prompt_len + i] in stop_ids]
        if stops:
            length = stops[0] + 1
            break

    def cut(x, filler):
        return x[:length] + [filler] * (gen - length)

    return cut(tokens[prompt_len:], model.pad_id), cut(step_map, 0), cut(logp, 0.0), length, passes


def scheduler(config, rng, number, begun):
    """`due(step, order) -> (next step, positions to commit)`; steps that commit nothing are passed
    over."""
    blocks, width = config.gen_length // config.block_length, config.block_length
    steps = -(-config.steps // blocks) if config.kind == "block" else max(1, config.steps // blocks)
    times = np.linspace(1, 1e-3, steps + 1, dtype=np.float32)
    noise = numbers(jax.random.uniform, jax.random.fold_in(rng, (1 << 30) + number), (width,))

    def due(step, order):
        while True:
            last, best = step == steps - 1, sorted(order, key=lambda i: (-(order[i] or 0), i))
            if config.kind != "dream":
                chosen = best[: begun // steps + (step < begun % steps)]
            elif config.alg == "origin":
                chosen = [i for i in order if last or noise[i % width] > times[step + 1]]
            else:
                share = np.float32(1) if last else 1 - times[step + 1] / times[step]
                chosen = best[: int(np.float32(len(order)) * share)]
            step += 1
            if chosen:
                return step, set(chosen)

    return due
