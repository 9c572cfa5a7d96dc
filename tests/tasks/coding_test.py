"""The coding task: the generated problems are sound and apart, a user's file is read strictly."""

import dataclasses
import hashlib
import json
import random

import pytest

from gdsd_jax import tokenizers
from gdsd_jax.sandbox import SandboxConfig, SandboxError
from gdsd_jax.tasks import TASKS, TaskSettings, coding, graded, parts_of
from gdsd_jax.tasks.coding import answers, behaviour, dataset, problems
from gdsd_jax.tasks.coding.operations import OPERATIONS

SOLVED = "```python\ndef f(x):\n    return x + 1\n```"


@pytest.fixture(scope="module")
def generated():
    return problems.generate()


@pytest.fixture(scope="module")
def built(data_dir):
    dataset.build(data_dir)
    return data_dir


@pytest.fixture
def make():
    """The task of some settings, closed after the test."""
    made = []

    def make(**settings):
        made.append(coding.make(TaskSettings(**settings)))
        return made[-1]

    yield make
    for task in made:
        task.close()


@pytest.fixture
def no_building(monkeypatch):
    def build(data_dir):
        raise AssertionError("nothing is to be built")

    monkeypatch.setattr(dataset, "build", build)


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def passes(program, tests):
    scope = {}
    try:
        exec(program, scope)
        for test in tests:
            exec(test, scope)
    except Exception:
        return False
    return True


def names(spec):
    return tuple(step.operation.name for step in problems.parse(spec))


def test_enough_distinct_specifications_operations_and_tests(generated):
    train, heldout = generated["train"], generated["heldout"]
    assert len(train) + len(heldout) >= 2000 and len(heldout) >= 400
    everything = train + heldout
    assert (
        len({p.question for p in everything})
        == len({p.spec for p in everything})
        == len(everything)
    )
    assert len({name for p in everything for name in names(p.spec)}) == len(OPERATIONS) >= 40
    assert {OPERATIONS[names(p.spec)[0]].takes for p in heldout} == {"int", "str", "list"}
    assert min(len(set(p.tests)) for p in everything) >= 4
    assert all(test.startswith("assert f(") for p in everything for test in p.tests)
    # No constant answer passes.
    assert min(len({test.split(" == ", 1)[1] for test in p.tests}) for p in everything) >= 2


def test_heldout_compositions_are_unseen_but_their_operations_are_not(generated):
    train = {names(p.spec) for p in generated["train"]}
    heldout = {names(p.spec) for p in generated["heldout"]}
    assert not train & heldout
    assert {name for chain in heldout for name in chain} <= {
        chain[0] for chain in train if len(chain) == 1
    }


def test_generation_is_the_same_everywhere(generated):
    # Where this fails on purpose, raise problems.VERSION: runs keep their problems by that name.
    text = repr(generated).encode()
    assert (problems.VERSION, hashlib.sha256(text).hexdigest()[:16]) == (
        "2.0.0",
        "6608096df93fcb11",
    )


def test_solutions_pass_their_tests(generated):
    for problem in generated["train"] + generated["heldout"]:
        assert passes(problem.solution, problem.tests), problem.spec
        assert problems.program(problems.parse(problem.spec)) == problem.solution


@pytest.mark.parametrize("seed", [0, 1])
def test_what_heldout_problems_do_is_not_trained_on(generated, seed):
    behaviours = behaviour.Behaviours(behaviour.inputs(seed))

    def done(split):
        chains = [problems.parse(problem.spec) for problem in generated[split]]
        return {(c[0].operation.takes, behaviours.of(c).tobytes()) for c in chains}

    assert not done("train") & done("heldout")


@pytest.mark.parametrize("seed", [0, 1])
def test_every_slip_that_does_something_else_fails_a_test(generated, seed):
    behaviours = behaviour.Behaviours(behaviour.inputs(seed))
    slips = 0
    for problem in random.Random(seed).sample(generated["train"] + generated["heldout"], 400):
        steps = problems.parse(problem.spec)
        outputs = behaviours.of(steps)
        usable = outputs != behaviour.NONE
        for chains in (*problems.mutants(steps).values(), [problems.habitual_slips(steps)]):
            for other in chains:
                if (behaviours.of(other) != outputs)[usable].any():
                    slips += 1
                    assert not passes(problems.program(other), problem.tests), problem.spec
    assert slips > 2000


def test_behaviours_are_those_of_the_programs():
    behaviours = behaviour.Behaviours(behaviour.inputs())
    assert [len({repr(x) for x in given}) for given in behaviours.inputs.values()] == [1000] * 3
    for spec in ("below append=3", "mirror", "keep_even sum", "square below", "head binary"):
        steps, scope = problems.parse(spec), {}
        exec(problems.program(steps), scope)
        outputs = {}
        for x, number in list(zip(behaviours.inputs_of(steps), behaviours.of(steps)))[:200]:
            if number != behaviour.NONE:
                assert outputs.setdefault(number, scope["f"](x)) == scope["f"](x)
        assert len({repr(y) for y in outputs.values()}) == len(outputs) > 1


def test_groups_are_linked_by_names_and_by_what_is_done():
    chains = [
        problems.parse(spec)
        for spec in ("add=2 subtract=3", "subtract=3 add=2", "subtract=4 add=2", "sum", "sort sum")
    ]
    behaviours = behaviour.Behaviours(behaviour.inputs())
    assert behaviour.groups(chains, behaviours) == {
        "add subtract": "add subtract",
        "subtract add": "add subtract",
        "sum": "sort sum",
        "sort sum": "sort sum",
    }


@pytest.mark.parametrize("spec", ["nonsense", "add", "add=7", "sum=2"])
def test_parse_refuses_other_text(spec):
    with pytest.raises(ValueError, match=spec):
        problems.parse(spec)


def test_records_are_what_was_generated(built, generated):
    for split, found in generated.items():
        records = dataset.records(built, split)
        assert [(r["spec"], r["question"], r["solution"], tuple(r["tests"])) for r in records] == [
            (p.spec, p.question, p.solution, p.tests) for p in found
        ]
        # which the hash of an evaluation's problems knows
        assert {tuple(r) for r in records} == {("question", "tests", "solution", "spec", "misled")}
    with pytest.raises(ValueError, match="heldout"):
        dataset.records(built, "test")


def test_build_is_deterministic_atomic_and_done_once(built, tmp_path, capfd):
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*")}
    dataset.build(built)
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*")} == before
    dataset.build(tmp_path)
    assert list(tmp_path.iterdir()) == [dataset.folder(tmp_path)]  # nothing partial is left
    assert capfd.readouterr() == ("", "")
    again = dataset.folder(tmp_path) / "tokenizer.model"
    assert again.read_bytes() == (dataset.folder(built) / "tokenizer.model").read_bytes()
    assert dataset.records(tmp_path, "heldout") == dataset.records(built, "heldout")


def test_failed_build_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(problems, "generate", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dataset.build(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="build"):
        dataset.records(tmp_path, "train")
    with pytest.raises(ValueError, match="local"):
        dataset.build("gs://bucket/data")


def test_texts_are_short(built):
    tokenizer = tokenizers.load(dataset.folder(built))
    for record in dataset.records(built, "train") + dataset.records(built, "heldout"):
        slips = problems.mutants(problems.parse(record["spec"]))
        programs = [record["solution"]] + [
            problems.program(m) for chains in slips.values() for m in chains
        ]
        assert len(tokenizer.apply_chat(coding.bare_messages(record))) <= 24
        assert max(len(tokenizer.encode(f"```python\n{program}\n```")) for program in programs) < 24


def test_noise_is_reproducible_differs_by_visit_and_has_the_asked_share(built):
    records = dataset.records(built, "train")[500:1500]

    def draw(seed):
        return [answers.noisy_completion(r, seed, 0.5) for r in records]

    gold = [answers.completion(r) for r in records]
    first, second = draw("0 1"), draw("0 2")
    assert first == draw("0 1") and first != second
    # by the number of operations that are often mistaken
    wrong = {habits: [] for habits in range(3)}
    for record, text, right in zip(records, first, gold):
        steps = problems.parse(record["spec"])
        wrong[sum(a != b for a, b in zip(steps, problems.habitual_slips(steps)))].append(
            text != right
        )
    for habits in (0, 1):
        expected = 1 - 0.5 * (1 - answers.HABIT) ** habits
        # over 200 rows each: 2.5 sigma
        assert abs(sum(wrong[habits]) / len(wrong[habits]) - expected) < 0.08, habits
    assert [answers.noisy_completion(r, 3, 0) for r in records] == gold
    slips = [answers.noisy_completion(r, 3, 1.0) for r in records]
    fails = [
        not passes(text[len("```python\n") : -len("\n```")], r["tests"])
        for text, r in zip(slips, records)
    ]
    assert sum(fails) / len(fails) > 0.9
    assert all(text.startswith("```python\n") and text.endswith("\n```") for text in slips)


def test_noisy_answers_are_those_of_earlier_runs(generated):
    # A seeded run learns from these very texts.
    records = [dataclasses.asdict(problem) for problem in generated["train"][:500]]
    texts = [answers.noisy_completion(r, f"7 {i}", 0.4) for i, r in enumerate(records)]
    assert hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16] == "04c85deea25f5189"


def test_prompts_bare_and_full(make, tmp_path, no_building):
    record = {"question": "Add.", "tests": ["assert f(1) == 2", "assert f(2) == 3"]}
    row = {"question": "Add.", "test_cases": record["tests"]}
    path = write(tmp_path / "mine.jsonl", row)
    assert make(data_file=path, prompt="bare").messages(record) == [
        {"role": "user", "content": "Add."}
    ]
    for prompt in ("full", None):
        messages = make(data_file=path, prompt=prompt).messages
        system, user = messages(record)
        assert system["role"] == "system" and "```python" in system["content"]
        assert user["content"].startswith("Add.\n")
        assert user["content"].endswith("assert f(1) == 2")
        shown = "Add:\n```python\nf(1)\n```"
        assert messages(record | {"question": shown})[1]["content"] == shown


def test_a_model_from_nothing_is_asked_bare_and_gets_the_generated_tokenizer(make, built, tmp_path):
    path = write(tmp_path / "mine.jsonl", {"question": "Add.", "test_cases": ["assert f(1) == 2"]})
    task = make(data_file=path, data_dir=str(built), from_nothing=True)
    assert task.messages(task.train[0]) == [{"role": "user", "content": "Add."}]
    assert task.tokenizer == str(dataset.folder(built))
    assert len(make(data_file=path, prompt="full", from_nothing=True).messages(task.train[0])) == 2


def test_the_generated_task(make, built, generated):
    task = make(data_dir=str(built), prompt="full", noise=0.4)
    record, problem = task.train[7], generated["train"][7]
    assert (len(task.train), len(task.heldout)) == (problems.NUM_TRAIN, problems.NUM_HELDOUT)
    assert task.messages(record) == [{"role": "user", "content": problem.question}]
    assert task.tokenizer == str(dataset.folder(built))
    assert tokenizers.load(task.tokenizer).encode("Write f(x) for ")
    assert task.answer(record, None) == f"```python\n{problem.solution}\n```"
    for seed in ("0 1", "0 2"):
        assert task.answer(record, seed) == answers.noisy_completion(record, seed, 0.4)
    assert parts_of(task) == ("format", "tests") and task.score == "tests"
    assert task.cluster(record) == " ".join(names(problem.spec))
    found = graded(task, [record] * 2, [task.answer(record, None), "no program"])
    assert found.reward_N.tolist() == [2, 0] and found.solved_N.tolist() == [True, False]


def test_close_ends_the_sandbox(make, tmp_path):
    path = write(tmp_path / "mine.jsonl", {"question": "Add.", "test_cases": ["assert f(1) == 2"]})
    task = make(data_file=path)
    assert graded(task, task.train, [SOLVED]).solved_N.tolist() == [True]
    task.close()
    with pytest.raises(RuntimeError):
        task.grade(task.train, [SOLVED])


def test_the_sandbox_is_that_of_the_settings(make, tmp_path, monkeypatch):
    path = write(tmp_path / "mine.jsonl", {"question": "Add.", "test_cases": ["assert f(1) == 2"]})
    slow = SOLVED.replace("\n```", "\nimport time\nwhile time.process_time() < 0.5: pass\n```")
    for cpu_s, solved in ((0.2, False), (2.0, True)):
        task = make(data_file=path, sandbox=SandboxConfig(cpu_s=cpu_s))
        assert graded(task, task.train, [slow]).solved_N.tolist() == [solved]
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SandboxError, match="no sandbox works here") as error:
        make(data_file=path)
    assert "\n" not in str(error.value)


def test_own_files_need_no_generated_problems(make, tmp_path, no_building):
    rows = [{"question": f"{i}?", "test_cases": ["assert f(1) == 2"]} for i in range(3)]
    path, heldout = write(tmp_path / "a.jsonl", *rows[:2]), write(tmp_path / "b.jsonl", rows[2])
    task = make(data_file=path)
    assert [record["question"] for record in task.train] == ["0?", "1?"]
    assert task.heldout is None and task.tokenizer is None
    task = make(data_file=path, heldout_file=heldout)
    assert [record["question"] for record in task.heldout] == ["2?"]
    with pytest.raises(ValueError, match="needs a data_file"):
        make(heldout_file=heldout)


def test_columns_of_a_file(make, tmp_path, no_building):
    row = {"instruction": "Add.", "tests": ["assert f(1) == 2"], "question": "another"}
    path = write(tmp_path / "mine.jsonl", row, {"tests": ["assert f(1)"]})
    columns = {"question": "instruction", "test_cases": "tests"}
    with pytest.raises(ValueError, match=r"mine\.jsonl:2: question is missing.*from instruction"):
        make(data_file=path, columns=columns)
    task = make(data_file=write(tmp_path / "mine.jsonl", row), columns=columns)
    assert task.train == [
        {"question": "Add.", "tests": ["assert f(1) == 2"], "solution": "", "spec": ""}
    ]
    with pytest.raises(ValueError, match=r"columns\.prompt: .*question, .*test_cases, .*solution"):
        make(data_file=path, columns={"prompt": "instruction"})


def test_user_file(make, tmp_path, no_building):
    path = tmp_path / "mine.jsonl"
    rows = [
        {"question": "One\u2028two?", "test_cases": ["assert f() == 1"], "id": 7},
        {
            "question": "Three?",
            "test_cases": ["assert f() == 3", "assert g()"],
            "solution": "def f(): return 3",
        },
    ]
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("\ufeff" + text.replace("\n", "\r\n"), encoding="utf-8", newline="")
    first, second = make(data_file=str(path)).train
    assert first["question"] == "One\u2028two?"
    assert second["tests"] == rows[1]["test_cases"]
    gold = "```python\ndef f(): return 3\n```"
    assert answers.completion(second) == answers.noisy_completion(second, 0, 0) == gold
    with pytest.raises(ValueError, match="no solution"):
        answers.completion(first)
    with pytest.raises(ValueError, match="set sft.noise=0"):
        answers.noisy_completion(second, 0, 0.5)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"test_cases": ["assert f()"]}', "question"),
        ('{"question": " ", "test_cases": ["assert f()"]}', "question"),
        ('{"question": "q"}', "test_cases"),
        ('{"question": "q", "test_cases": []}', "test_cases"),
        ('{"question": "q", "test_cases": "assert f()"}', "test_cases"),
        ('{"question": "q", "test_cases": ["assert f()", 3]}', r"test_cases\[1\]"),
        ('{"question": "q", "test_cases": ["assert f("]}', r"test_cases\[0\]"),
        ('{"question": "q", "test_cases": [""]}', r"test_cases\[0\]"),
        ('{"question": "q", "test_cases": ["assert f()"], "solution": 3}', "solution"),
        ('{"question": null, "test_cases": ["assert f()"]}', "question"),
        ('{"question": "q", "test_cases": ["assert f() == \'\\ud800\'"]}', "test_cases: a lone"),
    ],
)
def test_bad_rows_are_named_by_line(tmp_path, row, said):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"question": "q", "test_cases": ["assert f()"]}\n\n' + row + "\n")
    with pytest.raises(ValueError, match=rf"mine\.jsonl:3: {said}") as error:
        coding.make(TaskSettings(data_file=str(path)))
    assert "\n" not in str(error.value)


def test_absent_or_empty_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.jsonl"):
        coding.make(TaskSettings(data_file=str(tmp_path / "none.jsonl")))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"empty\.jsonl has no rows"):
        coding.make(TaskSettings(data_file=str(tmp_path / "empty.jsonl")))


def test_tasks_are_found_by_name():
    assert TASKS["coding"] is coding.make
