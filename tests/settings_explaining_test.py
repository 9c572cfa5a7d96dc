"""A config explains itself: every key with its value, its type and a sentence."""

import importlib
import importlib.util
from pathlib import Path

from ml_collections import ConfigDict
import pytest

from gdsd_jax import objectives, settings, tasks
from gdsd_jax.cli import load_config
from gdsd_jax.settings import explaining, keys

ROOT = Path(__file__).resolve().parents[1]
MODULES = [
    importlib.import_module(f"configs.{path.stem}") for path in sorted(ROOT.glob("configs/*.py"))
]
RECIPES = [
    f"{module.__name__.removeprefix('configs.')}:{model}"
    for module in MODULES
    if hasattr(module, "get_config")
    for model in module.MODELS
]
EXAMPLES = [f"examples/{path.stem}" for path in sorted((ROOT / "configs/examples").glob("*.py"))]


def recipe(name: str) -> settings.Settings:
    return settings.parse(load_config(f"{ROOT}/configs/{name.replace(':', '.py:', 1)}"))


def test_all_recipes_are_here():
    assert len(RECIPES) > 20 and {"coding:tiny", "opdlm:tiny", "sft:llada"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_key_has_a_sentence_and_its_value_can_be_given_again(name):
    chosen = recipe(name)
    entries = list(explaining.entries_of(chosen))
    for entry in entries:
        sentence = keys.first_sentence(entry.key.meaning)
        assert len(sentence) > 5 and not sentence.endswith((" Eq", "..", ",")), entry.key.name
    written = [f"{one.key.name}={explaining.written(one.value)}" for one in entries]
    assert len(set(written)) == len(entries)
    again = settings.parse(ConfigDict({"recipe": ConfigDict(), "overrides": tuple(written)}))
    assert again == chosen


def test_every_objective_and_every_task_explains_its_keys():
    kinds = [one.config for one in objectives.OBJECTIVES.values()]
    kinds += [tasks.options_of(task) for task in tasks.TASKS if tasks.options_of(task)]
    for kind in kinds:
        for key in keys.keys_of("", kind, ()):
            assert len(keys.first_sentence(key.meaning)) > 5, (kind, key.name)


def test_the_first_sentence_ends_at_its_full_stop():
    assert keys.first_sentence("a, Eq. 8, 0 .. 1. None: b.") == "a, Eq. 8, 0 .. 1"
    assert keys.first_sentence("all of it.") == "all of it" and keys.first_sentence("") == ""


def lines_by_key(lines: list[str]) -> dict[str, str]:
    return {line[2:].partition("=")[0]: line for line in lines if "=" in line}


def test_values_that_are_not_the_default_are_marked():
    lines = lines_by_key(settings.explained(recipe("coding:tiny")))
    assert lines["rounds"].startswith("* rounds=60 ") and "(default 100)" in lines["rounds"]
    assert lines["seed"].startswith("  seed=0 ") and "default" not in lines["seed"]
    assert " int " in lines["seed"] and " float or none " in lines["threshold"]
    assert {"gdsd.psi", "options.hard", "sandbox.cpu_s", "max_lengths"} <= lines.keys()
    assert "objective_config" not in lines and "espo.beta" not in lines


@pytest.mark.parametrize("width", [60, 80, 120])
def test_meanings_are_broken_to_the_terminal(width):
    lines = settings.explained(recipe("opdlm:tiny"), width)
    beside = [line for line in lines if "=" not in line]
    assert max(map(len, beside)) <= width
    words = " ".join(" ".join(lines).split())
    assert "decides which problems those are" in words and "where all randomness begins" in words


def test_a_config_of_examples_is_explained():
    for name in EXAMPLES:
        lines = lines_by_key(settings.explained(recipe(name)))
        assert len(lines) > 80


@pytest.mark.parametrize("flag", ["--print_config", "--help"])
def test_main_prints_the_keys_and_begins_nothing(main, flag, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = f"--config={ROOT}/configs/coding.py:tiny,slices=4,minibatches=2,inner_iterations=2"
    monkeypatch.setattr("sys.argv", ["main.py", config, flag])
    assert main() == 0 and not list(tmp_path.iterdir())
    said = capsys.readouterr().out
    assert said.startswith("usage: ") == (flag == "--help")
    assert ("[--workdir WORKDIR]" in said) == (flag == "--help")
    lines = lines_by_key(said.splitlines())
    assert lines["slices"].startswith("* slices=4 ")
    assert said.endswith(
        "A round: 32 prompts x 8 answers = 256 completions = 2 minibatches x 4 slices x 32 rows; "
        "2 updates, each of a minibatch.\n"
    )


def test_help_alone_needs_no_config(main, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["main.py", "--help"])
    with pytest.raises(SystemExit, match="^0$"):
        main()
    said = capsys.readouterr().out
    assert "Trains, or resumes, one run." in said and "--print_config" in said
