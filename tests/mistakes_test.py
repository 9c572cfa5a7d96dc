"""All that is wrong with a command is told at once, a line for each mistake."""

import dataclasses

import pytest

from configs import coding, gsm8k
from gdsd_jax import cli, experiment, mistakes, models, settings


def refuse(text: str) -> None:
    raise ValueError(text)


def test_independent_checks_are_gathered_in_their_order():
    gathered = mistakes.Gathered()
    with gathered.check():
        refuse("one\n  is wrong")
    with gathered.check("two: "), mistakes.prefixed("deeper: "):
        raise mistakes.Mistakes(["a", "b"])
    with gathered.check():
        pass
    with gathered.check():
        refuse("one is wrong")  # told once
    with pytest.raises(mistakes.Mistakes) as found:
        gathered.end()
    assert found.value.lines == ("one is wrong", "two: deeper: a", "two: deeper: b")
    assert str(found.value) == "one is wrong | two: deeper: a | two: deeper: b"


def test_a_fault_is_no_mistake():
    gathered = mistakes.Gathered()
    with pytest.raises(KeyError), gathered.check():
        raise KeyError("x")
    gathered.end()  # nothing was wrong


def test_each_mistake_has_its_line_on_the_terminal(capsys):
    assert cli.fail(mistakes.Mistakes(["a", "b\nc"]), 2) == 2
    assert cli.fail("d\ne", 1) == 1
    assert capsys.readouterr().err == "error: a\nerror: b c\nerror: d e\n"


TOGETHER = {  # overrides of coding:tiny -> the begin of each line
    # keys, types and values of several sections
    "round=3,group_size=x,seed=-1,remat=some,sft.batch=0,sft.noise=3,sampler.cache=most": [
        "unknown config key 'round'; near it: rounds",
        "config key 'group_size' takes int values",
        "sampler.cache='most'",
        "sft.batch=0 must be at least 1",
        "sft.noise=3.0 must lie in [0, 1]",
        "seed=-1 must be at least 0",
        "remat='some': choose one of",
    ],
    # of a section with a value that cannot be read nothing else is said
    "sampler.gen_length=x,sampler.block_length=7,rounds=-1": [
        "config key 'sampler.gen_length' takes int values",
        "rounds=-1 must be at least 0",
    ],
    # what depends on several values
    "slices=3,lora_rank=4,length_ramp.start=100,answers=mine": [
        "lora_alpha=0.0: adapters would change nothing",
        "minibatches=2 times slices=3 must divide",
        "length_ramp.start=100 must be at most",
        "answers='mine': choose student",
    ],
    # the same beside values that are wrong alone
    "sampler.steps=100,group_size=1,dtype=bf16,optimizer.learning_rate=-1,optimizer.clip_norm=0": [
        "sampler.steps=100: each pass commits a token",
        "optimizer.learning_rate=-1.0 must be above 0",
        "optimizer.clip_norm=0.0 must be above 0",
        "dtype='bf16': choose one of",
        "group_size=1: advantages compare completions",
    ],
    # but of what a wrong value belongs to nothing else is said
    "group_size=0,slices=3,lora_rank=-1,objective=opd,sampler.steps=x": [
        "config key 'sampler.steps' takes int values",
        "group_size=0 must be at least 1",
        "lora_rank=-1 must be at least 0",
    ],
    # several of one section
    "sampler.gen_length=10,sampler.top_p=2,sampler.remasking=best": [
        "unknown remasking 'best', known: ",
        "sampler.steps=24: each pass commits a token",
        "sampler.gen_length=10 must be a multiple of block_length=8",
        "sampler.top_p=2.0 must lie in",
    ],
    "gdsd.psi=-1,gdsd.masks=some,gdsd.count=few,threshold_ramp.end=2,threshold_ramp.hold=-1": [
        "threshold_ramp.hold=-1 must not be negative",
        "threshold_ramp.end=2.0 must lie in",
        "gdsd.count='few': choose one of",
        "gdsd.masks='some': choose one of",
        "gdsd.psi=-1.0 must not be negative",
    ],
    # keys that may belong to an objective that is not known are left alone
    "objective=best,best.beta=1,task=cooking,num_generations=4,seed=-1": [
        "unknown objective 'best'",
        "unknown task 'cooking'",
        "unknown config key 'num_generations'; near it: group_size",
        "seed=-1 must be at least 0",
    ],
}


@pytest.mark.parametrize("overrides", TOGETHER)
def test_settings_tell_all_that_is_wrong(overrides):
    with pytest.raises(mistakes.Mistakes) as found:
        settings.parse(coding.get_config(f"tiny,{overrides}"))
    lines = found.value.lines
    assert len(lines) == len(TOGETHER[overrides]), lines
    for line, said in zip(lines, TOGETHER[overrides]):
        assert line.startswith(said), lines


def test_what_needs_devices_is_told_together():
    chosen = settings.parse(
        coding.get_config("llada,mesh.data=3,sinks=(paper,),model=none,init_from=none")
    )
    with pytest.raises(mistakes.Mistakes) as found:
        experiment.prepare(chosen)
    start, mesh, sink = found.value.lines
    assert "init_from=DIR" in start and mesh.startswith("mesh ") and "'paper'" in sink
    chosen = settings.parse(
        coding.get_config("tiny,minibatches=1,slices=256,sft.batch=3,sinks=(paper,)")
    )
    with pytest.raises(mistakes.Mistakes) as found:
        experiment.prepare(chosen)
    rows, batch, sink = found.value.lines
    assert "=1 must be a multiple" in rows and "sft.batch=3" in batch and "'paper'" in sink


def test_a_vocabulary_that_the_mesh_does_not_divide_is_told_before_the_run():
    chosen = settings.parse(coding.get_config("tiny,mesh.data=4,mesh.fsdp=2"))
    mesh = experiment.make_mesh(chosen)  # of eight devices
    model = dataclasses.replace(models.preset(chosen.model), vocab_size=1021)
    with pytest.raises(mistakes.Mistakes, match="a vocabulary of 1021 is not divisible by fsdp"):
        experiment.check(chosen, mesh, model)


def lines_of_start(config) -> tuple[str, ...]:
    """What is said of a run before anything is built."""
    with pytest.raises(mistakes.Mistakes) as found:
        experiment.prepare(settings.parse(config))
    return found.value.lines


def test_files_are_told_beside_what_needs_none(tmp_path):
    """Where reading them builds nothing."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "q", "answer": "#### 3"}\n{"question": "q"}\n')
    files = f"data_file={rows},heldout_file={tmp_path / 'none.jsonl'}"
    start, heldout, train = lines_of_start(gsm8k.get_config(f"llada,{files}"))
    assert "starts from released weights" in start and "none.jsonl is not a readable" in heldout
    assert train.startswith(f"{rows}:2: ")
    start, file = lines_of_start(gsm8k.get_config(f"llada,data_dir={tmp_path}"))
    assert "starts from released weights" in start and file.startswith("add data_file=FILE.jsonl")
    (start,) = lines_of_start(coding.get_config("llada"))  # which has problems of its own
    assert "starts from released weights" in start
