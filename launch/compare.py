r"""Runs variants of one experiment over seeds and draws them side by side; started again, it goes
on where it was.

  python launch/compare.py --config=configs/coding.py --out=runs/compare "gdsd=" \
    "shuffled=shuffle_rewards=true"
  python launch/compare.py --config=configs/opdlm.py --out=runs/opdlm "opdlm=" "sft=control=sft" \
    "kd=control=kd"
  ... --tune=optimizer.learning_rate=3e-5/1e-4/3e-4 --tune=inner_iterations=1/4 --halvings=2
      each variant by itself: its first seed tries all pairs of these values for a quarter of the
      rounds, the better half of them goes on to half of the rounds, the better half of those to
      the end; the other seeds take the best. Without --halvings all go to the end
  ... --test --samples=8 --temperatures=0.5,1 --split=misled
      half of the held-out problems chooses, and the other half, which no run has seen, is
      reported: gains with 95% intervals over problems and seeds (of distilled students the distance
      to the teacher), and how each variant differs from the first one. All answer by the sampler of
      --config, whatever a variant says of its rollouts. --split tells the problems apart by a
      column of theirs

A variant is NAME=OVERRIDES of the config's keys, but for those of the supervised phase: the
variants of a seed start from the same supervised model, which is trained once. OUT holds a folder a
run, and report.html with the curves and the tables, which curves.png, probes.png (where rewards ask
for moves) and table.md hold alone, and compiled/, from which scripts load what earlier ones
compiled (JAX_COMPILATION_CACHE_DIR names another place).
Exit codes: 0 done; 2 bad arguments, lines say which; that of a run which fails.
"""

import argparse
from collections.abc import Mapping, Sequence
import contextlib
import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gdsd_jax import interrupts

if __name__ == "__main__":
    interrupts.watch()  # the imports below take their time

from gdsd_jax import cli, metrics, paths, report
from gdsd_jax.cli import Parser, load_config, output_folder, run, split_config, told
from gdsd_jax.mistakes import Gathered
from gdsd_jax.report.tables import check_ended, lines_of, markdown, merit, score_in, table

# ---------------------------------------------------------------- the runs


def argument_of(config: str, *overrides: str) -> str:
    """The `--config` of launch/main.py: what the user gave, and then the overrides."""
    file, given = split_config(config)
    return f"{file}:{','.join(text for text in (given, *overrides) if text)}"


def train(config: str, workdir: pathlib.Path, *overrides: str) -> None:
    """One run to its end, in a process of its own; SystemExit with its code where it fails."""
    argument = argument_of(config, *overrides)
    print(f"== {workdir.name}: {argument}", flush=True)
    run_script("main.py", f"--config={argument}", f"--workdir={workdir}")


def run_script(script: str, *flags: str, output: int | None = None) -> None:
    """A script of launch/ to its end; SystemExit with its code where it fails."""
    done = subprocess.run(command_of(script, *flags), check=False, stdout=output)
    if done.returncode < 0:  # it could say nothing, as where the memory was not enough
        name = signal.Signals(-done.returncode).name
        line = f"launch/{script} was ended by {name}; the same command goes on from there"
        raise SystemExit(cli.fail(line, 128 - done.returncode))
    if done.returncode:
        raise SystemExit(done.returncode)


def command_of(script: str, *flags: str) -> list[str]:
    """What starts a script of launch/."""
    return [sys.executable, str(ROOT / "launch" / script), *flags]


def finished(config: str, out: pathlib.Path, name: str, seed: int, *overrides: str) -> pathlib.Path:
    """The workdir of a variant's seed, trained to the end from the seed's supervised start."""
    start, workdir = out / f"start-{seed}", out / f"{name}-{seed}"
    overrides = (f"seed={seed}", f"start_from={start}", *overrides)
    mark, argument = workdir / "finished", argument_of(config, *overrides)
    done = mark.read_text().splitlines() if mark.exists() else None
    if done is not None and (done == [] or argument in done):  # earlier versions left it empty
        return workdir
    if not lines_of(start, "eval"):
        train(config, start, f"seed={seed}", "rounds=0")
    train(config, workdir, *overrides)
    for old in workdir.glob("test-*.json"):  # of a model that has gone on
        old.unlink()
    mark.write_text("\n".join([*(done or ()), argument]))
    return workdir


class Plan(NamedTuple):
    """What is compared.

    Attributes:
      config: of all runs.
      out: folder of all runs.
      variants: name -> overrides.
      seeds: of each variant.
      grid: key -> the values that each variant tries.
      halvings: how often the worse half of them is left behind.
    """

    config: str
    out: pathlib.Path
    variants: Mapping[str, str]
    seeds: Sequence[int]
    grid: Mapping[str, Sequence[str]] = {}
    halvings: int = 0


class Tuned(NamedTuple):
    """The runs of a variant at the values that were best for its first seed."""

    name: str
    workdirs: list[pathlib.Path]
    edges: list[str]  # the values that are the least or the largest tried


def compare(plan: Plan) -> list[Tuned]:
    """The variants, all of their seeds trained to the end."""
    return [tuned(plan, name, overrides) for name, overrides in plan.variants.items()]


def tuned(plan: Plan, name: str, overrides: str) -> Tuned:
    """A variant at the best of the grid's values.

    Raises:
      ValueError: a run has gone on past its rounds, under a command that asked for more.
    """
    best = choose(plan, name, overrides) if plan.grid else ()
    chosen = (overrides, *best)
    folder = folder_of(name, best)
    workdirs = [finished(plan.config, plan.out, folder, seed, *chosen) for seed in plan.seeds]
    check_ended(workdirs, rounds_of(plan.config, *chosen))
    label = " ".join([name, *(text.partition("=")[2] for text in best)])
    return Tuned(label, workdirs, edges(plan.grid, best))


def choose(plan: Plan, name: str, overrides: str) -> tuple[str, ...]:
    """The best of the grid by successive halving (arXiv 1502.07943): a run that is left goes on."""
    left = choices_of(plan.grid)
    whole = rounds_of(plan.config, overrides) if plan.halvings else 0
    for halving in range(plan.halvings, -1, -1):
        rounds = -(-whole // 2**halving)
        budget = (f"rounds={rounds}",) if halving else ()
        merits = {
            best: merit_after(
                finished(
                    plan.config,
                    plan.out,
                    folder_of(name, best),
                    plan.seeds[0],
                    *(overrides, *best, *budget),
                ),
                rounds if halving else None,
            )
            for best in left
        }
        left.sort(key=lambda best: -merits[best])
        left = left[: -(-len(left) // 2)] if halving else left[:1]
    return left[0]


def merit_after(workdir: pathlib.Path, rounds: int | None) -> float:
    """The merit of a run after so many rounds, kept: a run that goes on forgets the evaluation at
    its earlier end, and the command that is started again must choose as it did.

    Raises:
      ValueError: it has gone on past these rounds already, under a command of fewer halvings.
    """
    if rounds is None:
        return merit(workdir)
    kept = workdir / f"merit-{rounds}"
    if not kept.exists():
        kept.write_text(repr(merit(workdir, rounds)))
    return float(kept.read_text())


def choices_of(grid: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """The overrides of each choice of values; of no grid the one that overrides nothing."""
    return [
        tuple(f"{key}={value}" for key, value in zip(grid, values))
        for values in itertools.product(*grid.values())
    ]


def rounds_of(config: str, *overrides: str) -> int:
    """The rounds of a variant."""
    from gdsd_jax import settings  # slow to import: wrong arguments are told before

    return settings.parse(load_config(argument_of(config, *overrides))).rounds


def folder_of(name: str, best: Sequence[str]) -> str:
    """The begin of the names of a variant's folders."""
    values = (re.sub(r"[^\w.\-]+", "_", text.partition("=")[2]) for text in best)
    return "-".join([name, *values])


def edges(grid: Mapping[str, Sequence[str]], best: Sequence[str]) -> list[str]:
    """Which chosen values are the least or the largest of three numbers or more: others beyond them
    may be better."""
    found = []
    for (_, values), text in zip(grid.items(), best):
        try:
            numbers = sorted(map(float, values))
            value = float(text.partition("=")[2])
        except ValueError:
            continue
        if len(numbers) > 2 and value in (numbers[0], numbers[-1]):
            found.append(text)
    return found


# ---------------------------------------------------------------- the half that nobody chose by


class Test(NamedTuple):
    """How the other half is asked.

    Attributes:
      samples: answers to each problem besides the greedy one.
      temperatures: of these, the config's override of each; "" = as it is there.
      split: column of the problems' records by whose values they are told apart, or none.
    """

    samples: int
    temperatures: Sequence[str]
    split: str | None


def evaluated(
    plan: Plan, workdir: pathlib.Path, seed: int, test: Test, temperature: str
) -> pathlib.Path:
    """The evaluation of a run's newest checkpoint on the half that no run was asked.

    The start and all variants are asked alike, by the config alone: what a variant overrides is of
    its training.
    """
    place = filter(None, ["test", str(test.samples), temperature.replace("=", "-")])
    file = workdir / f"{'-'.join(place)}.json"
    argument = argument_of(plan.config, f"seed={seed}", temperature, "heldout_half=test")
    if not file.exists() or not is_current(json.loads(file.read_text()), argument):
        print(f"== {workdir.name}: {file.name}", flush=True)
        flags = [f"--config={argument}", f"--checkpoint={workdir}", f"--samples={test.samples}"]
        run_script("eval.py", *flags, f"--out={file}", output=subprocess.DEVNULL)
    return file


def is_current(found: Mapping[str, Any], argument: str) -> bool:
    """Whether an evaluation was asked this, and of a student by a version that asks its teacher."""
    from gdsd_jax import objectives, settings  # slow to import: wrong arguments are told before

    chosen = settings.parse(load_config(argument))
    is_told = not objectives.find(chosen.objective).teacher or "teacher" in found["manifest"]
    return found["config"] == argument and is_told


def test_tables(plan: Plan, runs: Sequence[Tuned], test: Test) -> dict[str, list[list[str]]]:
    """By its heading, a table for each temperature, and for each value of the column besides.

    Raises:
      ValueError: no problem has the column.
    """
    from gdsd_jax.evaluation import arms  # slow to import: wrong arguments are told before

    score, found = score_in([path for one in runs for path in one.workdirs]), {}
    for temperature in test.temperatures:
        before = [
            evaluated(plan, plan.out / f"start-{seed}", seed, test, temperature)
            for seed in plan.seeds
        ]
        paths = {}
        for one in runs:
            after = [
                evaluated(plan, workdir, seed, test, temperature)
                for seed, workdir in zip(plan.seeds, one.workdirs)
            ]
            paths[one.name] = (before, after)
        sides = arms.read(paths)
        split = arms.values_of(sides, test.split) if test.split else []
        for only in ({}, *({test.split: value} for value in split)):
            told = [f"{key} {value}" for key, value in only.items()]
            said = filter(None, ["Test half", *told, temperature.replace("=", " ")])
            found[", ".join(said)] = arms.table(sides, score, only)
    return found


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


def grid_of(texts: Sequence[str]) -> dict[str, list[str]]:
    """{key: values} of KEY=VALUE/VALUE; ValueError where a text is not of that form."""
    grid: dict[str, list[str]] = {}
    for text in texts:
        key, _, values = text.partition("=")
        found = values.split("/")
        if not key or "" in found or len(set(found)) < max(2, len(found)):
            raise ValueError(f"--tune={text}: give KEY=VALUE/VALUE, each value once")
        if key in grid:
            raise ValueError(f"--tune={text}: {key} is tuned twice, give all its values at once")
        grid[key] = found
    return grid


def check(plan: Plan, test: Test | None) -> None:
    """Mistakes of the settings of all variants and of the test; nothing is trained before."""
    from gdsd_jax import experiment, settings  # slow to import: wrong flags are told before
    from gdsd_jax.evaluation import arms, record

    starts = [
        settings.parse(load_config(argument_of(plan.config, f"seed={seed}"))) for seed in plan.seeds
    ]
    wrong = Gathered()
    for name, overrides in plan.variants.items():
        for values in choices_of(plan.grid):
            with wrong.check(f"variant {name!r}: "):
                argument = argument_of(plan.config, f"seed={plan.seeds[0]}", overrides, *values)
                found = settings.parse(load_config(argument))
                changed = settings.changes_of_start(starts[0], found)
                if changed:
                    told = settings.listed(changed)
                    raise ValueError(f"{told}: the supervised phase is shared, set it in --config")
    for temperature in test.temperatures if test else ():
        with wrong.check("--temperatures: "):
            asked = load_config(argument_of(plan.config, temperature))
            record.plan_of(settings.parse(asked), samples=test.samples)
    wrong.end()
    if test and test.split:
        task = experiment.make_task(starts[0], starts[0].init_from is None)
        with contextlib.closing(task):
            arms.values_in(experiment.split(starts[0], task, experiment.ignore)[1], test.split)
    check_begins(plan)


def check_begins(plan: Plan) -> None:
    """Mistakes of the variants that main.py would find when their turn comes, hours later, of those
    that have not begun. Each is asked in a process of its own, which gives its devices back."""
    wrong = Gathered()
    for name, overrides in plan.variants.items():
        values, seed = choices_of(plan.grid)[0], plan.seeds[0]
        workdir = plan.out / f"{folder_of(name, values)}-{seed}"
        if workdir.exists():
            continue
        argument = argument_of(plan.config, f"seed={seed}", overrides, *values)
        flags = ("--check", f"--config={argument}", f"--workdir={workdir}")
        asked = subprocess.run(
            command_of("main.py", *flags), check=False, capture_output=True, text=True
        )
        said = re.findall("^error: (.*)", asked.stderr, re.MULTILINE)
        if asked.returncode:
            said = said or [f"main.py --check ends with exit code {asked.returncode}"]
            wrong.lines += [f"variant {name!r}: {line}" for line in said]
    wrong.end()


def write(
    out: pathlib.Path,
    runs: Mapping[str, Sequence[pathlib.Path]],
    summary: str,
    tests: Mapping[str, Sequence[Sequence[str]]] = {},
) -> None:
    """Writes table.md, the pictures and report.html, and prints the tables."""
    scores = table(runs)
    score = score_in([workdir for workdirs in runs.values() for workdir in workdirs])
    curves = {
        name: [metrics.read_metrics(workdir / "metrics.jsonl") for workdir in workdirs]
        for name, workdirs in runs.items()
    }
    told = markdown(scores)
    for heading, rows in tests.items():
        told += f"\n{heading}\n\n{markdown(rows)}"
    (out / "table.md").write_text(told)
    (out / "curves.png").write_bytes(report.curve_figure(curves, score))
    probes = report.probe_figure(curves)
    if probes is not None:
        (out / "probes.png").write_bytes(probes)
    page = report.comparison_page("Comparison", summary, curves, scores, score, tests=tests)
    (out / "report.html").write_text(page)
    print(told, end="")


def arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("variants", nargs="+", metavar="NAME=OVERRIDES")
    parser.add_argument("--config", required=True, help="FILE.py[:MODEL[,key=value...]]")
    parser.add_argument("--out", required=True, help="local folder of all runs")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--tune", action="append", default=[], metavar="KEY=VALUE/VALUE")
    parser.add_argument("--halvings", type=int, default=0)
    parser.add_argument("--test", action="store_true", help="report a half that no run was asked")
    parser.add_argument("--samples", type=int, help="of a test, to each problem; by default 8")
    parser.add_argument("--temperatures", default="", help="of these samples")
    parser.add_argument("--split", help="column by which the problems of a test are told apart")
    return parser.checked(check_flags)


def check_flags(args: argparse.Namespace) -> None:
    """Mistakes of the flags."""
    wrong = Gathered()
    with wrong.check():
        variants_of(args.variants)
    with wrong.check():
        seeds_of(args.seeds)
    with wrong.check():
        grid_of(args.tune)
    for name, least in (("halvings", 0), ("samples", 1)):
        given = getattr(args, name)
        if given is not None and given < least:
            wrong.lines.append(f"--{name}={given}: give a number of at least {least}")
    if args.halvings > 0 and not args.tune:
        wrong.lines.append(f"--halvings={args.halvings}: nothing is tuned, give --tune")
    of_test = [name for name in ("samples", "temperatures", "split") if getattr(args, name)]
    if of_test and not args.test:
        wrong.lines.append(f"--{', --'.join(of_test)} belongs to a test: give --test too")
    with wrong.check():
        load_config(args.config)
    with wrong.check():
        if paths.is_remote(args.out):
            raise ValueError(f"--out={args.out}: give a local folder")
        place = output_folder("--out", args.out)
        cli.check_writable("--out", args.out, place)
        if (place / "config.json").exists():
            raise ValueError(f"--out={args.out}: a run is in there; name a folder for all runs")
    wrong.end()


def main() -> int:
    args = arguments()
    out = pathlib.Path(args.out).resolve()
    config = argument_of(args.config, "heldout_half=development") if args.test else args.config
    variants, seeds, grid = variants_of(args.variants), seeds_of(args.seeds), grid_of(args.tune)
    plan = Plan(config, out, variants, seeds, grid, args.halvings)
    temperatures = [f"temperature={one}" for one in args.temperatures.split(",") if one] or [""]
    test = Test(args.samples or 8, temperatures, args.split) if args.test else None
    try:
        check(plan, test)
        out.mkdir(parents=True, exist_ok=True)
        # what one script compiles, those after it load: many of their programs are the same
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(out / "compiled"))
    except Exception as error:
        return told(error, args.debug)
    try:
        runs = compare(plan)
        tests = test_tables(plan, runs, test) if test else {}
    except ValueError as error:  # all runs and answers are kept
        return told(error, args.debug)
    at_edge = [f"{one.name}: {text} is at the edge" for one in runs for text in one.edges]
    summary = [args.config, f"seeds {args.seeds}", "mean and range over the seeds", *at_edge]
    if grid:
        summary.append(f"tuned on seed {seeds[0]}, which is reported too")
    if test:
        summary.append("test half: mean and 95% interval over problems and seeds")
    write(out, {one.name: one.workdirs for one in runs}, " · ".join(summary), tests)
    for line in at_edge:
        print(f"note: {line} of the values tried: give --tune further ones")
    print(f"report: {out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
