"""Two evaluations of the same problems: differences by hand, and what cannot be compared."""

import json

import numpy as np
import pytest

from gdsd_jax.evaluation import comparison, record
from launch import eval as launch_eval
from tests.scripts import code_of

REWARD = {"variant": "mended", "weights": {}}


def content(right, first=0, task="sudoku", reward=REWARD, length=None, cells=4):
    """A file in which problem `first` + i has `right[i]` of `cells` cells right; None = no
    verdict."""
    items = [
        {
            "problem": place,
            "question": f"q{first + place}",
            "completion": "",
            "gen_length": length,
            "sample": 0,
            "grades": None
            if points is None
            else {"reward": points / cells, "solved": float(points == cells)},
            "points": [points or 0, cells],
        }
        for place, points in enumerate(right)
    ]
    manifest = {
        "format": record.FORMAT,
        "settings": {"task": task, "reward": reward},
        "samplers": [],
        "score": "reward",
        "parts": [],
    }
    prompts = [
        {"messages": [], "record": {"puzzle": str(first + place)}} for place in range(len(right))
    ]
    return {"manifest": manifest, "prompts": prompts, "items": items}


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    """`compare(content, content) -> (exit code, what --out holds, what was printed)`."""

    def start(before, after):
        files = [tmp_path / "a.json", tmp_path / "b.json"]
        for file, value in zip(files, (before, after)):
            file.write_text(value if isinstance(value, str) else json.dumps(value))
        out = tmp_path / "out.json"
        out.unlink(missing_ok=True)
        monkeypatch.setattr("sys.argv", ["eval.py", "--compare", *map(str, files), f"--out={out}"])
        code = launch_eval.main()
        said = capsys.readouterr()
        return code, json.loads(out.read_text()) if out.is_file() else None, said.out + said.err

    return start


def of(found, name):
    (one,) = found["comparisons"]
    return one["differences"][name]


def test_a_clear_difference_is_shown(compare):
    """Problems 2 .. 21 are in both; each is solved in the second file alone."""
    code, found, said = compare(content([0] * 22), content([4] * 20 + [0] * 5, first=2))
    assert code == 0 and (found["problems"], found["common"]) == ([22, 25], 20), said
    assert found["intervals"]["method"] == "percentile bootstrap over problems"
    solved = of(found, "pass_at_1")
    assert (solved["before"], solved["after"], solved["difference"]) == (0, 1, 1)
    assert solved["interval"] == [1, 1] and solved["shown"] and solved["problems"] == 20
    assert "20 problems in common, of 22 and 25" in said
    assert "pass@1 0.000 -> 1.000, +1.000 (95% +1.000 to +1.000, 20 problems): higher" in said
    assert compare(content([4] * 9), content([0] * 9))[2].count(": lower") == 4


def test_distances_to_a_teacher_are_compared(compare):
    """Problem by problem; what is no number is named."""
    near, far = content([4] * 9), content([4] * 9)
    for place, (one, other) in enumerate(zip(near["items"], far["items"])):
        one["distance"], other["distance"] = {"kl_common": place}, {"kl_common": place + 0.5}
    code, found, said = compare(far, near)
    assert code == 0 and of(found, "kl_common")["difference"] == -0.5
    assert "kl_common 4.500 -> 4.000, -0.500 (95% -0.500 to -0.500, 9 problems): lower" in said
    near["items"][2]["distance"] = {"kl_common": None}  # nothing of it counts
    code, found, said = compare(far, near)
    assert code == 0 and of(found, "kl_common")["problems"] == 8
    near["manifest"]["teacher"] = "another"
    assert "kl_common" not in compare(far, near)[1]["comparisons"][0]["differences"]
    for broken in ({"kl_common": "2"}, {"kl_common": float("nan")}, {"kl_common": 10**400}, [1.0]):
        near["items"][2]["distance"] = broken
        code, _, said = compare(far, near)
        assert code == 2 and "items[2]: its distance holds no numbers: evaluate again" in said


def test_parts_stand_by_themselves(compare):
    """Whatever their names; the score's mean is said once."""

    def graded(shares):
        one = content([0] * len(shares))
        one["manifest"] |= {"score": "cells", "parts": ["cells", "accuracy"]}
        for item, share in zip(one["items"], shares):
            item["grades"] |= {"cells": share, "accuracy": 1 - share}
        return one

    code, found, said = compare(graded([0.0] * 9), graded([0.25] * 9))
    (one,) = found["comparisons"]
    assert code == 0 and {name: row["after"] for name, row in one["parts"].items()} == {
        "cells": 0.25,
        "accuracy": 0.75,
    }
    assert one["differences"]["accuracy"]["after"] == one["differences"]["reward"]["after"] == 0
    assert one["differences"]["mean_reward"] == one["parts"]["cells"]
    assert "mean_reward (cells) 0.000 -> 0.250" in said and "part cells" not in said
    assert "part accuracy 1.000 -> 0.750" in said and "\naccuracy 0.000 -> 0.000" in said


def test_chance_is_not_a_difference(compare):
    rng = np.random.default_rng(3)
    right_N = rng.integers(0, 5, 40)
    shuffled_N = rng.permutation(right_N)
    code, found, said = compare(content(right_N.tolist()), content(shuffled_N.tolist()))
    cells = of(found, "accuracy")
    assert code == 0 and cells["difference"] == 0 and not cells["shown"]
    low, high = cells["interval"]
    assert low < 0 < high and said.count("no difference shown") == 5
    draws = np.random.default_rng(0)
    differences = [
        (shuffled_N[index].sum() - right_N[index].sum()) / 160
        for index in (draws.integers(0, 40, 40) for _ in range(10_000))
    ]
    assert [low, high] == pytest.approx(np.percentile(differences, [2.5, 97.5]), abs=1e-12)


def test_answers_at_other_temperatures_are_not_compared(compare):
    """What is sampled, that is; greedy answers are."""
    before, after = content([0] * 9), content([4] * 9)
    for one, temperature in ((before, 1.0), (after, 0.5)):
        one["manifest"]["sampled"] = {"temperature": temperature, "samples": 1}
    code, found, said = compare(before, after)
    assert code == 0 and "sampled answers are not compared: temperatures 1 and 0.5" in said
    (one,) = found["comparisons"]
    assert {"accuracy", "pass_at_1"} <= one["differences"].keys() and not one["parts"]
    assert not {"mean_reward", "reward", "solved"} & one["differences"].keys()
    after["manifest"]["sampled"]["temperature"] = 1.0
    assert "not compared" not in compare(before, after)[2]
    assert of(compare(before, after)[1], "reward")["difference"] == 1


@pytest.mark.parametrize("problems, shown", [(1, False), (5, False), (6, True)])
def test_a_few_problems_show_no_difference(compare, problems, shown):
    """All of five go one way in one of sixteen trials by chance."""
    code, found, said = compare(content([0] * problems), content([4] * problems))
    assert code == 0 and of(found, "pass_at_1")["shown"] is shown
    line = next(line for line in said.splitlines() if line.startswith("pass@1 "))
    assert line.endswith("higher" if shown else "no difference shown")


@pytest.mark.parametrize("same", [3, 444])
@pytest.mark.parametrize("better, shown", [(3, False), (5, False), (6, True)])
def test_problems_that_stay_as_they_were_show_nothing(compare, same, better, shown):
    """However many: a resample without those that differ is rare, but three of three go one way in
    one of four trials by chance."""
    code, found, said = compare(content([4] * same + [0] * better), content([4] * (same + better)))
    told = of(found, "pass_at_1")
    assert code == 0 and (told["changed"], told["shown"]) == (better, shown), said
    assert told["interval"][0] > 0 or same == 444 or shown


def test_problems_of_few_clusters_show_no_difference(compare):
    """What five clusters say is not said more often by their 40 problems; a file of an earlier
    version, without clusters, is read by those of the other."""
    before, after = content([0] * 40), content([4] * 40)
    for place, item in enumerate(after["items"]):
        item["cluster"] = f"c{place % 5}"
    for pair in ((before, after), (after, before)):
        _, found, said = compare(*pair)
        assert found["intervals"]["method"] == "percentile bootstrap over clusters of problems"
        told = of(found, "pass_at_1")
        assert (told["problems"], told["independent"], told["shown"]) == (40, 5, False)
        assert "40 problems of 5 clusters): no difference shown" in said
    after["items"][0]["cluster"] = None  # one by itself
    assert of(compare(before, after)[1], "pass_at_1")["independent"] == 6


def test_order_and_missing_verdicts(compare):
    """Problems are known by their records; what one file could not judge counts in neither."""
    before, after = content([4, 0, None]), content([0, 4, 4])
    after["prompts"].reverse()  # its first answer is to problem 2
    code, found, said = compare(before, after)
    cells = of(found, "accuracy")
    assert code == 0 and cells["problems"] == 2, said
    assert (cells["before"], cells["after"]) == (0.5, 1.0)


def test_lengths_that_both_have_are_compared(compare):
    def both(right, *lengths):
        parts = [content(right, length=length) for length in lengths]
        items = [item for part in parts for item in part["items"]]
        return {**parts[0], "items": items}

    code, found, said = compare(both([1, 2], 128, 256), both([2, 2], 512, 256))
    assert code == 0 and found["comparisons"][0]["gen_lengths"] == [256, 256], said
    assert len(found["comparisons"]) == 1 and "gen_length 256\n" in said
    code, found, said = compare(both([1, 2], 128), both([2, 2], 512))
    assert code == 0 and "gen_length 128 -> 512\n" in said


def changed(one, place, change):
    """A file with another item at a place."""
    items = [item | change if number == place else item for number, item in enumerate(one["items"])]
    return {**one, "items": items}


def test_what_cannot_be_compared_is_one_line(compare, monkeypatch, capsys):
    def error(before, after):
        code, found, said = compare(before, after)
        assert code == 2 and found is None and said.count("\n") == 1, said
        return said

    one = content([1, 2])
    assert "no problem in common" in error(one, content([1, 2], first=7))
    assert "is of task sudoku" in error(one, content([1, 2], task="countdown"))
    released = {"variant": "released", "weights": {}}
    assert "rescore one of them" in error(one, content([1, 2], reward=released))
    assert "not a file of launch/eval.py" in error(one, {"generations": []})
    assert "no answers to compare" in error(one, {**one, "items": []})
    assert "not JSON" in error(one, "{")
    for change in ({"grades": {}}, {"grades": {"reward": "1", "solved": 1}}, {"grades": 3}):
        assert "b.json: items[1]: not an answer with grades" in error(one, changed(one, 1, change))
    bare = json.loads(json.dumps(one))
    for item in bare["items"]:
        del item["grades"]
    assert "a.json: items[0]: not an answer with grades" in error(bare, one)
    assert "none of its answers has a verdict" in error(content([None, None]), one)
    monkeypatch.setattr("sys.argv", ["eval.py", "--compare", "none.json", "gone.json"])
    assert code_of(launch_eval.main) == 2 and "not a readable file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "files, said",
    [
        ([], "two different files, not none: type --compare A.json B.json"),
        (["a.json"], "two different files, not a.json: type --compare a.json B.json"),
        (["a.json", "./a.json"], "not a.json ./a.json: type --compare a.json B.json"),
        (["a.json", "b.json", "c.json"], "not a.json b.json c.json: type --compare a.json B.json"),
    ],
)
def test_two_files_are_asked_for_in_one_line(files, said, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["eval.py", "--compare", *files])
    assert code_of(launch_eval.main) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --compare takes ") and line.endswith(said)


def test_the_same_file_has_no_differences(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content([1, 4, 0])))
    found = comparison.compare([file, file])
    for one in of(found, "accuracy"), of(found, "pass_at_1"):
        assert one["difference"] == 0 and one["interval"] == [0, 0] and not one["shown"]
