"""The coding task: the generated problems are sound and apart, a user's file is read strictly."""

import collections
import hashlib
import json
import random

import pytest

from gdsd_jax import tokenizers
from gdsd_jax.tasks import TASKS, coding
from gdsd_jax.tasks.coding import problems as coding_problems
from gdsd_jax.tasks.coding.operations import OPERATIONS


@pytest.fixture(scope="module")
def problems():
    return coding_problems.generate()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    coding.build(path)
    return path


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
    return tuple(step.operation.name for step in coding_problems.parse(spec))


def test_enough_distinct_specifications_operations_and_tests(problems):
    train, heldout = problems["train"], problems["heldout"]
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


def test_heldout_compositions_are_unseen_but_their_operations_are_not(problems):
    train = {names(p.spec) for p in problems["train"]}
    heldout = {names(p.spec) for p in problems["heldout"]}
    assert not train & heldout
    assert {name for chain in heldout for name in chain} <= {
        chain[0] for chain in train if len(chain) == 1
    }


def test_generation_is_the_same_everywhere(problems):
    # Where this fails on purpose, raise coding_problems.VERSION: runs keep their problems by that
    # name.
    text = repr(problems).encode()
    assert (coding_problems.VERSION, hashlib.sha256(text).hexdigest()[:16]) == (
        "1.1.0",
        "40b055e9332dcd5d",
    )


def test_solutions_pass_their_tests(problems):
    for problem in problems["train"] + problems["heldout"]:
        assert passes(problem.solution, problem.tests), problem.spec
        assert coding_problems.program(coding_problems.parse(problem.spec)) == problem.solution


def test_tests_expose_slips(problems):
    # Two steps exchanged may mean the same ("add 2, subtract 3"); every other kind must nearly
    # always be exposed.
    exposed, total = collections.Counter(), collections.Counter()
    for problem in random.Random(0).sample(problems["train"] + problems["heldout"], 300):
        for kind, chains in coding_problems.mutants(coding_problems.parse(problem.spec)).items():
            total[kind] += len(chains)
            exposed[kind] += sum(
                not passes(coding_problems.program(steps), problem.tests) for steps in chains
            )
    share = {kind: exposed[kind] / total[kind] for kind in total}
    assert (
        share["dropped"] == 1
        and share["operation"] > 0.97
        and share["constant"] > 0.95
        and share["order"] > 0.5
    )


@pytest.mark.parametrize("spec", ["nonsense", "add", "add=7", "sum=2"])
def test_parse_refuses_other_text(spec):
    with pytest.raises(ValueError, match=spec):
        coding_problems.parse(spec)


def test_records_are_what_was_generated(data_dir, problems):
    for split, found in problems.items():
        records = coding.records(data_dir, split)
        assert [(r["spec"], r["question"], r["solution"], tuple(r["tests"])) for r in records] == [
            (p.spec, p.question, p.solution, p.tests) for p in found
        ]
    with pytest.raises(ValueError, match="heldout"):
        coding.records(data_dir, "test")


def test_build_is_deterministic_atomic_and_done_once(data_dir, tmp_path, capfd):
    before = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")}
    coding.build(data_dir)
    assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")} == before
    coding.build(tmp_path)
    assert list(tmp_path.iterdir()) == [coding.folder(tmp_path)]  # nothing partial is left
    assert capfd.readouterr() == ("", "")
    again = coding.folder(tmp_path) / "tokenizer.model"
    assert again.read_bytes() == (coding.folder(data_dir) / "tokenizer.model").read_bytes()
    assert coding.records(tmp_path, "heldout") == coding.records(data_dir, "heldout")


def test_failed_build_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(coding_problems, "generate", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        coding.build(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="build"):
        coding.records(tmp_path, "train")
    with pytest.raises(ValueError, match="local"):
        coding.build("gs://bucket/data")


def test_texts_are_short(data_dir):
    tokenizer = tokenizers.load(coding.folder(data_dir))
    for record in coding.records(data_dir, "train") + coding.records(data_dir, "heldout"):
        slips = coding_problems.mutants(coding_problems.parse(record["spec"]))
        programs = [record["solution"]] + [
            coding_problems.program(m) for chains in slips.values() for m in chains
        ]
        assert len(tokenizer.apply_chat(coding.messages(record))) <= 24
        assert max(len(tokenizer.encode(f"```python\n{program}\n```")) for program in programs) < 24


def test_noise_is_reproducible_differs_by_visit_and_has_the_asked_share(data_dir):
    records = coding.records(data_dir, "train")[500:1500]

    def draw(seed):
        return [coding.noisy_completion(r, seed, 0.5) for r in records]

    gold = [coding.completion(r) for r in records]
    first, second = draw("0 1"), draw("0 2")
    assert first == draw("0 1") and first != second
    # by the number of operations that are often mistaken
    wrong = {habits: [] for habits in range(3)}
    for record, text, right in zip(records, first, gold):
        steps = coding_problems.parse(record["spec"])
        wrong[sum(a != b for a, b in zip(steps, coding_problems.habitual_slips(steps)))].append(
            text != right
        )
    for habits in (0, 1):
        expected = 1 - 0.5 * (1 - coding.HABIT) ** habits
        # over 200 rows each: 2.5 sigma
        assert abs(sum(wrong[habits]) / len(wrong[habits]) - expected) < 0.08, habits
    assert [coding.noisy_completion(r, 3, 0) for r in records] == gold
    slips = [coding.noisy_completion(r, 3, 1.0) for r in records]
    fails = [
        not passes(text[len("```python\n") : -len("\n```")], r["tests"])
        for text, r in zip(slips, records)
    ]
    assert sum(fails) / len(fails) > 0.9
    assert all(text.startswith("```python\n") and text.endswith("\n```") for text in slips)


def test_prompts_short_and_full():
    record = {
        "question": "Add.",
        "tests": ["assert f(1) == 2", "assert f(2) == 3"],
        "form": "short",
    }
    assert coding.messages(record) == [{"role": "user", "content": "Add."}]
    system, user = coding.messages(record | {"form": "full"})
    assert system["role"] == "system" and "```python" in system["content"]
    assert user["content"].startswith("Add.\n") and user["content"].endswith("assert f(1) == 2")
    shown = "Add:\n```python\nf(1)\n```"
    assert coding.messages(record | {"form": "full", "question": shown})[1]["content"] == shown


def test_user_file(tmp_path):
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
    first, second = coding.read_jsonl(path)
    assert first["question"] == "One\u2028two?" and first["form"] == "full"
    assert second["tests"] == rows[1]["test_cases"]
    assert (
        coding.completion(second)
        == coding.noisy_completion(second, 0, 0)
        == "```python\ndef f(): return 3\n```"
    )
    with pytest.raises(ValueError, match="no solution"):
        coding.completion(first)
    with pytest.raises(ValueError, match="set it to 0"):
        coding.noisy_completion(second, 0, 0.5)


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
    ],
)
def test_bad_rows_are_named_by_line(tmp_path, row, said):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"question": "q", "test_cases": ["assert f()"]}\n\n' + row + "\n")
    with pytest.raises(ValueError, match=rf"mine\.jsonl:3: {said}") as error:
        coding.read_jsonl(path)
    assert "\n" not in str(error.value)


def test_absent_or_empty_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.jsonl"):
        coding.read_jsonl(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"empty\.jsonl has no rows"):
        coding.read_jsonl(tmp_path / "empty.jsonl")


def test_tasks_are_found_by_name():
    assert TASKS["coding"] is coding
