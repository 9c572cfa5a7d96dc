"""The Countdown task: problems and their split, a user's files, arithmetic, both rules of
grading."""

import ast
import collections
from fractions import Fraction
import itertools
import json
import random
import re

import pytest

from gdsd_jax.tasks import RewardConfig, TaskSettings, countdown, graded, parts_of
from gdsd_jax.tasks.countdown import OPTIONS, expressions, grading, problems

RECORD = {"numbers": [3, 4, 8, 8], "target": 24, "solution": ""}
SMALL = problems.Range((3,), largest=9, largest_target=20)


@pytest.fixture(scope="module")
def splits():
    return problems.generate(problems.Range())


def grades_of(text, variant="mended", record=RECORD, **weights):
    """(correct, reward)"""
    found = grading.grade([record], [text], RewardConfig(variant, weights))
    return bool(found.solved_N[0]), round(float(found.reward_N[0]), 6)


# ---------------------------------------------------------------- problems


def test_generated_problems_are_reached_by_their_solutions(splits):
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 4096, "heldout": 512}
    rows = splits["train"] + splits["heldout"]
    assert len({(tuple(sorted(row.numbers)), row.target) for row in rows}) == len(rows)
    counts = collections.Counter(len(row.numbers) for row in rows)
    assert set(counts) == {3, 4} and min(counts.values()) > 1000
    for row in rows:
        assert 1 <= row.target <= 100 and 1 <= min(row.numbers) and max(row.numbers) <= 99
        assert sorted(map(int, re.findall("[0-9]+", row.solution))) == sorted(row.numbers)
        value = eval(re.sub("([0-9]+)", r"Fraction(\1)", row.solution), {"Fraction": Fraction})
        assert value == row.target


def test_all_targets_of_the_same_numbers_are_in_one_split(splits):
    numbers = {name: {tuple(sorted(row.numbers)) for row in rows} for name, rows in splits.items()}
    assert not numbers["train"] & numbers["heldout"]
    for three in itertools.permutations((7, 25, 3)):
        assert problems.split_of(three) == problems.split_of((3, 7, 25))


def test_a_small_range_ends_by_itself():
    found = problems.generate(SMALL)
    assert 300 < len(found["train"]) < 4096 and 20 < len(found["heldout"]) < 512
    assert max(max(row.numbers) for rows in found.values() for row in rows) == 9
    assert problems.generate(SMALL) == found


@pytest.mark.parametrize("counts, largest", [((3, 4), 99), ((2, 3), 12)])
def test_each_count_is_as_often_from_the_first_on(counts, largest):
    # 3 numbers reach a target more often than 4, and sets of 2 numbers run out before those of 3
    for rows in problems.generate(problems.Range(counts, largest)).values():
        for first in (64, len(rows)):
            made = [len(row.numbers) for row in rows[:first]]
            assert abs(made.count(counts[0]) - made.count(counts[1])) <= 1


def test_targets_are_made_with_the_signs_that_are_asked_for():
    found = problems.generate(problems.Range((3,), largest=9, largest_target=20, signs="+-"))
    signs = {sign for rows in found.values() for row in rows for sign in row.solution}
    assert signs - set("0123456789()") == {"+", "-"}


def test_generated_problems_are_built_once_and_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(problems, "NUM_TRAIN", 20)
    monkeypatch.setattr(problems, "NUM_HELDOUT", 5)
    options = OPTIONS(counts=(3,), largest=9, largest_target=20)
    settings = TaskSettings(data_dir=str(tmp_path), options=options)
    task = countdown.make(settings)
    made = problems.generate(SMALL)
    for records, name in ((task.train, "train"), (task.heldout, "heldout")):
        rows = [
            {"numbers": list(row.numbers), "target": row.target, "solution": row.solution}
            for row in made[name]
        ]
        assert records == rows
    assert [path.name for path in tmp_path.iterdir()] == ["countdown-1.1.0-3-9-20-asmd"]
    assert json.loads(json.dumps(task.train)) == task.train  # no arrays, no NumPy numbers
    monkeypatch.setattr(problems, "generate", None)  # not called again
    assert countdown.make(settings).train == task.train


@pytest.mark.parametrize(
    "options, said",
    [
        ({"counts": ()}, "counts"),
        ({"counts": (1, 3)}, "numbers of 2"),
        ({"counts": (7,)}, "counts"),
        ({"largest": 1}, "largest=1"),
        ({"largest_target": 0}, "largest_target=0"),
        ({"signs": ""}, "signs=''"),
        ({"signs": "+%"}, "signs='\\+%'"),
    ],
)
def test_impossible_options_are_refused(options, said):
    with pytest.raises(ValueError, match=rf"options\..*{said}"):
        OPTIONS(**options)


# ---------------------------------------------------------------- arithmetic


@pytest.mark.parametrize(
    "text, value",
    [
        ("8/(3-8/3)", 24),
        (" 1 + 2 ", 3),
        ("-(3-5)*+2", 4),
        ("1/3+1/3+1/3", 1),
        ("2**3", None),
        ("7//2", None),
        ("0.5*4", None),
        ("1/0", None),
        ("1/(2-2)", None),
        ("(1)(2)", None),
        ("1 2", None),
        ("007", None),
        ("()", None),
        ("", None),
        ("1,2", None),
        ("1\n+2", None),
        ("...", None),
        ("٣+1", None),
        ("1" * 201, None),
        ("(" * 99 + "1" + ")" * 99, 1),
        ("(" * 100 + "1" + ")" * 100, None),
        ("-" * 199 + "1", -1),
    ],
)
def test_values(text, value):
    found = expressions.evaluate(text)
    assert (None if found is None else found.value) == value


@pytest.mark.parametrize(
    "text, value",
    [
        ("2**3", 8),
        ("2**-1", Fraction(1, 2)),
        ("7//2", 3),
        ("0.5*4", 2),
        ("99**99**99", None),
        ("((9**99)**99)**99", None),
        ("0**-1", None),
        ("4**(1/2)", None),
        ("(1)(2)", None),
        ("٣+1", None),
    ],
)
def test_values_of_the_released_rules(text, value):
    found = expressions.evaluate(text, released=True)
    assert (None if found is None else found.value) == value


def test_trees_are_written_with_the_brackets_they_need():
    rng = random.Random(0)
    for _ in range(500):
        numbers = [rng.randint(1, 20) for _ in range(rng.randint(2, 6))]
        tree = problems.random_tree(numbers, rng)
        text, value = expressions.text_of(tree), expressions.value_of_tree(tree)
        found = expressions.evaluate(text)
        assert (None if found is None else found.value) == value
        if value is None:
            continue
        assert sorted(found.numbers) == sorted(numbers)
        for place in (hit.start() for hit in re.finditer(r"\(", text)):
            closing = matching(text, place)
            fewer = text[:place] + text[place + 1 : closing] + text[closing + 1 :]
            assert ast.dump(ast.parse(fewer)) != ast.dump(ast.parse(text))


def matching(text, place):
    """Where the bracket at `place` is closed."""
    depth = 0
    for end in range(place, len(text)):
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        if depth == 0:
            return end


def test_solving():
    assert expressions.text_of(expressions.solve((8, 3, 8, 3), 24)) in ("8/(3-8/3)",)
    assert expressions.solve((1, 1, 1), 7) is None
    for row in problems.generate(SMALL)["heldout"][:30]:
        found = expressions.evaluate(
            expressions.text_of(expressions.solve(row.numbers, row.target))
        )
        assert found.value == row.target and sorted(found.numbers) == sorted(row.numbers)


# ---------------------------------------------------------------- a user's files


@pytest.mark.parametrize(
    "row",
    [
        {"numbers": [30, 100, 93], "target": 23},
        {"nums": [30, 100, 93], "target": 23},
        {"input": "30,100,93", "output": "23"},
        {"question": "...", "generations": "...", "ground_truth": [[30, 100, 93], 23]},
    ],
)
def test_layouts_of_rows(row):
    assert countdown.read(row) == {"numbers": [30, 100, 93], "target": 23, "solution": ""}


@pytest.mark.parametrize(
    "row, said",
    [
        ([], "not a JSON object"),
        ({"target": 3}, "numbers is missing: give 2 to 6 whole numbers"),
        ({"numbers": "1,2", "target": 3}, "numbers is not a non-empty list"),
        ({"numbers": [1, 2.5], "target": 3}, r"numbers\[1\] is not a whole number"),
        ({"numbers": [1, True], "target": 3}, r"numbers\[1\]"),
        ({"numbers": [1], "target": 3}, "1 entries"),
        ({"numbers": [1] * 7, "target": 3}, "7 entries"),
        ({"numbers": [-1, 2], "target": 3}, "numbers of 0"),
        ({"numbers": [1, 2], "target": "3"}, "target is not a whole number"),
        ({"numbers": [1, 2], "target": 10**10}, "target=10000000000"),
        ({"numbers": [1, 2], "target": 3, "solution": "1*2"}, "does not reach 3"),
        ({"input": "1,x", "output": "3"}, r"numbers\[1\]"),
        ({"ground_truth": [1, 2, 3]}, "numbers is missing"),
    ],
)
def test_bad_rows_are_refused_in_one_line(row, said):
    with pytest.raises(ValueError, match=said) as error:
        countdown.read(row)
    assert "\n" not in str(error.value)


def make(path, **settings):
    return countdown.make(TaskSettings(data_file=str(path), **settings))


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_alone_is_split_by_numbers_and_a_pair_is_compared(tmp_path, splits):
    rows = splits["train"][:30] + splits["heldout"][:10]
    rows = [{"nums": row.numbers, "target": row.target} for row in rows]
    path = write(tmp_path / "all.jsonl", rows)
    task = make(path)
    assert (len(task.train), len(task.heldout)) == (30, 10)
    assert task.notes == (f"{path}: held out by their numbers: 10 problems",)
    turned = {"nums": list(reversed(rows[0]["nums"])), "target": 1}
    other = write(tmp_path / "other.jsonl", [turned, {"nums": [1, 1], "target": 2}])
    task = make(path, heldout_file=str(other))
    assert len(task.train) == 40
    assert task.notes == (f"{other}: 1 of 2 problems have numbers that are trained on",)


# ---------------------------------------------------------------- prompts and answers


def test_prompts(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"numbers": [3, 4, 8, 8], "target": 24}])
    names = ("bare", "full", "released")
    turns = {prompt: make(path, prompt=prompt).messages(RECORD) for prompt in names}
    assert turns["bare"] == [{"role": "user", "content": "3 4 8 8 = 24"}]
    assert [turn["role"] for turn in turns["full"]] == ["system", "user"]
    assert [turn["role"] for turn in turns["released"]] == ["user", "assistant"]
    assert turns["released"][1]["content"] == "<reasoning>"
    assert "[3, 4, 8, 8]" in turns["released"][0]["content"]
    for prompt in ("full", "released"):
        said = " ".join(turn["content"] for turn in turns[prompt])
        assert "24" in said and "<answer>" in said
    assert make(path).messages(RECORD) == turns["full"]
    assert make(path, from_nothing=True).messages(RECORD) == turns["bare"]


@pytest.mark.parametrize("prompt", ["bare", "full", "released"])
@pytest.mark.parametrize("variant", ["mended", "released"])
def test_answers_are_right_or_wrong_by_seed(tmp_path, splits, prompt, variant):
    rows = [{"nums": row.numbers, "target": row.target} for row in splits["train"][:200]]
    path = write(tmp_path / "a.jsonl", rows)
    task = make(path, prompt=prompt, reward=RewardConfig(variant), noise=0.5)
    begin = "<reasoning>" if prompt == "released" else ""
    best = [task.answer(record, None) for record in task.train]
    assert all(text.startswith(begin) for text in best)
    found = graded(task, task.train, best, parts_of(task))
    assert found.solved_N.all() and (found.reward_N == 1).all()
    drawn = [task.answer(record, "7") for record in task.train]
    assert drawn == [task.answer(record, "7") for record in task.train]
    assert drawn != [task.answer(record, "8") for record in task.train]
    found = graded(task, task.train, drawn, parts_of(task))
    assert 70 < found.solved_N.sum() < 130 and found.parts["format"].all()


def test_a_problem_that_nothing_reaches_has_no_answer(tmp_path):
    task = make(write(tmp_path / "a.jsonl", [{"nums": [1, 1], "target": 7}]))
    with pytest.raises(ValueError, match=r"numbers=\[1, 1\], target=7: nothing reaches it"):
        task.answer(task.train[0], None)
