"""The page: whole, self-contained, and safe to open whatever the model wrote."""

import json
import math
import re

import pytest

from gdsd_jax.report import charts, page
from tests.report.rows import PUZZLE, ROWS, UNJUDGED

CONFIG = {"name": "coding-tiny", "gdsd": {"psi": 10.0, "trust": (0.02, 0.02)}, "seed": 0}
SAMPLE = {
    "question": "Add one.",
    "before": "x - 1",
    "after": "x + 1",
    "before_score": 0.25,
    "after_score": 1.0,
}
EVIL = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}&amp;\ud800\x00"


def words(text):
    """What a reader of the page sees."""
    body = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r"<[^>]*>", " ", body)


def test_report_holds_what_a_reader_looks_for(tmp_path):
    path = page.write_report(tmp_path / "new", CONFIG, ROWS, [SAMPLE], "tests")
    assert path == tmp_path / "new" / "report.html"
    assert [file.name for file in path.parent.iterdir()] == ["report.html"], "no partial file stays"
    text = path.read_text()
    scores = ("50.0%", "75.0%", "+25.0 points", "62.5%", "+37.5 points")
    totals = ("2 rounds", "2.0 minutes", "1,100 tokens/s")
    drawn = ("Reward", "KL", "Trust region", "Seconds a round", "format")
    answers = ("Answers before and after", "Add one.", "x - 1", "x + 1", "tests 25%", "tests 100%")
    for wanted in (*scores, *totals, *drawn, *answers, "gdsd.psi", "(0.02, 0.02)"):
        assert wanted in text, wanted
    assert text.count("<svg ") == len(charts.charts_of(ROWS, "tests")) == 10


def test_report_of_a_task_that_is_no_code():
    scores = {"before_score": 0.5, "after_score": 1.0}
    text = page.render({}, PUZZLE, [{"before": "1 2", "after": "2 1", **scores}], "cells")
    for wanted in ("mean cells", "held-out cells, temperature 1", "<h3>valid</h3>"):
        assert wanted in text, wanted
    assert '<span class="bad">cells 50%</span>' in text
    assert '<span class="good">cells 100%</span>' in text
    assert not re.findall("test|program|format", words(text))


def test_answers_on_which_parts_disagree_are_shown():
    answer = {"question": "Add one.", "text": "x + 1", "parts": {"tests": 0.0, "format": 1.0}}
    text = page.render({}, ROWS, [], "tests", [answer])
    for wanted in ("disagree most", "Add one.", "x + 1", "tests 0.000", "format 1.000"):
        assert wanted in text, wanted
    assert "disagree" not in page.render({}, ROWS, [], "tests")
    evil = {"question": EVIL, "text": EVIL, "parts": {EVIL: 0.0}}
    assert "<script" not in page.render({}, ROWS, [], "tests", [evil])


def test_a_reward_has_no_percent_and_no_colour():
    scores = {"before_score": -2.5, "after_score": math.nan}
    text = page.render({}, PUZZLE, [{"before": "1 2", "after": "2 1", **scores}], "reward")
    assert '<span class="">reward -2.500</span>' in text
    assert "nan" not in words(text), "an answer without a verdict shows no score"


def test_report_where_nothing_is_judged():
    text = page.render({}, UNJUDGED, [{"question": "Q", "before": "a", "after": "b"}], "reward")
    assert text.count("<svg ") == len(charts.charts_of(UNJUDGED, "reward"))
    assert "9.0 times less" in text and "reward" not in words(text).lower()
    assert 'class="top"' in text
    text = page.render({}, UNJUDGED[1:3], [], "reward")
    assert 'class="top alone"' in text and '<div class="stack">' not in text


def test_report_asks_for_nothing_from_outside():
    text = page.render(CONFIG, ROWS, [], "tests")
    assert "default-src 'none'" in text
    assert not re.findall(r"<(?:script|link|iframe|object|img|base)\b|@import", text)
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#)""", text)
    assert not re.findall(r"url\((?!#)", text)


def test_charts_of_one_page_share_no_ids():
    """Clipping would mix them up, also of a part that is called like a chart."""
    rows = [{**row, "Loss": 1.0} if row["phase"] == "rollout" else row for row in ROWS]
    text = page.render(CONFIG, rows, [], "tests")
    assert text.count("<h3>Loss</h3>") == 2
    ids = re.findall(r' id="([^"]+)"', text)
    assert ids and len(ids) == len(set(ids))


PLACES = ["question", "before", "after", "config key", "config value", "part", "score"]


@pytest.mark.parametrize("place", PLACES)
def test_texts_are_escaped_wherever_they_stand(tmp_path, place):
    evil = EVIL.replace("\x00", "") if place in ("part", "score") else EVIL
    samples = [{place: evil}] if place in ("question", "before", "after") else []
    config = {"config key": {evil: 1}, "config value": {"name": evil}}.get(place, {})
    rows = [{**ROWS[2], evil: 1.0}, *ROWS] if place in ("part", "score") else ROWS
    score = evil if place == "score" else "tests"
    text = page.write_report(tmp_path, config, rows, samples, score).read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "{{ 7 * 7 }}&amp;amp;" in text
    assert "<script" not in text and "<img" not in text


NOTHING = [{"phase": "eval", "step": 0}, {"phase": "train", "step": 1, "kl": math.nan}]


@pytest.mark.parametrize("rows", [[], ROWS[:1], ROWS[:3], NOTHING])
def test_what_is_missing_is_left_out(rows):
    text = page.render({}, rows, [{}], "tests")
    assert text.count("<svg ") == len(charts.charts_of(rows, "tests"))


def test_a_comparison_is_one_page():
    table = [["run", "score"], ["a", "<b>"]]
    text = page.comparison_page("A & B", "all seeds", {"a": [ROWS, ROWS]}, table, "tests")
    for wanted in ("<th>score</th>", "<td>&lt;b&gt;</td>", "A &amp; B", "<svg"):
        assert wanted in text, wanted
    assert charts.INK not in text.split("</style>", 1)[1], "colours are the page's"


def test_answers_of_a_run_so_far(tmp_path):
    assert page.answer_lines(tmp_path, 3) == []
    (tmp_path / "samples").mkdir()
    for number, text in ((0, "?"), (20, "so\nso"), (40, "Paris")):
        rows = [{"question": "Where?", "text": text, "score": 1.0, "teacher": "Paris."}]
        rows += [{"question": "Who?", "text": text, "score": None}] * 2
        (tmp_path / "samples" / f"{number:06}.json").write_text(json.dumps(rows))
    assert page.answer_lines(tmp_path, 2) == [
        "Where?",
        "  before  '?'",
        "  after   'Paris'",
        "  teacher 'Paris.'",
        "Who?",
        "  before  '?'",
        "  after   'Paris'",
    ]
