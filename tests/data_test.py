"""Loading: the cursor restores exactly, nothing is dropped in silence."""

import json

import numpy as np
import pytest

from gdsd_jax import data, tokenizers
from gdsd_jax.tasks import Task


def messages(record):
    return [{"role": "user", "content": record["question"]}]


def answer(record, seed):
    return record["solution"] + ("" if seed is None else seed)


def task_of(answer):
    return Task(train=RECORDS, heldout=None, messages=messages, grade=None, answer=answer)


RECORDS = [{"question": "add " + "1" * (i % 5 + 1), "solution": f"x{i}"} for i in range(23)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sp")
    texts = [record["question"] + record["solution"] for record in RECORDS]
    tokenizers.train_sentencepiece(texts, folder / "tokenizer.model", 276)
    return tokenizers.load(folder)


@pytest.fixture(scope="module")
def problems(tokenizer):
    return data.problems_of(task_of(answer), RECORDS, tokenizer, 12, 16)


def problems_with(lengths, columns):
    """Problems whose prompts have so many tokens, which are numbered from the last one on."""
    column_P = columns - np.arange(columns)
    valid = column_P[None, :] <= np.array(lengths)[:, None]
    tokens = np.where(valid, column_P[None, :], 0).astype(np.int32)
    return data.Problems([], tokens, valid, np.arange(len(lengths)), np.full(len(lengths), 9))


def test_widths_are_few_and_hold_every_prompt():
    problems = problems_with(range(1, 101), columns=100)
    assert data.widths_of(problems, 8, multiple=0) == ()
    # a third of all rounds of one prompt have at most 34 tokens, and of 8 prompts 88
    assert data.widths_of(problems, 1, multiple=8) == (40, 72, 100)
    assert data.widths_of(problems, 8, multiple=4) == (88, 96, 100)
    assert data.widths_of(problems, 8, multiple=64) == (100,)
    # held-out prompts may be as long as any
    assert data.widths_of(problems_with([3, 5, 20], 64), 2, multiple=8) == (8, 24, 64)
    assert data.widths_of(problems_with([0], 64), 2, multiple=8) == (8, 64)


def test_a_round_is_as_wide_as_its_longest_prompt_needs():
    problems = problems_with([3, 8, 9, 1], columns=12)
    assert problems.part(slice(2)).widths == () == problems.widths
    for rows, width in (([0, 3], 4), ([0, 1], 8), ([2, 1], 12)):
        whole = problems[np.array(rows)]
        found = data.narrowed(whole, (4, 8, 12))
        assert found["tokens"].shape == found["valid"].shape == (2, width)
        np.testing.assert_array_equal(found["valid"].sum(axis=1), whole["valid"].sum(axis=1))
        np.testing.assert_array_equal(found["tokens"], whole["tokens"][:, -width:])
        assert found["index"].tolist() == rows
        assert data.narrowed(whole, ())["tokens"].shape == (2, 12)


def take(loader, count):
    return [next(loader) for _ in range(count)]


def same(a, b):
    return len(a) == len(b) and all(
        x.keys() == y.keys() and all(np.array_equal(x[name], y[name]) for name in x)
        for x, y in zip(a, b)
    )


def test_orders_of_neighbouring_seeds_are_independent():
    """No pass of one seed is a pass of another, and ranks do not go together."""
    size, passes = 200, 3
    orders = []
    for seed in (0, 1, 2):
        loader = data.make_loader(
            [{"row": np.int64(i)} for i in range(size)], batch=size, seed=seed
        )
        orders += [next(loader)["row"] for _ in range(passes)]
    ranks = np.corrcoef(np.asarray(orders))  # of permutations: Spearman's
    off = np.abs(ranks[~np.eye(len(orders), dtype=bool)])
    assert off.max() < 5 / size**0.5  # five standard deviations


def test_batches_have_fixed_shapes_and_every_epoch_sees_each_problem_once(problems):
    batches = take(data.make_loader(problems, batch=4, seed=0), 23)
    for batch in batches:
        assert batch["tokens"].shape == batch["valid"].shape == (4, 12) and batch[
            "index"
        ].shape == (4,)
        assert (batch["tokens"].dtype, batch["valid"].dtype, batch["index"].dtype) == (
            np.int32,
            bool,
            np.int64,
        )
        assert np.array_equal(batch["tokens"], problems.tokens[batch["index"]])
    visits = np.concatenate([batch["index"] for batch in batches])
    epochs = visits.reshape(4, 23)
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4  # each epoch in another order
    assert not np.array_equal(
        visits[:4], take(data.make_loader(problems, batch=4, seed=1), 1)[0]["index"]
    )


@pytest.mark.parametrize("count", [1, 3])
def test_a_batch_may_be_one_row(count):
    loader = data.make_loader([{"row": i} for i in range(count)], batch=1, seed=0)
    rows = [batch["row"].tolist() for batch in take(loader, 2 * count)]
    assert sorted(rows[:count]) == sorted(rows[count:]) == [[i] for i in range(count)]


@pytest.mark.parametrize("taken", [0, 1, 9])
def test_cursor_restores_exactly_in_a_new_loader(problems, tokenizer, taken):
    answers = data.answers_of(task_of(answer), problems, tokenizer, 16, seed=3)

    def make():
        return data.make_loader(problems, answers, batch=4, seed=0)

    loader = make()
    take(loader, taken)
    state = json.loads(json.dumps(loader.get_state()))
    expected = take(loader, 8)
    again = make()
    again.set_state(state)
    assert same(take(again, 8), expected)
    take(again, 3)
    again.set_state(state)  # also backwards, as after a fault
    assert same(take(again, 8), expected)


EACH = [str(number) for number in range(len(RECORDS))]  # a problem of its own


def test_problems_are_held_out_by_a_seed_of_their_own():
    """A share of them, in their order, no record on both sides; few records leave one on each."""
    train, heldout = data.split_records(RECORDS, EACH, 0.25, 0)
    assert len(heldout) == 6 and len(train) == 17
    for part in (train, heldout):
        places = [RECORDS.index(record) for record in part]
        assert places == sorted(places)
    assert sorted(map(str, train + heldout)) == sorted(map(str, RECORDS))
    assert data.split_records(RECORDS, EACH, 0.25, 0)[1] == heldout
    assert data.split_records(RECORDS, EACH, 0.25, 1)[1] != heldout
    assert [len(part) for part in data.split_records(RECORDS[:2], EACH[:2], 0.01, 0)] == [1, 1]
    assert [len(part) for part in data.split_records(RECORDS[:2], EACH[:2], 0.99, 0)] == [1, 1]


def test_files_are_mixed_by_their_problems():
    """A sorted file's first records are then of all kinds; records of a problem stay together and
    in their order, and another seed gives another order."""
    records = list(range(60))
    problems = [str(record // 2) for record in records]
    found = data.mixed(records, problems, 0)
    assert sorted(found) == records != found == data.mixed(records, problems, 0)
    assert all(one % 2 == 0 and other == one + 1 for one, other in zip(found[::2], found[1::2]))
    assert data.mixed(records, problems, 1) != found
    assert np.mean(found[:20]) == pytest.approx(29.5, abs=12)


def test_halves_share_no_problem():
    """However its records lie; of different problems every second one, as they come."""
    task = Task([], None, lambda record: [{"role": "user", "content": record}], None)
    records = list("ddbbccea")
    assert data.half_of(task, records, "development") == list("ddcca")
    assert data.half_of(task, records, "test") == list("bbe")
    assert data.half_of(task, records, None) is records
    with pytest.raises(ValueError, match="heldout_half=test: of 2 held-out problems none is left"):
        data.half_of(task, ["a", "a"], "test")


def test_halves_share_no_cluster():
    """Of clusters every second one by its name; what has none is one by what it asks."""
    task = Task([], None, lambda record: [{"role": "user", "content": record}], None)
    task = task._replace(cluster=lambda record: record[1:] or None)
    records = ["1dd", "2aa", "3aa", "4dd", "b", "5cc"]
    assert data.half_of(task, records, "development") == ["b", "5cc"]
    assert data.half_of(task, records, "test") == ["1dd", "2aa", "3aa", "4dd"]


def test_each_visit_draws_another_answer(problems, tokenizer):
    answers = data.answers_of(task_of(answer), problems, tokenizer, 16, seed=3)
    batches = take(data.make_loader(problems, answers, batch=23, seed=0), 2)
    texts = [
        {int(i): tokenizer.decode(row) for i, row in zip(b["index"], b["completion"])}
        for b in batches
    ]
    assert texts[0].keys() == texts[1].keys() and all(texts[0][i] != texts[1][i] for i in texts[0])
    # the seed and the place in the stream
    assert texts[0][int(batches[0]["index"][2])].endswith("3 2")
    for batch in batches:
        assert batch["completion"].shape == (23, 16) and batch["completion"].dtype == np.int32
        stops = (batch["completion"] == tokenizer.stop_ids[0]).argmax(axis=1)
        assert (
            np.array_equal(batch["completion_len"], stops + 1)
            and batch["completion_len"].dtype == np.int32
        )


def test_best_answers_must_fit_and_take_the_place_of_longer_ones(problems, tokenizer):
    answers = data.answers_of(task_of(answer), problems, tokenizer, 2, seed=0)
    with pytest.raises(ValueError, match="completion 0"):
        next(data.make_loader(problems, answers, batch=4, seed=0))
    answers = data.answers_of(task_of(answer), problems, tokenizer, 5, seed=123456789)
    batch = next(data.make_loader(problems, answers, batch=4, seed=0))
    assert [tokenizer.decode(row) for row in batch["completion"]] == [
        f"x{i}" for i in batch["index"]
    ]


def test_answers_that_do_not_fit_are_left_out_and_no_more_are_read_than_asked_for(
    problems, tokenizer
):
    read, lines = [], []

    def long_at_first(record, seed):
        number = int(record["solution"][1:])
        read.append(number)
        return "x" if number >= 3 else "x1" * 20

    task = task_of(long_at_first)
    found = data.fitting(task, problems, tokenizer, 16, lines.append)
    assert found.index.tolist() == list(range(3, 23)) and read == list(range(23))
    (line,) = lines
    assert line.startswith("3 of 23 answers have more than 16 tokens")
    read.clear()
    first = data.fitting(task, problems, tokenizer, 16, lines.append, most=4)
    assert first.index.tolist() == [3, 4, 5, 6] and read == list(range(7)) and len(lines) == 1
    assert data.fitting(task, found, tokenizer, 16, lines.append) is found
    # what is read for training: one answer a visit
    read.clear()
    next(data.make_loader(found, data.answers_of(task, found, tokenizer, 16, 0), batch=4, seed=0))
    assert len(read) == 4
    with pytest.raises(ValueError, match="no answer has 1 tokens or fewer"):
        data.fitting(task, problems, tokenizer, 1, most=4)


def test_a_task_without_answers_says_so(problems, tokenizer):
    with pytest.raises(ValueError, match="set sft.steps=0"):
        data.fitting(task_of(None), problems, tokenizer, 16)


def test_long_prompts_are_reported_once(tokenizer):
    lines = []

    def problems_of(length, too_long="error"):
        return data.problems_of(
            task_of(None), RECORDS, tokenizer, length, 16, too_long=too_long, report=lines.append
        )

    with pytest.raises(ValueError, match="prompt"):
        problems_of(6)
    dropped, cut = problems_of(6, "drop"), problems_of(6, "cut")
    missing = len(RECORDS) - len(dropped)
    said = f"{missing} of 23 prompts have more than 6 tokens and were "
    assert lines == [f"{said}dropped", f"{said}cut at the front"]
    assert 0 < len(dropped) < len(cut) == 23
    # Dropping must not shift the records that rows point to.
    batch = next(data.make_loader(dropped, batch=4, seed=0))
    for row, index in zip(batch["tokens"], batch["index"]):
        ids = tokenizer.apply_chat(messages(RECORDS[index]))
        assert row[-len(ids) :].tolist() == ids
    with pytest.raises(ValueError, match="raise prompt_length"):
        problems_of(1, "drop")


def test_a_domain_may_have_a_shorter_limit(tokenizer):
    """Records of other domains, or of none, may fill the width; no limit goes beyond it."""
    domains = ["math", "chat", "code", None]
    records = [
        {"question": "add 1"} | ({} if domain is None else {"domain": domain}) for domain in domains
    ]
    found = data.problems_of(
        task_of(None), records, tokenizer, 12, 16, max_lengths={"math": 8, "code": 4096}
    )
    assert found.max_length.tolist() == [8, 16, 16, 16] and found.max_length.dtype == np.int32
    batch = next(data.make_loader(found, batch=4, seed=0))
    assert batch["max_length"].tolist() == [8 if i == 0 else 16 for i in batch["index"]]


@pytest.mark.parametrize(
    "steps, share, sizes",
    [(0, 0.5, (23, 23)), (9, 1.0, (23, 23)), (9, 0.5, (12, 11)), (9, 0.01, (1, 22))],
)
def test_the_supervised_phase_has_problems_of_its_own(problems, steps, share, sizes):
    """A share of them, and the rounds the others; without the phase, or where it takes all of them,
    the rounds have all."""
    first, others = data.split_sft(problems, steps, share)
    assert (len(first), len(others)) == sizes
    together = [*first.index, *others.index]
    assert sorted(set(together)) == list(range(23))
    assert sizes == (23, 23) or len(set(together)) == len(together)
    row = others[0]
    assert np.array_equal(row["tokens"], problems.tokens[row["index"]])
    assert others.records is problems.records


def test_a_single_problem_serves_both_phases():
    row = np.zeros(1, int)
    one = data.Problems([{"question": "q"}], row[None], row[None] == 0, row, row + 9)
    for part in data.split_sft(one, 5, 0.5):
        assert part.index.tolist() == [0]
