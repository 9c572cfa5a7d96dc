"""Everyday questions: what is trained on and what is held out, and what is right."""

import json

import numpy as np
import pytest

from gdsd_jax.tasks import TaskSettings, everyday, graded, parts_of
from gdsd_jax.tasks.task import RewardConfig


@pytest.fixture(scope="module")
def task():
    return everyday.make(TaskSettings())


def test_questions_are_many_and_different_and_the_same_every_time(task):
    questions = [record["question"] for record in task.train]
    assert len(questions) == len(set(questions)) > 2000
    assert all("{" not in question and len(question) < 100 for question in questions)
    again = everyday.make(TaskSettings(seed=7))
    assert again.train == task.train


def test_no_heldout_question_is_trained_on(task):
    heldout = [record["question"] for record in task.heldout]
    assert len(heldout) == len(set(heldout)) == 64
    assert not set(heldout) & {record["question"] for record in task.train}
    # what is asked about is not trained on either: no training question about these
    asked = ("France", "Japan", "Italy", "Germany", "Egypt", "Brazil", "spider", "lion")
    words = {word for record in task.train for word in record["question"].strip("?.").split()}
    assert not words & set(asked)


def test_twenty_facts_are_judged(task):
    facts = [record for record in task.heldout if record["answers"]]
    assert len(facts) == 20 and facts == task.heldout[:20]
    texts = [f"Well, it is {record['answers'][0].upper()}." for record in facts]
    found = graded(task, task.heldout, texts + [""] * 44, parts_of(task))
    np.testing.assert_array_equal(found.judged_N, [True] * 20 + [False] * 44)
    assert found.solved_N[:20].all() and found.reward_N[:20].all()


@pytest.mark.parametrize(
    "text, right",
    [("Paris", 1), ("It's paris!", 1), ("**Paris**", 1), ("parisian", 0), ("", 0), ("\x00", 0)],
)
def test_an_answer_stands_on_its_own(text, right, task):
    record = {"question": "?", "answers": ["London", "Paris"]}
    assert graded(task, [record], [text], parts_of(task)).parts["right"] == right


@pytest.mark.parametrize(
    "answer, texts, others",
    [
        (
            "12",
            ("12", "It is 12.", "12, or a dozen", "(12)", "x = 12", "12 - easily"),
            ("12,000", "12.5", "0.12", "-12", "1/12", "12/7", "112", "12-14"),
        ),
        ("four", ("Four.", "two plus two: four"), ("twenty-four", "four-fifths", "fourteen")),
        ("Paris", ("-Paris", "Paris, France", "Paris.It is"), ("Saint-Paris",)),
    ],
)
def test_an_answer_is_no_part_of_a_number_or_word(answer, texts, others):
    assert [everyday.holds(text, answer) for text in texts] == [True] * len(texts)
    assert [everyday.holds(text, answer) for text in others] == [False] * len(others)


def test_own_questions(tmp_path):
    rows = [{"question": "Why?"}, {"prompt": "no", "question": "Who?", "answers": ["me"]}]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    own = everyday.make(TaskSettings(data_file=str(path)))
    assert own.train == [
        {"question": "Why?", "answers": []},
        {"question": "Who?", "answers": ["me"]},
    ]
    assert own.heldout is None and own.messages(own.train[0])[0]["content"] == "Why?"
    with pytest.raises(ValueError, match="one rule of its own"):
        everyday.make(TaskSettings(reward=RewardConfig(variant="released")))


def test_an_empty_answer_is_refused():
    """Every text holds it, an empty one too."""
    for blank in ("", " "):
        with pytest.raises(ValueError, match="an entry of answers is empty"):
            everyday.read({"question": "q", "answers": ["a", blank]})
