"""The package as users install it: a wheel in a folder of its own, used from an empty folder."""

from collections.abc import Iterator
import dataclasses
import email
import json
import os
from pathlib import Path
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest
import tokenizers as hf_tokenizers
import yaml

import gdsd_jax
from gdsd_jax import checkpoint, metrics, models, settings
from gdsd_jax.__main__ import COMMANDS
from gdsd_jax.evaluation import record
from tests import folders

ROOT = Path(__file__).resolve().parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
DOOR = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
# at unchanged weights nothing has moved: the loss is that of the targets alone
CHECK = """
import math, runpy, sys
import gdsd_jax, jax, numpy as np

found = runpy.run_path(sys.argv[1])
lengths = [float(n) / 32 for n in found["rollout"].length_B]
advantages = [(sum(lengths) - n) / 7 - n for n in lengths]
expected = sum((10 * advantage / 32) ** 2 for advantage in advantages) / 8
assert math.isclose(found["loss"], expected, rel_tol=1e-5, abs_tol=1e-9), (found["loss"], expected)
assert np.all(np.asarray(found["old_KxB"]) < 0)
assert found["logits_BxPxV"].shape == (8, len(found["prompt"]), 64)
assert len(jax.tree.leaves(found["params"])[0].sharding.device_set) == 8
print(gdsd_jax.__file__)
"""


def requirements(path: Path) -> set[str]:
    """Name and bound of each line, in one spelling: `_` as `-`, small letters."""
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    return {line.replace("_", "-").lower() for line in lines if line and line[0] != "-"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*PIP, "wheel", *offline, "-w", folder, ROOT], check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory) -> Iterator:
    """`run(*command)` with the installed package, in a folder that was empty; what it said."""
    target, here = (tmp_path_factory.mktemp(name) for name in ("target", "empty"))
    install = ["install", "--no-deps", "--no-index", "--target", target, wheel]
    subprocess.run([*PIP, *install], check=True)
    environment = os.environ | {"PYTHONPATH": str(target)}
    environment["PATH"] = os.pathsep.join([str(target / "bin"), environment["PATH"]])

    def run(*command, code: int = 0):
        command = [str(word) for word in command]
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else done.stdout

    run.target, run.here = target, here
    return run


# ---------------------------------------------------------------- what is in it


def test_the_wheel_has_the_files_of_the_repository(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = set()
    for folder, inside in (("gdsd_jax", ""), ("configs", "shipped/"), ("launch", "shipped/")):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                name = path.relative_to(ROOT).as_posix()
                expected.add(f"gdsd_jax/{inside}{name}" if inside else name)
    assert packed == expected


def test_the_wheel_depends_on_requirements_txt_alone(wheel):
    (name,) = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/METADATA")]
    metadata = email.message_from_bytes(zipfile.ZipFile(wheel).read(name))
    needed = {line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line}
    needed = {line.lower() for line in needed}
    assert needed == requirements(ROOT / "requirements.txt") and "pytest" not in str(needed)
    assert metadata["Version"] == gdsd_jax.__version__ and metadata["Requires-Python"] == ">=3.11"


def test_extras_have_the_bounds_that_the_tests_ran_with():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    bounded = {line.replace("_", "-") for lines in extras.values() for line in lines if ">" in line}
    assert bounded and bounded <= requirements(ROOT / "tests" / "requirements.txt")
    built = {line.replace("_", "-") for line in project["build-system"]["requires"]}
    assert built <= requirements(ROOT / "tests" / "requirements.txt")


def test_the_changelog_has_this_version_and_the_formats():
    text = (ROOT / ".github" / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (\d.*)$", text, re.M)[0] == gdsd_jax.__version__
    table = re.findall(r"^\| .*\]\(\.\./gdsd_jax/(\S+)\.py\) \| (\d+) \|$", text, re.M)
    assert [(name, int(number)) for name, number in table] == [
        ("settings/parsing", settings.FORMAT),
        ("metrics", metrics.FORMAT),
        ("checkpoint", checkpoint.FORMAT),
        ("checkpoint", checkpoint.CONVERTED),
        ("evaluation/record", record.FORMAT),
    ]


def test_the_workflow_runs_the_test_command_and_nothing_else_of_ours():
    """As CONTRIBUTING says; what stands before it prepares the machine."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    assert workflow[True].keys() == {"push", "pull_request"}  # YAML reads the key `on` as true
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    versions = job["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={versions[0]}" and all(map(str, versions))
    *before, last = job["steps"]
    assert last == {"run": "bash launch/test.sh"}
    assert all(step.keys() <= {"uses", "with", "run"} for step in before)
    assert [step["uses"].split("@")[0] for step in before if "uses" in step] == [
        "actions/checkout",
        "actions/setup-python",
    ]
    ours = [step["run"] for step in before if "run" in step]
    assert ours == ["python -m venv .venv", next(run for run in ours if run.startswith("sudo "))]


# ---------------------------------------------------------------- the command


def test_the_command_line_is_refused_in_one_line(run):
    said = run("gdsd", "nonsense", code=2)
    assert said.startswith("error: gdsd nonsense: no such command; there are train, eval, ")
    assert said.count("\n") == 1
    said = run("gdsd", "train", "--config=none", code=2)
    assert said.startswith("error: --config: no file none; there are the recipes coding, ")
    assert run("gdsd", "--version") == f"{gdsd_jax.__version__}\n"
    assert "\n  train     trains" in run(sys.executable, "-m", "gdsd_jax", "--help")


@pytest.mark.parametrize("words", [["nonsense"], ["train", "--no_such_flag"], ["compare", "--x"]])
def test_jax_is_not_imported_for_that(run, words):
    program = (
        "import sys; from gdsd_jax.__main__ import main\n"
        f"sys.argv = ['gdsd', *{words}]\n"
        "try: code = main()\n"
        "except SystemExit as error: code = error.code\n"
        "print(code, 'jax' in sys.modules)"
    )
    assert run(sys.executable, "-c", program) == "2 False\n"


def test_every_script_has_a_command(run):
    scripts = {path.name for path in (ROOT / "launch").glob("*.py")}
    assert {script for script, _ in COMMANDS.values()} == scripts
    said = run("gdsd", "harness", "--help")
    assert said.startswith("usage: gdsd harness ") and "python launch/harness.py" in said


@pytest.mark.slow
def test_a_recipe_trains_by_its_bare_name(run):
    small = "rounds=0,sft.steps=1,sft.batch=8,prompts_per_round=8,group_size=2,eval_problems=8"
    assert "report: " in run("gdsd", "train", f"--config=examples/own_task:tiny,{small}")
    (workdir,) = run.here.glob("runs/adding-*")
    assert (workdir / "report.html").is_file()
    task = json.loads((workdir / "config.json").read_text())["task"]
    assert task == str(run.target / "gdsd_jax" / "shipped" / "configs" / "examples" / "own_task.py")


# ---------------------------------------------------------------- the library


@pytest.mark.slow
def test_the_readmes_example_runs_outside_of_the_checkout(run):
    """A small converted model lies where the example's lies."""
    source = run.here / "source"
    folders.write(source, dataclasses.replace(models.MODELS["a2d_qwen3_tiny"], vocab_size=64))
    words = {f"w{number}": number for number in range(60)}
    tokenizer = hf_tokenizers.Tokenizer(hf_tokenizers.models.WordLevel(words, unk_token="w3"))
    tokenizer.save(str(source / "tokenizer.json"))
    template = "{% for turn in messages %}{{ turn.content }}{% endfor %}"
    (source / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    run("gdsd", "convert", "--from_hf=source", "--to_orbax=runs/opdlm-smollm2_135m")

    (run.here / "door.py").write_text(DOOR)
    assert len(DOOR.splitlines()) <= 25
    *said, where = run(sys.executable, "-c", CHECK, "door.py").splitlines()
    assert Path(where) == run.target / "gdsd_jax" / "__init__.py"
    assert len(said) == 9 and re.fullmatch(r"loss \d+\.\d+", said[-1])
