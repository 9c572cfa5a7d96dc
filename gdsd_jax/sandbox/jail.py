"""The commands that start a worker in a jail of Linux namespaces, and what is seen inside.

By bubblewrap or by util-linux `unshare`. The worker's files are mounted under /sandbox.
"""

from collections.abc import Callable
import functools
import json
import os
import pathlib
import secrets
import subprocess
import sys

NOBODY = 65534
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32")
# What a programmer installs, which is not Python's own.
PACKAGES = ("site-packages", "dist-packages")
# Told by the base interpreter of itself: where its modules are, and every library they need.
FILES = """
import json, os, sys
folders = [x for x in sys.path if os.path.isabs(x) and os.path.exists(x)]
for folder in folders:
    for name in os.listdir(folder) if folder.endswith("lib-dynload") else ():
        try:
            __import__(name.partition(".")[0])
        except BaseException:
            pass
lines = [line.split(None, 5) for line in open("/proc/self/maps")]
mapped = {line[5].strip() for line in lines if len(line) == 6}
libraries = sorted(x for x in mapped if ".so" in os.path.basename(x) and os.path.isfile(x))
print(json.dumps([folders, libraries]))
"""
ENVIRONMENT = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}  # sets have one order on every run
# Of the jail, beside this file.
SCRIPTS = ("worker.py", "usage.py", "kernel.py", "runner.py")
SCRIPTS += ("judge.py", "stand_ins.py", "texts.py", "values.py")


class SandboxError(RuntimeError):
    """No jail can be had, or one broke; a single line naming reason and mend."""


def users(workers: int) -> list[int]:
    """A user for the programs of each worker; the one after it is their judge's.

    Where the worker is root, the kernel counts processes by user. So no two workers share one, and
    no two runs on one machine: users that no machine has, from a place drawn at random. Nobody, for
    all, where there are none to give away, as for a root of its own namespace alone.
    """
    first, places = _users_to_give()
    if os.geteuid() != 0 or places <= 2 * workers:
        return [NOBODY - 1] * workers
    first += secrets.randbelow(places - 2 * workers)
    return [first + 2 * worker for worker in range(workers)]


def _users_to_give() -> tuple[int, int]:
    """(the first, how many): the upper half of those that this namespace knows, as groups too."""
    spans = []
    for kind in ("uid", "gid"):
        lines = pathlib.Path(f"/proc/self/{kind}_map").read_text().splitlines()
        mapped = [(int(inside), int(count)) for inside, _, count in map(str.split, lines)]
        spans.append(max(mapped, key=lambda span: span[1], default=(0, 0)))
    low = max(first for first, _ in spans)
    high = min(first + count for first, count in spans)
    return (low + high) // 2, high - (low + high) // 2


def _is_user(config: dict) -> bool:
    """Whether the jail is entered as an ordinary user: by a namespace of users."""
    return os.geteuid() != 0 or config["uid"] == NOBODY - 1


def _mounts() -> list[tuple[str, str, str]]:
    """(kind, source, path in the jail): what Python needs, and nothing else."""
    mounts = []
    for path in SYSTEM:
        if os.path.islink(path):
            mounts.append(("symlink", os.readlink(path), path))
        elif os.path.isdir(path):
            mounts.append(("bind", path, path))
    mounts += [("bind", path, path) for path in _files(_interpreter()) if not _is_system(path)]
    for _, path, _ in list(mounts):
        hidden = [os.path.join(path, name) for name in PACKAGES if not _is_system(path)]
        mounts += [("empty", x, x) for x in hidden if os.path.isdir(x)]
    if os.path.exists("/etc/ld.so.cache"):
        mounts.append(("bind", "/etc/ld.so.cache", "/etc/ld.so.cache"))
    mounts += [("device", f"/dev/{x}", f"/dev/{x}") for x in ("null", "zero", "random", "urandom")]
    mounts.append(("symlink", "/tmp", "/dev/shm"))  # semaphores of multiprocessing
    mounts += [("bind", _beside(name), f"/sandbox/{name}") for name in SCRIPTS]
    return mounts


@functools.cache
def _files(interpreter: str) -> tuple[str, ...]:
    """The interpreter, the folders of its standard library and its shared libraries.

    Nothing around them is seen: an interpreter may lie in a home, beside private files.
    """
    command = [interpreter, "-s", "-S", "-B", "-c", FILES]
    done = subprocess.run(command, env=ENVIRONMENT, cwd="/", capture_output=True, text=True)
    try:
        folders, libraries = json.loads(done.stdout)
    except ValueError:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise SandboxError(f"{interpreter} does not start: {lines[-1]}") from None
    found = [interpreter]
    for path in [*sorted(folders), *libraries]:
        if not any(pathlib.Path(path).is_relative_to(x) for x in found):
            found.append(path)
    return tuple(found)


def _is_system(path: str) -> bool:
    return any(pathlib.Path(path).is_relative_to(x) for x in SYSTEM if not os.path.islink(x))


def _beside(name: str) -> str:
    """The path of a file in this folder."""
    return str(pathlib.Path(__file__).with_name(name))


def _interpreter() -> str:
    """The base interpreter, also from inside a virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _python(script: str, action: str, config: dict) -> list[str]:
    return [_interpreter(), "-s", "-S", "-B", script, action, json.dumps(config)]


def _bwrap_command(config: dict) -> list[str]:
    command = ["bwrap", "--unshare-ipc", "--unshare-net", "--unshare-pid", "--unshare-uts"]
    command += ["--unshare-cgroup-try", "--as-pid-1", "--cap-add", "ALL"]
    if _is_user(config):
        command += ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY)]
    options = {"bind": "--ro-bind", "device": "--dev-bind", "symlink": "--symlink"}
    mounts = _mounts()
    # bubblewrap makes missing parents for the owner only; programs are not the owner.
    parents = {str(x) for *_, path in mounts for x in pathlib.Path(path).parents} - {"/"}
    for path in sorted(parents):
        command += ["--perms", "0755", "--dir", path]
    for kind, source, path in mounts:
        if kind == "empty":
            command += ["--tmpfs", path, "--remount-ro", path]
        else:
            command += [options[kind], source, path]
    command += ["--proc", "/proc", "--dir", "/tmp", "--remount-ro", "/", "--chdir", "/"]
    return command + _python("/sandbox/worker.py", "serve", config)


def _unshare_command(config: dict) -> list[str]:
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--ipc", "--uts"]
    if _is_user(config):
        command += ["--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}", "--keep-caps"]
    enter = dict(
        config,
        mounts=_mounts(),
        root="/sys",  # always there, and never holds an interpreter
        command=_python("/sandbox/worker.py", "serve", config),
    )
    return command + _python(_beside("worker.py"), "enter", enter)


def _unsafe_command(config: dict) -> list[str]:
    return _python(_beside("worker.py"), "serve", config)


COMMANDS: dict[str, Callable[[dict], list[str]]] = {
    "bwrap": _bwrap_command,
    "unshare": _unshare_command,
    "unsafe": _unsafe_command,
}
MODES = ("auto", *COMMANDS)
