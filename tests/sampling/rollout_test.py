"""The sampling engine against its plain-Python twins and the promises of a rollout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import models, sampling
from gdsd_jax.types import Prompts
from tests import twins
from tests.reference import MASK, PAD, SCALING, attending_params, constant_denoiser, tiny

ROWS, P, G = 6, 5, 12
FAMILIES = {  # kinds of model, not of sampler
    "plain": tiny(vocab_size=32, stop_ids=(5, 9)),
    "shifted": tiny(vocab_size=32, stop_ids=(5, 9), qkv_bias=True, shift=True),
    "normed": tiny(vocab_size=32, stop_ids=(5, 9), qk_norm=True),
    "biased": tiny(vocab_size=32, stop_ids=(5, 9), qkv_bias=True),
    "scaled": tiny(vocab_size=32, stop_ids=(5, 9), rope_scaling=SCALING),
}


def of(**settings):
    return sampling.SamplerConfig(**{"gen_length": G, "block_length": 4, **settings})


CASES = {  # model, sampler
    "one a pass": ("plain", of(steps=12)),
    "uneven quota": ("plain", of(block_length=6, steps=8)),
    "random order": ("plain", of(block_length=6, steps=6, remasking="random")),
    "never stops": ("plain", of(steps=6, stop_ids=())),
    "guided, top-p": ("normed", of(steps=9, cfg_scale=0.7, top_p=0.8)),
    "dream": ("shifted", of(kind="dream", block_length=None, steps=9)),
    "dream, maskgit_plus at a temperature": (
        "shifted",
        of(kind="dream", block_length=None, steps=6, alg="maskgit_plus", alg_temp=0.3, top_p=0.9),
    ),
    "dream, margin, in blocks": (
        "shifted",
        of(kind="dream", block_length=6, steps=8, alg="topk_margin"),
    ),
    "dream, origin": ("shifted", of(kind="dream", block_length=None, steps=8, alg="origin")),
    "block-causal": ("normed", of(kind="block", steps=7)),
    "block-causal, as a2d-qwen2": ("biased", of(kind="block", steps=7)),
    "block-causal, as a2d-llama": ("scaled", of(kind="block", steps=7)),
    "dual": ("shifted", of(block_length=6, steps=12, cache="dual")),
    "prefix, refreshed": ("plain", of(block_length=6, steps=12, cache="prefix", refresh_every=3)),
    "dual, guided": ("plain", of(block_length=6, steps=8, cache="dual", cfg_scale=0.5)),
}


@pytest.fixture(scope="module")
def weights():
    """Attention weighs enough that masked positions differ.

    Stop ids occur early, late and not at all.
    """
    found = {name: attending_params(model) for name, model in FAMILIES.items()}
    for params in found.values():
        params["lm_head"]["kernel"] *= 1.5
    return found


@pytest.fixture(scope="module")
def prompts():
    """Ragged prompts; temperatures, thresholds and caps differ by row."""
    tokens = np.random.default_rng(1).integers(2, 24, (ROWS, P)).astype(np.int32)
    valid = np.arange(P)[None, :] >= np.array([0, 1, 4, 2, 0, 3])[:, None]
    return Prompts(
        jnp.asarray(np.where(valid, tokens, PAD)),
        jnp.asarray(valid),
        temperature_B=jnp.array([0.0, 1.0, 1.0, 0.7, 0.0, 1.5]),
        threshold_B=jnp.array([jnp.inf, jnp.inf, 0.3, 0.2, 0.25, jnp.inf]),
        max_length_B=jnp.array([12, 12, 12, 10, 7, 3]),
    )


@pytest.fixture(scope="module")
def rng():
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(8), i))(jnp.arange(ROWS))


@pytest.fixture(scope="module")
def traces():
    """One entry each time that anything traces the model."""
    return []


@pytest.fixture(scope="module")
def rollout_fns(traces):
    def counting(model):
        denoiser = models.make_denoiser(model)

        def features(*args, **kwargs):
            traces.append(1)
            return denoiser.features(*args, **kwargs)

        return denoiser._replace(features=features)

    counted = {name: counting(model) for name, model in FAMILIES.items()}
    return {
        name: sampling.make_rollout_fn(counted[family], config)
        for name, (family, config) in CASES.items()
    }


@pytest.fixture(scope="module")
def rollouts(rollout_fns, weights, prompts, rng):
    found = {name: fn(weights[CASES[name][0]], prompts, rng) for name, fn in rollout_fns.items()}
    return jax.tree.map(np.asarray, found)


@pytest.fixture(scope="module")
def full_logits():
    """Per family, `(params, tokens, valid, block width or 0) -> [L, V]` of one whole row."""

    def make(model):
        denoiser = models.make_denoiser(model)

        def fn(params, tokens, valid, width):
            attention = models.BlockCausal(width, P) if width else None
            h = denoiser.features(params, tokens[None], valid_BxL=valid[None], attention=attention)
            return denoiser.unembed(params, h)[0]

        return jax.jit(fn, static_argnums=3)

    return {name: make(model) for name, model in FAMILIES.items()}


class Look:
    """What the twin sees of the model.

    Every column forwarded, or between refreshes as few as the cache's name says.
    """

    def __init__(self, config, params, denoiser, extend, full_logits):
        self.config, self.params, self.denoiser = config, params, denoiser
        self.extend, self.full, self.caches = extend, full_logits, {}

    def __call__(self, tokens, valid, block, age):
        without = tokens.copy()
        without[:P] = MASK
        return self.logits("with", tokens, valid, block, age), (
            self.logits("without", without, valid, block, age) if self.config.cfg_scale else None
        )

    def logits(self, stream, tokens, valid, block, age):
        width, cache = self.config.block_length, self.config.cache
        start = P + block * width
        exact = cache in ("none", "block")
        if not exact and (
            age == 0 or (self.config.refresh_every and age % self.config.refresh_every == 0)
        ):
            empty = self.denoiser.init_cache(
                self.params, 1, P + G, valid_BxL=jnp.asarray(valid)[None]
            )
            self.caches[stream] = self.extend(self.params, tokens[None], empty, 0, write=True)[1]
            exact = True
        if exact:
            all_columns = self.full(
                self.params, tokens, valid, width if self.config.kind == "block" else 0
            )
            return np.asarray(all_columns, np.float64)[start : start + width]
        end = start + width if cache == "dual" else P + G
        h, _ = self.extend(
            self.params, tokens[None, start:end], self.caches[stream], start, write=False
        )
        return np.asarray(self.denoiser.unembed(self.params, h[0, :width]), np.float64)


@pytest.mark.parametrize("name", CASES)
def test_rollouts_are_the_twins(name, rollouts, full_logits, weights, prompts, rng):
    """Each row equals the row sampled alone, whenever its neighbours stop."""
    (family, config), found = CASES[name], rollouts[name]
    denoiser = models.make_denoiser(FAMILIES[family])
    extend = jax.jit(denoiser.extend, static_argnames="write")
    for row in range(ROWS):
        look = Look(config, weights[family], denoiser, extend, full_logits[family])
        tokens, step_map, logp, length, passes = twins.rollout(
            look, prompts, row, rng[row], config, FAMILIES[family]
        )
        np.testing.assert_array_equal(found.tokens_BxG[row], tokens)
        np.testing.assert_array_equal(found.step_map_BxG[row], step_map)
        assert (found.length_B[row], found.passes_B[row]) == (length, passes)
        # float32 features of a batch against those of one row
        np.testing.assert_allclose(found.logp_BxG[row], logp, atol=2e-5)


def test_the_cases_are_worth_comparing(rollouts, prompts):
    """Rows stop early, in different blocks, and rows run to their cap.

    Thresholds commit more than the quota.
    """
    caps = np.asarray(prompts.max_length_B)
    lengths = np.stack(
        [rollouts[name].length_B for name in ("one a pass", "uneven quota", "random order")]
    )
    assert np.any(lengths < caps) and np.any(lengths == caps)
    assert len(set((lengths - 1).flatten() // 4)) > 1
    assert np.any(rollouts["one a pass"].passes_B < rollouts["one a pass"].length_B)
    assert np.array_equal(rollouts["never stops"].length_B, caps)
    for first, second in (
        ("dual", "prefix, refreshed"),
        ("block-causal", "guided, top-p"),
        ("dream", "dream, origin"),
    ):
        assert not np.array_equal(rollouts[first].tokens_BxG, rollouts[second].tokens_BxG)


def test_every_rollout_keeps_its_promises(rollouts):
    for name, rollout in rollouts.items():
        inside = np.arange(G)[None, :] < rollout.length_B[:, None]
        assert not np.any(rollout.tokens_BxG == MASK)
        assert np.all(rollout.tokens_BxG[~inside] == PAD)
        assert np.all(rollout.logp_BxG[~inside] == 0) and np.all(rollout.step_map_BxG[~inside] == 0)
        assert np.all(rollout.step_map_BxG[inside] >= 1) and np.all(rollout.logp_BxG[inside] < 0)
        assert np.all(rollout.step_map_BxG.max(axis=1) <= rollout.passes_B)
        if name != "never stops":
            stops = np.isin(rollout.tokens_BxG, (5, 9)) & inside
            assert np.all(stops.sum(axis=1) <= 1)  # only ever the last token
            assert np.all(
                np.argmax(stops, axis=1)[stops.any(axis=1)]
                == rollout.length_B[stops.any(axis=1)] - 1
            )


@pytest.mark.parametrize("name", [name for name, (_, one) in CASES.items() if not one.approximate])
def test_a_replay_finds_what_was_recorded(name, rollouts, weights, prompts):
    """To 1e-5 a token, whatever caps, thresholds, stop ids and tokens behind them."""
    (family, config), uncut = CASES[name], rollouts[name].uncut

    @jax.jit
    def replayed(params, uncut):
        denoiser, (tokens, valid) = (
            models.make_denoiser(FAMILIES[family]),
            (
                prompts.tokens_BxP,
                prompts.valid_BxP,
            ),
        )
        block, passes = config.causal_block, config.most_passes
        return sampling.replay(denoiser, params, tokens, valid, uncut, block=block, passes=passes)

    found = replayed(weights[family], uncut)
    assert np.any(uncut.step_map_BxG > 0) and np.any(uncut.step_map_BxG == 0)
    np.testing.assert_allclose(found, uncut.logp_BxG, rtol=0, atol=1e-5)


def test_settings_of_a_row_do_not_recompile(rollout_fns, rollouts, traces, weights, prompts, rng):
    rollout_fn, params, before = rollout_fns["never stops"], weights["plain"], len(traces)
    other = prompts.replace(
        temperature_B=prompts.temperature_B + 1,
        threshold_B=prompts.threshold_B / 2,
        max_length_B=prompts.max_length_B - 1,
    )
    shorter = rollout_fn(params, other, rng)
    rollout_fn(params, prompts.replace(tokens_BxP=prompts.tokens_BxP[::-1]), rng[::-1])
    assert before > 0 and len(traces) == before
    assert np.array_equal(shorter.length_B, other.max_length_B)  # the new settings were obeyed
    assert not np.array_equal(shorter.tokens_BxG[:, :2], rollouts["never stops"].tokens_BxG[:, :2])


def test_a_rollout_can_be_watched(rollouts, weights, prompts, rng):
    """Pass by pass from the host: the rollout's own numbers.

    Every state adds commitments to the one before.
    """
    family, config = CASES["dual"]
    begin, advance, running, end = sampling.make_passes(
        models.make_denoiser(FAMILIES[family]), config
    )
    asked = sampling.with_defaults(prompts, G)
    advance = jax.jit(advance)
    state, masked = begin(weights[family], asked), []
    while running(state):
        masked.append(np.asarray(state.masked_BxG))
        state = advance(weights[family], asked, rng, state)
    for before, after in zip(masked, masked[1:]):
        assert np.all(after <= before) and np.any(after < before)
    jax.tree.map(np.testing.assert_array_equal, end(asked, state), rollouts["dual"])


def test_nothing_but_the_prompts_is_needed():
    """Without settings: greedy, no threshold, the whole length."""
    logits = np.array([0.3, 2.5, 1.0, -0.5, 1.7, 0.0])
    config = sampling.SamplerConfig(gen_length=6, block_length=3, steps=6)
    rollout_fn = sampling.make_rollout_fn(constant_denoiser(logits), config)
    prompts = Prompts(jnp.full((2, 1), 2), jnp.ones((2, 1), bool))
    rollout = rollout_fn({}, prompts, jax.random.split(jax.random.key(0), 2))
    np.testing.assert_array_equal(rollout.tokens_BxG, 4)  # the likeliest but the mask
    # one a pass, ties by lowest column
    np.testing.assert_array_equal(rollout.step_map_BxG, [[1, 2, 3, 4, 5, 6]] * 2)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"gen_length": 10}, "gen_length"),
        ({"steps": 0}, "steps"),
        ({"remasking": "entropy"}, "remasking"),
        ({"kind": "dreamy"}, "kind"),
        ({"block_length": -8}, "block_length"),
        ({"alg": "random"}, "alg"),
        ({"cache": "block"}, "cache"),
        ({"kind": "block", "cache": "dual"}, "cache"),
        ({"top_p": 0.0}, "top_p"),
        ({"cfg_scale": -1.0}, "cfg_scale"),
        ({"refresh_every": -1}, "refresh_every"),
        ({"gen_length": 130, "block_length": 2, "cache": "prefix"}, "prefix"),
    ],
)
def test_impossible_configs_are_refused_by_name(change, word):
    with pytest.raises(ValueError, match=word):
        sampling.SamplerConfig(**{"gen_length": 16, "block_length": 8, "steps": 8, **change})


def test_a_denoiser_without_a_cache_is_refused():
    with pytest.raises(ValueError, match="cache='dual'"):
        sampling.make_rollout_fn(constant_denoiser(np.zeros(4)), of(cache="dual"))
