"""Pictures of a run: the page report.html, and the curves of several runs side by side.

Charts are SVG made by matplotlib and put into the page itself, which needs no other file and no
network. Rows are the lines of metrics.jsonl; a chart whose numbers are missing is left out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import io
import math
import os
import re
import statistics
from typing import Any, NamedTuple

from etils import epath

Rows = Sequence[Mapping[str, Any]]
TESTS_PASSED = ("mean_reward", "Held-out tests passed, temperature 1")

# Colours as matplotlib draws them. In the page each becomes the CSS variable of its name, which
# dark mode changes.
INK, MUTED, GRID = "#24292f", "#6b737d", "#e4e7eb"
HUES = ("#2662a9", "#c9641c", "#2e8f6a", "#8a5fb1", "#b3423a", "#857a1c", "#2a8c9c")
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid"} | {
    hue: f"hue{i}" for i, hue in enumerate(HUES)
}


class Series(NamedTuple):
    """One line of a chart."""

    label: str
    x: list[float]
    y: list[float]
    dots: bool = False  # at every point, for what is measured now and then


class Chart(NamedTuple):
    """Lines over one pair of axes."""

    title: str
    note: str  # what is measured, with its unit
    series: list[Series]
    xlabel: str = "round"
    share: bool = False  # y is a share, 0..1, shown in percent

    @property
    def legend(self) -> list[tuple[str, str]]:
        """(CSS variable, label) of every line."""
        return [(VARIABLES[hue], line.label) for hue, line in zip(HUES, self.series)]


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


def curve_figure(runs: Mapping[str, Sequence[Rows]], format: str = "png") -> bytes:
    """Held-out curves of several runs: tests passed, or of distilled students the distance to the
    teacher, and pass@1.

    Args:
      runs: for each name that is shown the rows of its seeds' metrics.jsonl; their mean is drawn
        over their range. Those with "shuffled" or "control" in their names are grey and dashed.
      format: "png" (dark text on white) or "svg".
    """
    figure, rows = (
        new_figure(8.4, 3.1),
        [row for seeds in runs.values() for rows in seeds for row in rows],
    )
    controls = [name for name in runs if "shuffled" in name or "control" in name]
    first = (
        ("kl", "Held-out KL to the teacher, nats a token")
        if points(rows, "eval", "kl")[0]
        else TESTS_PASSED
    )
    for place, (key, title) in enumerate(
        [first, ("pass_at_1", "Held-out problems solved, temperature 0")]
    ):
        axes = figure.add_subplot(1, 2, place + 1)
        hues = iter(HUES * len(runs))
        for name, seeds in runs.items():
            style = (
                dict(color=MUTED, linestyle="--") if name in controls else dict(color=next(hues))
            )
            x, mean = points([row for rows in seeds for row in rows], "eval", key)
            axes.plot(x, mean, label=name, marker="o", markersize=3, linewidth=1.6, **style)
            if len(seeds) > 1:
                low, high = (
                    points([row for rows in seeds for row in rows], "eval", key, end)[1]
                    for end in (min, max)
                )
                axes.fill_between(
                    x, low, high, color=style["color"], alpha=0.3 / len(runs), linewidth=0
                )
        axes.set_title(title, fontsize=10, color=INK, loc="left", pad=8)
        dress(axes, "round", share=key != "kl")
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower left",
        ncols=7,
        frameon=False,
        fontsize=8,
        labelcolor=INK,
    )
    return save(figure, format, dpi=160)


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


def charts_of(rows: Rows) -> list[Chart]:
    """The page's charts that have something to show, the scores first."""
    rows = by_round(rows)

    def lines(*parts: tuple[str, str, str]) -> list[Series]:
        return [
            Series(label, *points(rows, phase, key), dots=phase == "eval")
            for phase, key, label in parts
        ]

    charts = [
        Chart(
            "Programs that pass",
            "Share of tests passed or problems solved",
            lines(
                ("eval", "pass_at_1", "held-out, solved at temperature 0"),
                ("eval", "mean_reward", "held-out, tests at temperature 1"),
                ("eval", "teacher_pass_at_1", "teacher, solved at temperature 0"),
                ("rollout", "tests", "training, tests at temperature 1"),
            ),
            share=True,
        ),
        Chart(
            "Reward",
            "Mean over the completions of a round",
            lines(("rollout", "reward", "reward"), ("rollout", "format", "format alone")),
        ),
        Chart(
            "Distance to the teacher",
            "Held-out KL at masked positions, nats",
            lines(("eval", "kl", "KL")),
        ),
        Chart(
            "Forwards a token",
            "Held-out, temperature 0, saving passes counted",
            lines(
                ("eval", "threshold_forwards_per_token", "by a threshold"),
                ("eval", "forwards_per_token", "by the schedule"),
            ),
        ),
        Chart(
            "KL", "Divergence from the reference or the teacher, nats", lines(("train", "kl", "KL"))
        ),
        Chart(
            "Trust region",
            "Share of completions at its edge",
            lines(("train", "trust", "share")),
            share=True,
        ),
        Chart(
            "Loss",
            "Objective and norm of its gradient",
            lines(("train", "loss", "loss"), ("train", "grad_norm", "gradient norm")),
        ),
        Chart("Score", "Mean score of the completions, nats", lines(("train", "score", "score"))),
        Chart(
            "Time",
            "Seconds a round",
            [
                *lines(("rollout", "rollout_s", "rollout"), ("rollout", "reward_s", "rewards")),
                Series("updates", *points(rows, "train", "update_s", combine=sum)),
            ],
        ),
        Chart(
            "Speed",
            "Completion tokens a second in the rollout",
            lines(("rollout", "tokens_per_s", "tokens/s")),
        ),
        Chart("Length", "Mean tokens of a completion", lines(("rollout", "length", "tokens"))),
        Chart(
            "Supervised start", "Loss on noisy solutions", lines(("sft", "loss", "loss")), "step"
        ),
    ]
    charts = [chart._replace(series=[line for line in chart.series if line.x]) for chart in charts]
    return [chart for chart in charts if chart.series]


def by_round(rows: Rows) -> list[Mapping[str, Any]]:
    """The rows, each train line with the round of the last rollout before it in place of its own
    step."""
    found, current = [], None
    for row in rows:
        current = row["step"] if row.get("phase") == "rollout" else current
        is_update = row.get("phase") == "train" and current is not None
        found.append({**row, "step": current} if is_update else row)
    return found


def points(
    rows: Rows, phase: str, key: str, combine: Callable[[list[float]], float] = statistics.fmean
) -> tuple[list[float], list[float]]:
    """(steps, values) of one metric in the order of steps; values of the same step are combined,
    missing ones left out."""
    values: dict[float, list[float]] = {}
    for row in rows:
        value = row.get(key)
        if row.get("phase") == phase and value is not None and math.isfinite(value):
            values.setdefault(row["step"], []).append(value)
    steps = sorted(values)
    return steps, [combine(values[step]) for step in steps]


def headlines(rows: Rows) -> list[tuple[str, str, str, str]]:
    """(name, before, after, change) of the scores, as text."""
    found = []
    for key, name in (
        ("pass_at_1", "held-out problems solved, temperature 0"),
        ("threshold_pass_at_1", "the same by a threshold"),
        ("teacher_pass_at_1", "the same by the teacher"),
        ("mean_reward", "held-out tests passed, temperature 1"),
        ("format", "held-out programs in the asked form"),
    ):
        _, values = points(rows, "eval", key)
        if values:
            change = f"{100 * (values[-1] - values[0]):+.1f} points"
            found.append((name, f"{values[0]:.1%}", f"{values[-1]:.1%}", change))
    for key, name in (
        ("kl", "held-out KL to the teacher, nats a token"),
        (
            "threshold_forwards_per_token",
            "forwards a token by the threshold, saving passes counted",
        ),
    ):
        _, values = points(rows, "eval", key)
        if values and min(values[0], values[-1]) > 0:
            less = values[0] / values[-1]
            change = f"{less:.1f} times less" if less >= 1 else f"{1 / less:.1f} times more"
            found.append((name, f"{values[0]:.2f}", f"{values[-1]:.2f}", change))
    return found


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


def page_svg(chart: Chart, wide: bool) -> str:
    """The chart as an SVG element in the page's colours, in the page's font."""
    figure = new_figure(5.6, 3.0) if wide else new_figure(3.8, 2.2)
    axes = figure.add_subplot()
    for hue, line in zip(HUES, chart.series):
        window = len(line.y) // 25
        if window > 1 and not line.dots:  # long runs: the trend over what was measured
            axes.plot(line.x, line.y, color=hue, linewidth=0.8, alpha=0.3)
        trend = moving_mean(line.y, window) if not line.dots else line.y
        axes.plot(
            line.x,
            trend,
            color=hue,
            linewidth=1.6,
            **(dict(marker="o", markersize=3.5) if line.dots else {}),
        )
    dress(axes, chart.xlabel, chart.share)
    return in_page(save(figure, "svg", salt=chart.title))


def in_page(svg: bytes) -> str:
    """The picture as an element of the page, in the page's colours."""
    text = svg.decode()
    # ids that nothing refers to repeat in a page
    text = re.sub(r' id="[\w.]+_\d+"', "", text[text.index("<svg") :])
    for color, name in VARIABLES.items():
        text = text.replace(color, f"var(--{name})")
    return text.replace("<svg ", '<svg role="img" aria-hidden="true" ', 1)


def moving_mean(values: list[float], window: int) -> list[float]:
    """Mean over the values at most `window` places away, as many on either side, so that the ends
    do not bend."""
    reach = [min(i, window, len(values) - 1 - i) for i in range(len(values))]
    return (
        [statistics.fmean(values[i - r : i + r + 1]) for i, r in enumerate(reach)]
        if window > 1
        else values
    )


def new_figure(width: float, height: float):
    """An empty figure of that many inches; made without pyplot, whose state is global."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def dress(axes, xlabel: str, share: bool) -> None:
    """Plain axes: a light grid, no frame, whole numbers of rounds."""
    from matplotlib import ticker

    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8, labelcolor=MUTED)
    axes.set_xlabel(xlabel, fontsize=8, color=MUTED)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axes.yaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
    if share:
        axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.3g}%")
        axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]), top=min(1.02, axes.get_ylim()[1]))


def save(figure, format: str, salt: str = "", dpi: int = 100) -> bytes:
    """The picture's file, the same bytes for the same figure."""
    import matplotlib

    with (
        io.BytesIO() as file,
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt or "curves"}),
    ):
        undated = {"Date": None} if format == "svg" else None
        figure.savefig(file, format=format, dpi=dpi, transparent=format == "svg", metadata=undated)
        return file.getvalue()


CSS_LIGHT = """--page:#f7f7f5; --card:#fff; --ink:#24292f; --muted:#6b737d; --grid:#e4e7eb; --code:#f6f7f8;
--hue0:#2662a9; --hue1:#c9641c; --hue2:#2e8f6a; --hue3:#8a5fb1; --hue4:#b3423a; --hue5:#857a1c; --hue6:#2a8c9c;
--good:#1d7a52; --bad:#b3423a;"""
CSS_DARK = """--page:#14171a; --card:#1c2024; --ink:#e4e7ea; --muted:#98a1ab; --grid:#30363c; --code:#15181b;
--hue0:#6ca7ec; --hue1:#f0995a; --hue2:#5fc79d; --hue3:#bb97e0; --hue4:#f08a80; --hue5:#d3c65e; --hue6:#6fd0e0;
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
.card { background: var(--card); border: 1px solid var(--grid); border-radius: 10px; padding: 1rem 1.1rem; min-width: 0; }
.top { display: grid; gap: 1rem; grid-template-columns: minmax(0, 5fr) minmax(0, 3fr); margin-top: 1.5rem; }
.stack { display: grid; gap: 1rem; align-content: stretch; }
.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); margin-top: 1rem; }
.stack .card { display: flex; flex-direction: column; justify-content: center; }
.numbers { font-size: 1.45rem; font-weight: 600; font-variant-numeric: tabular-nums; letter-spacing: -.01em; }
.numbers .was { color: var(--muted); font-weight: 400; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .4rem 0; }
.legend i { display: inline-block; width: .9rem; height: 3px; border-radius: 2px; margin-right: .4rem;
  vertical-align: .22rem; }
figure { margin: 0; display: flex; flex-direction: column; }
svg { display: block; width: 100%; height: auto; margin-top: auto; padding-top: .5rem; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif !important; }
.sample { margin-bottom: 1rem; }
.pair { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); margin-top: .8rem; }
.pair > div { min-width: 0; }
pre { margin: .35rem 0 0; padding: .75rem .9rem; background: var(--code); border: 1px solid var(--grid); border-radius: 6px;
  font: .82rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--grid); }
.good { color: var(--good); font-weight: 600; }
.bad { color: var(--bad); font-weight: 600; }
dl { columns: 2 320px; column-gap: 2.5rem; margin: 0; }
dl div { display: flex; justify-content: space-between; gap: 1rem; padding: .22rem 0; border-bottom: 1px solid var(--grid);
  break-inside: avoid; }
dd { margin: 0; font: .82rem/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; text-align: right;
  overflow-wrap: anywhere; min-width: 0; }
@media (max-width: 760px) { .top { grid-template-columns: minmax(0, 1fr); } body { padding: 1.5rem .9rem 3rem; } }
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
<span class="{{ 'good' if score >= 1 else 'bad' }}">{{ "%.0f"|format(100 * score) }}% of tests</span>{% endif %}</p>
<pre>{{ text }}</pre></div>
{% endmacro %}
<section class="top">
{% for chart, svg in pictures[:1] %}{{ card(chart, svg) }}{% endfor %}
<div class="stack">
{% for name, before, after, change in headlines %}
<div class="card"><p class="muted">{{ name }}</p>
<p class="numbers"><span class="was">{{ before }} →</span> {{ after }}</p><p class="muted">{{ change }}</p></div>
{% endfor %}
</div></section>
<section class="charts">{% for chart, svg in pictures[1:] %}{{ card(chart, svg) }}{% endfor %}</section>
{% if samples %}<h2>Programs before and after</h2>{% endif %}
{% for sample in samples %}
<article class="card sample"><p>{{ sample.question }}</p><div class="pair">
{% if sample.before is not none %}{{ program("before", sample.before, sample.before_score) }}{% endif %}
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
