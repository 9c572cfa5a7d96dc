"""Draws charts: SVG for pages, PNG for guides."""

from collections.abc import Mapping, Sequence
import io
import math

from gdsd_jax.report.charts import (
    Chart,
    Rows,
    Series,
    has_any_scale,
    have_points,
    is_distilled,
    moving_mean,
    run_series,
)

# Colours as matplotlib draws them. In the page each becomes the CSS variable of its name, which
# dark mode changes.
INK, MUTED, GRID = "#24292f", "#6b737d", "#e4e7eb"
HUES = ("#2662a9", "#c9641c", "#2e8f6a", "#8a5fb1", "#b3423a", "#857a1c", "#2a8c9c")
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid"}
VARIABLES |= {hue: f"hue{place}" for place, hue in enumerate(HUES)}
SMALL, WIDE = (3.8, 2.1), (7.4, 3.1)  # inches of a chart in a page
NEAR = 0.01  # of the values' range: lines that are so near cover one another
DASH = 4.0  # widths of a line in a dash


def hue_of(place: int) -> str:
    """The colour of a chart's line."""
    return HUES[place % len(HUES)]


def chart_svg(chart: Chart, size: tuple[float, float] = SMALL, salt: str = "chart") -> bytes:
    """The chart as an SVG file, without its title and legend, which the page writes itself.

    Pictures of one page need different `salt`, so that they share no ids.
    """
    figure = new_figure(*size)
    axes = figure.add_subplot()
    layers = layers_of(chart.series, chart.is_log)
    for place, line in enumerate(chart.series):
        if line.x:
            draw(axes, line, hue_of(place), 0.3 / len(chart.series), layers[place])
    dress(axes, chart.xlabel, chart.share, chart.is_log)
    if chart.unit:
        axes.set_title(chart.unit, loc="left", fontsize=8, color=MUTED, pad=6)
    return save(figure, "svg", salt=salt)


def draw(axes, line: Series, color: str, alpha: float, layer: tuple[int, int] = (0, 1)) -> None:
    """One line, over the range of its seeds; of a long one the trend over what was measured.

    Args:
      axes: where it is drawn.
      line: what is drawn.
      color: of the line.
      alpha: of the range.
      layer: (place, size) as in `layers_of`: above others it is dashed, below them its dots are
        larger.
    """
    place, size = layer
    look = {"color": color, "label": line.label, "linewidth": 1.6}
    if place:
        look |= {"linestyle": (0, (DASH * (size - place), DASH * place))}
    if size > 1:
        look |= {"zorder": 4 + place / size}
    if line.low is not None:
        x, low = with_holes(line.x, line.low, line.gaps)
        _, high = with_holes(line.x, line.high, line.gaps)
        axes.fill_between(x, low, high, color=color, alpha=alpha, linewidth=0)
    if line.dots or len(line.y) == 1:
        small = 3.5 if len(line.x) < 40 else 1.5
        # over what is measured all the time
        look = {"zorder": 3, **look, "markersize": small + 1.8 * (size - 1 - place)}
        axes.plot(*with_holes(line.x, line.y, line.gaps), marker="o", **look)
        return
    window = len(line.y) // 25
    if window > 1:
        axes.plot(*with_holes(line.x, line.y, line.gaps), color=color, linewidth=0.7, alpha=0.2)
    # the first and last means are of few values: they are noise
    inner = slice(window // 3, len(line.y) - window // 3)
    trend = moving_mean(line.y, window)
    x, y = with_holes(line.x[inner], trend[inner], line.gaps)
    axes.plot(x, y, **look)
    alone = lone(y)
    if line.gaps and alone:  # a line needs two points
        look |= {"linestyle": "none", "label": "_"}
        axes.plot([x[i] for i in alone], [y[i] for i in alone], marker="o", markersize=2.5, **look)


def layers_of(series: Sequence[Series], log: bool = False) -> list[tuple[int, int]]:
    """(place, size) of each line among those that lie on one another: (0, 1) is one by itself."""
    scale = math.log10 if log else float
    scaled = [{x: scale(y) for x, y in zip(line.x, line.y)} for line in series]
    values = [y for line in scaled for y in line.values()]
    near = NEAR * (max(values) - min(values)) if values else 0.0
    groups: list[list[int]] = []
    for number, line in enumerate(scaled):
        for group in groups:
            if coincide(scaled[group[0]], line, near):
                group.append(number)
                break
        else:
            groups.append([number])
    places = {number: (group.index(number), len(group)) for group in groups for number in group}
    return [places[number] for number in range(len(series))]


def coincide(one: Mapping[float, float], other: Mapping[float, float], near: float) -> bool:
    """Whether two lines, {x: y}, lie on one another at half of their points or more."""
    both = [abs(one[x] - other[x]) <= near for x in one.keys() & other.keys()]
    return bool(both) and 2 * sum(both) >= min(len(one), len(other))


def with_holes(
    x: Sequence[float], y: Sequence[float], gaps: Sequence[float]
) -> tuple[Sequence[float], Sequence[float]]:
    """The line with NaN at the gaps, which is not drawn."""
    if not gaps:
        return x, y
    found = sorted([*zip(x, y), *((gap, math.nan) for gap in gaps)], key=lambda point: point[0])
    return [point[0] for point in found], [point[1] for point in found]


def lone(y: Sequence[float]) -> list[int]:
    """Places of the values that have none beside them."""
    around = [math.nan, *y, math.nan]
    return [
        place
        for place, value in enumerate(y)
        if not math.isnan(value) and math.isnan(around[place]) and math.isnan(around[place + 2])
    ]


def curve_figure(runs: Mapping[str, Sequence[Rows]], score: str, format: str = "png") -> bytes:
    """Held-out curves of several runs side by side.

    The first panel shows `score`, or of distilled students the distance to the teacher; the second
    shows pass@1. A panel without numbers is left out. Students are drawn over the answer tokens
    that they have read.

    Args:
      runs: for each name that is shown the rows of its seeds' metrics.jsonl; their mean is drawn
        over their range.
      score: name of what eval lines call mean_reward.
      format: "png" (dark text on white) or "svg".
    """
    panels = {
        "mean_reward": f"Held-out {score}, temperature 1",
        "pass_at_1": "Held-out problems solved, temperature 0",
    }
    distilled = is_distilled(runs)
    if distilled:
        del panels["mean_reward"]
        panels = {"kl_common": "Held-out KL to the teacher, nats a token"} | panels
    shares = {"pass_at_1"} | (set() if has_any_scale(score) else {"mean_reward"})
    charts = [
        Chart(
            title,
            "",
            run_series(runs, "eval", key, by_tokens=distilled),
            xlabel="answer tokens" if distilled else "round",
            share=key in shares,
        )
        for key, title in panels.items()
    ]
    return side_by_side([one for one in charts if have_points(one.series)] or charts, format)


def probe_figure(runs: Mapping[str, Sequence[Rows]], format: str = "png") -> bytes | None:
    """What the updates of several runs did to a few completions of each round (gdsd_jax/probe.py);
    None where no run was probed. The arguments are those of `curve_figure`."""
    panels = {
        "move_share": "Share of the target that the updates made",
        "mismatch_gap": "ELBO less likelihood, nats a token",
    }
    charts = [Chart(title, "", run_series(runs, "probe", key)) for key, title in panels.items()]
    charts = [one for one in charts if have_points(one.series)]
    return side_by_side(charts, format) if charts else None


def side_by_side(charts: Sequence[Chart], format: str) -> bytes:
    """Charts of the same runs as panels of one picture, whose legend they share."""
    figure = new_figure(4.2 * len(charts), 3.1)
    for place, chart in enumerate(charts, 1):
        axes = figure.add_subplot(1, len(charts), place)
        layers = layers_of(chart.series)
        for number, line in enumerate(chart.series):
            draw(axes, line, hue_of(number), 0.3 / len(chart.series), layers[number])
        axes.set_title(chart.title, fontsize=10, color=INK, loc="left", pad=8)
        dress(axes, chart.xlabel, chart.share)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower left",
        ncols=7 if len(charts) > 1 else 3,
        frameon=False,
        fontsize=8,
        labelcolor=INK,
    )
    return save(figure, format, dpi=160)


def new_figure(width: float, height: float):
    """An empty figure of that many inches; made without pyplot, whose state is global."""
    from matplotlib.figure import Figure  # a second of start-up that nothing but pictures needs

    return Figure(figsize=(width, height), layout="constrained")


def dress(axes, xlabel: str, share: bool, log: bool = False) -> None:
    """Plain axes: a light grid, no frame, whole numbers of rounds, y from line to line."""
    from matplotlib import ticker

    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8, labelcolor=MUTED)
    axes.tick_params(axis="x", pad=6)
    axes.set_xlabel(xlabel, fontsize=8, color=MUTED)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    if log:
        axes.set_yscale("log")  # sets locators and formatters of its own
        axes.yaxis.set_major_locator(ticker.LogLocator(numticks=6))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_formatter(lambda y, _: plain(y))
    if log:
        return
    locator = ticker.MaxNLocator(4, steps=[1, 2, 2.5, 5, 10])
    low, high = axes.dataLim.intervaly
    ticks = locator.tick_values(*axes.get_ylim() if share or low == high else (low, high))
    if share:
        axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.3g}%")
        ticks = [tick for tick in ticks if -1e-9 < tick < 1 + 1e-9]
    if len(ticks) > 1:
        axes.set_yticks(ticks)
        axes.set_ylim(ticks[0], ticks[-1])
    for line in axes.lines:
        line.set_clip_on(False)  # what lies on the outermost lines is drawn whole


def plain(value: float) -> str:
    """A number of an axis with all its digits, at most six that count; only what is very small or
    very large is written with an exponent."""
    size = abs(value)
    if size and not 1e-7 < size < 1e12:
        text = f"{value:.6g}"
    else:
        digits = max(0, 5 - math.floor(math.log10(size))) if size else 0
        text = f"{value:,.{digits}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", "\u2212")


def save(figure, format: str, salt: str = "curves", dpi: int = 100) -> bytes:
    """The picture's file, the same bytes for the same figure."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a "$" in a name is no formula
    undated = {"Date": None} if format == "svg" else None
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}), io.BytesIO() as file:
        figure.savefig(file, format=format, dpi=dpi, transparent=format == "svg", metadata=undated)
        return file.getvalue()
