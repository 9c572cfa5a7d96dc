"""Charts made from the rows of a run, and of several runs.

Rows are the lines of metrics.jsonl. A chart whose numbers are missing is left out. `score` is the
name of what eval lines call mean_reward: "reward", of any scale, or a part of the task's grades,
0..1. What a number means is told by `meanings.MEANINGS`.
"""

from collections.abc import Callable, Mapping, Sequence
import math
import statistics
from typing import Any, NamedTuple

from gdsd_jax.meanings import meaning_of
from gdsd_jax.metrics import parts_of

Rows = Sequence[Mapping[str, Any]]
REWARD = "reward"  # the score of a task that names no part; it may have any scale

# Where a chart stands in the page, in this order; those of the last are folded away.
FIRST, COMPLETIONS, UPDATES, COST = "First", "Completions", "Updates", "Cost"
FURTHER = "Further numbers"
GROUPS = (FIRST, COMPLETIONS, UPDATES, COST, FURTHER)
POOLED = 10  # rounds in a correlation of the probe, whose rows are few
WIDE_RANGE = 30.0  # greatest over least value, from which on an axis may be logarithmic


class Series(NamedTuple):
    """One line of a chart."""

    label: str
    x: list[float]
    y: list[float]
    dots: bool = False  # at every point, for what is measured now and then
    low: list[float] | None = None  # the range over seeds
    high: list[float] | None = None
    gaps: Sequence[float] = ()  # x where nothing finite was measured: the line has a hole there


class Chart(NamedTuple):
    """Lines over one pair of axes."""

    title: str
    note: str  # what is measured
    series: list[Series]
    unit: str = ""  # of y
    xlabel: str = "round"
    share: bool = False  # y is a share, 0..1, shown in percent
    group: str = COMPLETIONS
    may_be_log: bool = False

    @property
    def is_log(self) -> bool:
        """Whether the values span so much that a logarithmic axis shows them better."""
        values = [y for line in self.series for y in line.y]
        return self.may_be_log and min(values) > 0 and max(values) > WIDE_RANGE * min(values)


def charts_of(rows: Rows, score: str) -> list[Chart]:
    """The charts that have something to show, group by group, the grades first."""
    rows = by_round(rows)
    charts = grade_charts(rows, score) + teacher_charts(rows) + update_charts(rows)
    charts += probe_charts(rows)
    charts += cost_charts(rows) + supervised_charts(rows)
    charts += further_charts(rows)
    shown = []
    for chart in charts:
        series = [line for line in chart.series if line.x]
        if series:
            shown.append(chart._replace(series=series))
    if shown:
        shown[0] = shown[0]._replace(group=FIRST)
    return sorted(shown, key=lambda chart: GROUPS.index(chart.group))


def has_any_scale(score: str) -> bool:
    """Whether a score is no share: it is the reward, alone or as one of several, "a / b"."""
    return REWARD in score.split(" / ")


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
    forwards = {
        "threshold_forwards_per_token": "by a threshold",
        "forwards_per_token": "by the schedule",
    }
    return [
        Chart(
            "Distance to the teacher",
            "Held-out forward KL at masked positions",
            lines(rows, "eval", answers),
            unit="nats a masked token",
        ),
        Chart(
            "The student's answers to the teacher",
            "Held-out -log-probability",
            lines(rows, "eval", {"teacher_nats": "nats"}),
            unit="nats a token",
        ),
        Chart(
            "Forwards a token",
            "Held-out, temperature 0",
            lines(rows, "eval", forwards),
            unit="forwards",
            group=COST,
        ),
    ]


def update_charts(rows: Rows) -> list[Chart]:
    """What the objective says of its updates."""
    trust = {"trust": "completions at its edge", "clipped": "scores outside"}
    moves = {"target": "target", "move": "move", "residual": "residual"}
    per_token = "nats a token"
    charts = [
        train_chart(rows, "Loss", {"loss": "loss"}),
        train_chart(rows, "Gradient norm", {"grad_norm": "gradient norm"}, may_be_log=True),
        train_chart(rows, "KL", {"kl": "KL"}, unit="nats"),
        train_chart(rows, "Trust region", trust, note="Share of completions", share=True),
        train_chart(
            rows, "Moves", moves, note="Mean size of what the advantages ask for and got"
        )._replace(unit=per_token),
        train_chart(rows, "Score", {"score": "score"}, unit=per_token),
    ]
    return [chart._replace(group=UPDATES) for chart in charts]


def probe_charts(rows: Rows) -> list[Chart]:
    """What the updates did to a few completions, by the same yardstick for all objectives."""
    moves = {"target": "asked for", "move": "made"}
    per_token = "nats a token"
    shares = {"move_share": "share of the target", "ess": "effective share of completions"}
    signs = lines(rows, "probe", {"mismatch_signs": "moves in the same direction"})
    holes = gaps(rows, "probe", "mismatch_cov")
    pooled = Series(f"correlation, {POOLED} rounds", *pooled_correlation(rows), gaps=holes)
    agreement = [pooled, *signs]
    gap = lines(rows, "probe", {"mismatch_gap": "ELBO less likelihood"})
    note = "ELBO and likelihood of the rollout's own commits"
    charts = [
        Chart("ELBO, asked for and made", "Mean move", lines(rows, "probe", moves), per_token),
        Chart("Share of the target made", "In a round", lines(rows, "probe", shares)),
        Chart("Mismatch", f"{note}, difference", gap, per_token),
        Chart("Agreement inside groups", note, agreement),
    ]
    charts[0] = charts[0]._replace(may_be_log=True)
    return [chart._replace(group=UPDATES) for chart in charts]


def pooled_correlation(rows: Rows) -> tuple[list[float], list[float]]:
    """(rounds, correlation of ELBO and likelihood in the groups of the last `POOLED` rounds)."""
    keys = ("mismatch_cov", "mismatch_elbo_var", "mismatch_trajectory_var")
    known = [dict(zip(*points(rows, "probe", key))) for key in keys]
    steps = [step for step in known[0] if all(step in values for values in known)]
    found = []
    for place in range(len(steps)):
        window = steps[max(0, place + 1 - POOLED) : place + 1]
        sums = [sum(values[step] for step in window) for values in known]
        found.append(sums[0] / math.sqrt(max(sums[1] * sums[2], 1e-30)))
    return steps, found


def train_chart(
    rows: Rows, title: str, labels: Mapping[str, str], note: str = "", **look: Any
) -> Chart:
    """A chart of numbers of train lines, without those that are 0 throughout; where it has no note
    the first number's meaning is told."""
    key = next(iter(labels))
    series = [line for line in lines(rows, "train", labels) if any(line.y)]
    return Chart(title, note or sentence(meaning_of("train", key)), series, **look)


def cost_charts(rows: Rows) -> list[Chart]:
    """Where the seconds go, and how long and how varied the completions are."""
    seconds = lines(rows, "rollout", {"rollout_s": "rollout", "reward_s": "rewards"})
    seconds.append(Series("updates", *points(rows, "train", "update_s", combine=sum)))
    speed = lines(rows, "rollout", {"tokens_per_s": "tokens/s"})
    length = lines(rows, "rollout", {"length": "tokens"})
    variety = {
        "distinct": "different texts in a group",
        "flat_groups": "groups with equal rewards",
        "repetition": "runs of four tokens that repeat",
        "truncated": "cut before an end token",
    }
    spread = lines(rows, "rollout", {"reward_std": "standard deviation"})
    of_spread = sentence(meaning_of("rollout", "reward_std"))
    return [
        Chart("Time", "Seconds a round", seconds, unit="seconds", group=COST),
        Chart("Speed", "Completion tokens in the rollout", speed, unit="tokens/s", group=COST),
        Chart("Length", "Mean tokens of a completion", length, unit="tokens"),
        Chart("Variety", "Of a round's completions", lines(rows, "rollout", variety), share=True),
        Chart("Spread of rewards", of_spread, spread),
    ]


def supervised_charts(rows: Rows) -> list[Chart]:
    """The phase before the rounds."""
    losses = lines(rows, "sft", {"loss": "loss", "heldout_loss": "of held-out answers"})
    look = {"unit": "nats a token", "xlabel": "optimizer step", "group": UPDATES}
    return [Chart("Supervised start", "Loss before the first round", losses, **look)]


# what the charts above draw, and what is no measurement
DRAWN = {"loss", "grad_norm", "kl", "trust", "clipped", "target", "move", "residual", "score"}
DRAWN |= {"update_s", "wall_s", "phase", "step"}


def further_charts(rows: Rows) -> list[Chart]:
    """Every other number of the updates, also of a user's own objective, and the drift."""
    names = dict.fromkeys(key for row in rows if row.get("phase") == "train" for key in row)
    charts = [
        train_chart(rows, words(name), {name: name}, may_be_log=True)
        for name in names
        if name not in DRAWN
    ]
    drift = {"drift_mean": "mean", "drift_max": "largest"}
    note = sentence(meaning_of("rollout", "drift_mean"))
    charts.append(Chart("Drift", note, lines(rows, "rollout", drift), "nats", may_be_log=True))
    looping = lines(rows, "eval", {"looping": "held-out"})
    note = sentence(meaning_of("eval", "looping"))
    charts.append(Chart("Looping", note, looping, share=True))
    return [chart._replace(group=FURTHER) for chart in charts]


# words of keys that say little by themselves, and what the last word of a longer key stands for
SHORT = {"kl": "KL", "elbo": "ELBO", "eubo": "EUBO", "effective": "effective share"}
SHORT |= {"masked": "scored tokens"}
LAST = {"max": "largest", "min": "least", "mean": "mean", "share": "share"}
LAST |= {"snr": "signal to noise"}


def words(name: str) -> str:
    """A key of metrics.jsonl as a title."""
    parts = [part for part in name.split("_") if part] or [name]
    end = ""
    if len(parts) > 1 and parts[-1] in LAST:
        end = f", {LAST[parts.pop()]}"
    return sentence(" ".join(SHORT.get(part, part) for part in parts)) + end


def sentence(text: str) -> str:
    """With a capital at its front; nothing else changes."""
    return text[:1].upper() + text[1:]


# ---------------------------------------------------------------- several runs


def comparison_charts(runs: Mapping[str, Sequence[Rows]], score: str) -> list[Chart]:
    """A chart a number, with a line a run, also an empty one, so that a run has one colour: the
    mean over its seeds, and their range.

    Args:
      runs: for each name that is shown the rows of its seeds' metrics.jsonl.
      score: as in `charts_of`.
    """
    distilled = is_distilled(runs)
    shares = {"pass_at_1", "threshold_pass_at_1", "teacher_pass_at_1"}
    shares |= {"solved", "trust", "flat_groups", "distinct"}
    shares |= set() if has_any_scale(score) else {"mean_reward"}
    charts = []
    for phase, key, title, unit in compared(score):
        by_tokens = distilled and phase == "eval"
        series = run_series(runs, phase, key, by_tokens)
        if not have_points(series):
            continue
        note = sentence(meaning_of(phase, key))
        if key == "mean_reward":
            note = f"Mean {score} of the answers, temperature 1"
        xlabel = "answer tokens" if by_tokens else "round"
        look = {"share": key in shares, "may_be_log": key == "grad_norm"}
        charts.append(Chart(title, note, series, unit, xlabel, **look))
    for name in parts_of([row for rows in every(runs) for row in rows]):
        series = run_series(runs, "eval", name)
        if have_points(series) and name not in score.split(" / "):
            charts.append(Chart(f"Held-out {name}", "Part of the grades, temperature 1", series))
    return charts


def have_points(series: Sequence[Series]) -> bool:
    """Whether any of the lines has a point."""
    return any(line.x for line in series)


def compared(score: str) -> list[tuple[str, str, str, str]]:
    """(phase, key, title, unit) of what runs are compared by, the most telling first; all that
    `before_after.headlines` tells is among them."""
    rewards = [] if score == REWARD else [("eval", "reward", "Held-out reward", "")]
    return [
        ("eval", "kl_common", "Held-out KL to the teacher", "nats a masked token"),
        ("eval", "mean_reward", f"Held-out {score}", ""),
        ("eval", "pass_at_1", "Held-out problems solved", ""),
        *rewards,
        ("eval", "threshold_pass_at_1", "Held-out problems solved, by a threshold", ""),
        ("eval", "teacher_pass_at_1", "Held-out problems solved by the teacher", ""),
        ("rollout", "reward", "Training reward", ""),
        ("rollout", "solved", "Training, solved", ""),
        ("rollout", "length", "Length", "tokens"),
        ("rollout", "distinct", "Different texts", ""),
        ("rollout", "flat_groups", "Flat groups", ""),
        ("probe", "move_share", "Share of the target made", ""),
        ("probe", "mismatch_gap", "ELBO less likelihood", "nats a token"),
        ("train", "kl", "KL", "nats"),
        ("train", "trust", "Trust region", ""),
        ("train", "grad_norm", "Gradient norm", ""),
        ("eval", "forwards_per_token", "Forwards a token", "forwards"),
        ("eval", "threshold_forwards_per_token", "Forwards a token, by a threshold", "forwards"),
        ("rollout", "tokens_per_s", "Speed", "tokens/s"),
    ]


def every(runs: Mapping[str, Sequence[Rows]]) -> list[Rows]:
    """The rows of all seeds of all runs."""
    return [rows for seeds in runs.values() for rows in seeds]


def is_distilled(runs: Mapping[str, Sequence[Rows]]) -> bool:
    """Whether all are students of a teacher; these are drawn over the tokens they have read."""
    return all(points(rows, "eval", "kl_common")[0] for rows in every(runs))


def run_series(
    runs: Mapping[str, Sequence[Rows]], phase: str, key: str, by_tokens: bool = False
) -> list[Series]:
    """Each run's mean of a number over its seeds, with their range; by rounds, or by the mean of
    the answer tokens until then."""
    found = []
    for name, seeds in runs.items():
        numbered = [by_round(rows) for rows in seeds]
        rows = [row for seed in numbered for row in seed]
        x, mean = points(rows, phase, key)
        _, low = across(numbered, phase, key, min)
        _, high = across(numbered, phase, key, max)
        holes = gaps(rows, phase, key)
        if by_tokens:
            x, holes = (
                [tokens_until(rows, step) / len(seeds) for step in steps] for steps in (x, holes)
            )
            holes = tuple(holes)
        bounds = (low, high) if len(seeds) > 1 else (None, None)
        found.append(Series(name, x, mean, phase == "eval", *bounds, holes))
    return found


def across(
    seeds: Sequence[Rows], phase: str, key: str, combine: Callable[[list[float]], float]
) -> tuple[list[float], list[float]]:
    """(steps, values combined over the seeds); a seed's own values of a step are averaged first."""
    values: dict[float, list[float]] = {}
    for rows in seeds:
        for step, value in zip(*points(rows, phase, key)):
            values.setdefault(step, []).append(value)
    steps = sorted(values)
    return steps, [combine(values[step]) for step in steps]


def tokens_until(rows: Rows, number: int) -> int:
    """Answer tokens of the first `number` rounds."""
    rollouts = [row for row in rows if row.get("phase") == "rollout" and row["step"] <= number]
    return sum(row.get("tokens", 0) for row in rollouts)


# ---------------------------------------------------------------- numbers


def lines(rows: Rows, phase: str, labels: Mapping[str, str]) -> list[Series]:
    """A line for each metric of a phase; `labels` gives its label."""
    dots = phase == "eval"
    return [
        Series(label, *points(rows, phase, key), dots=dots, gaps=gaps(rows, phase, key))
        for key, label in labels.items()
    ]


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


def gaps(rows: Rows, phase: str, key: str) -> tuple[float, ...]:
    """The steps at which a metric was asked for and was nowhere finite."""
    asked = {row["step"] for row in rows if row.get("phase") == phase and key in row}
    return tuple(sorted(asked - set(points(rows, phase, key)[0])))


def moving_mean(values: list[float], window: int) -> list[float]:
    """Mean over the values at most `window` places away, as many on either side, so that the ends
    do not bend."""
    if window < 2:
        return values
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    means = []
    for place in range(len(values)):
        reach = min(place, window, len(values) - 1 - place)
        first, last = place - reach, place + reach + 1
        means.append((sums[last] - sums[first]) / (last - first))
    return means
