"""Completions of files are graded as they stand: published figures, our own files, odd ones."""

import gzip
import io
import json

import pyarrow.parquet
import pytest

from configs import coding, sudoku
from configs import math as math_config
from gdsd_jax import settings
from gdsd_jax.evaluation import record, rescoring
from launch import eval as launch_eval
from tests.scripts import code_of

PUZZLE, SOLUTION = "1004041021000320", "1234341221434321"
EMPTY = PUZZLE.count("0")
RIGHT, NOTHING = f"<answer>{SOLUTION}</answer>", "I do not know."
FIGURES = {
    "sudoku": ("sudoku", 23, 296),
    "countdown": ("countdown", 7, 37),
    "gsm8k": ("gsm8k", 160, 205),
    "math": ("math500", 26, 84),
}


RELEASED = "configs/sudoku.py:llada,reward.variant=released"


@pytest.fixture
def rescore(tmp_path, monkeypatch, capsys):
    """`rescore(content, config) -> (exit code, what --out holds, what was printed)`."""

    def start(content, config=RELEASED, name="given.json", more=()):
        file, out = tmp_path / name, tmp_path / "out.json"
        if content is not None:
            data = content
            if not isinstance(content, bytes):
                text = content if isinstance(content, str) else json.dumps(content)
                data = text.encode()
            file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        flags = [f"--config={config}", f"--rescore={file}", f"--out={out}", *more]
        monkeypatch.setattr("sys.argv", ["eval.py", *flags])
        code = code_of(launch_eval.main)
        said = capsys.readouterr()
        return code, json.loads(out.read_text()) if out.is_file() else None, said.out + said.err

    return start


def generation(text, puzzle=PUZZLE, solution=SOLUTION):
    question = f"Solve the following Sudoku puzzle: {puzzle}\n"
    return {"question": question, "generations": text, "ground_truth": solution}


@pytest.mark.parametrize("task", FIGURES)
def test_published_figures_of_the_released_rules(task, published, tmp_path, monkeypatch):
    name, right, total = FIGURES[task]
    file, out = published / f"{name}_instruct_256_128_0_generations.json", tmp_path / "out.json"
    config = f"configs/{task}.py:llada,reward.variant=released"
    flags = [f"--config={config}", f"--rescore={file}", f"--out={out}"]
    monkeypatch.setattr("sys.argv", ["eval.py", *flags])
    assert launch_eval.main() == 0
    found = json.loads(out.read_text())
    assert (found["metrics"]["correct"], found["metrics"]["total"]) == (right, total)
    rows = json.loads(file.read_text())["generations"]
    assert [(item["question"], item["completion"]) for item in found["items"]] == [
        (row["question"], row["generations"]) for row in rows
    ]


def test_generation_files(rescore):
    """One puzzle solved, then left: 10 of 20 cells; the answers are two to one problem."""
    rows = [generation(RIGHT), generation(NOTHING)]
    code, found, said = rescore({"generations": rows, "metrics": {}})
    assert code == 0 and said.startswith(f"{EMPTY}/{2 * EMPTY} right"), said
    metrics = found["metrics"]
    assert (metrics["correct"], metrics["total"], metrics["problems"]) == (EMPTY, 2 * EMPTY, 1)
    assert metrics["accuracy"] == metrics["pass_at_1"] == 0.5
    assert metrics["pass_at_k"] == {"1": 0.5, "2": 1.0} and metrics["unjudged"] == 0
    assert found["intervals"]["accuracy"] == [0.5, 0.5]  # of one problem
    assert "forwards_per_token" not in metrics
    first, second = found["items"]
    assert first["grades"]["cells"] == 1 and second["grades"]["cells"] == 0
    assert first["points"] == [EMPTY, EMPTY] and second["sample"] == 1
    assert first["question"] == rows[0]["question"] and first["completion"] == RIGHT
    assert found["prompts"][0]["record"] == {"puzzle": PUZZLE, "solution": SOLUTION}


def test_rows(rescore):
    """JSONL of one line and of more, a list, CSV, packed or not; "text" as well as "completion", or
    a column that the config names."""
    row = {"puzzle": PUZZLE, "solution": SOLUTION}
    one, two = {**row, "completion": RIGHT}, {**row, "text": NOTHING}
    packed = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([one, one]), packed)
    for content, name, right in (
        (json.dumps(one), "a.jsonl", [True]),
        (f"{json.dumps(one)}\n{json.dumps(two)}\n", "a.jsonl", [True, False]),
        ([two, one], "a.json", [False, True]),
        (f"puzzle,solution,completion\n{PUZZLE},{SOLUTION},{RIGHT}\n", "a.csv", [True]),
        (f"puzzle,solution,completion\n{PUZZLE},{SOLUTION},{RIGHT}\n", "a.CSV.gz", [True]),
        ([one, two], "a.json.gz", [True, False]),
        (packed.getvalue(), "a.parquet", [True, True]),
        (f"{json.dumps(one)}\n{json.dumps(two)}\n", "a.jsonl.gz", [True, False]),
    ):
        code, found, said = rescore(content, name=name)
        assert code == 0, said
        assert [item["grades"]["solved"] == 1 for item in found["items"]] == right
    # "questions" are the task's where the file says none
    assert PUZZLE in found["items"][0]["question"]
    columns = "configs/sudoku.py:llada,columns.completion=said,columns.puzzle=grid"
    renamed = {"grid": PUZZLE, "solution": SOLUTION, "said": RIGHT, "text": NOTHING}
    code, found, said = rescore([renamed], columns)
    assert code == 0 and found["metrics"]["correct"] == EMPTY, said


def test_programs_are_graded_without_problems_of_the_task(rescore, tmp_path):
    """Nothing is generated under data_dir; the rows bring the tests."""
    row = {"question": "Write f(x).", "test_cases": ["assert f(1) == 2", "assert f(2) == 3"]}
    texts = ["```python\ndef f(x):\n    return x + 1\n```", "```python\ndef f(x):\n    pass\n```"]
    config = f"configs/coding.py:llada,data_dir={tmp_path / 'data'},data_file=none.jsonl"
    code, found, said = rescore([{**row, "completion": text} for text in texts], config)
    assert code == 0, said
    assert [item["grades"]["solved"] for item in found["items"]] == [1, 0]
    assert not (tmp_path / "data").exists()


def test_a_rescored_file_can_be_rescored(rescore, tmp_path):
    """By another rule too: the given cells count for the mended one alone."""
    changed = "2" + SOLUTION[1:]
    rows = [generation(f"<answer>{changed}</answer>"), generation(RIGHT)]
    code, found, _ = rescore({"generations": rows})
    assert code == 0 and found["metrics"]["correct"] == 2 * EMPTY
    assert found["manifest"]["settings"]["reward"]["variant"] == "released"
    code, again, _ = rescore(found)
    assert code == 0
    for name in ("metrics", "intervals", "evaluations", "prompts", "items"):
        assert again[name] == found[name]
    assert again["manifest"]["answered"] == found["manifest"]
    before = (tmp_path / "out.json").read_bytes()
    rescore(None)
    assert (tmp_path / "out.json").read_bytes() == before
    code, mended, _ = rescore(found, "configs/sudoku.py:llada")
    assert code == 0 and mended["metrics"]["correct"] == 2 * EMPTY - 1


ODD = {
    "no such file": (None, "not a readable file"),
    "bad JSON": ('{"generations": [', "not JSON"),
    "nothing": ("", "given.json is empty, there is nothing to grade: give rows with an answer"),
    "blank lines": ("\n\n  \n", "given.json is empty, there is nothing to grade"),
    "an empty list": ([], "given.json is an empty list, there is nothing to grade"),
    "no generations": ({"generations": []}, "generations is an empty list, there is nothing to"),
    "an object of them": ({"generations": {"a": 1}}, "is not a list with completions"),
    "a number": ("7", "is not a list with completions"),
    "no object": ([3], "[0]: not a JSON object"),
    "no text": (
        [{"puzzle": PUZZLE, "said": RIGHT}],
        '[0]: completion is missing: give the answer\'s text as "completion" '
        "(columns.completion=NAME takes another of puzzle, said)",
    ),
    "no string": ([{"puzzle": PUZZLE, "completion": 3}], "completion is not a string"),
    "no puzzle": (
        [{"question": "What?", "completion": ""}],
        "[0]: puzzle is missing: give 16 digits, row by row, 0 for an empty cell "
        "(columns.puzzle=NAME takes another of question, completion)",
    ),
    "a torn row": (
        f'{json.dumps({"puzzle": PUZZLE, "text": ""})}\n{{"puz',
        "given.json:2: not JSON",
    ),
    "half a file": ({"items": []}, "not a whole file of launch/eval.py"),
    "a manifest of none": ({"items": [], "manifest": {"settings": 3}}, "not a whole file"),
    "an item of no prompt": (
        {
            "items": [{"problem": -1}],
            "prompts": [{}],
            "manifest": {"settings": {}, "samplers": []},
        },
        "items[0]: not an item of one of its 1 prompts",
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_files_are_one_line(kind, rescore):
    content, wanted = ODD[kind]
    code, found, said = rescore(content)
    assert code == 2 and found is None, said
    assert said.startswith("error: ") and said.count("\n") == 1 and wanted in said, said


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.csv.gz"])
def test_files_that_hold_nothing_or_no_text_are_one_line(name, rescore, tmp_path):
    def refused(content):
        code, found, said = rescore(content, name=name)
        assert code == 2 and found is None and said.count("\n") == 1, said
        assert f"{tmp_path / name}" in said
        return said

    assert "is empty, there is nothing to grade" in refused("")
    assert "is empty, there is nothing to grade" in refused("\n \n")
    if "csv" in name:
        said = refused("puzzle,completion\n")
        assert "has no rows: give a line of column names" in said and "JSON" not in said
    data = b"puzzle,completion\n\xff,\n" if "csv" in name else b'{"a": "\xff"}\n'
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert "write it as UTF-8" in refused(None)
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(data)
        assert "not a readable file (BadGzipFile)" in refused(None)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    assert "not a readable file (IsADirectoryError)" in refused(None)


def own_file(items, **changes):
    chosen = settings.to_json(settings.parse(sudoku.get_config("llada")))
    manifest = {"format": record.FORMAT, "settings": chosen, "samplers": [], **changes}
    prompts = [{"messages": [], "record": {"puzzle": PUZZLE, "solution": SOLUTION}}]
    return {"manifest": manifest, "prompts": prompts, "items": items}


def test_odd_files_of_ours_are_one_line(rescore):
    def refused(content, config=RELEASED):
        code, found, said = rescore(content, config)
        assert code == 2 and found is None and said.count("\n") == 1, said
        return said

    item = {"problem": 0, "question": "q", "completion": RIGHT}
    assert "nothing to grade" in refused(own_file([]))
    assert "items[0]: not an item" in refused(own_file([{"problem": 4, "completion": ""}]))
    assert "items[0]: not an item" in refused(own_file([3]))
    assert "completion is not a string" in refused(own_file([{**item, "completion": None}]))
    assert "format 99" in refused(own_file([item], format=99))
    said = refused(own_file([item]), "configs/countdown.py:llada")
    assert "answers to task sudoku, the config's is countdown" in said
    without = own_file([item])
    without["prompts"][0]["record"] = None
    assert "has no record" in refused(without)
    without["prompts"][0]["record"] = {}
    assert "items[0]: its problem's record has no 'puzzle': evaluate again" in refused(without)
    without["prompts"][0]["record"] = {"puzzle": 5, "solution": SOLUTION}
    assert "a record is none of task sudoku (AttributeError" in refused(without)
    assert rescore(own_file([item]))[0] == 0


def test_flags_that_do_not_go_together(rescore, monkeypatch, capsys):
    assert "asks a model" in rescore([{}], more=["--samples=2"])[2]
    assert "--samples asks a model" in rescore([{}], more=["--samples=0"])[2]
    assert "give one of" in rescore([{}], more=["--checkpoint=none"])[2]
    monkeypatch.setattr("sys.argv", ["eval.py", "--rescore=none", "--config=configs/sudoku.py"])
    assert code_of(launch_eval.main) == 2 and "--rescore needs --out too" in capsys.readouterr().err


def test_a_task_that_cannot_grade_or_read_is_named(rescore, tmp_path):
    head = "import numpy as np\nfrom gdsd_jax.tasks import Grades, Task\n"
    turns = "def ask(record):\n    return [{'role': 'user', 'content': record['q']}]\n"
    grade = (
        "def grade(records, texts):\n    right = np.array([t == r['a'] for r, t in "
        "zip(records, texts)], bool)\n    return Grades(right * 1.0, right, {})\n"
    )
    silent, blind = tmp_path / "silent.py", tmp_path / "blind.py"
    silent.write_text(head + turns + "def make(settings):\n    return Task([], None, ask, None)\n")
    blind.write_text(
        head + turns + grade + "def make(settings):\n    return Task([], None, ask, grade)\n"
    )
    config = "configs/coding.py:tiny,task="
    code, _, said = rescore([{"q": "", "text": ""}], f"{config}{silent}")
    assert code == 2 and "grades nothing" in said
    code, _, said = rescore([{"q": "", "text": ""}], f"{config}{blind}")
    assert code == 2 and "this task reads no rows" in said
    # a file of ours holds its records
    given = own_file([{"problem": 0, "question": "q", "completion": "yes"}])
    given["manifest"]["settings"]["task"] = "elsewhere/blind.py"
    given["prompts"] = [{"messages": [], "record": {"q": "?", "a": "yes"}}]
    code, found, said = rescore(given, f"{config}{blind}")
    assert code == 0 and found["metrics"]["correct"] == 1, said
    # which passes over the reward, and says so
    for key in ("weights.x=2", "variant=released"):
        code, _, said = rescore(given, f"{config}{blind},reward.{key}")
        assert code == 2 and said.count("\n") == 1, said
        assert f"reward.{key}: task={blind} does not read settings.reward" in said
    reading = "def make(settings):\n    settings.reward\n"
    blind.write_text(blind.read_text().replace("def make(settings):\n", reading))
    assert rescore(given, f"{config}{blind},reward.weights.x=2")[0] == 0
    # a fault of the user's own task is shown as one
    given["prompts"][0]["record"] = {"q": "?"}
    assert "record has no 'a'" in rescore(given, f"{config}{blind}")[2]


def test_rows_need_no_model_of_a_config():
    """`rescore` itself, on a recipe that requires weights."""
    chosen = settings.parse(math_config.get_config("llada"))
    assert chosen.require_init and chosen.init_from is None
    with pytest.raises(ValueError, match="not a readable file"):
        rescoring.rescore(chosen, "none.json")
    chosen = settings.parse(coding.get_config("tiny"))
    with pytest.raises(ValueError, match="give a local path or gs://"):
        rescoring.rescore(chosen, "http://host/rows.json")
