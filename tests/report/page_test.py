"""The page: whole, self-contained, and safe to open whatever the model wrote."""

import base64
import hashlib
import json
import math
import re
import subprocess
import sys

import pytest

from gdsd_jax.report import answers, charts, figures, page
from tests.report.rows import PUZZLE, ROWS, UNJUDGED

CONFIG = {"name": "coding-tiny", "gdsd": {"psi": 10.0, "trust": (0.02, 0.02)}, "seed": 0}
BAD = {"reward": 0.25, "solved": 0.0, "tests": 0.25, "format": 1.0}
GOOD = {"reward": 1.0, "solved": 1.0, "tests": 1.0, "format": 0.0}
BEFORE = {"question": "Add one.", "text": "x - 1", "score": 0.25, "grades": BAD}
AFTER = {
    **BEFORE,
    "text": "x + 1",
    "score": 1.0,
    "grades": GOOD,
    "sampled": {"text": "1 + x", "grades": {**GOOD, "reward": 0.125}},
    "order": [["x", 1], [" +", 3], [" 1", 2]],
}
EVIL = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}&amp;\ud800\x00"


def words(text):
    """What a reader of the page sees."""
    body = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r"<[^>]*>", " ", body)


def written(workdir, config, rows, before, after, score):
    """The workdir of a run, as far as its page reads it."""
    (workdir / "samples").mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps({**config, "score": score}))
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number, kept in enumerate((before, after)):
        (workdir / "samples" / f"{number:06}.json").write_text(json.dumps(kept))
    return workdir


def cards(text):
    return len(re.findall('<figure class="card"', text))


def test_report_holds_what_a_reader_looks_for(tmp_path):
    workdir = written(tmp_path / "run", CONFIG, ROWS, [BEFORE], [AFTER], "tests")
    there = {path.name for path in workdir.iterdir()}
    path = page.write_report(workdir)
    assert path == workdir / "report.html"
    assert {path.name for path in workdir.iterdir()} - there == {"report.html"}, "no partial file"
    text = path.read_text()
    scores = ("50.0%", "75.0%", "+25.0 points", "62.5%", "+37.5 points")
    totals = ("2 rounds", "2.0 minutes", "1,100 tokens/s")
    drawn = ("Reward", "KL", "Trust region", "Seconds a round", "format")
    shown = ("Add one.", "x - 1", "x + 1", "1 + x", "reward 0.25", "reward 0.12", "not solved")
    for wanted in (*scores, *totals, *drawn, *shown, "gdsd.psi", "[0.02, 0.02]"):
        assert wanted in text, wanted
    assert cards(text) == len(charts.charts_of(ROWS, "tests")) == 11


def test_report_of_a_task_that_is_no_code():
    before = [{"text": "1 2", "grades": {"cells": 0.5, "solved": 0.0}}]
    after = [{"text": "2 1", "grades": {"cells": 1.0, "solved": 1.0}}]
    text = page.render({}, PUZZLE, before, after, "cells")
    for wanted in ("mean cells", "held-out cells, temperature 1", "<h3>valid</h3>"):
        assert wanted in text, wanted
    assert re.search('class="grades bad"><b>before</b>.*cells 0.50.*<pre>1 2<', text, re.DOTALL)
    assert re.search('class="grades good"><b>after</b>.*cells 1<.*<pre>2 1<', text, re.DOTALL)
    assert not re.findall("tests|program|format", words(text))


def test_problems_carry_what_they_are_sorted_by():
    (one,) = answers.problems_of([BEFORE], [AFTER], "tests")
    assert one.number == 1
    assert one.ranks == [(1.0, 0.75, 0.0), (0.125, None, 0.0)], "a temperature each"
    assert [(answer.name, answer.kind, answer.look) for answer in one.answers] == [
        ("before", "temperature 0", "bad"),
        ("after", "temperature 0", "good"),
        ("after", "temperature 1", "good"),
    ]
    (first,) = answers.problems_of([BEFORE], [], "tests")
    assert first.ranks[0][:2] == (0.25, None)
    assert [answer.name for answer in first.answers] == ["before"]
    unjudged = [{"text": "", "grades": {"reward": math.nan}}, {"text": "", "grades": None}]
    for one in answers.problems_of(unjudged, unjudged, "tests"):
        assert one.ranks == [(None, None, 0.0)] * 2
    text = page.render({}, ROWS, [BEFORE], [AFTER], "tests")
    assert 'data-reward0="1.0"' in text and 'data-gain0="0.75"' in text
    assert 'data-reward1="0.125"' in text and "data-gain1" not in text


def test_answers_on_which_parts_disagree_are_known():
    """Whatever the scales of the parts."""

    def apart(**parts):
        rows = [dict(zip(parts, values)) for values in zip(*parts.values())]
        return answers.disagreements(rows)

    near, long = [0, 10, 5, 10], [0.2, 0.2, 0.1, 0.1]
    assert apart(near=near, long=long) == [1.0, 0.0, 0.5, 1.0]
    assert apart(near=[0, 1], long=[0, 1]) == [0.0, 0.0], "they agree"
    assert apart(near=[0, 1], long=[1, 1]) == [0.0, 0.0], "one says nothing"
    assert apart(near=[0, 1], reward=[1, 0], solved=[1, 0]) == [0.0, 0.0], "there is one part"
    unjudged = answers.disagreements([{}, {"near": 1, "long": 0}, {"near": 0, "long": 1}])
    assert unjudged == [0.0, 1.0, 1.0]


def test_the_order_of_unmasking_is_a_picture():
    (order,) = answers.orders_of([BEFORE, AFTER])
    assert order.passes == 3 and [cell.shade for cell in order.cells] == [0, 6, 3]
    text = page.render({}, ROWS, [BEFORE], [AFTER], "tests")
    assert re.search(r'title="pass 3"> \+</span>', text)
    marks = re.findall(r'<rect x="(\d)"\s+y="(\d)"', text)
    assert marks == [("0", "2"), ("1", "0"), ("2", "1")], "from left to right, the first pass below"
    assert "unmasked" not in words(page.render({}, ROWS, [BEFORE], [], "tests"))
    assert answers.orders_of([{"order": [["x", 1]]}]) == [], "one token has no order"


def test_an_answer_without_a_verdict_has_no_grades_and_no_colour():
    kept = [{"text": "1 2", "score": None, "grades": {"reward": -2.5, "cells": math.nan}}]
    text = page.render({}, PUZZLE, kept, [], "reward")
    assert re.search(r'class="grades ">\s*<b>before</b>\s*<span>reward -2.50', text)
    assert "nan" not in words(text).lower()
    earlier = page.render({}, PUZZLE, [{"text": "1 2", "score": 0.5}], [], "cells")
    assert "cells 0.50" in earlier, "a file of an earlier version"


def test_report_where_nothing_is_judged():
    kept = [{"question": "Q", "text": "a", "score": None, "grades": {}}]
    text = page.render({}, UNJUDGED, kept, kept, "reward")
    assert cards(text) == len(charts.charts_of(UNJUDGED, "reward"))
    shown = text[: text.index('id="answers"')]
    assert "9.0 times less" in shown and "reward" not in words(shown).lower()
    assert 'class="top"' in text
    text = page.render({}, UNJUDGED[1:3], [], [], "reward")
    assert 'class="top alone"' in text and 'class="card facts"' not in text


def test_report_asks_for_nothing_from_outside():
    text = page.render(CONFIG, ROWS, [BEFORE], [AFTER], "tests")
    assert not re.findall(r"<(?:link|iframe|object|img|base)\b|@import", text)
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#)""", text)
    assert not re.findall(r"url\((?!#)", text)


def test_the_policy_allows_the_pages_own_script_alone():
    text = page.render(CONFIG, ROWS, [BEFORE], [AFTER], "tests")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Security-Policy"\s+content="([^"]*)"', text)
    assert policy == (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )
    assert not re.findall(r"<[^>]* on\w+=", text)


def test_every_number_of_the_page_is_explained():
    text = page.render(CONFIG, ROWS, [], [], "tests")
    told = text[text.index('id="meanings"') :]
    keys = {key for row in ROWS for key in row} - {"phase", "step", "wall_s"}
    for key in keys:
        assert re.search(rf"<dt>{key}</dt><dd>\w", told), key
    own = page.render(CONFIG, [{**ROWS[3], "mine": 1.0}], [], [], "tests")
    assert "<dt>mine</dt><dd>a number of the run&#39;s own objective</dd>" in own


def test_charts_of_one_page_share_no_ids():
    """Clipping would mix them up, also of a part that is called like a chart."""
    rows = [{**row, "Loss": 1.0} if row["phase"] == "rollout" else row for row in ROWS]
    text = page.render(CONFIG, rows, [], [], "tests")
    assert text.count("<h3>Loss</h3>") == 2
    ids = re.findall(r' id="([^"]+)"', text)
    assert ids and len(ids) == len(set(ids))


PLACES = ["question", "text", "teacher", "sampled", "order", "grade"]
PLACES += ["config key", "config value", "part", "score"]


@pytest.mark.parametrize("place", PLACES)
def test_texts_are_escaped_wherever_they_stand(tmp_path, place):
    evil = EVIL.replace("\x00", "") if place in ("part", "score", "config key") else EVIL
    kept = {
        "sampled": {"sampled": {"text": evil, "grades": {}}},
        "order": {"order": [[evil, 1], ["", 2]]},
        "grade": {"grades": {evil: 1.0}},
    }.get(place, {place: evil} if place in ("question", "text", "teacher") else {})
    config = {"config key": {evil: 1}, "config value": {"name": evil}}.get(place, {})
    rows = [{**ROWS[2], evil: 1.0}, *ROWS] if place in ("part", "score") else ROWS
    score = evil if place == "score" else "tests"
    workdir = written(tmp_path / "run", config, rows, [{"text": "a"} | kept], [], score)
    (workdir / "samples" / "000001.json").unlink()
    text = page.write_report(workdir).read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "{{ 7 * 7 }}&amp;amp;" in text
    assert text.count("<script") == 1 and "<img" not in text


NOTHING = [{"phase": "eval", "step": 0}, {"phase": "train", "step": 1, "kl": math.nan}]


@pytest.mark.parametrize("rows", [[], ROWS[:1], ROWS[:3], NOTHING])
def test_what_is_missing_is_left_out(rows):
    text = page.render({}, rows, [{"text": ""}], [], "tests")
    assert cards(text) == len(charts.charts_of(rows, "tests"))


def test_damaged_files_are_named(tmp_path):
    workdir = written(tmp_path / "run", CONFIG, ROWS, [BEFORE], [AFTER], "tests")
    (workdir / "samples" / "000001.json").write_text("[{")
    with pytest.raises(ValueError, match=r"000001\.json is not JSON"):
        page.write_report(workdir)
    assert not (workdir / "report.html").exists()


def test_a_comparison_is_one_page():
    table = [["run", "score"], ["a", "<b>"]]
    runs = {"a": [ROWS, ROWS], "none": [[]]}
    text = page.comparison_page("A & B", "all seeds", runs, table, "tests", [["x", "1", "2"]])
    for wanted in ("<th>score</th>", "<td>&lt;b&gt;</td>", "A &amp; B", "<svg", "<th>2</th>"):
        assert wanted in text, wanted
    assert cards(text) == len(charts.comparison_charts(runs, "tests"))
    assert "score" not in words(text.split("<th>score</th>")[0]).lower(), "that is a likelihood"
    assert figures.INK not in text.split("</style>", 1)[1], "colours are the page's"


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "gdsd_jax.report", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_runs_on_one_page_by_a_command(tmp_path):
    one = written(tmp_path / "one" / "run", CONFIG, ROWS, [BEFORE], [AFTER], "tests")
    two = written(tmp_path / "two" / "run", {**CONFIG, "seed": 1}, ROWS[:6], [], [], "tests")
    out = tmp_path / "page.html"
    done = command(one, two, f"--out={out}")
    assert done.returncode == 0 and done.stdout == f"report: {out}\n", done.stderr
    text = out.read_text()
    assert "<th>one/run</th><th>two/run</th>" in text and "50.0% → 75.0%" in text
    assert "<td>seed</td><td>0</td><td>1</td>" in text, "settings that differ"
    assert "<td>gdsd.psi</td>" not in text
    assert command(one).returncode == 0 and (one / "report.html").exists(), "one run: its own page"
    for arguments, said in (
        ((one, two), "--out is missing"),
        ((tmp_path, one, f"--out={out}"), "has no metrics.jsonl: name the workdir of a run"),
    ):
        done = command(*arguments)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_answers_of_a_run_so_far(tmp_path):
    assert answers.answer_lines(tmp_path, 3) == []
    (tmp_path / "samples").mkdir()
    for number, text in ((0, "?"), (20, "so\nso"), (40, "Paris")):
        rows = [{"question": "Where?", "text": text, "score": 1.0, "teacher": "Paris."}]
        rows += [{"question": "Who?", "text": text, "score": None}] * 2
        (tmp_path / "samples" / f"{number:06}.json").write_text(json.dumps(rows))
    assert answers.answer_lines(tmp_path, 2) == [
        "Where?",
        "  before  '?'",
        "  after   'Paris'",
        "  teacher 'Paris.'",
        "Who?",
        "  before  '?'",
        "  after   'Paris'",
    ]
