"""launch/plan.py with the real TPU compiler on small models: it fits or not, what is exchanged,
what is never held."""

import dataclasses
import importlib.util
import json
import os
from pathlib import Path
import re
import sys

import jax
import numpy as np
import pytest

from gdsd_jax import hlo, models, scoring, sharding

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "tiny,prompts_per_round=4,group_size=4,sampler.gen_length=32,sampler.block_length=8,"
    "sampler.steps=16,prompt_length=16,"
    "dtype=bfloat16,gdsd.beta=0.0,inner_iterations=2,remat=full,mesh.data=1"
)
V = 8192  # words, so that logits are no small part of memory
SIDES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}


@pytest.fixture(scope="module")
def plan():
    if importlib.util.find_spec("libtpu") is None and not os.environ.get("TPU_LIBRARY_PATH"):
        pytest.skip(
            "the TPU compiler is missing: bash launch/test.sh installs it, "
            'or pip install "jax[tpu]"'
        )
    spec = importlib.util.spec_from_file_location("launch_plan", ROOT / "launch" / "plan.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def texts(plan, monkeypatch):
    """The text of every program that is compiled, in order."""
    compile_for_tpu, found = plan.compile_for_tpu, []

    def kept(lowered):
        compiled = compile_for_tpu(lowered)
        found.append(compiled.as_text())
        return compiled

    monkeypatch.setattr(plan, "compile_for_tpu", kept)
    return found


@pytest.fixture
def call(plan, monkeypatch, capsys, tmp_path):
    """`call(config's argument, topology, *flags) -> (exit code, numbers, output)`."""

    def launch(config: str, topology: str, *flags: str, file: str = "coding.py"):
        out = tmp_path / "plan.json"
        monkeypatch.setattr(
            sys,
            "argv",
            [
                "plan.py",
                f"--config={ROOT}/configs/{file}:{config}",
                f"--topology={topology}",
                f"--json={out}",
                *flags,
            ],
        )
        code, said = plan.main(), capsys.readouterr()
        return code, json.loads(out.read_text()) if out.exists() else None, said.out + said.err

    return launch


@pytest.mark.parametrize("slices", [1, 2])
def test_a_mesh_may_cut_the_sides_of_a_slice(plan, slices):
    """fsdp 32 x tensor 2 is no product of whole sides of 4 x 4 x 4 chips."""
    mesh = sharding.make_mesh(
        {"data": 1, "fsdp": 32, "tensor": 2}, plan.topology("v5p:4x4x4", slices)
    )
    assert (
        mesh.devices.shape == (slices, 32, 2)
        and len({device.id for device in mesh.devices.flat}) == 64 * slices
    )


@pytest.mark.slow
@pytest.mark.parametrize("generation", SIDES)
def test_a_small_plan_for_each_generation(call, texts, monkeypatch, generation):
    wide = dataclasses.replace(models.MODELS["llada_tiny"], vocab_size=V, mask_id=V - 1)
    monkeypatch.setitem(models.MODELS, "llada_tiny", wide)
    logits = 4 * 16 * 32 * V // 4  # bytes on a chip, of all tokens of all completions
    monkeypatch.setattr(scoring, "CHUNK_BYTES", logits // 8)
    code, found, said = call(f"{SMALL},mesh.fsdp=2,mesh.tensor=2", SIDES[generation])
    assert code == 0 and found["fits"] and said.endswith("fits\n"), said
    assert (found["chips"], found["mesh"]) == (4, {"data": 1, "fsdp": 2, "tensor": 2})
    assert "PREDICTION" in said
    for program in found["programs"].values():
        assert 0 < program["arguments"] < program["total"] < found["memory"]
        assert program["flops"] > 0 and all(
            np.isfinite(second) for second in program["seconds"].values()
        )
        assert program["collectives"]

    rollout, update = texts
    assert (
        found["rollout_weights"] == "whole"
        and found["programs"]["rollout"]["gathers_per_pass"] < 4096
    )
    inside = [
        one for one in hlo.collectives(rollout, 16) if one.open_loop and one.kind == "all-gather"
    ]
    assert all(one.sent < 4096 for one in inside), "weights are collected in every pass"
    moved = [one.shape for one in hlo.collectives(update) if one.kind == "all-gather"]
    assert not any(map(logits_bytes, moved)), "logits cross the mesh"
    held = [logits_bytes(shape) for shape in re.findall(r"\b[a-z]+\d+\[[\d,]+\]", update)]
    assert 0 < max(held) <= logits // 8


def logits_bytes(shape: str) -> int:
    """Bytes of an array in a program's text if an axis of it is the vocabulary, or a chip's part,
    and none the width."""
    dtype, dims = shape[:-1].split("[")
    axes = {int(size) for size in dims.split(",") if size}
    width = models.MODELS["llada_tiny"].d_model
    return (
        hlo.nbytes(dtype, dims)
        if axes & {V, V // 2, V // 4} and not axes & {width, width // 2}
        else 0
    )


@pytest.mark.slow
def test_slices_exchange_over_the_network(call, workdir):
    """Of a model that goes on from a run."""
    code, found, said = call(
        f"{SMALL},init_from={workdir},mesh.fsdp=4", "v5e:2x2", "--num_slices=2"
    )
    assert code == 0 and found["mesh"] == {"data": 2, "fsdp": 4, "tensor": 1}, said
    across, inside = (
        {
            entry["kind"]: entry["bytes"]
            for entry in found["programs"]["update"]["collectives"]
            if entry["crosses_slices"] is here
        }
        for here in (True, False)
    )
    # gradients, no weights
    assert across["all-reduce"] > 0 and "all-gather" in inside and "all-gather" not in across
    assert found["programs"]["update"]["seconds"]["network"] > 0


@pytest.mark.slow
def test_a_distilled_student_is_planned_with_its_teacher(call, texts, monkeypatch):
    wide = dataclasses.replace(models.MODELS["a2d_qwen3_tiny"], vocab_size=V, mask_id=V - 1)
    monkeypatch.setitem(models.MODELS, "a2d_qwen3_tiny", wide)
    monkeypatch.setattr(scoring, "CHUNK_BYTES", 4 * V)  # less than one column's: so one at a time
    rows = (
        "prompts_per_round=8,minibatches=2,inner_iterations=2,mesh.data=1,mesh.fsdp=4,"
        "dtype=bfloat16,param_dtype=float32,remat=full"
    )
    code, found, said = call(f"tiny,opd.top_k=8,{rows}", "v5e:2x2", file="opdlm.py")
    assert code == 0 and found["programs"]["rollout"]["beside"] > 0, said
    # bytes on a chip, bfloat16; a teacher's are the student's parameters
    teacher = found["parameters"] * 2 / 4
    # parameters, two moments, the teacher
    assert found["programs"]["update"]["arguments"] >= 6 * teacher + teacher

    gathers = [one for one in hlo.collectives(texts[-1]) if one.kind == "all-gather"]
    assert not any(logits_bytes(one.shape) for one in gathers), "logits cross the mesh"
    # one column of the completion's 24 each
    in_chunks = [one.sent for one in gathers if one.times == 24]
    assert 0 < max(in_chunks) < 4 * wide.d_model * 2, (
        "a chunk collects more than its own rows' states"
    )


@pytest.mark.slow
def test_what_does_not_fit_is_told_by_how_much(call):
    """Rows enough that their states exceed a chip's memory."""
    code, found, said = call(
        f"{SMALL},mesh.fsdp=1,prompts_per_round=262144,prompt_length=512", "v5e:1x1"
    )
    assert code == 3 and not found["fits"] and found["missing"] > 0, said
    assert re.search(r"DOES NOT FIT: [\d.]+ GiB a chip too much", said)


@pytest.mark.slow
def test_the_search_names_the_best(call):
    code, found, said = call(
        f"{SMALL},mesh.fsdp=1,prompt_length=8,sampler.gen_length=8,sampler.steps=8",
        "v5e:1x1",
        "--search",
    )
    assert [one["change"] for one in found["tried"]] == [
        None,
        {"remat": "none"},
        {"remat": "dots"},
        {"slices": 2},
    ], said
    seconds = [one["prediction"]["round_s"] for one in found["tried"]]
    assert (
        code == 0
        and found["prediction"]["round_s"] == min(seconds) < seconds[0]
        and found["remat"] != "full"
    )
    assert said.count("compiling the rollout") == 1 and said.count("tried ") == 3


@pytest.mark.parametrize(
    "topology, said",
    [
        ("v5e", "--topology=v5e: give"),
        ("v7:2x2", "--topology=v7:2x2: give"),
        ("v5e:3x5", "--topology=v5e:3x5"),
    ],
)
def test_bad_topologies_are_named(call, topology, said):
    code, found, output = call(SMALL, topology)
    assert (
        code == 2
        and found is None
        and output.startswith("error: ")
        and said in output
        and output.count("\n") == 1
    )


def test_a_missing_compiler_is_told_in_one_line(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    code, found, output = call(SMALL, "v5e:2x2")
    assert code == 2 and found is None
    assert output == 'error: the TPU compiler, libtpu, is not installed: pip install "jax[tpu]"\n'


def test_operations_are_counted_through_loops_and_their_gradients():
    def loss(w):
        return jax.numpy.sum(
            jax.lax.scan(lambda x, _: (x @ w, None), jax.numpy.ones((3, 4)), None, length=5)[0]
        )

    assert hlo.operations(jax.make_jaxpr(loss)(np.ones((4, 4))).jaxpr) == 5 * 2 * 3 * 4 * 4
    backward = hlo.operations(jax.make_jaxpr(jax.grad(loss))(np.ones((4, 4))).jaxpr)
    assert backward == 3 * 5 * 2 * 3 * 4 * 4


TEXT = """HloModule m
%cond (p: (s32[])) -> pred[] {
  %p = (s32[]) parameter(0)
  %c = s32[]{:T(128)} constant(6)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%i, %c), direction=LT
}
%body (p: (s32[])) -> (s32[]) {
  %g = bf16[8,128]{1,0:T(8,128)(2,1)} all-gather(%x), \
replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}
  ROOT %t = (s32[]) tuple(%g)
}
%ring_cond (p: (f32[2], u32[])) -> pred[] {
  %p = (f32[2], u32[]) parameter(0)
  %c = u32[]{:T(128)} constant(16)
  %i = u32[]{:T(128)} get-tuple-element(%p), index=1
  ROOT %lt = pred[] compare(%i, %c), direction=LT
}
%ring_body (p: (f32[2], u32[])) -> (f32[2], u32[]) {
  %p = (f32[2], u32[]) parameter(0)
  %two = u32[]{:T(128)} constant(2)
  %i = u32[]{:T(128)} get-tuple-element(%p), index=1
  %x = f32[2] collective-permute(%y), source_target_pairs={{0,1},{1,0}}
  %j = u32[]{:T(128)} add(%i, %two)
  ROOT %t = (f32[2]{0}, u32[]{:T(128)}) tuple(%x, /*index=1*/%j)
}
%open (p: (s32[])) -> pred[] {
  ROOT %a = pred[] and(%x, %y)
}
%all-reduce-scatter.1 (a: f32[4,4]) -> f32[4,4] {
  ROOT %s = f32[4,4] all-reduce(%a), replica_groups={{0,1,2,3}}, to_apply=%sum
}
%start (a: bf16[2]) -> bf16[8] {
  ROOT %g = bf16[8] all-gather(%a), channel_id=3, replica_groups={{0,1,2,3}}, \
frontend_attributes={chain_id="1"}
}
%done (a: bf16[2]) -> bf16[8] {
  ROOT %g = bf16[8] all-gather(%a), channel_id=3, replica_groups={{0,1,2,3}}, \
frontend_attributes={chain_id="1"}
}
%few (a: f32[4]) -> f32[4] {
  ROOT %x = f32[4] all-to-all(%a), replica_groups={{0,1}}
}
%many (a: f32[4]) -> f32[4] {
  ROOT %x = f32[64] all-to-all(%a), replica_groups={{0,1}}
}
ENTRY %main (a: f32[4]) -> f32[4] {
  %o = f32[4] conditional(%i, %a, %a, %a), branch_computations={%few, %many, %few}
  %s = f32[4,4] fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1
  %b = bf16[8] fusion(%a), kind=kCustom, calls=%start
  %d = bf16[8] fusion(%b), kind=kCustom, calls=%done
  %r = f32[4,4] all-reduce(%a), replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}, to_apply=%sum
  %n = (f32[8,128], u32[], token[]) send(%a, %k), channel_id=9, \
frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %w = (s32[]) while(%t), condition=%cond, body=%body
  %q = (f32[2], u32[]) while(%u), condition=%ring_cond, body=%ring_body
  ROOT %v = (s32[]) while(%t), condition=%open, body=%body
}
"""


def test_collectives_are_counted_through_loops_and_conditions():
    found = hlo.collectives(TEXT, passes=10)
    across, reduce = sorted(
        (one for one in found if one.kind == "all-reduce"), key=lambda one: one.devices
    )
    assert (reduce.sent, reduce.devices, reduce.times, reduce.depth) == (64, (0, 4), 1, 0)
    assert (
        across.between_slices
        and across.sent == 4096
        and sum(one.between_slices for one in found) == 1
    )
    (scatter,) = (one for one in found if one.kind == "reduce-scatter")
    assert (scatter.sent, scatter.devices) == (48, (0, 1, 2, 3))
    # sixteen places, two in a pass of the loop
    (ring,) = (one for one in found if one.kind == "collective-permute")
    assert (ring.sent, ring.times, ring.open_loop) == (8, 8, False)
    (branch,) = (one for one in found if one.kind == "all-to-all")  # the one that sends the most
    assert (branch.sent, branch.times) == (128, 1)
    gathers = sorted(
        (one.times, one.open_loop, one.sent, one.devices)
        for one in found
        if one.kind == "all-gather"
    )
    assert gathers == [
        (1, False, 12, (0, 1, 2, 3)),
        (6, False, 1536, (0, 2, 4, 6)),
        (10, True, 1536, (0, 2, 4, 6)),
    ]
