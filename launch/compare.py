"""Runs variants of one experiment over seeds and draws them side by side; started again, it goes on
where it was.

  python launch/compare.py --config=configs/coding.py --out=runs/compare \\
      "gdsd=" "shuffled=shuffle_rewards=true"
  python launch/compare.py --config=configs/coding.py --out=runs/rates \\
      --learning_rates=3e-5,1e-4,3e-4 "gdsd=" ...
  python launch/compare.py --config=configs/opdlm.py --out=runs/opdlm \\
      "opdlm=" "sft=control=sft" "kd=control=kd"

A variant is NAME=OVERRIDES of the config's keys. The variants of a seed start from the same
supervised model, which is trained once. With --learning_rates each variant runs its first seed at
every rate and the other seeds at the best one. OUT holds a folder a run, and report.html with the
curves and the table, which curves.png and table.md hold alone.
"""

import argparse
import itertools
import pathlib
import shutil
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gdsd_jax import metrics
from gdsd_jax.report import charts, page

SCORES = ("mean_reward", "pass_at_1")


def lines_of(workdir: pathlib.Path, phase: str) -> list[dict]:
    """The lines of a phase in a run so far."""
    file = workdir / "metrics.jsonl"
    return (
        [row for row in metrics.read_metrics(file) if row["phase"] == phase]
        if file.exists()
        else []
    )


def evaluations(workdir: pathlib.Path) -> list[dict]:
    return lines_of(workdir, "eval")


def train(config: str, workdir: pathlib.Path, *overrides: str) -> None:
    """One run to its end, in a process of its own; SystemExit with its code where it fails."""
    argument = ",".join(
        [config if ":" in config else f"{config}:", *filter(None, overrides)]
    ).replace(":,", ":")
    print(f"== {workdir.name}: {argument}", flush=True)
    done = subprocess.run(
        [sys.executable, "launch/main.py", f"--config={argument}", f"--workdir={workdir}"],
        cwd=ROOT,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.returncode)


def compare(
    config: str, out: pathlib.Path, variants: dict[str, str], seeds: list[int], rates: list[str]
) -> dict:
    """{variant: the workdirs of its seeds}, every one trained to the end."""

    def run(name: str, seed: int, *overrides: str) -> pathlib.Path:
        workdir, start, finished = (
            out / f"{name}-{seed}",
            out / f"start-{seed}",
            out / f"{name}-{seed}" / "finished",
        )
        if finished.exists():
            return workdir
        if not evaluations(start):
            train(config, start, f"seed={seed}", "rounds=0")
        if not workdir.exists():
            shutil.copytree(start, partial := out / f".{workdir.name}", dirs_exist_ok=True)
            partial.rename(workdir)
        train(config, workdir, f"seed={seed}", *overrides)
        finished.touch()
        return workdir

    runs = {}
    for name, overrides in variants.items():
        if not rates:
            runs[name] = [run(name, seed, overrides) for seed in seeds]
            continue
        tried = {
            rate: run(f"{name}-{rate}", seeds[0], overrides, f"optimizer.learning_rate={rate}")
            for rate in rates
        }
        best = max(tried, key=lambda rate: evaluations(tried[rate])[-1]["mean_reward"])
        rest = [
            run(f"{name}-{best}", seed, overrides, f"optimizer.learning_rate={best}")
            for seed in seeds[1:]
        ]
        runs[f"{name} {best}"] = [tried[best], *rest]
    return runs


def unsteadiness(workdir: pathlib.Path) -> float:
    """How far the training curve, tests passed in means of 5 rounds, once lay below its best so
    far; 0..1."""
    _, values = charts.points(lines_of(workdir, "rollout"), "rollout", "tests")
    curve = charts.moving_mean(values, 2)
    return max(
        (best - value for best, value in zip(itertools.accumulate(curve, max), curve)), default=0.0
    )


def spread(values: list[float], form: str) -> str:
    """Mean and range."""
    mean, low, high = (
        format(value, form) for value in (statistics.mean(values), min(values), max(values))
    )
    return f"{mean} ({low} to {high})"


def table(runs: dict[str, list[pathlib.Path]]) -> list[list[str]]:
    """The head, then for each variant its held-out scores before and after, mean and range over the
    seeds.

    With rewards, the steadiness of training besides; of distilled students the distance to the
    teacher, forwards a token by the schedule and by the threshold, the tokens of the answers that
    were trained on, and a row for the teacher.
    """
    distilled = all(
        "kl" in evaluations(workdir)[-1] for workdirs in runs.values() for workdir in workdirs
    )
    heads = ["run", "tests passed, temperature 1", "gain", "solved, temperature 0", "gain"]
    heads += (
        ["held-out KL, nats", "forwards a token", "answer tokens"]
        if distilled
        else ["deepest fall in training"]
    )
    found, teachers = [heads], []
    for name, workdirs in runs.items():
        cells = [name]
        curves = [evaluations(workdir) for workdir in workdirs]
        for score in SCORES:
            pairs = [(rows[0][score], rows[-1][score]) for rows in curves]
            before, after = (statistics.mean(values) for values in zip(*pairs))
            cells += [
                f"{before:.1%} → {after:.1%}",
                spread([end - start for start, end in pairs], "+.3f"),
            ]
        if distilled:
            first, last = ([rows[place] for rows in curves] for place in (0, -1))
            cells.append(
                " → ".join(
                    f"{statistics.mean(row['kl'] for row in part):.3f}" for part in (first, last)
                )
            )
            ways = ("forwards_per_token", "threshold_forwards_per_token")
            speeds = [statistics.mean(row[way] for row in last) for way in ways if way in last[0]]
            cells.append(" / ".join(f"{speed:.2f}" for speed in speeds))
            tokens = [
                sum(row["tokens"] for row in lines_of(workdir, "rollout")) for workdir in workdirs
            ]
            cells.append(f"{statistics.mean(tokens):,.0f}")
            teachers += [row["teacher_pass_at_1"] for row in last]
        else:
            cells.append(spread([unsteadiness(workdir) for workdir in workdirs], ".3f"))
        found.append(cells)
    if teachers:
        found.append(["teacher", "-", "-", f"{statistics.mean(teachers):.1%}", *"----"])
    return found


def markdown(table: list[list[str]]) -> str:
    head, *rows = ("| " + " | ".join(cells) + " |" for cells in table)
    return "\n".join([head, "| --- " * len(table[0]) + "|", *rows]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variants", nargs="+", metavar="NAME=OVERRIDES")
    parser.add_argument("--config", required=True)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--learning_rates", default="")
    args = parser.parse_args()
    if wrong := [text for text in args.variants if "=" not in text or text.startswith("=")]:
        print(f"error: variant {wrong[0]!r} is not of the form NAME=OVERRIDES", file=sys.stderr)
        return 2
    variants = dict(text.split("=", 1) for text in args.variants)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    args.out.mkdir(parents=True, exist_ok=True)
    runs = compare(
        args.config,
        args.out.resolve(),
        variants,
        seeds,
        [rate for rate in args.learning_rates.split(",") if rate],
    )
    scores = table(runs)
    curves = {
        name: [metrics.read_metrics(workdir / "metrics.jsonl") for workdir in workdirs]
        for name, workdirs in runs.items()
    }
    summary = f"{args.config} · seeds {args.seeds} · mean and range over the seeds"
    (args.out / "table.md").write_text(markdown(scores))
    (args.out / "curves.png").write_bytes(charts.curve_figure(curves))
    (args.out / "report.html").write_text(
        page.comparison_page("Comparison", summary, curves, scores)
    )
    print(markdown(scores), end="")
    print(f"report: {args.out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
