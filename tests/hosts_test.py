"""Several processes as hosts of one run: the same numbers as one process, and the end of all when one is killed."""
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from gdsd_jax import metrics
from gdsd_jax.hosts import Hosts, start
from tests.train_test import CLOCK, last_state

ROOT = Path(__file__).resolve().parents[1]
DEVICES = 8
CONFIG = (
    "tiny,rounds=5,prompts_per_round=8,group_size=2,inner_iterations=2,slices=2,sft.steps=2,sft.batch=16,"
    "sft.log_every=2,sft.checkpoint_every=2,eval_every=5,eval_problems=8,checkpoint_every=1,mesh.data=2,mesh.fsdp=2,"
    "mesh.tensor=2"
)  # fmt: skip


def test_one_process_is_all_of_them():
    alone = Hosts()
    assert alone.exchange(3) == [3] and alone.first and not alone.any(False) and not alone.said("stop")
    found = alone.merge({"tests": np.arange(5.0, dtype=np.float32)[alone.share(5)]}, 5)
    np.testing.assert_array_equal(found["tests"], np.arange(5.0))


def test_shares_are_put_together_again():
    values = np.arange(7) ** 2
    parts = [{"x": values[Hosts(index, 3).share(7)]} for index in range(3)]
    three = Hosts(1, 3)
    three.exchange = lambda part: parts  # what the service would bring
    np.testing.assert_array_equal(three.merge(parts[1], 7)["x"], values)


@pytest.mark.parametrize(
    "arguments, said",
    [(("a:1", 2, None), "together"), (("a:1", 2, 2), "process_id=2 must lie in 0 .. 1"), (("a", 2, 0), "HOST:PORT")],
)
def test_incomplete_addresses_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        start(*arguments)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return taken.getsockname()[1]


def launch(workdir, data_dir, count: int) -> list[subprocess.Popen]:
    """The run as `count` processes that share eight CPU devices among them."""
    environment = os.environ | {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES // count}",
    }
    config, port = f"configs/coding.py:{CONFIG},data_dir={data_dir}", free_port()
    address = [f"--coordinator=localhost:{port}", f"--num_processes={count}"] if count > 1 else []
    return [
        subprocess.Popen(
            [sys.executable, "launch/main.py", f"--config={config}", f"--workdir={workdir}", *address,
             *([f"--process_id={index}"] if address else [])],
            cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for index in range(count)
    ]  # fmt: skip


def finish(processes: list[subprocess.Popen]) -> list[str]:
    """Error outputs; what is still running after ten minutes is killed."""
    try:
        return [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()


def lines(workdir) -> list[dict]:
    file = workdir / "metrics.jsonl"
    return metrics.read_metrics(file) if file.exists() else []


def numbers(workdir) -> list[dict]:
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in lines(workdir)]


def wait_for_round(processes, workdir, number: int) -> None:
    while not any(line["phase"] == "rollout" and line["step"] >= number for line in lines(workdir)):
        assert all(process.poll() is None for process in processes), finish(processes)
        time.sleep(0.1)


@pytest.fixture(scope="module")
def alone(data_dir, tmp_path_factory):
    """Workdir of the run in one process."""
    workdir = tmp_path_factory.mktemp("alone")
    (process,) = launch(workdir, data_dir, 1)
    (errors,) = finish([process])
    assert process.returncode == 0, errors
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("count", [int(count) for count in os.environ.get("GDSD_HOSTS", "2").split(",")])
def test_a_run_does_not_depend_on_the_number_of_processes(count, alone, data_dir, tmp_path):
    """One is killed on the way, which ends the others with a line that names it; started again, all reach the numbers
    of one process: tokens and rewards are equal, parameters to 1e-6, sums over devices being in the same order."""
    processes = launch(tmp_path, data_dir, count)
    wait_for_round(processes, tmp_path, 3)
    began = time.monotonic()
    processes[-1].kill()
    errors = finish(processes)
    assert time.monotonic() - began < 60
    for process, said in zip(processes[:-1], errors):
        assert process.returncode == 1 and f"error: process {count - 1} of {count}" in said, said
    processes = launch(tmp_path, data_dir, count)
    errors = finish(processes)
    assert [process.returncode for process in processes] == [0] * count, errors

    for ours, theirs in zip(numbers(tmp_path), numbers(alone), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == (pytest.approx(value, rel=1e-4, abs=1e-5) if ours["phase"] in ("train", "sft") else value), name
    for name, weights in last_state(alone).items():
        np.testing.assert_allclose(last_state(tmp_path)[name], weights, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_sigterm_to_one_ends_all_with_the_state_saved(data_dir, tmp_path):
    processes = launch(tmp_path, data_dir, 2)
    wait_for_round(processes, tmp_path, 1)
    began = time.monotonic()
    processes[1].send_signal(signal.SIGTERM)
    errors = finish(processes)
    assert [process.returncode for process in processes] == [143, 143], errors
    assert time.monotonic() - began < 25
    assert list((tmp_path / "checkpoints").iterdir())
