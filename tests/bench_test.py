"""launch/bench.py runs, and its operation counts are the compiler's."""

import json
import os
from pathlib import Path
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from gdsd_jax import models
from gdsd_jax.models import flops
from launch import bench
from tests.processes import PATIENCE, free_port

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
def test_processes_share_a_round(tmp_path):
    """Each grades its own rows and tells its own memory; the first writes the numbers."""
    file = tmp_path / "bench.json"
    command = [sys.executable, "launch/bench.py", "--size=tiny", "--parts=round", f"--json={file}"]
    command += ["--settings=inner_iterations=1,mask_draws=1,gdsd.beta=0"]
    command += [f"--coordinator=localhost:{free_port()}", "--num_processes=2", "--process_id"]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    one_device = {"cwd": ROOT, "env": os.environ | {"XLA_FLAGS": ""}}
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
