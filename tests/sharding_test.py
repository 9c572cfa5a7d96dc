"""Meshes, placement, and one round on eight devices against the same round on one."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from gdsd_jax import models, objectives, sampling, scoring, sharding
from gdsd_jax.optimizer import OptimizerConfig, init_state, make_optimizer
from gdsd_jax.types import Batch, Prompts
from tests.reference import random_params, random_tree, tiny

# every split dimension is divisible by 8
MODEL = tiny(
    vocab_size=32,
    d_model=16,
    heads=4,
    kv_heads=2,
    head_dim=4,
    d_ff=32,
    qkv_bias=True,
    qk_norm=True,
    lora_rank=2,
    lora_alpha=4.0,
    stop_ids=(5,),
)
MESHES = {
    "2x2x2": dict(data=2, fsdp=2, tensor=2),
    "8x1x1": dict(data=8, fsdp=1, tensor=1),
    "1x4x2": dict(data=1, fsdp=4, tensor=2),
    "1x1x8": dict(data=1, fsdp=1, tensor=8),
}
ROWS, P, G = 8, 3, 8


@pytest.mark.parametrize(
    "sizes, wanted",
    [
        (dict(data=-1, fsdp=1, tensor=1), (8, 1, 1)),
        (dict(data=2, fsdp=-1, tensor=2), (2, 2, 2)),
        (dict(data=1, fsdp=2, tensor=4), (1, 2, 4)),
        (dict(fsdp=-1), (1, 8, 1)),
    ],
)
def test_one_size_may_be_left_open(sizes, wanted):
    assert tuple(sharding.make_mesh(sizes).shape.values()) == wanted


@pytest.mark.parametrize(
    "sizes",
    [
        dict(data=3),
        dict(data=2, fsdp=2, tensor=1),
        dict(data=-1, fsdp=-1),
        dict(data=-1, fsdp=3),
        dict(data=0),
        dict(data=16),
        dict(data=-1, fsdp=16),
        dict(data=-2, fsdp=-4, tensor=1),
    ],
)
def test_meshes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(ValueError, match="does not fit 8 devices"):
        sharding.make_mesh(sizes)


@pytest.mark.parametrize("sizes", [dict(data=-1, fsdp=-1), dict(data=-1, fsdp=-1, tensor=-1)])
def test_only_one_size_is_open(sizes):
    with pytest.raises(ValueError, match="only one size may be -1, or fsdp and tensor both"):
        sharding.make_mesh(sizes, rows=8)


@pytest.mark.parametrize(
    "rows, wanted",
    [(32, (1, 8, 1)), (24, (1, 8, 1)), (4, (1, 4, 2)), (6, (1, 2, 4)), (7, (1, 1, 8))],
)
def test_rows_decide_between_fsdp_and_tensor(rows, wanted):
    mesh = sharding.make_mesh(dict(data=1, fsdp=-1, tensor=-1), rows=rows)
    assert tuple(mesh.shape.values()) == wanted
    sharding.check_rows(mesh, rows, "rows")


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_what_cannot_be_placed_is_named():
    mesh = sharding.make_mesh(MESHES["2x2x2"])
    with pytest.raises(ValueError, match=r"layers/q/kernel.*\(2, 15, 8\).*fsdp=2"):
        sharding.shardings(mesh, {"layers": {"q": {"kernel": leaf(2, 15, 8)}}})
    with pytest.raises(ValueError, match="no sharding rule matches layers/router/kernel"):
        sharding.shardings(mesh, {"layers": {"router": {"kernel": leaf(2, 256, 256)}}})
    small = sharding.shardings(
        mesh, {"layers": {"router": {"kernel": leaf(2, 3, 5)}}, "count": leaf()}
    )
    assert all(place.spec == PartitionSpec() for place in jax.tree.leaves(small))
    with pytest.raises(ValueError, match="rows=6 must be a multiple of the 4 row shards"):
        sharding.check_rows(mesh, 6, "rows")
    sharding.check_rows(mesh, 12, "rows")


def test_nothing_large_is_whole_on_a_device():
    """The released model, its adapters and its optimizer state: every matrix is split over fsdp and
    tensor."""
    mesh, model = sharding.make_mesh(dict(fsdp=4, tensor=2)), models.MODELS["llada_8b"]
    shapes = models.param_shapes(model)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-4))
    state = jax.eval_shape(lambda p: init_state(p, optimizer), shapes)
    places = sharding.shardings(mesh, state)
    for array, place in zip(jax.tree.leaves(state), jax.tree.leaves(places)):
        shard = place.shard_shape(array.shape)
        assert np.prod(shard) <= max(array.size // 8, 1 << 18)
    # moments lie where their weights lie, or every update would move them
    weights = jax.tree.leaves(places.trainable)
    for moments in (places.opt_state[1][0].mu, places.opt_state[1][0].nu):
        assert jax.tree.leaves(moments) == weights


def one_round(mesh=None):
    """(rollout, loss, gradients of weights and adapters): everything a round does on the device,
    placed as the loop does."""
    denoiser = sampled = models.make_denoiser(MODEL)
    if mesh is not None:
        denoiser = models.make_denoiser(MODEL, place=sharding.row_placer(mesh))
        denoiser, sampled = sharding.by_vocabulary(mesh, denoiser), sharding.by_rows(mesh, denoiser)
    rollout_fn = sampling.make_rollout_fn(
        sampled, sampling.SamplerConfig(gen_length=G, block_length=4, steps=8)
    )
    config = objectives.GdsdConfig(psi=10.0, centring="top_k", centring_k=4, trust=(0.4, 0.4))
    loss_fn = objectives.make_loss_fn("gdsd", denoiser, config)

    def fn(weights, adapters, prompts, rng_B, old_KxB):
        rollout = rollout_fn(denoiser.bind(adapters, {"base": weights}), prompts, rng_B)
        full = jnp.ones((ROWS, G), bool)
        batch = Batch(
            jnp.concatenate([prompts.tokens_BxP, rollout.tokens_BxG], axis=1),
            jnp.concatenate([prompts.valid_BxP, full], axis=1),
            rollout.length_B,
            scoring.draw_masks(jax.random.key(2), 1, P, P + G, jnp.full((ROWS,), G)),
            advantages_B=jnp.linspace(-1.0, 1.0, ROWS),
            old_KxB=old_KxB,
            prompt_len=P,
        )

        def both(weights, adapters):
            return loss_fn(adapters, {"base": weights}, batch)

        return rollout, jax.value_and_grad(both, argnums=(0, 1), has_aux=True)(weights, adapters)

    return fn


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    weights = random_params(MODEL)
    lora = jax.eval_shape(lambda rng: models.init_lora(MODEL, rng), jax.random.key(0))
    valid = np.arange(P)[None, :] >= (np.arange(ROWS) % P)[:, None]
    prompts = Prompts(
        jnp.asarray(rng.integers(6, 32, (ROWS, P)) * valid, jnp.int32),
        jnp.asarray(valid),
        temperature_B=jnp.linspace(0.0, 1.0, ROWS),
    )
    # some rows leave the trust region, not all: those outside have no gradient
    old = jnp.asarray(2 * rng.standard_normal((1, ROWS)), jnp.float32)
    return (
        weights,
        random_tree(lora, seed=1, scale=0.3),
        prompts,
        jax.random.split(jax.random.key(5), ROWS),
        old,
    )


@pytest.fixture(scope="module")
def on_one_device(inputs):
    return jax.jit(one_round())(*inputs)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name[0] == "1")) for name in MESHES]
)
def test_a_round_does_not_depend_on_the_mesh(name, inputs, on_one_device):
    """The same tokens, and on them the same loss and gradients for weights and adapters."""
    mesh = sharding.make_mesh(MESHES[name])
    weights, adapters, prompts, rng_B, old_KxB = inputs
    placed = (
        jax.device_put(weights, sharding.shardings(mesh, weights)),
        jax.device_put(adapters, sharding.shardings(mesh, adapters)),
        jax.device_put(prompts, sharding.rows(mesh)),
        jax.device_put(rng_B, sharding.rows(mesh)),
        jax.device_put(old_KxB, sharding.rows(mesh, leading=1)),
    )
    assert len(placed[2].tokens_BxP.sharding.device_set) == 8
    rollout, trained = jax.jit(one_round(mesh))(*placed)
    alone, trained_alone = on_one_device
    for field in ("tokens_BxG", "step_map_BxG", "length_B", "passes_B"):
        np.testing.assert_array_equal(getattr(rollout, field), getattr(alone, field))
    # devices add up in another order: 1e-5 of the terms that are summed
    assert_near(rollout.logp_BxG, alone.logp_BxG, np.abs(alone.logp_BxG).max())
    ((loss, metrics), grads), ((loss_alone, metrics_alone), grads_alone) = trained, trained_alone
    assert 0 < metrics_alone["trust"] < 1
    sizes = term_sizes(metrics_alone)
    assert_near(loss, loss_alone, sizes["loss"])
    for name, value in metrics_alone.items():
        assert_near(metrics[name], value, sizes.get(name, np.abs(value)))
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads_alone))
    for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(grads_alone)):
        assert np.abs(theirs).max() > 0
        # the softmax lets the terms of the keys' gradients cancel
        assert_near(ours, theirs, np.maximum(np.abs(theirs).max(), largest / 20))


def term_sizes(metrics):
    """By name, how large the terms are of numbers in which they may cancel: a centred score is
    log-probabilities less their mean, a move a score less the old one, a residual a move less its
    target, the loss the mean square of residuals."""
    score = np.abs(metrics["score"])
    residual = score + metrics["target"]
    slope = 2 * residual / G
    nats = ("score", "centred_score", "centred_score_max", "move", "move_max")
    return {
        **dict.fromkeys(nats, score),
        "residual": residual,
        "loss": residual**2,
        "slope": slope,
        "slope_spread": slope,
        "slope_snr": slope / metrics["slope_spread"],
    }


def assert_near(ours, theirs, size):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * size)


def test_rows_come_and_go_whole():
    """Host rows -> one global array; a host value -> the same on every device."""
    mesh, x = sharding.make_mesh(MESHES["2x2x2"]), np.arange(24.0).reshape(8, 3)
    split = sharding.global_rows(mesh, {"x": x})["x"]
    np.testing.assert_array_equal(split, x)
    assert split.sharding.shard_shape(split.shape) == (2, 3)
    assert sharding.everywhere(mesh, x).sharding.is_fully_replicated


def test_the_default_mesh_splits_rows_alone():
    sizes = dataclasses.asdict(sharding.MeshConfig())
    assert dict(sharding.make_mesh(sizes).shape) == dict(data=8, fsdp=1, tensor=1)


def test_rollout_weights_are_whole_along_fsdp_alone():
    mesh = sharding.make_mesh(MESHES["2x2x2"])
    places = sharding.shardings(mesh, models.param_shapes(MODEL))
    whole = sharding.gathered(places)
    assert whole["layers"]["q"]["kernel"].spec == PartitionSpec(None, None, "tensor")
    assert whole["lm_head"]["kernel"].spec == PartitionSpec(None, "tensor")
    assert whole["embed"]["embedding"].spec == PartitionSpec("tensor", None)
    shapes = models.param_shapes(MODEL)
    assert sharding.bytes_per_device(shapes, places) < sharding.bytes_per_device(shapes, whole)
