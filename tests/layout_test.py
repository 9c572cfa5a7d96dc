"""The shape of the code, read from the code itself: who may import whom, how long things may be,
what lies where.

`GROUPS` is the rule: a module imports modules of earlier groups only. A new module must be placed
in one of them.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
import re
import subprocess

import pytest

ROOT = Path(__file__).resolve().parents[1]

FIRST = "types chips hlo hosts curriculum sandbox hub json_files interrupts"
SECOND = (
    "keys sharding topologies extensions chat_templates hf_tokenizer rows checksums damage locks "
    "scoring metrics misplaced"
)
THIRD = "models sampling advantages optimizer reference checkpoint tasks report __main__"
GROUPS = (
    ("paths", "version", "mistakes", "progress", "meanings", "bounds"),
    tuple(FIRST.split()),
    tuple(SECOND.split()),
    ("tokenizers", "cli", "gguf_tokenizer", "row_schema"),
    tuple(THIRD.split()),
    ("hf", "mask_rows", "gguf_file", "objectives", "data"),
    ("settings", "adapters"),
    ("origin",),
    ("weights", "probe"),
    ("steps",),
    ("experience",),
    ("inference",),
    ("experiment",),
    ("resume",),
    ("loop", "round_times", "rates"),
    ("evaluation",),
    ("workdirs", "supervised", "banner"),
    ("train", "model_card", "round_programs"),
    ("launch",),
)
# (importer, imported) of one group; a package may import its own files
WITHIN = {("sharding", "types")}
# they receive a Denoiser
NEVER = {(part, "models") for part in ("sampling", "scoring", "objectives")}
# host code, also of processes that must not touch the accelerator
WITHOUT_JAX = ("rows", "row_schema", "sandbox", "tasks")
JAX = ("jax", "jaxlib", "flax", "optax", "orbax", "chex")
EXAMPLES = "configs/examples/"  # they stand for files of users, who may import anything
LINEN = "gdsd_jax/models/transformer.py"
MESH_AXES = ("fsdp", "tensor")
FILE_LINES, FUNCTION_LINES, COLUMNS = 500, 50, 100
FOLDERS = ("gdsd_jax", "configs", "launch", "tests")
TOP_LEVEL = (*FOLDERS, "requirements.txt", "pyproject.toml", "README.md", "LICENSE")


def sources(root: Path, *folders: str) -> Iterator[tuple[str, ast.Module]]:
    """(path relative to root, syntax tree) of every Python file."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            yield path.relative_to(root).as_posix(), ast.parse(path.read_text())


def imports(file: str, tree: ast.Module, modules: set[str]) -> set[str]:
    """Dotted names of what a file imports, also inside functions; ours down to the file, others as
    written."""
    found = set()
    package = file.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            inside = {f"{origin}.{alias.name}" for alias in node.names}
            ours = origin.split(".")[0] == "gdsd_jax"
            found |= {name if not ours or name in modules else origin for name in inside}
    return found


def dotted(file: str) -> str:
    """The name a file is imported by."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def part_of(name: str) -> str | None:
    """The name of `GROUPS` that a dotted module or a path belongs to; None where it is not ours."""
    first, *rest = name.removesuffix(".py").replace("/", ".").split(".")
    if first == "gdsd_jax" and rest and rest[0] != "__init__":
        return rest[0]
    return first if first in ("gdsd_jax", "launch", "configs", "tests") else None


def all_imports(root: Path) -> dict[str, set[str]]:
    files = dict(sources(root, "gdsd_jax", "configs", "launch"))
    modules = {dotted(file) for file in files}
    return {file: imports(file, tree, modules) for file, tree in files.items()}


def arrow_violations(root: Path) -> list[str]:
    rank = {part: place for place, group in enumerate(GROUPS) for part in group}
    found = []
    for file, names in all_imports(root).items():
        if file.startswith(EXAMPLES):
            continue
        part = part_of(file)
        for name in sorted(names):
            target = part_of(name)
            if target is None or target == part != "launch":
                continue
            if part == "configs":
                found.append(
                    f"{file} imports {name}: configs import nothing of ours but each other"
                )
            elif part != "gdsd_jax" and part not in rank:
                found.append(
                    f"{file} imports {name}: place {part} in a group of tests/layout_test.py"
                )
            elif target not in rank:
                found.append(f"{file} imports {name}: not a module that code may import")
            elif (part, target) in NEVER:
                found.append(
                    f"{file} imports {name}: {part} receives a Denoiser, it never imports {target}"
                )
            elif part == "gdsd_jax" or rank[target] > rank[part]:
                found.append(f"{file} imports {name}: imports point to earlier groups")
            elif rank[target] == rank[part] and (part, target) not in WITHIN:
                found.append(f"{file} imports {name}: same group")
    return found


def unplaced(root: Path) -> list[str]:
    known = {part for group in GROUPS for part in group} | {"gdsd_jax"}
    files = (file for file, _ in sources(root, "gdsd_jax"))
    return [
        f"{file}: place {part_of(file)} in a group of tests/layout_test.py"
        for file in files
        if part_of(file) not in known
    ]


def jax_violations(root: Path) -> list[str]:
    """jax where it must not be, reached directly or through our own modules."""
    graph = {dotted(file): names for file, names in all_imports(root).items()}
    found = []
    for start in graph:
        if part_of(start) not in WITHOUT_JAX:
            continue
        trail, waiting = {start: start}, [start]
        while waiting:
            module = waiting.pop()
            # importing a module runs its package's __init__ first
            package = module.rpartition(".")[0]
            for name in sorted(graph.get(module, set()) | ({package} & graph.keys())):
                if name.split(".")[0] in JAX:
                    found.append(
                        f"{trail[module]} imports {name}: {part_of(start)} never import jax"
                    )
                elif name not in trail:
                    trail[name] = f"{trail[module]} -> {name}"
                    waiting.append(name)
    return found


def config_violations(root: Path) -> list[str]:
    """ml_collections outside of configs and of the one room that parses them."""
    return [
        f"{file} imports {name}: only gdsd_jax/settings parses configs"
        for file, names in all_imports(root).items()
        if part_of(file) not in ("settings", "configs")
        for name in sorted(names)
        if name.split(".")[0] == "ml_collections"
    ]


def linen_violations(root: Path) -> list[str]:
    return [
        f"{file} imports {name}: flax.linen belongs in {LINEN} only"
        for file, names in all_imports(root).items()
        if file != LINEN
        for name in sorted(names)
        if name == "flax.linen" or name.startswith("flax.linen.")
    ]


def axis_violations(root: Path) -> list[str]:
    return [
        f"{file}, line {node.lineno}: mesh axis {node.value!r} belongs in gdsd_jax/sharding.py only"
        for file, tree in sources(root, "gdsd_jax")
        if file != "gdsd_jax/sharding.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in MESH_AXES
    ]


def size_violations(root: Path) -> list[str]:
    found = []
    for file, tree in sources(root, "gdsd_jax", "configs", "launch", "tests"):
        lines = len((root / file).read_text().splitlines())
        if lines > FILE_LINES:
            found.append(f"{file}: {lines} lines, at most {FILE_LINES}")
        if Path(file).name == "utils.py":
            found.append(f"{file}: name it after what it does")
        nodes = (
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        )
        long = {
            node.name: size
            for node in nodes
            if (size := node.end_lineno - node.lineno + 1) > FUNCTION_LINES
        }
        found += [
            f"{file}: {name} has {size} lines, at most {FUNCTION_LINES}"
            for name, size in long.items()
        ]
    return found


def form_violations(root: Path) -> list[str]:
    """What the formatter was kept from, lambdas that have names, lines that are too long."""
    found = []
    for file, tree in sources(root, *FOLDERS):
        for number, line in enumerate((root / file).read_text().splitlines(), 1):
            if len(line) > COLUMNS:
                found.append(f"{file}, line {number}: {len(line)} columns, at most {COLUMNS}")
            if re.search(r"#\s*fmt: *(skip|off)", line):
                found.append(f"{file}, line {number}: the formatter has no exceptions")
        for node in ast.walk(tree):
            is_lambda = isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda)
            if is_lambda and isinstance(node.targets[0], ast.Name):
                found.append(f"{file}, line {node.lineno}: what has a name is a def")
    return found


def top_level_violations(root: Path) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout: what belongs to the repository is not known")
    names = {line.split("/")[0] for line in listed.stdout.splitlines() if (root / line).exists()}
    return [
        f"{name}: not in the top level's list"
        for name in sorted(names)
        if name not in TOP_LEVEL and name[0] != "."
    ]


def guide_violations(root: Path) -> list[str]:
    """Files that their folder's guide does not name, and in the library imports of what its guide
    names further down."""
    found = []
    for guide in sorted((root / "gdsd_jax").rglob("README.md")):
        text = guide.read_text()
        files = [path.name for path in guide.parent.glob("*.py") if path.name[0] != "_"]
        folders = [f"{path.parent.name}/" for path in guide.parent.glob("*/__init__.py")]
        place = guide.relative_to(root).as_posix()
        unnamed = [name for name in sorted(files + folders) if f"`{name}`" not in text]
        found += [f"{place} does not name {name}" for name in unnamed]
    guide = root / "gdsd_jax" / "README.md"
    listed = re.findall(r"^- (.*?):", guide.read_text() if guide.exists() else "", re.M | re.S)
    order = re.findall(r"`(\w+)(?:\.py|/)`", " ".join(listed))
    for file, names in all_imports(root).items():
        part = part_of(file)
        for target in {part_of(name) for name in names} & {*order} - {part}:
            if part in order and order.index(target) > order.index(part):
                found.append(f"gdsd_jax/README.md: {file} imports {target}, which stands below")
    return sorted(found)


CHECKS = (
    arrow_violations,
    unplaced,
    jax_violations,
    config_violations,
    linen_violations,
    axis_violations,
    size_violations,
    form_violations,
    top_level_violations,
    guide_violations,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_repository(check):
    found = check(ROOT)
    assert not found, "\n" + "\n".join(found)


BAD = {  # (file, its text, what must be said about it)
    arrow_violations: [
        (
            "gdsd_jax/types.py",
            "from gdsd_jax import train",
            "gdsd_jax/types.py imports gdsd_jax.train",
        ),
        ("gdsd_jax/train.py", "", None),
        (
            "gdsd_jax/scoring.py",
            "import gdsd_jax.models.lora",
            "scoring.py imports gdsd_jax.models.lora: scoring receives",
        ),
        (
            "gdsd_jax/objectives/x.py",
            "from gdsd_jax.models import lora",
            "objectives/x.py imports gdsd_jax.models",
        ),
        (
            "gdsd_jax/sampling/x.py",
            "def f():\n  from ..models import lora",
            "sampling/x.py imports gdsd_jax.models",
        ),
        ("gdsd_jax/data.py", "from . import hf", "data.py imports gdsd_jax.hf: same group"),
        ("gdsd_jax/hf.py", "from gdsd_jax.models import ModelConfig", None),
        ("gdsd_jax/sharding.py", "from gdsd_jax.types import PyTree", None),
        (
            "gdsd_jax/experience.py",
            "import launch.main",
            "experience.py imports launch.main: imports point",
        ),
        (
            "gdsd_jax/metrics.py",
            "import configs.coding",
            "metrics.py imports configs.coding: not a module",
        ),
        (
            "gdsd_jax/rows.py",
            "from gdsd_jax.report import page",
            "rows.py imports gdsd_jax.report.page: imports point",
        ),
        ("gdsd_jax/report/page.py", "from gdsd_jax.report import charts", None),
        ("gdsd_jax/report/charts.py", "", None),
        (
            "gdsd_jax/__init__.py",
            "from gdsd_jax import types",
            "__init__.py imports gdsd_jax.types",
        ),
        (
            "gdsd_jax/mystery.py",
            "import gdsd_jax.types",
            "mystery.py imports gdsd_jax.types: place mystery",
        ),
        (
            "configs/x.py",
            "from gdsd_jax.models import MODELS",
            "configs/x.py imports gdsd_jax.models: configs",
        ),
        ("configs/y.py", "from configs import x", None),
        ("configs/examples/x.py", "from gdsd_jax import tasks", None),
        ("launch/main.py", "from gdsd_jax import train", None),
        (
            "launch/eval.py",
            "from launch import main",
            "launch/eval.py imports launch.main: same group",
        ),
    ],
    unplaced: [
        ("gdsd_jax/helpers/x.py", "", "gdsd_jax/helpers/x.py: place helpers"),
        ("gdsd_jax/models/new.py", "", None),
    ],
    jax_violations: [
        (
            "gdsd_jax/sandbox/pool.py",
            "def f():\n  import jax.numpy as jnp",
            "sandbox.pool imports jax.numpy",
        ),
        (
            "gdsd_jax/tasks/x.py",
            "from gdsd_jax import tokenizers",
            "tasks.x -> gdsd_jax.tokenizers imports flax.struct",
        ),
        ("gdsd_jax/tokenizers.py", "import flax.struct", None),
        ("gdsd_jax/tasks/y.py", "import numpy", None),
        (
            "gdsd_jax/tasks/z.py",
            "from gdsd_jax.models import config",
            "tasks.z -> gdsd_jax.models.config -> gdsd_jax.models",
        ),
        ("gdsd_jax/models/__init__.py", "import jax", None),
        ("gdsd_jax/models/config.py", "", None),
    ],
    config_violations: [
        (
            "gdsd_jax/steps.py",
            "from ml_collections import ConfigDict",
            "steps.py imports ml_collections.ConfigDict: only gdsd_jax/settings",
        ),
        ("gdsd_jax/settings/parsing.py", "import ml_collections", None),
        ("configs/coding.py", "from ml_collections import ConfigDict", None),
    ],
    linen_violations: [
        (
            "gdsd_jax/models/attention.py",
            "from flax import linen as nn",
            "attention.py imports flax.linen",
        ),
        ("gdsd_jax/train.py", "import flax.linen as nn", "train.py imports flax.linen"),
        ("gdsd_jax/models/transformer.py", "import flax.linen as nn", None),
        ("gdsd_jax/types.py", "import flax.struct", None),
    ],
    axis_violations: [
        (
            "gdsd_jax/models/x.py",
            "spec = (None,\n 'tensor')",
            "models/x.py, line 2: mesh axis 'tensor'",
        ),
        ("gdsd_jax/sharding.py", "axes = ('fsdp', 'tensor')", None),
    ],
    size_violations: [
        ("gdsd_jax/long.py", "\n" * 501, "gdsd_jax/long.py: 501 lines"),
        ("gdsd_jax/utils.py", "", "utils.py: name it"),
        ("launch/x.py", "def f():\n" + "  pass\n" * 50, "launch/x.py: f has 51 lines"),
        ("configs/x.py", "def f():\n" + "  pass\n" * 49, None),
    ],
    form_violations: [
        ("gdsd_jax/wide.py", "x = 1  # " + "y" * 92, "wide.py, line 1: 101 columns"),
        ("tests/skip.py", "x = 1  # fmt" + ": skip", "skip.py, line 1: the formatter has no"),
        ("launch/named.py", "f = lambda x: x", "named.py, line 1: what has a name is a def"),
        ("configs/plain.py", "f(key=lambda x: x)  # " + "y" * 78, None),
    ],
    top_level_violations: [
        ("notes.md", "", "notes.md: not in"),
        ("scripts/x.py", "", "scripts: not in"),
        (".gitignore", "/runs/", None),
        ("runs/x", "", None),
        ("README.md", "", None),
    ],
    guide_violations: [
        ("gdsd_jax/README.md", "- `b.py`, `c/`: x.\n- `a.py`: y.\n\n`d.py` is not there.", None),
        ("gdsd_jax/a.py", "from gdsd_jax import b", None),
        ("gdsd_jax/b.py", "from gdsd_jax import a", "gdsd_jax/b.py imports a, which stands below"),
        ("gdsd_jax/c/__init__.py", "", None),
        ("gdsd_jax/c/README.md", "- `x.py`: x", None),
        ("gdsd_jax/c/x.py", "", None),
        ("gdsd_jax/c/y.py", "", "gdsd_jax/c/README.md does not name y.py"),
        ("gdsd_jax/e.py", "", "gdsd_jax/README.md does not name e.py"),
        ("gdsd_jax/f/__init__.py", "", "gdsd_jax/README.md does not name f/"),
    ],
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_checks_can_fail(check, tmp_path):
    """A tiny tree with known faults: each is named, nothing else is."""
    for file, text, _ in BAD[check]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    if check is top_level_violations:
        subprocess.run(["git", "init", "-q", tmp_path], check=True)
    found = check(tmp_path)
    expected = [said for _, _, said in BAD[check] if said]
    for said in expected:
        assert sum(said in line for line in found) == 1, f"{said!r} once in {found}"
    assert len(found) == len(expected), found
