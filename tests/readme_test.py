"""What the README shows runs as it stands."""

import dataclasses
import json
from pathlib import Path
import re
import subprocess

import pytest
import tokenizers as hf_tokenizers

from gdsd_jax import cli, experiment, models, settings, tasks, train
from gdsd_jax.metrics import read_metrics
from gdsd_jax.tasks import TaskSettings
from tests import folders

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def examples() -> list[str]:
    """The Python that the README shows: the parts alone, a real model, and a task."""
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_example_runs(capsys):
    example, *_ = examples()
    assert len(example.splitlines()) <= 25
    exec(compile(example, "README.md", "exec"), {})
    assert re.match(r"loss \d+\.\d+, score -\d", capsys.readouterr().out)


def test_the_example_of_a_real_model_runs(tmp_path, capsys):
    """On a small folder in place of the named one."""
    _, example, _ = examples()
    model = dataclasses.replace(models.MODELS["a2d_qwen3_tiny"], vocab_size=64)
    folders.write(tmp_path, model)
    words = {f"w{number}": number for number in range(60)}
    tokenizer = hf_tokenizers.Tokenizer(hf_tokenizers.models.WordLevel(words, unk_token="w3"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    template = "{% for turn in messages %}{{ turn.content }}{% endfor %}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    assert len(example.splitlines()) <= 20 and "runs/smollm2/student" in example
    exec(compile(example.replace("runs/smollm2/student", str(tmp_path)), "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_the_task_runs_with_the_command_below_it(tmp_path):
    *_, example = examples()
    (tmp_path / "rhymes.py").write_text(example)
    (tmp_path / "rhymes.jsonl").write_text('{"prompt": "A rhyme on tea?", "ending": "sea"}\n')
    (overrides,) = re.findall(r"--config=configs/coding.py:llada,(\S*task=rhymes.py\S*)", README)
    texts = dict(text.split("=") for text in overrides.split(","))
    columns = {"question": texts["columns.question"]}
    chosen = TaskSettings(data_file=str(tmp_path / texts["data_file"]), columns=columns)
    task = tasks.find(str(tmp_path / texts["task"]))(chosen)
    assert [turn["content"] for turn in task.messages(task.train[0])] == ["A rhyme on tea?"]
    found = tasks.graded(task, list(task.train) * 2, ["the blue sea", "tea"], tasks.parts_of(task))
    assert found.reward_N.tolist() == [1, 0]
    with pytest.raises(
        ValueError, match=r"rhymes.jsonl:1: question is missing.*columns.question=NAME takes"
    ):
        tasks.find(str(tmp_path / "rhymes.py"))(TaskSettings(data_file=chosen.data_file))


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link.split("#")[0]).exists()] == []


def examples_of_guides() -> tuple[dict[str, str], list[str]]:
    """({file: the Python that a guide shows}, what the commands below them override)."""
    files, overrides = {}, []
    for guide in sorted(ROOT.glob("*/**/README.md")):
        shown = (
            r"```python\n(.*?)```\n\n```sh\npython launch/main.py --config=(\S+?):tiny,(\S+)\n```"
        )
        for text, config, changes in re.findall(shown, guide.read_text(), re.DOTALL):
            (name,) = re.findall(r"(?<![\w/])\w+\.py", f"{config} {changes}")
            files[name] = text
            overrides.append(changes)
    return files, overrides


@pytest.mark.slow
def test_the_guides_examples_train_together(data_dir, tmp_path, monkeypatch):
    files, overrides = examples_of_guides()
    assert set(files) == {
        "mine.py",
        "adding.py",
        "weighted.py",
        "leftmost.py",
        "rewards.py",
        "wide.py",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    small = "prompts_per_round=4,group_size=2,inner_iterations=1,eval_problems=8,rounds=1"
    config = f"mine.py:tiny,{','.join(overrides)},{small},data_dir={data_dir},sft.steps=2"
    prepared = experiment.prepare(settings.parse(cli.load_config(config)), say=len)
    train.train(prepared, tmp_path / "run", say=len)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    (update,) = [row for row in rows if row["phase"] == "train"]
    (rollout,) = [row for row in rows if row["phase"] == "rollout"]
    assert update["score"] < 0
    assert (tmp_path / "run" / "rewards.txt").read_text() == f"1 {rollout['reward']}\n"


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "launch").glob("*.sh")))
def test_shell_scripts_parse(script):
    subprocess.run(["bash", "-n", ROOT / "launch" / script], check=True)
