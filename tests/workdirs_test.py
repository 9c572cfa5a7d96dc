"""What a run writes besides checkpoints, and that a refused one writes nothing."""

import contextlib
import json
import os
import shutil
import time

from etils import epath
import numpy as np
import pytest

from configs import coding
from gdsd_jax import (
    checkpoint,
    experiment,
    metrics,
    paths,
    report,
    resume,
    settings,
    train,
    workdirs,
)
from gdsd_jax.evaluation import Heldout, Table
from gdsd_jax.hosts import Hosts
from gdsd_jax.report import unmasking
from tests.contents import contents

SMALL = "tiny,prompts_per_round=8,group_size=2,sft.steps=4,eval_problems=4"


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
    before = contents(copy)
    with pytest.raises(checkpoint.OtherSettings, match="line 1 is not JSON") as error:
        with workdirs.opened(prepared, copy, resume.Progress(lines=len(lines)), print):
            pass
    assert "\n" not in str(error.value) and contents(copy) == before


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
    writer = metrics.MetricsWriter(tmp_path / "metrics.jsonl")
    workdirs.write_report(prepared, epath.Path(tmp_path), 2, found, writer, said.append)
    (line,) = said
    assert line.startswith("report.html is not redrawn: ") and "line 2 is not JSON" in line
    assert not (tmp_path / "report.html").exists()


def test_lines_of_another_runs_supervised_phase_need_no_clock(tmp_path):
    """`metrics.read_metrics` takes lines without one."""
    (tmp_path / "metrics.jsonl").write_text('{"phase": "sft", "step": 1, "loss": 0.5}\n')
    with contextlib.closing(metrics.MetricsWriter(tmp_path / "new.jsonl")) as writer:
        workdirs.repeat_supervised(writer, tmp_path)
    (row,) = metrics.read_metrics(tmp_path / "new.jsonl")
    assert (row["phase"], row["step"], row["loss"]) == ("sft", 1, 0.5)


def test_the_page_of_a_run_that_goes_on_is_a_minute_old_at_most(workdir, prepared, tmp_path):
    """Drawing takes seconds, which small runs would spend at each evaluation."""
    shutil.copy(workdir / "metrics.jsonl", tmp_path)
    goes_on = prepared._replace(settings=settings.replace(prepared.settings, {"rounds": 3}))
    found = Heldout(Table([], None, np.ones((0, 1)), np.ones((0, 1))), None, {})
    writer = metrics.MetricsWriter(tmp_path / "metrics.jsonl")
    page = tmp_path / "report.html"

    def redrawn(number: int, age_s: float) -> bool:
        page.write_text("old")
        os.utime(page, (time.time() - age_s,) * 2)
        workdirs.write_report(goes_on, epath.Path(tmp_path), number, found, writer)
        return page.read_text() != "old"

    asked = [(2, 30), (2, 90), (2, -90), (3, 30)]
    assert [redrawn(*one) for one in asked] == [False, True, True, True]


def test_samples_are_what_the_page_and_the_sinks_show(workdir):
    """Of the finished run: greedy and sampled answers with their grades, and the order."""
    kept = json.loads((workdir / "samples" / "000000.json").read_text())
    assert len(kept) == 20 and all({"question", "text", "score"} <= one.keys() for one in kept)
    for one in kept:
        for answer in (one, one["sampled"]):
            assert {"reward", "solved", "tests", "format"} == answer["grades"].keys()
    orders = [one["order"] for one in kept if "order" in one]
    assert len(orders) == workdirs.ORDERS
    for one, order in zip(kept, orders):
        told = "".join(text for text, _ in order).removesuffix(unmasking.END)
        assert told.strip() == one["text"].strip(), "the order is that of the answer beside it"
        assert all(number >= 1 for _, number in order)
    page = (workdir / "report.html").read_text()
    assert page.count('<article class="card sample" data-number=') == 20
    assert page.count('<pre class="order">') == sum(len(order) > 1 for order in orders)


def test_what_an_earlier_run_left_is_not_of_a_new_one(workdir, prepared, tmp_path):
    """Without checkpoints nothing there has been trained with that tokenizer, and no answer is the
    run's; one that goes on keeps both."""
    folder = epath.Path(tmp_path / "run")
    shutil.copytree(workdir, folder)
    own, later = folder / "tokenizer" / "tokenizer.model", folder / "samples" / "000009.json"
    wanted = own.read_bytes()
    own.write_bytes(b"another")
    later.write_text("[]")
    goes_on = resume.Progress("rl", round=9)
    with workdirs.opened(prepared, folder, goes_on, pytest.fail):
        assert later.exists() and own.read_bytes() == b"another"
    (folder / "checkpoints").rmtree()
    _, tokenizer = experiment.model_of(prepared.settings, prepared.task, workdir=folder)
    assert tokenizer.files() == prepared.tokenizer.files()
    with workdirs.opened(prepared, folder, resume.Progress(), pytest.fail):
        assert not later.exists() and own.read_bytes() == wanted
        assert (folder / "samples" / "000000.json").exists()


def test_processes_that_see_different_checkpoints_are_told(workdir):
    """As where each has a disk of its own: one would go on and the other begin."""
    two, chosen = Hosts(0, 2), settings.read(workdir)
    for theirs, said in (((None, None), "different checkpoints"), (("no disk", None), "no disk")):
        two.exchange = lambda own, theirs=theirs: [own, theirs]
        with pytest.raises(paths.WorkdirError, match=said) as error:
            workdirs.check_before(two, epath.Path(workdir), chosen)
        assert "\n" not in str(error.value)
    two.exchange = lambda own: [own, own]
    workdirs.check_before(two, epath.Path(workdir), chosen)


def test_damaged_lines_of_the_run_to_start_from_are_told_before_anything(workdir, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(workdir, start)
    lines = (start / "metrics.jsonl").read_text().splitlines()
    (start / "metrics.jsonl").write_text("\n".join([lines[0], "garbled", *lines[1:]]) + "\n")
    chosen = settings.replace(settings.read(workdir), {"start_from": str(start), "rounds": 1})
    with pytest.raises(checkpoint.OtherSettings, match="line 2 is not JSON") as error:
        workdirs.check(epath.Path(tmp_path / "new"), chosen)
    assert "\n" not in str(error.value) and not (tmp_path / "new").exists()
