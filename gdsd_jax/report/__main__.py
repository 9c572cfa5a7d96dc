"""Redraws the page of a run from its workdir, or draws several runs on one page.

  python -m gdsd_jax.report runs/coding-tiny
  python -m gdsd_jax.report runs/first runs/second --out=page.html

Without --out one run's page is WORKDIR/report.html; of several it must be given.
Exit codes: 0 done; 2 a workdir or file that cannot be used, one line says which.
"""

from collections.abc import Mapping
import sys
from typing import Any

from etils import epath

from gdsd_jax import paths
from gdsd_jax.cli import Parser, output_path, read_of_run, run, told
from gdsd_jax.metrics import read_metrics
from gdsd_jax.report import page
from gdsd_jax.report.before_after import entries_of, headlines, score_of
from gdsd_jax.report.charts import points

NOTHING = "-"  # a cell without a number


def names_of(workdirs: list[epath.Path]) -> list[str]:
    """Their folders' names, as short as they differ."""
    parts = [workdir.parts for workdir in workdirs]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(names):
            break
    return names


def scores_of(runs: Mapping[str, list], scores: Mapping[str, str]) -> list[list[str]]:
    """The table, a column a run: its length, and what its evaluations say before and after."""
    told = {
        run: {
            name: f"{before} → {after}" for name, before, after, _ in headlines(rows, scores[run])
        }
        for run, rows in runs.items()
    }
    heads = list(dict.fromkeys(name for found in told.values() for name in found))
    rounds = [f"{len(points(rows, 'rollout', 'step')[0]):,}" for rows in runs.values()]
    scores = [[name, *(found.get(name, NOTHING) for found in told.values())] for name in heads]
    return [["", *runs], ["rounds", *rounds], *scores]


def differences_of(runs: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The table of the settings that differ, of what each run's config.json says; nothing where
    none does."""
    settings = {}
    for name, entries in runs.items():
        # without the command, which says the same, and more
        found = {key: value for key, value in entries.items() if key != "command"}
        settings[name] = dict(page.flatten(found))
    keys = dict.fromkeys(key for found in settings.values() for key in found)
    rows = [[key, *(found.get(key, NOTHING) for found in settings.values())] for key in keys]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    return [["setting", *runs], *differing] if differing else []


def draw(workdirs: list[epath.Path]) -> str:
    """The page; ValueError or OSError where a run's files cannot be used."""
    if len(workdirs) == 1:
        return page.page_of(workdirs[0])
    named = dict(zip(names_of(workdirs), workdirs))
    runs = {name: read_metrics(workdir / "metrics.jsonl") for name, workdir in named.items()}
    entries = {name: entries_of(workdir) for name, workdir in named.items()}
    scores = {name: score_of(found) for name, found in entries.items()}
    return page.comparison_page(
        name=f"{len(runs)} runs",
        summary=" · ".join(str(workdir) for workdir in workdirs),
        runs={name: [rows] for name, rows in runs.items()},
        table=scores_of(runs, scores),
        score=" / ".join(dict.fromkeys(scores.values())),
        differences=differences_of(entries),
    )


def main() -> int:
    parser = Parser(__doc__)
    parser.prog = "python -m gdsd_jax.report"
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR")
    parser.add_argument("--out", help="the page's file, local or gs://")
    args = parser.parse_args()
    try:
        workdirs = [paths.absolute(one) for one in args.workdirs]
        for one in workdirs:
            if not (one / "metrics.jsonl").exists():
                raise ValueError(f"{one} has no metrics.jsonl: name the workdir of a run")
        if args.out is None and len(workdirs) > 1:
            raise ValueError("--out is missing: name the page of several runs")
        read = [file for one in workdirs for file in read_of_run(one)]
        out = output_path("--out", args.out or str(workdirs[0] / "report.html"), *read)
        paths.write_whole(out, page.encoded(draw(workdirs)))
    except (ValueError, OSError) as error:
        return told(error, args.debug)
    print(f"report: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
