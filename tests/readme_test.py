"""What the README shows runs as it stands."""

from pathlib import Path
import re
import subprocess

import pytest

from gdsd_jax import cli, experiment, settings, train
from gdsd_jax.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_example_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(example.splitlines()) <= 25
    exec(compile(example, "README.md", "exec"), {})
    assert re.match(r"loss \d+\.\d+, score -\d", capsys.readouterr().out)


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
