"""The forward against float64 NumPy; padding, rematerialisation, precision, released sizes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import models
from gdsd_jax.models import transformer
from tests.reference import SCALING, forward, random_params, rates, tiny

L = 9
TOKENS = np.random.default_rng(3).integers(2, 40, (3, L)).astype(np.int32)
VALID = np.ones((3, L), bool)
VALID[1, :4] = False  # left padding
VALID[2, 6:] = False  # right padding

COLUMN = np.arange(L)
CAUSAL = COLUMN[None, :] <= COLUMN[:, None]
BLOCKS_OF_3_FROM_2 = np.array([-1, -1, 0, 0, 0, 1, 1, 1, 2])

CASES = {  # config, attention argument, who may look at whom [query, key]
    "grouped heads": (tiny(), None, None),
    "biases and shift, as Dream": (
        tiny(qkv_bias=True, shift=True, rope_theta=1e6, norm_eps=1e-6),
        None,
        None,
    ),
    "q/k-norm, tied, causal, shift, as Qwen3": (
        tiny(qk_norm=True, tied=True, attention="causal", shift=True),
        None,
        CAUSAL,
    ),
    "biases, causal, shift, as Qwen2": (
        tiny(qkv_bias=True, attention="causal", shift=True),
        None,
        CAUSAL,
    ),
    "scaled rotations, tied, causal, shift, as Llama 3": (
        tiny(tied=True, attention="causal", shift=True, rope_scaling=SCALING),
        None,
        CAUSAL,
    ),
    "q/k-norm, causal overridden": (
        tiny(qk_norm=True, attention="causal", kv_heads=1),
        models.Full(),
        None,
    ),
    "block-causal": (
        tiny(kv_heads=4),
        models.BlockCausal(3, offset=2),
        BLOCKS_OF_3_FROM_2[None, :] <= BLOCKS_OF_3_FROM_2[:, None],
    ),
}

PROMPT, BLOCK, GEN = 3, 2, 3  # a doubled row: prompt 0..2, clean 3..5, noised 6..8
STREAM = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1])
PLACE = np.array([-3, -2, -1, 0, 1, 2, 0, 1, 2]) // BLOCK  # blocks count from the end of the prompt


def doubled_LxL():
    """Entry by entry: who may look (first index) at whom."""
    allowed = np.zeros((L, L), bool)
    for query, key in np.ndindex(L, L):
        if STREAM[query] == STREAM[key] == 1:
            allowed[query, key] = PLACE[query] == PLACE[key]
        elif STREAM[key] == 0:
            allowed[query, key] = (
                PLACE[key] < PLACE[query] if STREAM[query] else PLACE[key] <= PLACE[query]
            )
    return allowed


def logits_of(config, params, tokens, **options):
    denoiser = models.make_denoiser(config)

    def fn(params, tokens, valid):
        return denoiser.unembed(
            params, denoiser.features(params, tokens, valid_BxL=valid, **options)
        )

    return jax.jit(fn)(params, tokens, VALID)


@pytest.mark.parametrize("case", CASES)
def test_forward_is_the_float64_rendering(case):
    config, attention, allowed = CASES[case]
    params = random_params(config, seed=1)
    ours = np.asarray(logits_of(config, params, TOKENS, attention=attention))
    theirs = forward(config, params, TOKENS, VALID, allowed_LxL=allowed)
    assert ours.dtype == np.float32 and np.all(np.isfinite(ours))
    # float32 rounding over two layers of width 20: a few 1e-6 of the largest logit; a wrong head,
    # angle or norm is 1e-1
    np.testing.assert_allclose(ours[VALID], theirs[VALID], atol=2e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("name", ["llama3p1_8b", "llama3p2_1b", "smollm2_135m"])
def test_frequencies_are_the_float64_rendering(name):
    """Of the released parameters, on either side of and between both bounds."""
    config = models.MODELS[name]
    ours, theirs = np.asarray(transformer.frequencies(config)), rates(config)
    np.testing.assert_allclose(ours, theirs, rtol=2e-6)  # a power and a few products in float32
    slower = rates(dataclasses.replace(config, rope_scaling=None)) / theirs
    if config.rope_scaling is not None:
        factor = config.rope_scaling[0]
        assert slower[0] == 1 and np.isclose(slower[-1], factor)
        assert np.any((slower > 1.01) & (slower < 0.99 * factor))


@pytest.mark.parametrize("shift, continues", [(False, False), (True, False), (True, True)])
def test_doubled_row_is_its_streams_apart(shift, continues):
    """The clean stream is a block-causal row.

    A noised block is that row with the block replaced by its noised self.
    """
    config = tiny(shift=shift)
    params, denoiser = random_params(config, seed=1), models.make_denoiser(config)
    valid = np.ones((2, L), bool)
    valid[1, 0] = False

    @functools.partial(jax.jit, static_argnums=2)
    def logits(tokens, valid, attention):
        h = denoiser.features(params, tokens, valid_BxL=valid, attention=attention)
        return denoiser.unembed(params, h)

    ours = np.asarray(logits(TOKENS[:2], valid, models.Doubled(PROMPT, BLOCK, continues)))
    clean, noised = TOKENS[:2, : PROMPT + GEN], TOKENS[:2, PROMPT + GEN :]
    block_causal = models.BlockCausal(BLOCK, PROMPT)
    atol = 2e-5 * np.abs(ours).max()
    whole = logits(clean, valid[:, : PROMPT + GEN], block_causal)
    np.testing.assert_allclose(ours[0, : PROMPT + GEN], whole[0], atol=atol)
    np.testing.assert_allclose(ours[1, 1 : PROMPT + GEN], whole[1, 1:], atol=atol)
    for start in range(0, GEN, BLOCK):
        block = slice(start, min(start + BLOCK, GEN))
        row = clean.copy()
        row[:, PROMPT:][:, block] = noised[:, block]
        alone = np.asarray(logits(row, valid[:, : PROMPT + GEN], block_causal))[:, PROMPT:][
            :, block
        ]
        # with a shift the block's first position takes the state before it, which is another in the
        # noised stream unless that goes on from the clean one
        first = 1 if shift and start and not continues else 0
        np.testing.assert_allclose(
            ours[:, PROMPT + GEN :][:, block][:, first:], alone[:, first:], atol=atol
        )


def test_doubled_row_against_float64_and_its_shift():
    spec = models.Doubled(PROMPT, BLOCK)
    config, params = tiny(kv_heads=4), random_params(tiny(kv_heads=4), seed=1)
    positions = np.array([COLUMN - 3 * (COLUMN >= 6)] * 3)
    everywhere = np.ones((3, L), bool)
    denoiser = models.make_denoiser(config)
    ours = jax.jit(
        lambda t: denoiser.unembed(params, denoiser.features(params, t, attention=spec))
    )(TOKENS)
    theirs = forward(config, params, TOKENS, everywhere, positions, doubled_LxL())
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())
    shifted = models.make_denoiser(dataclasses.replace(config, shift=True))
    moved = jax.jit(lambda t: shifted.unembed(params, shifted.features(params, t, attention=spec)))(
        TOKENS
    )
    # the first noised position takes the prompt's last state, column 2, and column 0 keeps its own
    before = [0, 0, 1, 2, 3, 4, 2, 6, 7]
    np.testing.assert_allclose(moved, theirs[:, before], atol=2e-5 * np.abs(theirs).max())


def test_positions_can_be_given():
    config, positions = tiny(), np.stack([COLUMN + 5, 3 * COLUMN, COLUMN // 2])
    params = random_params(config, seed=1)
    ours = np.asarray(logits_of(config, params, TOKENS, positions_BxL=jnp.asarray(positions)))
    theirs = forward(config, params, TOKENS, VALID, positions)
    np.testing.assert_allclose(ours[VALID], theirs[VALID], atol=2e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("attention", ["full", "causal"])
def test_padding_is_never_seen(attention):
    """Other tokens under the padding change no bit elsewhere.

    No gradient reaches their embeddings.
    """
    config = tiny(attention=attention, shift=attention == "causal")
    params, padding_token = random_params(config), 39
    tokens = np.where(VALID, np.minimum(TOKENS, padding_token - 1), padding_token)
    denoiser = models.make_denoiser(config)

    @jax.jit
    def read(params, tokens):
        def total(params):
            h = denoiser.features(params, tokens, valid_BxL=jnp.asarray(VALID))
            return jnp.sum(jnp.where(VALID[..., None], h, 0.0) ** 2), h

        return jax.value_and_grad(total, has_aux=True)(params)

    (_, h), grads = read(params, tokens)
    (_, other), _ = read(params, np.where(VALID, tokens, 7))
    np.testing.assert_array_equal(np.asarray(h)[VALID], np.asarray(other)[VALID])
    gradient_of_row = np.abs(np.asarray(grads["embed"]["embedding"])).max(axis=1)
    assert gradient_of_row[padding_token] == 0
    assert gradient_of_row[tokens[0, 0]] > 0


@pytest.mark.parametrize(
    "attention, allowed", [(models.Causal(), CAUSAL), CASES["block-causal"][1:]]
)
def test_nobody_looks_where_it_is_not_allowed(attention, allowed):
    """Another token in column j changes column i exactly where i may look at j."""
    config = tiny()
    params, denoiser = random_params(config), models.make_denoiser(config)
    tokens = np.tile(TOKENS[:1], (L + 1, 1))
    tokens[COLUMN, COLUMN] ^= 1  # row j differs from the last row in column j alone
    h = jax.jit(lambda tokens: denoiser.features(params, tokens, attention=attention))(tokens)
    changed_JxI = np.any(np.asarray(h[:L]) != np.asarray(h[L:]), axis=-1)
    np.testing.assert_array_equal(changed_JxI, allowed.T)


def test_remat_changes_no_gradient():
    params = random_params(tiny())

    def gradient(remat):
        denoiser = models.make_denoiser(tiny(remat=remat))

        def loss(p):
            return jnp.mean(denoiser.features(p, TOKENS, valid_BxL=VALID) ** 4)

        return jax.jit(jax.grad(loss))(params)

    plain = gradient("none")
    for remat in ("dots", "full"):
        # the same operations in another order of fusion: float32 rounding
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6 * np.abs(b).max()),
            gradient(remat),
            plain,
        )


def test_bfloat16_activations_stay_close():
    config = tiny()
    params = random_params(config, seed=2)
    exact = np.asarray(logits_of(config, params, TOKENS))[VALID]
    rounded = np.asarray(logits_of(dataclasses.replace(config, dtype="bfloat16"), params, TOKENS))[
        VALID
    ]
    assert rounded.dtype == np.float32 and not np.array_equal(rounded, exact)
    # bfloat16 keeps 8 bits (4e-3) and about ten roundings lie on the way
    assert np.linalg.norm(rounded - exact) < 3e-2 * np.linalg.norm(exact)


def test_released_model_has_the_released_sizes():
    config = models.MODELS["llada_8b"]
    shapes = models.param_shapes(config)  # abstract: nothing is allocated
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }
    assert flat == {
        "embed.embedding": (126_464, 4096),
        "layers.attn_norm.scale": (32, 4096),
        "layers.mlp_norm.scale": (32, 4096),
        "layers.q.kernel": (32, 4096, 4096),
        "layers.k.kernel": (32, 4096, 4096),
        "layers.v.kernel": (32, 4096, 4096),
        "layers.o.kernel": (32, 4096, 4096),
        "layers.gate.kernel": (32, 4096, 12_288),
        "layers.up.kernel": (32, 4096, 12_288),
        "layers.down.kernel": (32, 12_288, 4096),
        "final_norm.scale": (4096,),
        "lm_head.kernel": (4096, 126_464),
    }


def test_optional_parameters_exist_only_where_asked_for():
    shapes = models.param_shapes(tiny(qkv_bias=True, qk_norm=True, tied=True))
    assert "lm_head" not in shapes
    assert shapes["layers"]["q"]["bias"].shape == (2, 24) and shapes["layers"]["k"][
        "bias"
    ].shape == (2, 12)
    assert "bias" not in shapes["layers"]["o"]
    assert (
        shapes["layers"]["q_norm"]["scale"].shape
        == shapes["layers"]["k_norm"]["scale"].shape
        == (2, 6)
    )


@pytest.mark.parametrize(
    "change, word",
    [
        ({"heads": 3}, "kv_heads"),
        ({"mask_id": 40}, "mask_id"),
        ({"attention": "ring"}, "attention"),
        ({"remat": "all"}, "remat"),
        ({"lora_targets": ("q", "ff")}, "ff"),
    ],
)
def test_impossible_configs_are_refused_by_name(change, word):
    with pytest.raises(ValueError, match=word):
        tiny(**change)
