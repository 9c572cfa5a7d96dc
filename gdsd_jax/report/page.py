"""The page of a run, report.html, and the page that shows several runs side by side.

Charts are put into the page itself, which needs no other file and no network.
"""

from collections.abc import Iterator, Mapping, Sequence
import os
import statistics
from typing import Any

from etils import epath

from gdsd_jax.report.charts import (
    Rows,
    charts_of,
    curve_figure,
    headlines,
    in_page,
    page_svg,
    points,
)


def write_report(
    workdir: str | os.PathLike,
    config: Mapping[str, Any],
    rows: Rows,
    samples: Sequence[Mapping[str, Any]],
) -> epath.Path:
    """Writes WORKDIR/report.html, whole or not at all, and returns its path.

    Args:
      workdir: local folder or gs:// address.
      config: the run's configuration, nested dicts allowed.
      rows: lines of metrics.jsonl in order; missing keys and nulls are tolerated.
      samples: what the model wrote for some problems: `question`, `before`, `after` (texts) and
        `before_score`, `after_score` (0..1), each of them optional. The texts are a model's, hence
        not trusted: they are escaped.
    """
    # a model can write lone surrogates
    page = render(config, rows, samples).encode("utf-8", errors="replace")
    path = epath.Path(workdir) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.partial"
    partial.write_bytes(page)
    return partial.replace(path)


def render(config: Mapping[str, Any], rows: Rows, samples: Sequence[Mapping[str, Any]]) -> str:
    """The page as text; arguments as in `write_report`."""
    import jinja2  # like matplotlib a second of start-up that nothing but the report needs
    from markupsafe import Markup

    pictures = [
        (chart, Markup(page_svg(chart, wide=not place)))
        for place, chart in enumerate(charts_of(rows))
    ]
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    blank = dict(question="", before=None, after=None, before_score=None, after_score=None)
    return environment.from_string(PAGE).render(
        name=config.get("name", "a run"),
        summary=summary(rows),
        headlines=headlines(rows),
        pictures=pictures,
        samples=[blank | dict(sample) for sample in samples],
        settings=list(flatten(config)),
        light=CSS_LIGHT,
        dark=CSS_DARK,
    )


def comparison_page(
    name: str, summary: str, runs: Mapping[str, Sequence[Rows]], table: Sequence[Sequence[str]]
) -> str:
    """A page with `curve_figure(runs)` above `table`, whose first row is its head."""
    import jinja2
    from markupsafe import Markup

    return (
        jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
        .from_string(COMPARISON)
        .render(
            name=name,
            summary=summary,
            picture=Markup(in_page(curve_figure(runs, format="svg"))),
            table=table,
            light=CSS_LIGHT,
            dark=CSS_DARK,
        )
    )


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


CSS_LIGHT = """--page:#f7f7f5; --card:#fff; --ink:#24292f; --muted:#6b737d; --grid:#e4e7eb;
  --code:#f6f7f8;
--hue0:#2662a9; --hue1:#c9641c; --hue2:#2e8f6a; --hue3:#8a5fb1; --hue4:#b3423a;
--hue5:#857a1c; --hue6:#2a8c9c;
--good:#1d7a52; --bad:#b3423a;"""
CSS_DARK = """--page:#14171a; --card:#1c2024; --ink:#e4e7ea; --muted:#98a1ab; --grid:#30363c;
  --code:#15181b;
--hue0:#6ca7ec; --hue1:#f0995a; --hue2:#5fc79d; --hue3:#bb97e0; --hue4:#f08a80;
--hue5:#d3c65e; --hue6:#6fd0e0;
--good:#5fc79d; --bad:#f08a80;"""

# No scripts, no outside resources: the policy below holds even if something in a sample got past
# the escaping.
HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ name }}</title>
<style>
:root { {{ light }} }
@media (prefers-color-scheme: dark) { :root { {{ dark }} } }
* { box-sizing: border-box; }
body { margin: 0; padding: 2.5rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: auto; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.75rem 0 .9rem; }
h3 { font-size: .95rem; margin: 0; }
p { margin: 0; }
.muted, .legend, dt { color: var(--muted); font-size: .85rem; }
.card { background: var(--card); border: 1px solid var(--grid); border-radius: 10px;
  padding: 1rem 1.1rem; min-width: 0; }
.top { display: grid; gap: 1rem; grid-template-columns: minmax(0, 5fr) minmax(0, 3fr);
  margin-top: 1.5rem; }
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
  border: 1px solid var(--grid); border-radius: 6px;
  font: .82rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
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
</style>
</head>
<body><main>
<header><h1>{{ name }}</h1><p class="muted">{{ summary }}</p></header>
"""

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
{% macro program(name, text, score) %}
<div><p class="muted">{{ name }}{% if score is not none %} ·
<span class="{{ 'good' if score >= 1 else 'bad' }}">
{{- "%.0f"|format(100 * score) }}% of tests</span>{% endif %}</p>
<pre>{{ text }}</pre></div>
{% endmacro %}
<section class="top">
{% for chart, svg in pictures[:1] %}{{ card(chart, svg) }}{% endfor %}
<div class="stack">
{% for name, before, after, change in headlines %}
<div class="card"><p class="muted">{{ name }}</p>
<p class="numbers"><span class="was">{{ before }} →</span> {{ after }}</p>
<p class="muted">{{ change }}</p></div>
{% endfor %}
</div></section>
<section class="charts">{% for chart, svg in pictures[1:] %}{{ card(chart,
  svg) }}{% endfor %}</section>
{% if samples %}<h2>Programs before and after</h2>{% endif %}
{% for sample in samples %}
<article class="card sample"><p>{{ sample.question }}</p><div class="pair">
{% if sample.before is not none %}{{ program("before", sample.before,
  sample.before_score) }}{% endif %}
{% if sample.after is not none %}{{ program("after", sample.after, sample.after_score) }}{% endif %}
</div></article>
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
