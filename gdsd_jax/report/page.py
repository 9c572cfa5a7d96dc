"""The page report.html of a run, and the page that compares runs.

A page holds its charts as SVG and needs no other file and no network. What a model or a task wrote
is not trusted: it is escaped, and the page's policy allows the page's own script alone, by its
hash.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
import functools
import hashlib
import os
import pathlib
import re
import statistics
from typing import Any, NamedTuple

from etils import epath

from gdsd_jax import paths
from gdsd_jax.meanings import sentence_of
from gdsd_jax.metrics import read_metrics
from gdsd_jax.report import answers
from gdsd_jax.report.before_after import entries_of, headlines, score_of
from gdsd_jax.report.charts import (
    FIRST,
    FURTHER,
    GROUPS,
    Chart,
    Rows,
    charts_of,
    comparison_charts,
    points,
)
from gdsd_jax.report.figures import VARIABLES, WIDE, chart_svg, hue_of

ASSETS = pathlib.Path(__file__).parent / "assets"


class Picture(NamedTuple):
    """A chart with its drawings."""

    chart: Chart
    legend: list[tuple[str, str, bool]]  # (CSS variable, label, whether it has dots)
    svg: str
    wide: str | None = None  # another drawing, for wide screens


def write_report(workdir: str | os.PathLike) -> epath.Path:
    """Writes WORKDIR/report.html from what the run has written there, whole or not at all, and
    returns its path.

    Args:
      workdir: local folder or gs:// address with metrics.jsonl, and if they are there config.json
        and samples/.

    Raises:
      FileNotFoundError: there is no metrics.jsonl.
      ValueError: a file is damaged; one line names it.
    """
    workdir = epath.Path(workdir)
    path = workdir / "report.html"
    paths.write_whole(path, encoded(page_of(workdir)))
    return path


def page_of(workdir: epath.Path) -> str:
    """The page of a run, from its files."""
    rows, settings = read_metrics(workdir / "metrics.jsonl"), entries_of(workdir)
    return render(settings, rows, *answers.read(workdir), score_of(settings))


def encoded(page: str) -> bytes:
    """The page's bytes; a model can write lone surrogates."""
    return page.encode("utf-8", errors="replace")


def render(
    config: Mapping[str, Any],
    rows: Rows,
    before: answers.Kept,
    after: answers.Kept,
    score: str,
) -> str:
    """The page of a run as text.

    Args:
      config: the run's configuration, nested dicts allowed.
      rows: lines of metrics.jsonl in order; missing keys and nulls are tolerated.
      before: answers of the first evaluation, as samples/ROUND.json holds them.
      after: those of the newest one; empty where there was one evaluation.
      score: name of what eval lines call mean_reward: "reward", or a part of the grades, 0..1.
    """
    pictures = [picture_of(chart, place) for place, chart in enumerate(charts_of(rows, score))]
    return filled(
        "run.html",
        name=config.get("name") or "a run",
        summary=summary(config, rows),
        headlines=headlines(rows, score),
        groups=grouped(pictures),
        problems=answers.problems_of(before, after, score),
        kinds=kinds_of(before),
        orders=answers.orders_of(after or before),
        settings=list(flatten(config)),
        meanings=meanings_of(rows),
    )


def comparison_page(
    name: str,
    summary: str,
    runs: Mapping[str, Sequence[Rows]],
    table: Sequence[Sequence[str]],
    score: str,
    differences: Sequence[Sequence[str]] = (),
    tests: Mapping[str, Sequence[Sequence[str]]] = {},
) -> str:
    """A page with the charts of several runs above `table`.

    Args:
      name: of the page.
      summary: a line below it.
      runs: for each name that is shown the rows of its seeds' metrics.jsonl.
      table: text; its first row is its head.
      score: as in `render`.
      differences: a table of settings, or nothing.
      tests: further tables by their headings.
    """
    charts = comparison_charts(runs, score)
    return filled(
        "comparison.html",
        name=name,
        summary=summary,
        entries=[(VARIABLES[hue_of(place)], run, False) for place, run in enumerate(runs)],
        pictures=[picture_of(chart, place, small=True) for place, chart in enumerate(charts)],
        table=table,
        differences=differences,
        tests=tests,
    )


def filled(template: str, **values: Any) -> str:
    """A template of assets/ with values in their places, all escaped but those that are Markup."""
    import jinja2  # like matplotlib a second of start-up that nothing else needs

    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FileSystemLoader(ASSETS),
    )
    style, script = asset("page.css"), asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        style=style, script=script, digest=digest, **values
    )


@functools.cache
def asset(name: str):
    """A file of assets/ as it stands."""
    from markupsafe import Markup

    return Markup((ASSETS / name).read_text())


def picture_of(chart: Chart, place: int, small: bool = False) -> Picture:
    """A chart with its drawings; the first of a page has a wide one besides."""
    legend = [
        (VARIABLES[hue_of(number)], line.label, line.dots)
        for number, line in enumerate(chart.series)
    ]
    narrow = in_page(chart_svg(chart, salt=f"chart {place}"), "narrow")
    if chart.group != FIRST or small:
        return Picture(chart, legend, narrow)
    wide = in_page(chart_svg(chart, size=WIDE, salt=f"wide chart {place}"), "wide")
    return Picture(chart, legend, narrow, wide)


def grouped(pictures: Sequence[Picture]) -> list[tuple[str, bool, list[Picture]]]:
    """(name, whether it is folded, pictures) of each group that has some."""
    found = []
    for group in GROUPS:
        inside = [picture for picture in pictures if picture.chart.group == group]
        if inside:
            found.append((group, group == FURTHER, inside))
    return found


def kinds_of(kept: answers.Kept) -> list[str]:
    """The kinds of answers that there are to choose from."""
    sampled = any("sampled" in one for one in kept)
    return [answers.COLD, answers.WARM] if sampled else [answers.COLD]


def meanings_of(rows: Rows) -> list[tuple[str, list[tuple[str, str]]]]:
    """(phase, [(key, meaning)]) of the keys that the rows have."""
    keys: dict[str, dict[str, None]] = {}
    for row in rows:
        keys.setdefault(row.get("phase", ""), {}).update(dict.fromkeys(row))
    found = []
    for phase, names in keys.items():
        left_out = ("phase", "step", "wall_s")
        told = [(key, sentence_of(phase, key)) for key in names if key not in left_out]
        found.append((phase, told))
    return found


def summary(config: Mapping[str, Any], rows: Rows) -> str:
    """One line on what was run, and its length."""
    named = [config.get(key) for key in ("model", "task", "objective")]
    parts = [pathlib.PurePath(str(one)).name for one in named if one]
    parts += [f"{len(points(rows, 'rollout', 'step')[0]):,} rounds"]
    parts.append(duration(max((row.get("wall_s") or 0.0 for row in rows), default=0.0)))
    _, speeds = points(rows, "rollout", "tokens_per_s")
    if speeds:
        parts.append(f"{statistics.median(speeds):,.0f} tokens/s")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 3600:
        return f"{seconds / 60:.1f} minutes"
    return f"{seconds / 3600:.1f} hours"


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, value as text) of every leaf."""
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def in_page(svg: bytes, look: str):
    """The picture as an element of the page of that class, in the page's colours and font."""
    from markupsafe import Markup

    text = svg.decode()
    # ids that nothing refers to repeat in a page
    text = re.sub(r' id="[\w.]+_\d+"', "", text[text.index("<svg") :])
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for color, name in VARIABLES.items():
        text = text.replace(color, f"var(--{name})")
    return Markup(text.replace("<svg ", f'<svg class="{look}" aria-hidden="true" ', 1))
