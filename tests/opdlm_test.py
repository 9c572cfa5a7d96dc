"""Distillation on the one loop: the published recipes, a small run from nothing to a distilled
student, and its resuming."""

import contextlib
import json

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from configs import opdlm
from gdsd_jax import experiment, meanings, metrics, models, settings, sharding, steps, train
from gdsd_jax.optimizer import make_optimizer
from launch import eval as launch_eval
from tests.report.rows import unexplained

SMALL = (
    "tiny,rounds=2,prompts_per_round=16,inner_iterations=2,minibatches=2,sft.steps=4,"
    "sft.batch=16,sft.log_every=2,"
    "eval_every=2,eval_problems=16,checkpoint_every=1,optimizer.warmup_steps=1"
)
# what may differ between equal runs
CLOCK = ("wall_s", "rollout_s", "update_s", "tokens_per_s")


def recipe(argument: str) -> settings.Settings:
    """The settings of configs/opdlm.py."""
    return settings.parse(opdlm.get_config(argument))


@pytest.mark.parametrize("size", ["0p6b", "1p7b", "4b", "8b"])
def test_recipes_are_the_published_ones(size):
    """The values of arXiv 2606.06712, accepted by the loop, without compiling."""
    chosen = recipe(f"qwen3_{size},init_from=DIR,data_file=FILE")
    model = models.preset(chosen.model)
    experiment.check(chosen, experiment.make_mesh(chosen), model)
    assert model.family == "a2d-qwen3" and chosen.require_init
    assert (
        chosen.rounds,
        chosen.prompts_per_round,
        chosen.group_size,
        chosen.inner_iterations,
    ) == (483, 128, 1, 16)
    opd = chosen.objective_config
    assert chosen.minibatches == 16 and opd.top_k == (16 if size in ("4b", "8b") else None)
    assert (opd.divergence, opd.states, opd.exclude_stop) == ("forward", "stitched", True)
    assert (chosen.threshold, chosen.temperature, chosen.sampler.block_length) == (0.9, 1.0, 4)
    assert chosen.max_lengths == dict(math=4096, code=2048, chat=2048, science=1024)
    adamw = chosen.optimizer
    assert (adamw.b1, adamw.b2, adamw.weight_decay, adamw.clip_norm) == (0.9, 0.999, 0.0, 1.0)
    math = recipe(f"qwen3_{size},math=1,init_from=DIR,data_file=FILE")
    assert (math.sampler.gen_length, math.rounds, math.objective_config.top_k) == (2000, 630, None)


def test_objectives_take_the_samplers_ends_of_answers(monkeypatch):
    """`exclude_stop` asks the model for them."""
    seen = {}
    for name in ("make_score", "make_round_update", "make_distance"):

        def note(denoiser, *_, name=name):
            seen[name] = denoiser.config.stop_ids

        monkeypatch.setattr(steps, name, note)
    for stop_ids in ("none", "(7,)"):
        chosen = recipe(f"tiny,sampler.stop_ids={stop_ids}")
        student = models.preset(chosen.model)
        denoiser = models.make_denoiser(student)
        teacher = models.make_denoiser(models.to_autoregressive(student))
        steps.make_steps(denoiser, chosen, sharding.make_mesh({"fsdp": 8}), teacher)
        wanted = student.stop_ids if stop_ids == "none" else (7,)
        assert len(seen) == 3 and set(seen.values()) == {wanted}


def test_the_learning_rate_is_the_published_schedule():
    """lr(u) = 1e-5 u / 80, then 1e-6 + 9e-6 (1 + cos(pi (u - 80) / 7649)) / 2, and 1e-6 for ever.
    Adam's first steps with a constant gradient have the size of the rate."""
    optimizer = make_optimizer(recipe("qwen3_4b").optimizer)
    state, rates = optimizer.init({"w": np.float32(0)}), []
    step = jax.jit(lambda s: optimizer.update({"w": np.float32(1)}, s, {"w": np.float32(0)}))
    for _ in range(81):
        update, state = step(state)
        rates.append(-float(update["w"]))
    np.testing.assert_allclose(rates, 1e-5 * np.arange(81) / 80, rtol=1e-3, atol=1e-12)

    def counts(x):
        return isinstance(x, optax.ScaleByScheduleState)

    for update, wanted in ((80 + 7649 // 2, 5.5e-6), (7729, 1e-6), (20_000, 1e-6)):
        there = jax.tree.map(
            lambda x, n=update: x._replace(count=np.int32(n)) if counts(x) else x,
            state,
            is_leaf=counts,
        )
        assert -float(step(there)[0]["w"]) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize(
    "argument, word",
    [
        ("control=dagger", "sft, kd, random"),
        ("math=1", "released models"),
        ("qwen3_14b", "qwen3_8b"),
        ("opd.states=last", "states"),
        ("minibatches=3", "minibatches=3"),
        ("length_ramp.shape=tan", "length_ramp.shape"),
    ],
)
def test_what_does_not_fit_is_refused(argument, word):
    with pytest.raises(ValueError, match=word):
        chosen = recipe(argument)
        mesh = experiment.make_mesh(chosen, jax.devices()[:1])
        experiment.check(chosen, mesh, models.preset(chosen.model))


def test_released_weights_must_be_named():
    with pytest.raises(ValueError, match="init_from=DIR"):
        experiment.prepare(recipe("qwen3_4b"))


# ---------------------------------------------------------------- the loop


def trained(workdir, data_dir, *overrides):
    """(rows of metrics.jsonl without clocks, arrays of the newest checkpoint by path)."""
    chosen = recipe(",".join([SMALL, f"data_dir={data_dir}", *overrides]))
    prepared = experiment.prepare(chosen)
    with contextlib.closing(prepared.task):
        train.train(prepared, workdir, say=lambda line: None)
    rows = metrics.read_metrics(workdir / "metrics.jsonl")
    with ocp.CheckpointManager(workdir / "checkpoints") as manager:
        saved = manager.restore(
            manager.latest_step(), args=ocp.args.Composite(state=ocp.args.StandardRestore())
        )
    state = {
        jax.tree_util.keystr(path): np.asarray(x)
        for path, x in jax.tree_util.tree_leaves_with_path(saved.state)
    }
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in rows], state


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """The workdir of `undisturbed`."""
    return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture(scope="module")
def undisturbed(data_dir, student):
    return trained(student, data_dir)


def evaluated(monkeypatch, capsys, checkpoint, out):
    """(what launch/eval.py writes of a run by its own settings, what it prints)."""
    monkeypatch.setattr("sys.argv", ["eval.py", f"--checkpoint={checkpoint}", f"--out={out}"])
    assert launch_eval.main() == 0
    return json.loads(out.read_text()), capsys.readouterr().out


@pytest.mark.slow
def test_a_student_is_distilled_from_the_model_it_started_from(undisturbed):
    rows, state = undisturbed
    assert unexplained(rows, parts=("tests", "format")) == []
    first, last = [row for row in rows if row["phase"] == "eval"]
    foreseen = meanings.of_evaluations(("tests", "format"), True, taught=True, threshold=True)
    assert {*first} - {"phase", "step", *CLOCK} == {*foreseen}
    for name in ("kl", "kl_common", "teacher_nats"):
        assert first[name] > 0 and last[name] != first[name]
    assert first["teacher_pass_at_1"] == last["teacher_pass_at_1"]
    # answers of one token pay for a whole block
    assert 0.25 < first["threshold_forwards_per_token"] <= 1 + 1
    rollouts = [row for row in rows if row["phase"] == "rollout"]
    # nothing is rewarded
    assert len(rollouts) == 2 and not any("reward" in row for row in rollouts)
    updates = [row for row in rows if row["phase"] == "train"]
    assert len(updates) == 4 and all(row["kl"] == row["loss"] > 0 for row in updates)
    teacher = {
        path.removeprefix("['teacher']"): leaf
        for path, leaf in state.items()
        if path.startswith("['teacher']")
    }
    moved = [
        np.abs(state["['state']['trainable']" + path] - leaf).max()
        for path, leaf in teacher.items()
    ]
    assert len(moved) > 10 and min(moved) > 0


@pytest.mark.slow
def test_an_evaluation_says_how_far_the_teacher_is(
    undisturbed, student, data_dir, tmp_path, monkeypatch, capsys
):
    """Of a run the copy that it keeps, before its first round the model itself: as the run's own
    evaluations said, and problem by problem."""
    lines = [row for row in undisturbed[0] if row["phase"] == "eval"]
    trained(tmp_path / "start", data_dir, "rounds=0")
    for line, workdir in ((lines[0], tmp_path / "start"), (lines[1], student)):
        found, said = evaluated(monkeypatch, capsys, workdir, tmp_path / f"{line['step']}.json")
        low, high = found["intervals"]["kl_common"]
        assert f"resamples of 16 problems: KL {low:.3f} to {high:.3f}, " in said
        for name in ("kl_common", "kl", "teacher_nats"):
            assert found[name] == pytest.approx(line[name], rel=1e-5), name
            low, high = found["intervals"][name]
            assert low < found[name] < high
            given = [item["distance"][name] for item in found["items"] if "distance" in item]
            assert len(given) == 16 and np.mean(given) == pytest.approx(found[name])


@pytest.mark.slow
def test_a_resumed_run_keeps_its_teacher(undisturbed, data_dir, tmp_path):
    """Stopped after a round and started again: the same numbers and arrays, the teacher's among
    them."""
    trained(tmp_path, data_dir, "rounds=1")
    rows, state = trained(tmp_path, data_dir)
    assert rows == undisturbed[0]
    assert state.keys() == undisturbed[1].keys()
    for path, leaf in state.items():
        np.testing.assert_array_equal(leaf, undisturbed[1][path], err_msg=path)


@pytest.mark.slow
def test_the_teachers_own_answers_can_be_trained_on(undisturbed, data_dir, tmp_path):
    """Fine-tuning on them: a likelihood in place of the divergence, and the same distance is
    reported."""
    rows, _ = trained(tmp_path, data_dir, "control=sft", "rounds=1")
    evaluations = [row for row in rows if row["phase"] == "eval"]
    first = next(row for row in undisturbed[0] if row["phase"] == "eval")
    for name in ("kl", "kl_common", "teacher_nats", "teacher_pass_at_1"):
        assert evaluations[0][name] == first[name], name
    assert all(row["loss"] == -row["score"] for row in rows if row["phase"] == "train")
