"""launch/plan.py with the real TPU compiler on small models: it fits, and what is exchanged."""
import importlib.util
import json
import os
from pathlib import Path
import sys

import jax
import numpy as np
import pytest

from gdsd_jax import hlo

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "tiny,prompts_per_round=4,group_size=4,sampler.gen_length=32,sampler.block_length=8,sampler.steps=16,prompt_length=16,"
    "dtype=bfloat16,gdsd.beta=0.0,inner_iterations=2,remat=full,mesh.data=1"
)
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
    assert found["rollout_weights"] == "whole" and found["programs"]["rollout"]["gathers_per_pass"] < 4096  # no weights
    kinds = {entry["kind"] for entry in found["programs"]["update"]["collectives"]}
    assert "all-reduce" in kinds and "PREDICTION" in said
    for program in found["programs"].values():
        assert 0 < program["arguments"] < program["total"] < found["memory"]
        assert program["flops"] > 0 and all(np.isfinite(second) for second in program["seconds"].values())


@pytest.mark.parametrize(
    "topology, said",
    [("v5e", "--topology=v5e: give"), ("v7:2x2", "--topology=v7:2x2: give"), ("v5e:3x5", "--topology=v5e:3x5")],
)
def test_bad_topologies_are_named(call, topology, said):
    code, found, output = call(SMALL, topology)
    assert code == 2 and found is None and output.startswith("error: ") and said in output


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
