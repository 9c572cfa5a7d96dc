"""What is asked of a checkpoint, and what its manifest keeps of it."""

import dataclasses
import json

import numpy as np
import pytest

from configs import coding, sudoku
from gdsd_jax import data, settings, weights
from gdsd_jax.evaluation import Request, record
from gdsd_jax.experiment import Experiment, prepare
from gdsd_jax.sampling import SamplerConfig


def test_a_length_takes_half_as_many_steps_and_the_same_blocks():
    sampler = SamplerConfig(gen_length=256, block_length=32, steps=256, top_p=0.9)
    found = record.sampler_of(sampler, 128)
    assert found == dataclasses.replace(sampler, gen_length=128, steps=64)
    # one block of all, as Dream's sampler has it, follows the length
    dream = SamplerConfig(kind="dream", gen_length=256)
    assert record.sampler_of(dream, 512).block_length == 512
    with pytest.raises(ValueError, match="--lengths=48: sampler.gen_length=48 must be a multiple"):
        record.sampler_of(sampler, 48)
    for odd in (0, 1, 33, -2):
        with pytest.raises(ValueError, match=f"--lengths={odd}: give even numbers"):
            record.sampler_of(sampler, odd)


def test_what_is_asked():
    chosen = settings.parse(sudoku.get_config("llada,temperature=0.7"))
    plan = record.plan_of(chosen)
    assert plan.samplers == (chosen.sampler,) and plan.requests() == [Request(), Request(1.0)]
    plan = record.plan_of(chosen, [128, 512], 4, [0.9])
    assert [sampler.gen_length for sampler in plan.samplers] == [128, 512]
    wanted = [Request(), Request(0.7, samples=4), Request(threshold=0.9)]
    assert plan.requests() == wanted
    assert plan.batches(problems=9, rows=4) == 2 * (1 + 4 + 1) * 3
    greedy = settings.parse(sudoku.get_config("llada,temperature=0.0"))
    with pytest.raises(ValueError, match="--samples=4: at temperature=0.0 all are the same"):
        record.plan_of(greedy, samples=4)


def test_a_length_need_not_be_one_to_train_with():
    """Of the evaluation alone: the objective's own steps would be 16."""
    chosen = settings.parse(coding.get_config("tiny,objective=just_grpo"))
    sampler = record.sampler_of(chosen.sampler, 16)
    with pytest.raises(ValueError, match="takes answers that are written left to right"):
        dataclasses.replace(chosen, sampler=sampler)
    rows = np.zeros((1, 2), np.int32)
    problems = data.Problems([{}], rows, rows == 0, np.arange(1), np.array([32]))
    alone = Experiment(**dict.fromkeys(Experiment._fields) | {"settings": chosen})
    found = record.at_length(alone._replace(heldout=problems), sampler)
    assert found.settings.sampler == sampler and found.heldout.max_length.tolist() == [16]


def test_a_manifest_says_what_was_asked():
    chosen = settings.parse(sudoku.get_config("llada,temperature=0.7,max_lengths.a=5"))
    plan = record.plan_of(chosen, [128, 512], 4, [0.5])
    manifest = {
        "settings": settings.to_json(chosen),
        "samplers": [sampler.given() for sampler in plan.samplers],
        "sampled": {"temperature": 0.7, "samples": 4},
        "thresholds": [0.5],
    }
    assert record.from_manifest(json.loads(json.dumps(manifest))) == (chosen, plan)


def test_what_differs_from_a_manifest():
    before = {"seed": 1, "packages": {"jax": "1"}, "device": "cpu"}
    assert record.check_same(before, before) is None
    other = {**before, "packages": {"jax": "2"}}
    note = "packages.jax was '1', now it is '2': numbers may differ"
    assert record.check_same(before, other) == note
    with pytest.raises(ValueError, match="--again: seed was 1, now it is 2"):
        record.check_same(before, {**before, "seed": 2})


def test_records_that_json_cannot_hold():
    assert record.plain({"numbers": (1, 2), "text": "a"}) == {"numbers": [1, 2], "text": "a"}
    assert record.plain({"array": np.arange(2)}) is None
    assert record.plain({"number": float("nan")}) is None


def test_lengths_cap_every_problem():
    records = [{"domain": "math"}, {}, {"domain": "chat"}]
    rows = np.zeros((3, 2), np.int32)
    problems = data.Problems(records, rows, rows == 0, np.arange(3), np.array([8, 8, 8]))
    found = data.with_length(problems, 32, {"math": 20, "chat": 99})
    assert found.max_length.tolist() == [20, 32, 32] and found.max_length.dtype == np.int32
    assert problems.max_length.tolist() == [8, 8, 8]


def test_weights_are_known_by_their_numbers(workdir, lora_workdir):
    """Reading them twice gives the same; other weights another."""
    found = weights.hash_of(workdir)
    assert found == weights.hash_of(workdir) and len(found) == 64
    assert weights.hash_of(lora_workdir) != found


def test_problems_are_known_by_their_texts(data_dir):
    small = f"tiny,eval_problems=3,prompts_per_round=8,group_size=2,data_dir={data_dir}"
    chosen = settings.parse(coding.get_config(small))
    prepared = prepare(chosen, say=len)
    prepared.task.close()
    found = record.problems_hash(prepared)
    assert len(record.records_of(prepared)) == 3
    fewer = dataclasses.replace(chosen, eval_problems=2)
    assert record.problems_hash(prepared._replace(settings=fewer)) != found
    records = [dict(one) for one in prepared.heldout.records]
    same = dataclasses.replace(prepared.heldout, records=records)
    assert record.problems_hash(prepared._replace(heldout=same)) == found
    records[prepared.heldout.index[1]]["tests"] = ["assert False"]
    assert record.problems_hash(prepared._replace(heldout=same)) != found
