"""What the phases of a run share: stopping with the state saved, refusing broken numbers."""

import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import paths, resume
from gdsd_jax.checkpoint import Checkpoints
from gdsd_jax.hosts import Hosts
from gdsd_jax.loop import Interrupted, Loop, checked, keep_if_best, save, unless_stopped
from gdsd_jax.optimizer import BROKEN

CHOICES = ("stop", "skip")


def loop_of(prepared, checkpoints, signalled) -> Loop:
    """A loop that has no more than these."""
    return Loop(
        prepared,
        workdir=None,
        steps=None,
        seed_key=None,
        checkpoints=checkpoints,
        best=None,
        writer=None,
        signalled=signalled,
        say=print,
    )


def test_a_stop_saves_while_work_goes_on(tmp_path):
    """What takes long, here for ever, is not waited for."""
    alone = SimpleNamespace(hosts=Hosts(), settings=SimpleNamespace(inner_iterations=2))
    checkpoints, begun, signalled = Checkpoints(tmp_path), threading.Event(), threading.Event()
    loop = loop_of(alone, checkpoints, signalled.is_set)
    state, progress = {"weights": jnp.arange(4.0)}, resume.Progress("rl", step=6, round=1)

    def work():
        begun.set()
        signalled.set()
        threading.Event().wait()

    with pytest.raises(Interrupted):
        unless_stopped(loop, work, lambda: save(loop, state, {}, progress, stop=True))
    assert begun.is_set() and checkpoints.host(checkpoints.latest())["round"] == 1


def test_work_that_fails_fails_the_run():
    """With its own error, stop or not; else its result is what counts."""
    loop = loop_of(SimpleNamespace(hosts=Hosts()), None, lambda: False)

    def keep():
        return pytest.fail("nobody asked for a stop")

    assert unless_stopped(loop, lambda: 7, keep) == 7
    with pytest.raises(ZeroDivisionError):
        unless_stopped(loop, lambda: 1 / 0, keep)


def test_the_best_of_a_metric_is_kept(tmp_path):
    """The first of equals; with a minus the least; what is no number is never the best."""
    for metric, values, steps in (
        ("pass_at_1", [0.5, 0.4, float("nan"), 0.5, 0.6], [0, 4]),
        ("-kl_common", [0.5, 0.6, float("nan"), 0.5, 0.1], [0, 4]),
    ):
        chosen = SimpleNamespace(inner_iterations=2, keep_best=metric)
        alone = SimpleNamespace(hosts=Hosts(), settings=chosen)
        best = Checkpoints(tmp_path / metric / "checkpoints", keep=1)
        loop = loop_of(alone, None, lambda: False)._replace(best=best)
        progress, kept = resume.Progress("rl", step=6), []
        for number, value in enumerate(values):
            progress = progress._replace(round=number)
            numbers = {metric.strip("-"): value, "other": 1.0}
            keep_if_best(loop, {"weights": jnp.arange(4.0)}, {}, progress, numbers)
            # a run that goes on knows it by what is kept
            loop = loop._replace(best=Checkpoints(best.folder, keep=1))
            if not kept or kept[-1] != best.latest():
                kept.append(best.latest())
        assert kept == [7 + 2 * step for step in steps] and len(best.iterations()) == 1
        assert best.host(kept[-1])["round"] == 4
    with pytest.raises(paths.WorkdirError, match="keep_best=-kl_common: evaluations tell other"):
        keep_if_best(loop, {}, {}, progress, {"other": 1.0})


def test_what_is_kept_is_the_best_wherever_a_run_goes_on(tmp_path):
    """The last evaluation comes after the last checkpoint, and a run may go on from one before what
    is kept."""
    chosen, said = SimpleNamespace(inner_iterations=2, keep_best="solved"), []
    alone = SimpleNamespace(hosts=Hosts(), settings=chosen)
    for number, value, wanted in ((4, 0.9, 9), (5, 0.85, 9), (2, 0.95, 5), (2, 0.97, 5)):
        best = Checkpoints(tmp_path / "checkpoints", keep=1)
        loop = loop_of(alone, None, None)._replace(best=best, say=said.append)
        weights, progress = jnp.full(4, value), resume.Progress("rl", round=number)
        keep_if_best(loop, {"weights": weights}, {}, progress, {"solved": value})
        assert best.iterations() == [wanted]
    assert best.host(5)["best"] == {"solved": 0.97} and len(said) == 3
    found = best.restore(5, jax.eval_shape(lambda: {"state": {"weights": weights}}))
    np.testing.assert_array_equal(found["state"]["weights"], np.full(4, 0.97, np.float32))
    (tmp_path / "checkpoints" / "5" / "host" / "metadata").write_text("{")
    keep_if_best(loop, {"weights": weights}, {}, progress._replace(round=7), {"solved": 0.1})
    assert best.iterations() == [15], "of what cannot be read nobody knows how good it is"


def test_broken_numbers_stop_the_run(tmp_path):
    """The line names phase, step and tensor, and says of a checkpoint only what was checked."""
    checkpoints, trainable = Checkpoints(tmp_path), {"a": jnp.arange(4.0), "b": jnp.arange(2.0)}
    stops, skips = (SimpleNamespace(settings=SimpleNamespace(not_finite=x)) for x in CHOICES)
    fine = {"loss": 1.0, "grad_norm": 2.0}
    whole, broken = dict.fromkeys(BROKEN, -1), dict(zip(BROKEN, (2, 1)))

    def check(numbers, checkpoints, chosen=stops, say=pytest.fail):
        loop = loop_of(chosen, checkpoints, None)._replace(say=say)
        return checked(loop, "train", 7, numbers, trainable, slice_rows=4)

    assert check(fine | whole, checkpoints) == fine
    wrong = fine | broken | {"grad_norm": float("nan")}
    place = "step 7: grad_norm is nan, the gradient of b is not finite, from rows 9 to 12 of the"
    with pytest.raises(FloatingPointError, match=f"{place} step on; there is no checkpoint yet"):
        check(wrong, checkpoints)
    said = []
    assert check(wrong, checkpoints, skips, said.append).keys() == fine.keys()
    assert len(said) == 1 and place in said[0] and said[0].endswith(": the step is left out")
    checkpoints.save(3, {"state": jnp.arange(4.0)}, {})
    with pytest.raises(FloatingPointError, match="the last checkpoint, 3, is good"):
        check(wrong, checkpoints)
    again = Checkpoints(tmp_path)  # by which nothing was read
    with pytest.raises(FloatingPointError, match="did not check its numbers"):
        check(wrong, again)


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    """Whether or not a line about its loss was due."""
    alone = SimpleNamespace(hosts=Hosts(), settings=SimpleNamespace(inner_iterations=2))
    checkpoints = Checkpoints(tmp_path)
    loop, progress = loop_of(alone, checkpoints, lambda: False), resume.Progress(step=6)
    save(loop, {"weights": jnp.arange(4.0)}, {}, progress)
    broken = {"weights": jnp.array([1.0, jnp.inf])}
    said = "sft, round 0, step 8: state.weights is not finite.*the last checkpoint, 6, is good"
    with pytest.raises(FloatingPointError, match=said):
        save(loop, broken, {}, progress._replace(step=8))
    assert checkpoints.iterations() == [6]
