"""Several processes as the hosts of one run: the numbers of one process, the end of all when one
ends, and going on."""

import contextlib
import json
from pathlib import Path
import re
import shutil
import signal
import socket
import subprocess
import time

import numpy as np
import pytest

from gdsd_jax.hosts import Hosts, start, watch_sigterm
from tests.processes import (
    PATIENCE,
    ended,
    free_port,
    spawn,
    state_of,
    without_clock,
    xla_flags,
)

# What Gloo writes of its own, in pieces that lines of several threads may cut anywhere.
GLOO = re.compile(
    r"\[Gloo\]|Rank|is connected to|Expected number of connected|peer ranks\.?|is|[\d\s:.]"
)
DEVICES = 8
SFT_STEPS = 60
CONFIG = (
    "tiny,rounds=5,prompts_per_round=4,group_size=4,inner_iterations=1,minibatches=1,gdsd.beta=0.0,"
    "remat=none,sampler.steps=6,"
    f"sft.steps={SFT_STEPS},sft.batch=16,sft.log_every=20,sft_optimizer.learning_rate=1e-2,"
    f"sft_optimizer.warmup_steps=5,"
    f"sft_optimizer.decay_steps={SFT_STEPS},eval_every=5,eval_problems=8,checkpoint_every=1,"
    f"keep_checkpoints=9,"
    "mesh.data=2,mesh.fsdp=2,mesh.tensor=2"
)


def test_one_process_is_all_of_them():
    alone = Hosts()
    assert (
        alone.exchange(3) == [3] and alone.first and not alone.any(False) and not alone.said("stop")
    )
    found = alone.merge({"tests": np.arange(5.0, dtype=np.float32)[alone.share(5)]}, 5)
    np.testing.assert_array_equal(found["tests"], np.arange(5.0))


def test_shares_are_put_together_again():
    values = np.arange(7) ** 2
    parts = [{"x": values[Hosts(index, 3).share(7)]} for index in range(3)]
    three = Hosts(1, 3)
    three.exchange = lambda part: parts  # what the service would bring
    np.testing.assert_array_equal(three.merge(parts[1], 7)["x"], values)


@pytest.fixture
def noted():
    """What the handler of SIGTERM that stands before was called with."""
    calls = []
    former = signal.signal(signal.SIGTERM, lambda *_: calls.append("former"))
    yield calls
    signal.signal(signal.SIGTERM, former)


@pytest.mark.parametrize("failure", [None, ZeroDivisionError])
def test_sigterm_is_noted_within_the_block_only(noted, failure):
    """Each block begins with none, and the handler before it comes back, also when it fails."""
    for _ in range(2):
        with contextlib.suppress(ZeroDivisionError), watch_sigterm() as signalled:
            assert not signalled()
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert signalled() and not noted
            if failure is not None:
                raise failure
    signal.raise_signal(signal.SIGTERM)
    assert noted == ["former"] and signalled()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("a:1", 2, None), "together"),
        (("a:1", 2, 2), "process_id=2 must lie in 0 .. 1"),
        (("a", 2, 0), "HOST:PORT"),
        (("a:b", 2, 0), "HOST:PORT"),
        ((":80", 2, 0), "HOST:PORT"),
        (("host.invalid:80", 2, 1), "host.invalid:80: "),
    ],
)
def test_addresses_where_nobody_can_meet_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        start(*arguments)


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ValueError, match=f"localhost:{port}: Address already in use"):
            start(f"localhost:{port}", 2, 0)


TALK = """
import os, signal, sys, threading, time
import numpy as np
from gdsd_jax import hosts

hosts.MEETING_S = int(sys.argv[3])
here = hosts.start(f"localhost:{sys.argv[1]}", 3, int(sys.argv[2]))
with hosts.naming_failures(here, repr):
    for _ in range(2):
        assert here.exchange({"from": here.index}) == [{"from": index} for index in range(3)]
    assert here.any(here.index == 1) and not here.any(False)
    built = []
    here.one_by_one(lambda: built.append(here.index))
    assert built == [here.index]
    values = np.arange(8.0)
    np.testing.assert_array_equal(here.merge({"x": values[here.share(8)]}, 8)["x"], values)
    def slow():
        time.sleep(here.index)
        return here.exchange(here.index)
    stopped, found = here.run_until_stopped(slow, lambda: False)
    assert not stopped and found.result() == [0, 1, 2] and not here.said("stop")
    def stuck():
        return here.exchange("with nobody") if here.index else threading.Event().wait()
    stopped, found = here.run_until_stopped(stuck, lambda: here.index == 2)
    assert stopped and not found.done() and here.said("stop")
    print("talked", flush=True)
    here.say(f"talked/{here.index}")
    if here.first:
        while not all(here.said(f"talked/{index}") for index in range(3)):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    here.exchange("for ever")
"""


def test_processes_talk_until_the_first_is_killed():
    """The service that they talk through ends with process 0; the others end too and say why."""
    port = free_port()
    first, *others = ended([spawn("-c", TALK, port, index, PATIENCE) for index in range(3)])
    assert first[:2] == (-signal.SIGKILL, "talked\n"), first
    for code, output, errors in others:
        assert (code, output) == (1, "talked\n"), errors
        assert errors.splitlines()[-1].startswith("error: process 0 of 3, on "), errors


def test_a_process_that_nobody_meets_says_so():
    port = free_port()
    ((code, _, errors),) = ended([spawn("-c", TALK, port, 0, 1)])
    assert (
        code == 1
        and f"error: the processes did not all meet at localhost:{port} within 1 s" in errors
    ), errors


@pytest.fixture(scope="module")
def launch(data_dir):
    """`launch(workdir, count)`: the run as `count` processes that share eight CPU devices; with
    `out` its evaluation."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2"}
    running = []

    def start(workdir, count: int, out=None) -> list[subprocess.Popen]:
        config = f"--config=configs/coding.py:{CONFIG},data_dir={data_dir}"
        command = ["launch/main.py", config, f"--workdir={workdir}"]
        if out is not None:
            asked = [f"--checkpoint={workdir}", f"--out={out}", "--lengths=16,24", "--samples=2"]
            command = ["launch/eval.py", config, *asked]
        address = (
            [f"--coordinator=localhost:{free_port()}", f"--num_processes={count}"]
            if count > 1
            else []
        )
        flags = environment | {"XLA_FLAGS": xla_flags(DEVICES // count)}
        processes = [
            spawn(*command, *address, *([f"--process_id={index}"] if address else []), **flags)
            for index in range(count)
        ]
        running.extend(processes)
        return processes

    yield start
    for process in running:
        process.kill()


def run_to_the_end(processes: list[subprocess.Popen]) -> None:
    found = ended(processes)
    assert [code for code, *_ in found] == [0] * len(processes), "\n".join(
        errors[-3000:] for *_, errors in found
    )
    lines = [line for _, said, _ in found[1:] for line in said.splitlines()]
    ours = [line for line in lines if GLOO.sub("", line)]
    assert not ours, ours  # the first process speaks for all


def wait_for_rollout(processes: list[subprocess.Popen], workdir, number: int) -> None:
    until = time.monotonic() + PATIENCE
    while not any(
        (line["phase"], line["step"]) == ("rollout", number) for line in without_clock(workdir)
    ):
        assert all(process.poll() is None for process in processes) and time.monotonic() < until, (
            ended(processes)
        )
        time.sleep(0.05)


def from_round(finished: Path, number: int, workdir: Path) -> Path:
    """A workdir as the finished run's was after `number` rounds."""
    last = SFT_STEPS + 1 + number
    for folder in (finished / "checkpoints").iterdir():
        if folder.name.isdigit() and int(folder.name) <= last:
            shutil.copytree(folder, workdir / "checkpoints" / folder.name)
    shutil.copy(finished / "config.json", workdir)
    lines = (finished / "metrics.jsonl").read_text().splitlines(keepends=True)
    rows = [json.loads(line) for line in lines]
    done = [
        row["phase"] == "sft" or (row["phase"] in ("train", "probe") and row["step"] == number)
        for row in rows
    ]
    (workdir / "metrics.jsonl").write_text("".join(lines[: len(lines) - done[::-1].index(True)]))
    return workdir


@pytest.fixture(scope="module")
def alone(launch, tmp_path_factory):
    """Workdir of the run in one process with eight devices."""
    workdir = tmp_path_factory.mktemp("alone")
    run_to_the_end(launch(workdir, 1))
    rollouts = [line for line in without_clock(workdir) if line["phase"] == "rollout"]
    assert len({line["reward"] for line in rollouts}) > 1, "rewards that never differ show nothing"
    return workdir


def state_after(workdir: Path, rounds: int) -> dict[str, np.ndarray]:
    return state_of(workdir, SFT_STEPS + 1 + rounds)


def assert_same_numbers(workdir: Path, other: Path) -> None:
    """Tokens, texts and rewards are equal. Sums may round in another order: losses and what is told
    of them are means of log-probabilities of some nats, parameters have moved by less than
    1e-3."""
    ours, theirs = without_clock(workdir), without_clock(other)
    assert [(line.pop("phase"), line["step"]) for line in ours] == [
        (line["phase"], line["step"]) for line in theirs
    ]
    for line, expected in zip(ours, theirs):
        rounded = expected.pop("phase") in ("train", "probe")
        for name, value in expected.items():  # None stands for NaN
            known = rounded and value is not None
            wanted = pytest.approx(value, rel=1e-3, abs=5e-5) if known else value
            assert line[name] == wanted, name
        assert line.keys() == expected.keys()
    last = "samples/000005.json"
    assert (workdir / last).read_text() == (other / last).read_text()
    assert_same_state(state_after(workdir, 5), state_after(other, 5), atol=1e-6)


def assert_same_state(state: dict, expected: dict, atol: float = 0.0) -> None:
    assert state.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(state[name], array, rtol=0, atol=atol, err_msg=name)


@pytest.mark.slow
def test_sigterm_to_one_of_two_saves_and_ends_both(launch, alone, tmp_path):
    """With exit code 143 and before the end of the run; started again they reach the numbers of one
    process."""
    workdir = from_round(alone, 0, tmp_path)
    processes = launch(workdir, 2)
    wait_for_rollout(processes, workdir, 2)
    processes[1].send_signal(signal.SIGTERM)
    found = ended(processes)
    assert [code for code, *_ in found] == [143, 143], found
    run_to_the_end(launch(workdir, 2))
    assert_same_numbers(workdir, alone)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.long)])
def test_killing_one_ends_the_others_and_all_go_on(launch, alone, tmp_path, count):
    """With a line that names it. Started again they go on bit for bit, to the numbers of one
    process."""
    killed = from_round(alone, 0, tmp_path / "killed")
    processes = launch(killed, count)
    wait_for_rollout(processes, killed, 3)
    lost = count // 2
    processes[lost].kill()
    said = f"error: process {lost} of {count}, on "
    for index, (code, _, errors) in enumerate(ended(processes)):
        if index != lost:
            assert code == 1 and errors.splitlines()[-1].startswith(said), errors

    again = from_round(killed, 1, tmp_path / "again")  # a round back, which both have done
    run_to_the_end(launch(again, count))
    assert_same_state(state_after(again, 2), state_after(killed, 2))
    assert_same_numbers(again, alone)


@pytest.mark.slow
def test_processes_evaluate_as_one(alone, launch, tmp_path):
    """The same file, byte by byte; the first process alone writes it."""
    run_to_the_end(launch(alone, 1, tmp_path / "one.json"))
    run_to_the_end(launch(alone, 2, tmp_path / "two.json"))
    written = (tmp_path / "one.json").read_bytes()
    assert (tmp_path / "two.json").read_bytes() == written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.json", "two.json"]
    items = json.loads(written)["items"]
    assert len(items) == 2 * 3 * 8 and any(item["grades"]["format"] for item in items)
