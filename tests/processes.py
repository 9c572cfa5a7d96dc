"""Small runs of the embedded default as processes of their own: started, killed, compared."""

import contextlib
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import orbax.checkpoint as ocp

from gdsd_jax import metrics

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 1800  # seconds, of a machine that is busy
SMALL = (
    "tiny,rounds=3,prompts_per_round=4,group_size=2,inner_iterations=2,slices=2,sft.steps=6,"
    "sft.batch=16,"
    "sft.log_every=3,sft.checkpoint_every=2,eval_every=2,eval_problems=12,checkpoint_every=1,"
    "gdsd.beta=0.01,probe_rows=0"
)
SFT_STEPS = 60  # after so many some answers are programs
TAUGHT = (
    "tiny,rounds=3,prompts_per_round=4,group_size=2,inner_iterations=2,slices=2,gdsd.beta=0.01,"
    f"sft.steps={SFT_STEPS},sft.batch=16,sft.log_every=25,sft.checkpoint_every=20,"
    f"sft_optimizer.learning_rate=1e-2,sft_optimizer.decay_steps={SFT_STEPS},"
    "sft_optimizer.warmup_steps=5,eval_every=2,eval_problems=12,checkpoint_every=1"
)
COMPILED = {  # where the tests keep what is compiled
    name: os.environ[name]
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
}
# what may differ between equal runs
CLOCK = ("wall_s", "rollout_s", "reward_s", "update_s", "tokens_per_s")
# Runs launch/main.py and kills it, with the signal, when `place` is called for the n-th time.
KILLED = """
import functools, importlib, os, runpy, sys

place, count, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sys.argv[:] = ["launch/main.py", *sys.argv[4:]]
sys.path.insert(0, os.getcwd())
module, _, names = place.partition(":")
*path, name = names.split(".")
owner = functools.reduce(getattr, path, importlib.import_module(module))
inner, calls = getattr(owner, name), []

@functools.wraps(inner)
def counted(*arguments, **named):
    calls.append(None)
    if len(calls) == count:
        os.kill(os.getpid(), number)
    return inner(*arguments, **named)

setattr(owner, name, counted)
runpy.run_path("launch/main.py", run_name="__main__")
"""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("", 0))
        return taken.getsockname()[1]


def children_of(pid: int | str) -> list[int]:
    """Processes that this one ("self": the caller's) has started or adopted. A thread, or the
    process, that ends while it is asked has none."""
    found = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def xla_flags(devices: int = 1) -> str:
    """The suite's, for so many devices: of a flag that is given twice the last one counts."""
    return f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"


def spawn(*command, **environment) -> subprocess.Popen:
    """Output and errors go to files, which do not fill up as pipes do while another process is
    waited for."""
    environment = os.environ | {"XLA_FLAGS": xla_flags()} | environment
    files = [tempfile.TemporaryFile("w+") for _ in range(2)]
    command = [sys.executable, *map(str, command)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=files[0], stderr=files[1])
    process.files = files
    return process


def ended(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """(exit code, output, errors) of each; what does not end is killed."""
    until = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for file in sum((process.files for process in processes), []):
        file.seek(0)
    return [(process.returncode, *(file.read() for file in process.files)) for process in processes]


class Runs:
    """Starts runs that share compiled code and problems; `close` ends what is left of them."""

    def __init__(self, data_dir, config: str = SMALL, mesh: str = "mesh.data=1"):
        self.config = ",".join([config, f"data_dir={data_dir}", mesh])
        self.environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "JAX_PLATFORMS": "cpu",
            **COMPILED,
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "XLA_FLAGS": xla_flags(),
        }
        self.running: list[subprocess.Popen] = []

    def command(self, workdir, *overrides, begin=("launch/main.py",)) -> list[str]:
        """The command line of a run."""
        config = ",".join([self.config, *overrides])
        flags = [f"--config=configs/coding.py:{config}", f"--workdir={workdir}"]
        return [sys.executable, *begin, *flags]

    def start(
        self, workdir, *overrides, flags=(), killed=None, quiet: bool = False, **more
    ) -> subprocess.Popen:
        """A run.

        Args:
          workdir: of the run.
          *overrides: of its config.
          flags: of launch/main.py.
          killed: (place, n, signal): it kills itself when MODULE:NAME is called the n-th time.
          quiet: what it prints is thrown away, not kept in pipes that somebody must read.
          **more: environment.
        """
        begin = ("launch/main.py",) if killed is None else ("-c", KILLED, *map(str, killed))
        output = subprocess.DEVNULL if quiet else subprocess.PIPE
        # a shell that runs the tests in the background has them ignore Ctrl-C
        heeding = ["env", "--default-signal=INT"]
        process = subprocess.Popen(
            [*heeding, *self.command(workdir, *overrides, begin=begin), *flags],
            cwd=ROOT,
            env=self.environment | more,
            stdout=output,
            stderr=output,
            text=True,
        )
        self.running.append(process)
        return process

    def start_together(self, workdir, count: int, *overrides) -> list[subprocess.Popen]:
        """A run of `count` processes with one device each; `ended` says how they end."""
        _, *command = self.command(workdir, *overrides)
        flags = [f"--coordinator=localhost:{free_port()}", f"--num_processes={count}"]
        processes = [
            spawn(*command, *flags, f"--process_id={index}", **self.environment)
            for index in range(count)
        ]
        self.running += processes
        return processes

    def finish(self, workdir, *overrides, **how) -> str:
        """A run to its end; what it prints."""
        output, errors = (process := self.start(workdir, *overrides, **how)).communicate()
        assert process.returncode == 0, errors
        return output

    def stop(self, workdir) -> None:
        """A run of `TAUGHT` until it is between two updates, where it is stopped and saves."""
        place = ("gdsd_jax.loop:Loop.stopping", SFT_STEPS + 1, signal.SIGTERM)
        _, errors = (process := self.start(workdir, killed=place)).communicate()
        assert process.returncode == 143, errors

    def close(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()


def state_of(workdir, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint by its path, whatever devices wrote it."""
    folder = Path(workdir) / "checkpoints" / str(step) / "state"
    handler = ocp.PyTreeCheckpointHandler()
    whole = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(folder).tree
    )
    restored = handler.restore(folder, args=ocp.args.PyTreeRestore(restore_args=whole))
    return {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(restored)
    }


def last_state(workdir) -> dict[str, np.ndarray]:
    steps = [path.name for path in (Path(workdir) / "checkpoints").iterdir()]
    return state_of(workdir, max(int(name) for name in steps if name.isdigit()))


def without_clock(workdir) -> list[dict]:
    rows = metrics.read_metrics(Path(workdir) / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in rows]


def assert_same_run(workdir, other) -> None:
    """The same parameters and lines, bit for bit, but for the times."""
    state, expected = last_state(workdir), last_state(other)
    assert state.keys() == expected.keys()
    for path in expected:
        np.testing.assert_array_equal(state[path], expected[path], err_msg=path)
    assert without_clock(workdir) == without_clock(other)


def when(process, line_start: str, number: int) -> None:
    """Sends the signal once the process has printed a line with that beginning."""
    for line in process.stdout:
        if line.startswith(line_start):
            break
    process.send_signal(number)
    process.communicate()
