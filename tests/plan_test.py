"""launch/plan.py with the real TPU compiler on small models: it fits or not, what is exchanged,
what is never held."""

import dataclasses
import importlib.util
import json
import math
from pathlib import Path
import re
import sys
import types

import jax
import numpy as np
import pytest

from configs import coding, opdlm
from gdsd_jax import (
    chips,
    hlo,
    models,
    round_programs,
    scoring,
    settings,
    sharding,
    topologies,
)
from gdsd_jax.models import flops, lora
from tests.scripts import code_of

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "tiny,prompts_per_round=4,group_size=4,sampler.gen_length=32,sampler.block_length=8,"
    "sampler.steps=16,prompt_length=16,"
    "dtype=bfloat16,gdsd.beta=0.0,inner_iterations=2,minibatches=1,remat=full,mesh.data=1"
)
V = 8192  # words, so that logits are no small part of memory
SIDES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}


@pytest.fixture(scope="module")
def plan():
    spec = importlib.util.spec_from_file_location("launch_plan", ROOT / "launch" / "plan.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def texts(plan, monkeypatch):
    """The text of every program that is compiled, in order."""
    compile_for, found = plan.compile_for, []

    def kept(platform, lowered):
        compiled = compile_for(platform, lowered)
        found.append(compiled.as_text())
        return compiled

    monkeypatch.setattr(plan, "compile_for", kept)
    return found


@pytest.fixture
def call(plan, compiler, monkeypatch, capsys, tmp_path):
    """`call(config's argument, topology, *flags) -> (exit code, numbers, output)`."""

    def launch(config: str, topology: str, *flags: str, file: str = "coding.py", compiles=True):
        if compiles:
            compiler(topology)
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
        code = code_of(plan.main)
        said = capsys.readouterr()
        return code, json.loads(out.read_text()) if out.exists() else None, said.out + said.err

    return launch


@pytest.mark.parametrize("slices", [1, 2])
def test_a_mesh_may_cut_the_sides_of_a_slice(compiler, slices):
    """fsdp 32 x tensor 2 is no product of whole sides of 4 x 4 x 4 chips."""
    compiler("v5p:4x4x4")
    mesh = sharding.make_mesh(
        {"data": 1, "fsdp": 32, "tensor": 2}, topologies.devices("v5p:4x4x4", slices)
    )
    assert (
        mesh.devices.shape == (slices, 32, 2)
        and len({device.id for device in mesh.devices.flat}) == 64 * slices
    )


@pytest.mark.parametrize(
    "masks, minibatches, old, ref", [("fresh", 1, 3, 4), ("shared", 1, 1, 1), ("shared", 2, 2, 2)]
)
def test_scores_are_counted_as_often_as_a_round_takes_them(plan, masks, minibatches, old, ref):
    """Of four inner iterations, the first compares with its own score where no other sees it."""
    told = f"tiny,score_masks={masks},minibatches={minibatches},inner_iterations=4,gdsd.beta=0.01"
    chosen = settings.parse(coding.get_config(f"{told},prompts_per_round=4,group_size=4,slices=2"))
    model = plan.model_of(chosen)
    others = round_programs.programs(
        chosen, model, sharding.make_mesh({}, jax.devices()[:1])
    ).others
    rows, length = chosen.rows // minibatches, chosen.sampler.gen_length
    # two views of each row, and each token of its completion is predicted in one of them
    pair = flops.features_flops(model, 2 * rows, chosen.prompt_length + length)
    pair += flops.unembed_flops(model, rows * length)
    assert others["score"].operations == pytest.approx((old + ref) * pair, rel=1e-6)
    # one forward of each slice, in which every layer's projections are read
    kernels = model.layers * sum(map(math.prod, lora.projection_shapes(model).values()))
    assert others["score"].read == chosen.slices * (old + ref) * 4 * kernels


def test_passes_and_parts_are_those_that_run(plan):
    """A pass that commits nothing is left out; two rows of a device are no three parts."""
    told = "tiny,prompts_per_round=2,group_size=6,sampler.kind=dream,sampler.gen_length=8"
    told += ",sampler.block_length=8,sampler.steps=32,slices=1,minibatches=1,rollout_parts="
    for parts, shards, taken in ((1, 1, 1), (6, 1, 6), (6, 6, 2), (3, 6, 1)):
        chosen = settings.parse(coding.get_config(f"{told}{parts}"))
        mesh = sharding.make_mesh({"data": shards}, jax.devices()[:shards])
        rollout = round_programs.programs(chosen, plan.model_of(chosen), mesh).calls["rollout"]
        assert (rollout.loops, rollout.weight_reads) == (8, 8 * taken)
        said = [f"rollout_parts={parts} is {taken} here: a chip has 2 of the 12 completions"]
        assert [said[0] in line for line in plan.notes(chosen, mesh)] == [True] * (taken < parts)


def test_answers_of_a_teacher_are_counted_as_its_own(plan):
    """One column a pass, the prompt once; the updates that learn from them read no teacher."""
    mesh = sharding.make_mesh({}, jax.devices()[:1])
    found = {}
    for control in ("none", "sft", "kd"):
        chosen = settings.parse(opdlm.get_config(f"tiny,control={control},teacher_dtype=bfloat16"))
        found[control], _, _ = round_programs.programs(chosen, plan.model_of(chosen), mesh)
    counted = {
        name: {part: operations_of(call) for part, call in calls.items()}
        for name, calls in found.items()
    }
    rollout = found["sft"]["rollout"]
    assert (rollout.loops, rollout.weight_reads) == (24, 24)
    assert rollout.weights == found["none"]["rollout"].weights / 2  # in bfloat16
    state = found["sft"]["update"].arguments[0]
    assert rollout.beside == round_programs.held(state)  # the student waits meanwhile
    assert counted["sft"]["rollout"] == counted["kd"]["rollout"]
    # a token takes two columns of a pass, its own and the one before it, and the logits of one; a
    # student's pass takes a block, and every fourth the block before it too
    model = plan.model_of(chosen)
    kernels = model.layers * sum(map(math.prod, lora.projection_shapes(model).values()))
    head, prompt = model.d_model * model.vocab_size, chosen.prompt_length
    for name, first, columns, logits in (("sft", 1, 2, 1), ("none", 4, 5, 4)):
        least = 2 * chosen.rows * ((prompt - first + 24 * columns) * kernels + 24 * logits * head)
        assert least < counted[name]["rollout"] < 1.6 * least, name  # attention besides
    assert counted["sft"]["update"] < 0.9 * counted["kd"]["update"]
    # which no longer reads the teacher, though it lies in memory
    for name, is_read in (("sft", False), ("kd", True)):
        call = found[name]["update"]
        unread = round_programs.unread(call.function.trace(*call.arguments), call.arguments)
        teacher = round_programs.held(call.arguments[1]["teacher"])
        assert unread == (0 if is_read else teacher) and teacher > 0
    assert counted["kd"]["update"] == counted["none"]["update"]


def operations_of(call):
    jaxpr = call.function.trace(*call.arguments).jaxpr.jaxpr
    return hlo.operations(jaxpr, call.loops, call.shares)


def test_rollouts_in_int8_are_counted_at_their_own_rate_and_bytes(plan):
    told = "tiny,prompts_per_round=4,group_size=4,sampler.gen_length=32,rollout_parts=2"
    chosen = settings.parse(
        coding.get_config(f"{told},rollout_quant=int8,lora_rank=2,lora_alpha=2")
    )
    model = plan.model_of(chosen)
    calls, others, _ = round_programs.programs(
        chosen, model, sharding.make_mesh({}, jax.devices()[:1])
    )
    call = calls["rollout"]
    jaxpr = call.function.trace(*call.arguments).jaxpr.jaxpr
    columns = chosen.rows * (chosen.prompt_length + 32)
    kernels = sum(math.prod(shape) for shape in lora.projection_shapes(model).values())
    wanted = call.loops * 2 * columns * model.layers * kernels
    assert hlo.operations(jaxpr, call.loops, call.shares, dtype="int8") == wanted
    assert hlo.operations(jaxpr, call.loops, call.shares) > wanted
    # a byte instead of four, and a scale for each column
    update, scales = (
        calls["update"],
        sum(shape[1] for shape in lora.projection_shapes(model).values()),
    )
    assert update.weights - call.weights == model.layers * (3 * kernels - 4 * scales)
    assert call.weight_reads == 2 * call.loops
    # one forward for each of the tokens that are looked at
    drift = others["drift"]
    assert drift.operations > 0 and drift.read == chosen.drift_tokens * 4 * model.layers * kernels


@pytest.mark.parametrize(
    "kind, hosts, seconds",
    [
        # 15 of 16 parts by the links of a slice; by those of a host of eight, or by its network
        ("TPU v5 lite", [0] * 16, 15e12 / 90e9),
        ("NVIDIA H100 80GB HBM3", [0] * 16, 15e12 / 450e9),
        ("NVIDIA H100 80GB HBM3", [0] * 8 + [1] * 8, 15e12 / 8 / 50e9),
    ],
)
def test_what_is_not_compiled_collects_its_weights(plan, kind, hosts, seconds):
    """Half of the bytes are read where tensor splits them, and none collected without fsdp."""

    def mesh(**shape):
        platform = "gpu" if "NVIDIA" in kind else "tpu"
        devices = [
            types.SimpleNamespace(device_kind=kind, platform=platform, process_index=host)
            for host in hosts
        ]
        grid = np.array(devices).reshape(1, shape["fsdp"], shape["tensor"])
        return types.SimpleNamespace(shape=shape, devices=grid, size=grid.size)

    chip = chips.CHIPS[kind]
    other = round_programs.Other(operations=int(1e9), read=int(16e12))
    assert plan.least_seconds(other, mesh(fsdp=16, tensor=1)) == pytest.approx(seconds)
    reading = 16e12 / 16 / chip.bandwidth
    assert plan.least_seconds(other, mesh(fsdp=1, tensor=16)) == pytest.approx(reading)
    busy = other._replace(operations=int(1e20))
    computing = 1e20 / 16 / chip.flops
    assert plan.least_seconds(busy, mesh(fsdp=16, tensor=1)) == pytest.approx(computing)


@pytest.mark.slow
def test_rollouts_with_a_cache_exchange_as_much_less_as_they_compute(plan):
    """Split over tensor, every column of a pass is exchanged; most passes have few."""
    mesh = sharding.make_mesh({"data": 1, "tensor": 2}, jax.devices()[:2])
    found = {}
    for cache in ("none", "dual", "prefix"):
        told = f"tiny,prompts_per_round=2,group_size=2,sampler.cache={cache},prompt_length=64"
        lengths = ",sampler.gen_length=32,sampler.block_length=16,sampler.steps=32"
        chosen = settings.parse(coding.get_config(told + lengths))
        call = round_programs.programs(chosen, plan.model_of(chosen), mesh).calls["rollout"]
        traced = call.function.trace(*call.arguments)
        text = traced.lower().compile().as_text()
        kinds = hlo.exchanged(text, call.loops, call.shares)["collectives"]
        operations = hlo.operations(traced.jaxpr.jaxpr, call.loops, call.shares)
        found[cache] = np.array([sum(kind["bytes"] for kind in kinds), operations])
    for cache in ("dual", "prefix"):
        sent, computed = found[cache] / found["none"]
        assert sent == pytest.approx(computed, rel=0.05) and sent < 0.6


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
            if entry["crosses"] is here
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
@pytest.mark.parametrize("file", ["coding.py", "opdlm.py"])
def test_a_run_without_rounds_is_its_supervised_phase(call, texts, file):
    """Of a denoiser or a teacher; the whole batch is on the chips at once."""
    config = "tiny,rounds=0,sft.steps=7200,sft.batch={},mesh.data=1,mesh.fsdp=4"
    code, found, said = call(config.format(256), "v5e:2x2", file=file)
    assert code == 0 and list(found["programs"]) == ["supervised_step"] and len(texts) == 1, said
    step, guess = found["programs"]["supervised_step"], found["prediction"]
    assert 0 < step["arguments"] < step["total"] and step["collectives"]
    assert guess["supervised_step_s"] == max(step["seconds"].values())
    assert guess["chip_hours"] == pytest.approx(guess["supervised_step_s"] * 7200 * 4 / 3600)
    assert "supervised step: " in said and "round" not in said.split("PREDICTION")[1]
    _, twice, _ = call(config.format(512), "v5e:2x2", file=file)
    assert twice["programs"]["supervised_step"]["flops"] > 1.9 * step["flops"]
    code, _, said = call("tiny,rounds=0,sft.steps=0", "v5e:2x2", file=file, compiles=False)
    assert code == 2 and "rounds=0 and sft.steps=0: the run computes nothing" in said


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
    """On one chip no mesh is another. Two slices fit, so fewer are tried."""
    code, found, said = call(
        f"{SMALL},mesh.fsdp=1,prompt_length=8,sampler.gen_length=8,sampler.steps=8,slices=2",
        "v5e:1x1",
        "--search",
    )
    changes = [one["change"] for one in found["tried"]]
    assert changes[:3] == [None, {"remat": "none"}, {"remat": "dots"}], said
    assert changes[-1] == {"slices": 1} and {"slices": 2} not in changes, said
    seconds = [one["prediction"]["round_s"] for one in found["tried"]]
    assert code == 0 and found["prediction"]["round_s"] == min(seconds) < seconds[0]
    assert found["remat"] != "full" and found["slices_of_update"] == 1
    assert f"best: remat={found['remat']},slices=1\n" in said
    assert said.count("compiling the rollout") == 1


@pytest.mark.parametrize(
    "topology, said",
    [
        ("v5e", "--topology=v5e: give"),
        ("v7:2x2", "--topology=v7:2x2: give"),
        ("v5e:3x5", "--topology=v5e:3x5"),
        ("v5p-9", "--topology=v5p-9: give"),
        ("h100", "--topology=h100: give"),
        ("h100:1x1x8", "--topology=h100:1x1x8: give"),
    ],
)
def test_bad_topologies_are_named(call, topology, said):
    code, found, output = call(SMALL, topology, compiles=topology == "v5e:3x5")
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
    code, found, output = call(SMALL, "v5e:2x2", compiles=False)
    assert code == 2 and found is None
    assert output == 'error: the TPU compiler, libtpu, is not installed: pip install "jax[tpu]"\n'


def test_a_missing_gpu_compiler_is_told_in_one_line(call, monkeypatch):
    def absent(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr(topologies.topologies, "get_topology_desc", absent)
    for name in topologies.GPU_PLUGINS:
        monkeypatch.setitem(sys.modules, f"jax_plugins.{name}", None)
    code, found, output = call(SMALL, "h100:8", compiles=False)
    assert code == 2 and found is None and output.count("\n") == 1
    assert f"jax-cuda12-pjrt=={jax.__version__}" in output and "CUDA_PLUGIN_PATH" in output


@pytest.mark.slow
def test_a_small_plan_for_gpus(call, texts):
    """Two hosts, each with a copy of the weights: only gradients go over the network."""
    code, found, said = call(f"{SMALL},mesh.data=2,mesh.fsdp=2,prompts_per_round=8", "h100:2x2")
    assert code == 0 and said.endswith("fits\n"), said
    assert (found["chips"], found["chip"]) == (4, "NVIDIA H100 80GB HBM3")
    assert found["memory"] == int(0.75 * 84942979072)
    update = found["programs"]["update"]
    across = {one["kind"] for one in update["collectives"] if one["crosses"]}
    assert "all-reduce" in across and "all-gather" not in across
    assert update["seconds"]["network"] > 0 and update["seconds"]["links"] > 0
    assert all("__cudnn$fmha" in text for text in texts), "attention is not cuDNN's"
    # parameters and two moments, float32, half of them on each GPU of a host
    whole = 3 * 4 * found["parameters"]
    assert whole / 2 <= update["arguments"] < 1.1 * whole / 2


@pytest.mark.slow
def test_what_a_small_program_sends_between_gpus(compiler):
    """Weights split by eight are collected in both directions; their gradients are scattered."""
    compiler("h100:8")
    layers, width = 6, 1024
    mesh = jax.sharding.Mesh(topologies.devices("h100:8"), ("part",))

    def place(*axes):
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))

    def loss(w, x):
        x, _ = jax.lax.scan(lambda x, one: (jax.numpy.tanh(x @ one), None), x, w)
        x = x.astype("float32")
        return jax.numpy.sum(x), jax.numpy.sum(x, axis=0)

    update = jax.jit(
        jax.value_and_grad(loss, has_aux=True), out_shardings=(place(), place(None, "part"))
    )
    w = jax.ShapeDtypeStruct((layers, width, width), "bfloat16", sharding=place(None, "part"))
    x = jax.ShapeDtypeStruct((64, width), "bfloat16", sharding=place("part"))
    text = update.lower(w, x).compile(topologies.OPTIONS["gpu"]).as_text()
    assert "all-gather-start(" in text and "reduce-scatter-start(" in text
    sent = dict.fromkeys(("all-gather", "reduce-scatter", "all-reduce"), 0)
    for one in hlo.collectives(text):
        assert one.devices == tuple(range(8))
        sent[one.kind] += one.sent * one.times
    layer = 2 * width * width * 7 // 8
    assert sent.pop("all-reduce") == pytest.approx(2 * 4 * (1 + width) * 7 / 8, abs=2)
    assert sent == {"all-gather": 2 * layers * layer, "reduce-scatter": layers * layer}


@pytest.mark.slow
def test_the_whole_model_does_not_fit_one_gpu(call):
    """LLaDA-8B with adapters of rank 128, as configs/coding.py has it."""
    code, found, said = call("llada", "h100:1")
    assert code == 3 and f"DOES NOT FIT: {found['missing'] / 2**30:.2f} GiB" in said, said
    assert 8.0e9 < found["parameters"] < 8.1e9
    update = found["programs"]["update"]
    assert update["arguments"] > 2 * found["parameters"]  # frozen, bfloat16
    assert update["temporaries"] > 0 and update["missing"] == found["missing"]
