"""Scores a checkpoint on held-out problems, or completions that are there already.

  python launch/eval.py --checkpoint=DIR --out=FILE.json --config=FILE.py[:MODEL[,key=value...]]
  ... --lengths=128,256,512
      one evaluation for each generation length, with half as many steps as tokens
  ... --samples=8
      8 answers to each problem at the config's temperature, and pass@k of them
  ... --thresholds=0.7,0.9
      besides, what committing every proposal of that probability keeps and saves
  python launch/eval.py --config=... --rescore=COMPLETIONS --out=FILE.json
      grades completions without a model: a FILE.json, rows of JSONL with the problem's columns and
      "completion" or "text", or a generation file of diffu-GRPO's
  python launch/eval.py --again=FILE.json --out=NEW.json
      runs the evaluation of a FILE.json again, from its manifest
  python launch/eval.py --compare A.json B.json [--out=FILE.json]
      what differs between two FILE.json, problem by problem

The config names the problems, the sampler and how many (`eval_problems`); DIR is a folder that
launch/convert.py wrote, or the workdir of a run, whose newest checkpoint is taken; without --config
its own settings hold. FILE.json holds the numbers of metrics.jsonl's eval lines, those of the
grades' parts inside `parts`, `metrics` with all numbers, their 95% `intervals`, the same for each
length in `evaluations`, every answer with its grades in `items`, and a `manifest` of what they
follow from. The same command writes the same bytes, on whichever day. Of a distilled student they
hold the distance to its teacher too: that of its run, or of another folder what the config starts
from.

Finished batches are kept in FILE.json.partial.jsonl: the same command goes on from there, --fresh
begins again. On several hosts the same command on each, as for launch/main.py:
  ... --coordinator=HOST:PORT --num_processes=N --process_id=I

Exit codes: 0 done; 2 bad configuration or input, lines say which; 130 after Ctrl-C; 1 a fault.
"""

import argparse
from collections.abc import Mapping
import contextlib
import functools
import json
import math
import pathlib
import sys
from typing import Any, NamedTuple

# `python launch/eval.py` puts launch/ there, not the repository
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from gdsd_jax import interrupts

if __name__ == "__main__":
    interrupts.watch()  # the imports below take their time

from etils import epath

from gdsd_jax import paths
from gdsd_jax.cli import (
    Parser,
    fail,
    fault,
    load_config,
    output_path,
    read_of_run,
    replacing,
    run,
    told,
)
from gdsd_jax.mistakes import Gathered

MODES = ("checkpoint", "again", "rescore", "compare")


def arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--config", help="FILE.py[:MODEL[,key=value...]]")
    parser.add_argument("--checkpoint", help="a converted model's folder, or a run's workdir")
    parser.add_argument("--again", metavar="FILE", help="an evaluation to run again")
    parser.add_argument("--rescore", metavar="FILE", help="completions to grade")
    parser.add_argument("--compare", nargs="*", metavar="FILE", help="two files to compare")
    parser.add_argument("--out", help="JSON file for the numbers and every answer")
    parser.add_argument("--lengths", default="", help="tokens, separated by commas")
    parser.add_argument("--samples", type=int, help="answers to each problem, at least 1")
    parser.add_argument(
        "--thresholds", default="", help="probabilities in (0, 1], separated by commas"
    )
    parser.add_argument("--fresh", action="store_true", help="pass over finished batches")
    parser.add_hosts()
    return parser.checked(check_flags)


def check_flags(args: argparse.Namespace) -> None:
    """Mistakes of the flags."""
    wrong = Gathered()
    with wrong.check():
        mode_of(args)
    with wrong.check():
        if args.config:
            load_config(args.config)
    with wrong.check():
        out_of(args)
    for read, text in (
        (read_lengths, args.lengths),
        (read_samples, args.samples),
        (read_thresholds, args.thresholds),
    ):
        with wrong.check():
            read(text)
    wrong.end()


def mode_of(args: argparse.Namespace) -> str:
    """Which of MODES is asked for; ValueError where flags are missing or do not go together."""
    given = [name for name in MODES if getattr(args, name) is not None]
    if len(given) != 1:
        raise ValueError(
            "give one of --checkpoint=DIR, --again=FILE, --rescore=FILE and --compare A.json B.json"
        )
    mode = given[0]
    if mode == "compare":
        check_two(args.compare)
    flags = ("lengths", "samples", "thresholds")
    asked = [name for name in flags if getattr(args, name) not in (None, "")]
    if mode != "checkpoint" and asked:
        raise ValueError(f"--{asked[0]} asks a model: give it with --checkpoint=DIR")
    unread = {"again": ("config",), "rescore": ("fresh",), "compare": ("config", "fresh")}
    for name in unread.get(mode, ()):
        if getattr(args, name):
            raise ValueError(f"--{mode} reads no --{name}: leave it out")
    needed = {"compare": (), "rescore": ("config", "out")}.get(mode, ("out",))
    for name in needed:
        if getattr(args, name) is None:
            raise ValueError(f"--{mode} needs --{name} too")
    return mode


def out_of(args: argparse.Namespace) -> epath.Path | None:
    """Where the numbers will go; ValueError where they cannot."""
    read = (args.again, args.rescore, *(args.compare or ()), *read_of_run(args.checkpoint))
    return output_path("--out", args.out, *read)


def check_two(files: list[str]) -> None:
    """ValueError unless these are two different files."""
    if len(files) == 2 and paths.absolute(files[0]) != paths.absolute(files[1]):
        return
    first = files[0] if files else "A.json"
    raise ValueError(
        f"--compare takes two different files, not {' '.join(files) or 'none'}: type "
        f"--compare {first} B.json"
    )


def read_numbers(flag: str, text: str, kind: type, wanted: str) -> list:
    """Different numbers, separated by commas; ValueError where they are none."""
    try:
        numbers = [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if (text and not numbers) or len(set(numbers)) < len(numbers):
        raise ValueError(f"--{flag}={text}: give {wanted}, separated by commas, each once")
    return numbers


def read_lengths(text: str) -> list[int]:
    """Generation lengths; ValueError where one of them is no number."""
    return read_numbers("lengths", text, int, "numbers of tokens")


def read_samples(samples: int | None) -> int | None:
    """How many answers; ValueError for less than one."""
    if samples is not None and samples < 1:
        raise ValueError(f"--samples={samples} must be at least 1")
    return samples


def read_thresholds(text: str) -> list[float]:
    """Thresholds; ValueError where one of them is no probability."""
    wanted = "probabilities in (0, 1]"
    thresholds = read_numbers("thresholds", text, float, wanted)
    if not all(0 < threshold <= 1 for threshold in thresholds):
        raise ValueError(f"--thresholds={text}: give {wanted}, separated by commas")
    return thresholds


if __name__ == "__main__":
    arguments()  # tells what is wrong before the imports below, which take seconds

from gdsd_jax import (
    checkpoint,
    evaluation,
    hosts,
    json_files,
    misplaced,
    objectives,
    progress,
    resume,
    sampling,
    settings,
    weights,
)
from gdsd_jax.evaluation import comparison, record, rescoring
from gdsd_jax.evaluation.finished import Finished
from gdsd_jax.experiment import Experiment, prepare
from gdsd_jax.hosts import Hosts
from gdsd_jax.models import ModelConfig
from gdsd_jax.progress import phase
from gdsd_jax.settings import Settings
from gdsd_jax.types import PyTree


class Job(NamedTuple):
    """A checkpoint and what is asked of it."""

    settings: Settings
    plan: record.Plan
    source: dict[str, Any]  # the config and the checkpoint, as they were given
    before: Mapping[str, Any] | None = None  # the manifest, of an evaluation that is run again


def main() -> int:
    args = arguments()
    try:
        mode = mode_of(args)
        out = out_of(args)
        if mode == "compare":
            return compare(args, out)
        if mode == "rescore":
            return rescore(args, out)
        job = job_again(args.again) if mode == "again" else job_of(args)
        here = hosts.start(args.coordinator, args.num_processes, args.process_id)
    except Exception as error:
        return told(error, args.debug)
    work = functools.partial(evaluate, job, out, here, args.fresh, args.debug)
    return hosts.run_together(here, work, fault)


# ---------------------------------------------------------------- a checkpoint


def job_of(args: argparse.Namespace) -> Job:
    """What the flags ask; ValueError in one line."""
    chosen = settings_of(args)
    plan = record.plan_of(
        chosen,
        read_lengths(args.lengths),
        read_samples(args.samples),
        read_thresholds(args.thresholds),
    )
    return Job(chosen, plan, {"config": args.config, "checkpoint": args.checkpoint})


def settings_of(args: argparse.Namespace) -> Settings:
    """Those of the config; without one those of the run in the workdir that is evaluated."""
    if args.config is not None:
        return settings.parse(load_config(args.config))
    if checkpoint.is_converted(args.checkpoint):
        raise ValueError(
            f"--checkpoint={args.checkpoint} is a converted model: give --config too, which names "
            "the problems"
        )
    if checkpoint.latest_iteration(args.checkpoint) is None:
        raise ValueError(f"--checkpoint={misplaced.line_of(args.checkpoint)}")
    return settings.read(args.checkpoint)


def job_again(path: str) -> Job:
    """What the evaluation of a file was asked; ValueError in one line."""
    content = rescoring.read_own(path)
    if "checkpoint" not in content["manifest"]:
        raise ValueError(f"--again={path}: its completions come from elsewhere; use --rescore")
    with rescoring.whole(path):
        chosen, plan = record.from_manifest(content["manifest"])
    source = {name: content.get(name) for name in ("config", "checkpoint")}
    return Job(chosen, plan, source, content["manifest"])


def evaluate(job: Job, out: epath.Path, here: Hosts, fresh: bool, debug: bool) -> int:
    """Scores a checkpoint in this process, one of those that work together; its exit code."""
    folder, chosen = job.source["checkpoint"], job.settings
    with contextlib.ExitStack() as opened:
        if here.first:
            opened.enter_context(progress.shown(sys.stderr))
        try:
            experiment = prepare(chosen, here, folder=folder, say=progress.say)
            opened.callback(experiment.task.close)
            with phase("loading the weights"):
                model, teacher = model_of(experiment, folder)
            with phase("hashing the weights"):
                manifest = record.manifest_of(experiment, job.plan, folder, teacher)
            note = None if job.before is None else record.check_same(job.before, manifest)
            kept = out.with_name(f"{out.name}.partial.jsonl")
            asked = evaluation.problems_asked(experiment)
            is_taught = teacher is not None
            rounds = math.ceil(asked / chosen.prompts_per_round) if is_taught else 0
            batches = job.plan.batches(asked, chosen.rows, rounds)
            finished = Finished(kept, manifest, here, batches, fresh, progress.say)
        except Exception as error:
            opened.close()  # the live line, before the error's
            return told(error, debug)
        for line in (note, *doubts_of(chosen, experiment.denoiser.config, folder)):
            if line is not None and here.first:
                progress.say(line)
        try:
            items = record.answer_all(experiment, model, job.plan, finished, is_taught)
        except KeyboardInterrupt:
            opened.close()
            return fail(f"interrupted; the same command goes on from {kept}", 130)
        if here.first:
            source = {**job.source, "iteration": manifest["iteration"]}
            prompts = record.prompts_of(record.records_of(experiment), experiment.task.messages)
            content = record.contents(source, manifest, prompts, items)
            write(out, content)
            for line in lines_of(content, str(out)):
                print(line)
        finished.remove()
    return 0


def model_of(experiment: Experiment, folder: str) -> tuple[tuple[PyTree, dict], PyTree | None]:
    """((trainable, frozen) of a checkpoint, its teacher's parameters): these are None where the
    settings distil nothing or no teacher is known, which is told."""
    place = experiment.denoiser.config, experiment.mesh
    trainable, frozen = weights.load_weights(folder, weights.settings_of(folder), *place)
    if experiment.teacher is None:
        return (trainable, frozen), None
    teacher = resume.teacher_of(folder, experiment.settings, *place, trainable)
    if teacher is None:
        if experiment.hosts.first:
            progress.say(f"note: the teacher of {folder} is not known, nothing is compared with it")
        return (trainable, frozen), None
    frozen |= teacher
    return (trainable, frozen), objectives.frozen_params(experiment.teacher, frozen, "teacher")


def doubts_of(chosen: Settings, model: ModelConfig, folder: str) -> list[str]:
    """Notes on a config and a folder, of that model, that go together, but hardly as they are
    meant."""
    learnt = weights.settings_of(folder).sampler.kind, model.block_length
    found = sampling.attention_doubts(chosen.sampler, *learnt, "these weights")
    found += sampling.idle_doubts(chosen.sampler)
    if not checkpoint.is_converted(folder):
        task = json_files.read_object(epath.Path(folder) / "config.json").get("task")
        if task not in (None, chosen.task):
            found.append(
                f"the run in {folder} is of task={task}, the problems here are of "
                f"task={chosen.task}"
            )
    return [f"note: {doubt}" for doubt in found]


def lines_of(content: Mapping[str, Any], place: str) -> list[str]:
    """What the terminal shows of an evaluation's file."""
    manifest, lines = content["manifest"], []
    for entry in content["evaluations"]:
        metrics = entry["metrics"]
        temperature = manifest["sampled"]["temperature"]
        line = evaluation.line_of(numbers_of(metrics), manifest["score"], temperature)
        if len(content["evaluations"]) > 1:
            sampler = entry["sampler"]
            line = f"gen_length {sampler['gen_length']}, steps {sampler['steps']} | {line}"
        lines.append(f"{line} | {place}")
        lines.extend(sure_lines(entry, manifest))
        for row in entry.get("thresholds", ()):
            lines.append(threshold_line(row, metrics["forwards_per_token"]))
    return lines


def numbers_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers for people, where a mean over nothing is NaN."""
    return {name: math.nan if value is None else value for name, value in metrics.items()}


def sure_lines(entry: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[str]:
    """The intervals of the main numbers, and pass@k where there are several answers."""
    metrics, sure = entry["metrics"], entry["intervals"]
    names = {"kl_common": "KL", "accuracy": "accuracy", "pass_at_1": "pass@1"}
    names["mean_reward"] = manifest["score"]
    if manifest["score"] != "reward":
        names["reward"] = "reward"
    said = [f"{shown} {span(sure[name])}" for name, shown in names.items() if sure.get(name)]
    lines = []
    if said:
        stated = manifest["intervals"]
        lines.append(
            f"{stated['level']:.0%} intervals, {stated['resamples']} resamples of "
            f"{evaluation.told_count(metrics)} problems: {', '.join(said)}"
        )
    chances = metrics.get("pass_at_k", {})
    if len(chances) > 1:
        parts = [f"{k}: {value:.1%} ({span(sure['pass_at_k'][k])})" for k, value in chances.items()]
        lines.append(f"pass@k {', '.join(parts)}")
    return lines


def span(interval: list[float]) -> str:
    """An interval for people."""
    return f"{interval[0]:.3f} to {interval[1]:.3f}"


def threshold_line(row: Mapping[str, Any], scheduled: float) -> str:
    """What the terminal shows of a threshold; `scheduled` is the schedule's forwards a token."""
    solved = ""
    if row.get("pass_at_1") is not None:
        solved = f"pass@1 {row['pass_at_1']:.1%} | "
    return (
        f"threshold {row['threshold']:g} | {solved}{row['forwards_per_token']:.2f} forwards a "
        f"token, the schedule takes {scheduled:.2f}"
    )


# ---------------------------------------------------------------- files


def rescore(args: argparse.Namespace, out: epath.Path) -> int:
    """Grades the completions of a file; raises ValueError where it cannot."""
    chosen = settings.parse(load_config(args.config))
    manifest, prompts, items = rescoring.rescore(chosen, args.rescore)
    source = {"config": args.config, "rescored": args.rescore}
    with rescoring.whole(args.rescore):
        content = record.contents(source, manifest, prompts, items)
    write(out, content)
    for entry in content["evaluations"]:
        metrics = entry["metrics"]
        length = "" if entry["gen_length"] is None else f"gen_length {entry['gen_length']} | "
        unjudged = f" | {metrics['unjudged']} without a verdict" if metrics["unjudged"] else ""
        print(f"{length}{metrics['correct']}/{metrics['total']} right{unjudged} | {args.out}")
        for line in sure_lines(entry, manifest):
            print(line)
    return 0


def compare(args: argparse.Namespace, out: epath.Path | None) -> int:
    """Says what differs between two files; raises ValueError where they cannot be compared."""
    with rescoring.whole(*args.compare):
        found = comparison.compare(args.compare)
    if out is not None:
        write(out, found)
    for line in comparison.lines_of(found):
        print(line)
    return 0


def write(out: epath.Path, content: Mapping[str, Any]) -> None:
    """Writes the JSON file, whole or not at all."""
    with replacing(out) as file:
        json.dump(content, file, indent=1, allow_nan=False)
        file.write("\n")


if __name__ == "__main__":
    sys.exit(run(main))
