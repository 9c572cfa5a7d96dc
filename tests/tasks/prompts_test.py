"""Prompts of a user's file: read or refused by line, dressed by domain, scored by their last
answer."""

import json

import numpy as np
import pytest

from gdsd_jax.tasks import prompts


def test_rows_are_read_and_dressed(tmp_path):
    rows = [
        {"question": "1+1?", "domain": "math", "answer": 2},
        {"question": "Hi", "domain": "chat"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    math, chat = prompts.read_jsonl(tmp_path / "rows.jsonl")
    assert math == {"question": "1+1?", "domain": "math", "answer": "2"} and chat["answer"] == ""
    assert prompts.messages(chat) == [{"role": "user", "content": "Hi"}]
    (turn,) = prompts.messages(math)
    assert turn["content"].startswith("1+1?\n") and turn["content"].endswith("\\boxed{}.")


@pytest.mark.parametrize(
    "row, word",
    [
        ("{", "not JSON"),
        ('{"domain": "math"}', "question"),
        ('{"question": "x", "domain": "maths"}', "math, science"),
    ],
)
def test_the_first_bad_row_is_named(tmp_path, row, word):
    (tmp_path / "rows.jsonl").write_text('{"question": "x", "domain": "code"}\n' + row)
    with pytest.raises(ValueError, match=rf"rows.jsonl:2: .*{word}"):
        prompts.read_jsonl(tmp_path / "rows.jsonl")
    with pytest.raises(ValueError, match="no rows"):
        (tmp_path / "rows.jsonl").write_text("\n")
        prompts.read_jsonl(tmp_path / "rows.jsonl")


def test_the_last_answer_counts():
    texts = [
        "\\boxed{1} no, \\boxed{ \\frac{1}{2} }.",
        "The answer is B.",
        '{"answer": "C"}',
        "\\boxed{2",
        "who knows",
    ]
    records = [{"answer": answer} for answer in ("$\\frac{1}{2}$", "B", "D", "2", "")]
    found = prompts.score(records, texts, sandbox=None)
    np.testing.assert_array_equal(found["tests"], [1, 1, 0, 0, 0])
    np.testing.assert_array_equal(found["format"], [1, 1, 1, 0, 0])


def test_there_is_nothing_to_build_or_to_imitate(tmp_path):
    with pytest.raises(ValueError, match="data_file"):
        prompts.build(tmp_path)
    with pytest.raises(ValueError, match="sft.steps=0"):
        prompts.completion({})
