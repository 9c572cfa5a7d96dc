"""Items hold answers without loss, and the numbers are those that a loop counts."""

import json

import numpy as np
import pytest

from gdsd_jax.evaluation import Answers, Table, figures, from_json, to_json
from gdsd_jax.tasks import Grades

NAMES = ("cells", "format")


def table(problems=5, samples=3, seed=0):
    rng = np.random.default_rng(seed)
    shape = (problems, samples)
    points_NxSx2 = np.stack([rng.integers(0, 4, shape), np.full(shape, 3)], axis=-1)
    judged_NxS = rng.random(shape) < 0.8
    cells_NxS = (points_NxSx2[..., 0] / np.float32(3)).astype(np.float32)
    grades = Grades(
        rng.normal(size=shape).astype(np.float32),
        points_NxSx2[..., 0] == 3,
        {"cells": cells_NxS, "format": rng.random(shape).astype(np.float32)},
        judged_NxS,
        points_NxSx2,
    )
    texts = [[f"{row} {number}" for number in range(samples)] for row in range(problems)]
    return Table(texts, grades, rng.integers(1, 9, shape), rng.integers(1, 9, shape))


def through_json(value):
    return json.loads(json.dumps(value, allow_nan=False))


def items(given, **asked):
    problems = [{"question": f"question {row}"} for row in range(len(given.texts))]
    return through_json(figures.items_of(problems, given, **asked))


def test_items_hold_the_answers():
    given = table()
    found = figures.table_of(items(given), NAMES)
    assert found.texts == given.texts
    np.testing.assert_array_equal(found.lengths_NxS, given.lengths_NxS)
    np.testing.assert_array_equal(found.forwards_NxS, given.forwards_NxS)
    judged_NxS = given.grades.judged_N
    np.testing.assert_array_equal(found.grades.judged_N, judged_NxS)
    np.testing.assert_array_equal(found.grades.points_Nx2, given.grades.points_Nx2)
    for name in ("reward", "solved", *NAMES):
        assert found.mean(name) == given.mean(name)
    assert found.grades.reward_N.dtype == np.float32


def test_distances_to_a_teacher_stand_with_the_first_answer_to_a_problem():
    """Means over problems with intervals; none where a problem lacks one."""
    values = {"kl_common": np.array([0.5, 1.0, 1.5, 2.0, 2.5]), "kl": np.arange(5.0)}
    given = table()._replace(distances=values)
    made = items(given)
    assert [item["sample"] for item in made if "distance" in item] == [0] * 5
    back = figures.table_of(made, NAMES)
    for name in values:
        np.testing.assert_array_equal(back.distances[name], values[name])
    found = figures.figures(back, back, "cells", NAMES)
    assert found["metrics"]["kl_common"] == 1.5 and found["metrics"]["kl"] == 2.0
    low, high = found["intervals"]["kl_common"]
    assert 0.5 < low < 1.5 < high < 2.5
    del made[3]["distance"]  # of the second problem
    assert figures.table_of(made, NAMES).distances is None
    assert "kl" not in figures.figures(table(), table(), "cells", NAMES)["metrics"]


def test_batches_come_back_from_json_as_they_were():
    """Also the float32 numbers that have no short decimals."""
    grades = table().grades
    flat = Grades(
        grades.reward_N[:, 0],
        grades.solved_N[:, 0],
        {name: values[:, 0] for name, values in grades.parts.items()},
        grades.judged_N[:, 0],
        grades.points_Nx2[:, 0],
    )
    given = Answers(list("abcde"), flat, np.arange(5), np.arange(5) + 1)
    found = from_json(through_json(to_json(given)))
    assert found.texts == given.texts and found.length_B.tolist() == [0, 1, 2, 3, 4]
    for name in ("reward_N", "solved_N", "judged_N", "points_Nx2"):
        back, before = getattr(found.grades, name), getattr(flat, name)
        np.testing.assert_array_equal(back, before)
        assert back.dtype == before.dtype
    np.testing.assert_array_equal(found.grades.parts["format"], flat.parts["format"])
    nothing = from_json(through_json(to_json(given._replace(grades=None))))
    assert nothing.grades is None


def test_numbers_are_those_of_a_loop():
    given = table(samples=1)
    found = figures.figures(given, table(seed=1), "cells", NAMES)
    metrics = found["metrics"]
    judged = [item for item in items(given) if item["grades"] is not None]
    right, total = (sum(item["points"][place] for item in judged) for place in (0, 1))
    assert (metrics["correct"], metrics["total"]) == (right, total)
    assert metrics["accuracy"] == pytest.approx(right / total)
    assert metrics["unjudged"] == 5 - len(judged)
    assert metrics["pass_at_1"] == pytest.approx(
        sum(item["grades"]["solved"] for item in judged) / len(judged)
    )
    sampled = [item["grades"] for item in items(table(seed=1)) if item["grades"] is not None]
    assert metrics["mean_reward"] == pytest.approx(np.mean([one["cells"] for one in sampled]))
    assert metrics["reward"] == pytest.approx(np.mean([one["reward"] for one in sampled]))
    for name in NAMES:
        assert metrics["parts"][name] == pytest.approx(np.mean([one[name] for one in sampled]))
    # every mean has an interval, which holds it
    for name, bounds in found["intervals"].items():
        if isinstance(bounds, dict):
            assert bounds.keys() == metrics[name].keys(), name
        else:
            assert bounds[0] <= metrics[name] <= bounds[1], name
    for name, (low, high) in found["intervals"]["parts"].items():
        assert low <= metrics["parts"][name] <= high, name
    assert found["intervals"].keys() == metrics.keys() - {
        "correct",
        "total",
        "unjudged",
        "problems",
        "judged_problems",
    }


@pytest.mark.parametrize("name", ["correct", "total", "accuracy", "unjudged", "metrics", "parts"])
def test_no_name_of_a_part_is_another_numbers(name):
    """Neither of the score nor of another part."""
    given = table()
    parts = {name: given.grades.parts["cells"], "format": given.grades.parts["format"]}
    other = given._replace(grades=given.grades._replace(parts=parts))
    wanted = figures.figures(given, given, "cells", NAMES)
    for score in (name, "format"):
        found = figures.figures(other, other, score, (name, "format"))
        for kind in ("metrics", "intervals"):
            assert found[kind].pop("parts")[name] == wanted[kind]["parts"]["cells"]
            known = wanted[kind] | ({} if score == name else {"mean_reward": None})
            del known["parts"]
            assert found[kind] | ({} if score == name else {"mean_reward": None}) == known


def test_problems_with_fewer_answers():
    """2 answers to the first problem, 1 to the second; the rest is no answer at all."""
    given = [item for item in items(table(problems=2, samples=2)) if item["problem"] == 0]
    for item, solved in zip(given, (1.0, 0.0)):
        item["grades"] = {"reward": 1.0, "solved": solved, "cells": 0.5, "format": 1.0}
    given.append({**given[1], "problem": 1})
    numbers = figures.figures(*[figures.table_of(given, NAMES)] * 2, "cells", NAMES)["metrics"]
    assert numbers["unjudged"] == 0 and numbers["pass_at_1"] == pytest.approx(1 / 3)
    assert numbers["pass_at_k"] == {"1": 0.25, "2": 1.0}  # means over problems


def test_what_is_not_judged_has_no_numbers():
    given = table(samples=1)
    unsure = given._replace(grades=given.grades._replace(judged_N=np.zeros((5, 1), bool)))
    found = figures.figures(unsure, unsure, "cells", NAMES)
    assert found["metrics"]["pass_at_1"] is None and found["intervals"]["pass_at_1"] is None
    assert found["metrics"]["unjudged"] == 5 and found["metrics"]["pass_at_k"] == {}
    through_json(found)
    silent = given._replace(grades=None)
    found = figures.figures(silent, silent, "cells", ())
    assert set(found["metrics"]) == {"problems", "forwards_per_token", "looping"}
    assert figures.table_of(items(silent), ()).grades is None


def test_sets_are_told_apart():
    """Greedy and sampled answers, thresholds, lengths."""
    given = []
    for length in (8, 16):
        given += items(table(samples=1), gen_length=length, temperature=0.0, threshold=None)
        given += items(table(seed=1), gen_length=length, temperature=0.7, threshold=None)
        given += items(table(seed=2), gen_length=length, temperature=0.0, threshold=0.9)
    found = figures.evaluations_of(given, [{"steps": 4}, {"steps": 8}], "cells", NAMES)
    assert [entry["gen_length"] for entry in found] == [8, 16]
    assert found[1]["sampler"] == {"steps": 8}
    wanted = figures.figures(table(samples=1), table(seed=1), "cells", NAMES)
    for entry in found:
        assert entry["metrics"] == wanted["metrics"] and entry["intervals"] == wanted["intervals"]
        (row,) = entry["thresholds"]
        assert row["threshold"] == 0.9 and row["pass_at_1"] == table(seed=2).mean("solved")
