"""All that is wrong with a command is told at once, a line for each mistake."""

import pytest

from configs import coding
from gdsd_jax import cli, experiment, mistakes, settings


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
        "minibatches=1 times slices=3 must divide",
        "length_ramp.start=100 must be at most",
        "answers='mine': choose student",
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
    chosen = settings.parse(coding.get_config("tiny,slices=256,sft.batch=3,sinks=(paper,)"))
    with pytest.raises(mistakes.Mistakes) as found:
        experiment.prepare(chosen)
    rows, batch, sink = found.value.lines
    assert "=1 must be a multiple" in rows and "sft.batch=3" in batch and "'paper'" in sink
