"""The commands of launch/tpu_pod.sh, printed; and run, with a gcloud that keeps its hosts in a
folder."""

import os
from pathlib import Path
import shlex
import subprocess
import time

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "launch" / "tpu_pod.sh"
PATIENCE = 900  # seconds, of a machine that is busy
PLACE = ("--name=mine", "--zone=us-west4-a")
RUN = (
    "--workdir=gs://bucket/run 1",
    "--config=configs/coding.py:llada,lora_rank=0,init_from=gs://bucket/llada",
)


def call(*arguments: str, **environment: str):
    environment = os.environ | environment
    return subprocess.run(
        ["bash", SCRIPT, *arguments], capture_output=True, text=True, check=False, env=environment
    )


def commands(*arguments: str) -> list[list[str]]:
    done = call(*arguments, "--dry_run")
    assert done.returncode == 0, done.stderr
    return [shlex.split(line[2:]) for line in done.stdout.splitlines() if line.startswith("+ ")]


def test_a_run_from_its_creation_to_its_end():
    found = commands("up", *PLACE, *RUN, "--type=v5litepod-16", "--spot")
    steps = [" ".join(command[:5]) if command[0] == "gcloud" else command[0] for command in found]
    assert steps == [
        "gcloud compute tpus queued-resources describe",
        "gcloud compute tpus queued-resources create",
        "gcloud compute tpus queued-resources describe",
        "git",
        "gcloud compute tpus tpu-vm scp",
        "rm",
        "gcloud compute tpus tpu-vm ssh",
        "gcloud compute tpus tpu-vm ssh",
        "gcloud compute tpus tpu-vm ssh",
        "gcloud compute tpus queued-resources delete",
    ]
    assert {
        "--spot",
        "--node-id=mine",
        "--accelerator-type=v5litepod-16",
        "--zone=us-west4-a",
    } <= set(found[1])
    assert "--runtime-version=v2-alpha-tpuv5-lite" in found[1] and "--worker=all" in found[7]
    # what the hosts' shells make of it: the arguments of main.py as they were given
    remote = found[7][-1].removeprefix("--command=")
    started = remote.split("trap '' HUP; ")[1].split(";")[0]
    assert shlex.split(started) == [".venv/bin/python", "launch/main.py", RUN[1], RUN[0]]


@pytest.mark.parametrize(
    "kind, version",
    [("v4-16", "tpu-ubuntu2204-base"), ("v5p-16", "v2-alpha-tpuv5"), ("v6e-16", "v2-alpha-tpuv6e")],
)
def test_the_runtime_goes_with_the_type(kind, version):
    assert f"--runtime-version={version}" in commands("create", *PLACE, f"--type={kind}")[0]
    assert (
        "--runtime-version=mine"
        in commands("create", *PLACE, f"--type={kind}", "--version=mine")[0]
    )


def test_several_slices_are_addressed_one_by_one():
    created, *_ = commands("create", *PLACE, "--type=v5litepod-16", "--num_slices=2")
    assert {"--node-count=2", "--node-prefix=mine"} <= set(created)
    started = commands("start", *PLACE, *RUN, "--num_slices=2")
    assert [command[5] for command in started] == ["mine-0", "mine-1"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        ((), "give an action first"),
        (("fly",), "give an action first"),
        (("stop", "--name=mine"), "--name and --zone"),
        (("create", *PLACE), "--type is needed"),
        (("start", *PLACE), "--config is needed"),
        (("start", *PLACE, RUN[1], "--workdir=runs/x"), "must be a gs:// address"),
        (("stop", *PLACE, "--fast"), "unknown argument --fast"),
        (("stop", *PLACE, "--num_slices=0"), "--num_slices=0"),
    ],
)
def test_what_is_missing_is_named(arguments, said):
    done = call(*arguments)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1


GCLOUD = """#!/usr/bin/env bash
# One host, a folder; what it would run for hours is the file `run` beside it.
cd "$CLOUD"
echo "$3 $4" >>calls
command=${!#}
case $4 in
    create)
        echo ACTIVE >state
        mkdir -p host/gdsd_jax/.venv/bin && cp run host/gdsd_jax/.venv/bin/python
        ;;
    describe) cat state ;;
    delete) rm -r state host ;;
    ssh)
        [[ $command != *launch/setup.sh* ]] || exit 0
        cd host && exec bash -c "${command#--command=}"
        ;;
esac
"""


@pytest.fixture
def cloud(tmp_path):
    """`cloud(run) -> call`, where `run` is what the hosts run instead of Python; waiting takes no
    time."""

    def make(run: str):
        for name, text in {
            "gcloud": GCLOUD,
            "sleep": "#!/bin/sh",
            "run": f"#!/usr/bin/env bash\n{run}",
        }.items():
            (tmp_path / name).write_text(text + "\n")
            (tmp_path / name).chmod(0o755)
        return lambda *arguments: call(
            *arguments, PATH=f"{tmp_path}:{os.environ['PATH']}", CLOUD=str(tmp_path)
        )

    return make


def made(tmp_path) -> list[str]:
    """What was created and deleted."""
    return [
        line
        for line in (tmp_path / "calls").read_text().splitlines()
        if line.split()[1] in ("create", "delete")
    ]


UP = ("up", *PLACE, *RUN, "--type=v5litepod-16", "--spot")


def test_a_slice_that_is_taken_away_is_asked_for_again(cloud, tmp_path):
    at_first = 'echo begun; touch "$CLOUD/taken"; echo SUSPENDED >"$CLOUD/state"; exit 143'
    done = cloud('[ -f "$CLOUD/taken" ] && echo done && exit 0\n' + at_first)(*UP)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines.index("begun") < lines.index("done")
    assert made(tmp_path) == [
        f"queued-resources {action}" for action in ("create", "delete", "create", "delete")
    ]


def test_a_request_that_waits_keeps_its_place(cloud, tmp_path):
    run = cloud("echo done")
    assert run("create", *PLACE, "--type=v5litepod-16").returncode == 0
    (tmp_path / "state").write_text("WAITING_FOR_RESOURCES\n")
    (tmp_path / "gcloud").write_text(GCLOUD.replace("cat state", "cat state; echo ACTIVE >state"))
    done = run(*UP)
    assert done.returncode == 0 and "done" in done.stdout.splitlines(), done.stderr
    assert made(tmp_path) == ["queued-resources create", "queued-resources delete"]


@pytest.mark.parametrize(
    "code, exits, said", [(1, 1, "ended with exit code 1"), (2, 2, "refused its configuration")]
)
def test_a_run_that_fails_keeps_its_slices(code, exits, said, cloud, tmp_path):
    done = cloud(f"exit {code}")(*UP)
    assert done.returncode == exits and said in done.stderr.splitlines()[-1]
    assert made(tmp_path) == ["queued-resources create"]


def test_a_slice_that_cannot_come_is_told(cloud, tmp_path):
    run = cloud("exit 0")
    (tmp_path / "gcloud").write_text(GCLOUD.replace("echo ACTIVE", "echo FAILED"))
    done = run("create", *PLACE, "--type=v5litepod-16")
    assert done.returncode == 2 and "mine is FAILED and will not come" in done.stderr


def test_a_run_is_started_once_and_stopped(cloud, tmp_path):
    wait = "for _ in {1..18000}; do /bin/sleep 0.1; done"
    run = cloud(f"trap 'exit 143' TERM; echo begun >>\"$CLOUD/begun\"; {wait}")
    assert run("create", *PLACE, "--type=v5litepod-16").returncode == 0
    for _ in range(2):
        assert run("start", *PLACE, *RUN).returncode == 0
    until = time.monotonic() + PATIENCE
    while not (tmp_path / "begun").exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert run("stop", *PLACE).returncode == 0
    assert run("follow", *PLACE).returncode == 143
    assert (tmp_path / "begun").read_text() == "begun\n"
