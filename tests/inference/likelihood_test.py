"""Bounds against the sum over all masks in float64 NumPy, greedy decoding against a loop."""

import dataclasses
import itertools
import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from gdsd_jax import models, sharding
from gdsd_jax.inference import likelihood
from gdsd_jax.inference.generation import Model
from gdsd_jax.inference.likelihood import Pair
from gdsd_jax.sampling import SamplerConfig
from tests import reference
from tests.reference import MASK, PAD, random_params, tiny

CONFIG = tiny()
PAIRS = [
    Pair([5, 6, 7], [8, 9, 10, 11]),
    Pair([5], [12]),
    Pair([9, 9], [13, 2, 30, 4, 5], index=4),
]
DRAWS = 256


def model_of(**fields) -> Model:
    mesh = sharding.make_mesh({}, devices=jax.devices()[:1])
    sampler = SamplerConfig(**{"gen_length": 8, "block_length": 8, "steps": 2} | fields)
    tokenizer = SimpleNamespace(pad_id=PAD)
    return Model(models.make_denoiser(CONFIG), random_params(CONFIG), tokenizer, sampler, mesh)


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.fixture(scope="module")
def found(model):
    return likelihood.bounds(model, PAIRS, DRAWS, seed=0, batch=2)


def token_logp(pair: Pair, hidden: tuple[int, ...], block: int | None, params) -> np.ndarray:
    """Float64 log-probability of every token of the continuation where `hidden` ones are masked."""
    tokens = np.array([[*pair.context, *pair.continuation]])
    view, first = tokens.copy(), len(pair.context)
    view[0, [first + place for place in hidden]] = MASK
    if block is None:
        logits = reference.forward(CONFIG, params, view)[0, first:]
    else:
        valid = np.ones(tokens.shape, bool)
        logits = reference.doubled_logits(CONFIG, params, tokens, view, valid, first, block)[0]
    rows = range(len(pair.continuation))
    return reference.log_softmax(logits)[rows, pair.continuation]


def subsets(places) -> list[tuple[int, ...]]:
    sizes = range(len(places) + 1)
    return [part for size in sizes for part in itertools.combinations(places, size)]


def exact_bound(pair: Pair, block: int | None, params) -> float:
    """The bound of each block, its tokens hidden in every way, the other blocks not."""
    length, total = len(pair.continuation), 0.0
    size = block or length
    for start in range(0, length, size):
        places = range(start, min(start + size, length))
        for hidden in subsets(places)[1:]:
            logp = token_logp(pair, hidden, block, params)[list(hidden)].sum()
            total += logp / len(hidden) / math.comb(len(places), len(hidden))
    return total


def pair_deviation(pair: Pair, block: int | None, params) -> tuple[float, float]:
    """(mean, standard deviation) of what one mask and its complement say of the bound."""
    length, values, shares = len(pair.continuation), [], []
    for hidden in subsets(range(length)):
        rest = tuple(place for place in range(length) if place not in hidden)
        value = 0.0
        for half in (hidden, rest):
            logp = token_logp(pair, half, block, params)[list(half)].sum()
            value += (length + 1) / 2 * logp / max(len(half), 1)
        values.append(value)
        shares.append(1 / (length + 1) / math.comb(length, len(hidden)))
    mean = np.dot(shares, values)
    return mean, math.sqrt(np.dot(shares, (np.array(values) - mean) ** 2))


def test_bounds_are_the_sum_over_all_masks(model, found):
    """Within the error of independent draws; one token is known exactly. That error is also the
    one that is told."""
    for pair, (bound, error) in zip(PAIRS, found):
        mean, deviation = pair_deviation(pair, None, model.params)
        exact = exact_bound(pair, None, model.params)
        assert mean == pytest.approx(exact)
        assert abs(bound - exact) < 3 * deviation / math.sqrt(DRAWS) + 1e-4
        assert error == pytest.approx(deviation / math.sqrt(DRAWS), rel=0.2, abs=1e-6)
    assert found[1][0] == pytest.approx(exact_bound(PAIRS[1], None, model.params), abs=1e-5)


def test_bounds_of_block_causal_denoisers_are_sums_over_blocks():
    model = model_of(kind="block", block_length=2)
    pairs = [PAIRS[0], PAIRS[2]]
    for pair, (bound, _) in zip(pairs, likelihood.bounds(model, pairs, DRAWS, seed=1, batch=2)):
        mean, deviation = pair_deviation(pair, 2, model.params)
        assert mean == pytest.approx(exact_bound(pair, 2, model.params))
        assert abs(bound - mean) < 3 * deviation / math.sqrt(DRAWS) + 1e-4


def test_a_bound_depends_on_its_pair_and_the_seed_alone(model, found):
    alone = likelihood.bounds(model, PAIRS[2:], DRAWS, seed=0, batch=2)
    np.testing.assert_allclose(alone[0], found[2], rtol=1e-5)
    others = likelihood.bounds(model, PAIRS[2:], DRAWS, seed=1, batch=2)
    assert abs(others[0][0] - found[2][0]) > 1e-4


def greedy_text(context: list[int], length: int, params) -> list[int]:
    """The surest position of all takes its likeliest token, one a pass."""
    tokens = np.array([[*context, *[MASK] * length]])
    hidden = set(range(len(context), tokens.shape[1]))
    while hidden:
        logits = reference.forward(CONFIG, params, tokens)[0]
        logits[:, MASK] = -np.inf
        logp = reference.log_softmax(logits)
        place = max(hidden, key=lambda place: logp[place].max())
        tokens[0, place] = logp[place].argmax()
        hidden.remove(place)
    return tokens[0, len(context) :].tolist()


def test_greedy_decoding_is_the_loop(model):
    """As long as the continuation is, whatever the batch's width."""
    texts = [greedy_text(pair.context, 3 + place, model.params) for place, pair in enumerate(PAIRS)]
    same = [Pair(pair.context, text) for pair, text in zip(PAIRS, texts)]
    other = [
        Pair(pair.context, [*text[:-1], 2 + (text[-1] == 2)]) for pair, text in zip(PAIRS, texts)
    ]
    assert likelihood.are_greedy(model, same + other, batch=2) == [True] * 3 + [False] * 3


def test_an_empty_continuation_is_certain(model):
    (found,) = likelihood.likelihoods(model, [Pair([5], [])], draws=1, seed=0, batch=1, greedy=True)
    assert found == (0.0, 0.0, True)


def test_windows_cover_a_text_once():
    assert likelihood.windows([], 99, 4) == []
    assert likelihood.windows([1, 2, 3], 99, 4) == [([99], [1, 2, 3])]
    found = likelihood.windows(range(1, 8), 99, 4)
    assert found == [([99], [1, 2]), ([1, 2], [3, 4]), ([3, 4], [5, 6]), ([4, 5, 6], [7])]


class Letters:
    """A token a character, but "ab" is one."""

    stop_ids, bos_id = (0,), None

    def encode_spelled(self, text):
        return [ord(letter) for letter in text.replace("ab", "#")]


def test_pairs_are_encoded_in_one_piece():
    def pair(context, continuation, longest=9):
        ids = likelihood.encode_pair(Letters(), context, continuation, longest)
        return tuple("".join(map(chr, part)) for part in ids)

    assert pair("xy", " z") == ("xy", " z")
    assert pair("xy ", "z") == ("xy", " z")
    assert pair("", "z") == ("\0", "z")
    assert pair("xyz", "uv", 4) == ("yz", "uv")
    assert pair("xa", "b") == ("xa", "b")  # one piece: it is parted again
    assert pair("x", "") == ("x", "")
    with pytest.raises(ValueError, match="max_length=3: raise it"):
        pair("x", "xyz", 3)


def test_an_autoregressive_model_has_no_bound(model):
    config = dataclasses.replace(CONFIG, shift=True, attention="causal")
    other = model._replace(denoiser=models.make_denoiser(config))
    with pytest.raises(ValueError, match="this model is autoregressive"):
        likelihood.likelihoods(other, PAIRS, draws=2, seed=0, batch=2, greedy=True)
