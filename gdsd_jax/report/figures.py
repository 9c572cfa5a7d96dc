"""Draws charts: SVG for pages, PNG for guides."""

from collections.abc import Mapping, Sequence
import io

from gdsd_jax.report.charts import (
    REWARD,
    Chart,
    Rows,
    Series,
    is_distilled,
    moving_mean,
    points,
    run_series,
)

# Colours as matplotlib draws them. In the page each becomes the CSS variable of its name, which
# dark mode changes.
INK, MUTED, GRID = "#24292f", "#6b737d", "#e4e7eb"
HUES = ("#2662a9", "#c9641c", "#2e8f6a", "#8a5fb1", "#b3423a", "#857a1c", "#2a8c9c")
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid"}
VARIABLES |= {hue: f"hue{place}" for place, hue in enumerate(HUES)}
SMALL, WIDE = (3.8, 2.1), (7.4, 3.1)  # inches of a chart in a page


def hue_of(place: int) -> str:
    """The colour of a chart's line."""
    return HUES[place % len(HUES)]


def chart_svg(chart: Chart, size: tuple[float, float] = SMALL, salt: str = "chart") -> bytes:
    """The chart as an SVG file, without its title and legend, which the page writes itself.

    Pictures of one page need different `salt`, so that they share no ids.
    """
    figure = new_figure(*size)
    axes = figure.add_subplot()
    for place, line in enumerate(chart.series):
        if line.x:
            draw(axes, line, hue_of(place), 0.3 / len(chart.series))
    dress(axes, chart.xlabel, chart.share, chart.is_log)
    if chart.unit:
        axes.set_title(chart.unit, loc="left", fontsize=8, color=MUTED, pad=6)
    return save(figure, "svg", salt=salt)


def draw(axes, line: Series, color: str, alpha: float) -> None:
    """One line, over the range of its seeds; of a long one the trend over what was measured."""
    if line.low is not None:
        axes.fill_between(line.x, line.low, line.high, color=color, alpha=alpha, linewidth=0)
    if line.dots or len(line.y) == 1:
        axes.plot(
            line.x,
            line.y,
            label=line.label,
            color=color,
            linewidth=1.6,
            marker="o",
            markersize=3.5 if len(line.x) < 40 else 1.5,
            zorder=3,  # over what is measured all the time
        )
        return
    window = len(line.y) // 25
    if window > 1:
        axes.plot(line.x, line.y, color=color, linewidth=0.7, alpha=0.2)
    # the first and last means are of few values: they are noise
    inner = slice(window // 3, len(line.y) - window // 3)
    trend = moving_mean(line.y, window)
    axes.plot(line.x[inner], trend[inner], label=line.label, color=color, linewidth=1.6)


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
    rows = [row for seeds in runs.values() for seed in seeds for row in seed]
    panels = {
        "mean_reward": f"Held-out {score}, temperature 1",
        "pass_at_1": "Held-out problems solved, temperature 0",
    }
    distilled = is_distilled(runs)
    if distilled:
        del panels["mean_reward"]
        panels = {"kl_common": "Held-out KL to the teacher, nats a token"} | panels
    shown = {key: title for key, title in panels.items() if points(rows, "eval", key)[0]}
    shown = shown or panels
    figure = new_figure(4.2 * len(shown), 3.1)
    for place, (key, title) in enumerate(shown.items(), 1):
        axes = figure.add_subplot(1, len(shown), place)
        for number, line in enumerate(run_series(runs, "eval", key, by_tokens=distilled)):
            draw(axes, line, hue_of(number), 0.3 / len(runs))
        axes.set_title(title, fontsize=10, color=INK, loc="left", pad=8)
        share = key == "pass_at_1" or (key == "mean_reward" and score != REWARD)
        dress(axes, "answer tokens" if distilled else "round", share)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower left",
        ncols=7 if len(shown) > 1 else 3,
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
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.6g}".replace("-", "\u2212"))
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(numticks=6))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
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
