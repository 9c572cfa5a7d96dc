"""Every test sees eight CPU devices, strict shapes and no compiled code of earlier sessions."""

import atexit
from collections.abc import Callable, Iterator
import contextlib
import fcntl
import functools
import importlib.util
import math
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile


def is_known(flag: str) -> bool:
    """Whether this jaxlib takes a flag of XLA, which ends a process that names another."""
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    env = os.environ | {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, env=env, capture_output=True).returncode == 0


# Compiling is most of the tests' time. The older way to emit fusions, where there still is one,
# takes a third of it, and fewer optimizations less still; programs that a test starts inherit both,
# but for those of real weights.
OLDER = "--xla_cpu_use_fusion_emitters=false"
flags = os.environ.get("XLA_FLAGS", "")  # in a worker of pytest those that were found already
if OLDER not in flags and is_known(OLDER):
    flags += f" {OLDER}"
# jax reads these when it is first imported, which is after this file.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [
        flags,
        "--xla_force_host_platform_device_count=8",
        # a busy machine with two cores may need more than 40
        "--xla_cpu_collective_call_terminate_timeout_seconds=600",
    ]
).strip()
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# What one test compiles, others and the programs they start load.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax
import pytest

from gdsd_jax import progress, topologies
from tests.bucket import Bucket, serve

# Tests read what a program says, to which a slow machine adds nothing.
progress.QUIET_S = math.inf


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the golden numbers, made by the reference implementations; without it the test is
    skipped."""
    folder = golden_folder()
    if not folder.is_dir():
        pytest.skip(f"no golden numbers in {folder}; set GDSD_GOLDEN to their folder")
    return folder


@pytest.fixture(scope="session")
def released() -> Path:
    """Folder of those of the released losses and samplers, whole or the part that lies here: tiny
    models of random weights, inputs, and float32 numbers of the authors' PyTorch code."""
    folder = golden_folder()
    return folder if folder.is_dir() else Path(__file__).resolve().parent / "golden" / "released"


def golden_folder() -> Path:
    """Where all golden numbers are, if they are."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "golden"
    return Path(os.environ.get("GDSD_GOLDEN", beside))


@pytest.fixture(scope="session")
def published() -> Path:
    """Folder of public problems and completions of others' models; without it the test is
    skipped."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "d1"
    folder = Path(os.environ.get("GDSD_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no public completions in {folder}; set GDSD_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def compiler() -> Callable[[str], None]:
    """`compiler(topology)` skips the test where nothing can compile for it."""

    def needed(topology: str) -> None:
        gpu = topology.partition(":")[0] in topologies.GPUS
        module = "jax_plugins" if gpu else "libtpu"
        variable = "CUDA_PLUGIN_PATH" if gpu else "TPU_LIBRARY_PATH"
        if importlib.util.find_spec(module) is None and not os.environ.get(variable):
            pytest.skip(f"no compiler for {topology}: bash launch/test.sh installs it")

    return needed


@pytest.fixture
def bucket(monkeypatch) -> Iterator[Bucket]:
    """An object store behind gs:// addresses, empty at first."""
    yield from serve(monkeypatch)


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """`once(name, fill)` is a folder that the first of pytest's workers that needs it fills for all
    of them: tests read it, and copy what they change."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def made(name: str, fill: Callable[[Path], None]) -> Path:
        folder, is_filled = root / name, root / f"{name}.filled"
        with open(root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_filled.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
                folder.mkdir()
                fill(folder)
                is_filled.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def data_dir(once) -> Path:
    """Where the generated problems and their tokenizer are built, once for all tests."""
    from gdsd_jax.tasks.coding import dataset

    return once("data", dataset.build)


@pytest.fixture(scope="session")
def workdir(data_dir, once) -> Path:
    """Workdir of a finished run of the embedded default: a few supervised steps, an evaluation, a
    checkpoint."""
    return once("full", functools.partial(run_shortly, data_dir))


def run_shortly(data_dir: Path, folder: Path) -> None:
    from configs import coding
    from gdsd_jax import experiment, settings, train

    chosen = settings.parse(
        coding.get_config(
            "tiny,rounds=0,prompts_per_round=8,group_size=2,sft.steps=4,sft.batch=16,"
            f"sft_optimizer.learning_rate=1e-3,eval_problems=20,data_dir={data_dir}"
        )
    )
    prepared = experiment.prepare(chosen)
    train.train(prepared, folder, say=lambda line: None)
    prepared.task.close()


@pytest.fixture(scope="session")
def lora_workdir(data_dir, once) -> Path:
    """Workdir with a checkpoint of adapters that are not zero, over a base that no checkpoint
    holds."""
    return once("lora", functools.partial(save_adapters, data_dir))


def save_adapters(data_dir: Path, folder: Path) -> None:
    from configs import coding
    from gdsd_jax import experiment, resume, settings, weights, workdirs
    from gdsd_jax.checkpoint import Checkpoints
    from gdsd_jax.keys import make_keys

    chosen = settings.parse(
        coding.get_config(
            "tiny,prompts_per_round=8,group_size=2,lora_rank=4,lora_alpha=8,seed=5,"
            f"data_dir={data_dir}"
        )
    )
    prepared = experiment.prepare(chosen)
    prepared.task.close()
    model, mesh = prepared.denoiser.config, prepared.mesh
    rng = make_keys(jax.random.key(chosen.seed), 0)["init"]
    adapters, frozen = weights.initial_weights(chosen, model, mesh, rng)
    adapters = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(9), x.shape), adapters
    )
    workdirs.write_settings(prepared, folder)
    state = resume.fresh_state(mesh, adapters, chosen.optimizer)
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(3, resume.as_saved(state, frozen, None), {})
    checkpoints.close()


@pytest.fixture(scope="session")
def main() -> Callable[[], int]:
    """What `python launch/main.py` calls."""
    from launch import main as script

    return script.main


@pytest.fixture(scope="session")
def runs(data_dir) -> Iterator:
    """Starts runs of launch/main.py after a supervised phase that has taught something."""
    from tests.processes import TAUGHT, Runs

    with contextlib.closing(Runs(data_dir, TAUGHT)) as found:
        yield found


@pytest.fixture(scope="session")
def undisturbed(runs, once) -> Path:
    """Folder of a run from start to end."""
    from tests.processes import without_clock

    workdir = once("undisturbed", runs.finish)
    rollouts = [row for row in without_clock(workdir) if row["phase"] == "rollout"]
    assert any(row["reward"] for row in rollouts), "no answer is a program"
    return workdir


@pytest.fixture(scope="session")
def stopped(runs, undisturbed, once) -> Path:
    """Folder of a run that was stopped between two updates."""
    return once("stopped", runs.stop)
