"""Variants side by side, from files whose numbers are known by hand."""

import json
import re

import pytest

from gdsd_jax.evaluation import arms
from tests.evaluation.comparison_test import content


@pytest.fixture
def file(tmp_path):
    """`file(right, ...)`: the path of an evaluation of `comparison_test.content`."""
    made = []

    def write(right, first=0, **named):
        path = tmp_path / f"{len(made)}.json"
        whole = content(right, first, **named)
        for place, prompt in enumerate(whole["prompts"]):
            prompt["record"]["hard"] = (first + place) % 2 == 1
        path.write_text(json.dumps(whole))
        made.append(path)
        return path

    return write


def table(arms_of, score, only):
    """Of {name: (files before, files after)}."""
    return arms.table(arms.read(arms_of), score, only)


def test_gains_and_differences(file):
    """Of 40 problems in two seeds: none solved before; half after by one variant, all by the
    other."""
    before = [file([0] * 40) for _ in range(2)]
    half = (before, [file([4, 0] * 20), file([0, 4] * 20)])
    whole = (before, [file([4] * 40), file([4] * 40)])
    head, one, two = table({"half": half, "whole": whole}, "reward", {})
    assert head[:4] == ["run", "reward, sampled", "gain", "against half"]
    assert one[0] == "half" and one[1] == "0.000 → 0.500" and one[3] == "-"
    assert two[1] == "0.000 → 1.000" and two[2] == "+1.000 (+1.000 to +1.000)"
    assert two[3].startswith("+0.500 (") and two[3].endswith("): higher")
    greedy = head.index("greedy pass@1")
    assert two[greedy] == "0.0% → 100.0%" and two[greedy + 2].endswith(": higher")
    assert two[greedy + 1] == "+100.0 points (+100.0 to +100.0)"


def test_students_differ_in_their_distance_to_a_teacher(file):
    """Problem by problem, in nats; the less the nearer."""

    def student(shift):
        path = file([4] * 20)
        whole = json.loads(path.read_text())
        for place, item in enumerate(whole["items"]):
            item["distance"] = {"kl_common": 1.0 + place + shift, "kl": 0.0}
        path.write_text(json.dumps(whole))
        return [path]

    sides = {"near": (student(1.0), student(-0.5)), "far": (student(1.0), student(0.0))}
    head, near, far = table(sides, "reward", {})
    assert head[1:4] == ["held-out KL, nats", "gain", "against near"]
    assert near[1:3] == ["11.500 → 10.000", "-1.500 (-1.500 to -1.500)"]
    assert far[3] == "+0.500 (+0.500 to +0.500): higher"


def test_problems_without_a_verdict_on_either_side_count_for_nothing(file):
    """Else what is judged alone would make a difference."""
    before, after = file([4, 4, None, None] * 10), file([4, 4, 0, 0] * 10)
    (_, row) = table({"a": ([before], [after])}, "reward", {})
    assert row[1:3] == ["1.000 → 1.000", "+0.000 (+0.000 to +0.000)"]


def test_seeds_are_compared_on_the_problems_that_all_of_them_judge(file):
    """Where few verdicts of a seed are there, intervals of shares stay within 0 and 1."""
    before = [file([0] * 30), file([0] * 30)]
    after = [file([4, 0, 0] * 10), file([4, 0, 0] * 4 + [None] * 18)]
    (_, row) = table({"a": (before, after)}, "reward", {})
    gain, low, high = map(float, re.findall(r"[+-][0-9.]+", row[2]))
    assert row[1] == "0.000 → 0.333" and gain == 0.333 and 0 < low < gain < high < 1


def test_where_the_interval_holds_0_nobody_wins(file):
    before = [file([0] * 40)]
    first = (before, [file([4, 0] * 20)])
    second = (before, [file([4] * 3 + [0, 4] * 18 + [0])])
    *_, row = table({"a": first, "b": second}, "reward", {})
    assert row[3].endswith(": no difference shown")


def test_a_column_tells_problems_apart(file):
    """Only problems that all files have count; those of one kind by themselves."""
    arm = ([file([0] * 20)], [file([4, 0] * 15, first=10)])  # 10 to 19 are in both
    for only, after in (({}, "50.0%"), ({"hard": False}, "100.0%"), ({"hard": True}, "0.0%")):
        (_, row) = table({"a": arm}, "tests", only)
        assert row[1] == f"0.0% → {after}"
    with pytest.raises(ValueError, match="no held-out problem with hard=3 is in all files"):
        table({"a": arm}, "tests", {"hard": 3})
    apart = ([file([0] * 3)], [file([4] * 3, first=9)])
    with pytest.raises(ValueError, match="no held-out problem is in all files"):
        table({"a": apart}, "tests", {})


def test_a_column_that_no_problem_has_is_named(file):
    found = arms.read({"a": ([file([0] * 3)], [file([4] * 3)])})
    assert arms.values_of(found, "hard") == [False, True]
    with pytest.raises(ValueError, match="a column 'level': choose one of hard, puzzle"):
        arms.values_of(found, "level")


def test_other_rules_do_not_stand_side_by_side(file):
    other = {"variant": "released", "weights": {}}
    arm = ([file([0] * 3)], [file([4] * 3, reward=other)])
    with pytest.raises(ValueError, match="rescore one of them"):
        table({"a": arm}, "tests", {})


def test_a_reward_among_several_scores_is_no_share():
    """As in reports: it may have any scale."""
    forms = {score: arms.form_of("mean_reward", score) for score in ("tests", "tests / reward")}
    assert forms == {"tests": ".1%", "tests / reward": ".3f"}
