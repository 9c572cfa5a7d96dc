"""What a run writes besides checkpoints: its settings, metrics, answers and report."""

from collections.abc import Callable, Iterator
import contextlib
import json
import math
import time
from typing import Any

from etils import epath

from gdsd_jax import cli, locks, origin, paths, report, settings, tokenizers
from gdsd_jax.checkpoint import OtherSettings, latest_iteration, read_host
from gdsd_jax.evaluation import Heldout, question_of
from gdsd_jax.experiment import Experiment
from gdsd_jax.hosts import Hosts
from gdsd_jax.metrics import MetricsWriter, read_metrics
from gdsd_jax.report.unmasking import pieces
from gdsd_jax.resume import Progress, from_host
from gdsd_jax.settings import Settings

SAMPLES = 64  # held-out problems whose answers the report shows
ORDERS = 4  # of those whose order of unmasking it shows
REDRAWN_S = 60  # how old the page of a run that goes on may be
BEST = "best"  # folder in a workdir: a workdir with the best checkpoint
FILES = ("config.json", origin.FILE, "metrics.jsonl", "metrics.jsonl.sent", "report.html")
FOLDERS = ("checkpoints", "samples", "tokenizer", "tensorboard", "damaged", BEST)


def check(workdir: epath.Path, chosen: Settings) -> settings.Changes:
    """The settings in which a run goes on otherwise than before, none where it begins.

    Raises:
      checkpoint.OtherSettings: a run there has other settings that may not change, or stands on
        files that are others now, or `start_from` is no run to start from; one line names keys with
        old and new values.
      paths.WorkdirError: a file is where a folder belongs, or a folder where a file does.
    """
    check_kinds(workdir)
    try:
        if latest_iteration(workdir) is None:
            if chosen.start_from is not None:
                check_start(chosen)
            return {}
        allowed, refused = settings.changes_of_run(settings.read(workdir), chosen)
    except OtherSettings:
        raise
    except ValueError as error:
        raise OtherSettings(str(error)) from None
    if refused:
        raise OtherSettings(
            f"{workdir}: the run there has other settings, {settings.listed(refused)}: give its "
            "own, or another --workdir"
        )
    origin.check(workdir, chosen, origin.of)
    return allowed


def check_before(hosts: Hosts, workdir: epath.Path, chosen: Settings) -> None:
    """`check`, and whether the first process can write, without the lock and without a trace: what
    a run that is not possible hears before minutes of work. It asks again when it has the lock.

    Raises:
      paths.WorkdirError: as `check` in any process, nothing can be written, or the processes do not
        see the same run there; in all of them.
    """
    refusal = newest = None
    try:
        if hosts.first:
            locks.check_writable(workdir)
        check(workdir, chosen)
        newest = latest_iteration(workdir)
    except paths.WorkdirError as error:
        refusal = str(error)
    lines, checkpoints = zip(*hosts.exchange((refusal, newest)))
    for line in lines:
        if line is not None:
            raise paths.WorkdirError(line)
    if len(set(checkpoints)) > 1:
        raise paths.WorkdirError(
            f"the processes see different checkpoints in {workdir}, {list(checkpoints)}: give a "
            "--workdir that is the same for all, such as a gs:// address"
        )


def check_kinds(workdir: epath.Path) -> None:
    """paths.WorkdirError where a file has the name of a folder of runs, or a folder of a file."""
    for name in (*FILES, *FOLDERS):
        path, kind = workdir / name, "file" if name in FILES else "folder"
        if path.exists() and path.is_file() != (name in FILES):
            raise paths.WorkdirError(
                f"{path} is no {kind}: move it away, or give another --workdir"
            )


def check_start(chosen: Settings) -> None:
    """ValueError, one line, where a run cannot begin from `start_from`."""
    name, newest = f"start_from={chosen.start_from}", latest_iteration(chosen.start_from)
    if newest is None:
        raise OtherSettings(f"{name}: no finished checkpoint there; train it with rounds=0")
    wrong = settings.changes_of_start(settings.read(chosen.start_from), chosen)
    if wrong:
        raise OtherSettings(
            f"{name} has another supervised phase, {settings.listed(wrong)}: give the same "
            "settings, or leave start_from out"
        )
    place = paths.absolute(chosen.start_from) / "checkpoints" / str(newest)
    progress, _ = from_host(read_host(place))
    supervised_lines(chosen.start_from)  # which the run will repeat: they can be read
    if progress.phase == "sft" or progress.has_rl_state:
        raise OtherSettings(
            f"{name}: that run must have ended its supervised phase and begun no round: train one "
            "with rounds=0"
        )


@contextlib.contextmanager
def claimed(hosts: Hosts, workdir: epath.Path, say: Callable[[str], None]) -> Iterator[None]:
    """Holds the workdir's lock, in the first process; the others wait until it has it.

    Raises:
      paths.WorkdirError: another run is at work there, or nothing can be written; in all processes.
    """
    with contextlib.ExitStack() as stack:
        refusal = None
        if hosts.first:
            try:
                stack.enter_context(locks.held(workdir, say))
            except paths.WorkdirError as error:
                refusal = str(error)
        refusal = hosts.exchange(refusal)[0]
        if refusal is not None:
            raise paths.WorkdirError(refusal)
        yield


@contextlib.contextmanager
def opened(
    experiment: Experiment, workdir: epath.Path, progress: Progress, say: Callable[[str], None]
) -> Iterator[MetricsWriter]:
    """Writes config.json and the tokenizer, and removes answers that the run has yet to give; gives
    the writer of metrics.jsonl with its sinks.

    Args:
      experiment: whose workdir it is.
      workdir: of the run.
      progress: where the run goes on. Later lines of metrics.jsonl, and later samples, are of an
        earlier run there, or of rounds that are lost.
      say: takes the line about a sink that fails, or about lines that are lost.

    Raises:
      report.SinkError: a sink that does not open; nothing is written then.
      checkpoint.OtherSettings: a metrics.jsonl that is none; nothing is written then.
    """
    sinks, chosen, first = [], experiment.settings, experiment.hosts.first
    if first:
        sinks = report.open_sinks(chosen.sinks, workdir, settings.to_json(chosen))
    lines = progress.lines
    writer = MetricsWriter(workdir / "metrics.jsonl", lines, enabled=first, sinks=sinks, say=say)
    with contextlib.closing(writer):
        try:
            writer.open()
        except ValueError as error:
            raise OtherSettings(f"{error}; mend that, or give another --workdir") from None
        if first:
            for path in (workdir / "samples").glob("*.json"):
                if path.stem.isdecimal() and int(path.stem) > progress.round:
                    path.unlink()
            write_settings(experiment, workdir)
            if chosen.keep_best is not None:
                write_settings(experiment, workdir / BEST)
        yield writer


def write_settings(experiment: Experiment, workdir: epath.Path) -> None:
    """Writes config.json; and origin.json and the tokenizer of a model from nothing, unless a
    checkpoint there needs those that are there already."""
    workdir.mkdir(parents=True, exist_ok=True)
    settings.write(workdir, experiment.settings, experiment.task.score, cli.command())
    goes_on = latest_iteration(workdir) is not None
    if not (goes_on and (workdir / origin.FILE).exists()):
        origin.write(workdir, experiment.settings)
    kept = goes_on and (workdir / "tokenizer").is_dir()
    if experiment.settings.init_from is None and not kept:
        tokenizers.save(experiment.tokenizer, workdir / "tokenizer")


def repeat_supervised(writer: MetricsWriter, workdir) -> None:
    """Writes the lines of another run's supervised phase, but for their clock."""
    for row in supervised_lines(workdir):
        row.pop("wall_s", None)
        told = {key: math.nan if value is None else value for key, value in row.items()}
        writer.write(told.pop("phase"), told.pop("step"), **told)


def supervised_lines(workdir) -> list[dict[str, Any]]:
    """The lines of a run's supervised phase; ValueError, one line, where they cannot be read."""
    path = epath.Path(workdir) / "metrics.jsonl"
    return [row for row in read_metrics(path) if row["phase"] == "sft"] if path.exists() else []


def write_report(
    experiment: Experiment,
    workdir: epath.Path,
    number: int,
    found: Heldout,
    writer: MetricsWriter,
    say: Callable[[str], None] = print,
) -> None:
    """Keeps the first held-out answers after `number` rounds in samples/, gives them to the sinks
    that show texts, and redraws report.html where it is older than a minute or the run ends; `say`
    takes a line where a file that it is made of is damaged."""
    shown = samples_of(experiment, found)
    folder = workdir / "samples"
    folder.mkdir(exist_ok=True)
    paths.write_whole(folder / f"{number:06}.json", json.dumps(shown, indent=1).encode())
    writer.show(number, shown)
    page = workdir / "report.html"
    age_s = time.time() - page.stat().mtime if page.exists() else math.inf
    if number < experiment.settings.rounds and 0 <= age_s < REDRAWN_S:
        return
    try:
        report.write_report(workdir)
    except Exception as error:  # a page is no reason to end a run
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        say(f"report.html is not redrawn: {kind}{' '.join(str(error).split())}")


def samples_of(experiment: Experiment, found: Heldout) -> list[dict[str, Any]]:
    """The first answers with their questions and grades; a score is None without a verdict.

    Where there are such, a sampled answer, the teacher's and the order of unmasking stand beside.
    `report.answers` says what the entries are.
    """
    problems, shown = experiment.heldout, []
    for row, (text, *_) in enumerate(found.greedy.texts[:SAMPLES]):
        record = problems.records[problems.index[row]]
        grades = found.greedy.grades_of_answer(row)
        sample = {
            "question": question_of(experiment.task, record),
            "text": text,
            "score": grades.get(experiment.task.score),
            "grades": grades,
        }
        if found.sampled is not None:
            sampled = found.sampled
            told = {"text": sampled.texts[row][0], "grades": sampled.grades_of_answer(row)}
            sample["sampled"] = told
        if found.teacher is not None:
            sample["teacher"] = found.teacher.texts[row][0]
        if found.order is not None and row < min(ORDERS, len(found.order[0])):
            tokens_G, step_map_G = (array_BxG[row] for array_BxG in found.order)
            sample["order"] = pieces(experiment.tokenizer, tokens_G, step_map_G)
        shown.append(sample)
    return shown
