"""The Sudoku task: grids, puzzles and their split, a user's files, and both rules of grading."""

import collections
import itertools
import json
import random
import re

import numpy as np
import pytest

from gdsd_jax.tasks import RewardConfig, TaskSettings, graded, parts_of, sudoku
from gdsd_jax.tasks.sudoku import OPTIONS, grading, problems, worked
from tests.tasks import texts

PUZZLE, SOLUTION = "1004041021000320", "1234341221434321"
RECORD = {"puzzle": PUZZLE, "solution": SOLUTION}
TWO_WAYS = "0034341200434321"  # 12 above 21, or 21 above 12


@pytest.fixture(scope="module")
def splits():
    return problems.generate((6, 10))


def points_of(text, variant="mended", record=RECORD):
    found = grading.grade([record], [text], RewardConfig(variant))
    return tuple(found.points_Nx2[0].tolist())


def reward_of(text, variant="mended", record=RECORD, **weights):
    return float(grading.grade([record], [text], RewardConfig(variant, weights)).reward_N[0])


# ---------------------------------------------------------------- problems


def test_all_grids_by_counting_rows_columns_and_boxes_another_way():
    """A backtracking search, cell by cell, finds the same 288."""
    found = []

    def fill(grid):
        if len(grid) == 16:
            found.append(grid)
            return
        row, column = divmod(len(grid), 4)
        for digit in "1234":
            seen = [
                other
                for place, other in enumerate(grid)
                if place // 4 == row
                or place % 4 == column
                or (place // 8 == row // 2 and place % 4 // 2 == column // 2)
            ]
            if digit not in seen:
                fill(grid + digit)

    fill("")
    assert len(found) == 288 and tuple(sorted(found)) == problems.grids()
    sizes = collections.Counter(map(problems.class_of, problems.grids()))
    assert len(sizes) == 12 and set(sizes.values()) == {24}
    assert set(problems.HELDOUT_CLASSES) < set(sizes)


def test_generated_puzzles_have_one_solution_and_the_stated_blanks(splits):
    assert {name: len(pairs) for name, pairs in splits.items()} == {"train": 4096, "heldout": 512}
    pairs = splits["train"] + splits["heldout"]
    assert len(set(pairs)) == len(pairs)
    blanks = collections.Counter(puzzle.count("0") for puzzle, _ in pairs)
    assert set(blanks) == {6, 7, 8, 9, 10} and min(blanks.values()) > 300
    for puzzle, solution in random.Random(0).sample(pairs, 200):
        fitting = [
            grid
            for grid in problems.grids()
            if all(given in ("0", digit) for given, digit in zip(puzzle, grid))
        ]
        assert fitting == [solution]


def test_held_out_grids_are_no_training_grids_with_their_digits_renamed(splits):
    renamings = [str.maketrans("1234", "".join(to)) for to in itertools.permutations("1234")]
    train = {solution for _, solution in splits["train"]}
    heldout = {solution for _, solution in splits["heldout"]}
    assert (len(train), len(heldout)) == (216, 72)
    assert not train & {grid.translate(renaming) for grid in heldout for renaming in renamings}


def test_the_same_puzzles_every_time(splits):
    assert problems.generate((6, 10)) == splits
    assert problems.generate((3, 3))["heldout"] != splits["heldout"]


def test_generated_puzzles_are_built_once_and_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(problems, "NUM_TRAIN", 20)
    monkeypatch.setattr(problems, "NUM_HELDOUT", 5)
    settings = TaskSettings(data_dir=str(tmp_path), options=OPTIONS(blanks=(8, 8)))
    task = sudoku.make(settings)
    pairs = problems.generate((8, 8))
    for records, name in ((task.train, "train"), (task.heldout, "heldout")):
        assert [(record["puzzle"], record["solution"]) for record in records] == pairs[name]
    assert all(record["puzzle"].count("0") == 8 for record in task.train)
    assert [path.name for path in tmp_path.iterdir()] == ["sudoku-1.0.0-8-8"]
    monkeypatch.setattr(problems, "generate", None)  # not called again
    assert sudoku.make(settings).train == task.train
    with pytest.raises(ValueError, match="local folder, not gs://bucket"):
        sudoku.make(TaskSettings(data_dir="gs://bucket"))


def test_the_steps_of_an_example_end_in_its_grid(splits):
    """Every empty cell once, with the solution's digit, surely where no other fits."""
    for puzzle, solution in splits["train"][:100]:
        grid = list(puzzle)
        lines = worked.steps(puzzle, solution).split("\n")
        assert "".join(lines[-4:]) == solution and lines[-5] == "The grid:"
        for line in lines[:-5]:
            row, column, digit = map(int, re.findall("[0-9]", line))
            cell = 4 * (row - 1) + column - 1
            others = set(grid[4 * (row - 1) : 4 * row]) | set(grid[column - 1 :: 4])
            box = 8 * ((row - 1) // 2) + 2 * ((column - 1) // 2)
            others |= {grid[box + place] for place in (0, 1, 4, 5)}
            assert grid[cell] == "0" and solution[cell] == str(digit)
            assert line.endswith("is the only digit left.") == (len(set("1234") - others) == 1)
            grid[cell] = str(digit)
        assert "".join(grid) == solution
    assert "leads to a solution" in worked.steps(TWO_WAYS, "2134341212434321")


def test_examples_come_from_the_training_puzzles(tmp_path):
    path = tmp_path / "a.csv"
    pairs = problems.generate((6, 6))["train"][:6]
    path.write_text("Puzzle,Solution\n" + "".join(f"{a},{b}\n" for a, b in pairs))

    def made(shots=2, **settings):
        return make(path, heldout_file=str(path), options=OPTIONS(shots=shots), **settings)

    known = dict(pairs)
    task = made(prompt="full", seed=1)
    system, *turns, last = task.messages(RECORD)
    assert system["role"] == "system" and last == {"role": "user", "content": PUZZLE}
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2
    shown = [turn["content"] for turn in turns[::2]]
    assert len(task.train) == 4 and {one["puzzle"] for one in task.train} == known.keys() - shown
    for puzzle, said in zip(shown, turns[1::2]):
        expected = f"{worked.steps(puzzle, known[puzzle])}\n<answer>{known[puzzle]}</answer>"
        assert said["content"] == expected
    bare = made(prompt="bare", seed=1).messages(RECORD)
    assert [turn["content"] for turn in bare[1:-1:2]] == [
        f"<answer>{known[puzzle]}</answer>" for puzzle in shown
    ]
    turn, begin = made(prompt="released", seed=1).messages(RECORD)
    assert begin == {"role": "assistant", "content": "<reasoning>"}
    content = turn["content"]
    assert [content.count(f"puzzle: {puzzle}\nAnswer:\n") for puzzle in (*shown, PUZZLE)] == [1] * 3
    assert content.endswith(f"Question: Solve this Sudoku puzzle: {PUZZLE}\nAnswer:\n")
    # an example is an answer in the form that is asked for
    for example in re.findall("<reasoning>\nRow.*?</answer>", content, re.DOTALL):
        assert grading.evaluated_answer(example) in map(known.get, shown)
    assert content.count("<reasoning>\nRow") == 2
    alone, _ = made(shots=0, prompt="released").messages(RECORD)
    assert alone["content"].endswith(f"\n\nSolve this Sudoku puzzle: {PUZZLE}\n")
    with pytest.raises(ValueError, match=r"options\.shots=6: there are 6"):
        made(shots=6)
    with pytest.raises(ValueError, match=r"options\.shots=-1"):
        OPTIONS(shots=-1)


@pytest.mark.parametrize("blanks", [(0, 3), (5, 4), (8, 11)])
def test_impossible_blanks_are_refused(blanks):
    with pytest.raises(ValueError, match=r"options\.blanks=.*1 \.\. 10"):
        OPTIONS(blanks=blanks)


# ---------------------------------------------------------------- a user's files


def make(path, **settings):
    return sudoku.make(TaskSettings(data_file=str(path), **settings))


def test_csv_and_jsonl_give_the_same_records(tmp_path):
    table = tmp_path / "a.csv"
    table.write_text(f"Puzzle,Solution\n{PUZZLE},{SOLUTION}\n")
    lines = tmp_path / "a.jsonl"
    lines.write_text(json.dumps({"puzzle": PUZZLE}) + "\n")  # its only solution is found
    renamed = tmp_path / "b.csv"
    renamed.write_text(f"q,a\n{PUZZLE},{SOLUTION}\n")
    columns = {"puzzle": "q", "solution": "a"}
    for task in (make(table), make(lines), make(renamed, columns=columns)):
        assert task.train == [RECORD] and task.heldout is None


def test_rows_of_generation_files_are_read():
    row = {
        "question": f"Solve the following Sudoku puzzle: {PUZZLE}\n",
        "generations": "...",
        "ground_truth": SOLUTION,
    }
    assert sudoku.read(row) == RECORD


@pytest.mark.parametrize(
    "row, said",
    [
        ([], "not a JSON object"),
        ({}, "puzzle is missing: give 16 digits"),
        ({"puzzle": 1234}, "puzzle is not a string"),
        ({"puzzle": "12"}, "puzzle='12': give 16 digits"),
        ({"puzzle": "5" + PUZZLE[1:]}, "give 16 digits"),
        ({"puzzle": SOLUTION}, "at least one"),
        ({"puzzle": "1100" + "0" * 12}, "no solution"),
        ({"puzzle": TWO_WAYS}, "2 solutions, say which one"),
        ({"puzzle": PUZZLE, "solution": "2" * 16}, "does not solve"),
        ({"question": "Which?", "ground_truth": SOLUTION}, "puzzle='Which\\?'"),
        ({"Puzzle": PUZZLE, "Solution": 3}, "solution is not a string"),
    ],
)
def test_bad_rows_are_refused_in_one_line(row, said):
    with pytest.raises(ValueError, match=said) as error:
        sudoku.read(row)
    assert "\n" not in str(error.value)


def test_a_file_alone_is_split_by_class_and_a_pair_is_compared(tmp_path, splits):
    pairs = splits["train"][:30] + splits["heldout"][:10]
    table = tmp_path / "all.csv"
    table.write_text("".join(f"{a},{b}\n" for a, b in [("Puzzle", "Solution"), *pairs]))
    task = make(table)
    assert (len(task.train), len(task.heldout)) == (30, 10)
    grids = len({solution for _, solution in pairs})
    known = len({solution for _, solution in pairs[:30]})
    said = f"{table}: 30 of 40 puzzles, {known} of {grids} solved grids, belong to the training"
    assert task.notes[0].startswith(said)
    task = make(table, heldout_file=str(table))
    assert task.train == task.heldout and "40 of 40 puzzles have a solved grid" in task.notes[0]
    # the same grid under other names is known by its class alone
    puzzle, solution = (text.translate(str.maketrans("1234", "2341")) for text in pairs[0])
    (tmp_path / "one.csv").write_text(f"Puzzle,Solution\n{pairs[0][0]},{pairs[0][1]}\n")
    (tmp_path / "two.csv").write_text(f"Puzzle,Solution\n{puzzle},{solution}\n")
    task = make(tmp_path / "one.csv", heldout_file=str(tmp_path / "two.csv"))
    assert "0 of 1 puzzles have a solved grid that is trained on, 1 have one" in task.notes[0]


# ---------------------------------------------------------------- prompts and answers


def test_prompts(tmp_path):
    table = tmp_path / "a.csv"
    table.write_text(f"Puzzle,Solution\n{PUZZLE},{SOLUTION}\n")
    turns = {
        prompt: make(table, prompt=prompt).messages(RECORD)
        for prompt in ("bare", "full", "released")
    }
    assert turns["bare"] == [{"role": "user", "content": PUZZLE}]
    assert [turn["role"] for turn in turns["full"]] == ["system", "user"]
    assert [turn["role"] for turn in turns["released"]] == ["user", "assistant"]
    assert turns["released"][1]["content"] == "<reasoning>"
    for prompt in ("full", "released"):
        said = " ".join(turn["content"] for turn in turns[prompt])
        assert PUZZLE in said and "<answer>" in said and "16" in said
    assert make(table).messages(RECORD) == turns["full"]
    assert make(table, from_nothing=True).messages(RECORD) == turns["bare"]


@pytest.mark.parametrize("prompt", ["bare", "full", "released"])
@pytest.mark.parametrize("variant", ["mended", "released"])
def test_answers_are_right_or_wrong_by_seed(tmp_path, splits, prompt, variant):
    table = tmp_path / "a.csv"
    pairs = splits["train"][:200]
    table.write_text("".join(f"{a},{b}\n" for a, b in [("Puzzle", "Solution"), *pairs]))
    task = make(table, prompt=prompt, reward=RewardConfig(variant), noise=0.5)
    begin = "<reasoning>" if prompt == "released" else ""
    best = [task.answer(record, None) for record in task.train]
    assert all(text.startswith(begin) for text in best)
    found = graded(task, task.train, best, parts_of(task))
    assert found.solved_N.all() and (found.reward_N == 1).all()
    drawn = [task.answer(record, "7") for record in task.train]
    assert drawn == [task.answer(record, "7") for record in task.train]
    assert drawn != [task.answer(record, "8") for record in task.train]
    found = graded(task, task.train, drawn, parts_of(task))
    assert 70 < found.solved_N.sum() < 130 and (found.parts["cells"] > 0).mean() > 0.9
    assert (found.parts["format"] == 1).all()
    wrong = found.points_Nx2[~found.solved_N]
    assert (1 <= wrong[:, 1] - wrong[:, 0]).all() and (wrong[:, 1] - wrong[:, 0] <= 4).all()


# ---------------------------------------------------------------- grading


def test_any_solution_counts_in_the_mended_rule_and_the_files_in_the_released():
    first, second = ("".join(map(str, grid)) for grid in problems.completions(TWO_WAYS))
    record = {"puzzle": TWO_WAYS, "solution": first}
    empty = TWO_WAYS.count("0")
    for variant, right in (("mended", empty), ("released", empty - 4)):
        assert points_of(f"<answer>{first}</answer>", variant, record) == (empty, empty)
        assert points_of(f"<answer>{second}</answer>", variant, record) == (right, empty)


@pytest.mark.parametrize(
    "text, evaluated",
    [
        ("<answer>\nx ```\n12 34\n``` </answer>", "1234"),
        ("<answer>1``` ```</answer>", "1``````"),  # an empty fence is none
        ("<answer> 1 2<|eot_id|></answer>", "12"),
        ("<answer>1</answer><answer>2</answer>", "1"),
        ("<answer></answer> 3 4<|endoftext|>5", "34"),
        ("</answer>\n6\n", "6"),
        (f"9{SOLUTION} </answer>", SOLUTION),
        (f"</answer>{'1' * 16}", "1" * 16),
        (f"a {SOLUTION} b", SOLUTION),
        (f"a{SOLUTION}", ""),
        ("<answer>123", ""),
    ],
)
def test_where_the_released_evaluation_looks(text, evaluated):
    assert grading.evaluated_answer(text) == evaluated


def searched(text):
    """The same five places by plain searches, which take too long on some texts."""
    for pattern in (
        r"<answer>(?:.*?)```\s*(?P<a>[\d\s]+)```",
        r"<answer>(?P<a>.*?)(?:</answer>|<\|endoftext\|>|<\|eot_id\|>)",
        r"</answer>\s*(?P<a>.*?)(?:<\|endoftext\|>|<\|eot_id\|>|$)",
        r".*?(?P<a>\d{16})\s*</answer>",
        r"\b(?P<a>\d{16})\b",
    ):
        hit = re.search(pattern, text, re.DOTALL)
        if hit and hit["a"].strip():
            return re.sub(r"\s", "", hit["a"].strip())
    return ""


def test_the_released_places_are_those_of_plain_searches():
    found = collections.Counter()
    for text in texts.thrown_together(4000, seed=1):
        assert grading.evaluated_answer(text) == searched(text), text
        found[bool(searched(text))] += 1
    assert min(found.values()) > 100


def test_the_released_rules_pad_and_cut():
    assert reward_of("<answer>1234341221434321999</answer>", "released") == 1
    assert reward_of("<answer>1234 3412</answer>", "released") == 4 / 8
    assert reward_of("<answer>no digits</answer>", "released") == 0
    assert reward_of(f"<answer>{'9' * 16}</answer> <answer>{SOLUTION}</answer>", "released") == 1
    # given cells are not looked at, and the evaluation reads the first tags
    changed = "<answer>4231314212434111</answer>"  # all of them are other ones
    assert points_of(changed, "released") == (8, 8) and points_of(changed) == (0, 8)
    assert points_of(f"<answer>{'9' * 16}</answer><answer>{SOLUTION}</answer>", "released")[0] == 0


def test_parts_and_weights():
    text = "<answer>1224341221434321</answer>"
    found = grading.grade([RECORD], [text], RewardConfig())
    assert {name: part.tolist() for name, part in found.parts.items()} == {
        "cells": [0.875],
        "format": [1.0],
    }
    assert not found.solved_N[0]
    assert reward_of(text, format=0.5) == 1.375 and reward_of(text, cells=2.0) == 1.75
    found = grading.grade([RECORD], [SOLUTION], RewardConfig("released"))
    assert list(found.parts) == ["cells", "format", "tagged"]
    assert found.solved_N[0] and found.reward_N[0] == 0  # evaluated as right, but without tags
    with pytest.raises(ValueError, match="speed=1: there is no such part"):
        reward_of("", speed=1.0)


@pytest.mark.parametrize("variant", ["mended", "released"])
def test_no_answers(variant):
    found = grading.grade([], [], RewardConfig(variant))
    assert found.reward_N.shape == found.solved_N.shape == (0,)
    assert found.points_Nx2.shape == (0, 2) and found.parts["format"].shape == (0,)


def bear(count, seed):
    for variant in ("mended", "released"):
        found = grading.grade(
            [RECORD] * count, list(texts.thrown_together(count, seed)), RewardConfig(variant)
        )
        assert np.isfinite(found.reward_N).all() and (0 <= found.points_Nx2).all()
        assert (found.points_Nx2[:, 0] <= 8).all()


def test_any_text_is_borne():
    bear(2000, seed=0)


@pytest.mark.parametrize(
    "count",
    [pytest.param(10_000, marks=pytest.mark.slow), pytest.param(100_000, marks=pytest.mark.long)],
)
def test_very_many_texts_are_borne(count):
    bear(count, seed=2)


@pytest.mark.parametrize("variant", ["mended", "released"])
def test_long_texts_take_no_more_than_a_second(variant):
    for text in texts.long_ones():
        seconds = texts.seconds_of(lambda text=text: points_of(text, variant))
        assert seconds < 1, (text[:20], text[-20:], seconds)


@pytest.mark.parametrize("variant", ["mended", "released"])
def test_ten_thousand_completions_of_256_tokens_take_less_than_ten_seconds(variant):
    answers = texts.reasoned(10_000)
    reward = RewardConfig(variant)
    assert texts.seconds_of(lambda: grading.grade([RECORD] * 10_000, answers, reward)) < 10


# ---------------------------------------------------------------- public completions


def test_published_figure_of_the_released_rule(published):
    file = published / "sudoku_instruct_256_128_0_generations.json"
    rows = json.loads(file.read_text())["generations"]
    records = [sudoku.read(row) for row in rows]
    answers = [row["generations"] for row in rows]
    found = grading.grade(records, answers, RewardConfig("released"))
    assert found.points_Nx2.sum(axis=0).tolist() == [23, 296]


def test_public_puzzles(published):
    task = make(published / "4x4_test_sudoku.csv")
    records = [*task.train, *task.heldout]
    solutions = [len(problems.completions(record["puzzle"])) for record in records]
    assert (len(records), sum(count > 1 for count in solutions), max(solutions)) == (500, 124, 4)
