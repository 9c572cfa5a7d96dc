"""Every test sees eight CPU devices, strict shapes and no compiled code of earlier runs."""

from collections.abc import Iterator
import os
from pathlib import Path

# jax reads these when it is first imported, which is after this file.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        # a busy machine with two cores may need more than 40
        "--xla_cpu_collective_call_terminate_timeout_seconds=600",
    ]
).strip()
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import jax
import pytest

from tests.bucket import Bucket, serve

# Compiling is most of the tests' time; programs that a test starts keep the default.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the golden numbers, made by the reference implementations; without it the test is
    skipped."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "golden"
    folder = Path(os.environ.get("GDSD_GOLDEN", beside))
    if not folder.is_dir():
        pytest.skip(f"no golden numbers in {folder}; set GDSD_GOLDEN to their folder")
    return folder


@pytest.fixture
def bucket(monkeypatch) -> Iterator[Bucket]:
    """An object store behind gs:// addresses, empty at first."""
    yield from serve(monkeypatch)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """Where the generated problems and their tokenizer are built, once for all tests."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def workdir(data_dir, tmp_path_factory) -> Path:
    """Workdir of a finished run of the embedded default: a few supervised steps, an evaluation, a
    checkpoint."""
    from configs import coding
    from gdsd_jax import run, train

    config = coding.get_config(
        "tiny,rounds=0,prompts_per_round=8,group_size=2,sft.steps=4,sft.batch=16,"
        "sft_optimizer.learning_rate=1e-3,"
        f"eval_problems=20,data_dir={data_dir}"
    )
    prepared = run.prepare(config, tmp_path_factory.mktemp("full"))
    with prepared.sandbox:
        train.train(prepared, say=lambda line: None)
    return prepared.workdir


@pytest.fixture(scope="session")
def lora_workdir(data_dir, tmp_path_factory) -> Path:
    """Workdir with a checkpoint of adapters that are not zero, over a base that no checkpoint
    holds."""
    from configs import coding
    from gdsd_jax import resume, run, steps
    from gdsd_jax.checkpoint import Checkpoints

    config = coding.get_config(
        f"tiny,prompts_per_round=8,group_size=2,lora_rank=4,lora_alpha=8,seed=5,data_dir={data_dir}"
    )
    prepared = run.prepare(config, tmp_path_factory.mktemp("lora"))
    adapters, frozen = run.initial_weights(
        prepared, steps.make_keys(jax.random.key(config.seed), 0)["init"]
    )
    adapters = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(9), x.shape), adapters
    )
    (prepared.workdir / "config.json").write_text(config.to_json_best_effort())
    checkpoints = Checkpoints(prepared.workdir / "checkpoints")
    checkpoints.save(
        3,
        resume.as_saved(resume.fresh_state(prepared, adapters, config.optimizer), frozen, None),
        {},
    )
    checkpoints.close()
    return prepared.workdir
