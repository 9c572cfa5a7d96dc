"""Every test sees eight CPU devices, strict shapes and no compiled code of earlier runs."""
import os
from pathlib import Path

# jax reads these when it is first imported, which is after this file.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]).strip()
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import jax  # noqa: E402
import pytest  # noqa: E402

# Compiling is most of the tests' time; programs that a test starts keep the default.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the golden numbers, made by the reference implementations; without it the test is skipped."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "golden"
    folder = Path(os.environ.get("GDSD_GOLDEN", beside))
    if not folder.is_dir():
        pytest.skip(f"no golden numbers in {folder}; set GDSD_GOLDEN to their folder")
    return folder


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """Where the generated problems and their tokenizer are built, once for all tests."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session", params=["full", "lora"])
def workdir(request, data_dir, tmp_path_factory) -> Path:
    """Workdir of a finished run of the embedded default: a few supervised steps, an evaluation, a checkpoint."""
    from configs import coding
    from gdsd_jax import run, train

    rank = 0 if request.param == "full" else 4
    config = coding.get_config(
        f"tiny,rounds=0,prompts_per_round=8,group_size=2,sft.steps=12,sft.batch=16,sft_optimizer.learning_rate=1e-3,"
        f"eval_problems=20,lora_rank={rank},lora_alpha=8,data_dir={data_dir}"
    )
    prepared = run.prepare(config, tmp_path_factory.mktemp(request.param))
    with prepared.sandbox:
        train.train(prepared, say=lambda line: None)
    return prepared.workdir
