"""launch/plan.py with the real TPU compiler on small models: it fits or not, what is exchanged, and what is never held."""
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

from gdsd_jax import hlo, models, run
from gdsd_jax.cli import load_config

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "tiny,prompts_per_round=4,group_size=4,sampler.gen_length=32,sampler.block_length=8,sampler.steps=16,prompt_length=16,"
    "dtype=bfloat16,gdsd.beta=0.0,inner_iterations=2,remat=full,mesh.data=1"
)
V = 126_464
SIDES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}


@pytest.fixture(scope="module")
def plan():
    if importlib.util.find_spec("libtpu") is None and not os.environ.get("TPU_LIBRARY_PATH"):
        pytest.skip('the TPU compiler is missing: bash launch/test.sh installs it, or pip install "jax[tpu]"')
    spec = importlib.util.spec_from_file_location("launch_plan", ROOT / "launch" / "plan.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def call(plan, monkeypatch, capsys, tmp_path):
    """`call(config, topology, *flags) -> (exit code, numbers, output)`."""

    def launch(config: str, topology: str, *flags: str):
        out = tmp_path / "plan.json"
        monkeypatch.setattr(
            sys, "argv", ["plan.py", f"--config={ROOT}/configs/coding.py:{config}", f"--topology={topology}", f"--json={out}", *flags]
        )
        code, said = plan.main(), capsys.readouterr()
        return code, json.loads(out.read_text()) if out.exists() else None, said.out + said.err

    return launch


@pytest.mark.slow
@pytest.mark.parametrize("generation", SIDES)
def test_a_small_plan_for_each_generation(call, generation):
    code, found, said = call(f"{SMALL},mesh.fsdp=2,mesh.tensor=2", SIDES[generation])
    assert code == 0 and found["fits"] and said.endswith("fits\n"), said
    assert (found["chips"], found["mesh"]) == (4, {"data": 1, "fsdp": 2, "tensor": 2})
    assert found["rollout_weights"] == "whole" and found["programs"]["rollout"]["gathers_per_pass"] == 0
    kinds = {entry["kind"] for entry in found["programs"]["update"]["collectives"]}
    assert "all-reduce" in kinds and "PREDICTION" in said
    for program in found["programs"].values():
        assert 0 < program["arguments"] < program["total"] < found["memory"]
        assert program["flops"] > 0 and all(np.isfinite(second) for second in program["seconds"].values())


@pytest.mark.slow
def test_slices_exchange_over_the_network(call):
    code, found, said = call(f"{SMALL},mesh.fsdp=4", "v5e:2x2", "--num_slices=2")
    assert code == 0 and found["mesh"] == {"data": 2, "fsdp": 4, "tensor": 1}, said
    for program in found["programs"].values():
        assert any(not entry["crosses_slices"] for entry in program["collectives"]) or program["seconds"]["network"] == 0
    assert found["programs"]["update"]["seconds"]["network"] > 0


@pytest.mark.slow
def test_what_does_not_fit_is_told_by_how_much(call):
    """Rows enough that their states exceed a chip's memory."""
    code, found, said = call(f"{SMALL},mesh.fsdp=1,prompts_per_round=262144,prompt_length=512,remat=none", "v5e:1x1")
    assert code == 3 and not found["fits"] and found["missing"] > 0, said
    assert re.search(r"DOES NOT FIT: [\d.]+ GiB a chip too much", said)


@pytest.mark.parametrize(
    "topology, said",
    [("v5e", "--topology=v5e: give"), ("v7:2x2", "--topology=v7:2x2: give"), ("v5e:3x5", "--topology=v5e:3x5")],
)
def test_bad_topologies_are_named(call, topology, said):
    code, found, output = call(SMALL, topology)
    assert code == 2 and found is None and output.startswith("error: ") and said in output


@pytest.mark.slow
def test_the_vocabulary_stays_split(plan, monkeypatch):
    """At LLaDA's vocabulary on four chips: the update collects no logits and holds no completion x vocabulary; the rollout
    collects no weights in its passes."""
    narrow = dataclasses.replace(models.MODELS["llada_tiny"], vocab_size=V, mask_id=V - 1)
    monkeypatch.setitem(models.MODELS, "llada_tiny", narrow)
    config = load_config(f"{ROOT}/configs/coding.py:{SMALL},mesh.fsdp=2,mesh.tensor=2,sampler.gen_length=256,group_size=8")
    mesh = run.make_mesh(config, plan.topology("v5e:2x2", 1))
    calls, *_ = plan.programs(config, mesh)
    update, rollout = (calls[name].function.lower(*calls[name].arguments).compile().as_text() for name in ("update", "rollout"))
    moved = [one for one in hlo.collectives(update) if re.search(rf",({V}|{V // 2}|{V // 4})\]$", one.shape)]
    assert not [one for one in moved if one.shape.count(",") > 1], "logits [rows, columns, words] cross the mesh"
    shapes = [[int(x) for x in dims.split(",")] for dims in re.findall(r"f32\[([\d,]+)\]", update)]
    wide = [shape for shape in shapes if len(shape) > 2 and {V, V // 2, V // 4} & set(shape)]
    whole = config.prompts_per_round * config.group_size * 256 * V
    assert wide and max(int(np.prod(shape)) for shape in wide) < whole / 8, wide
    inside = [one for one in hlo.collectives(rollout, 16) if one.open_loop and one.kind == "all-gather"]
    assert not [one for one in inside if one.sent > 1 << 16], inside


def test_operations_are_counted_through_loops_and_their_gradients():
    def loss(w):
        return jax.numpy.sum(jax.lax.scan(lambda x, _: (x @ w, None), jax.numpy.ones((3, 4)), None, length=5)[0])

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
  %g = bf16[8,128]{1,0:T(8,128)(2,1)} all-gather(%x), replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}
  ROOT %t = (s32[]) tuple(%g)
}
%open (p: (s32[])) -> pred[] {
  ROOT %a = pred[] and(%x, %y)
}
%all-reduce-scatter.1 (a: f32[4,4]) -> f32[4,4] {
  ROOT %s = f32[4,4] all-reduce(%a), replica_groups={{0,1,2,3}}, to_apply=%sum
}
%start (a: bf16[2]) -> bf16[8] {
  ROOT %g = bf16[8] all-gather(%a), channel_id=3, replica_groups={{0,1,2,3}}, frontend_attributes={chain_id="1"}
}
%done (a: bf16[2]) -> bf16[8] {
  ROOT %g = bf16[8] all-gather(%a), channel_id=3, replica_groups={{0,1,2,3}}, frontend_attributes={chain_id="1"}
}
ENTRY %main (a: f32[4]) -> f32[4] {
  %s = f32[4,4] fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1
  %b = bf16[8] fusion(%a), kind=kCustom, calls=%start
  %d = bf16[8] fusion(%b), kind=kCustom, calls=%done
  %r = f32[4,4] all-reduce(%a), replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}, to_apply=%sum
  %w = (s32[]) while(%t), condition=%cond, body=%body
  ROOT %v = (s32[]) while(%t), condition=%open, body=%body
}
"""


def test_collectives_are_counted_through_loops():
    found = hlo.collectives(TEXT, passes=10)
    reduce, = (one for one in found if one.kind == "all-reduce")
    assert (reduce.sent, reduce.devices, reduce.times, reduce.depth) == (64, (0, 4), 1, 0)
    scatter, = (one for one in found if one.kind == "reduce-scatter")
    assert (scatter.sent, scatter.devices) == (48, (0, 1, 2, 3))
    gathers = sorted((one.times, one.open_loop, one.sent, one.devices) for one in found if one.kind == "all-gather")
    assert gathers == [(1, False, 12, (0, 1, 2, 3)), (6, False, 1536, (0, 2, 4, 6)), (10, True, 1536, (0, 2, 4, 6))]
