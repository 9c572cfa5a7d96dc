"""What an evaluation asks of the model, what it counts, and what it says."""

import dataclasses
import io
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import data, evaluation, models, progress, sampling, sharding, steps
from gdsd_jax.evaluation import Request, answers
from gdsd_jax.experience import prompts_of
from gdsd_jax.hosts import Hosts
from gdsd_jax.sampling import SamplerConfig
from gdsd_jax.tasks import Grades, Task
from gdsd_jax.types import Prompts, Rollout
from tests.reference import random_params, tiny

ROWS, PROBLEMS, P, G = 4, 6, 5, 8  # of a round; the last batch of an evaluation is half full
SCHEDULE = SamplerConfig(gen_length=G, steps=G)
RECORDS = [{"question": f"question {number}"} for number in range(PROBLEMS)]


class Ids:
    """A tokenizer whose texts are ids with spaces between them."""

    def decode(self, row):
        return " ".join(map(str, row.tolist()))


def ask(record):
    return [{"role": "user", "content": record["question"]}]


def grade(records, texts):
    """What `answer` wrote: the reward is the sum of both ids, the second one the part "second".

    The answers to problem 2 have no verdict, though large numbers.
    """
    ids_Nx2 = np.array([text.split()[:2] for text in texts], np.float32).reshape(-1, 2)
    numbers = np.array([int(record["question"].split()[1]) for record in records])
    reward_N = np.where(numbers == 2, 1000, ids_Nx2.sum(axis=1))
    return Grades(
        reward_N=reward_N,
        solved_N=reward_N % 2 == 0,
        parts={"second": ids_Nx2[:, 1]},
        judged_N=numbers != 2,
        points_Nx2=np.stack([numbers, numbers + 9], axis=1).astype(int),
    )


TASK = Task(train=RECORDS, heldout=None, messages=ask, grade=grade)


def experiment(task=TASK, sampler=SCHEDULE, problems=PROBLEMS):
    """What `evaluate` reads of an `Experiment`."""
    rng = np.random.default_rng(0)
    heldout = data.Problems(
        records=RECORDS,
        tokens=rng.integers(2, 40, (PROBLEMS, P), np.int32),
        valid=np.arange(P) >= rng.integers(0, P - 1, (PROBLEMS, 1)),
        index=np.arange(PROBLEMS),
        max_length=np.array([8, 8, 3, 8, 8, 5], np.int32),
    )
    return SimpleNamespace(
        settings=SimpleNamespace(
            rows=ROWS, eval_problems=problems, sampler=sampler, not_finite="stop"
        ),
        mesh=sharding.make_mesh({"fsdp": 2}, jax.devices()[:2]),
        task=task,
        parts=("second",),
        tokenizer=Ids(),
        denoiser=SimpleNamespace(config=SimpleNamespace(stop_ids=())),
        heldout=heldout,
        hosts=Hosts(),
    )


class Sampler:
    """Writes the number of the problem and of the sample; keeps what it was asked."""

    def __init__(self):
        self.asked: list[Prompts] = []

    def __call__(self, prompts):
        self.asked.append(prompts)
        index_B, sample_B = prompts.index_B, prompts.sample_B
        tokens_BxG = jnp.zeros((len(index_B), G), jnp.int32)
        tokens_BxG = tokens_BxG.at[:, 0].set(index_B).at[:, 1].set(sample_B)
        nothing_BxG = jnp.zeros_like(tokens_BxG)
        return Rollout(
            tokens_BxG, nothing_BxG, nothing_BxG * 0.0, 10 * index_B + sample_B, 2 * index_B
        )


def test_answers_to_one_problem_stand_side_by_side():
    """Rows [N, S] of everything, in the order of the problems."""
    table = evaluation.evaluate(experiment(), Sampler(), Request(samples=3))
    index_Nx1, sample_1xS = np.arange(PROBLEMS)[:, None], np.arange(3)[None]
    assert [[text[:3] for text in row] for row in table.texts] == [
        [f"{number} {sample}" for sample in range(3)] for number in range(PROBLEMS)
    ]
    np.testing.assert_array_equal(table.lengths_NxS, 10 * index_Nx1 + sample_1xS)
    np.testing.assert_array_equal(table.forwards_NxS, 2 * index_Nx1 + 0 * sample_1xS)
    np.testing.assert_array_equal(table.grades.parts["second"], 0 * index_Nx1 + sample_1xS)
    wanted_NxS = np.where(index_Nx1 == 2, 1000, index_Nx1 + sample_1xS)
    np.testing.assert_array_equal(table.grades.reward_N, wanted_NxS)
    np.testing.assert_array_equal(table.grades.judged_N, np.repeat(index_Nx1 != 2, 3, axis=1))
    assert table.grades.points_Nx2.shape == (PROBLEMS, 3, 2)
    np.testing.assert_array_equal(table.grades.points_Nx2[:, 1, 0], np.arange(PROBLEMS))
    assert table.forwards_per_token == 3 * 2 * 15 / (3 * 10 * 15 + 3 * PROBLEMS)


def test_the_last_batch_is_filled_up_and_cut_again():
    """The device always gets a round's rows, so that one compiled sampler serves."""
    sampler = Sampler()
    table = evaluation.evaluate(experiment(), sampler, Request())
    assert [prompts.tokens_BxP.shape for prompts in sampler.asked] == [(ROWS, P)] * 2
    assert sampler.asked[0].index_B.tolist() == [0, 1, 2, 3]
    # the filling is of the same rows, and draws no noise of its own for the first of each
    assert sampler.asked[1].index_B.tolist() == [4, 5, 4, 5]
    assert sampler.asked[1].sample_B.tolist() == [0, 0, 1, 1]
    assert len(table.texts) == PROBLEMS == len(table.lengths_NxS) == len(table.grades.solved_N)
    fewer = evaluation.evaluate(experiment(problems=5), Sampler(), Request(samples=2))
    assert fewer.lengths_NxS.shape == (5, 2) == fewer.grades.reward_N.shape
    more = evaluation.evaluate(experiment(problems=99), Sampler(), Request())
    assert more.lengths_NxS.shape == (PROBLEMS, 1)


def test_a_batch_is_as_wide_as_its_prompts_need():
    chosen, sampler = experiment(), Sampler()
    longest = chosen.heldout.valid[4:].sum(axis=1).max()
    chosen.heldout = dataclasses.replace(chosen.heldout, widths=(longest, P))
    evaluation.evaluate(chosen, sampler, Request())
    assert [prompts.tokens_BxP.shape[1] for prompts in sampler.asked] == [P, longest]


@pytest.mark.parametrize("first", [True, False])
def test_answers_that_are_left_out_are_told_by_the_first_process_alone(first, capsys):
    def fails(records, texts):
        found = grade(records, texts)
        return found._replace(reward_N=found.reward_N * np.nan)

    class Process(Hosts):
        pass

    Process.first = first
    given = experiment(task=TASK._replace(grade=fails))
    given.settings.not_finite, given.hosts = "skip", Process()
    table = evaluation.evaluate(given, Sampler(), Request())
    assert not table.judged
    assert ("answers count as not judged" in capsys.readouterr().out) == first
    with progress.shown(screen := io.StringIO()):  # not beside the live line, which it would tear
        evaluation.evaluate(given, Sampler(), Request())
    assert ("answers count as not judged" in screen.getvalue()) == first
    assert capsys.readouterr().out == ""


def test_what_is_requested_reaches_every_row():
    """A request may shorten an answer, and never beyond its problem's own cap."""
    sampler, chosen = Sampler(), experiment()
    evaluation.evaluate(chosen, sampler, Request(temperature=0.5, threshold=0.75, gen_length=4))
    evaluation.evaluate(chosen, sampler, Request())
    asked, plain = sampler.asked[:2], sampler.asked[2:]
    assert [prompts.temperature_B.tolist() for prompts in asked] == [[0.5] * ROWS] * 2
    assert [prompts.threshold_B.tolist() for prompts in asked] == [[0.75] * ROWS] * 2
    assert asked[0].max_length_B.tolist() == [4, 4, 3, 4]
    assert plain[0].max_length_B.tolist() == [8, 8, 3, 8]
    assert plain[0].temperature_B.tolist() == [0.0] * ROWS
    assert plain[0].threshold_B.tolist() == [math.inf] * ROWS
    np.testing.assert_array_equal(asked[1].tokens_BxP[:2], chosen.heldout.tokens[4:])


@pytest.fixture(scope="module")
def sampled():
    """(an experiment, `sample(prompts)` of a small model, its parameters, the key)."""
    config = tiny()
    chosen = experiment(sampler=SamplerConfig(gen_length=G, block_length=4, steps=4))
    denoiser, params = models.make_denoiser(config), random_params(config)
    run = steps.make_sampler(denoiser, chosen.settings.sampler, chosen.mesh)
    rng = jax.device_put(jax.random.key(7), sharding.replicated(chosen.mesh))
    return chosen, lambda prompts: run(params, {}, prompts, rng), params, rng


def test_every_sample_has_noise_of_its_own(sampled):
    chosen, sample, *_ = sampled
    table = evaluation.evaluate(chosen, sample, Request(temperature=1.0, samples=3))
    assert all(len(set(row)) == 3 for row in table.texts), table.texts
    alone = evaluation.evaluate(chosen, sample, Request(temperature=1.0))
    assert [row[:1] for row in table.texts] == alone.texts
    greedy = evaluation.evaluate(chosen, sample, Request(samples=2))
    assert all(one == other for one, other in greedy.texts)


def test_the_noise_is_that_of_training(sampled):
    """The first sample of a problem is the first completion that a round asks of its prompt; its
    key is the rollout's, folded with the problem and 0."""
    chosen, sample, params, rng = sampled
    table = evaluation.evaluate(chosen, sample, Request(temperature=1.0))
    prompts = prompts_of(chosen.mesh, chosen.heldout[np.array([4, 1])], copies=2, temperature=1.0)
    in_training = [Ids().decode(np.asarray(row)) for row in sample(prompts).tokens_BxG]
    assert in_training[::2] == [table.texts[4][0], table.texts[1][0]]
    assert in_training[1] != in_training[0]

    rollout_fn = sampling.make_rollout_fn(models.make_denoiser(tiny()), chosen.settings.sampler)
    keys = [jax.random.fold_in(jax.random.fold_in(rng, row), 0) for row in range(PROBLEMS)]
    asked = Prompts(
        chosen.heldout.tokens,
        chosen.heldout.valid,
        jnp.ones(PROBLEMS),
        None,
        chosen.heldout.max_length,
    )
    by_hand = rollout_fn(params, asked, jnp.stack(keys))
    assert [[Ids().decode(np.asarray(row))] for row in by_hand.tokens_BxG] == table.texts


def test_answers_without_a_verdict_enter_no_mean():
    """Problem 2 has the reward 1000 and would be solved."""
    table = evaluation.evaluate(experiment(), Sampler(), Request(samples=2))
    judged = [number + sample for number in (0, 1, 3, 4, 5) for sample in range(2)]
    assert table.mean("reward") == pytest.approx(np.mean(judged))
    assert table.mean("solved") == np.mean([reward % 2 == 0 for reward in judged])
    assert table.mean("second") == 0.5
    assert table.grades_of_answer(3, 1) == {"reward": 4.0, "solved": 1.0, "second": 1.0}
    assert table.grades_of_answer(3) == {"reward": 3.0, "solved": 0.0, "second": 0.0}
    assert table.grades_of_answer(2, 1) == {}
    numbers = evaluation.summary("reward", ("second",), table, table)
    assert numbers["pass_at_1"] == numbers["solved"] == table.mean("solved")
    assert numbers["mean_reward"] == numbers["reward"] == table.mean("reward")
    assert numbers["second"] == 0.5


def test_where_nothing_is_judged_there_is_no_mean():
    def unsure(records, texts):
        return grade(records, texts)._replace(judged_N=np.zeros(len(texts), bool))

    chosen = experiment(TASK._replace(grade=unsure))
    table = evaluation.evaluate(chosen, Sampler(), Request())
    assert math.isnan(table.mean("reward")) and math.isnan(table.mean("second"))


def test_the_tasks_score_is_the_mean_reward():
    """The reward, which its weights may change, has its own name."""
    chosen = experiment(TASK._replace(score="second"))
    greedy = evaluation.evaluate(chosen, Sampler(), Request())
    sampled = evaluation.evaluate(chosen, Sampler(), Request(samples=3))
    numbers = evaluation.summary("second", ("second",), greedy, sampled)
    assert numbers == {
        "pass_at_1": greedy.mean("solved"),
        "mean_reward": 1.0,
        "second": 1.0,
        "reward": sampled.mean("reward"),
        "solved": sampled.mean("solved"),
        "judged_problems": PROBLEMS - 1,
        "problems": PROBLEMS,
        "forwards_per_token": greedy.forwards_per_token,
        "looping": greedy.looping,
    }
    line = evaluation.line_of(numbers, "second")
    assert line.startswith(f"held-out pass@1 {greedy.mean('solved'):.1%} (temperature 0) | second")
    said = f"{greedy.forwards_per_token:.2f} forwards a token | 5 judged of 6 problems"
    assert line.endswith(said)
    reward = sampled.mean("reward")
    assert reward != 1 and f"| second 100.0%, reward {reward:.3f} (temperature 1) |" in line
    numbers["reward"] = -2.5
    assert "| reward -2.500 (temperature 1) |" in evaluation.line_of(numbers, "reward")


def test_a_task_without_grade_counts_speed_alone():
    chosen = experiment(TASK._replace(grade=None))
    table = evaluation.evaluate(chosen, Sampler(), Request(samples=2))
    assert table.grades is None and table.grades_of_answer(0) == {}
    assert [len(row) for row in table.texts] == [2] * PROBLEMS
    numbers = evaluation.summary("reward", (), table, table)
    assert set(numbers) == {"problems", "forwards_per_token", "looping"}
    line = evaluation.line_of(numbers, chosen.task.score)
    said = f"{table.forwards_per_token:.2f} forwards a token | 6 problems"
    assert line == f"held-out not judged | {said}"


def test_people_are_shown_the_last_question():
    """Not the prefill of the answer, which is the assistant's."""

    def turns(record):
        last = {"role": "assistant", "content": "It is"}
        return [{"role": "user", "content": "before"}, *ask(record), last]

    assert evaluation.question_of(TASK._replace(messages=turns), RECORDS[3]) == "question 3"
    silent = TASK._replace(messages=lambda record: [{"role": "system", "content": "be brief"}])
    assert evaluation.question_of(silent, RECORDS[3]) == ""


def test_what_repeats_itself_loops():
    texts = [["one and " * 50, "x"], [None, "the same " * 40], ["a b c", "d"]]
    zeros_3x2 = np.zeros((3, 2), int)
    table = evaluation.Table(texts, None, zeros_3x2, zeros_3x2)
    np.testing.assert_array_equal(table.loops_NxS, [[1, 0], [0, 1], [0, 0]])
    assert table.looping == 2 / 5


def test_an_evaluation_says_what_was_judged():
    costs = {"forwards_per_token": 1.5, "problems": 8}
    assert evaluation.line_of(costs, "reward") == (
        "held-out not judged | 1.50 forwards a token | 8 problems"
    )
    far = {"kl": 2.0, "kl_common": 1.0, "teacher_nats": 3.0}
    assert "KL 1.000 nats a token (on its own answers 2.000) | not judged" in evaluation.line_of(
        costs | far, "reward"
    )


def test_requests_are_known_apart():
    """Also those that agree in six digits."""
    sampler = SamplerConfig()
    keys = [
        answers.key_of(sampler, Request(threshold=threshold), 0, 0)
        for threshold in (0.9, 0.9999999, 1.0, math.inf)
    ]
    assert len(set(keys)) == 4 and "threshold=0.9 " in keys[0] and "threshold=1 " in keys[2]
