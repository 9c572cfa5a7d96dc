"""A reference that moves: its mean against float64, its place, and a run that is stopped between
two moves."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import coding
from gdsd_jax import experiment, settings, sharding, steps, train, weights
from gdsd_jax.checkpoint import Checkpoints
from gdsd_jax.loop import Interrupted
from gdsd_jax.metrics import read_metrics
from gdsd_jax.reference import ReferenceSync, moved

# 9 optimizer steps, the reference moves after 2, 4, 6 and 8
SMALL = (
    "tiny,objective=espo,espo.beta=0.1,rounds=3,inner_iterations=3,prompts_per_round=8,"
    "group_size=2,sft.steps=2,sft.batch=8,eval_every=9,eval_problems=8,checkpoint_every=9,"
    "optimizer.warmup_steps=0,reference_sync.every=2,reference_sync.mix=0.6"
)
MIX = 0.6


def leaves_of(tree) -> list[np.ndarray]:
    """The arrays in float64."""
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(jax.device_get(tree))]


def rendering(begin, policies, mix) -> list[np.ndarray]:
    """The reference after moves towards each of the policies, in float64."""
    found = leaves_of(begin)
    for policy in policies:
        found = [mix * p + (1 - mix) * r for p, r in zip(leaves_of(policy), found)]
    return found


def assert_near(tree, expected, tolerance):
    """Relative to the largest term of each array."""
    for leaf, wanted in zip(leaves_of(tree), expected, strict=True):
        np.testing.assert_allclose(leaf, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def test_steps_at_which_it_moves():
    assert [step for step in range(1, 10) if ReferenceSync(every=4).is_due(step)] == [4, 8]
    assert not any(ReferenceSync().is_due(step) for step in range(200))


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("bfloat16", 2e-2)])
def test_moves_are_those_of_float64(dtype, tolerance):
    """Five moves; in bfloat16 each rounds once."""
    rng = np.random.default_rng(0)

    def draw():
        return {
            "a": jnp.asarray(rng.normal(size=(5, 7)), dtype),
            "b": {"c": jnp.asarray(rng.normal(size=3), dtype)},
        }

    begin, policies = draw(), [draw() for _ in range(5)]
    found = begin
    for policy in policies:
        found = moved(policy, found, 0.3)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(dtype)}
    assert_near(found, rendering(begin, policies, 0.3), tolerance)


@pytest.mark.parametrize(
    "argument, said",
    [
        ("espo.beta=0.1,reference_sync.every=-1", "reference_sync.every=-1 must not be negative"),
        ("espo.beta=0.1,reference_sync.mix=0.0", r"reference_sync.mix=0.0 must lie in \(0, 1\]"),
        ("espo.beta=0.0,reference_sync.every=2", "compares with no reference.*beta above 0"),
        (
            "espo.beta=0.1,reference_sync.every=2,lora_rank=2,lora_alpha=2",
            "lora_rank=2.*not the mean of their weights.*lora_rank=0",
        ),
    ],
)
def test_contradictions_are_refused_in_one_line(argument, said):
    with pytest.raises(ValueError, match=said) as refused:
        settings.parse(coding.get_config(f"tiny,objective=espo,{argument}"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("objective", ["wd1", "spg"])
def test_objectives_without_a_reference_have_none_to_move(objective):
    with pytest.raises(ValueError, match=f"{objective}.*compares with no reference"):
        settings.parse(coding.get_config(f"tiny,objective={objective},reference_sync.every=2"))


@pytest.fixture(scope="module")
def prepared(data_dir):
    found = experiment.prepare(settings.parse(coding.get_config(f"{SMALL},data_dir={data_dir}")))
    with contextlib.closing(found.task):
        yield found


def test_it_is_sharded_as_the_weights_and_takes_no_further_memory(prepared):
    mesh = sharding.make_mesh({"data": 2, "fsdp": 4}, jax.devices()[:8])
    chosen = prepared.settings
    make = weights.make_trainable(chosen, prepared.denoiser.config)
    shapes = weights.abstract(mesh, make)

    def drawn(seed):
        places = jax.tree.map(lambda shape: shape.sharding, shapes)
        return jax.jit(make, out_shardings=places)(jax.random.key(seed))

    trainable, reference = drawn(0), drawn(1)
    expected = rendering(reference, [trainable], MIX)
    found = steps.make_sync(chosen, mesh)(trainable, reference)
    assert_near(found, expected, 1e-6)
    for leaf, shape in zip(jax.tree.leaves(found), jax.tree.leaves(shapes), strict=True):
        assert leaf.sharding.is_equivalent_to(shape.sharding, leaf.ndim)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(reference))
    assert steps.make_sync(settings.replace(chosen, {"reference_sync.every": 0}), mesh) is None


class Run:
    """Trains in this process, and notes what the reference moves from and to."""

    def __init__(self, prepared, monkeypatch):
        self.prepared, self.monkeypatch = prepared, monkeypatch
        self.begin, self.policies = None, []

    def train(self, workdir, moves=None):
        """From start to end; with `moves`, stopped after so many of them."""

        def make(*arguments):
            made = steps.make_steps(*arguments)

            class Noting:
                lower = made.sync.lower

                def __call__(noting, trainable, reference):
                    if self.begin is None:
                        self.begin = jax.device_get(reference)
                    self.policies.append(jax.device_get(trainable))
                    return made.sync(trainable, reference)

            return made._replace(sync=Noting())

        @contextlib.contextmanager
        def signals():
            yield lambda: moves is not None and len(self.policies) >= moves

        self.monkeypatch.setattr(train, "make_steps", make)
        self.monkeypatch.setattr(train, "watch_sigterm", signals)
        train.train(self.prepared, workdir, say=lambda line: None)


def kept(workdir) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint by its path."""
    checkpoints = Checkpoints(workdir / "checkpoints")
    with contextlib.closing(checkpoints):
        saved = checkpoints.manager.restore(checkpoints.latest()).state
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(saved)
    }


def moves_of(workdir) -> list[tuple]:
    rows = read_metrics(workdir / "metrics.jsonl")
    return [(row["step"], row["loss"], row["kl"]) for row in rows if row["phase"] == "train"]


@pytest.mark.slow
def test_a_run_that_is_stopped_between_two_moves_ends_as_one_that_is_not(
    prepared, tmp_path, monkeypatch
):
    """The second move is after step 4, inside of round 2; the checkpoint holds the moved one."""
    whole, parts = Run(prepared, monkeypatch), Run(prepared, monkeypatch)
    whole.train(tmp_path / "whole")
    assert len(whole.policies) == 4
    with pytest.raises(Interrupted):
        parts.train(tmp_path / "parts", moves=2)
    inside = [leaf for path, leaf in kept(tmp_path / "parts").items() if "['reference']" in path]
    assert_near(inside, rendering(parts.begin, parts.policies, MIX), 1e-6)
    parts.train(tmp_path / "parts")
    expected, found = kept(tmp_path / "whole"), kept(tmp_path / "parts")
    assert expected.keys() == found.keys()
    for path in expected:
        np.testing.assert_array_equal(found[path], expected[path], err_msg=path)
    assert moves_of(tmp_path / "parts") == moves_of(tmp_path / "whole")
    reference = [leaf for path, leaf in expected.items() if "['reference']" in path]
    assert_near(reference, rendering(whole.begin, whole.policies, MIX), 1e-6)
    # it has come nearer to the policy than a reference that stays
    last = leaves_of(whole.policies[-1])
    far = sum(np.square(p - r).sum() for p, r in zip(last, leaves_of(whole.begin)))
    near = sum(np.square(p - r).sum() for p, r in zip(last, leaves_of(reference)))
    assert 0 < near < far / 2
