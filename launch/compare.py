r"""Runs variants of one experiment over seeds and draws them side by side; started again, it goes
on where it was.

  python launch/compare.py --config=configs/coding.py --out=runs/compare "gdsd=" \
    "shuffled=shuffle_rewards=true"
  python launch/compare.py --config=configs/coding.py --out=runs/rates \
    --learning_rates=3e-5,1e-4,3e-4 "gdsd=" ...
  python launch/compare.py --config=configs/opdlm.py --out=runs/opdlm "opdlm=" "sft=control=sft" \
    "kd=control=kd"

A variant is NAME=OVERRIDES of the config's keys, but for those of the supervised phase: the
variants of a seed start from the same supervised model, which is trained once. With
--learning_rates each variant runs its first seed at every rate and the other seeds at the best one.
OUT holds a folder a run, and report.html with the curves and the table, which curves.png and
table.md hold alone.
Exit codes: 0 done; 2 bad arguments, one line says which; that of a run which fails.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import functools
import itertools
import math
import pathlib
import statistics
import subprocess
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gdsd_jax import metrics, paths, report
from gdsd_jax.cli import Parser, load_config, output_folder, run, split_config, told
from gdsd_jax.mistakes import Gathered

REWARD = "reward"  # the score of a task that names no part; it may have any scale
NOTHING = "-"  # a cell without a number


# ---------------------------------------------------------------- the runs


def argument_of(config: str, *overrides: str) -> str:
    """The `--config` of launch/main.py: what the user gave, and then the overrides."""
    file, given = split_config(config)
    return f"{file}:{','.join(text for text in (given, *overrides) if text)}"


def train(config: str, workdir: pathlib.Path, *overrides: str) -> None:
    """One run to its end, in a process of its own; SystemExit with its code where it fails."""
    argument = argument_of(config, *overrides)
    print(f"== {workdir.name}: {argument}", flush=True)
    main = ROOT / "launch" / "main.py"
    command = [sys.executable, str(main), f"--config={argument}", f"--workdir={workdir}"]
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def finished(config: str, out: pathlib.Path, name: str, seed: int, *overrides: str) -> pathlib.Path:
    """The workdir of a variant's seed, trained to the end from the seed's supervised start."""
    start, workdir = out / f"start-{seed}", out / f"{name}-{seed}"
    overrides = (f"seed={seed}", f"start_from={start}", *overrides)
    mark, argument = workdir / "finished", argument_of(config, *overrides)
    if mark.exists() and mark.read_text() in ("", argument):  # earlier versions left it empty
        return workdir
    if not lines_of(start, "eval"):
        train(config, start, f"seed={seed}", "rounds=0")
    train(config, workdir, *overrides)
    mark.write_text(argument)
    return workdir


def compare(
    config: str, out: pathlib.Path, variants: Mapping[str, str], seeds: list[int], rates: list[str]
) -> dict[str, list[pathlib.Path]]:
    """{variant: the workdirs of its seeds}, every one trained to the end."""
    runs = {}
    for name, overrides in variants.items():
        if not rates:
            runs[name] = [finished(config, out, name, seed, overrides) for seed in seeds]
            continue
        tried = {}
        for rate in rates:
            override = f"optimizer.learning_rate={rate}"
            tried[rate] = finished(config, out, f"{name}-{rate}", seeds[0], overrides, override)
        best = max(rates, key=lambda rate: merit(tried[rate]))
        override = f"optimizer.learning_rate={best}"
        others = [
            finished(config, out, f"{name}-{best}", seed, overrides, override) for seed in seeds[1:]
        ]
        runs[f"{name} {best}"] = [tried[best], *others]
    return runs


def merit(workdir: pathlib.Path) -> float:
    """How good a run is at its end, the more the better: its score, or where nothing is graded the
    nearness to its teacher."""
    last = lines_of(workdir, "eval")[-1]
    score, distance = last.get("mean_reward"), last.get("kl_common")
    if score is not None:
        return score
    return -math.inf if distance is None else -distance


# ---------------------------------------------------------------- what they say


def lines_of(workdir: pathlib.Path, phase: str) -> list[dict]:
    """The lines of a phase in a run so far."""
    file = workdir / "metrics.jsonl"
    if not file.exists():
        return []
    return [row for row in metrics.read_metrics(file) if row["phase"] == phase]


class Run(NamedTuple):
    """A finished run.

    In its lines a number may be missing, or None where nothing was judged.
    """

    score: str  # the task's name of what eval lines call mean_reward
    first: dict  # its evaluation before the rounds
    last: dict  # and after them
    rollouts: list[dict]


def run_of(workdir: pathlib.Path) -> Run:
    """What a workdir says of its run."""
    rows = lines_of(workdir, "eval")
    return Run(report.score_name(workdir), rows[0], rows[-1], lines_of(workdir, "rollout"))


class Column(NamedTuple):
    """A column of the table."""

    head: str
    cell: Callable[[Sequence[Run]], str]  # of the seeds of a variant
    teacher: Callable[[Sequence[Run]], str] | None = None  # of all runs, in the teacher's row


def score_of(runs: Sequence[Run]) -> str:
    """The name of the score; variants of different tasks may have several."""
    return " / ".join(dict.fromkeys(run.score for run in runs))


def table(workdirs: Mapping[str, Sequence[pathlib.Path]]) -> list[list[str]]:
    """The head, then for each variant what its evaluations say, and a row for a teacher.

    Before and after in the mean, and the gain with its range over the seeds: of the task's score,
    of pass@1, of the reward, and of each other part of its grades. With rewards, the steadiness of
    training besides. Of distilled students the distance to the teacher, forwards a token by the
    schedule and by the threshold, and the tokens of the answers that were trained on.
    """
    runs = {name: [run_of(workdir) for workdir in paths] for name, paths in workdirs.items()}
    everyone = list(itertools.chain.from_iterable(runs.values()))
    is_distilled = all("kl_common" in run.last for run in everyone)
    is_graded = any("pass_at_1" in run.last for run in everyone)
    columns = grade_columns(everyone) if is_graded else []
    if is_graded and not is_distilled:
        columns.append(Column("deepest fall in training", falls))
    if is_distilled:
        columns.append(Column("held-out KL, nats", functools.partial(change, "kl_common", ".3f")))
    if is_distilled or not is_graded:
        columns += [Column("forwards a token", forwards), Column("answer tokens", answer_tokens)]
    found = [["run", *(column.head for column in columns)]]
    for name, seeds in runs.items():
        found.append([name, *(column.cell(seeds) for column in columns)])
    if any("teacher_pass_at_1" in run.last for run in everyone):
        found.append(teacher_row(columns, everyone))
    return found


def grade_columns(runs: Sequence[Run]) -> list[Column]:
    """The score, pass@1, the reward and each other part, each with its gain."""
    score = score_of(runs)
    form = ".3f" if score == REWARD else ".1%"
    measures = [
        ("mean_reward", f"{score}, temperature 1", form),
        ("pass_at_1", "pass@1, temperature 0", ".1%"),
    ]
    evaluations = list(itertools.chain.from_iterable((run.first, run.last) for run in runs))
    named = [REWARD] if any(REWARD in line for line in evaluations) else []
    for name in (*named, *metrics.parts_of(evaluations)):
        if name != score:
            measures.append((name, f"{name}, temperature 1", ".3f"))
    columns = []
    for key, head, form in measures:
        teacher = teacher_pass_at_1 if key == "pass_at_1" else None
        columns.append(Column(head, functools.partial(change, key, form), teacher))
        columns.append(Column("gain", functools.partial(gain, key)))
    return columns


def teacher_row(columns: Sequence[Column], runs: Sequence[Run]) -> list[str]:
    """What is known of the teacher."""
    cells = [NOTHING if column.teacher is None else column.teacher(runs) for column in columns]
    return ["teacher", *cells]


def pairs_of(key: str, runs: Sequence[Run]) -> list[tuple[float, float]]:
    """(before, after) of a number, of the runs that have both."""
    pairs = [(run.first.get(key), run.last.get(key)) for run in runs]
    return [pair for pair in pairs if None not in pair]


def change(key: str, form: str, runs: Sequence[Run]) -> str:
    """The means over the seeds, before and after."""
    pairs = pairs_of(key, runs)
    if not pairs:
        return NOTHING
    return " → ".join(format(statistics.mean(values), form) for values in zip(*pairs))


def gain(key: str, runs: Sequence[Run]) -> str:
    """After minus before."""
    return spread([after - before for before, after in pairs_of(key, runs)], "+.3f")


def spread(values: Sequence[float], form: str) -> str:
    """Mean and range."""
    if not values:
        return NOTHING
    mean, low, high = (
        format(value, form) for value in (statistics.mean(values), min(values), max(values))
    )
    return f"{mean} ({low} to {high})"


def falls(runs: Sequence[Run]) -> str:
    """How unsteady the training was."""
    return spread([unsteadiness(run) for run in runs], ".3f")


def unsteadiness(run: Run) -> float:
    """How far the training curve, the score in means of 5 rounds, once lay below its best so far,
    in units of the score."""
    _, values = report.points(run.rollouts, "rollout", run.score)
    curve = report.moving_mean(values, 2)
    best_so_far = itertools.accumulate(curve, max)
    return max((best - value for best, value in zip(best_so_far, curve)), default=0.0)


def forwards(runs: Sequence[Run]) -> str:
    """At the end, by the schedule and by the threshold."""
    means = []
    for key in ("forwards_per_token", "threshold_forwards_per_token"):
        values = [run.last[key] for run in runs if run.last.get(key) is not None]
        if values:
            means.append(f"{statistics.mean(values):.2f}")
    return " / ".join(means) or NOTHING


def answer_tokens(runs: Sequence[Run]) -> str:
    """Tokens of the completions of all rounds."""
    return f"{statistics.mean(sum(row['tokens'] for row in run.rollouts) for run in runs):,.0f}"


def teacher_pass_at_1(runs: Sequence[Run]) -> str:
    """Problems that the teachers solve."""
    key = "teacher_pass_at_1"
    values = [run.last[key] for run in runs if run.last.get(key) is not None]
    return f"{statistics.mean(values):.1%}" if values else NOTHING


def markdown(table: Sequence[Sequence[str]]) -> str:
    """The table for a README."""
    head, *rows = ("| " + " | ".join(cells) + " |" for cells in table)
    return "\n".join([head, "| --- " * len(table[0]) + "|", *rows]) + "\n"


# ---------------------------------------------------------------- the command


def variants_of(texts: Sequence[str]) -> dict[str, str]:
    """{name: overrides} of NAME=OVERRIDES; ValueError where a text is not of that form."""
    variants: dict[str, str] = {}
    for text in texts:
        name, equals, overrides = text.partition("=")
        if not (name and equals):
            raise ValueError(f"variant {text!r} is not of the form NAME=OVERRIDES")
        if name == "start" or "/" in name or name.startswith("."):
            raise ValueError(f"variant {name!r} names no folder of its own: choose another name")
        if name in variants:
            raise ValueError(f"variant {name!r} is given twice: choose another name")
        variants[name] = overrides
    return variants


def seeds_of(text: str) -> list[int]:
    """The seeds of "0,1,2"; ValueError where one is no number, or given twice."""
    try:
        seeds = [int(seed) for seed in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds={text}: give whole numbers such as 0,1,2, each once")
    return seeds


def check(
    config: str, variants: Mapping[str, str], rates: Sequence[str], seeds: Sequence[int]
) -> None:
    """Mistakes of the settings of all variants; nothing is trained before."""
    from gdsd_jax import settings  # slow to import: wrong arguments are told before

    chosen = [f"optimizer.learning_rate={rate}" for rate in rates] or [""]
    starts = [settings.parse(load_config(argument_of(config, f"seed={seed}"))) for seed in seeds]
    wrong = Gathered()
    for name, overrides in variants.items():
        for rate in chosen:
            with wrong.check(f"variant {name!r}: "):
                argument = argument_of(config, f"seed={seeds[0]}", overrides, rate)
                found = settings.parse(load_config(argument))
                changed = settings.changes_of_start(starts[0], found)
                if changed:
                    told = settings.listed(changed)
                    raise ValueError(f"{told}: the supervised phase is shared, set it in --config")
    wrong.end()


def write(out: pathlib.Path, runs: Mapping[str, Sequence[pathlib.Path]], summary: str) -> None:
    """Writes table.md, curves.png and report.html, and prints the table."""
    scores = table(runs)
    score = score_of([run_of(workdir) for workdirs in runs.values() for workdir in workdirs])
    curves = {
        name: [metrics.read_metrics(workdir / "metrics.jsonl") for workdir in workdirs]
        for name, workdirs in runs.items()
    }
    (out / "table.md").write_text(markdown(scores))
    (out / "curves.png").write_bytes(report.curve_figure(curves, score))
    page = report.comparison_page("Comparison", summary, curves, scores, score)
    (out / "report.html").write_text(page)
    print(markdown(scores), end="")


def arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("variants", nargs="+", metavar="NAME=OVERRIDES")
    parser.add_argument("--config", required=True, help="FILE.py[:MODEL[,key=value...]]")
    parser.add_argument("--out", required=True, help="local folder of all runs")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--learning_rates", default="")
    return parser.checked(check_flags)


def check_flags(args: argparse.Namespace) -> None:
    """Mistakes of the flags."""
    wrong = Gathered()
    with wrong.check():
        variants_of(args.variants)
    with wrong.check():
        seeds_of(args.seeds)
    with wrong.check():
        load_config(args.config)
    with wrong.check():
        if paths.is_remote(args.out):
            raise ValueError(f"--out={args.out}: give a local folder")
        output_folder("--out", args.out)
    wrong.end()


def main() -> int:
    args = arguments()
    rates = [rate for rate in args.learning_rates.split(",") if rate]
    variants, seeds = variants_of(args.variants), seeds_of(args.seeds)
    try:
        check(args.config, variants, rates, seeds)
        out = pathlib.Path(args.out)
        out.mkdir(parents=True, exist_ok=True)
    except Exception as error:
        return told(error, args.debug)
    runs = compare(args.config, out.resolve(), variants, seeds, rates)
    write(out, runs, f"{args.config} · seeds {args.seeds} · mean and range over the seeds")
    print(f"report: {out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
