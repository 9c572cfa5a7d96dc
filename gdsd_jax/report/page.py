"""The page report.html of a run, and the page that compares runs.

A page holds its charts as SVG and needs no other file and no network. What a model or a task wrote
is not trusted: it is escaped, and the page's policy allows no scripts.
"""

from collections.abc import Iterator, Mapping, Sequence
import json
import math
import os
import re
import statistics
from typing import Any, NamedTuple

from etils import epath

from gdsd_jax import paths
from gdsd_jax.report.charts import (
    REWARD,
    VARIABLES,
    Rows,
    chart_svg,
    charts_of,
    curve_figure,
    headlines,
    points,
)


class Answer(NamedTuple):
    """One answer that the page shows."""

    name: str  # "before", "after" or "teacher"
    text: str
    grade: str  # its score as text; empty where it has none
    look: str  # CSS class of that: "good", "bad" or none


def write_report(
    workdir: str | os.PathLike,
    config: Mapping[str, Any],
    rows: Rows,
    samples: Sequence[Mapping[str, Any]],
    score: str,
    disagreeing: Sequence[Mapping[str, Any]] = (),
) -> epath.Path:
    """Writes WORKDIR/report.html, whole or not at all, and returns its path.

    Args:
      workdir: local folder or gs:// address.
      config: the run's configuration, nested dicts allowed.
      rows: lines of metrics.jsonl in order; missing keys and nulls are tolerated.
      samples: answers to some problems: `question`, `before`, `after`, `teacher` (texts) and
        `before_score`, `after_score` (the score of the answer), each of them optional.
      score: name of what eval lines call mean_reward: "reward", or a part of the grades, 0..1.
      disagreeing: answers on which the parts of the grades disagree: `question`, `text` and
        `parts`, numbers by name.
    """
    # a model can write lone surrogates
    page = render(config, rows, samples, score, disagreeing).encode("utf-8", errors="replace")
    path = epath.Path(workdir) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    paths.write_whole(path, page)
    return path


def render(
    config: Mapping[str, Any],
    rows: Rows,
    samples: Sequence[Mapping[str, Any]],
    score: str,
    disagreeing: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page as text; arguments as in `write_report`."""
    from markupsafe import Markup

    pictures = []
    for place, chart in enumerate(charts_of(rows, score)):
        svg = chart_svg(chart, wide=place == 0, salt=f"chart {place}")
        pictures.append((chart, Markup(in_page(svg))))
    shown = [(sample.get("question", ""), answers_of(sample, score)) for sample in samples]
    return filled(
        PAGE,
        name=config.get("name", "a run"),
        summary=summary(rows),
        headlines=headlines(rows, score),
        pictures=pictures,
        samples=shown,
        disagreeing=disagreeing,
        settings=list(flatten(config)),
    )


def comparison_page(
    name: str,
    summary: str,
    runs: Mapping[str, Sequence[Rows]],
    table: Sequence[Sequence[str]],
    score: str,
) -> str:
    """A page with `curve_figure(runs, score)` above `table`, whose first row is its head."""
    from markupsafe import Markup

    picture = Markup(in_page(curve_figure(runs, score, format="svg")))
    return filled(COMPARISON, name=name, summary=summary, picture=picture, table=table)


def filled(template: str, **values: Any) -> str:
    """The template with values in their places, all escaped but those that are Markup."""
    import jinja2  # like matplotlib a second of start-up that nothing else needs

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(template).render(light=CSS_LIGHT, dark=CSS_DARK, **values)


def answers_of(sample: Mapping[str, Any], score: str) -> list[Answer]:
    """The answers that a sample has: before, after and the teacher's."""
    found = []
    for name in ("before", "after", "teacher"):
        text, value = sample.get(name), sample.get(f"{name}_score")
        if text is None:
            continue
        if value is None or not math.isfinite(value):
            found.append(Answer(name, text, "", ""))
        elif score == REWARD:  # any scale: nothing says which rewards are good
            found.append(Answer(name, text, f"{score} {value:.3f}", ""))
        else:
            look = "good" if value >= 1 else "bad"
            found.append(Answer(name, text, f"{score} {value:.0%}", look))
    return found


def answer_lines(workdir: str | os.PathLike, count: int) -> list[str]:
    """The first held-out questions of a run with its answers so far, a line each: before, now, and
    the teacher's where there is one."""
    kept = sorted((epath.Path(workdir) / "samples").glob("*.json"))
    if not kept:
        return []
    before, now = (json.loads(path.read_text())[:count] for path in (kept[0], kept[-1]))
    lines = []
    for old, new in zip(before, now):
        texts = {"before": old["text"], "after": new["text"], "teacher": new.get("teacher")}
        lines.append(old["question"])
        lines += [f"  {name:7} {text!r}" for name, text in texts.items() if text is not None]
    return lines


def summary(rows: Rows) -> str:
    """One line on the length of the run."""
    rounds = len(points(rows, "rollout", "step")[0])
    seconds = max((row.get("wall_s") or 0.0 for row in rows), default=0.0)
    _, speeds = points(rows, "rollout", "tokens_per_s")
    parts = [f"{rounds} rounds", f"{seconds / 60:.1f} minutes"]
    if speeds:
        parts.append(f"{statistics.median(speeds):,.0f} tokens/s")
    return " · ".join(parts)


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, value as text) of every leaf."""
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def in_page(svg: bytes) -> str:
    """The picture as an element of the page, in the page's colours and font."""
    text = svg.decode()
    # ids that nothing refers to repeat in a page
    text = re.sub(r' id="[\w.]+_\d+"', "", text[text.index("<svg") :])
    for color, name in VARIABLES.items():
        text = text.replace(color, f"var(--{name})")
    return text.replace("<svg ", '<svg role="img" aria-hidden="true" ', 1)


CSS_LIGHT = """--page:#f7f7f5; --card:#fff; --ink:#24292f; --muted:#6b737d; --grid:#e4e7eb;
--code:#f6f7f8; --hue0:#2662a9; --hue1:#c9641c; --hue2:#2e8f6a; --hue3:#8a5fb1; --hue4:#b3423a;
--hue5:#857a1c; --hue6:#2a8c9c; --good:#1d7a52; --bad:#b3423a;"""
CSS_DARK = """--page:#14171a; --card:#1c2024; --ink:#e4e7ea; --muted:#98a1ab; --grid:#30363c;
--code:#15181b; --hue0:#6ca7ec; --hue1:#f0995a; --hue2:#5fc79d; --hue3:#bb97e0; --hue4:#f08a80;
--hue5:#d3c65e; --hue6:#6fd0e0; --good:#5fc79d; --bad:#f08a80;"""

CSS = """
* { box-sizing: border-box; }
body { margin: 0; padding: 2.5rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: auto; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.75rem 0 .9rem; }
h3 { font-size: .95rem; margin: 0; }
p { margin: 0; }
h1, h3, .muted, .legend, dt { overflow-wrap: anywhere; }
.muted, .legend, dt { color: var(--muted); font-size: .85rem; }
.card { background: var(--card); border: 1px solid var(--grid); border-radius: 10px;
  padding: 1rem 1.1rem; min-width: 0; }
.top { display: grid; gap: 1rem; grid-template-columns: minmax(0, 5fr) minmax(0, 3fr);
  margin-top: 1.5rem; }
.alone { grid-template-columns: minmax(0, 1fr); }
.stack { display: grid; gap: 1rem; align-content: stretch; }
.charts { display: grid; gap: 1rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); }
.stack .card { display: flex; flex-direction: column; justify-content: center; }
.numbers { font-size: 1.45rem; font-weight: 600; font-variant-numeric: tabular-nums;
  letter-spacing: -.01em; }
.numbers .was { color: var(--muted); font-weight: 400; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .4rem 0; }
.legend i { display: inline-block; width: .9rem; height: 3px; border-radius: 2px;
  margin-right: .4rem; vertical-align: .22rem; }
figure { margin: 0; display: flex; flex-direction: column; }
svg { display: block; width: 100%; height: auto; margin-top: auto; padding-top: .5rem; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif !important; }
.sample { margin-bottom: 1rem; }
.pair { display: grid; gap: 1rem; margin-top: .8rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); }
.pair > div { min-width: 0; }
pre { margin: .35rem 0 0; padding: .75rem .9rem; background: var(--code);
  border: 1px solid var(--grid); border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere;
  font: .82rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--grid); }
.good { color: var(--good); font-weight: 600; }
.bad { color: var(--bad); font-weight: 600; }
dl { columns: 2 320px; column-gap: 2.5rem; margin: 0; }
dl div { display: flex; justify-content: space-between; gap: 1rem; padding: .22rem 0;
  border-bottom: 1px solid var(--grid); break-inside: avoid; }
dd { margin: 0; font: .82rem/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  text-align: right; overflow-wrap: anywhere; min-width: 0; }
@media (max-width: 760px) {
  .top { grid-template-columns: minmax(0, 1fr); }
  body { padding: 1.5rem .9rem 3rem; }
}
"""

# No scripts, no outside resources: the policy below holds even if something in a sample got past
# the escaping.
HEAD = (
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ name }}</title>
<style>
:root { {{ light }} }
@media (prefers-color-scheme: dark) { :root { {{ dark }} } }"""
    + CSS
    + """</style>
</head>
<body><main>
<header><h1>{{ name }}</h1><p class="muted">{{ summary }}</p></header>
"""
)

PAGE = (
    HEAD
    + """{% macro card(chart, svg) %}
<figure class="card" aria-label="{{ chart.title }}: {{ chart.note }}">
<h3>{{ chart.title }}</h3><p class="muted">{{ chart.note }}</p>
{% if chart.series|length > 1 %}
<div class="legend">
{% for hue, label in chart.legend %}
<span><i style="background:var(--{{ hue }})"></i>{{ label }}</span>
{% endfor %}
</div>
{% endif %}
{{ svg }}
</figure>
{% endmacro %}
<section class="top{% if not headlines %} alone{% endif %}">
{% for chart, svg in pictures[:1] %}{{ card(chart, svg) }}{% endfor %}
{% if headlines %}
<div class="stack">
{% for name, before, after, change in headlines %}
<div class="card"><p class="muted">{{ name }}</p>
<p class="numbers"><span class="was">{{ before }} →</span> {{ after }}</p>
<p class="muted">{{ change }}</p></div>
{% endfor %}
</div>
{% endif %}
</section>
<section class="charts">{% for chart, svg in pictures[1:] %}{{ card(chart, svg) }}{% endfor %}
</section>
{% if samples %}<h2>Answers before and after</h2>{% endif %}
{% for question, answers in samples %}
<article class="card sample"><p>{{ question }}</p><div class="pair">
{% for answer in answers %}
<div><p class="muted">{{ answer.name }}{% if answer.grade %} ·
<span class="{{ answer.look }}">{{ answer.grade }}</span>{% endif %}</p>
<pre>{{ answer.text }}</pre></div>
{% endfor %}
</div></article>
{% endfor %}
{% if disagreeing %}<h2>Where the parts of the grades disagree most</h2>{% endif %}
{% for answer in disagreeing %}
<article class="card sample"><p>{{ answer.question }}</p>
<p class="muted">{% for name, value in answer.parts.items() %}{{ name }} {{ "%.3f"|format(value) }}
{% if not loop.last %}· {% endif %}{% endfor %}</p>
<pre>{{ answer.text }}</pre></article>
{% endfor %}
<h2>Configuration</h2>
<section class="card"><dl>
{% for key, value in settings %}
<div><dt>{{ key }}</dt><dd>{{ value }}</dd></div>
{% endfor %}
</dl></section>
</main></body></html>
"""
)

COMPARISON = (
    HEAD
    + """<figure class="card" style="margin-top: 1.5rem">{{ picture }}</figure>
<h2>Scores</h2>
<section class="card"><table>
<tr>{% for cell in table[0] %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for cells in table[1:] %}<tr>{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table></section>
</main></body></html>
"""
)
