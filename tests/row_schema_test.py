"""One schema of rows: every consumer reads the same file, and reads the same in it."""

import json
from types import SimpleNamespace

import pytest

from configs import coding as coding_config
from gdsd_jax import data, row_schema, rows, settings
from gdsd_jax.evaluation import rescoring
from gdsd_jax.tasks import (
    TASKS,
    TaskSettings,
    chats,
    coding,
    everyday,
    graded,
    parts_of,
    prompts,
)
from gdsd_jax.tasks.mathematics import competition, gsm8k
from launch import generate

PROGRAM = "def f(x):\n    return 3 * x"
REST = {
    "answer": 6,
    "test_cases": ["assert f(2) == 6"],
    "domain": "math",
    "solution": PROGRAM,
    "id": "a row's own",
}
ASKED = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Write f(x), three times x."},
]
BEGIN = {"role": "assistant", "content": "```python\n"}
FILE = [
    {"question": "Write f(x), three times x.", **REST},
    {"messages": ASKED, **REST},
    {"messages": [*ASKED, BEGIN], **REST, "solution": f"```python\n{PROGRAM}\n```"},
]
TEXT = f"```python\n{PROGRAM}\n``` The answer is \\boxed{{6}}."
NAMES = ("chats", "coding", "everyday", "gsm8k", "math", "prompts")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in FILE))
    return str(path)


@pytest.fixture
def task(file, request):
    found = TASKS[request.param](TaskSettings(data_file=file, heldout_file=file))
    yield found
    found.close()


@pytest.mark.parametrize("task", NAMES, indirect=True)
def test_every_task_takes_the_same_file(task):
    """Questions in its own words, messages as they stand; a last turn of the assistant begins the
    answer, in training and in evaluations."""
    assert len(task.train) == len(task.heldout) == len(FILE)
    question, turns, begun = (task.messages(record) for record in task.train)
    assert "Write f(x), three times x." in question[-1]["content"]
    assert turns == ASKED and begun == [*ASKED, BEGIN]
    assert [row_schema.begin_of(one) for one in (question, turns, begun)] == [
        "",
        "",
        BEGIN["content"],
    ]
    if task.read is not chats.read:  # which asks no model, it learns
        (note,) = [note for note in task.notes if "end with a turn of the assistant" in note]
        assert note.startswith("2 of 6 rows ")  # one of the file, which is the held-out one too


@pytest.mark.parametrize("task", NAMES, indirect=True)
def test_every_task_grades_and_learns_from_it(task):
    """What is graded by answer or test_cases is right; what is learnt holds the solution, and goes
    on from the begin."""
    if task.grade is not None:
        parts = parts_of(task)
        found = graded(task, task.train, [TEXT] * len(FILE), parts)
        assert found.solved_N.all() and found.judged_N.all()
    if task.answer is None:
        assert task.messages(task.train[0])[0]["content"] == "Write f(x), three times x."
        return
    for record in task.train[:2]:
        assert PROGRAM in data.answer_of(task, record, None)
    if task.read in (chats.read, prompts.read):  # others put it into words of their own
        assert data.answer_of(task, task.train[2], None) == f"{PROGRAM}\n```"


def test_domains_cap_the_lengths_of_all(file):
    for name in set(NAMES) - {"chats"}:
        found = TASKS[name](TaskSettings(data_file=file))
        caps = data.caps_of(found.train, [0, 1, 2], 64, {"math": 7})
        assert caps.tolist() == [7] * 3, name
        found.close()


def test_generating_takes_it_too(file):
    tokenizer = SimpleNamespace(
        apply_chat=lambda turns: list(json.dumps(turns).encode()), encode=lambda text: [1]
    )
    args = SimpleNamespace(
        prompt=None, prompts=file, raw=False, prompt_length=10_000, too_long="error"
    )
    question, turns, begun = generate.read_prompts(args, tokenizer)
    asked = [json.loads(bytes(row.ids)) for row in (question, turns, begun)]
    assert asked == [[{"role": "user", "content": ASKED[1]["content"]}], ASKED, [*ASKED, BEGIN]]
    assert [row.begin for row in (question, turns, begun)] == ["", "", BEGIN["content"]]
    assert [row.entries for row in (question, turns, begun)] == FILE


@pytest.mark.parametrize("name", ["coding", "gsm8k", "math", "prompts"])
def test_answers_of_generate_are_graded(name, tmp_path):
    """Its lines are rows of the schema with "text", the begin of the answer in it."""
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row | {"text": TEXT}) + "\n" for row in FILE))
    chosen = settings.parse(coding_config.get_config(f"llada,task={name}"))
    _, problems, items = rescoring.rescore(chosen, path)
    assert [item["grades"]["solved"] for item in items] == [1.0] * 3
    assert problems[2]["messages"] == [*ASKED, BEGIN]


def test_questions_and_messages_have_known_other_names():
    """A row with both asks its messages; null is absent."""
    turns = [{"from": "human", "value": "Hi"}]
    ours = [{"role": "user", "content": "Hi"}]
    for row in (
        {"prompt": "Hi"},
        {"question": "Hi", "messages": None},
        {"question": None, "prompt": "Hi"},
        {"conversations": turns},
        {"messages": turns},
        {"messages": ours, "question": "a title"},
        {"messages": ours, "prompt": 3},
    ):
        found = row_schema.read(row)
        assert (found.question, found.turns) == ("Hi", ours), row
        assert found.kept == ({} if found.messages is None else {"messages": ours})


@pytest.mark.parametrize(
    "row, said",
    [
        ([], 'not a JSON object: write {"question": ...}'),
        ({}, "question is missing: give what is asked in words, or messages"),
        ({"question": None}, "question is missing"),
        ({"question": " "}, "question is not a non-empty string"),
        ({"prompt": 3}, "prompt is not a non-empty string"),
        ({"messages": {}}, "messages is not a list of"),
        ({"messages": []}, "messages is not a list of"),
        ({"messages": [{"role": "tool", "content": "3"}]}, "messages[0] has role='tool': choose"),
        ({"messages": ASKED[:1]}, "messages must end with a turn of the user, or"),
        ({"messages": [BEGIN]}, "messages must end with a turn of the user, or"),
        ({"messages": [*ASKED, BEGIN, BEGIN]}, "messages must end with a turn of the user, or"),
        ({"messages": [*ASKED, BEGIN | {"content": "\n"}]}, "messages end with an empty turn"),
        ({"question": "q", "answer": [1]}, "answer is neither a string nor a number"),
        ({"question": "q", "test_cases": "x"}, "test_cases is not a non-empty list"),
        ({"question": "q", "domain": 3}, "domain is not a string"),
        ({"question": "q", "solution": 3}, "solution is not a string"),
        ({"question": "\ud800"}, "question: a lone surrogate"),
    ],
)
def test_what_is_no_row_is_refused_in_one_line(row, said):
    with pytest.raises(ValueError) as error:
        row_schema.read(row)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)
    if isinstance(row, dict) and "question" in row and not said.startswith("question"):
        assert row_schema.read(row, uses=()).question == "q"  # what is not used is not looked at


def test_a_row_without_either_is_told_what_the_task_asks_first():
    for read, name in (
        (chats.read, "messages"),
        (coding.layouts.read, "question"),
        (everyday.read, "question"),
        (gsm8k.read, "question"),
        (competition.read, "question"),
        (prompts.read, "question"),
    ):
        with pytest.raises(rows.MissingField, match=f"^{name} is missing: ") as error:
            read({"id": 3})
        assert error.value.field == name
