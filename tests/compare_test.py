"""launch/compare.py: one supervised start a seed, finished runs are left alone, the table says what
the runs say."""

from collections.abc import Sequence
import importlib.util
import json
from pathlib import Path
import sys

import pytest

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "configs/coding.py:tiny,rounds=1,prompts_per_round=4,group_size=2,inner_iterations=1,"
    "sft.steps=2,sft.batch=8,"
    "eval_every=1,eval_problems=4,mesh.data=1"
)


@pytest.fixture(scope="module")
def compare():
    spec = importlib.util.spec_from_file_location("launch_compare", ROOT / "launch" / "compare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(monkeypatch, *given):
    monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, given)])


def finished_run(
    folder: Path, *scores: tuple[float, float], training: Sequence[float] = ()
) -> None:
    folder.mkdir(parents=True)
    rows = [
        dict(phase="eval", step=n, wall_s=1.0, mean_reward=a, pass_at_1=b)
        for n, (a, b) in enumerate(scores)
    ]
    rows += [
        dict(phase="rollout", step=n, wall_s=1.0, tests=tests) for n, tests in enumerate(training)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "finished").touch()


def test_finished_runs_are_only_tabled(compare, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(compare, "train", lambda *_: pytest.fail("trained again"))
    finished_run(
        tmp_path / "a-0",
        (0.4, 0.6),
        (0.5, 0.5),
        (0.7, 0.8),
        training=[0.5] * 5 + [0.3] * 5 + [0.6] * 5,
    )
    finished_run(tmp_path / "a-1", (0.5, 0.6), (0.45, 0.65), (0.6, 0.6))
    arguments(
        monkeypatch,
        "--config=configs/coding.py",
        f"--out={tmp_path}",
        "--seeds=0,1",
        "a=gdsd.psi=3",
    )
    assert compare.main() == 0
    row = (
        "| a | 45.0% → 65.0% | +0.200 (+0.100 to +0.300) "
        "| 60.0% → 70.0% | +0.100 (+0.000 to +0.200) | 0.100 (0.000 to 0.200) |"
    )
    assert row in capsys.readouterr().out.splitlines()
    assert (
        row.split(" | ")[1] in (tmp_path / "report.html").read_text()
        and row in (tmp_path / "table.md").read_text()
    )
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_the_best_rate_of_the_first_seed_is_used(compare, monkeypatch, tmp_path):
    trained = []

    def train(config, workdir, *overrides):
        trained.append((workdir.name, overrides))
        score = 0.9 if "optimizer.learning_rate=1e-4" in overrides else 0.5
        if not workdir.exists():
            finished_run(workdir, (0.4, 0.4))
        finished_run(tmp_path / "scratch" / workdir.name, (0.4, 0.4), (score, score))
        (tmp_path / "scratch" / workdir.name / "metrics.jsonl").rename(workdir / "metrics.jsonl")

    monkeypatch.setattr(compare, "train", train)
    runs = compare.compare("c.py", tmp_path, {"a": "gdsd.psi=3"}, [4, 5], ["3e-5", "1e-4"])
    assert [name for name, _ in trained] == [
        "start-4",
        "a-3e-5-4",
        "a-1e-4-4",
        "start-5",
        "a-1e-4-5",
    ]
    assert trained[-1][1] == ("seed=5", "gdsd.psi=3", "optimizer.learning_rate=1e-4")
    assert [path.name for path in runs["a 1e-4"]] == ["a-1e-4-4", "a-1e-4-5"]


def test_a_malformed_variant_is_refused(compare, monkeypatch, capsys, tmp_path):
    arguments(monkeypatch, "--config=configs/coding.py", f"--out={tmp_path / 'out'}", "gdsd")
    assert compare.main() == 2
    assert capsys.readouterr().err == "error: variant 'gdsd' is not of the form NAME=OVERRIDES\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_variant_trains_from_the_shared_start(compare, monkeypatch, tmp_path):
    """Also one without the reference policy that the config's own objective has."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    arguments(
        monkeypatch,
        f"--config={SMALL},data_dir={tmp_path / 'data'}",
        f"--out={tmp_path / 'out'}",
        "--seeds=3",
        "b=objective=wd1",
    )
    assert compare.main() == 0
    start, run = (compare.evaluations(tmp_path / "out" / name) for name in ("start-3", "b-3"))
    assert len(start) == 1 and len(run) == 2
    assert {key: start[0][key] for key in compare.SCORES} == {
        key: run[0][key] for key in compare.SCORES
    }


@pytest.mark.slow
def test_distillation_beside_its_control(compare, monkeypatch, tmp_path):
    """Both from the same teacher and student, on as many answers; a second call only draws the
    table again."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    config = (
        f"configs/opdlm.py:tiny,rounds=1,prompts_per_round=8,inner_iterations=1,minibatches=1,"
        f"sft.steps=2,sft.batch=8,"
        f"eval_every=1,eval_problems=8,mesh.data=1,data_dir={tmp_path / 'data'}"
    )
    arguments(
        monkeypatch,
        f"--config={config}",
        f"--out={tmp_path / 'out'}",
        "--seeds=0",
        "opd=",
        "sft=control=sft",
    )
    assert compare.main() == 0
    table = (tmp_path / "out" / "table.md").read_text()
    monkeypatch.setattr(compare, "train", lambda *_: pytest.fail("trained again"))
    assert compare.main() == 0 and (tmp_path / "out" / "table.md").read_text() == table
    heads, _, opd, sft, teacher = (
        [cell.strip() for cell in line.split("|")] for line in table.splitlines()
    )
    assert (opd[1], sft[1], teacher[1]) == ("opd", "sft", "teacher") and len(opd) == len(
        heads
    ) == len(teacher)
    column = {
        name: heads.index(name)
        for name in ("held-out KL, nats", "forwards a token", "answer tokens")
    }
    start, *ends = (row[column["held-out KL, nats"]].split(" → ") for row in (opd, sft))
    assert start[0] == ends[0][0] and float(start[0]) > 0, "one student at the start"
    assert all(
        len(row[column["forwards a token"]].split(" / ")) == 2
        and int(row[column["answer tokens"]]) > 0
        for row in (opd, sft)
    )
    ours, theirs = (
        [row for row in compare.lines_of(tmp_path / "out" / f"{name}-0", "train")][0]
        for name in ("opd", "sft")
    )
    assert ours["loss"] == ours["kl"] and theirs["loss"] == -theirs["score"]
