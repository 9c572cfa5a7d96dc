"""Charts of what a run measured: held-out curves, losses, speeds. Rows are lines of metrics.jsonl.

Charts are SVG made by matplotlib, or PNG; a chart whose numbers are missing is left out.
"""

from collections.abc import Callable, Mapping, Sequence
import io
import math
import re
import statistics
from typing import Any, NamedTuple

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


# (title, what is measured, lines: (phase, key, label), how the axes are)
CHARTS = (
    (
        "Programs that pass",
        "Share of tests passed or problems solved",
        (
            ("eval", "pass_at_1", "held-out, solved at temperature 0"),
            ("eval", "mean_reward", "held-out, tests at temperature 1"),
            ("eval", "teacher_pass_at_1", "teacher, solved at temperature 0"),
            ("rollout", "tests", "training, tests at temperature 1"),
        ),
        {"share": True},
    ),
    (
        "Reward",
        "Mean over the completions of a round",
        (("rollout", "reward", "reward"), ("rollout", "format", "format alone")),
        {},
    ),
    (
        "Distance to the teacher",
        "Held-out KL at masked positions, nats",
        (("eval", "kl", "KL"),),
        {},
    ),
    (
        "Forwards a token",
        "Held-out, temperature 0, saving passes counted",
        (
            ("eval", "threshold_forwards_per_token", "by a threshold"),
            ("eval", "forwards_per_token", "by the schedule"),
        ),
        {},
    ),
    ("KL", "Divergence from the reference or the teacher, nats", (("train", "kl", "KL"),), {}),
    (
        "Trust region",
        "Share of completions at its edge",
        (("train", "trust", "share"),),
        {"share": True},
    ),
    (
        "Loss",
        "Objective and norm of its gradient",
        (("train", "loss", "loss"), ("train", "grad_norm", "gradient norm")),
        {},
    ),
    ("Score", "Mean score of the completions, nats", (("train", "score", "score"),), {}),
    (
        "Time",
        "Seconds a round",
        (
            ("rollout", "rollout_s", "rollout"),
            ("rollout", "reward_s", "rewards"),
            ("train", "update_s", "updates"),
        ),
        {},
    ),
    (
        "Speed",
        "Completion tokens a second in the rollout",
        (("rollout", "tokens_per_s", "tokens/s"),),
        {},
    ),
    ("Length", "Mean tokens of a completion", (("rollout", "length", "tokens"),), {}),
    ("Supervised start", "Loss on noisy solutions", (("sft", "loss", "loss"),), {"xlabel": "step"}),
)


def charts_of(rows: Rows) -> list[Chart]:
    """The page's charts that have something to show, the scores first."""
    rows = by_round(rows)
    charts = []
    for title, note, lines, axes in CHARTS:
        series = [series_of(rows, *line) for line in lines]
        series = [line for line in series if line.x]
        if series:
            charts.append(Chart(title, note, series, **axes))
    return charts


def series_of(rows: Rows, phase: str, key: str, label: str) -> Series:
    """One metric; the seconds of a round's updates are added up, other numbers of a round meant."""
    combine = sum if key == "update_s" else statistics.fmean
    return Series(label, *points(rows, phase, key, combine), dots=phase == "eval")


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
