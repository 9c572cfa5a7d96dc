"""Evaluating a checkpoint gives what training wrote about it; what cannot be evaluated is said in
one line."""

import json

import pytest

from gdsd_jax import metrics
from launch import convert
from launch import eval as launch_eval


@pytest.fixture
def evaluate(monkeypatch, capsys, data_dir, tmp_path):
    """`evaluate(checkpoint, *overrides, ...) -> (exit code, what --out holds, what was
    printed)`."""

    def start(
        checkpoint, *overrides, out=tmp_path / "eval.json", config="configs/coding.py", more=()
    ):
        entries = [
            "tiny",
            "prompts_per_round=8",
            "group_size=2",
            "eval_problems=20",
            f"data_dir={data_dir}",
            *overrides,
        ]
        flags = [
            f"--config={config}:{','.join(entries)}",
            f"--checkpoint={checkpoint}",
            f"--out={out}",
            *more,
        ]
        monkeypatch.setattr("sys.argv", ["eval.py", *flags])
        code = launch_eval.main()
        said = capsys.readouterr()
        return code, json.loads(out.read_text()) if out.is_file() else None, said.out + said.err

    return start


def test_numbers_and_answers_are_those_of_training(evaluate, workdir):
    code, found, said = evaluate(workdir)
    assert code == 0 and said.startswith("held-out pass@1") and "batch 4/4 | 0 s left" in said
    (line,) = [
        row for row in metrics.read_metrics(workdir / "metrics.jsonl") if row["phase"] == "eval"
    ]
    assert {key: found[key] for key in line if key in found} == {
        key: line[key] for key in line if key not in ("phase", "step", "wall_s")
    }
    assert found["iteration"] == 5 and found["checkpoint"] == str(workdir)
    written = json.loads((workdir / "samples" / "000000.json").read_text())
    greedy, sampled = (
        [item for item in found["items"] if item["temperature"] == temperature]
        for temperature in (0, 1)
    )
    shown = [(row["question"], row["text"]) for row in written]
    assert shown == [(item["question"], item["completion"]) for item in greedy[: len(written)]]
    assert any(row["text"] for row in written)
    assert len(greedy) == len(sampled) == found["problems"] == 20
    for score, name in (("format", "format"), ("tests", "mean_reward")):
        mean = sum(item["grades"][score] for item in sampled) / 20
        assert mean == pytest.approx(found[name]) == found["metrics"][name]
    right = sum(item["grades"]["solved"] for item in greedy)
    assert (found["metrics"]["correct"], found["metrics"]["total"]) == (right, 20)
    assert [item["problem"] for item in greedy] == list(range(20))
    assert found["prompts"][3]["messages"] == [{"role": "user", "content": greedy[3]["question"]}]


def test_an_exported_run_scores_as_the_run(evaluate, workdir, tmp_path):
    """Workdir -> Hugging Face folder -> converted folder: its weights, and the tokenizer that the
    run has kept."""
    assert convert.main([f"--from_orbax={workdir}", f"--to_hf={tmp_path / 'hf'}"]) == 0
    assert convert.main([f"--from_hf={tmp_path / 'hf'}", f"--to_orbax={tmp_path / 'model'}"]) == 0
    kept = (workdir / "tokenizer" / "tokenizer.model").read_bytes()
    assert (tmp_path / "model" / "tokenizer.model").read_bytes() == kept
    code, found, said = evaluate(tmp_path / "model", "model=none")
    assert code == 0 and found["iteration"] is None, said
    _, wanted, _ = evaluate(workdir)
    # the numbers and the answers
    names = wanted.keys() - {"checkpoint", "config", "iteration", "manifest", "evaluations"}
    assert {name: found[name] for name in names} == {name: wanted[name] for name in names}


def test_thresholds_are_set_beside_the_schedule(evaluate, workdir):
    """A threshold that is never reached leaves the schedule; one of nearly 0 commits a block at
    once."""
    code, found, said = evaluate(workdir, more=["--thresholds=1e-9,1"])
    assert code == 0 and "threshold 1e-09 | pass@1" in said
    blocks, never = found["thresholds"]
    assert never["pass_at_1"] == found["pass_at_1"] and never["threshold"] == 1
    assert blocks["forwards_per_token"] < found["forwards_per_token"] == never["forwards_per_token"]


def test_what_cannot_be_evaluated_is_said_in_one_line(evaluate, tmp_path, data_dir):
    (tmp_path / "empty").mkdir()

    def error(*args, **kwargs):
        code, _, said = evaluate(*args, **kwargs)
        assert code == 2 and said.startswith("error: ") and said.count("\n") == 1, said
        return said

    assert "neither the manifest.json" in error(tmp_path / "empty")
    assert "--thresholds=2: give probabilities" in error(tmp_path, more=["--thresholds=2"])
    assert "no folder" in error(tmp_path, out=tmp_path / "none" / "eval.json")
    assert "unknown config key 'nothing'" in error(tmp_path, "nothing=1")
    assert "no file configs/none.py" in error(tmp_path, config="configs/none.py")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]
