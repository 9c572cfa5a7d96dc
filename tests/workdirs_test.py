"""What a run writes besides checkpoints, and that a refused one writes nothing."""

import shutil

import pytest

from configs import coding
from gdsd_jax import checkpoint, experiment, report, settings, train, workdirs

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
