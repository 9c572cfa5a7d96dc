"""The report: whole, self-contained, safe to open whatever the model wrote, and true to its
rows."""

import math
import re

import pytest

from gdsd_jax.report import charts
from gdsd_jax.report.page import comparison_page, render, write_report

ROWS = [
    {"phase": "sft", "step": 10, "wall_s": 1.0, "loss": 3.0},
    {
        "phase": "eval",
        "step": 0,
        "wall_s": 2.0,
        "pass_at_1": 0.5,
        "mean_reward": 0.25,
        "format": 0.75,
    },
    {
        "phase": "rollout",
        "step": 1,
        "wall_s": 5.0,
        "reward": 1.0,
        "tests": 0.5,
        "format": 0.5,
        "length": 20.0,
        "tokens_per_s": 1000.0,
        "rollout_s": 2.0,
        "reward_s": 1.0,
    },
    {
        "phase": "train",
        "step": 1,
        "wall_s": 6.0,
        "loss": 0.5,
        "kl": 0.1,
        "trust": 0.0,
        "grad_norm": 1.0,
        "update_s": 1.0,
    },
    {
        "phase": "train",
        "step": 2,
        "wall_s": 7.0,
        "loss": 0.3,
        "kl": None,
        "trust": 0.5,
        "grad_norm": 1.0,
        "update_s": 2.0,
    },
    {
        "phase": "rollout",
        "step": 2,
        "wall_s": 9.0,
        "reward": 1.5,
        "tests": 0.75,
        "format": 0.75,
        "length": 21.0,
        "tokens_per_s": 1200.0,
        "rollout_s": 2.0,
        "reward_s": 1.0,
    },
    {
        "phase": "train",
        "step": 3,
        "wall_s": 10.0,
        "loss": 0.2,
        "kl": 0.2,
        "trust": 1.0,
        "grad_norm": 1.0,
        "update_s": 4.0,
    },
    {
        "phase": "eval",
        "step": 2,
        "wall_s": 120.0,
        "pass_at_1": 0.75,
        "mean_reward": 0.625,
        "format": 1.0,
    },
]
CONFIG = {"name": "coding-tiny", "gdsd": {"psi": 10.0, "trust": (0.02, 0.02)}, "seed": 0}
EVIL = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}&amp;\ud800\x00"


def chart(rows, title):
    return next(chart for chart in charts.charts_of(rows) if chart.title == title)


def test_report_holds_what_a_reader_looks_for(tmp_path):
    samples = [
        {
            "question": "Add one.",
            "before": "x - 1",
            "after": "x + 1",
            "before_score": 0.25,
            "after_score": 1.0,
        }
    ]
    path = write_report(tmp_path / "new", CONFIG, ROWS, samples)
    assert path == tmp_path / "new" / "report.html"
    assert [file.name for file in path.parent.iterdir()] == ["report.html"], "no partial file stays"
    page = path.read_text()
    for text in (
        "50.0%",
        "75.0%",
        "+25.0 points",
        "62.5%",
        "+37.5 points",
        "2 rounds",
        "2.0 minutes",
        "1,100 tokens/s",
        "Reward",
        "KL",
        "Trust region",
        "Seconds a round",
        "Add one.",
        "x - 1",
        "x + 1",
        "25% of tests",
        "100% of tests",
        "gdsd.psi",
        "(0.02, 0.02)",
    ):
        assert text in page, text
    assert page.count("<svg ") == len(charts.charts_of(ROWS)) == 9


def test_report_asks_for_nothing_from_outside():
    page = render(CONFIG, ROWS, [])
    assert not re.findall(r"<(?:script|link|iframe|object|img|base)\b|@import", page)
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#)""", page)
    assert not re.findall(r"url\((?!#)", page)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids)), (
        "charts of one page must not share ids: clipping would mix them up"
    )


@pytest.mark.parametrize("place", ["question", "before", "after", "config key", "config value"])
def test_texts_are_escaped_wherever_they_stand(tmp_path, place):
    samples = [{place: EVIL}] if not place.startswith("config") else []
    config = {"config key": {EVIL: 1}, "config value": {"name": EVIL}}.get(place, {})
    page = write_report(tmp_path, config, ROWS, samples).read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "{{ 7 * 7 }}&amp;amp;" in page
    assert "<script" not in page and "<img" not in page


NOTHING = [{"phase": "eval", "step": 0}, {"phase": "train", "step": 1, "kl": math.nan}]


@pytest.mark.parametrize("rows", [[], ROWS[:1], ROWS[:3], NOTHING])
def test_what_is_missing_is_left_out(rows):
    page = render({}, rows, [{}])
    assert page.count("<svg ") == len(charts.charts_of(rows))


def test_updates_are_summed_or_averaged_over_their_round():
    assert chart(ROWS, "Time").series[-1] == charts.Series("updates", [1, 2], [3.0, 4.0])
    assert chart(ROWS, "Trust region").series[0][1:3] == ([1, 2], [0.25, 1.0])
    assert chart(ROWS, "KL").series[0][1:3] == ([1, 2], [0.1, 0.2]), "null is left out of the mean"


def test_repeated_steps_are_averaged():
    rows = [
        {"phase": "eval", "step": step, "format": value}
        for step, value in [(0, 0.0), (0, 1.0), (3, 0.2), (4, math.inf)]
    ]
    assert charts.points(rows, "eval", "format") == ([0, 3], [0.5, 0.2])


def test_trend_keeps_straight_lines_straight():
    line = [float(i) for i in range(40)]
    assert charts.moving_mean(line, 5) == pytest.approx(line)
    assert charts.moving_mean([0.0, 1.0, 0.0, 1.0, 0.0], 2)[2] == pytest.approx(0.4)


@pytest.mark.parametrize("format, magic", [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_curves_of_several_runs(format, magic):
    runs = {"two seeds": [ROWS, ROWS], "one": [ROWS], "shuffled rewards": [ROWS[:2]]}
    picture = charts.curve_figure(runs, format=format)
    assert picture.startswith(magic)
    assert picture == charts.curve_figure(runs, format=format), "the same rows give the same file"
    if format == "svg":
        assert picture.count(b"shuffled rewards") >= 1 and charts.MUTED.encode() in picture


def test_a_comparison_is_one_page(tmp_path):
    page = comparison_page(
        "A & B", "all seeds", {"a": [ROWS, ROWS]}, [["run", "score"], ["a", "<b>"]]
    )
    assert (
        "<th>score</th>" in page
        and "<td>&lt;b&gt;</td>" in page
        and "A &amp; B" in page
        and "<svg" in page
    )
    assert charts.INK not in page.split("</style>")[1], "colours are the page's"


def test_distillation_shows_its_distance_and_speed():
    rows = [
        {
            "phase": "eval",
            "step": step,
            "pass_at_1": solved,
            "teacher_pass_at_1": 1.0,
            "kl": kl,
            "threshold_forwards_per_token": cost,
        }
        for step, solved, kl, cost in ((0, 0.0, 4.5, 1.5), (9, 0.9, 0.5, 0.75))
    ]
    said = dict((name, rest) for name, *rest in charts.headlines(rows))
    assert said["held-out KL to the teacher, nats a token"] == ["4.50", "0.50", "9.0 times less"]
    assert said["the same by the teacher"][:2] == ["100.0%", "100.0%"]
    assert chart(rows, "Forwards a token").series[0].y == [1.5, 0.75]
