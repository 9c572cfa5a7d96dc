"""What the README shows runs as it stands."""

from pathlib import Path
import re
import subprocess

import pytest

from configs import coding, opdlm
from gdsd_jax import cli, experiment, settings, tasks, train
from gdsd_jax.metrics import read_metrics
from gdsd_jax.tasks import TaskSettings

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "gdsd_jax" / "README.md").read_text()


def examples() -> list[str]:
    """The Python that the library's guide shows: the parts alone, and a task. That of the README is
    run by package_test.py."""
    return re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


def test_the_example_runs(capsys):
    example, _ = examples()
    assert len(example.splitlines()) <= 25
    exec(compile(example, "README.md", "exec"), {})
    assert re.match(r"loss \d+\.\d+, score -\d", capsys.readouterr().out)


def test_the_task_runs_with_the_command_below_it(tmp_path):
    _, example = examples()
    (tmp_path / "rhymes.py").write_text(example)
    (tmp_path / "rhymes.jsonl").write_text('{"prompt": "A rhyme on tea?", "ending": "sea"}\n')
    (overrides,) = re.findall(r"--config=configs/coding.py:llada,(\S*task=rhymes.py\S*)", GUIDE)
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
    """Those of the README, of the guides and of .github."""
    guides = [*ROOT.glob("*.md"), *ROOT.glob(".github/*.md"), *ROOT.glob("*/**/README.md")]
    links = [
        (guide.relative_to(ROOT).as_posix(), link)
        for guide in guides
        if ".venv" not in guide.parts
        for link in re.findall(r"\]\(([^)]+)\)", guide.read_text())
        if "://" not in link and not link.startswith("#")
    ]
    assert len(links) > 40 and len({guide for guide, _ in links}) > 5
    folders = {guide: (ROOT / guide).parent for guide, _ in links}
    assert [x for x in links if not (folders[x[0]] / x[1].split("#")[0]).exists()] == []


def test_runs_that_are_looked_at_are_made_before():
    """By a command that names the folder, or by a recipe that needs no overrides to run."""
    readme, guide = ((ROOT / file).read_text() for file in ("README.md", "configs/README.md"))
    scripts = (ROOT / "launch" / "demo.sh").read_text()
    made = set(re.findall(r"--(?:workdir|out)=(runs/[\w-]+)", readme + guide + scripts))
    for config in (coding, opdlm):
        recipes = [config.get_config(model).recipe for model in config.MODELS]
        made |= {f"runs/{one.name}" for one in recipes if not one.get("require_init")}
    looked_at = set(re.findall(r"runs/[\w-]+", readme)) | set(
        re.findall(r"init_from=(runs/[\w-]+)", guide)
    )
    assert len(looked_at) >= 4 and looked_at - made == set()


def examples_of_guides() -> tuple[dict[str, str], list[str]]:
    """({file: the Python that a guide shows}, what the commands of the guides override)."""
    files, overrides = {}, []
    for guide in sorted(ROOT.glob("*/**/README.md")):
        text = guide.read_text()
        command = r"```sh\npython launch/main.py --config=(\S+?):tiny,(\S+)\n```"
        overrides += [changes for _, changes in re.findall(command, text)]
        for source, config, changes in re.findall(
            r"```python\n((?:(?!```).)*)```\n\n" + command, text, re.DOTALL
        ):
            (name,) = re.findall(r"(?<![\w/])\w+\.py", f"{config} {changes}")
            files[name] = source
    return files, overrides


@pytest.mark.slow
def test_the_guides_examples_train_together(data_dir, tmp_path, monkeypatch):
    files, overrides = examples_of_guides()
    assert set(files) == {"mine.py", "rewards.py", "wide.py"} and len(overrides) == 7
    (tmp_path / "configs").symlink_to(ROOT / "configs")  # the others' are in configs/examples
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    small = "prompts_per_round=4,group_size=2,inner_iterations=1,minibatches=1,eval_problems=8"
    small += ",rounds=1"
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
