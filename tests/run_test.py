"""What a run is put together from: prompts, held-out problems, a sandbox where programs run."""

import json

import numpy as np
import pytest

from configs import coding
from gdsd_jax import run
from gdsd_jax.sandbox.pool import SandboxError
from gdsd_jax.tasks import prompts

SMALL = "tiny,prompts_per_round=8,group_size=2,sft.steps=0,eval_problems=4"


def prepare(data_dir, tmp_path, *overrides):
    return run.prepare(
        coding.get_config(",".join([SMALL, f"data_dir={data_dir}", *overrides])), tmp_path
    )


def test_a_prompt_that_comes_again_gets_noise_of_its_own(data_dir, tmp_path):
    """The others keep theirs: completions 0 and 1 of each prompt, as without the repetition."""
    prepared = prepare(data_dir, tmp_path)
    with prepared.sandbox:
        rows = prepared.train[np.array([3, 5, 3, 6, 3, 7, 8, 9])]
        asked, index_B = run.ask(prepared, prepared.train, rows, 2, 1.0)
    pairs = list(zip(index_B.tolist(), np.asarray(asked["sample"]).tolist()))
    assert len(set(pairs)) == 16
    assert pairs[:2] == [(index_B[0], 0), (index_B[0], 1)]
    assert pairs[4:6] == [(index_B[0], 2), (index_B[0], 3)] and pairs[8:10][0][1] == 4
    assert [sample for _, sample in pairs[2:4] + pairs[6:8] + pairs[10:]] == [0, 1] * 5


def write_rows(path, count):
    rows = [{"question": f"Give {n}.", "test_cases": [f"assert f() == {n}"]} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_alone_is_split_and_says_so(data_dir, tmp_path, capsys):
    file = write_rows(tmp_path / "rows.jsonl", 20)
    prepared = prepare(data_dir, tmp_path, f"data_file={file}", "prompt_length=200")
    prepared.sandbox.close()
    train, heldout = (
        {r["question"] for r in p.records} for p in (prepared.train, prepared.heldout)
    )
    assert len(train) == 18 and len(heldout) == 2 and not train & heldout
    said = capsys.readouterr().out
    assert "held out: 2 of the 20 problems" in said and "heldout_share=0.1" in said
    prepared = prepare(
        data_dir, tmp_path, f"data_file={file}", "prompt_length=200", "heldout_share=0.0"
    )
    prepared.sandbox.close()
    assert len(prepared.heldout.records) == 20 and "nothing of" in capsys.readouterr().out
    with pytest.raises(ValueError, match="heldout_file without data_file"):
        prepare(data_dir, tmp_path, f"heldout_file={file}")


def test_without_a_working_sandbox_one_line_says_so(data_dir, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise SandboxError("no sandbox works here; install bubblewrap")

    monkeypatch.setattr(run, "open_sandbox", broken)
    with pytest.raises(ValueError, match="install bubblewrap"):
        prepare(data_dir, tmp_path)


def test_a_task_that_runs_no_program_asks_for_none(workdir, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "open_sandbox", lambda *_, **__: pytest.fail("a sandbox was opened"))
    file = tmp_path / "prompts.jsonl"
    row = {"question": "sum the items", "domain": "chat"}
    file.write_text((json.dumps(row) + "\n") * 16)
    overrides = ["task=prompts", f"init_from={workdir}", f"data_file={file}", "prompt_length=64"]
    prepared = prepare(data_dir, tmp_path / "run", *overrides)
    with prepared.sandbox:
        assert len(prepared.train.records) == 14 and not prompts.RUNS_PROGRAMS
