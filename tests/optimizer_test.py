"""One optimizer step against NumPy: accumulation over slices, clipping, warm-up, AdamW."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gdsd_jax.optimizer import (
    OptimizerConfig,
    init_state,
    learning_rate,
    make_optimizer,
    make_update,
    mean_gradient,
)
from gdsd_jax.types import Batch

START = {"w": np.array([0.5, -1.0, 2.0, 0.1]), "v": np.array([[1.0, -0.5], [0.25, 3.0]])}
X = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
SETTINGS = dict(learning_rate=0.1, weight_decay=0.05, b1=0.9, b2=0.99, clip_norm=0.7)


def loss_fn(trainable, frozen, batch):
    """A least-squares fit; `rewards_B` is the target and the inputs ride in `advantages_B` ([B, 4]
    here)."""
    error = (
        batch.advantages_B @ trainable["w"]
        + jnp.sum(trainable["v"] ** 2) * frozen["scale"]
        - batch.rewards_B
    )
    return jnp.mean(error**2), {"error": jnp.mean(jnp.abs(error))}


FROZEN = {"scale": jnp.float32(0.3)}
TARGET = np.linspace(-1, 1, 6).astype(np.float32)


def slices(count):
    def split(x):
        return jnp.asarray(x.reshape(count, -1, *x.shape[1:]))

    unused = jnp.zeros((count, 1))
    return Batch(unused, unused, unused, unused, advantages_B=split(X), rewards_B=split(TARGET))


def numpy_gradient(params):
    error = X.astype(np.float64) @ params["w"] + 0.3 * np.sum(params["v"] ** 2) - TARGET
    return {
        "w": 2 * X.T.astype(np.float64) @ error / 6,
        "v": 2 * error.mean() * 0.3 * 2 * params["v"],
    }


def numpy_adamw(params, rates, learns=("w", "v")):
    """Loshchilov and Hutter's decoupled form, over gradients scaled to at most clip_norm
    together."""
    params = {key: value.copy() for key, value in params.items()}
    m = {key: np.zeros_like(value) for key, value in params.items()}
    s, norms = {key: np.zeros_like(value) for key, value in params.items()}, []
    for t, rate in enumerate(rates, start=1):
        grads = numpy_gradient(params)
        norms.append(np.sqrt(sum(np.sum(g**2) for g in grads.values())))
        for key, g in grads.items():
            g = g * min(1.0, SETTINGS["clip_norm"] / norms[-1])
            m[key] = SETTINGS["b1"] * m[key] + (1 - SETTINGS["b1"]) * g
            s[key] = SETTINGS["b2"] * s[key] + (1 - SETTINGS["b2"]) * g * g
            ahead = (
                m[key]
                / (1 - SETTINGS["b1"] ** t)
                / (np.sqrt(s[key] / (1 - SETTINGS["b2"] ** t)) + 1e-8)
            )
            params[key] = params[key] - rate * (ahead + SETTINGS["weight_decay"] * params[key])
    return params, norms


def run(steps, count, **changes):
    optimizer = make_optimizer(OptimizerConfig(**(SETTINGS | changes)))
    state = init_state(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), START), optimizer)
    update, history = jax.jit(make_update(loss_fn, optimizer)), []
    for _ in range(steps):
        rate = learning_rate(OptimizerConfig(**(SETTINGS | changes)), state.opt_state)
        state, metrics = update(state, FROZEN, slices(count))
        history.append(metrics | {"learning_rate": rate})
    return state, history


@pytest.mark.parametrize(
    "schedule, rates",
    [
        (dict(), [0.1, 0.1, 0.1]),
        (dict(warmup_steps=3), [0.025, 0.05, 0.075, 0.1, 0.1]),
        # half a cosine behind the warm-up
        (dict(warmup_steps=2, decay_steps=4), [0.0, 0.05, 0.1, 0.05, 0.0]),
        (dict(decay_steps=2), [0.1, 0.05, 0.0]),
    ],
    ids=["constant", "warm-up", "cosine", "cosine from the start"],
)
def test_steps_are_numpys(schedule, rates):
    state, history = run(len(rates), 1, **schedule)
    wanted, norms = numpy_adamw(START, rates)
    assert norms[0] > SETTINGS["clip_norm"]  # clipping happens
    for key in wanted:
        # float32 against float64 over a few steps of at most 0.1, proportional to sums of terms
        # that are up to ten times as large
        np.testing.assert_allclose(state.trainable[key], wanted[key], atol=2e-5)
    # the norm that is reported is the one before clipping
    np.testing.assert_allclose([m["grad_norm"] for m in history], norms, rtol=1e-4)
    np.testing.assert_allclose([m["learning_rate"] for m in history], rates, atol=1e-8)
    assert int(state.step) == len(rates)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_slices_add_up_to_one_batch(count):
    whole, whole_history = run(2, 1)
    parts, history = run(2, count)
    for a, b in zip(jax.tree.leaves(parts), jax.tree.leaves(whole)):
        # The same mean in another order of additions. What is added is up to six times the sum, to
        # which a step of 0.1 is proportional.
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    for name in ("loss", "error", "grad_norm"):
        np.testing.assert_allclose(history[-1][name], whole_history[-1][name], rtol=1e-5)


def test_gradients_of_slices_add_up_in_float32():
    """Those of weights in bfloat16 too, whose sum would stand still where each is small beside
    it."""
    count = 300
    batch = slices(1)
    many = jax.tree.map(lambda x: jnp.tile(x, (count, *(1,) * (x.ndim - 1))), batch)

    def loss_fn(trainable, frozen, batch):
        return jnp.sum(trainable["w"].astype(jnp.float32) * 1.25), {}

    trainable = {"w": jnp.zeros(3, jnp.bfloat16)}
    grads, metrics = mean_gradient(loss_fn, trainable, {}, many)
    assert grads["w"].dtype == jnp.float32
    np.testing.assert_allclose(grads["w"], np.full(3, 1.25), rtol=1e-6)
    assert metrics["grad_norm"] == pytest.approx(1.25 * 3**0.5, rel=1e-6)


def test_what_an_update_leaves_alone():
    """Dtypes and tree survive, the frozen part is not touched, and without gradient or decay
    nothing moves."""
    state, _ = run(1, 2)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state.trainable) == jax.tree.map(
        lambda x: (x.shape, np.dtype(np.float32)), START
    )
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1))
    still = init_state({"w": jnp.ones(4, jnp.bfloat16)}, optimizer)

    def flat_loss(trainable, frozen, batch):
        return (0.0 * jnp.sum(trainable["w"].astype(jnp.float32)), {})

    after, _ = make_update(flat_loss, optimizer)(still, {}, slices(1))
    assert after.trainable["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(after.trainable["w"], still.trainable["w"])


def test_the_largest_of_a_metric_stays_the_largest():
    """Means over slices, except of what is named `..._max`."""

    def loss_fn(trainable, frozen, batch):
        return jnp.sum(trainable["w"]), {
            "x": jnp.mean(batch.rewards_B),
            "x_max": jnp.max(jnp.abs(batch.rewards_B)),
        }

    optimizer = make_optimizer(OptimizerConfig(**SETTINGS))
    state = init_state({"w": jnp.zeros(2)}, optimizer)
    metrics = jax.jit(make_update(loss_fn, optimizer))(state, {}, slices(3))[1]
    assert metrics["x_max"] == 1.0 and metrics["x"] == pytest.approx(TARGET.mean(), abs=1e-6)


def test_a_ratio_is_that_of_the_sums_however_many_slices():
    """Nothing asked in one slice, little in another; a weight of nothing is a metric as others."""

    def loss_fn(trainable, frozen, batch):
        part, whole = jnp.sum(batch.rewards_B), jnp.sum(batch.advantages_B)
        found = {"share": part / jnp.maximum(whole, 1e-9), "share_weight": whole, "own_weight": 3.0}
        return jnp.sum(trainable["w"]), found

    parts = jnp.array([[0.0, 0.0], [0.5, 1.5], [0.5, 0.5]])
    wholes = jnp.array([[0.0, 0.0], [4.0, 4.0], [1.0, 1.0]])
    optimizer = make_optimizer(OptimizerConfig(**SETTINGS))
    state = init_state({"w": jnp.zeros(2)}, optimizer)
    update = jax.jit(make_update(loss_fn, optimizer))
    for shape in ((3, 2), (1, 6)):
        part, whole = parts.reshape(shape), wholes.reshape(shape)
        batch = Batch(None, None, None, None, rewards_B=part, advantages_B=whole)
        metrics = update(state, {}, batch)[1]
        assert metrics["share"] == pytest.approx(0.3), shape
        assert metrics["own_weight"] == 3.0 and "share_weight" not in metrics
    nothing = batch.replace(rewards_B=jnp.zeros((1, 6)), advantages_B=jnp.zeros((1, 6)))
    assert update(state, {}, nothing)[1]["share"] == 0.0


def test_first_moments_may_be_kept_in_half_the_bytes():
    """The step is that of float32 moments but for their rounding, 2^-8 of each."""
    exact, _ = run(4, 2)
    half, _ = run(4, 2, moments_dtype="bfloat16")
    kinds = [leaf.dtype.name for leaf in jax.tree.leaves(half.opt_state) if leaf.ndim]
    assert sorted(kinds) == ["bfloat16"] * 2 + ["float32"] * 2
    assert half.trainable["w"].dtype == jnp.float32
    for key, start in START.items():
        moved = np.abs(exact.trainable[key] - start)
        np.testing.assert_allclose(
            half.trainable[key], exact.trainable[key], rtol=0, atol=2**-7 * moved.max()
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_second_moments_follow_smaller_gradients(dtype):
    """A gradient of 1 and then many of 0.2, in the parameters' own precision: the mean of squares
    comes down to 0.04 (in bfloat16 it would stay at 1)."""
    config = OptimizerConfig(b2=0.999, clip_norm=10.0, moments_dtype="bfloat16")
    optimizer = make_optimizer(config)
    params = {"w": jnp.ones(3, dtype)}
    state, wanted = optimizer.init(params), 0.0
    update = jax.jit(optimizer.update)
    for number in range(5000):
        size = 0.2 if number else 1.0
        _, state = update({"w": jnp.full(3, size, dtype)}, state, params)
        wanted = 0.999 * wanted + 0.001 * float(jnp.asarray(size, dtype)) ** 2
    (kept,) = optax.tree.get_all_with_path(state, "nu")
    np.testing.assert_allclose(kept[1]["w"], wanted, rtol=1e-3)


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(learning_rate=0.0), "learning_rate=0.0 must be above 0"),
        (dict(clip_norm=-1.0), "clip_norm=-1.0 must be above 0"),
        (dict(clip_norm=float("nan")), "clip_norm=nan must be above 0"),
        (dict(weight_decay=-0.1), "weight_decay=-0.1 must not be negative"),
        (dict(b2=1.0), r"b2=1.0 must lie in \[0, 1\)"),
        (dict(warmup_steps=5, decay_steps=5), "decay_steps=5 must be above warmup_steps=5"),
        (dict(moments_dtype="float16"), "moments_dtype='float16': choose float32 or bfloat16"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        OptimizerConfig(**changes)


@pytest.mark.parametrize("skip", [False, True])
def test_a_step_that_is_not_finite_is_told_and_may_change_nothing(skip):
    """The first slice and tensor are named; moments and the schedule's count stay too."""

    def loss_fn(trainable, frozen, batch):
        error = jnp.sum(batch.rewards_B) * jnp.sum(trainable["v"])
        return error + jnp.sum(trainable["u"] + trainable["w"]), {}

    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, warmup_steps=3))
    start = {name: jnp.ones(2) for name in "uvw"}
    update = jax.jit(make_update(loss_fn, optimizer, skip))
    batch = slices(3)
    state, told = update(init_state(start, optimizer), {}, batch)
    assert told["broken_slice"] == told["broken_tensor"] == -1
    assert told.get("skipped", 0) == 0
    broken = batch.replace(rewards_B=batch.rewards_B.at[1, 0].set(jnp.inf))
    after, told = update(state, {}, broken)
    assert (told["broken_slice"], told["broken_tensor"]) == (1, 1)
    assert not np.isfinite(told["loss"]) and int(after.step) == 2
    assert ("skipped" in told) == skip
    if skip:
        assert told["skipped"] == 1
        same = (state.trainable, state.opt_state), (after.trainable, after.opt_state)
        jax.tree.map(np.testing.assert_array_equal, *same)
    else:
        assert not np.isfinite(after.trainable["v"]).all()
