"""Opening a sandbox: as a common user, without tools, with failing tools, unsafely on request."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

from gdsd_jax.sandbox import Limits, Program, SandboxConfig, SandboxError, open_sandbox, pool

FOLDER = pathlib.Path(pool.__file__).parent
# Another user may be kept from the checkout: the package's files for it, and nothing else of it.
IMPORT = "import json, sys\nsys.path.append(sys.argv[2])\nfrom gdsd_jax.sandbox import pool\n"


def copy_package(folder):
    os.chmod(folder, 0o755)
    shutil.copytree(FOLDER, pathlib.Path(folder, "gdsd_jax", "sandbox"))
    for path in pathlib.Path(folder).rglob("*"):
        os.chmod(path, 0o755)


def _readable_python():
    """An interpreter that another user may start, with the version the package needs."""
    check = (
        "import os, sys; base = os.path.realpath(sys._base_executable)\n"
        "sys.exit(sys.version_info < (3, 11) or not os.access(base, os.X_OK))"
    )
    for name in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        if not os.path.exists(name):
            continue
        if subprocess.run([*_as_user(), name, "-c", check], capture_output=True).returncode == 0:
            return name
    return None


def _as_user():
    return ["setpriv", "--reuid", "4321", "--regid", "4321", "--clear-groups"]


@pytest.mark.parametrize("mode", ["bwrap", "unshare"])
def test_works_without_root(mode):
    if os.geteuid() != 0:
        pytest.skip("not root: the other tests have shown it")
    python = _readable_python() if shutil.which("setpriv") else None
    if python is None:
        pytest.skip("no setpriv, or no interpreter that another user may start")
    script = (
        IMPORT
        + """
try:
    with pool.open_sandbox(sys.argv[1], 1, pool.Limits(0.3, 3.0)) as opened:
        attack = "import os\\ntry: os.setuid(0)\\nexcept OSError: uid = os.getuid()"
        bomb = "import os\\nwhile True:\\n  try: os.fork()\\n  except OSError: pass"
        print(json.dumps(opened.run([pool.Program(attack, ("assert uid == 65534",)),
                                     pool.Program(bomb, ("assert True",))])))
except pool.SandboxError as error:
    print(json.dumps(str(error)))
"""
    )
    with tempfile.TemporaryDirectory() as folder:
        copy_package(folder)
        done = subprocess.run(
            [*_as_user(), python, "-B", "-c", script, mode, folder],
            capture_output=True,
            text=True,
            cwd="/",
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    if isinstance(result, str):
        pytest.skip(result)
    assert result == [[[True], "ok"], [[False], "cpu"]]


def test_without_tools_it_refuses_and_names_the_mend(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SandboxError) as caught:
        open_sandbox()
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "bwrap: not installed",
        "unshare: not installed",
        "`bubblewrap`",
        "seccomp=unconfined",
        "SYS_ADMIN",
        "max_user_namespaces",
        "sandbox.mode=unsafe",
    ):
        assert part in message


def test_a_tool_that_fails_is_named_with_its_reason(monkeypatch, tmp_path):
    tool = tmp_path / "bwrap"
    tool.write_text("#!/bin/sh\necho 'bwrap: no permission here' >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxError, match="no permission here"):
        open_sandbox("bwrap")


def test_unsafe_warns_and_still_limits(capfd):
    limits = Limits(cpu_s=0.3, wall_s=3.0, memory_bytes=256 << 20)
    with open_sandbox("unsafe", workers=1, limits=limits) as opened:
        assert opened.mode == "unsafe"
        sources = ["x = 1", "while True: pass", "bytearray(1 << 30)", "import os; os._exit(0)"]
        verdicts = opened.run([Program(source, ("assert x == 1",)) for source in sources])
    assert [v.status for v in verdicts] == ["ok", "cpu", "memory", "exit"]
    assert [v.passed for v in verdicts] == [(True,), (False,), (False,), (False,)]
    assert len(capfd.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("fields", [{"wall_s": 5.0}, {"cpu_s": 0.0}, {"processes": 0}])
def test_bad_limits_are_refused(fields):
    with pytest.raises(ValueError, match="sandbox limit"):
        Limits(**fields)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="should be one of auto, bwrap, unshare, unsafe"):
        open_sandbox("docker")
    with pytest.raises(ValueError, match="at least 1"):
        open_sandbox(workers=0)


def test_config_gives_the_limits_of_a_program():
    config = SandboxConfig(mode="unsafe", cpu_s=2.0, wall_s=40.0, memory_mib=64)
    assert config.limits == Limits(cpu_s=2.0, wall_s=40.0, memory_bytes=64 << 20)
    assert SandboxConfig().limits == Limits()


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"mode": "docker"}, r"sandbox\.mode='docker': choose one of auto, bwrap, unshare, unsafe"),
        ({"cpu_s": 0.0}, r"sandbox\.cpu_s=0\.0 must be"),
        ({"cpu_s": float("nan")}, r"sandbox\.cpu_s=nan must be"),
        ({"cpu_s": float("inf"), "wall_s": float("inf")}, r"sandbox\.cpu_s=inf must be"),
        ({"cpu_s": 3.0}, r"sandbox\.wall_s=20\.0 must be at least ten times sandbox\.cpu_s=3\.0"),
        ({"wall_s": float("nan")}, r"sandbox\.wall_s=nan must be"),
        ({"wall_s": float("inf")}, r"sandbox\.wall_s=inf must be"),
        ({"memory_mib": 0}, r"sandbox\.memory_mib=0 must be"),
        ({"memory_mib": 16}, r"sandbox\.memory_mib=16 must be .* at least 32"),
        ({"memory_mib": 64.5}, r"sandbox\.memory_mib=64\.5 must be a whole number"),
    ],
)
def test_config_refuses_what_cannot_work(fields, said):
    with pytest.raises(ValueError, match=said) as error:
        SandboxConfig(**fields)
    assert "\n" not in str(error.value)


def test_the_least_memory_is_enough_for_python():
    config = SandboxConfig(mode="unsafe", memory_mib=pool.LEAST_MIB)
    with open_sandbox(config.mode, workers=1, limits=config.limits) as opened:
        assert opened.run([Program("x = sum([1, 2])", ("assert x == 3",))]) == [((True,), "ok")]
