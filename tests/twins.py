"""The samplers once more: one row alone, for-loops over Python lists, float64.

Written from the released samplers and from what `types.Rollout` promises. Of the library only the
denoiser's logits are used, and jax's random numbers from the keys that a sampler's users know: a
row's key folded with the pass, or with 2^30 plus the block.
"""

import math
from typing import NamedTuple

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
    """A token from softmax(z): first a group of neighbours wins with its noise, then a member."""
    groups = z.reshape(len(group_noise), -1)
    with np.errstate(divide="ignore"):  # a group in which nothing may be drawn
        won = int(np.argmax(np.log(np.exp(groups - z.max()).sum(axis=1)) + group_noise))
    return won * groups.shape[1] + int(np.argmax(groups[won] + member_noise))


class Noise(NamedTuple):
    """A pass's noise, [C, ...]; of one position, its row."""

    group: np.ndarray
    member: np.ndarray
    order: np.ndarray

    def at(self, place):
        return Noise(self.group[place], self.member[place], self.order[place])


def noise_of(config, key, width, vocab_size):
    size = max(1, math.gcd(vocab_size, 512) // 8)
    kind = jax.random.gumbel if config.kind == "dream" else jax.random.uniform
    return Noise(
        numbers(jax.random.gumbel, jax.random.fold_in(key, 0), (width, vocab_size // size)),
        numbers(jax.random.gumbel, jax.random.fold_in(key, 1), (width, size)),
        numbers(kind, jax.random.fold_in(key, 2), (width,)),
    )


def propose(config, model, temperature, logits, raw, noise, own_order):
    """(order, token, log-probability, probability) of one position.

    `own_order(p, token) -> number`, of the distribution that is sampled, where the config's order
    is a file's.
    """
    z = logits / temperature if temperature else logits.copy()
    z[model.mask_id] = -np.inf
    z = truncated(z, config.top_p)
    token = draw(z, noise.group, noise.member) if temperature else int(np.argmax(z))
    sure = softmax(logits)[token]
    if own_order is not None:
        order = own_order(softmax(z), token)
    elif config.kind != "dream":
        order = sure if config.remasking == "low_confidence" else noise.order
    elif config.alg == "origin":
        order = None
    else:
        order = confidence(config, z, token)
    if config.kind == "dream" and config.alg_temp and order is not None:
        order = order / config.alg_temp + noise.order
    return order, token, log_softmax(raw)[token], sure


class Row:
    """One row under way."""

    def __init__(self, prompts, row, config, model):
        gen, cap = config.gen_length, int(prompts.max_length_B[row])
        self.config, self.model, self.cap = config, model, cap
        self.prompt_len = prompts.tokens_BxP.shape[1]
        self.temperature = float(prompts.temperature_B[row])
        self.threshold = float(prompts.threshold_B[row])
        prompt = [int(t) for t in prompts.tokens_BxP[row]]
        self.tokens = prompt + [model.mask_id] * cap + [model.pad_id] * (gen - cap)
        self.valid = np.concatenate([np.asarray(prompts.valid_BxP[row]), np.arange(gen) < cap])
        self.step_map, self.logp = [0] * gen, [0.0] * gen
        self.masked, self.passes, self.length = set(range(cap)), 0, cap

    def proposals(self, look, rng, number, age, places, own_order):
        """{position: proposal} of a block's masked positions."""
        config, start = self.config, number * self.config.block_length
        raw, without = look(np.array(self.tokens, np.int32), self.valid, number, age)
        logits = raw if without is None else without + (1 + config.cfg_scale) * (raw - without)
        key = jax.random.fold_in(rng, self.passes)
        noise = noise_of(config, key, config.block_length, raw.shape[1])
        found = {}
        for i in places:
            own = None if own_order is None else lambda p, token, i=i: own_order(i, p, token)
            at = i - start
            found[i] = propose(
                config, self.model, self.temperature, logits[at], raw[at], noise.at(at), own
            )
        return found

    def commit(self, proposals, chosen):
        """Takes the chosen proposals, and those that are sure enough."""
        self.passes += 1
        sure = {i for i, proposal in proposals.items() if proposal[3] >= self.threshold}
        for i in chosen | sure:
            _, token, logp, _ = proposals[i]
            self.tokens[self.prompt_len + i] = token
            self.logp[i], self.step_map[i] = logp, self.passes
            self.masked.remove(i)

    def cut(self, values, filler):
        return values[: self.length] + [filler] * (self.config.gen_length - self.length)


def rollout(look, prompts, row, rng, config, model, own_order=None):
    """(tokens, step_map, logp, length, passes) of one row.

    `look(tokens, valid, block, age) -> (logits, logits without the prompt)`, [C, V] of the block's
    positions; `age` counts the passes since the block began. `own_order(position, p, token)` is
    what a file's ORDER says.
    """
    state = Row(prompts, row, config, model)
    stop_ids = model.stop_ids if config.stop_ids is None else config.stop_ids
    for number, start in enumerate(range(0, state.cap, config.block_length)):
        block = set(range(start, start + config.block_length))
        due = scheduler(config, rng, number, len(state.masked & block))
        age = step = 0
        while state.masked & block:
            places = sorted(state.masked & block)
            proposals = state.proposals(look, rng, number, age, places, own_order)
            step, chosen = due(step, {i: proposal[0] for i, proposal in proposals.items()})
            state.commit(proposals, chosen)
            age += 1
        existing = [i for i in sorted(block) if i < state.cap]
        stops = [i for i in existing if state.tokens[state.prompt_len + i] in stop_ids]
        if stops:
            state.length = stops[0] + 1
            break
    tokens = state.cut(state.tokens[state.prompt_len :], model.pad_id)
    step_map, logp = state.cut(state.step_map, 0), state.cut(state.logp, 0.0)
    return tokens, step_map, logp, state.length, state.passes


def scheduler(config, rng, number, begun):
    """`due(step, order) -> (next step, positions to commit)`.

    Steps that commit nothing are passed over.
    """
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
