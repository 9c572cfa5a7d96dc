"""Settings and files that cannot work: one line, before anything is opened."""

import json

from ml_collections import ConfigDict
import pytest

from configs import coding, opdlm
from gdsd_jax import cli, settings
from gdsd_jax.rows import read_rows

CANNOT_WORK = {
    "threshold=0": "threshold=0.0 must lie in",
    "threshold=2": "threshold=2.0 must lie in",
    "drift_bound=-1": "drift_bound=-1.0 must be at least 0",
    "probe_rows=-1": "probe_rows=-1 must be at least 0",
    "heldout_seed=-1": "heldout_seed=-1 must be at least 0",
    "length_ramp.rounds=-1": "length_ramp.rounds=-1 must not be negative",
    "length_ramp.start=-1": "length_ramp.start=-1 must not be negative",
    "threshold_ramp.rounds=-3": "threshold_ramp.rounds=-3 must not be negative",
    "threshold_ramp.end=2": "threshold_ramp.end=2.0 must lie in",
    "threshold_ramp.end=0.5": "threshold_ramp.end=0.5 changes no threshold, for there is none: add",
    "threshold_ramp.hold=3,threshold_ramp.rounds=4": "threshold_ramp.hold=3 changes no threshold",
    "threshold=0.9,threshold_ramp.rounds=40": "threshold_ramp.rounds=40 changes no threshold, for "
    "the ramp ends nowhere: add threshold_ramp.end=0.7",
    "length_ramp.start=8": "length_ramp.start=8 changes no length, for the ramp takes no rounds: "
    "add length_ramp.rounds=20",
    "length_ramp.rounds=80": "length_ramp.rounds=80 changes no length, for the ramp begins "
    "nowhere: add length_ramp.start=8",
    "sft.objective=ar": "sft.objective=ar: with objective=gdsd a denoiser learns in the supervised "
    "phase: set sft.objective=sft",
    "objective=wd1,wd1.softmax_over=batch,slices=4": "wd1.softmax_over=batch weighs the rows of a "
    "slice, so that slices=4 would change the gradient: set slices=1, or slices_apart=true",
    "max_lengths.math=-5": "max_lengths.math=-5 must be at least 1",
    "sampler.steps=25": "sampler.steps=25: each pass commits a token at least, so the 24 of",
    "sampler.kind=block,sampler.steps=100": "sampler.steps=100: each pass commits a token at",
    "reward.weights.format=1e999": "reward.weights.format=inf: give a finite number",
    "reward.weights.format=-1e999": "reward.weights.format=-inf: give a finite number",
    "reward.weights.format=nan": "'reward.weights.format' takes float values such as 0.1",
    "reward.weights.format=high": "'reward.weights.format' takes float values such as 0.1",
    "lora_rank=4": "lora_alpha=0.0: adapters would change nothing",
}


def refusal(overrides):
    """The one line that says what is wrong."""
    with pytest.raises(ValueError) as error:
        settings.parse(coding.get_config(f"tiny,{overrides}"))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("override", CANNOT_WORK)
def test_values_that_cannot_work_are_named(override):
    assert CANNOT_WORK[override] in refusal(override)


def test_a_teacher_learns_the_next_token(tmp_path):
    """Masked tokens are for denoisers; an objective of one's own is taken as it is, and so is what
    a run of an earlier version has."""
    with pytest.raises(ValueError, match="sft.objective=sft: with objective=opd an autoregressive"):
        settings.parse(opdlm.get_config("tiny,sft.objective=sft"))
    settings.parse(opdlm.get_config("tiny,sft.objective=sft,sft.steps=0"))
    own = tmp_path / "own.py"
    own.write_text("from gdsd_jax.objectives.ar import OBJECTIVE\n")
    chosen = settings.parse(coding.get_config(f"tiny,sft.objective={own}"))
    chosen = settings.replace(chosen, {"sft.objective": "ar"})
    settings.write(tmp_path, chosen, "tests")
    assert settings.read(tmp_path) == chosen


def test_rows_of_a_slice_are_weighed_together_where_slices_are_apart(tmp_path):
    """Or where there is one; what a run of an earlier version has is read."""
    batch = "tiny,objective=wd1,wd1.softmax_over=batch"
    for slices in ("slices=1", "slices=4,slices_apart=true"):
        settings.parse(coding.get_config(f"{batch},{slices}"))
    chosen = settings.parse(coding.get_config(f"{batch},slices=1"))
    settings.write(tmp_path, settings.replace(chosen, {"slices": 4}), "tests")
    assert settings.read(tmp_path).slices == 4


def test_dream_may_take_more_steps_than_tokens():
    """And without steps there is one a token."""
    more = "tiny,sampler.kind=dream,sampler.block_length=none,sampler.steps=100"
    assert settings.parse(coding.get_config(more)).sampler.steps == 100
    fewer = settings.parse(coding.get_config("tiny,sampler.gen_length=16,sampler.steps=none"))
    assert fewer.sampler.steps == 16
    assert settings.from_json(settings.to_json(fewer)) == fewer


@pytest.mark.parametrize(
    "key", ["data.numbers", "options.numbers", "numbers", "countdown.number", "task.numbers"]
)
def test_a_tasks_own_keys_are_found_by_what_they_mean(key):
    said = refusal(f"task=countdown,{key}=4")
    assert said.startswith(f"unknown config key {key!r}")
    assert (
        "; of this task: options.counts (how many numbers a problem has, each count as likely), "
        in said
    )
    assert "options.signs (" not in said


def test_a_key_in_a_section_of_options_is_told_all_of_them():
    said = refusal("task=sudoku,data.nothing=4")
    assert "of this task: options.blanks (fewest and most empty cells of a generated" in said
    assert ", options.shots (worked examples before each puzzle" in said
    assert "of this task" not in refusal("task=sudoku,optimizer.nothing=4")
    assert "of this task" not in refusal("task=chats,data.nothing=4")


@pytest.mark.parametrize("key", ["data.question", "question", "data_file.answer", "task.messages"])
def test_a_column_is_renamed_by_columns(key):
    name = key.rpartition(".")[2]
    said = refusal(f"{key}=prompt")
    meant = f"columns.{name} (=NAME of that column in the data_file)"
    assert said.startswith(f"unknown config key {key!r}; near it: {meant}")
    assert "of this task" not in said


def test_a_ramp_of_a_run_of_an_earlier_version_is_read(tmp_path):
    """Its threshold was none, so that it changed nothing."""
    chosen = settings.parse(coding.get_config("tiny"))
    chosen = settings.replace(chosen, {"threshold_ramp.end": 0.5})
    settings.write(tmp_path, chosen, "tests")
    assert settings.read(tmp_path) == chosen


def test_a_config_of_another_form_is_refused():
    with pytest.raises(ValueError, match="get_config returns ConfigDict"):
        settings.parse(ConfigDict({"seed": 1}))


def test_a_config_file_that_fails_is_named(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def get_config(arg=None):\n    return {}['x']\n")
    with pytest.raises(ValueError, match="get_config of .*mine.py fails: KeyError"):
        cli.load_config(str(file))
    assert cli.split_config("gs://b/my.py:tiny,seed=1") == ("gs://b/my.py", "tiny,seed=1")
    assert cli.split_config("gs://b/my.py") == ("gs://b/my.py", "")


def test_an_option_without_a_default_must_be_set(tmp_path):
    file = tmp_path / "task.py"
    file.write_text(
        "import dataclasses\n\n\n@dataclasses.dataclass(frozen=True)\nclass OPTIONS:\n"
        "    largest: int\n\n\ndef make(settings):\n    pass\n"
    )
    with pytest.raises(ValueError, match="options.largest has no default: set it"):
        settings.parse(coding.get_config(f"tiny,task={file}"))
    chosen = settings.parse(coding.get_config(f"tiny,task={file},options.largest=3"))
    assert chosen.options.largest == 3


def test_a_web_address_of_rows_is_one_line():
    with pytest.raises(ValueError, match="give a local path or gs://"):
        list(read_rows("http://host/rows.jsonl", ""))


def test_the_model_of_a_run_is_read_without_the_users_files(tmp_path):
    """Its task, objective and sinks are somewhere else."""
    chosen = settings.parse(coding.get_config("tiny,seed=3"))
    settings.write(tmp_path, chosen, "tests")
    entries = json.loads((tmp_path / "config.json").read_text())
    gone = str(tmp_path / "mine.py")
    own = entries.pop("gdsd")
    entries |= {"task": gone, "objective": gone, "sinks": [gone], "mine": own, "options": {"a": 1}}
    entries["sft"]["objective"] = gone
    (tmp_path / "config.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match="mine.py is not a readable file"):
        settings.read(tmp_path)
    found = settings.read(tmp_path, of_model=True)
    assert (found.seed, found.model) == (3, "llada_tiny")
    assert found.sampler == chosen.sampler
