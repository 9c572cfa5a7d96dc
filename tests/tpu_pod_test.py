"""The commands of launch/tpu_pod.sh, printed and not run."""
from pathlib import Path
import shlex
import subprocess

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "launch" / "tpu_pod.sh"
PLACE = ("--name=mine", "--zone=us-west4-a")
RUN = ("--workdir=gs://bucket/run 1", "--config=configs/coding.py:llada,lora_rank=0,init_from=gs://bucket/llada")


def call(*arguments: str):
    return subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True, check=False)


def commands(*arguments: str) -> list[list[str]]:
    done = call(*arguments, "--dry_run")
    assert done.returncode == 0, done.stderr
    return [shlex.split(line[2:]) for line in done.stdout.splitlines() if line.startswith("+ ")]


def test_a_run_from_its_creation_to_its_end():
    found = commands("up", *PLACE, *RUN, "--type=v5litepod-16", "--spot")
    steps = [" ".join(command[:5]) if command[0] == "gcloud" else command[0] for command in found]
    assert steps == [
        "gcloud compute tpus queued-resources create", "gcloud compute tpus queued-resources describe", "git",
        "gcloud compute tpus tpu-vm scp", "rm", "gcloud compute tpus tpu-vm ssh", "gcloud compute tpus tpu-vm ssh",
        "gcloud compute tpus tpu-vm ssh", "gcloud compute tpus queued-resources delete",
    ]  # fmt: skip
    assert {"--spot", "--node-id=mine", "--accelerator-type=v5litepod-16", "--zone=us-west4-a"} <= set(found[0])
    # what the hosts' shells make of it: the arguments of main.py as they were given
    remote = found[6][-1].removeprefix("--command=")
    inner = shlex.split(remote.split("nohup sh -c ")[1].split(" >run.log")[0])[0]
    assert shlex.split(inner.split(";")[0]) == [".venv/bin/python", "launch/main.py", RUN[1], RUN[0]]
    assert "--worker=all" in found[6]


def test_several_slices_are_addressed_one_by_one():
    created, *_ = commands("create", *PLACE, "--type=v5litepod-16", "--num_slices=2")
    assert {"--node-count=2", "--node-prefix=mine"} <= set(created)
    started = commands("start", *PLACE, *RUN, "--num_slices=2")
    assert [command[5] for command in started] == ["mine-0", "mine-1"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        ((), "give an action first"), (("fly",), "give an action first"), (("stop", "--name=mine"), "--name and --zone"),
        (("create", *PLACE), "--type is needed"), (("start", *PLACE), "--config is needed"),
        (("start", *PLACE, RUN[1], "--workdir=runs/x"), "must be a gs:// address"),
        (("stop", *PLACE, "--fast"), "unknown argument --fast"), (("stop", *PLACE, "--num_slices=0"), "--num_slices=0"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(arguments, said):
    done = call(*arguments)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1
