"""launch/compare.py: one supervised start a seed, finished runs are left alone, the table says what
the runs say."""

from collections.abc import Sequence
import importlib.util
import json
import os
from pathlib import Path
import sys

import pytest

from tests.processes import xla_flags
from tests.scripts import code_of

ROOT = Path(__file__).resolve().parents[1]
CODING, OPDLM = ROOT / "configs/coding.py", ROOT / "configs/opdlm.py"
SMALL = (
    f"{CODING}:tiny,rounds=1,prompts_per_round=4,group_size=2,inner_iterations=1,sft.steps=2,"
    "sft.batch=8,eval_every=1,eval_problems=4,mesh.data=1"
)


@pytest.fixture(scope="module")
def compare():
    spec = importlib.util.spec_from_file_location("launch_compare", ROOT / "launch" / "compare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(monkeypatch, *given):
    monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, given)])


def run_with(folder: Path, *rows: dict, score: str | None = "tests") -> Path:
    """The workdir of a finished run with these lines of metrics.jsonl."""
    folder.mkdir(parents=True)
    text = "".join(json.dumps({"wall_s": 1.0} | row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text)
    if score is not None:
        (folder / "config.json").write_text(json.dumps({"format": 2, "score": score}))
    (folder / "finished").touch()
    return folder


def finished_run(
    folder: Path, *scores: tuple[float, float], training: Sequence[float] = ()
) -> None:
    """The workdir of a finished run on coding problems with (score, pass@1) of its evaluations."""
    evaluations = [
        {"phase": "eval", "step": step, "mean_reward": score, "pass_at_1": solved}
        for step, (score, solved) in enumerate(scores)
    ]
    rollouts = [
        {"phase": "rollout", "step": step, "tests": tests} for step, tests in enumerate(training)
    ]
    run_with(folder, *evaluations, *rollouts)


def column_of(table: list[list[str]], head: str, row: int = 1) -> str:
    return table[row][table[0].index(head)]


@pytest.mark.parametrize("given", [None, "elsewhere"])
def test_scripts_of_a_comparison_share_what_they_compile(compare, monkeypatch, tmp_path, given):
    """In its folder, unless another one is given."""
    monkeypatch.setenv("XLA_FLAGS", xla_flags())
    name, seen = "JAX_COMPILATION_CACHE_DIR", set()
    monkeypatch.delenv(name)
    if given is not None:
        monkeypatch.setenv(name, given)

    def train(config, workdir, *_):
        seen.add(os.environ[name])
        finished_run(workdir, (0.4, 0.4), (0.5, 0.5))

    monkeypatch.setattr(compare, "train", train)
    arguments(monkeypatch, f"--config={SMALL}", f"--out={tmp_path}", "--seeds=0", "a=", "b=")
    assert compare.main() == 0 and seen == {given or str(tmp_path / "compiled")}


def test_finished_runs_are_only_tabled(compare, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(compare, "train", lambda *_: pytest.fail("trained again"))
    training = [0.5] * 5 + [0.3] * 5 + [0.6] * 5
    finished_run(tmp_path / "a-0", (0.4, 0.6), (0.5, 0.5), (0.7, 0.8), training=training)
    finished_run(tmp_path / "a-1", (0.5, 0.6), (0.45, 0.65), (0.6, 0.6))
    config = f"--config={CODING}:tiny,rounds=2"
    given = (config, f"--out={tmp_path}", "--seeds=0,1", "a=gdsd.psi=3")
    arguments(monkeypatch, *given)
    assert compare.main() == 0
    head = (
        "| run | tests, temperature 1 | gain | pass@1, temperature 0 | gain "
        "| deepest fall in training |"
    )
    row = (
        "| a | 45.0% → 65.0% | +0.200 (+0.100 to +0.300) "
        "| 60.0% → 70.0% | +0.100 (+0.000 to +0.200) | 0.100 (0.000 to 0.200) |"
    )
    lines = capsys.readouterr().out.splitlines()
    assert head in lines and row in lines
    page = (tmp_path / "report.html").read_text()
    assert row.split(" | ")[1] in page and "Mean tests of the answers, temperature 1" in page
    assert row in (tmp_path / "table.md").read_text()
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert not (tmp_path / "probes.png").exists()


def test_every_part_has_a_column_by_its_name(compare, tmp_path):
    """A reward and parts may have any scale; a part without a verdict in some runs is of the
    others."""
    before = {"phase": "eval", "step": 0, "mean_reward": -3.0, "pass_at_1": 0.0, "solved": 0.0}
    after = before | {"step": 1, "mean_reward": 2.5, "pass_at_1": 0.5}
    rollouts = [
        {"phase": "rollout", "step": n + 1, "reward": value, "judged": 0.5, "drift_mean": 0.1}
        for n, value in enumerate([6.0] * 5 + [2.0] * 5)
    ]
    whole = run_with(
        tmp_path / "a-0",
        before | {"near": 1.5, "length ratio": 4.0},
        after | {"near": 2.5, "length ratio": 3.0},
        *rollouts,
        score=None,
    )
    partial = run_with(
        tmp_path / "a-1",
        before | {"near": None, "length ratio": 2.0},
        after | {"near": 1.0, "length ratio": 2.0},
        score="reward",
    )
    table = compare.table({"a": [whole, partial]})
    assert table[0] == [
        "run",
        "reward, temperature 1",
        "gain",
        "pass@1, temperature 0",
        "gain",
        "near, temperature 1",
        "gain",
        "length ratio, temperature 1",
        "gain",
        "deepest fall in training",
    ]
    assert table[1] == [
        "a",
        "-3.000 → 2.500",
        "+5.500 (+5.500 to +5.500)",
        "0.0% → 50.0%",
        "+0.500 (+0.500 to +0.500)",
        "1.500 → 2.500",
        "+1.000 (+1.000 to +1.000)",
        "3.000 → 2.500",
        "-0.500 (-1.000 to +0.000)",
        "2.000 (0.000 to 4.000)",
    ]


def test_a_task_that_grades_nothing_has_costs_alone(compare, tmp_path):
    """With a teacher the distance to it besides, and no row for a teacher that nobody judged."""
    line = {"phase": "eval", "step": 0, "problems": 4, "forwards_per_token": 1.5}
    rollout = {"phase": "rollout", "step": 1, "tokens": 1200}
    plain = run_with(tmp_path / "a-0", line, line | {"step": 1, "forwards_per_token": 1.25})
    assert compare.table({"a": [plain]}) == [
        ["run", "forwards a token", "answer tokens"],
        ["a", "1.25", "0"],
    ]
    distilled = run_with(
        tmp_path / "b-0",
        line | {"kl_common": 2.0},
        line | {"step": 1, "kl_common": 0.5, "threshold_forwards_per_token": 0.75},
        rollout,
        rollout | {"step": 2},
    )
    table = compare.table({"b": [distilled]})
    assert table == [
        ["run", "held-out KL, nats", "forwards a token", "answer tokens"],
        ["b", "2.000 → 0.500", "1.50 / 0.75", "2,400"],
    ]
    assert compare.merit(distilled) == -0.5 > compare.merit(plain)
    runs = {"b": [distilled]}
    compare.write(tmp_path, runs, "of plain prompts")
    assert "Held-out KL to the teacher" in (tmp_path / "report.html").read_text()


def test_the_teacher_has_a_row(compare, tmp_path):
    line = {"phase": "eval", "step": 0, "mean_reward": 0.2, "pass_at_1": 0.1, "kl_common": 1.0}
    line |= {"forwards_per_token": 2.0, "teacher_pass_at_1": 0.75, "format": 0.5}
    table = compare.table({"a": [run_with(tmp_path / "a-0", line, line)]})
    assert len(table) == 3 and {len(cells) for cells in table} == {len(table[0])}
    assert table[2][0] == "teacher" and column_of(table, "pass@1, temperature 0", 2) == "75.0%"
    assert set(table[2]) == {"teacher", "75.0%", "-"}
    assert column_of(table, "format, temperature 1") == "0.500 → 0.500"


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
    monkeypatch.setattr(compare, "rounds_of", lambda *_: 1)
    grid = {"optimizer.learning_rate": ["3e-5", "1e-4"]}
    (found,) = compare.compare(compare.Plan("c.py", tmp_path, {"a": "gdsd.psi=3"}, [4, 5], grid))
    assert [name for name, _ in trained] == [
        "start-4",
        "a-3e-5-4",
        "a-1e-4-4",
        "start-5",
        "a-1e-4-5",
    ]
    start = f"start_from={tmp_path / 'start-5'}"
    assert trained[-1][1] == ("seed=5", start, "gdsd.psi=3", "optimizer.learning_rate=1e-4")
    assert found.name == "a 1e-4" and found.edges == []
    assert [path.name for path in found.workdirs] == ["a-1e-4-4", "a-1e-4-5"]


def test_the_better_half_goes_on(compare, monkeypatch, tmp_path):
    """Four values for two rounds, two of them for four, one to the end; a second call finds all of
    it done, also the choices: a run that goes on forgets the evaluation at its earlier end."""
    trained = []
    scores = {"1": (0.5, 0.5, 0.5), "2": (0.6, 0.9, 0.3), "3": (0.7, 0.6, 0.9), "4": (0.4, 1, 1)}

    def train(config, workdir, *overrides):
        rounds = max((int(one[7:]) for one in overrides if one.startswith("rounds=")), default=8)
        trained.append((workdir.name, rounds))
        workdir.mkdir(exist_ok=True)
        place = {0: None, 2: 0, 4: 1, 8: 2}[rounds]  # a start has no rounds
        score = 0.4 if place is None else scores[workdir.name.split("-")[1]][place]
        row = {"phase": "eval", "step": rounds, "wall_s": 1.0, "mean_reward": score}
        (workdir / "metrics.jsonl").write_text(json.dumps(row) + "\n")

    monkeypatch.setattr(compare, "train", train)
    monkeypatch.setattr(compare, "rounds_of", lambda *_: 8)
    plan = compare.Plan("c.py", tmp_path, {"a": ""}, [0, 1], {"gdsd.psi": list("1234")}, 2)
    (found,) = compare.compare(plan)
    runs = [one for one in trained if not one[0].startswith("start")]
    assert runs[:4] == [(f"a-{value}-0", 2) for value in "1234"]
    assert sorted(runs[4:6]) == [("a-2-0", 4), ("a-3-0", 4)]
    assert runs[6:] == [("a-2-0", 8), ("a-2-1", 8)]
    assert found.name == "a 2" and found.edges == []
    monkeypatch.setattr(compare, "train", lambda *_: pytest.fail("trained again"))
    assert compare.compare(plan) == [found]
    monkeypatch.setattr(compare, "rounds_of", lambda *_: 6)  # asked for after all of them are done
    with pytest.raises(ValueError, match="a-2-0 has 8 rounds, not 6: give another --out"):
        compare.compare(plan._replace(grid={"gdsd.psi": ["2"]}, halvings=0))


def test_a_run_that_went_past_a_halving_is_no_measure_of_it(compare, tmp_path):
    """Its last evaluation before is that of the start, or of half of the rounds."""
    rows = [
        {"phase": "eval", "step": step, "mean_reward": score}
        for step, score in ((0, 0.4), (20, 0.6), (40, 0.7))
    ]
    run = run_with(tmp_path / "a-0", *rows)
    assert compare.merit_after(run, 20) == 0.6 and compare.merit_after(run, None) == 0.7
    with pytest.raises(ValueError, match="a-0 has no evaluation after 15 rounds"):
        compare.merit_after(run, 15)
    assert not (run / "merit-15").exists()


def test_a_value_at_the_edge_is_told(compare):
    grid = {"psi": ["1", "3", "10"], "mu": ["1", "4"], "masks": ["a", "b", "c"]}
    assert compare.edges(grid, ("psi=10", "mu=4", "masks=a")) == ["psi=10"]
    assert compare.edges(grid, ("psi=3", "mu=4", "masks=a")) == []


def test_a_finished_variant_of_other_settings_is_no_finished_one(compare, monkeypatch, tmp_path):
    """It goes on, or launch/main.py refuses it."""
    trained = []
    monkeypatch.setattr(compare, "train", lambda config, workdir, *given: trained.append(given))
    finished_run(tmp_path / "start-0", (0.4, 0.4))
    (tmp_path / "a-0").mkdir()
    for psi, count in ((3, 1), (3, 1), (4, 2)):
        compare.finished("c.py", tmp_path, "a", 0, f"gdsd.psi={psi}")
        assert len(trained) == count
    assert trained[-1][-1] == "gdsd.psi=4"


def test_overrides_follow_what_the_config_says(compare):
    assert compare.argument_of("c.py") == "c.py:"
    assert compare.argument_of("c.py", "", "seed=1") == "c.py:seed=1"
    assert (
        compare.argument_of("c.py:tiny,a=1", "b=(1, 2)", "", "c=3") == "c.py:tiny,a=1,b=(1, 2),c=3"
    )


WRONG = {
    "not of the form": (["gdsd"], "variant 'gdsd' is not of the form NAME=OVERRIDES"),
    "without a name": (["=seed=1"], "variant '=seed=1' is not of the form NAME=OVERRIDES"),
    "twice": (["a=", "a=gdsd.psi=3"], "variant 'a' is given twice: choose another name"),
    "of the start": (["start="], "variant 'start' names no folder of its own"),
    "a path": (["a/b="], "variant 'a/b' names no folder of its own"),
    "seeds": (["--seeds=0,x", "a="], "--seeds=0,x: give whole numbers such as 0,1,2"),
    "rate": (["--tune=optimizer.learning_rate=fast/1e-3", "a="], "'optimizer.learning_rate' takes"),
    "grid": (["--tune=gdsd.psi=3", "a="], "--tune=gdsd.psi=3: give KEY=VALUE/VALUE, each value"),
    "no grid": (["--halvings=1", "a="], "--halvings=1: nothing is tuned, give --tune"),
    "temperature": (["--test", "--temperatures=1,hot", "a="], "--temperatures: config key 'temper"),
    "cold": (["--test", "--temperatures=-1", "a="], "--temperatures: temperature=-1.0 must"),
    "at zero": (["--test", "--temperatures=0,1", "a="], "--samples=8: at temperature=0.0 all are"),
    "at zero in the config": (
        ["--test", f"--config={CODING}:tiny,temperature=0.0", "a="],
        "--samples=8: at temperature=0.0 all are the same",
    ),
    "no test": (
        ["--split=misled", "--samples=2", "a="],
        "--samples, --split belongs to a test: give",
    ),
    "column": (
        ["--test", "--split=hue", "a="],
        "no held-out problem has a column 'hue': choose one",
    ),
    "variant": (["a=", "b=keep_best=hue"], "variant 'b': keep_best=hue: evaluations of this run"),
    "start": (["a=", "b=sft.noise=0.9"], "variant 'b': sft.noise=0.4 is now 0.9: the supervised"),
    "key": (["a=", "b=gdsd.psy=3"], "variant 'b': unknown config key 'gdsd.psy'; near it"),
    "config": (["--config=none.py", "a="], "--config: no file none.py; there are the recipes"),
    "a bucket": (["--out=gs://b/runs", "a="], "--out=gs://b/runs: give a local folder"),
    "model": ([f"--config={CODING}:big", "a="], "unknown model 'big', this config knows: tiny"),
}


@pytest.mark.parametrize(("given", "said"), WRONG.values(), ids=WRONG)
def test_bad_arguments_are_refused_before_anything_runs(
    compare, monkeypatch, capsys, tmp_path, given, said
):
    monkeypatch.setattr(compare, "train", lambda *_: pytest.fail("trained"))
    arguments(monkeypatch, f"--config={CODING}", f"--out={tmp_path / 'out'}", *given)
    assert code_of(compare.main) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line
    assert not (tmp_path / "out").exists()


def test_a_file_where_the_folder_should_be_is_named(compare, monkeypatch, capsys, tmp_path):
    (tmp_path / "out").touch()
    arguments(monkeypatch, f"--config={CODING}", f"--out={tmp_path / 'out'}", "a=")
    assert code_of(compare.main) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and str(tmp_path / "out") in line


def test_a_run_is_no_folder_of_runs(compare, monkeypatch, capsys, tmp_path):
    run_with(tmp_path / "run")
    arguments(monkeypatch, f"--config={CODING}", f"--out={tmp_path / 'run'}", "a=")
    assert code_of(compare.main) == 2
    assert f"--out={tmp_path / 'run'}: a run is in there" in capsys.readouterr().err


def test_a_script_that_is_killed_is_told(compare, monkeypatch, capsys, tmp_path):
    """As by the system where the memory is not enough."""
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch/dies.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    monkeypatch.setattr(compare, "ROOT", tmp_path)
    assert code_of(lambda: compare.run_script("dies.py")) == 137
    assert "launch/dies.py was ended by SIGKILL; the same" in capsys.readouterr().err


@pytest.mark.slow
def test_a_variant_trains_from_the_shared_start(compare, monkeypatch, tmp_path):
    """Also one without the reference policy that the config's own objective has; also from another
    folder than the repository's."""
    monkeypatch.setenv("XLA_FLAGS", xla_flags())
    monkeypatch.chdir(tmp_path)
    given = (f"--config={SMALL},data_dir=data", "--out=out", "--seeds=3", "b=objective=wd1")
    arguments(monkeypatch, *given)
    assert compare.main() == 0
    start, run = (compare.lines_of(tmp_path / "out" / name, "eval") for name in ("start-3", "b-3"))
    assert len(start) == 1 and len(run) == 2
    for key in ("mean_reward", "pass_at_1", "format"):
        assert start[0][key] == run[0][key]
    assert "format, temperature 1" in (tmp_path / "out" / "table.md").read_text()
    assert (tmp_path / "data").is_dir()


@pytest.mark.slow
def test_the_other_half_is_reported(compare, monkeypatch, data_dir, tmp_path):
    """Runs are asked one half, the table tells of the other; a second call asks nothing again."""
    monkeypatch.setenv("XLA_FLAGS", xla_flags())
    config = f"--config={SMALL},eval_problems=6,data_dir={data_dir}"
    out = tmp_path / "out"
    test = ("--test", "--samples=2", "--split=misled")
    variants = ("a=", "b=objective=rft,sampler.remasking=random,temperature=2.0")
    arguments(monkeypatch, config, f"--out={out}", "--seeds=3", *test, *variants)
    assert compare.main() == 0
    asked = json.loads((out / "a-3" / "samples" / "000001.json").read_text())
    files = [json.loads((out / name / "test-2.json").read_text()) for name in ("start-3", "a-3")]
    questions = {item["question"] for item in files[1]["items"]}
    assert len(questions) == 6 and not questions & {one["question"] for one in asked}
    asked_b = json.loads((out / "b-3" / "test-2.json").read_text())
    assert asked_b["config"] == files[0]["config"], "a variant's own sampler is for its training"
    told = (out / "table.md").read_text()
    for heading in ("Test half\n", "Test half, misled False\n", "Test half, misled True\n"):
        assert heading in told
    whole = told.split("Test half\n\n")[1].splitlines()
    heads, _, a, b = ([cell.strip() for cell in line.strip("|").split("|")] for line in whole[:4])
    values = [file["metrics"]["mean_reward"] for file in files]
    assert a[heads.index("tests, sampled")] == " → ".join(f"{value:.1%}" for value in values)
    assert a[3] == "-" and b[3].endswith((": no difference shown", ": higher", ": lower"))
    assert "<h2>Test half, misled True</h2>" in (out / "report.html").read_text()
    assert (out / "probes.png").read_bytes()[:4] == b"\x89PNG"
    monkeypatch.setattr(compare, "train", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(compare.subprocess, "run", lambda *_, **__: pytest.fail("asked again"))
    assert compare.main() == 0 and (out / "table.md").read_text() == told


@pytest.mark.slow
def test_distillation_beside_its_control(compare, monkeypatch, data_dir, tmp_path):
    """Both from the same teacher and student, on as many answers; a second call only draws the
    table again."""
    monkeypatch.setenv("XLA_FLAGS", xla_flags())
    config = (
        f"{OPDLM}:tiny,rounds=1,prompts_per_round=8,inner_iterations=1,minibatches=1,sft.steps=2,"
        f"sft.batch=8,eval_every=1,eval_problems=8,mesh.data=1,data_dir={data_dir}"
    )
    out = tmp_path / "out"
    given = (f"--config={config}", f"--out={out}", "--seeds=0", "opd=", "sft=control=sft")
    arguments(monkeypatch, *given)
    assert compare.main() == 0
    table = (out / "table.md").read_text()
    monkeypatch.setattr(compare, "train", lambda *_: pytest.fail("trained again"))
    assert compare.main() == 0 and (out / "table.md").read_text() == table
    heads, _, opd, sft, teacher = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
    )
    assert (opd[0], sft[0], teacher[0]) == ("opd", "sft", "teacher")
    assert len(opd) == len(heads) == len(teacher)

    def cell(row: list[str], head: str) -> str:
        return row[heads.index(head)]

    before, after = cell(opd, "held-out KL, nats").split(" → ")
    assert before == cell(sft, "held-out KL, nats").split(" → ")[0], "one student at the start"
    assert float(before) > 0 and float(after) > 0
    for row in (opd, sft):
        assert len(cell(row, "forwards a token").split(" / ")) == 2
        assert int(cell(row, "answer tokens")) > 0
    assert cell(teacher, "pass@1, temperature 0").endswith("%")
    ours, theirs = (compare.lines_of(out / f"{name}-0", "train")[0] for name in ("opd", "sft"))
    assert ours["loss"] == ours["kl"] and theirs["loss"] == -theirs["score"]
