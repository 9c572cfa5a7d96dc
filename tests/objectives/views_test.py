"""The masks each objective asks for, against plain loops and counts.

B rows, K draws, P prompt and G completion columns.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import models, objectives, scoring
from gdsd_jax.objectives import (
    CoupledGrpoConfig,
    DiffuGrpoConfig,
    DmpoConfig,
    EspoConfig,
    GdpoConfig,
    GdsdConfig,
    RftConfig,
    SftConfig,
    SpgConfig,
    Wd1Config,
    spg,
)
from gdsd_jax.types import Batch
from tests.reference import random_params, tiny

P, G = 3, 12
LENGTH = np.array([12, 7, 4, 1, 12, 9])  # answers through their end token


def make_batch(length=LENGTH, **fields):
    rows = len(length)
    return Batch(
        jnp.zeros((rows, P + G), jnp.int32),
        jnp.ones((rows, P + G), bool),
        jnp.asarray(length),
        None,
        prompt_len=P,
        **fields,
    )


def views(name, config, draws, seed=0, batch=None):
    views_fn = objectives.make_views_fn(name, config)
    draw = jax.jit(lambda batch, rng: views_fn(batch, draws, rng))
    return np.asarray(draw(make_batch() if batch is None else batch, jax.random.key(seed)))


NARROW = {  # the views that draw for prompt columns too, and some that do not
    "diffu_grpo": DiffuGrpoConfig(),
    "wd1": Wd1Config(),
    "coupled_grpo": CoupledGrpoConfig(),
    "gdsd": GdsdConfig(),
    **{f"spg {form}": SpgConfig(forward=form, block_length=4) for form in ("all", "block_random")},
}


@pytest.mark.parametrize("name", NARROW)
def test_padding_on_the_left_changes_no_view(name):
    """A round whose prompts are all short has the views of the same rows among long prompts."""
    wide, cut = make_batch(), 2
    narrow = wide.replace(
        tokens_BxL=wide.tokens_BxL[:, cut:],
        valid_BxL=wide.valid_BxL[:, cut:],
        prompt_len=P - cut,
        widest=P + G,
    )
    draw = functools.partial(views, name.split()[0], NARROW[name], 3)
    np.testing.assert_array_equal(draw(batch=narrow), draw(batch=wide)[..., cut:])
    np.testing.assert_array_equal(draw(batch=wide.replace(widest=P + G)), draw(batch=wide))


@pytest.mark.parametrize("count", ["full", "answer"])
@pytest.mark.parametrize("block", [4, 5, 100])
def test_blocks_by_confidence_are_the_released_loop(block, count):
    """The last floor(x / b) blocks whole, and of the block before them the x mod b least confident.

    Of the whole completion, where b is longer. Blocks here start with the completion, so a last
    one may be short: loop below.
    """
    logp = np.random.default_rng(0).standard_normal((len(LENGTH), G)).astype(np.float32)
    batch = make_batch(logp_BxG=jnp.asarray(logp))
    found = views(
        "gdsd", GdsdConfig(masks="block_confidence", mask_block=block, count=count), 40, batch=batch
    )
    assert not found[:, :, :P].any()
    seen = set()
    for draw in found[:, :, P:]:
        for row, mask in enumerate(draw):
            length = LENGTH[row] if count == "answer" else G
            left, wanted = mask[:length].sum(), np.zeros(G, bool)
            seen.add((row, left))
            for start in reversed(range(0, length, block)):
                places = np.arange(start, min(start + block, length))
                chosen = places[np.argsort(logp[row, places])][:left]
                wanted[chosen], left = True, left - len(chosen)
            wanted[length:] = True  # behind the answer nothing is shown
            np.testing.assert_array_equal(mask, wanted)
    assert len(seen) > 30  # counts of every size


def test_random_blocks_are_uniform_within_the_block():
    """Of the partly masked block each position is as likely; whole blocks lie behind it."""
    found = views(
        "gdsd", GdsdConfig(masks="block_random", mask_block=4), 3000, batch=make_batch([12])
    )[:, 0, P:]
    counts = np.bincount(found.sum(axis=1), minlength=G + 1)
    assert np.sum((counts - 3000 / 13) ** 2 / (3000 / 13)) < 32.9  # 12 degrees of freedom: 99.9%
    for mask in found:
        whole, part = divmod(mask.sum(), 4)
        assert mask[G - 4 * whole :].all() and mask[: max(G - 4 * whole - 4, 0)].sum() == 0
        assert mask[max(G - 4 * whole - 4, 0) : G - 4 * whole].sum() == part
    six = found[found.sum(axis=1) == 6]  # two of the second block's four
    seen = six[:, 4:8].sum(axis=0)
    # at most 3 degrees of freedom
    assert np.sum((seen - len(six) / 2) ** 2 / (len(six) / 2)) < 16.3


@pytest.mark.parametrize("forward", ["random", "block_all", "block_random"])
def test_spg_views(forward):
    """Position by position; the blocks of a draw are known by drawing them again."""
    config = SpgConfig(
        forward=forward, block_length=4, min_share=0.3, max_share=0.8, mask_prompt=0.25
    )
    views_fn = objectives.make_views_fn("spg", config)

    @jax.jit
    def draw(rng):
        return views_fn(make_batch(), 2, rng), spg.draw_blocks(
            config, make_batch(), 2, jax.random.split(rng, 4)[0]
        )

    before, blocks, counts = [], [set() for _ in LENGTH], []
    for seed in range(150):
        masks, block = map(np.asarray, draw(jax.random.key(seed)))
        assert block[0, 0] != block[1, 0]  # three blocks are touched: two draws take different ones
        for k, row in np.ndindex(block.shape):
            mask, length = masks[k, row, P:], LENGTH[row]
            start, end = (
                (0, length)
                if forward == "random"
                else (4 * block[k, row], min(4 * block[k, row] + 4, length))
            )
            blocks[row].add(start // 4)
            before += masks[k, row, : P + start].tolist()
            assert mask[end:].all() and start < end
            low = max(int((end - start) * 0.3), 1)
            high = max(int((end - start) * 0.8), low)
            assert (
                mask[start:end].all()
                if forward == "block_all"
                else low <= mask[start:end].sum() <= high
            )
            if end - start == 4:
                counts.append(mask[start:end].sum())
    assert np.mean(before) == pytest.approx(0.25, abs=0.02)
    assert forward == "random" or blocks == [set(range((length - 1) // 4 + 1)) for length in LENGTH]
    if forward == "block_random":  # of four, 1, 2 or 3 are masked, each a third of the time
        np.testing.assert_allclose(np.bincount(counts)[1:] / len(counts), 1 / 3, atol=0.06)


def test_one_step_views():
    """The completion whole, each prompt token by its own coin."""
    for name, config in (
        ("diffu_grpo", DiffuGrpoConfig()),
        ("wd1", Wd1Config()),
        ("spg", SpgConfig(forward="all")),
    ):
        found = views(name, config, 800)
        assert found[:, :, P:].all()
        assert found[:, :, :P].mean() == pytest.approx(0.15, abs=0.015)  # five standard errors
    assert not views("diffu_grpo", DiffuGrpoConfig(mask_prompt=0.0), 50)[:, :, :P].any()


def test_coupled_views_share_one_ratio():
    found = views("coupled_grpo", CoupledGrpoConfig(), 500)
    counts = found[:, :, P:].sum(axis=2)
    assert not found[:, :, :P].any()
    assert (counts == counts[:, :1]).all()  # one ratio for all rows
    assert set(np.unique(counts)) == set(range(2, 11))  # round(12 t), t in 0.2 .. 0.8
    # other positions each time
    assert len({tuple(mask) for mask in found[counts[:, 0] == 6, 0]}) > 20


def test_dmpo_views_are_coins():
    """Masked with probability uniform in 0.1 .. 1, so with 0.55 on average.

    All behind the answer, where that alone counts.
    """
    found = views("dmpo", DmpoConfig(), 2000)[:, :, P:]
    assert found.mean() == pytest.approx(0.55, abs=0.02)
    share = found.mean(axis=2)
    # the mean of 12 coins of probability p uniform in 0.1 .. 1: 0.9^2 / 12 + E p (1 - p) / 12
    assert share.var() == pytest.approx(0.81 / 12 + (0.55 - 0.37) / 12, rel=0.1)
    answer = views("dmpo", DmpoConfig(count="answer"), 50)[:, :, P:]
    for row, length in enumerate(LENGTH):
        assert answer[:, row, length:].all() and not answer[:, row, :length].all()


PAIRED = {
    "gdsd": GdsdConfig(count="answer"),
    "espo": EspoConfig(count="answer"),
    "gdpo": GdpoConfig(count="answer"),
    "dmpo": DmpoConfig(count="answer"),
    "rft": RftConfig(count="answer"),
    "sft": SftConfig(count="answer"),
}


@pytest.mark.parametrize("name", PAIRED)
def test_the_end_of_an_answer_is_not_shown_by_what_stands_behind_it(name):
    """The scores of two halves do not depend on the padding, whose end would tell the length."""
    model = tiny(vocab_size=32)
    denoiser, params = models.make_denoiser(model), random_params(model)
    tokens = np.random.default_rng(1).integers(3, 20, (len(LENGTH), P + G))
    batch = make_batch().replace(tokens_BxL=jnp.asarray(tokens))
    masks = views(name, PAIRED[name], 3, batch=batch)
    score = jax.jit(
        lambda tokens: scoring.pair_token_scores(
            denoiser,
            params,
            batch.replace(tokens_BxL=tokens, masks_KxBxL=jnp.asarray(masks)),
            scoring.counted(batch, "answer"),
        )[0]
    )
    behind = np.arange(P + G)[None, :] >= P + LENGTH[:, None]
    found, other = score(jnp.asarray(tokens)), score(jnp.asarray(np.where(behind, 7, tokens)))
    inside = np.broadcast_to(~behind[:, P:], found.shape)
    np.testing.assert_array_equal(np.asarray(found)[inside], np.asarray(other)[inside])


def test_impossible_views_are_refused_by_name():
    for config, draws in ((SpgConfig(block_length=5), 2), (SpgConfig(block_length=6), 3)):
        with pytest.raises(ValueError, match="spg.block_length"):
            views("spg", config, draws)
    for options, word in (
        (dict(estimate="flat"), "estimate"),
        (dict(min_share=0.9, max_share=0.1), "min_share"),
        (dict(forward="all_of"), "forward"),
        (dict(beta_eubo=0.0), "beta_eubo"),
    ):
        with pytest.raises(ValueError, match=word):
            SpgConfig(**options)


def test_ranks_order_columns():
    order = jnp.array([[3.0, 1.0, 2.0, 1.0, 0.0]])
    among = jnp.array([[True, True, True, True, False]])
    np.testing.assert_array_equal(scoring.ranks(order, among), [[3, 0, 2, 1, 4]])
