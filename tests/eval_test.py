"""Evaluating a checkpoint gives what training wrote about it; what cannot be evaluated is said in
one line."""

import dataclasses
import json

import jax
import pytest

from gdsd_jax import checkpoint, cli, meanings, metrics, models, settings, tokenizers, weights
from gdsd_jax.evaluation import answers
from launch import convert
from launch import eval as launch_eval
from tests.reference import random_params
from tests.scripts import code_of


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
            "minibatches=1",
            "eval_problems=20",
            f"data_dir={data_dir}",
            *overrides,
        ]
        flags = [f"--out={out}", *more]
        if config is not None:
            flags.append(f"--config={config}:{','.join(entries)}")
        if checkpoint is not None:
            flags.append(f"--checkpoint={checkpoint}")
        monkeypatch.setattr("sys.argv", ["eval.py", *flags])
        code = code_of(launch_eval.main)
        said = capsys.readouterr()
        return code, json.loads(out.read_text()) if out.is_file() else None, said.out + said.err

    return start


def test_a_workdir_is_evaluated_by_its_own_settings_without_a_config(evaluate, workdir):
    code, found, _ = evaluate(workdir, config=None)
    (line,) = [
        row for row in metrics.read_metrics(workdir / "metrics.jsonl") if row["phase"] == "eval"
    ]
    assert code == 0 and found["config"] is None and len(found["items"]) == 2 * line["problems"]
    for name in ("pass_at_1", "mean_reward", "forwards_per_token"):
        assert found[name] == line[name]


def test_numbers_and_answers_are_those_of_training(evaluate, workdir):
    code, found, said = evaluate(workdir)
    assert code == 0 and said.startswith("held-out pass@1") and "batch 4/4 | 0 s left" in said
    (line,) = [
        row for row in metrics.read_metrics(workdir / "metrics.jsonl") if row["phase"] == "eval"
    ]
    parts = {key: line.pop(key) for key in ("tests", "format")}
    assert line.keys() <= meanings.RESERVED  # each key has its meaning
    assert found["parts"] == parts == found["metrics"]["parts"]
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
    for grade, name in (("reward", "reward"), ("tests", "mean_reward")):
        mean = sum(item["grades"][grade] for item in sampled) / 20
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


def test_another_task_and_another_attention_are_noted(workdir):
    """They go together, and may be meant."""
    own = settings.read(workdir)
    _, model, _ = weights.read_folder(workdir)
    assert launch_eval.doubts_of(own, model, str(workdir)) == []
    config = "countdown:tiny,sampler.kind=block"
    other = settings.parse(cli.load_config(config))
    attention, task = launch_eval.doubts_of(other, model, str(workdir))
    assert attention.startswith("note: sampler.kind=block takes block-causal attention, but these")
    assert task == (
        f"note: the run in {workdir} is of task=coding, the problems here are of task=countdown"
    )


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


SMALL = ("prompts_per_round=4", "eval_problems=6")
ASKED = ("--lengths=32,48", "--samples=2")


@pytest.mark.slow
def test_a_killed_evaluation_writes_the_same_file(evaluate, workdir, tmp_path, monkeypatch):
    """Two lengths, two samples: six batches, of which the first process writes three."""
    out, partial = tmp_path / "eval.json", tmp_path / "eval.json.partial.jsonl"
    code, found, said = evaluate(workdir, *SMALL, more=ASKED)
    assert code == 0 and "batch 6/6" in said and not partial.exists(), said
    whole = out.read_bytes()
    check_lengths(found)

    answer, calls = answers.answer, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return answer(*arguments)

    out.unlink()
    monkeypatch.setattr(answers, "answer", killed)
    code, found, said = evaluate(workdir, *SMALL, more=ASKED)
    assert code == 130 and found is None and "goes on from" in said
    with partial.open("a") as file:
        file.write('["gen_length=48')  # what a kill tears
    code, _, said = evaluate(workdir, *SMALL, more=(*ASKED, "--thresholds=0.5"))
    assert code == 2 and "holds batches of another evaluation (thresholds was []" in said
    calls[:] = []
    monkeypatch.setattr(answers, "answer", lambda *given: calls.append(0) or answer(*given))
    code, found, said = evaluate(workdir, *SMALL, more=ASKED)
    assert code == 0 and "3 of 6 batches are done" in said and len(calls) == 3, said
    assert out.read_bytes() == whole and not partial.exists()
    check_rescored(evaluate, out, tmp_path, found)
    check_again(evaluate, out, workdir, tmp_path, found)


def check_lengths(found):
    """Every answer is there once, and the numbers are those of the items."""
    assert [entry["gen_length"] for entry in found["evaluations"]] == [32, 48]
    assert [entry["sampler"]["steps"] for entry in found["evaluations"]] == [16, 24]
    asked = [(item["gen_length"], item["temperature"], item["sample"]) for item in found["items"]]
    sets = [(0.0, 0), (1.0, 0), (1.0, 1)]
    assert sorted(asked) == sorted((length, *one) for length in (32, 48) for one in sets * 6)
    for entry in found["evaluations"]:
        mine = [item for item in found["items"] if item["gen_length"] == entry["gen_length"]]
        greedy = [item["grades"] for item in mine if item["temperature"] == 0]
        sampled = [item["grades"] for item in mine if item["temperature"] == 1]
        metrics = entry["metrics"]
        assert metrics["total"] == metrics["problems"] == 6
        assert metrics["correct"] == sum(grades["solved"] for grades in greedy)
        for name in ("tests", "format"):
            mean = sum(grades[name] for grades in sampled) / 12
            assert metrics["parts"][name] == pytest.approx(mean)
            low, high = entry["intervals"]["parts"][name]
            assert low <= mean <= high
        assert set(metrics["pass_at_k"]) == {"1", "2"}
        assert all(item["tokens"] <= item["gen_length"] for item in mine)
    manifest = found["manifest"]
    assert manifest["packages"]["jax"] == jax.__version__ and len(manifest["weights_sha256"]) == 64
    again = settings.from_json(manifest["settings"])
    assert again == settings.parse(cli.load_config(found["config"]))


def check_rescored(evaluate, out, tmp_path, found):
    """Our own file gives the same figures without the model."""
    other = tmp_path / "rescored.json"
    code, again, said = evaluate(None, *SMALL, out=other, more=[f"--rescore={out}"])
    assert code == 0, said
    for name in ("metrics", "intervals", "evaluations", "items", "prompts", "pass_at_1"):
        assert again[name] == found[name], name


def check_again(evaluate, out, workdir, tmp_path, found):
    """The manifest is enough to write the same bytes; other weights are refused."""
    other = tmp_path / "again.json"
    code, _, said = evaluate(None, out=other, config=None, more=[f"--again={out}"])
    assert code == 0 and other.read_bytes() == out.read_bytes(), said
    found["manifest"]["weights_sha256"] = "0"
    other.write_text(json.dumps(found))
    code, _, said = evaluate(None, out=out, config=None, more=[f"--again={other}"])
    assert code == 2 and "--again: weights_sha256 was '0'" in said and said.count("\n") == 1


def test_what_is_asked_is_checked_first(evaluate, tmp_path):
    """The checkpoint is not looked at."""

    def error(*more):
        code, _, said = evaluate(tmp_path, more=more)
        assert code == 2 and said.startswith("error: ") and said.count("\n") == 1, said
        return said

    assert "--lengths=33: give even numbers" in error("--lengths=33")
    assert "--lengths=20: sampler.gen_length=20 must be a multiple" in error("--lengths=32,20")
    assert "--lengths=a: give numbers of tokens" in error("--lengths=a")
    assert "each once" in error("--lengths=32,32")
    assert "--samples=0 must be at least 1" in error("--samples=0")
    assert list(tmp_path.iterdir()) == []


def test_a_hugging_face_folder_is_told_how_to_convert_it(evaluate, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    code, _, said = evaluate(tmp_path)
    assert code == 2 and f"launch/convert.py --from_hf={tmp_path} --to_orbax=DIR" in said


def test_an_autoregressive_folder_is_scored_token_by_token(evaluate, workdir, tmp_path):
    """With the sampler of a denoiser it is refused, before anything is written."""
    tokenizer = tokenizers.load(workdir / "tokenizer")
    ids = {key: getattr(tokenizer, key) for key in ("vocab_size", "pad_id", "stop_ids")}
    config = dataclasses.replace(models.MODELS["llama_tiny"], **ids, mask_id=None)
    manifest = {"model": dataclasses.asdict(config), "dtype": ["float32"]}
    checkpoint.save_params(tmp_path / "model", random_params(config), manifest)
    tokenizers.save(tokenizer, tmp_path / "model")
    small = ["model=none", "eval_problems=2", "sampler.gen_length=8", "sampler.steps=8"]
    code, found, said = evaluate(tmp_path / "model", *small)
    assert code == 2 and found is None and "sampler.block_length=1" in said
    by_token = ["sampler.kind=block", "sampler.block_length=1"]
    code, found, said = evaluate(tmp_path / "model", *small, *by_token)
    assert code == 0, said
    assert found["problems"] == 2
