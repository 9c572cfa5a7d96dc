"""Prompts of a user's file: read or refused by line, asked by domain, graded by the last answer."""

import json
import re

import numpy as np
import pytest

from gdsd_jax import sandbox
from gdsd_jax.tasks import RewardConfig, TaskSettings, graded, parts_of, prompts


def write(path, *rows):
    path.write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    return str(path)


def make(path, **settings):
    return prompts.make(TaskSettings(data_file=str(path), **settings))


def test_rows_are_read_and_asked_by_domain(tmp_path):
    rows = [
        {"question": "1+1?", "domain": "math", "answer": 2},
        {"question": "Hi", "domain": "chat"},
    ]
    task = make(write(tmp_path / "rows.jsonl", *rows))
    math, chat = task.train
    assert math == {"question": "1+1?", "domain": "math", "answer": "2"} and chat["answer"] == ""
    assert task.messages(chat) == [{"role": "user", "content": "Hi"}]
    (turn,) = task.messages(math)
    assert turn["content"].startswith("1+1?\n") and turn["content"].endswith("\\boxed{}.")
    bare = make(tmp_path / "rows.jsonl", prompt="bare")
    assert bare.messages(math) == [{"role": "user", "content": "1+1?"}]


@pytest.mark.parametrize(
    "row, word",
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"domain": "math"}', "question"),
        ('{"question": " ", "domain": "math"}', "question"),
        ('{"question": "x", "domain": ["math"]}', "domain is not a string"),
        ('{"question": "x", "solution": 3}', "solution is not a string"),
        ('{"question": "x", "domain": "math", "answer": [1]}', "answer"),
        ('{"question": "x", "domain": "math", "answer": true}', "answer"),
    ],
)
def test_the_first_bad_row_is_named(tmp_path, row, word):
    (tmp_path / "rows.jsonl").write_text('{"question": "x", "domain": "code"}\n' + row)
    with pytest.raises(ValueError, match=rf"rows.jsonl:2: .*{word}") as error:
        make(tmp_path / "rows.jsonl")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no rows"):
        (tmp_path / "rows.jsonl").write_text("\n")
        make(tmp_path / "rows.jsonl")


def test_a_domain_that_adds_nothing_is_told(tmp_path):
    """Rows without one are chats."""
    rows = [{"question": "x", "domain": "maths"}, {"question": "x"}, {"question": "x"}]
    task = make(write(tmp_path / "rows.jsonl", *rows))
    assert [record["domain"] for record in task.train] == ["maths", "chat", "chat"]
    assert [task.messages(record)[0]["content"] for record in task.train] == ["x"] * 3
    (note,) = task.notes
    assert note.startswith("1 of 3 questions are asked as they stand: their domain (maths) is none")


@pytest.mark.parametrize(
    "given, answer", [(0, "0"), (1.5, "1.5"), (None, ""), ("", ""), ("C", "C")]
)
def test_answers_become_text(tmp_path, given, answer):
    row = {"question": "x", "domain": "math", "answer": given}
    assert make(write(tmp_path / "rows.jsonl", row)).train[0]["answer"] == answer


@pytest.mark.parametrize("blank", ["", " ", "\n", "$", "$ $"])
def test_nothing_is_right_where_the_answer_is_blank(tmp_path, blank):
    """A text without an answer had the same one."""
    row = {"question": "q", "domain": "math", "answer": blank}
    task = make(write(tmp_path / "rows.jsonl", row))
    found = task.grade(task.train * 3, ["", "\\boxed{}", "\\boxed{$}"])
    assert not found.solved_N.any() and not found.judged_N.any()


def test_files_and_columns(tmp_path):
    row = {"prompt": "Hi", "kind": "chat", "question": "not this"}
    path = write(tmp_path / "a.jsonl", row)
    columns = {"question": "prompt", "domain": "kind"}
    task = make(path, heldout_file=path, columns=columns)
    assert task.train == task.heldout == [{"question": "Hi", "domain": "chat", "answer": ""}]
    assert make(path, columns=columns).heldout is None
    with pytest.raises(ValueError, match=r"columns\.text: .*question, messages, answer"):
        make(path, columns={"text": "prompt"})


def test_the_last_answer_counts(tmp_path):
    texts = [
        "\\boxed{1} no, \\boxed{ \\frac{1}{2} }.",
        "The answer is B.",
        '{"answer": "C"}',
        "\\boxed{2",
        "who knows",
    ]
    records = [{"answer": answer} for answer in ("$\\frac{1}{2}$", "B", "D", "2", "")]
    task = make(write(tmp_path / "rows.jsonl", {"question": "x", "domain": "math"}))
    found = graded(task, records, texts, parts_of(task))
    assert list(found.parts) == ["format", "tests"] and task.score == "tests"
    np.testing.assert_array_equal(found.parts["tests"], [1, 1, 0, 0, 0])
    np.testing.assert_array_equal(found.parts["format"], [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(found.reward_N, [2, 2, 1, 0, 0])
    np.testing.assert_array_equal(found.solved_N, [True, True, False, False, False])


CHOICES = r"""
Answer: C | **answer**: C | **Answer:** C | 'answer': 'C' | answer: (C) | {"Answer": "C"}
"answer": "C" | The answer is C because it is so. | the answer is option C | answer: **C**
"answer": "C) Paris" | The correct answer is: C. | ANSWER: C | Answer: $C$ | Answer: \text{C}
\boxed{Option C: Paris} | \boxed{The answer is C. Paris}
\boxed{C. 5} | \boxed{\text{C) Mitochondria}} | \boxed{\textbf{(C)}\ 5}
\boxed{5\,m/s} "answer": "C"
\boxed{C} | \boxed{\text{C}} | \boxed{(C)} | \boxed{C.} | \boxed{$C$} | answer: B, answer: C"""


def test_a_choice_is_read_in_each_of_its_spellings(tmp_path):
    texts = [text.strip() for text in re.split(r" \| |\n", CHOICES) if text.strip()]
    row = {"question": "x", "domain": "science", "answer": "C"}
    rows = (row, row | {"answer": "(C)"}, row | {"answer": "D"})
    task = make(write(tmp_path / "rows.jsonl", *rows))
    for record, right in zip(task.train, (True, True, False)):
        found = graded(task, [record] * len(texts), texts, parts_of(task))
        assert dict(zip(texts, found.solved_N.tolist())) == dict.fromkeys(texts, right)
        assert found.parts["format"].all()


def test_what_is_no_choice_is_none(tmp_path):
    texts = ["answer is I guess", "Answer: I'm lost", "the answer is long", "answer: CC", "C", ""]
    assert [prompts.final_answer(text) for text in texts] == [""] * len(texts)
    assert prompts.final_answer("The answer is I.") == "I"
    assert prompts.final_answer("answer" + " " * 100_000 + "answer" * 20_000) == ""


@pytest.mark.parametrize(
    "gold, answer, right",
    [
        ("12", "12", True),
        ("12", "1 2", False),
        ("12", "1  2", False),
        ("1 2", "1  2", True),
        ("1 2", "1 2", True),
        ("x + 1", "x+1", True),
        ("New York", "NewYork", True),
        ("$ 5 $", "5", True),
        ("C", "c", False),
        ("C", "C or D", False),
        ("C", "(C) 5 or (D) 6", False),
        ("C", "(C) + 2", False),
    ],
)
def test_spaces_keep_numbers_apart(gold, answer, right, tmp_path):
    row = {"question": "x", "domain": "science", "answer": gold}
    task = make(write(tmp_path / "rows.jsonl", row))
    found = graded(task, task.train, [f"\\boxed{{{answer}}}"])
    assert found.solved_N.tolist() == [right]


def test_mathematics_is_compared_as_mathematics_and_the_rest_as_text(tmp_path):
    row = {"question": "x", "domain": "math", "answer": "1/2"}
    task = make(write(tmp_path / "rows.jsonl", row, row | {"domain": "science"}))
    texts = [
        "\\boxed{\\dfrac{1}{2}}",
        "\\boxed{2^{-1}}",
        "\\boxed{0.50 meters}",
        "\\boxed{1/3}",
        "\\boxed{}",
    ]
    for record, right in zip(task.train, ([1, 1, 1, 0, 0], [0] * 5)):
        found = graded(task, [record] * len(texts), texts, parts_of(task))
        np.testing.assert_array_equal(found.parts["tests"], right)
        assert found.judged_N.all()
    task.close()


def test_there_is_nothing_to_build_to_imitate_or_to_run(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="data_file"):
        prompts.make(TaskSettings())

    def refuse(*_, **__):
        raise AssertionError("a sandbox was opened")

    monkeypatch.setattr(sandbox.pool, "Sandbox", refuse)
    monkeypatch.setenv("PATH", "/nonexistent")
    task = make(write(tmp_path / "rows.jsonl", {"question": "x", "domain": "math", "answer": "1"}))
    assert task.answer is None and task.tokenizer is None
    assert graded(task, task.train, ["\\boxed{1}"]).solved_N.tolist() == [True]
    task.close()


def test_weights_count_and_another_rule_is_refused(tmp_path):
    path = write(tmp_path / "rows.jsonl", {"question": "x", "domain": "math", "answer": "1"})
    task = make(path, reward=RewardConfig(weights={"tests": 2.0, "format": 0.5}))
    texts = ["\\boxed{1}", "\\boxed{2}", "who knows"]
    found = graded(task, list(task.train) * 3, texts, parts_of(task))
    np.testing.assert_array_equal(found.reward_N, [2.5, 0.5, 0])
    task.close()
    with pytest.raises(ValueError, match="^reward.weights.boxed=1: there is no such part"):
        parts_of(make(path, reward=RewardConfig(weights={"boxed": 1.0})))
    with pytest.raises(ValueError, match="reward.variant=released: the task prompts") as error:
        make(path, reward=RewardConfig("released"))
    assert "\n" not in str(error.value)
