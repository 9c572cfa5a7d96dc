"""Rows that no reader takes."""

import json

from tests.bad_inputs.case import Case, nested

MAIN = "--workdir=DIR/work"
CODE = {"question": "q", "test_cases": ["assert f() == 1"], "solution": "def f():\n    return 1"}
CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
SUDOKU = {"puzzle": "1234341221434320", "solution": "1234341221434321"}
COUNTDOWN = {"numbers": [1, 2, 3], "target": 6, "solution": "1+2+3"}
PROMPTS = {"question": "q", "domain": "math", "answer": "3"}
EVERYDAY = {"question": "q", "answers": ["a"]}
WORDS = {"prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
GSM = {"question": "q", "answer": "so #### 3"}
SURROGATE = "lone surrogate"

# task -> (a row that is right, {field: (values that are wrong, part of the line)})
TASKS = {
    "coding": CODE,
    "chats": CHAT,
    "sudoku": SUDOKU,
    "countdown": COUNTDOWN,
    "prompts": PROMPTS,
    "everyday": EVERYDAY,
    "instructions": WORDS,
    "gsm8k": GSM,
}


def line(row, **changes) -> str:
    """A row as a line of JSONL."""
    return json.dumps(row | changes) + "\n"


def without(row, field: str) -> str:
    return line({name: value for name, value in row.items() if name != field})


def of_task(task: str, text, *said: str, name: str = "rows.jsonl") -> Case:
    """A run of the task on a file."""
    command = (
        f"main --config=configs/coding.py:tiny,task={task},sft.noise=0,data_dir=DATA,"
        f"data_file=DIR/{name} {MAIN}"
    )
    return Case(command, (*said,), {name: text})


RUN = f"main {{}},data_file=DIR/rows.jsonl {MAIN}"
SFT = RUN.format("--config=configs/sft.py:tiny")
CASES = [
    Case(
        RUN.format("--config=configs/coding.py:tiny,data_dir=DATA"),
        ("sft.noise needs generated records: set sft.noise=0",),
        {"rows.jsonl": line(CODE) * 4},
    ),
    Case(
        RUN.format("--config=configs/coding.py:tiny,data_dir=DATA,sft.noise=0"),
        ("no solution to the question 'q': add a solution field",),
        {"rows.jsonl": without(CODE, "solution") * 4},
    ),
    Case(
        RUN.format("--config=configs/coding.py:tiny,data_dir=DATA,columns.word=x"),
        ("columns.word: no such field, choose one of question",),
        {"rows.jsonl": line(CODE)},
    ),
    Case(
        RUN.format("--config=configs/coding.py:tiny,data_dir=DATA,columns.question=x"),
        ("rows.jsonl:1: question is missing", "columns: question is read from x"),
        {"rows.jsonl": line(CODE)},
    ),
    Case(
        SFT,
        ("rows.jsonl:1: messages is not a list of",),
        {"rows.jsonl": line(CHAT, messages=[3])},
    ),
]
for task, row in TASKS.items():
    first = next(iter(row))
    CASES += [
        of_task(task, without(row, first), "rows.jsonl:1: ", f"{first} is missing: "),
        of_task(task, line(row) + "[1]\n", "rows.jsonl:2: not a JSON object: "),
        of_task(task, line(row) + '{"a"\n', "rows.jsonl:2: not JSON (", "write one object a line"),
        of_task(task, line(row, **{first: 3}), "rows.jsonl:1: ", first),
        of_task(task, line(row, **{first: {"a": 1}}), "rows.jsonl:1: ", first),
        of_task(task, line(row, **{first: None}), "rows.jsonl:1: ", first),
        of_task(task, line(row, **{first: False}), "rows.jsonl:1: ", first),
        of_task(task, line(row, **{first: ""}), "rows.jsonl:1: ", first),
        of_task(task, line(row, **{first: []}), "rows.jsonl:1: ", first),
        of_task(task, line(row, **{first: "\ud800"}), "rows.jsonl:1: ", first),
        of_task(
            task,
            line(row)[:-2] + f', "unused": {nested(100_000)}}}\n',
            "rows.jsonl:1: not JSON (nested more than 100 deep)",
        ),
    ]
