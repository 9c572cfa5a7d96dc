"""The loop as a whole, on the embedded default made small: resuming, compiling once, stopping,
refusing broken numbers."""

import contextlib
import json
import re
import shutil
import signal

import jax
import numpy as np
import pytest

from configs import coding
from gdsd_jax import experiment, metrics, report, resume, settings, train
from gdsd_jax.checkpoint import Checkpoints
from tests.contents import contents
from tests.processes import CLOCK, SMALL, Runs, assert_same_run, last_state
from tests.report.rows import unexplained


@pytest.fixture(scope="module")
def runs(data_dir, tmp_path_factory):
    with contextlib.closing(Runs(data_dir)) as found:
        yield found


@pytest.fixture(scope="module")
def undisturbed(runs, tmp_path_factory):
    """Folder of a run from start to end, its second round traced."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    output = runs.finish(workdir, flags=["--profile=2"])
    assert output.startswith("embedded default")
    # a CPU has no memory of its own to tell of
    assert re.search(r"^first round: \d+ s of compiling$", output, re.MULTILINE)
    (trace,) = (workdir / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 0
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("function", ["step", "sample", "update"])
def test_sigterm_while_compiling_loses_nothing(runs, undisturbed, tmp_path, function):
    """The supervised step, the first evaluation, the first update: 143, and the same command goes
    on from there."""
    process = runs.start(tmp_path, JAX_LOG_COMPILES="1")
    next(line for line in process.stderr if re.search(rf"Compiling (jit\()?{function}\b", line))
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143
    assert "resuming" in runs.finish(tmp_path)
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_checkpoint_of_other_settings_is_refused(runs, undisturbed, tmp_path):
    """And stays as it was."""
    workdir = shutil.copytree(undisturbed, tmp_path / "other")
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "tr')  # what a kill leaves, which a run that goes on would cut off
    before = contents(workdir)
    _, errors = (process := runs.start(workdir, "lora_rank=2,lora_alpha=2")).communicate()
    assert process.returncode == 2
    (line,) = errors.splitlines()
    assert str(workdir) in line and "other settings, lora_alpha=0.0 is now 2.0" in line
    assert "--workdir" in line
    assert contents(workdir) == before


def small(data_dir, *overrides: str) -> settings.Settings:
    """Settings of a small run."""
    entries = [SMALL, f"data_dir={data_dir}", *overrides]
    return settings.parse(coding.get_config(",".join(entries)))


def trained(chosen: settings.Settings, workdir, say=lambda line: None) -> list[dict]:
    """Trains in this process; the lines of metrics.jsonl."""
    prepared = experiment.prepare(chosen)
    with contextlib.closing(prepared.task):
        train.train(prepared, workdir, say=say)
    return metrics.read_metrics(workdir / "metrics.jsonl")


@pytest.fixture(scope="module")
def prepared(data_dir):
    """A run of this process, on all of its devices, with prompts enough for each."""
    chosen = small(data_dir, "prompts_per_round=8", "slices=1", "gdsd.beta=0.0", "rounds=4")
    found = experiment.prepare(chosen)
    with contextlib.closing(found.task):
        yield found


@pytest.mark.slow
def test_nothing_is_compiled_after_the_first_round(prepared, tmp_path):
    """Evaluations at both temperatures, full and short last batches included."""
    compiled, seen = [], {}

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        train.train(prepared, tmp_path, say=lambda line: seen.setdefault(line[:7], len(compiled)))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert seen["round 1"] > 10
    assert len(compiled) == seen["round 1"], "something was compiled after the first round"
    rows = metrics.read_metrics(tmp_path / "metrics.jsonl")
    assert unexplained(rows, parts=("tests", "format")) == []
    assert [(row["phase"], row["step"]) for row in rows if row["phase"] == "eval"] == [
        ("eval", 0),
        ("eval", 2),
        ("eval", 4),
    ]
    assert (tmp_path / "report.html").read_text().count("<svg") >= 5
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["rounds"], config["format"], config["score"]) == (4, 2, "tests")


def test_a_sink_that_does_not_open_ends_the_run(prepared, tmp_path):
    """Before anything of the run is written."""
    sink = tmp_path / "paper.py"
    sink.write_text("def SINK(workdir, settings):\n    raise OSError('out of paper')\n")
    chosen = settings.replace(prepared.settings, {"sinks": (str(sink),)})
    workdir = tmp_path / "workdir"
    with pytest.raises(report.SinkError, match=f"sink '{sink}' does not open.*out of paper"):
        train.train(prepared._replace(settings=chosen), workdir)
    assert not workdir.exists()


@pytest.mark.slow
def test_narrow_rounds_are_the_wide_ones(data_dir, tmp_path, monkeypatch):
    """The same rewards, and the same numbers but for rounding; each width is compiled but once."""
    shapes = []

    def noting(loop, state, frozen, buffer, *rest):
        shapes.append(buffer.slices.prompt_len)
        return compile_updates(loop, state, frozen, buffer, *rest)

    compile_updates = train.compile_updates
    monkeypatch.setattr(train, "compile_updates", noting)
    overrides = (
        "rounds=4,prompts_per_round=2,group_size=4,minibatches=1,slices=1,eval_every=4,probe_rows=4"
    )
    found = {}
    for multiple in (0, 1):
        chosen = small(data_dir, overrides, f"prompt_multiple={multiple}")
        found[multiple] = trained(chosen, tmp_path / str(multiple))
    assert shapes[0] == 24 > max(shapes[1:])
    assert len(set(shapes[1:])) == len(shapes[1:]) > 1
    for wide, narrow in zip(found[0], found[1], strict=True):
        assert wide.keys() == narrow.keys()
        for name in wide.keys() - set(CLOCK):
            known = isinstance(wide[name], (int, float))  # else a name, or None for NaN
            wanted = pytest.approx(wide[name], rel=1e-3, abs=1e-5) if known else wide[name]
            assert narrow[name] == wanted, (wide["phase"], wide["step"], name)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sampler.cache=dual,threshold=0.9", "rollout_quant=int8"])
def test_after_a_round_that_drifted_one_is_exact(data_dir, tmp_path, how):
    """Every rollout with a stale cache, or in int8, carries its drift; with no tolerance every
    second round is sampled exactly."""
    overrides = f"rounds=3,prompts_per_round=8,slices=1,gdsd.beta=0.0,drift_bound=0.0,{how}"
    said = []
    rows = trained(small(data_dir, overrides), tmp_path, said.append)
    rollouts = [row for row in rows if row["phase"] == "rollout"]
    assert ["drift_mean" in row for row in rollouts] == [True, False, True]
    assert unexplained(rows, parts=("tests", "format")) == []
    assert 0 < rollouts[0]["drift_mean"] <= rollouts[0]["drift_max"]
    assert sum("drifted by" in line and "samples exactly" in line for line in said) == 2


@pytest.mark.slow
def test_a_state_is_read_into_its_place_alone(
    prepared, undisturbed, data_dir, tmp_path, monkeypatch
):
    """A resumed run makes no second state first: one over half the memory could start and not go
    on."""
    chosen = small(data_dir, "mesh.data=1", "mesh.fsdp=8", "sft.batch=16")
    checkpoints = Checkpoints(undisturbed / "checkpoints")
    made = []
    monkeypatch.setattr(resume, "base_weights", lambda *_: made.append("weights"))
    monkeypatch.setattr(resume, "fresh_state", lambda *_: made.append("state"))
    state, frozen, buffer, _ = resume.resume(
        prepared._replace(settings=chosen), None, checkpoints, checkpoints.latest(), None
    )
    assert not made and buffer is None and set(frozen) == {"reference"}
    expected = last_state(undisturbed)
    leaves = jax.tree_util.tree_leaves_with_path(state.trainable)
    assert len(leaves) > 10
    for path, leaf in leaves:
        key = "['state']['trainable']" + jax.tree_util.keystr(path)
        np.testing.assert_array_equal(leaf, expected[key], err_msg=key)


@pytest.mark.slow
def test_adapters_are_compared_with_what_the_supervised_steps_made_of_them(data_dir, tmp_path):
    """In the first update nothing has moved away from the reference: no divergence. The base alone,
    of random weights, would be far away at once."""
    overrides = (
        "rounds=1,prompts_per_round=8,slices=1,lora_rank=2,lora_alpha=8,"
        "sft_optimizer.warmup_steps=0,optimizer.warmup_steps=0"
    )
    rows = trained(small(data_dir, overrides), tmp_path)
    first = next(row["kl"] for row in rows if row["phase"] == "train")
    assert 0 <= first < 1e-9
    kept = [leaf for path, leaf in last_state(tmp_path).items() if "['reference']" in path]
    assert len(kept) == 14 and all(np.any(leaf) for leaf in kept), "seven pairs, trained"
