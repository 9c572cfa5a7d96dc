"""The sampling engine against a plain-Python twin, the reference's tokens, and probability theory."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import hf, models, sampling
from gdsd_jax.types import Prompts
from tests.reference import MASK, PAD, constant_denoiser, log_softmax, random_params, tiny

MODEL = tiny(vocab_size=24, stop_ids=(5, 9))
ROWS, P = 6, 5
GOLDEN_CASES = ("g16_b8_s16", "g16_b8_s8", "g16_b8_s6", "g32_b8_s12", "g16_b8_s8_leftpad")  # where no mask is left over


@pytest.fixture(scope="module")
def params():
    """Attention weighs enough that masked positions differ, and stop ids occur early, late and not at all."""
    params = random_params(MODEL, seed=6)
    params["lm_head"]["kernel"] *= 1.5
    params["layers"]["o"]["kernel"] *= 4.0
    return params


@pytest.fixture(scope="module")
def prompts():
    """Ragged prompts; temperatures, thresholds and caps differ by row."""
    tokens = np.random.default_rng(1).integers(2, 24, (ROWS, P)).astype(np.int32)
    valid = np.arange(P)[None, :] >= np.array([0, 1, 4, 2, 0, 3])[:, None]
    return Prompts(
        jnp.asarray(np.where(valid, tokens, PAD)), jnp.asarray(valid),
        temperature_B=jnp.array([0.0, 1.0, 1.0, 0.7, 0.0, 1.5]),
        threshold_B=jnp.array([jnp.inf, jnp.inf, 0.3, 0.2, 0.25, jnp.inf]),
        max_length_B=jnp.array([12, 12, 12, 10, 7, 3]),
    )  # fmt: skip


@pytest.fixture(scope="module")
def rng():
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(8), i))(jnp.arange(ROWS))


@pytest.fixture(scope="module")
def state_logits():
    """Logits float64 [L, V] of one row's state: all that the twin takes from the model."""
    denoiser = models.make_denoiser(MODEL)
    fn = jax.jit(lambda p, t, v: denoiser.unembed(p, denoiser.features(p, t[None], valid_BxL=v[None]))[0])
    return lambda *args: np.asarray(fn(*args), np.float64)


def twin(logits_fn, params, prompts, row, rng, config, stop_ids):
    """One row alone, with for-loops: (tokens, step_map, logp, length, passes)."""
    prompt_len, width = prompts.tokens_BxP.shape[1], config.block_length
    temperature, threshold = float(prompts.temperature_B[row]), float(prompts.threshold_B[row])
    cap = int(prompts.max_length_B[row])
    tokens = [int(t) for t in prompts.tokens_BxP[row]] + [MASK] * cap + [PAD] * (config.gen_length - cap)
    valid = np.concatenate([np.asarray(prompts.valid_BxP[row]), np.arange(config.gen_length) < cap])
    step_map, logp = [0] * config.gen_length, [0.0] * config.gen_length
    masked, passes, length = set(range(cap)), 0, cap
    steps = max(1, config.steps // (config.gen_length // width))
    for start in range(0, cap, width):
        block = range(start, start + width)
        at_start = len(masked & set(block))
        schedule = [at_start // steps + (i < at_start % steps) for i in range(steps)]
        while masked & set(block):
            logits = logits_fn(params, np.array(tokens, np.int32), valid)[prompt_len:]
            key = jax.random.fold_in(rng, passes)
            gumbel = np.asarray(jax.random.gumbel(key, (width, logits.shape[1]), jnp.float32), np.float64)
            uniform = np.asarray(jax.random.uniform(jax.random.fold_in(key, 1), (width,)))
            proposals = []
            for i in sorted(masked & set(block)):
                noisy = logits[i] + temperature * gumbel[i - start]
                noisy[MASK] = -np.inf
                token = int(np.argmax(noisy))
                own = log_softmax(logits[i])[token]
                sure = np.exp(own) if config.remasking == "low_confidence" else uniform[i - start]
                proposals.append((-sure, i, token, own))
            commits = max(schedule.pop(0), sum(-p[0] >= threshold for p in proposals))
            passes += 1
            for _, i, tokens[prompt_len + i], logp[i] in sorted(proposals)[:commits]:
                step_map[i] = passes
                masked.remove(i)
        stops = [i for i in block if i < cap and tokens[prompt_len + i] in stop_ids]
        if stops:
            length = stops[0] + 1
            break
    cut = lambda x, filler: x[:length] + [filler] * (config.gen_length - length)  # noqa: E731
    return cut(tokens[prompt_len:], PAD), cut(step_map, 0), cut(logp, 0.0), length, passes


CONFIGS = {
    "one a pass": sampling.SamplerConfig(gen_length=12, block_length=4, steps=12),
    "uneven quota": sampling.SamplerConfig(gen_length=12, block_length=6, steps=8),
    "random order": sampling.SamplerConfig(gen_length=12, block_length=6, steps=6, remasking="random"),
    "never stops": sampling.SamplerConfig(gen_length=12, block_length=4, steps=6, stop_ids=()),
}


@pytest.fixture(scope="module")
def traces():
    """One entry each time that anything traces the model."""
    return []


@pytest.fixture(scope="module")
def rollout_fns(traces):
    denoiser = models.make_denoiser(MODEL)

    def features(*args, **kwargs):
        traces.append(1)
        return denoiser.features(*args, **kwargs)

    counting = denoiser._replace(features=features)
    return {name: sampling.make_rollout_fn(counting, config) for name, config in CONFIGS.items()}


@pytest.fixture(scope="module")
def rollouts(rollout_fns, params, prompts, rng):
    return {name: jax.tree.map(np.asarray, fn(params, prompts, rng)) for name, fn in rollout_fns.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_rollouts_are_the_twins(name, rollouts, state_logits, params, prompts, rng):
    """Each row equals the row sampled alone: neighbours that stop early or go on longer change nothing."""
    config, found = CONFIGS[name], rollouts[name]
    stop_ids = MODEL.stop_ids if config.stop_ids is None else config.stop_ids
    for row in range(ROWS):
        tokens, step_map, logp, length, passes = twin(state_logits, params, prompts, row, rng[row], config, stop_ids)
        np.testing.assert_array_equal(found.tokens_BxG[row], tokens)
        np.testing.assert_array_equal(found.step_map_BxG[row], step_map)
        assert (found.length_B[row], found.passes_B[row]) == (length, passes)
        # float32 features of a batch against those of one row
        np.testing.assert_allclose(found.logp_BxG[row], logp, atol=1e-5)


def test_the_cases_are_worth_comparing(rollouts, prompts):
    """Rows stop early, in different blocks, and rows run to their cap; thresholds commit more than the quota."""
    caps = np.asarray(prompts.max_length_B)
    lengths = np.stack([rollouts[name].length_B for name in ("one a pass", "uneven quota", "random order")])
    assert np.any(lengths < caps) and np.any(lengths == caps)
    assert len(set((lengths - 1).flatten() // 4)) > 1
    assert np.any(rollouts["one a pass"].passes_B < rollouts["one a pass"].length_B)
    assert np.array_equal(rollouts["never stops"].length_B, caps)


def test_every_rollout_keeps_its_promises(rollouts):
    for name, rollout in rollouts.items():
        inside = np.arange(12)[None, :] < rollout.length_B[:, None]
        assert not np.any(rollout.tokens_BxG == MASK)
        assert np.all(rollout.tokens_BxG[~inside] == PAD)
        assert np.all(rollout.logp_BxG[~inside] == 0) and np.all(rollout.step_map_BxG[~inside] == 0)
        assert np.all(rollout.step_map_BxG[inside] >= 1) and np.all(rollout.logp_BxG[inside] < 0)
        assert np.all(rollout.step_map_BxG.max(axis=1) <= rollout.passes_B)
        if name != "never stops":
            stops = np.isin(rollout.tokens_BxG, MODEL.stop_ids) & inside
            assert np.all(stops.sum(axis=1) <= 1)  # only ever the last token
            assert np.all(np.argmax(stops, axis=1)[stops.any(axis=1)] == rollout.length_B[stops.any(axis=1)] - 1)


def test_settings_of_a_row_do_not_recompile(rollout_fns, rollouts, traces, params, prompts, rng):
    rollout_fn, before = rollout_fns["never stops"], len(traces)
    other = prompts.replace(
        temperature_B=prompts.temperature_B + 1, threshold_B=prompts.threshold_B / 2, max_length_B=prompts.max_length_B - 1
    )
    shorter = rollout_fn(params, other, rng)
    rollout_fn(params, prompts.replace(tokens_BxP=prompts.tokens_BxP[::-1]), rng[::-1])
    assert before > 0 and len(traces) == before
    assert np.array_equal(shorter.length_B, other.max_length_B)  # the new settings were obeyed
    assert not np.array_equal(shorter.tokens_BxG[:, :2], rollouts["never stops"].tokens_BxG[:, :2])


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_tokens_follow_the_tempered_softmax(temperature):
    """At a state that never changes, committed in one pass, tokens are independent draws from softmax(z / T)."""
    logits = np.array([0.3, 2.5, 1.0, -0.5, 0.0, 1.7, -2.0])  # the mask id is the likeliest and must never come
    gen, rows = 16, 500
    rollout_fn = sampling.make_rollout_fn(
        constant_denoiser(logits), sampling.SamplerConfig(gen_length=gen, block_length=gen, steps=1)
    )
    prompts = Prompts(
        jnp.full((rows, 1), 2), jnp.ones((rows, 1), bool), temperature_B=jnp.full((rows,), temperature, jnp.float32)
    )
    rollout = rollout_fn({}, prompts, jax.random.split(jax.random.key(0), rows))
    seen = np.bincount(np.asarray(rollout.tokens_BxG).flatten(), minlength=7)
    probability = np.exp(np.where(np.arange(7) == MASK, -np.inf, logits / temperature))
    expected = seen.sum() * probability / probability.sum()
    assert seen[MASK] == 0
    kept = np.arange(7) != MASK
    chi_square = np.sum((seen[kept] - expected[kept]) ** 2 / expected[kept])
    assert chi_square < 20.5  # 5 degrees of freedom: 99.9%
    # recorded log-probabilities are of the plain softmax: temperature 1, mask id included
    np.testing.assert_allclose(rollout.logp_BxG, log_softmax(logits)[np.asarray(rollout.tokens_BxG)], atol=1e-5)


def test_random_order_is_uniform():
    """With confidence from noise each position is as likely as any other to be committed first."""
    rows, gen = 2000, 4
    config = sampling.SamplerConfig(gen_length=gen, block_length=gen, steps=gen, remasking="random")
    prompts = Prompts(jnp.full((rows, 1), 2), jnp.ones((rows, 1), bool))
    rngs = jax.random.split(jax.random.key(1), rows)
    step_map = np.asarray(sampling.make_rollout_fn(constant_denoiser(np.arange(5.0)), config)({}, prompts, rngs).step_map_BxG)
    assert np.all(np.sort(step_map, axis=1) == np.arange(1, gen + 1))
    counts = np.stack([np.bincount(column, minlength=gen + 1)[1:] for column in step_map.T])
    assert np.sum((counts - rows / gen) ** 2 / (rows / gen)) < 27.9  # 9 degrees of freedom: 99.9%


def test_nothing_but_the_prompts_is_needed():
    """Without settings: greedy, no threshold, the whole length."""
    logits = np.array([0.3, 2.5, 1.0, -0.5, 1.7, 0.0])
    config = sampling.SamplerConfig(gen_length=6, block_length=3, steps=6)
    rollout_fn = sampling.make_rollout_fn(constant_denoiser(logits), config)
    rollout = rollout_fn({}, Prompts(jnp.full((2, 1), 2), jnp.ones((2, 1), bool)), jax.random.split(jax.random.key(0), 2))
    np.testing.assert_array_equal(rollout.tokens_BxG, 4)  # the likeliest but the mask
    np.testing.assert_array_equal(rollout.step_map_BxG, [[1, 2, 3, 4, 5, 6]] * 2)  # one a pass, ties by lowest column


@pytest.fixture(scope="module")
def llada(golden):
    config = models.config_from_hf(golden / "llada")
    return models.make_denoiser(config), hf.load(golden / "llada", config)


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_tokens_are_the_references(golden, llada, case):
    """Greedy, so token for token; the reference neither stops early nor forbids the mask id (none is left in these)."""
    denoiser, weights = llada
    stored = np.load(golden / "llada" / "sampler.npz")
    get = lambda name: stored[f"{case}/{name}"]  # noqa: E731
    gen = int(get("gen_length"))
    sampler = sampling.SamplerConfig(
        gen_length=gen, block_length=int(get("block_length")), steps=int(get("steps")), stop_ids=()
    )
    prompts = Prompts(jnp.asarray(get("prompt_ids")), jnp.asarray(get("attention_mask"), bool))
    rngs = jax.random.split(jax.random.key(0), len(get("prompt_ids")))
    with jax.default_matmul_precision("highest"):
        rollout = sampling.make_rollout_fn(denoiser, sampler)(weights, prompts, rngs)
    assert not np.any(get("output_ids") == denoiser.config.mask_id)
    np.testing.assert_array_equal(rollout.tokens_BxG, get("output_ids")[:, -gen:])


@pytest.mark.parametrize(
    "change, word",
    [
        ({"gen_length": 10}, "gen_length"), ({"steps": 0}, "steps"), ({"remasking": "entropy"}, "remasking"),
        ({"kind": "dreamy"}, "kind"), ({"block_length": -8}, "block_length"),
    ],
)  # fmt: skip
def test_impossible_configs_are_refused_by_name(change, word):
    with pytest.raises(ValueError, match=word):
        sampling.SamplerConfig(**{"gen_length": 16, "block_length": 8, "steps": 8, **change})
