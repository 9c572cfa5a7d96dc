"""What a run writes besides checkpoints: its settings, metrics, answers and report."""

from collections.abc import Callable, Iterator
import contextlib
import json
from typing import Any

from etils import epath
import numpy as np

from gdsd_jax import paths, report, settings, tokenizers
from gdsd_jax.checkpoint import OtherSettings
from gdsd_jax.evaluation import Heldout, Table, question_of
from gdsd_jax.experiment import Experiment
from gdsd_jax.metrics import MetricsWriter, read_metrics

SAMPLES = 12  # held-out answers that the report shows
DISAGREEING = 4  # of those on which the parts of the grades disagree most


@contextlib.contextmanager
def opened(
    experiment: Experiment, workdir: epath.Path, keep: int, say: Callable[[str], None]
) -> Iterator[MetricsWriter]:
    """Writes config.json and the tokenizer; gives the writer of metrics.jsonl with its sinks.

    Args:
      experiment: whose workdir it is.
      workdir: of the run.
      keep: lines of metrics.jsonl that stay.
      say: takes the line about a sink that fails.

    Raises:
      report.SinkError: a sink that does not open; nothing is written then.
      checkpoint.OtherSettings: a metrics.jsonl that is none; nothing is written then.
    """
    sinks, chosen, first = [], experiment.settings, experiment.hosts.first
    if first:
        sinks = report.open_sinks(chosen.sinks, workdir, settings.to_json(chosen))
    writer = MetricsWriter(workdir / "metrics.jsonl", keep, enabled=first, sinks=sinks, say=say)
    with contextlib.closing(writer):
        try:
            writer.open()
        except ValueError as error:
            raise OtherSettings(f"{error}: mend the line, or give another --workdir") from None
        if first:
            write_settings(experiment, workdir)
        yield writer


def write_settings(experiment: Experiment, workdir: epath.Path) -> None:
    """Writes config.json, and the tokenizer of a model from nothing."""
    settings.write(workdir, experiment.settings, experiment.task.score)
    kept = (workdir / "tokenizer").is_dir()
    if experiment.settings.init_from is None and not kept:
        tokenizers.save(experiment.tokenizer, workdir / "tokenizer")


def write_report(experiment: Experiment, workdir: epath.Path, number: int, found: Heldout) -> None:
    """Keeps the first held-out answers after `number` rounds and redraws report.html."""
    folder = workdir / "samples"
    folder.mkdir(exist_ok=True)
    shown = samples_of(experiment, found)
    paths.write_whole(folder / f"{number:06}.json", json.dumps(shown, indent=1).encode())
    first = folder / f"{0:06}.json"
    before = json.loads(first.read_text()) if first.exists() else shown
    samples = [
        {
            "question": old["question"],
            "before": old["text"],
            "before_score": old["score"],
            "after": new["text"],
            "after_score": new["score"],
            "teacher": new.get("teacher"),
        }
        for old, new in zip(before, shown)
    ]
    chosen = settings.to_json(experiment.settings)
    rows = read_metrics(workdir / "metrics.jsonl")
    disagreeing = disagreeing_of(experiment, found.greedy)
    report.write_report(workdir, chosen, rows, samples, experiment.task.score, disagreeing)


def disagreeing_of(experiment: Experiment, greedy: Table) -> list[dict[str, Any]]:
    """The answers on which the parts of their grades disagree most, with these parts.

    Parts have scales of their own: each is spread over 0..1 between its least and its greatest
    value here. Answers disagree by the distance of their greatest part from their least.
    """
    if greedy.grades is None:
        return []
    parts = {name: values[:, 0] for name, values in greedy.grades.parts.items()}
    spread = [(part - part.min()) / np.ptp(part) for part in parts.values() if np.ptp(part) > 0]
    if len(spread) < 2:
        return []
    distance = np.where(greedy.grades.judged_N[:, 0], np.ptp(spread, axis=0), 0.0)
    order = [row for row in np.argsort(-distance, kind="stable") if distance[row] > 0]
    problems, shown = experiment.heldout, []
    for row in order[:DISAGREEING]:
        record = problems.records[problems.index[row]]
        shown.append(
            {
                "question": question_of(experiment.task, record),
                "text": greedy.texts[row][0],
                "parts": {name: float(values[row]) for name, values in parts.items()},
            }
        )
    return shown


def samples_of(experiment: Experiment, found: Heldout) -> list[dict[str, Any]]:
    """The first answers with their questions and scores; a score is None without a verdict. Where
    there is a teacher's answer it stands beside."""
    problems, shown = experiment.heldout, []
    for row, (text, *_) in enumerate(found.greedy.texts[:SAMPLES]):
        record = problems.records[problems.index[row]]
        sample = {
            "question": question_of(experiment.task, record),
            "text": text,
            "score": found.greedy.grades_of_answer(row).get(experiment.task.score),
        }
        if found.teacher is not None:
            sample["teacher"] = found.teacher.texts[row][0]
        shown.append(sample)
    return shown
