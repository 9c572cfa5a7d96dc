"""Charts, headlines and curves made from the rows of a run.

Rows are the lines of metrics.jsonl. A chart whose numbers are missing is left out. `score` is the
name of what eval lines call mean_reward: "reward", of any scale, or a part of the task's grades,
0..1.
"""

from collections.abc import Callable, Mapping, Sequence
import io
import json
import math
import os
import statistics
from typing import Any, NamedTuple

from etils import epath

from gdsd_jax.metrics import parts_of, read_metrics

Rows = Sequence[Mapping[str, Any]]
REWARD = "reward"  # the score of a task that names no part

# Colours as matplotlib draws them. In the page each becomes the CSS variable of its name, which
# dark mode changes.
INK, MUTED, GRID = "#24292f", "#6b737d", "#e4e7eb"
HUES = ("#2662a9", "#c9641c", "#2e8f6a", "#8a5fb1", "#b3423a", "#857a1c", "#2a8c9c")
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid"}
VARIABLES |= {hue: f"hue{place}" for place, hue in enumerate(HUES)}


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


def charts_of(rows: Rows, score: str) -> list[Chart]:
    """The charts that have something to show, the grades first."""
    rows = by_round(rows)
    charts = grade_charts(rows, score) + teacher_charts(rows) + update_charts(rows)
    charts += cost_charts(rows)
    sft_loss = lines(rows, "sft", {"loss": "loss", "heldout_loss": "of held-out answers"})
    charts.append(Chart("Supervised start", "Loss, nats a token", sft_loss, "step"))
    shown = []
    for chart in charts:
        series = [line for line in chart.series if line.x]
        if series:
            shown.append(chart._replace(series=series))
    return shown


def grade_charts(rows: Rows, score: str) -> list[Chart]:
    """What the task says of the answers: its score, the reward, and each other part."""
    heldout = {"mean_reward": f"held-out {score}, temperature 1"}
    shares = {
        "pass_at_1": "held-out problems solved, temperature 0",
        "teacher_pass_at_1": "the same by the teacher",
    }
    rewards = lines(rows, "rollout", {"reward": "training reward"})
    if score == REWARD:  # it may have any scale, so it is not drawn beside shares
        note = "Share of problems solved"
        graded = lines(rows, "eval", shares) + lines(
            rows, "rollout", {"solved": "training, solved"}
        )
        rewards += lines(rows, "eval", heldout)
    else:
        rewards += lines(rows, "eval", {"reward": "held-out reward, temperature 1"})
        note = f"Share of problems solved, mean {score}"
        graded = lines(rows, "eval", shares | heldout)
        graded += lines(rows, "rollout", {score: f"training {score}"})
    judged = lines(rows, "rollout", {"judged": "training"})
    charts = [
        Chart("Grades", note, graded, share=True),
        Chart("Reward", "Mean over the answers", rewards),
        Chart("Judged", "Share of answers that got a verdict", judged, share=True),
    ]
    for part in parts_of(rows):
        if part != score:
            series = lines(rows, "eval", {part: "held-out, temperature 1"})
            series += lines(rows, "rollout", {part: "training"})
            charts.append(Chart(part, "Part of the grades, mean over the answers", series))
    return charts


def teacher_charts(rows: Rows) -> list[Chart]:
    """How near a distilled student is to its teacher, and what its answers cost."""
    answers = {"kl": "at the student's answers", "kl_common": "at the teacher's answers"}
    nats = lines(rows, "eval", {"teacher_nats": "nats"})
    forwards = {
        "threshold_forwards_per_token": "by a threshold",
        "forwards_per_token": "by the schedule",
    }
    return [
        Chart(
            "Distance to the teacher",
            "Held-out KL at masked positions, nats",
            lines(rows, "eval", answers),
        ),
        Chart(
            "The student's answers to the teacher", "Held-out, -log-probability, nats a token", nats
        ),
        Chart(
            "Forwards a token",
            "Held-out, temperature 0, saving passes counted",
            lines(rows, "eval", forwards),
        ),
    ]


def update_charts(rows: Rows) -> list[Chart]:
    """What the objective says of its updates."""
    kl = lines(rows, "train", {"kl": "KL"})
    trust = lines(rows, "train", {"trust": "share"})
    loss = lines(rows, "train", {"loss": "loss", "grad_norm": "gradient norm"})
    score = lines(rows, "train", {"score": "score"})
    return [
        Chart("KL", "Divergence from the reference or the teacher, nats", kl),
        Chart("Trust region", "Share of completions at its edge", trust, share=True),
        Chart("Loss", "Objective and norm of its gradient", loss),
        Chart("Score", "Mean score of the completions, nats", score),
    ]


def cost_charts(rows: Rows) -> list[Chart]:
    """Where the seconds go, and how long the completions are."""
    seconds = lines(rows, "rollout", {"rollout_s": "rollout", "reward_s": "rewards"})
    seconds.append(Series("updates", *points(rows, "train", "update_s", combine=sum)))
    speed = lines(rows, "rollout", {"tokens_per_s": "tokens/s"})
    length = lines(rows, "rollout", {"length": "tokens"})
    variety = {
        "distinct": "different texts in a group",
        "flat_groups": "groups with equal rewards",
        "repetition": "repeated runs of 4 tokens",
    }
    return [
        Chart("Time", "Seconds a round", seconds),
        Chart("Speed", "Completion tokens a second in the rollout", speed),
        Chart("Length", "Mean tokens of a completion", length),
        Chart("Variety", "Of a round's completions", lines(rows, "rollout", variety), share=True),
    ]


def lines(rows: Rows, phase: str, labels: Mapping[str, str]) -> list[Series]:
    """A line for each metric of a phase; `labels` gives its label."""
    dots = phase == "eval"
    return [Series(label, *points(rows, phase, key), dots=dots) for key, label in labels.items()]


def by_round(rows: Rows) -> list[Mapping[str, Any]]:
    """The rows with rounds as steps: a train line gets the round of the last rollout before it."""
    numbered, current = [], None
    for row in rows:
        if row.get("phase") == "rollout":
            current = row["step"]
        if row.get("phase") == "train" and current is not None:
            row = {**row, "step": current}
        numbered.append(row)
    return numbered


def points(
    rows: Rows, phase: str, key: str, combine: Callable[[list[float]], float] = statistics.fmean
) -> tuple[list[float], list[float]]:
    """(steps, values) of one metric in the order of steps.

    Values of the same step are combined. Missing and infinite ones are left out.
    """
    values: dict[float, list[float]] = {}
    for row in rows:
        value = row.get(key)
        if row.get("phase") == phase and value is not None and math.isfinite(value):
            values.setdefault(row["step"], []).append(value)
    steps = sorted(values)
    return steps, [combine(values[step]) for step in steps]


def moving_mean(values: list[float], window: int) -> list[float]:
    """Mean over the values at most `window` places away, as many on either side, so that the ends
    do not bend."""
    if window < 2:
        return values
    means = []
    for place in range(len(values)):
        reach = min(place, window, len(values) - 1 - place)
        means.append(statistics.fmean(values[place - reach : place + reach + 1]))
    return means


def headlines(rows: Rows, score: str) -> list[tuple[str, str, str, str]]:
    """(name, before, after, change) of what the evaluations say, as text."""
    shares = {
        "pass_at_1": "held-out problems solved, temperature 0",
        "threshold_pass_at_1": "the same by a threshold",
        "teacher_pass_at_1": "the same by the teacher",
    }
    numbers = {}
    mean_reward = {"mean_reward": f"held-out {score}, temperature 1"}
    if score == REWARD:
        numbers |= mean_reward
    else:
        shares |= mean_reward
        numbers["reward"] = "held-out reward, temperature 1"
    for part in parts_of(rows):
        if part != score:
            numbers[part] = f"held-out {part}, temperature 1"
    costs = {
        "kl_common": "held-out KL to the teacher, nats a token",
        "threshold_forwards_per_token": "forwards a token by the threshold, saving passes counted",
    }
    found = []
    for names, told in ((shares, told_share), (numbers, told_number), (costs, told_cost)):
        for key, name in names.items():
            _, values = points(rows, "eval", key)
            if values and (told is not told_cost or min(values[0], values[-1]) > 0):
                found.append((name, *told(values[0], values[-1])))
    return found


def told_share(first: float, last: float) -> tuple[str, str, str]:
    """(before, after, change) of a share, in percent."""
    return f"{first:.1%}", f"{last:.1%}", f"{100 * (last - first):+.1f} points"


def told_number(first: float, last: float) -> tuple[str, str, str]:
    """(before, after, change) of a number of any scale."""
    return f"{first:.3f}", f"{last:.3f}", f"{last - first:+.3f}"


def told_cost(first: float, last: float) -> tuple[str, str, str]:
    """(before, after, change) of a positive number that should get small; the change is a ratio."""
    if first >= last:
        change = f"{first / last:.1f} times less"
    else:
        change = f"{last / first:.1f} times more"
    return f"{first:.2f}", f"{last:.2f}", change


def headline_lines(workdir: str | os.PathLike) -> list[str]:
    """The headlines of a run so far, one line each."""
    workdir = epath.Path(workdir)
    told = headlines(read_metrics(workdir / "metrics.jsonl"), score_name(workdir))
    width = max((len(name) for name, *_ in told), default=0)
    return [
        f"{name:{width}} {before:>6} -> {after:>6}  {change}"
        for name, before, after, change in told
    ]


def score_name(workdir: str | os.PathLike) -> str:
    """The entry `score` of a run's config.json; "reward" where there is none."""
    file = epath.Path(workdir) / "config.json"
    if not file.exists():
        return REWARD
    try:
        return json.loads(file.read_text()).get("score", REWARD)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error


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
    distilled = bool(points(rows, "eval", "kl_common")[0])
    if distilled:
        del panels["mean_reward"]
        panels = {"kl_common": "Held-out KL to the teacher, nats a token"} | panels
    shown = {key: title for key, title in panels.items() if points(rows, "eval", key)[0]}
    if not shown:
        shown = panels
    figure = new_figure(4.2 * len(shown), 3.1)
    for place, (key, title) in enumerate(shown.items(), 1):
        axes = figure.add_subplot(1, len(shown), place)
        draw_runs(axes, runs, key, by_tokens=distilled)
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


def draw_runs(axes, runs: Mapping[str, Sequence[Rows]], key: str, by_tokens: bool) -> None:
    """Each run's mean of an eval metric, over the range of its seeds; by rounds, or by the mean of
    the answer tokens until then."""
    hues = iter(HUES * len(runs))
    for name, seeds in runs.items():
        color = next(hues)
        rows = [row for seed in seeds for row in seed]
        rounds, mean = points(rows, "eval", key)
        x = [tokens_until(rows, step) / len(seeds) for step in rounds] if by_tokens else rounds
        axes.plot(x, mean, label=name, color=color, linewidth=1.6, marker="o", markersize=3)
        if len(seeds) > 1:
            _, low = points(rows, "eval", key, min)
            _, high = points(rows, "eval", key, max)
            axes.fill_between(x, low, high, color=color, alpha=0.3 / len(runs), linewidth=0)


def tokens_until(rows: Rows, number: int) -> int:
    """Answer tokens of the first `number` rounds."""
    rollouts = [row for row in rows if row.get("phase") == "rollout" and row["step"] <= number]
    return sum(row.get("tokens", 0) for row in rollouts)


def chart_svg(chart: Chart, wide: bool, salt: str) -> bytes:
    """The chart as an SVG file, without its title and legend, which the page writes itself.

    Pictures of one page need different `salt`, so that they share no ids.
    """
    figure = new_figure(5.6, 3.0) if wide else new_figure(3.8, 2.2)
    axes = figure.add_subplot()
    for hue, line in zip(HUES, chart.series):
        if line.dots:
            axes.plot(line.x, line.y, color=hue, linewidth=1.6, marker="o", markersize=3.5)
            continue
        window = len(line.y) // 25
        if window > 1:  # long runs: the trend over what was measured
            axes.plot(line.x, line.y, color=hue, linewidth=0.8, alpha=0.3)
        axes.plot(line.x, moving_mean(line.y, window), color=hue, linewidth=1.6)
    dress(axes, chart.xlabel, chart.share)
    return save(figure, "svg", salt=salt)


def new_figure(width: float, height: float):
    """An empty figure of that many inches; made without pyplot, whose state is global."""
    from matplotlib.figure import Figure  # a second of start-up that nothing but pictures needs

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
