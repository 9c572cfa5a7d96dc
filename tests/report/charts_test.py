"""Charts, headlines and curves are true to their rows, whatever the task."""

import io
import json
import math
import re

from matplotlib.image import imread
import pytest

from gdsd_jax.report import before_after, charts, figures
from tests.report.rows import PUZZLE, ROWS, UNJUDGED, row


def chart(rows, title, score="tests"):
    return next(chart for chart in charts.charts_of(rows, score) if chart.title == title)


def titles(rows, score):
    return [chart.title for chart in charts.charts_of(rows, score)]


def told(rows, score):
    return {name: rest for name, *rest in before_after.headlines(rows, score)}


def test_updates_are_summed_or_averaged_over_their_round():
    assert chart(ROWS, "Time").series[-1] == charts.Series("updates", [1, 2], [3.0, 4.0])
    assert chart(ROWS, "Trust region").series[0][1:3] == ([1, 2], [0.25, 1.0])
    assert chart(ROWS, "KL").series[0][1:3] == ([1, 2], [0.1, 0.2]), "null is left out of the mean"


def test_correlations_of_the_probe_are_pooled_over_ten_rounds():
    """As of their sums, not the mean of the rounds' own; moves are drawn against their targets."""
    rows = [
        row(
            "probe",
            step,
            1.0,
            move=0.1 * step,
            target=2.0,
            mismatch_gap=-0.5,
            mismatch_cov=float(step),
            mismatch_elbo_var=2.0 * step,
            mismatch_trajectory_var=3.0,
        )
        for step in range(1, 13)
    ]
    found = chart(rows, "Agreement inside groups").series[0]
    assert found.x == list(range(1, 13)) and found.label == "correlation, 10 rounds"
    assert found.y[0] == pytest.approx(1 / math.sqrt(2 * 3))
    assert found.y[-1] == pytest.approx(75 / math.sqrt(150 * 30))  # rounds 3 to 12
    moves = chart(rows, "ELBO, asked for and made").series
    assert [line.y[0] for line in moves] == [2.0, 0.1]
    assert chart(rows, "Mismatch").series[0].y == [-0.5] * 12


def test_a_correlation_pools_the_rounds_that_have_all_its_sums():
    keys = ("mismatch_cov", "mismatch_elbo_var", "mismatch_trajectory_var")
    values = [(1.0, 2.0, 2.0), (5.0, None, 5.0), (3.0, 4.0, 4.0), (None, None, None)]
    rows = [row("probe", step, 1.0, **dict(zip(keys, one))) for step, one in enumerate(values)]
    assert charts.pooled_correlation(rows) == ([0, 2], [0.5, pytest.approx(4 / 6)])


def test_a_line_has_holes_where_nothing_was_measured():
    """Null is one, a key that is not there is none: it was not asked for."""
    values = [0.5, None, 0.25, math.inf, 0.75, 0.5]
    rows = [row("probe", step, 1.0, move_share=value) for step, value in enumerate(values)]
    rows += [row("probe", 6, 1.0, target=1.0), row("probe", 7, 1.0, move_share=0.5)]
    rows.append(row("probe", 1, 1.0, target=2.0))
    (line,) = chart(rows, "Share of the target made").series
    assert (line.x, line.gaps) == ([0, 2, 4, 5, 7], (1, 3))
    x, y = figures.with_holes(line.x, line.y, line.gaps)
    assert x == [0, 1, 2, 3, 4, 5, 7] and [math.isnan(value) for value in y[:4]] == [0, 1, 0, 1]
    assert figures.lone(y) == [0, 2], "what has no neighbour is a dot"
    assert strokes(charts.Chart("", "", [line])) == 1, "from 4 to 7 alone"
    assert strokes(charts.Chart("", "", [line._replace(gaps=(1, 4.5), dots=True)])) == 2
    held_out = [row("eval", step, 1.0, looping=value) for step, value in enumerate(values)]
    assert chart(held_out, "Looping").series[0].gaps == (1, 3)
    assert chart(ROWS, "KL").series[0].gaps == (), "another update of the round says it"


def strokes(one):
    """How many pieces of several points a chart's first line has."""
    text = figures.chart_svg(one).decode()
    paths = re.findall(rf'<path d="([^"]*)"[^>]*stroke: {figures.HUES[0]}; stroke-width', text)
    return sum("L" in piece for piece in paths[0].split("M"))


def test_ranges_of_several_seeds_have_holes_too():
    values = [(1, 0.5), (2, None), (3, 0.25), (4, 0.5)]
    seed = [row("rollout", step, 1.0, reward=value, tokens=7) for step, value in values]
    other = [one | {"reward": one["reward"] and 1.0} for one in seed]
    (line,) = charts.run_series({"a": [seed, other]}, "rollout", "reward")
    assert (line.x, line.low, line.gaps) == ([1, 3, 4], [0.5, 0.25, 0.5], (2,))
    (line,) = charts.run_series({"a": [seed, other]}, "rollout", "reward", by_tokens=True)
    assert (line.x, line.gaps) == ([7.0, 21.0, 28.0], (14.0,))
    assert figures.chart_svg(charts.Chart("", "", [line]))


def test_repeated_steps_are_averaged():
    values = [(0, 0.0), (0, 1.0), (3, 0.2), (4, math.inf)]
    rows = [{"phase": "eval", "step": step, "format": value} for step, value in values]
    assert charts.points(rows, "eval", "format") == ([0, 3], [0.5, 0.2])


def test_trend_keeps_straight_lines_straight():
    line = [float(i) for i in range(40)]
    assert charts.moving_mean(line, 5) == pytest.approx(line)
    assert charts.moving_mean([0.0, 1.0, 0.0, 1.0, 0.0], 2)[2] == pytest.approx(0.4)


def test_a_part_as_score_is_drawn_beside_what_is_solved():
    grades = chart(PUZZLE, "Grades", "cells")
    assert grades.share
    assert grades.series == [
        charts.Series("held-out problems solved, temperature 0", [0, 2], [0.0, 0.25], True),
        charts.Series("held-out cells, temperature 1", [0, 2], [0.5, 0.875], True),
        charts.Series("training cells", [1, 2], [0.5, 0.75]),
    ]
    valid = chart(PUZZLE, "valid", "cells")
    assert not valid.share, "the scale of other parts is not known"
    assert valid.series == [
        charts.Series("held-out, temperature 1", [0, 2], [-3.0, 1.5], True),
        charts.Series("training", [1, 2], [-3.0, 0.0]),
    ]
    assert "cells" not in titles(PUZZLE, "cells"), "it is drawn once"


def test_answers_without_a_verdict_are_no_part_of_the_grades():
    rows = [row("rollout", 1, 2.0, reward=1.0, cells=0.5, judged=0.75)]
    judged = chart(rows, "Judged", "cells")
    assert judged.share and judged.series == [charts.Series("training", [1], [0.75])]
    assert titles(rows, "cells") == ["Grades", "Reward", "Judged"], "it is drawn once"
    assert "Judged" not in titles(PUZZLE, "cells"), "all answers got a verdict"


def test_the_reward_stands_beside_a_score_that_is_a_part():
    rows = [one | {"reward": 1.5, "cells": 0.5} if "mean_reward" in one else one for one in PUZZLE]
    assert chart(rows, "Reward", "cells").series[1] == charts.Series(
        "held-out reward, temperature 1", [0, 2], [1.5, 1.5], True
    )
    told_now = told(rows, "cells")
    assert told_now.pop("held-out reward, temperature 1") == ["1.500", "1.500", "+0.000"]
    assert told_now == told(PUZZLE, "cells"), "lines of an earlier version lack both"


def test_a_reward_as_score_is_no_share():
    rows = [
        {**one, "mean_reward": 10 * one["mean_reward"]} if "mean_reward" in one else one
        for one in PUZZLE
    ]
    grades, reward = chart(rows, "Grades", "reward"), chart(rows, "Reward", "reward")
    assert [line.label for line in grades.series] == [
        "held-out problems solved, temperature 0",
        "training, solved",
    ]
    assert not reward.share and reward.series[1].y == [5.0, 8.75]
    assert {"cells", "valid"} <= set(titles(rows, "reward"))
    assert told(rows, "reward")["held-out reward, temperature 1"] == ["5.000", "8.750", "+3.750"]


def test_headlines_name_score_and_parts():
    assert told(PUZZLE, "cells") == {
        "held-out problems solved, temperature 0": ["0.0%", "25.0%", "+25.0 points"],
        "held-out cells, temperature 1": ["50.0%", "87.5%", "+37.5 points"],
        "held-out valid, temperature 1": ["-3.000", "1.500", "+4.500"],
    }
    assert told(ROWS, "tests")["held-out format, temperature 1"] == ["0.750", "1.000", "+0.250"]


def test_distillation_shows_its_distance_and_speed():
    rows = []
    for step, solved, kl, cost in ((0, 0.0, 4.5, 1.5), (9, 0.9, 0.5, 0.75)):
        values = dict(pass_at_1=solved, teacher_pass_at_1=1.0, kl_common=kl)
        rows.append(row("eval", step, 1.0, **values, threshold_forwards_per_token=cost))
    said = told(rows, "tests")
    assert said["held-out KL to the teacher, nats a token"] == ["4.50", "0.50", "9.0 times less"]
    assert said["held-out problems solved by the teacher"][:2] == ["100.0%", "100.0%"]
    assert chart(rows, "Forwards a token").series[0].y == [1.5, 0.75]


def test_students_are_drawn_over_their_tokens(monkeypatch):
    """Two seeds: the mean of what each has read until then."""
    seeds = []
    for tokens in (100, 300):
        rounds = [row("rollout", step, 1.0, tokens=tokens) for step in (1, 2, 3)]
        first, last = (row("eval", step, 1.0, kl_common=4.0 - step) for step in (0, 3))
        seeds.append([first, *rounds, last])
    drawn = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.plot", lambda self, x, y, **style: drawn.append((x, y))
    )
    figures.curve_figure({"a": seeds}, "reward")
    assert drawn == [([0.0, 600.0], [4.0, 1.0])]


def test_what_judges_nothing_has_no_grades():
    told_of = titles(UNJUDGED, "reward")
    assert told_of[0] == "Distance to the teacher" and "Forwards a token" in told_of
    assert not {"Grades", "Reward"} & set(titles(UNJUDGED, "reward"))
    assert list(told(UNJUDGED, "reward")) == ["held-out KL to the teacher, nats a token"]


def test_headlines_of_a_workdir(tmp_path):
    text = "".join(json.dumps(one) + "\n" for one in PUZZLE)
    (tmp_path / "metrics.jsonl").write_text(text)
    assert before_after.score_name(tmp_path) == "reward"
    (tmp_path / "config.json").write_text(json.dumps({"name": "x"}))
    assert any("held-out reward" in line for line in before_after.headline_lines(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"score": "cells"}))
    assert before_after.headline_lines(tmp_path) == [
        "held-out problems solved, temperature 0   0.0% ->  25.0%  +25.0 points",
        "held-out cells, temperature 1            50.0% ->  87.5%  +37.5 points",
        "held-out valid, temperature 1           -3.000 ->  1.500  +4.500",
    ]
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: not readable JSON"):
        before_after.score_name(tmp_path)


def test_every_number_of_the_updates_is_drawn():
    """Those of a user's own objective too; what is 0 throughout says nothing."""
    rows = [{**ROWS[3], "move": 0.1, "target": 0.2, "clipped": 0.0, "my_number": 3.0}]
    assert [line.label for line in chart(rows, "Moves").series] == ["target", "move"]
    assert "Trust region" not in titles(rows, "tests")
    own = chart(rows, "My number")
    assert own.group == charts.FURTHER and own.series[0].y == [3.0]
    rows[0]["slope_snr"] = 0.5
    snr = chart(rows, "Slope, signal to noise")
    assert snr.note.startswith("Mean of the slope over its spread")


@pytest.mark.parametrize(
    "key, title",
    [
        ("kl_max", "KL, largest"),
        ("centred_score_max", "Centred score, largest"),
        ("residual_share", "Residual, share"),
        ("slope_spread", "Slope spread"),
        ("eubo", "EUBO"),
        ("masked", "Scored tokens"),
        ("max", "Max"),
        ("_", "_"),
    ],
)
def test_titles_are_words(key, title):
    assert charts.words(key) == title


def test_a_wide_range_is_logarithmic():
    rows = [{**ROWS[3], "step": step, "grad_norm": value} for step, value in ((1, 1), (2, 400))]
    assert chart(rows, "Gradient norm").is_log
    assert not chart(rows[:1], "Gradient norm").is_log and not chart(rows, "Loss").is_log
    rows[0]["grad_norm"] = 0.0
    assert not chart(rows, "Gradient norm").is_log
    assert figures.chart_svg(chart(ROWS[:3], "Supervised start"), salt="a").startswith(b"<?xml")


@pytest.mark.parametrize("low, high", [(0.0011, 23.0), (0.5, 20.0), (3e-6, 5e6)])
def test_labels_of_an_axis_are_plain_numbers(low, high):
    """Also of a logarithmic one, which has labels of its own."""
    rows = [{**ROWS[3], "step": step, "grad_norm": y} for step, y in ((1, low), (2, high))]
    drawn = chart(rows, "Gradient norm")
    assert drawn.is_log
    for one in (drawn, drawn._replace(may_be_log=False)):
        labels = re.findall(r"<text[^>]*>([^<]*)</text>", figures.chart_svg(one).decode())
        assert len(labels) > 3
        for label in labels:
            assert label == "round" or re.fullmatch(r"\d[\d,]*(\.\d+)?", label), label
    if (low, high) == (0.0011, 23.0):
        shown = re.findall(r"<text[^>]*>([^<]*)</text>", figures.chart_svg(drawn).decode())
        assert {"0.01", "0.1", "1", "10"} <= set(shown)


def test_numbers_of_an_axis():
    values = (0.0, -0.001, 0.25, 10.0, 12345.678, 2e7, 1e-9)
    told_of = ["0", "\u22120.001", "0.25", "10", "12,345.7", "20,000,000", "1e\u221209"]
    assert [figures.plain(value) for value in values] == told_of


def test_lines_on_one_another_are_all_seen():
    """The upper ones are dashed; how near is near depends on the picture."""
    x = [1, 2, 3, 4]
    one = charts.Series("one", x, [0.0, 1.0, 2.0, 3.0])
    same = charts.Series("same", x, [0.0, 1.0, 2.0, 9.0])
    far = charts.Series("far", x, [5.0, 5.0, 5.0, 5.0])
    short = charts.Series("short", [2, 4], [1.0, 7.0], dots=True)
    empty = charts.Series("empty", [], [])
    assert figures.layers_of([one, far, empty, same]) == [(0, 2), (0, 1), (0, 1), (1, 2)]
    assert figures.layers_of([one, short, same]) == [(0, 3), (1, 3), (2, 3)]
    assert figures.layers_of([one, one._replace(y=[0.1, 1.1, 2.1, 3.1])]) == [(0, 1)] * 2
    small, large = (charts.Series("", x, [y, y, y, 100.0]) for y in (0.1, 0.2))
    assert figures.layers_of([small, large]) == [(0, 2), (1, 2)]
    assert figures.layers_of([small, large], log=True) == [(0, 1)] * 2
    for series, dashed in (([one, same], 1), ([one, far], 0), ([one, same, short], 2)):
        text = figures.chart_svg(charts.Chart("", "", series)).decode()
        assert text.count("stroke-dasharray") == dashed
    curves = figures.curve_figure({"a": [PUZZLE], "b": [PUZZLE]}, "cells", format="svg")
    assert curves.count(b"stroke-dasharray") >= 2


def test_runs_are_compared_number_by_number():
    runs = {"two seeds": [PUZZLE, [one | {"solved": 1.0} for one in PUZZLE]], "none": [[]]}
    found = {one.title: one for one in charts.comparison_charts(runs, "cells")}
    assert list(found)[:2] == ["Held-out cells", "Held-out problems solved"]
    first, second = found["Training, solved"].series
    assert (first.y, first.low, first.high) == ([0.5, 0.625], [0.0, 0.25], [1.0, 1.0])
    assert second.label == "none" and second.x == [], "a run keeps its colour where it says nothing"
    assert "Held-out valid" in found and "KL" not in found


def test_what_is_zero_in_all_runs_is_compared_too():
    rows = [row("eval", step, 1.0, pass_at_1=0.0, mean_reward=0.0) for step in (0, 2)]
    found = {one.title: one for one in charts.comparison_charts({"a": [rows], "b": [[]]}, "tests")}
    assert list(found) == ["Held-out tests", "Held-out problems solved"]
    assert found["Held-out tests"].series[0].y == [0.0, 0.0]


@pytest.mark.parametrize(
    "score, is_share", [("tests", True), ("reward", False), ("tests / reward", False)]
)
def test_a_reward_among_several_scores_is_no_share(score, is_share):
    """It may have any scale, which an axis of shares would cut."""
    rows = [
        {"phase": "eval", "step": step, "wall_s": 0, "mean_reward": 4.0, "pass_at_1": 0.5}
        for step in (0, 1)
    ]
    found = charts.comparison_charts({"a": [rows], "b": [rows]}, score)
    one = next(chart for chart in found if chart.title.startswith("Held-out " + score))
    assert one.share is is_share


@pytest.mark.parametrize("score", ["tests", "reward"])
def test_all_that_the_headlines_tell_is_compared(score):
    keys = ["pass_at_1", "mean_reward", "reward", "format", "threshold_pass_at_1"]
    keys += ["teacher_pass_at_1", "kl_common", "threshold_forwards_per_token"]
    rows = [row("eval", step, 1.0, **{key: 0.5 + step for key in keys}) for step in (0, 1)]
    compared = charts.comparison_charts({"a": [rows]}, score)
    titles_of = [one.title for one in compared]
    assert len(titles_of) == len(set(titles_of)) == len(told(rows, score))
    assert ("Held-out reward" in titles_of) and ("Held-out format" in titles_of)


@pytest.mark.parametrize("format, magic", [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_curves_of_several_runs(format, magic):
    runs = {"two seeds": [ROWS, ROWS], "one": [ROWS], "shuffled rewards": [ROWS[:2]]}
    picture = figures.curve_figure(runs, "tests", format=format)
    assert picture.startswith(magic)
    assert picture == figures.curve_figure(runs, "tests", format=format), "same rows, same file"
    if format == "svg":
        assert picture.count(b"shuffled rewards") >= 1 and figures.MUTED.encode() in picture
        assert b"Held-out tests, temperature 1" in picture
        assert b"Held-out problems solved, temperature 0" in picture


def test_curves_show_the_panels_that_have_numbers():
    both = figures.curve_figure({"a": [PUZZLE]}, "cells")
    one = figures.curve_figure({"a": [UNJUDGED], "control": [UNJUDGED]}, "reward")
    widths = [imread(io.BytesIO(picture)).shape[1] for picture in (both, one)]
    assert widths[0] == 2 * widths[1]
    said = figures.curve_figure({"a": [UNJUDGED]}, "reward", format="svg")
    assert b"Held-out KL to the teacher" in said and b"solved" not in said
    rewards = figures.curve_figure({"a": [PUZZLE]}, "reward", format="svg")
    assert b"Held-out reward, temperature 1" in rewards and b"0.6" in rewards, "not in percent"


def test_probes_of_several_runs_are_drawn_where_there_are_any():
    def probed(**numbers):
        return [{"phase": "probe", "step": step, **numbers} for step in (1, 2)]

    both = {"a": [probed(move_share=0.5, mismatch_gap=-0.1)], "b": [ROWS]}
    picture = figures.probe_figure(both, format="svg")
    assert b"Share of the target that the updates made" in picture
    assert b"ELBO less likelihood, nats a token" in picture
    assert b"\xe2\x88\x920.1" in picture, "the numbers themselves"
    one = figures.probe_figure({"a": [probed(mismatch_gap=-0.1)]}, format="svg")
    assert b"Share of the target" not in one
    assert figures.probe_figure({"a": [ROWS]}) is None


def test_names_are_no_formulas():
    picture = figures.curve_figure({r"$\nonsense$": [PUZZLE]}, r"$\frac$", format="svg")
    assert rb"Held-out $\frac$, temperature 1" in picture and rb"$\nonsense$" in picture
