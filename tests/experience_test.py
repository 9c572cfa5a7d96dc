"""Between host and device: the rows of a rollout's prompts, the texts that are graded, grades."""

import math

import jax
import numpy as np
import pytest

from gdsd_jax import experience, sharding
from gdsd_jax.hosts import Hosts
from gdsd_jax.tasks import Grades, Task
from gdsd_jax.types import Rollout

INDEX = np.array([3, 5, 3, 6, 3, 7, 8, 9])


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh({"data": 4, "fsdp": 2}, jax.devices())


def rows_of(index, width=6):
    """Rows as `data.Problems` gives them, no two problems alike."""
    tokens = 10 * index[:, None] + np.arange(width)
    return {
        "tokens": tokens.astype(np.int32),
        "valid": np.arange(width) >= index[:, None] % 3,
        "index": index,
        "max_length": (20 + index).astype(np.int32),
    }


def test_every_prompt_comes_as_often_as_asked(mesh):
    """Its copies follow one another, and every array has a row each, split over the mesh."""
    index = np.array([4, 2])
    found = experience.prompts_of(mesh, rows_of(index), 4, temperature=0.5, threshold=0.9)
    wanted = rows_of(np.repeat(index, 4))
    np.testing.assert_array_equal(found.tokens_BxP, wanted["tokens"])
    np.testing.assert_array_equal(found.valid_BxP, wanted["valid"])
    np.testing.assert_array_equal(found.index_B, wanted["index"])
    np.testing.assert_array_equal(found.max_length_B, wanted["max_length"])
    np.testing.assert_array_equal(found.temperature_B, np.full(8, 0.5, np.float32))
    np.testing.assert_array_equal(found.threshold_B, np.full(8, 0.9, np.float32))
    assert found.sample_B.tolist() == [0, 1, 2, 3] * 2
    for leaf in jax.tree.leaves(found):
        assert leaf.sharding.is_equivalent_to(sharding.rows(mesh), leaf.ndim)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(found)} == {"int32", "bool", "float32"}


def test_completions_are_no_longer_than_round_and_problem_allow(mesh):
    index = np.array([1, 30, 2, 40])
    found = experience.prompts_of(mesh, rows_of(index), 2, temperature=0.0, longest=30)
    assert found.max_length_B.tolist() == [21, 21, 30, 30, 22, 22, 30, 30]
    assert found.threshold_B.tolist() == [math.inf] * 8


def test_a_prompt_that_comes_again_gets_noise_of_its_own(mesh):
    """The others keep theirs: completions 0 and 1 of each prompt, as without the repetition."""
    found = experience.prompts_of(mesh, rows_of(INDEX), 2, temperature=1.0)
    index_B, sample_B = np.asarray(found.index_B), np.asarray(found.sample_B)
    pairs = list(zip(index_B.tolist(), sample_B.tolist()))
    assert len(set(pairs)) == 16
    assert pairs[:2] == [(index_B[0], 0), (index_B[0], 1)]
    assert pairs[4:6] == [(index_B[0], 2), (index_B[0], 3)] and pairs[8:10][0][1] == 4
    assert [sample for _, sample in pairs[2:4] + pairs[6:8] + pairs[10:]] == [0, 1] * 5
    later = experience.prompts_of(mesh, rows_of(INDEX), 2, temperature=1.0, first_sample=100)
    np.testing.assert_array_equal(later.sample_B, sample_B + 100)


class Letters:
    """A tokenizer whose ids are characters; an id 0 ends the text."""

    def decode(self, row):
        return "".join(chr(token) for token in row.tolist()).partition("\0")[0]


def ask(record):
    turns = [{"role": "user", "content": record["question"]}]
    if record["begin"]:
        turns.append({"role": "assistant", "content": record["begin"]})
    return turns


RECORDS = [{"question": "a?", "begin": "It is "}, {"question": "b?", "begin": ""}]


def grade(records, texts):
    """The length of a text is its reward; the empty one has no verdict."""
    length_N = np.array([len(text) for text in texts], np.float32)
    return Grades(
        reward_N=length_N,
        solved_N=length_N > 5,
        parts={"long": length_N > 5, "half": length_N / 2},
        judged_N=length_N > 0,
    )


TASK = Task(train=RECORDS, heldout=None, messages=ask, grade=grade)


def test_a_prefill_belongs_to_the_text():
    tokens = np.array([[ord("x"), 0, ord("y")], [ord("z"), ord("w"), 0]])
    assert experience.texts_of(TASK, Letters(), RECORDS, tokens) == ["It is x", "zw"]


def test_grades_come_in_the_order_of_the_answers():
    texts = ["It is x", "zw", ""]
    found = experience.grades_of(Hosts(), TASK, [*RECORDS, RECORDS[1]], texts, ("half", "long"))
    assert list(found.parts) == ["half", "long"]
    assert found.reward_N.tolist() == [7, 2, 0] and found.solved_N.tolist() == [True, False, False]
    assert found.parts["half"].tolist() == [3.5, 1, 0] and found.parts["long"].tolist() == [1, 0, 0]
    assert found.judged_N.tolist() == [True, True, False]
    assert found.points_Nx2.tolist() == [[1, 1], [0, 1], [0, 1]]
    with pytest.raises(ValueError, match="experience_test.py: grade's parts are"):
        experience.grades_of(Hosts(), TASK, RECORDS, texts[:2], ("long",))


class Second(Hosts):
    """The second of two processes; the first has found `others`."""

    def __init__(self, others):
        self.others = others

    def share(self, count):
        return slice(count // 2, count)

    def merge(self, arrays, count):
        assert arrays.keys() == self.others.keys()
        return {name: np.concatenate([self.others[name], arrays[name]]) for name in arrays}


def test_each_process_grades_its_share_alone():
    whole = experience.grades_of(
        Hosts(), TASK, RECORDS * 2, ["a", "", "c" * 6, "d" * 7], ("half", "long")
    )
    firsts = {name: value[:2] for name, value in whole._asdict().items() if name != "parts"}
    firsts |= {f"part {name}": value[:2] for name, value in whole.parts.items()}
    seen = []

    def watched(records, texts):
        seen.append(list(texts))
        return grade(records, texts)

    task = TASK._replace(grade=watched)
    texts = ["unread", "unread", "c" * 6, "d" * 7]
    found = experience.grades_of(Second(firsts), task, RECORDS * 2, texts, ("half", "long"))
    assert seen == [["c" * 6, "d" * 7]]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_another_host_could_not_grade_is_told():
    """Only the first process says lines, also those of another's share."""

    class First(Second):
        def exchange(self, value):
            assert value == []
            return [value, ["of the other's share"]]

    firsts = {"reward_N": np.zeros(2, np.float32), "solved_N": np.zeros(2, bool)}
    firsts |= {"judged_N": np.ones(2, bool), "points_Nx2": np.zeros((2, 2), np.int64)}
    firsts |= {f"part {name}": np.zeros(2, np.float32) for name in ("half", "long")}
    said, given = [], (TASK, RECORDS * 2, ["a", "b", "c", "d"], ("half", "long"))
    experience.grades_of(First(firsts), *given, said.append)
    assert said == ["of the other's share"]
    experience.grades_of(Second(firsts), *given)  # nothing is exchanged where nothing is left out


def test_a_mean_is_over_what_was_judged():
    values = np.array([1.0, 5.0, 3.0], np.float32)
    assert experience.mean_of(values, np.array([True, False, True])) == 2.0
    assert math.isnan(experience.mean_of(values, np.zeros(3, bool)))


def test_variety_of_a_round_by_hand():
    texts = ["a", "a", "b", "c"]  # two groups of two
    tokens = np.zeros((4, 8), np.int32)
    tokens[0] = 7  # five runs of four, one of a kind
    tokens[1] = np.arange(8)
    tokens[2] = [1, 2, 3, 1, 2, 3, 1, 2]  # runs from 1, 2, 3, and again from 1 and 2
    lengths, rewards, judged = np.array([8, 8, 8, 3]), np.array([1, 1, 0, 2]), np.ones(4, bool)
    found = experience.variety_of(texts, tokens, lengths, rewards, judged, 2)
    assert found == {
        "distinct": pytest.approx((0.5 + 1.0) / 2),
        "flat_groups": 0.5,
        "reward_std": pytest.approx((0.0 + 1.0) / 2),
        "repetition": pytest.approx((4 / 5 + 0 + 2 / 5 + 0) / 4),
    }


def test_rewards_without_a_verdict_make_no_group_flat_or_varied():
    """Groups: two equal verdicts beside a placeholder, two that differ, one verdict alone."""
    rewards = np.array([1.0, 1.0, 0.0, 0.0, 0.0, 2.0, 3.0, 0.0, 0.0])
    judged = np.array([1, 1, 0, 1, 0, 1, 1, 0, 0], bool)

    def numbers(judged):
        found = experience.variety_of(
            ["a"] * 9, np.zeros((9, 1)), np.ones(9, int), rewards, judged, 3
        )
        return found["flat_groups"], found["reward_std"]

    assert numbers(judged) == (0.5, 0.5)
    assert numbers(np.ones(9, bool))[0] == 0.0
    assert all(map(math.isnan, numbers(np.zeros(9, bool))))


def test_completions_without_an_end_token_are_counted():
    tokens = np.array([[5, 2, 0], [5, 6, 7], [3, 0, 0], [0, 0, 0]])
    lengths = np.array([2, 3, 1, 0])
    assert experience.truncated(tokens, lengths, (2, 3)) == 0.5
    assert experience.truncated(tokens, lengths, ()) == 1.0


@pytest.mark.parametrize("goes_on", [False, True])
def test_an_answers_length_is_through_its_end(mesh, goes_on):
    """Also where the sampler wrote on: each row counts as far as its first stop id."""
    length_B = np.array([3, 5, 1, 6, 6, 2, 6, 4])
    tokens_BxG = np.full((8, 6), 7)
    tokens_BxG[np.arange(8), length_B - 1] = np.where(length_B == 6, 7, 2)  # some have no end
    tokens_BxG[np.arange(6) >= length_B[:, None]] = 2 if goes_on else 1
    told_B = np.full(8, 6) if goes_on else length_B
    fields = {"tokens_BxG": tokens_BxG, "length_B": told_B}
    arrays = sharding.global_rows(mesh, {name: np.int32(x) for name, x in fields.items()})
    rest = dict.fromkeys(("step_map_BxG", "logp_BxG", "passes_B"))
    found = experience.answers_in(mesh, Rollout(**arrays, **rest), (1, 2) if goes_on else (2,))
    np.testing.assert_array_equal(found[0], tokens_BxG)
    np.testing.assert_array_equal(found[1], length_B)


def test_text_behind_the_end_is_not_looked_at():
    row = np.array([1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0])
    assert experience.repetition_of(row[:5]) == 0.0 < experience.repetition_of(row)
    assert experience.repetition_of(row[:0]) == 0.0
