"""What the phases of a run share: where they write, whom they listen to, how they stop."""

from collections.abc import Callable, Mapping
import functools
import math
from typing import Any, NamedTuple

from etils import epath
import jax
import numpy as np

from gdsd_jax import paths, sharding
from gdsd_jax.checkpoint import Checkpoints, Damaged, checksums_of, named
from gdsd_jax.experiment import Experiment
from gdsd_jax.keys import make_keys
from gdsd_jax.metrics import MetricsWriter
from gdsd_jax.optimizer import BROKEN
from gdsd_jax.progress import phase
from gdsd_jax.resume import Buffer, Progress, as_host, as_saved, from_host
from gdsd_jax.steps import Steps
from gdsd_jax.types import PyTree, TrainState


class Interrupted(Exception):
    """SIGTERM came, and the last completed state is saved. Work that was begun may still go on in
    its thread."""


class Loop(NamedTuple):
    """What the phases share."""

    experiment: Experiment
    workdir: epath.Path
    steps: Steps
    seed_key: jax.Array
    checkpoints: Checkpoints
    best: Checkpoints  # the one that keep_best keeps
    writer: MetricsWriter
    signalled: Callable[[], bool]  # whether SIGTERM has come to this process
    say: Callable[[str], None]
    profile: int | None = None  # the round of which the profiler writes a trace

    def keys(self, number: int) -> dict[str, jax.Array]:
        """A key for each use of randomness in round or step `number`."""
        return keys_of(self.experiment, self.seed_key, number)

    def stopping(self) -> bool:
        """Whether SIGTERM has come to any process; all ask at the same points and get the same
        answer."""
        return self.experiment.hosts.any(self.signalled())


def seed_key_of(experiment: Experiment) -> jax.Array:
    """The key that all others come from, on every device."""
    make = functools.partial(jax.random.key, experiment.settings.seed)
    return jax.jit(make, out_shardings=sharding.replicated(experiment.mesh))()


def keys_of(experiment: Experiment, seed_key: jax.Array, number: int) -> dict[str, jax.Array]:
    """A key for each use of randomness in round or step `number`."""
    return make_keys(seed_key, sharding.everywhere(experiment.mesh, np.int32(number)))


def unless_stopped(loop: Loop, work: Callable[[], Any], keep: Callable[[], None]) -> Any:
    """What `work()` returns.

    A stop does not wait for it, be it compiling, a rollout, or programs that take long. Then
    `keep()` saves the state, which the work only reads, and raises Interrupted.
    """
    stopped, future = loop.experiment.hosts.run_until_stopped(work, loop.signalled)
    if stopped:
        keep()
    return future.result()


def checked(
    loop: Loop,
    kind: str,
    step: int,
    outcome: Mapping[str, Any],
    trainable: PyTree,
    slice_rows: int,
) -> dict[str, Any]:
    """The metrics of an optimizer step for its line, without `BROKEN`.

    Says where a step was skipped, and by which tensor and rows.

    Args:
      loop: whose setting `not_finite` is asked.
      kind: of its line, "sft" or "train".
      step: its number.
      outcome: the metrics of `make_update`, on the host.
      trainable: whose gradient it was, for the names.
      slice_rows: rows of a slice.

    Raises:
      FloatingPointError: a loss or gradient that is not finite, before a broken state is saved.
    """
    told = {name: value for name, value in outcome.items() if name not in BROKEN}
    wrong = [name for name in ("loss", "grad_norm") if not np.isfinite(told[name])]
    if not wrong:
        return told
    piece, tensor = (int(outcome[name]) for name in BROKEN)
    line = f"{kind} step {step}: {wrong[0]} is {told[wrong[0]]}"
    if tensor >= 0:
        line += f", the gradient of {list(named(trainable))[tensor]} is not finite"
    if piece >= 0:
        line += f", from rows {piece * slice_rows + 1} to {(piece + 1) * slice_rows} of the step on"
    if loop.experiment.settings.not_finite == "stop":
        raise FloatingPointError(
            f"{line}; {last_good(loop.checkpoints)}; with not_finite=skip such steps are left out"
        )
    loop.say(f"{line}: the step is left out")
    return told


def last_good(checkpoints: Checkpoints) -> str:
    """What is known of the newest checkpoint."""
    if checkpoints.latest() is None:
        return "there is no checkpoint yet"
    if checkpoints.checked is None:
        return "the last checkpoint is of an earlier version, which did not check its numbers"
    return f"the last checkpoint, {checkpoints.checked}, is good: all its numbers are finite"


def save(
    loop: Loop,
    state: TrainState,
    frozen: dict,
    progress: Progress,
    buffer: Buffer | None = None,
    *,
    stop: bool = False,
) -> None:
    """Starts writing a checkpoint; with `stop`, finishes it and raises Interrupted.

    Raises:
      FloatingPointError: a number of it is not finite, and nothing is written.
      checkpoint.NotSaved: it could not be written, or the one before.
    """
    keep = keeper(loop, state, frozen, progress, buffer)
    keep(stop=stop)


def keeper(
    loop: Loop,
    state: TrainState,
    frozen: dict,
    progress: Progress,
    buffer: Buffer | None = None,
) -> Callable[..., None]:
    """`keep(stop=True)` does what `save` does, and does not wait for the devices: the checksums are
    computed before what they are given to do next."""
    tree = as_saved(state, frozen, buffer)
    sums = checksums_of(tree)

    def keep(stop: bool = True) -> None:
        with phase("writing a checkpoint"):
            try:
                number = iteration_of(loop.experiment, progress)
                loop.checkpoints.save(number, tree, as_host(progress), sums)
            except FloatingPointError as error:
                here = f"{progress.phase}, round {progress.round}, step {progress.step}"
                known = last_good(loop.checkpoints)
                raise FloatingPointError(f"{here}: {error}; {known}") from None
            if stop:
                loop.checkpoints.wait()
                raise Interrupted

    return keep


def keep_if_best(
    loop: Loop, state: TrainState, frozen: dict, progress: Progress, numbers: Mapping[str, float]
) -> None:
    """Keeps the state besides where `keep_best` has never been better than in this evaluation.

    Raises:
      paths.WorkdirError: the evaluation has no such number.
    """
    metric = loop.experiment.settings.keep_best
    if metric is None:
        return
    name = metric.removeprefix("-")
    if name not in numbers:
        raise paths.WorkdirError(f"keep_best={metric}: evaluations tell {', '.join(numbers)}")
    merit = -numbers[name] if metric.startswith("-") else numbers[name]
    if not merit > best_so_far(loop.best).get(metric, -math.inf):  # NaN is never the best
        return
    tree = as_saved(state, frozen if progress.has_rl_state else {}, None)
    host = as_host(progress._replace(best={metric: merit}))
    with phase("writing the best checkpoint"):
        # a run that goes on from an earlier checkpoint may find it before what is kept
        loop.best.save(iteration_of(loop.experiment, progress), tree, host, over=True)
        loop.best.wait()
    loop.say(f"best {name} so far, {numbers[name]:.4g}: kept in {loop.best.folder.parent}")


def best_so_far(best: Checkpoints) -> dict[str, float]:
    """{a `keep_best`: its number} of what is kept there. The run's own checkpoints do not say it:
    the last of them is older than the last evaluation."""
    newest = best.latest()
    if newest is None:
        return {}
    try:
        return from_host(best.host(newest))[0].best or {}
    except Damaged:
        return {}


def iteration_of(experiment: Experiment, progress: Progress) -> int:
    """The number of a checkpoint: optimizer steps so far, those of rounds behind one more."""
    per_round = experiment.settings.inner_iterations
    steps = progress.step + progress.round * per_round + progress.inner
    return steps + 1 if progress.phase == "rl" else steps
