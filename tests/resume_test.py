"""What a checkpoint holds inside a round comes back as it was, also one of an earlier version."""

import contextlib

import jax
import numpy as np
import pytest

from configs import coding
from gdsd_jax import checkpoint, experiment, resume, settings, weights
from gdsd_jax.optimizer import init_state, make_optimizer
from gdsd_jax.steps import Scored, abstract_round, make_steps

SMALL = (
    "tiny,prompts_per_round=8,group_size=2,inner_iterations=3,minibatches=1,slices=2,sft.steps=0,"
    "mesh.data=4,mesh.fsdp=2"
)
PROGRESS = resume.Progress("rl", step=0, round=1, inner=2, lines=7)
ITERATION = 6  # of the checkpoint
# the arrays of a batch in the order of format 1
SLICES = (
    "tokens_BxL",
    "valid_BxL",
    "completion_len_B",
    "advantages_B",
    "rewards_B",
    "group_B",
    "step_map_BxG",
    "logp_BxG",
)


@pytest.fixture(scope="module")
def prepared(data_dir):
    chosen = settings.parse(coding.get_config(f"{SMALL},data_dir={data_dir}"))
    found = experiment.prepare(chosen)
    with contextlib.closing(found.task):
        yield found


class Round:
    """A run inside a round, with some settings changed: its parts and its arrays."""

    def __init__(self, prepared, changes, columns=None):
        chosen, mesh = settings.replace(prepared.settings, changes), prepared.mesh
        self.experiment = prepared._replace(settings=chosen)
        self.steps = make_steps(prepared.denoiser, chosen, mesh)
        make = weights.make_trainable(chosen, prepared.denoiser.config)
        optimizer = make_optimizer(chosen.optimizer)
        state = weights.abstract(mesh, lambda rng: init_state(make(rng), optimizer))
        frozen = weights.abstract(mesh, lambda rng: weights.copies_of(chosen, make(rng)))
        _, *parts = abstract_round(self.steps, chosen, mesh, state.trainable, frozen, columns)
        self.state, self.frozen = filled(state), filled(frozen)
        self.buffer = filled(resume.Buffer(*parts))

    def resume(self, checkpoints):
        """What `resume.resume` gives of the checkpoint, under the guard of the loop."""
        with jax.transfer_guard("disallow"):
            found = resume.resume(self.experiment, self.steps, checkpoints, ITERATION, None)
        *parts, progress = found
        assert progress._replace(losses=()) == PROGRESS  # JSON has lists
        return parts


def filled(shapes):
    """Arrays of these shapes in their places, no two alike."""
    rng = np.random.default_rng(0)

    def fill(shape):
        values = rng.integers(0, 2 if shape.dtype == bool else 2**20, shape.shape)
        return jax.device_put(values.astype(shape.dtype), shape.sharding)

    return jax.tree.map(fill, shapes)


def save_format_1(one: Round, checkpoints) -> None:
    """As earlier versions did: a list without names, a host's part without a format."""
    buffer = one.buffer
    arrays = [getattr(buffer.slices, name) for name in SLICES]
    for scores in (buffer.scored.old, buffer.scored.ref):
        if scores is not None:
            arrays += [
                jax.device_put(np.asarray(scores)[number], resume.each_of(scores)[0].sharding)
                for number in range(len(scores))
            ]
    tree = {"state": one.state, **one.frozen, "buffer": arrays}
    checkpoints.save(ITERATION, tree, PROGRESS._asdict())


def save_today(one: Round, checkpoints) -> None:
    tree = resume.as_saved(one.state, one.frozen, one.buffer)
    checkpoints.save(ITERATION, tree, resume.as_host(PROGRESS))


def save_format_3(one: Round, checkpoints) -> None:
    """As the version before the probe did."""
    tree = resume.as_saved(one.state, one.frozen, one.buffer._replace(probed=None))
    checkpoints.save(ITERATION, tree, resume.as_host(PROGRESS) | {"format": 3})


@contextlib.contextmanager
def saved(one: Round, folder, save):
    """The checkpoints of a folder that `save(one, checkpoints)` writes."""
    checkpoints = checkpoint.Checkpoints(folder)
    with contextlib.closing(checkpoints):
        save(one, checkpoints)
        checkpoints.wait()
        yield checkpoints


@pytest.mark.parametrize("save", [save_format_1, save_format_3, save_today])
@pytest.mark.parametrize("beta", [0.01, 0.0])
def test_a_buffer_is_the_one_that_was_saved(prepared, tmp_path, save, beta):
    """The same arrays under the same names in the same places, in any format; an earlier version's
    round has no probe."""
    one = Round(prepared, {"gdsd.beta": beta})
    assert len(one.buffer.probed.elbo_R) == 8
    old, ref = one.buffer.scored
    assert len(old) == 2 and (len(ref) == 3 if beta else ref is None)
    with saved(one, tmp_path, save) as checkpoints:
        state, frozen, buffer = one.resume(checkpoints)
    assert set(frozen) == ({"reference"} if beta else set())
    if save is not save_today:
        one.buffer = one.buffer._replace(probed=None)
    found = jax.tree_util.tree_leaves_with_path((state, frozen, buffer))
    expected = jax.tree_util.tree_leaves_with_path((one.state, one.frozen, one.buffer))
    assert [path for path, _ in found] == [path for path, _ in expected]
    for (path, leaf), (_, wanted) in zip(found, expected):
        name = jax.tree_util.keystr(path)
        np.testing.assert_array_equal(leaf, wanted, err_msg=name)
        assert leaf.dtype == wanted.dtype and leaf.sharding.is_equivalent_to(
            wanted.sharding, leaf.ndim
        ), name
    # what is no array comes back too
    assert jax.tree.structure(buffer) == jax.tree.structure(one.buffer)
    assert isinstance(buffer.scored, Scored)


def rows_of(buffer):
    """{name: array with all rows of a minibatch in one axis}."""
    batch = resume.arrays_of(vars(buffer.slices))
    found = {name: np.asarray(x).reshape(-1, *x.shape[2:]) for name, x in batch.items()}
    for name, x in resume.arrays_of(buffer.scored._asdict()).items():
        mu, _, draws, _ = x.shape[:4]
        parts = [[np.concatenate(list(x[m, :, k])) for k in range(draws)] for m in range(mu)]
        found[name] = np.asarray(parts)
    return found


@pytest.mark.parametrize("slices", [1, 4])
@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_buffer_goes_on_in_other_slices(prepared, tmp_path, slices, minibatches):
    """The same rows in their order, placed as those of a round with so many slices."""
    options = {"gdsd.beta": 0.01, "minibatches": minibatches, "group_size": 8, "mask_draws": 2}
    options["inner_iterations"] = 2 * minibatches
    one, other = Round(prepared, options), Round(prepared, options | {"slices": slices})
    with saved(one, tmp_path, save_today) as checkpoints:
        _, _, buffer = other.resume(checkpoints)
    wanted = rows_of(one.buffer)
    for name, rows in rows_of(buffer).items():
        np.testing.assert_array_equal(rows, wanted[name], err_msg=name)
    for found, shape in zip(jax.tree.leaves(buffer), jax.tree.leaves(other.buffer), strict=True):
        assert found.shape == shape.shape
        assert found.sharding.is_equivalent_to(shape.sharding, found.ndim)


def test_a_narrow_round_goes_on(prepared, tmp_path):
    """Whatever width the settings now give it: its prompts have as many columns as they had."""
    one, other = Round(prepared, {"prompt_multiple": 8}, columns=16), Round(prepared, {})
    assert one.buffer.slices.prompt_len == 16 and other.buffer.slices.prompt_len == 24
    with saved(one, tmp_path, save_today) as checkpoints:
        _, _, buffer = other.resume(checkpoints)
    assert jax.tree.structure(buffer) == jax.tree.structure(one.buffer)
    for found, wanted in zip(jax.tree.leaves(buffer), jax.tree.leaves(one.buffer), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("save", "changes"),
    [
        (save_today, {"inner_iterations": 4}),
        (save_today, {"gdsd.beta": 0.0}),
        (save_today, {"group_size": 4}),
        (save_format_1, {"inner_iterations": 4}),
        (save_format_1, {"gdsd.beta": 0.0}),
        (save_format_1, {"slices": 1}),
    ],
)
def test_a_buffer_of_other_settings_is_refused(prepared, tmp_path, save, changes):
    one = Round(prepared, {"gdsd.beta": 0.01})
    other = Round(prepared, {"gdsd.beta": 0.01} | changes)
    with saved(one, tmp_path, save) as checkpoints:
        with pytest.raises(checkpoint.OtherSettings, match="written with other settings"):
            other.resume(checkpoints)


def test_a_hosts_part_says_its_format():
    """None is format 1; one of a later version is refused."""
    assert resume.from_host(resume.as_host(PROGRESS)) == (PROGRESS, 4)
    assert resume.from_host(PROGRESS._asdict()) == (PROGRESS, 1)
    with pytest.raises(ValueError, match="format 5, this version, .*, reads up to 4: install"):
        resume.from_host({"format": 5, "phase": "rl"})
