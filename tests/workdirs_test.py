"""What a run writes besides checkpoints, and that a refused one writes nothing."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from configs import coding
from gdsd_jax import checkpoint, experiment, report, settings, train, workdirs
from gdsd_jax.evaluation import Heldout, Table
from gdsd_jax.tasks import Grades, Task

SMALL = "tiny,prompts_per_round=8,group_size=2,sft.steps=4,eval_problems=4"


def files_of(folder) -> dict:
    """The bytes of every file, and every folder."""
    return {
        path.relative_to(folder).as_posix(): path.is_file() and path.read_bytes()
        for path in folder.rglob("*")
    }


@pytest.fixture
def prepared(data_dir):
    chosen = settings.parse(coding.get_config(f"{SMALL},data_dir={data_dir}"))
    found = experiment.prepare(chosen, say=len)
    yield found
    found.task.close()


def test_a_metrics_file_that_is_none_changes_nothing(workdir, prepared, tmp_path):
    """A line before the last one was damaged: config.json had been written by then."""
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    (copy / "metrics.jsonl").write_text("\n".join([lines[0][:20], *lines[1:]]) + "\n")
    before = files_of(copy)
    with pytest.raises(checkpoint.OtherSettings, match="line 1 is not JSON") as error:
        with workdirs.opened(prepared, copy, len(lines), print):
            pass
    assert "\n" not in str(error.value) and files_of(copy) == before


def test_a_sink_that_does_not_open_leaves_no_folder(prepared, tmp_path):
    own = tmp_path / "broken.py"
    own.write_text("def SINK(workdir, settings):\n    raise OSError('no room')\n")
    chosen = settings.replace(prepared.settings, {"sinks": (str(own),)})
    with pytest.raises(report.SinkError, match="no room"):
        train.train(prepared._replace(settings=chosen), tmp_path / "run", say=len)
    assert not (tmp_path / "run").exists()


def test_a_report_of_damaged_lines_is_left_out(prepared, tmp_path):
    """The run goes on; one line says so."""
    (tmp_path / "metrics.jsonl").write_text('{"phase": "sft", "step": 1}\ngarbled\n')
    found, said = Heldout(Table([], None, np.ones((0, 1)), np.ones((0, 1))), None, {}), []
    workdirs.write_report(prepared, tmp_path, 2, found, said.append)
    (line,) = said
    assert line.startswith("report.html is not redrawn: ") and "line 2 is not JSON" in line
    assert not (tmp_path / "report.html").exists()


def shown_of(parts: dict, judged=None) -> list[dict]:
    """The disagreeing answers to problems "0", "1", ..., whose answers are the same texts."""
    count = len(next(iter(parts.values()), []))
    records = [{"question": str(row)} for row in range(count)]
    problems = SimpleNamespace(records=records, index=np.arange(count))
    task = Task([], None, lambda record: [{"role": "user", "content": record["question"]}], None)
    values = {name: np.array(part, np.float32)[:, None] for name, part in parts.items()}
    judged = np.ones(count, bool) if judged is None else np.array(judged)
    grades = Grades(np.zeros((count, 1)), np.zeros((count, 1), bool), values, judged[:, None])
    texts = [[str(row)] for row in range(count)]
    table = Table(texts, grades, np.ones((count, 1)), np.ones((count, 1)))
    return workdirs.disagreeing_of(SimpleNamespace(heldout=problems, task=task), table)


def test_answers_on_which_parts_disagree_come_first():
    """Whatever the scales of the parts."""
    shown = shown_of({"near": [0, 10, 5, 10], "long": [0.2, 0.2, 0.1, 0.1]})
    assert [answer["text"] for answer in shown] == ["0", "3", "2"]
    assert shown[1] == {
        "question": "3",
        "text": "3",
        "parts": {"near": 10.0, "long": pytest.approx(0.1)},
    }
    assert shown_of({"near": [0, 1], "long": [0, 1]}) == [], "they agree"
    assert shown_of({"near": [0, 1], "long": [1, 1]}) == [], "one says nothing"
    assert shown_of({"near": [0, 1]}) == [], "there is one"
    unjudged = shown_of({"near": [0, 1, 0], "long": [1, 0, 0]}, judged=[False, True, True])
    assert [answer["text"] for answer in unjudged] == ["1"]
