"""Which positions are committed first: the orders by name, and a user's own from a file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import models, sampling
from gdsd_jax.types import Prompts
from tests import twins
from tests.reference import PAD, attending_params, constant_denoiser, tiny

ROWS, P, G, WIDTH = 4, 5, 12, 4
MODEL = tiny(vocab_size=32, stop_ids=(5, 9), qk_norm=True)
HEAD = "import jax\nimport jax.numpy as jnp\nfrom gdsd_jax.sampling.noise import row_gumbel\n"
FILES = {  # the body of `ORDER(config, scores, tokens, probability, rng)`
    "least_sure": "return -own(scores, tokens)",
    "sampled": "return own(scores, tokens)",
    "sure": "return probability",
    "rightmost": "return jnp.broadcast_to(jnp.arange(tokens.shape[1]) * 1.0, tokens.shape)",
    "uniform": "return jax.vmap(lambda key: jax.random.uniform(key, tokens.shape[1:]))(rng)",
    "gumbel": "return row_gumbel(rng, tokens.shape[1:])",
    "too_many": "return scores",
}
OWN = """
def own(scores, tokens):
    p = jax.nn.softmax(scores, axis=-1)
    return jnp.take_along_axis(p, tokens[..., None], axis=-1)[..., 0]
"""


@pytest.fixture(scope="module")
def order_file(tmp_path_factory):
    """`order_file(name) -> path` of a file outside the package."""
    folder = tmp_path_factory.mktemp("orders")

    def write(name):
        path = folder / f"{name}.py"
        signature = "def ORDER(config, scores, tokens, probability, rng):"
        path.write_text(f"{HEAD}{OWN}\n\n{signature}\n    {FILES[name]}\n")
        return str(path)

    return write


@pytest.fixture(scope="module")
def params():
    return attending_params(MODEL)


@pytest.fixture(scope="module")
def prompts():
    tokens = np.random.default_rng(1).integers(2, 24, (ROWS, P)).astype(np.int32)
    valid = np.arange(P)[None, :] >= np.array([0, 1, 4, 2])[:, None]
    return Prompts(
        jnp.asarray(np.where(valid, tokens, PAD)),
        jnp.asarray(valid),
        temperature_B=jnp.array([0.0, 1.0, 0.7, 1.5]),
        threshold_B=jnp.array([jnp.inf, jnp.inf, 0.3, jnp.inf]),
        max_length_B=jnp.array([12, 12, 12, 9]),
    )


RNG = jax.random.split(jax.random.key(8), ROWS)


def of(kind, order=None, **settings):
    """A sampler of a kind under an order, in blocks of four, six or fewer passes a block."""
    if order is not None:
        settings["alg" if kind == "dream" else "remasking"] = order
    fields = {"kind": kind, "gen_length": G, "block_length": WIDTH, "steps": 9, "stop_ids": ()}
    return sampling.SamplerConfig(**{**fields, **settings})


def rolled(config, params, prompts):
    rollout_fn = sampling.make_rollout_fn(models.make_denoiser(MODEL), config)
    return jax.tree.map(np.asarray, rollout_fn(params, prompts, RNG))


def assert_same(first, second):
    for field in ("tokens_BxG", "step_map_BxG", "length_B", "passes_B"):
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field))


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "llada", "stop_ids": (5, 9)},
        {"kind": "block", "cache": "none"},
        {"kind": "block"},
        {"kind": "dream"},
        {"kind": "dream", "alg_temp": 0.3},
    ],
    ids=str,
)
def test_an_own_order_is_the_twins(order_file, params, prompts, settings):
    """The least sure first, token for token as in the plain-Python sampler."""
    config = of(order=order_file("least_sure"), **settings)
    found, denoiser = rolled(config, params, prompts), models.make_denoiser(MODEL)
    attention = models.BlockCausal(WIDTH, P) if config.kind == "block" else None

    @jax.jit
    def logits_of(tokens, valid):
        h = denoiser.features(params, tokens[None], valid_BxL=valid[None], attention=attention)
        return denoiser.unembed(params, h)[0]

    def look(tokens, valid, block, age):
        start = P + block * WIDTH
        return np.asarray(logits_of(tokens, valid), np.float64)[start : start + WIDTH], None

    for row in range(ROWS):
        tokens, step_map, _, length, passes = twins.rollout(
            look, prompts, row, RNG[row], config, MODEL, own_order=lambda i, p, token: -p[token]
        )
        np.testing.assert_array_equal(found.tokens_BxG[row], tokens)
        np.testing.assert_array_equal(found.step_map_BxG[row], step_map)
        assert (found.length_B[row], found.passes_B[row]) == (length, passes)
    by_name = rolled(of(**settings), params, prompts)
    assert not np.array_equal(found.step_map_BxG, by_name.step_map_BxG)  # the order matters here


@pytest.mark.parametrize(
    "name, file, settings",
    [
        ("low_confidence", "sure", {"kind": "llada"}),
        ("low_confidence", "sure", {"kind": "llada", "cache": "dual"}),
        ("low_confidence", "sure", {"kind": "block"}),
        ("random", "uniform", {"kind": "llada"}),
        ("random", "uniform", {"kind": "block"}),
        ("maskgit_plus", "sampled", {"kind": "dream", "top_p": 0.9}),
        ("maskgit_plus", "sampled", {"kind": "dream", "alg_temp": 0.3}),
        ("maskgit_plus", "sampled", {"kind": "dream", "cache": "prefix", "refresh_every": 2}),
    ],
    ids=str,
)
def test_a_file_may_say_what_a_name_says(order_file, params, prompts, name, file, settings):
    """It is given what the package's own orders are given, the row's keys among it."""
    own = rolled(of(order=order_file(file), **settings), params, prompts)
    assert_same(own, rolled(of(order=name, **settings), params, prompts))


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "llada"},
        {"kind": "llada", "cache": "dual"},
        {"kind": "llada", "cache": "prefix", "refresh_every": 2},
        {"kind": "dream", "cache": "dual"},
        {"kind": "dream", "cache": "prefix"},
        {"kind": "block"},
    ],
    ids=str,
)
def test_from_right_to_left(order_file, params, prompts, settings):
    """Within a block a position is never committed before one to its right, cache or not."""
    prompts = prompts.replace(threshold_B=None)
    rollout = rolled(of(order=order_file("rightmost"), **settings), params, prompts)
    for row, cap in enumerate(np.asarray(prompts.max_length_B)):
        for start in range(0, cap, WIDTH):
            steps = rollout.step_map_BxG[row, start : min(start + WIDTH, cap)]
            assert np.all(np.diff(steps) <= 0), steps
            assert len(steps) == 1 or steps[0] > steps[-1]


def test_caches_that_are_exact_give_the_same_tokens(order_file, params, prompts):
    for kind, cache, more in (("llada", "dual", {"refresh_every": 1}), ("block", "block", {})):
        config = of(kind, order_file("least_sure"), cache=cache, **more)
        plain = of(kind, order_file("least_sure"), cache="none")
        assert_same(rolled(config, params, prompts), rolled(plain, params, prompts))


def test_an_orders_own_noise_is_not_that_of_alg_temp(order_file, params, prompts):
    """Else the two would be one number, and no temperature would change the order."""
    prompts = prompts.replace(temperature_B=None, threshold_B=None)
    cold, warm = (
        rolled(of("dream", order_file("gumbel"), alg_temp=t), params, prompts).step_map_BxG
        for t in (1e-6, 1.0)
    )
    assert not np.array_equal(cold, warm)


@pytest.mark.parametrize("kind, key", [("llada", "remasking"), ("dream", "alg")])
@pytest.mark.parametrize(
    "text, said",
    [
        (None, "is not a readable file"),
        ("X = 1", ": the file defines no ORDER"),
        ("ORDER = 'left'", ": ORDER is not a function"),
        ("1 / 0", " fails: ZeroDivisionError"),
    ],
)
def test_files_that_are_no_orders_are_refused(tmp_path, kind, key, text, said):
    """When the config is made; one line names the field and the file."""
    path = tmp_path / "own.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=f"{key}=.*own.py.*{said}") as error:
        of(kind, str(path))
    assert "\n" not in str(error.value)


def test_an_order_of_another_shape_is_refused(order_file):
    rollout_fn = sampling.make_rollout_fn(
        constant_denoiser(np.zeros(6)), of("llada", order_file("too_many"))
    )
    prompts = Prompts(jnp.full((2, 1), 2), jnp.ones((2, 1), bool))
    with pytest.raises(ValueError, match=r"too_many.py: ORDER gives shape \(2, 4, 6\)"):
        rollout_fn({}, prompts, jax.random.split(jax.random.key(0), 2))


def test_names_of_another_kind_stay_refused():
    for settings in ({"remasking": "entropy"}, {"alg": "random"}):
        (key, value), *_ = settings.items()
        with pytest.raises(ValueError, match=f"^unknown {key} '{value}', known: "):
            sampling.SamplerConfig(**settings)


def test_orders_are_functions_of_what_a_pass_knows():
    """By hand, of one position with p = 0.5, 0.3, 0.2 and the second proposed."""
    p = np.array([0.5, 0.3, 0.2])
    scores, tokens = jnp.log(jnp.asarray(p, jnp.float32))[None, None], jnp.array([[1]])
    arguments = None, scores, tokens, jnp.array([[0.25]]), jax.random.split(jax.random.key(0), 1)
    wanted = {
        "low_confidence": 0.25,
        "entropy": np.sum(p * np.log(p)),
        "maskgit_plus": 0.3,
        "topk_margin": 0.2,
    }
    for name, value in wanted.items():
        order = sampling.ORDERS[name](*arguments)
        assert order.shape == (1, 1) and order.dtype == jnp.float32
        assert order[0, 0] == pytest.approx(value, rel=1e-5)
    places = sampling.ORDERS["left_to_right"](None, None, jnp.zeros((2, 3)), None, None)
    np.testing.assert_array_equal(jnp.argsort(-places, axis=1), [[0, 1, 2]] * 2)
    for name in ("random", "origin"):
        assert 0 <= sampling.ORDERS[name](*arguments)[0, 0] < 1
