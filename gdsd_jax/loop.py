"""What the phases of a run share: where they write, whom they listen to, how they stop."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

from etils import epath
import jax
import numpy as np

from gdsd_jax import sharding
from gdsd_jax.checkpoint import Checkpoints
from gdsd_jax.experiment import Experiment
from gdsd_jax.keys import make_keys
from gdsd_jax.metrics import MetricsWriter
from gdsd_jax.resume import Buffer, Progress, as_host, as_saved
from gdsd_jax.steps import Steps
from gdsd_jax.types import TrainState


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


def check_finite(phase: str, step: int, numbers: dict) -> None:
    """FloatingPointError before a broken state is saved."""
    for name in ("loss", "grad_norm"):
        if name in numbers and not np.isfinite(numbers[name]):
            raise FloatingPointError(
                f"{phase} step {step}: {name} is {numbers[name]}; the last checkpoint is good"
            )


def save(
    loop: Loop,
    state: TrainState,
    frozen: dict,
    progress: Progress,
    buffer: Buffer | None = None,
    *,
    stop: bool = False,
) -> None:
    """Starts writing a checkpoint; with `stop`, finishes it and raises Interrupted."""
    per_round = loop.experiment.settings.inner_iterations
    iteration = progress.step + progress.round * per_round + progress.inner
    if progress.phase == "rl":
        iteration += 1
    loop.checkpoints.save(iteration, as_saved(state, frozen, buffer), as_host(progress))
    if stop:
        loop.checkpoints.wait()
        raise Interrupted
