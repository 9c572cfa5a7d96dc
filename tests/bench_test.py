"""launch/bench.py runs, and its operation counts are the compiler's."""

import json
import os
from pathlib import Path
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import models, round_times, sharding, steps, weights
from gdsd_jax.models import flops
from launch import bench
from tests.processes import PATIENCE, free_port, xla_flags

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_every_part_is_measured(tmp_path):
    file = tmp_path / "bench.json"
    parts = ",".join((*bench.PARTS, "round"))
    command = [sys.executable, "launch/bench.py", "--size=tiny", f"--json={file}"]
    command += [f"--parts={parts}", "--settings=group_size=8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    for part in ("rollout", "update"):
        assert found[part]["seconds"] > 0 and 0 < found[part]["mfu"] < 2
    assert all(row["speed_up"] > 0 < row["bandwidth"] for row in found["samplers"].values())
    assert found["rollout"]["tokens_per_s"] > 0 and found["memory"]["host_peak_mib"] > 50
    whole = found["round"]
    assert list(whole["shares"]) == ["rollout", "rewards", "scores", "updates"]
    assert 0 < whole["mfu"] < 2 and list(whole["gflops_of"]) == ["rollout", "scores", "updates"]
    assert sum(whole["shares"].values()) == pytest.approx(1) and whole["seconds"] > 0
    assert 0 <= whole["idle"] <= whole["shares"]["rewards"] and whole["drift"] is None
    assert found["rewards"].get("error") or found["rewards"]["passed"] == found["size"]["programs"]


@pytest.mark.slow
def test_one_script_collects_what_a_gpu_tells(tmp_path):
    """Where there is none cuDNN and the plan are left out; parts that are done stay as they are."""
    done_before = ("rollout", "samplers", "update")
    for name in done_before:
        (tmp_path / f"{name}.json").write_text('{"device": "cpu", "before": true}')
    command = ["bash", "launch/gpu.sh", "--size=tiny", f"--out={tmp_path}"]
    environment = os.environ | {"PYTHON": sys.executable, "XLA_FLAGS": xla_flags()}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "attention cudnn: attention_kernel='cudnn' needs an NVIDIA GPU" in done.stdout
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert all(found[name]["before"] for name in done_before)
    attention = found["attention"]["attention"]
    assert "needs an NVIDIA GPU" in attention["cudnn"]["left_out"]
    assert attention["xla"].keys() == {"full", "padding", "block-causal"}
    assert all(one["ms"] > 0 and one["error"] < 0.02 for one in attention["xla"].values())
    assert found["plan"]["failed"].startswith("plan: left out")
    beside = found["measured_and_predicted"]
    assert beside["rollout_s"]["measured"] > 0 < beside["update_s"]["measured"]


def test_the_script_for_gpus_plans_for_the_card_that_measured(tmp_path):
    """Which all parts before name; plan.py is told it once."""
    for name in ("attention", "rollout", "round", "samplers", "update"):
        (tmp_path / f"{name}.json").write_text('{"device": "NVIDIA H100 80GB HBM3"}')
    python = tmp_path / "python"
    asks = f'[ "$1" != launch/plan.py ] || {{ echo "$@" >{tmp_path}/asked; exit 1; }}'
    python.write_text(f'#!/bin/bash\n{asks}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    command = ["bash", "launch/gpu.sh", "--size=tiny", f"--out={tmp_path}"]
    environment = os.environ | {"PYTHON": str(python)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--topology=h100:1" in (tmp_path / "asked").read_text().split()


def test_the_script_for_gpus_refuses_other_flags():
    done = subprocess.run(
        ["bash", "launch/gpu.sh", "--size=small"], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 2 and b"error: --size=small: give --out=FOLDER" in done.stderr


@pytest.mark.slow
def test_processes_share_a_round(tmp_path):
    """Each grades its own rows and tells its own memory; the first writes the numbers."""
    file = tmp_path / "bench.json"
    command = [sys.executable, "launch/bench.py", "--size=tiny", "--parts=round", f"--json={file}"]
    command += ["--settings=inner_iterations=1,mask_draws=1,gdsd.beta=0"]
    command += [f"--coordinator=localhost:{free_port()}", "--num_processes=2", "--process_id"]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    one_device = {"cwd": ROOT, "env": os.environ | {"XLA_FLAGS": xla_flags()}}
    started = [
        subprocess.Popen([*command, str(number)], **one_device, **output) for number in range(2)
    ]
    said = [process.communicate(timeout=PATIENCE)[0].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    found = json.loads(file.read_text())
    assert found["devices"] == 2 and found["round"]["seconds"] > 0
    assert all("host_peak_mib" in text for text in said)


def test_a_file_that_cannot_be_written_is_named_before_anything_is_measured(
    tmp_path, monkeypatch, capsys
):
    def refuse(*_):
        raise AssertionError("measured")

    monkeypatch.setattr(bench, "rollout", refuse)
    for path in (tmp_path, tmp_path / "absent" / "bench.json"):
        monkeypatch.setattr(sys, "argv", ["bench.py", "--size=tiny", f"--json={path}"])
        with pytest.raises(SystemExit, match="^2$"):
            bench.main()
        assert f"--json={path}: " in capsys.readouterr().err


def test_settings_of_a_round_are_those_of_a_run_with_fewer_answers(capsys, monkeypatch):
    size = bench.SIZES["tiny"]
    chosen = bench.settings_of(size, "bfloat16", "score_masks=shared,sampler.cache=prefix")
    assert (chosen.score_masks, chosen.sampler.cache, chosen.dtype) == (
        "shared",
        "prefix",
        "bfloat16",
    )
    assert chosen.sampler.most_passes == size.sampler_completion
    monkeypatch.setattr(sys, "argv", ["bench.py", "--parts=round", "--settings=score_mask=shared"])
    assert bench.main() == 2
    assert capsys.readouterr().err.startswith("error: --settings: ")
    monkeypatch.setattr(sys, "argv", ["bench.py", "--settings=score_masks=shared"])
    with pytest.raises(SystemExit, match="^2$"):
        bench.main()
    assert "add --parts=round" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given, said",
    [
        (
            "reference_sync.every=2",
            "reference_sync.every: a round that is timed does nothing of it",
        ),
        ("task=countdown,model=llada", "task, model: a round that is timed does nothing of it"),
        ("init_from=x,prompt_multiple=8", "init_from, prompt_multiple: a round that is timed"),
        ("objective=opd,sampler.kind=block", "objective=opd: a round that is timed learns from"),
    ],
)
def test_what_a_timed_round_does_not_do_is_refused(capsys, monkeypatch, given, said):
    monkeypatch.setattr(sys, "argv", ["bench.py", "--parts=round", f"--settings={given}"])
    assert bench.main() == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: --settings: {said}") and told.count("\n") == 1


def test_a_timed_round_may_have_any_objective_with_rewards():
    assert bench.settings_of(bench.SIZES["tiny"], "float32", "objective=espo").objective == "espo"


@pytest.mark.slow
def test_adapters_and_thresholds_are_timed():
    """A low threshold commits everything at once: two passes, one of each block."""
    size = bench.SIZES["tiny"]._replace(sampler_completion=8)
    told = "group_size=8,lora_rank=2,lora_alpha=2,inner_iterations=1,mask_draws=1,threshold="
    found = {}
    for threshold in ("none", "1e-6"):
        chosen = bench.settings_of(size, "float32", told + threshold)
        found[threshold] = round_times.round_times(
            bench.config_of(size, "float32"), chosen, lambda rollout: np.float32(np.arange(8) % 2)
        )
    assert found["none"].operations["rollout"] == 4 * found["1e-6"].operations["rollout"]
    assert found["none"].operations["updates"] == found["1e-6"].operations["updates"] > 0
    assert found["none"].drift is None and found["1e-6"].drift < 1e-4


def test_operations_of_a_rollout_are_those_of_one_loop():
    """16 rows and 8 blocks have a loop for each number of rows that are left."""
    size = bench.SIZES["tiny"]._replace(sampler_completion=32)
    mesh, counts = sharding.make_mesh({}, jax.devices()[:1]), []
    for compact in (True, False):
        told = f"prompts_per_round=2,group_size=8,gdsd.beta=0,sampler.compact={compact}"
        chosen = bench.settings_of(size, "float32", told)
        model = weights.with_settings(bench.config_of(size, "float32"), chosen)
        denoiser, _ = weights.make_denoisers(chosen, model, mesh)
        trees = weights.abstract(mesh, weights.make_trainable(chosen, model)), {}
        calls = steps.make_steps(denoiser, chosen, mesh)
        prompts = steps.abstract_round(calls, chosen, mesh, *trees)[0]
        rng = jax.eval_shape(lambda: jax.random.key(0))
        counts.append(
            round_times.rollout_operations(denoiser, chosen, mesh, trees, prompts, rng, passes=32)
        )
    columns = size.sampler_prompt + 32
    passes = flops.rollout_flops(model, 16, columns, size.block, passes=32)
    assert counts[0] == counts[1] == pytest.approx(passes, rel=0.02)


def test_counted_operations_are_the_compiled_ones():
    """XLA counts every elementwise operation too, and the scan's body once: one wide layer leaves
    under 3%."""
    sizes = dict(vocab_size=1024, d_model=256, layers=1, heads=4, kv_heads=2, head_dim=64, d_ff=512)
    config = models.ModelConfig(family="llada", mask_id=1, pad_id=0, stop_ids=(), **sizes)
    denoiser, params = models.make_denoiser(config), models.param_shapes(config)
    tokens_BxL = jax.ShapeDtypeStruct((2, 64), jnp.int32)
    h_BxLxD = jax.ShapeDtypeStruct((2, 64, 256), jnp.float32)
    for fn, argument, needed in (
        (denoiser.features, tokens_BxL, flops.features_flops(config, rows=2, columns=64)),
        (denoiser.unembed, h_BxLxD, flops.unembed_flops(config, positions=128)),
    ):
        counted = jax.jit(fn).lower(params, argument).compile().cost_analysis()["flops"]
        assert 0.98 < counted / needed < 1.03
