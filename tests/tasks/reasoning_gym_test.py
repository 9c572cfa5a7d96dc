"""The task of reasoning-gym: its problems, their split, its scorers in processes, odd answers."""

import importlib.util
import json

import numpy as np
import pytest

from gdsd_jax.tasks import RewardConfig, TaskSettings, graded, parts_of, reasoning_gym
from gdsd_jax.tasks.judges import Judges
from gdsd_jax.tasks.reasoning_gym import JUDGE, OPTIONS, answer, grade, worker
from tests.tasks import texts

installed = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="pip install reasoning-gym"
)
NAMES = ("leg_counting", "countdown", "n_queens", "simple_integration")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("gym"))
    options = OPTIONS(NAMES, size=6, heldout_size=2, workers=1)
    found = reasoning_gym.make(TaskSettings(data_dir=folder, options=options, noise=0.5))
    yield found
    found.close()


def record_of(task, name):
    return next(record for record in task.train if record["dataset"] == name)


def test_without_the_library_one_line_says_the_mend(monkeypatch):
    monkeypatch.setattr(reasoning_gym.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the library reasoning-gym: pip install reas") as e:
        reasoning_gym.make(TaskSettings())
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "given, said",
    [
        ({"dataset": ()}, r"options\.dataset=\(\): name at least one"),
        ({"size": 0}, r"options\.size=0 must lie in"),
        ({"heldout_size": 0}, r"options\.heldout_size=0"),
        ({"seed": -1}, r"options\.seed=-1"),
        ({"workers": 0}, r"options\.workers=0"),
        ({"config": {"seed": "3"}}, r"options\.config\.seed: set options\.seed"),
    ],
)
def test_options_that_cannot_work_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        OPTIONS(**given)


@installed
@pytest.mark.parametrize(
    "options, said",
    [
        (OPTIONS(("chess",)), "options.dataset: no data set 'chess': choose one of ab, acre"),
        (OPTIONS(config={"heads": "3"}), "leg_counting refuses its settings .*heads"),
        (OPTIONS(config={"max_animals": "-3"}), "leg_counting refuses its settings"),
    ],
)
def test_data_sets_that_there_are_not_are_told_in_one_line(tmp_path, options, said):
    with pytest.raises(ValueError, match=said) as error:
        reasoning_gym.make(TaskSettings(data_dir=str(tmp_path), options=options))
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


@installed
def test_files_are_refused():
    with pytest.raises(ValueError, match="leave out data_file"):
        reasoning_gym.make(TaskSettings(data_file="a.jsonl"))


@installed
def test_problems_are_made_once_and_split_by_seed(task, tmp_path, monkeypatch):
    assert (len(task.train), len(task.heldout)) == (24, 8)
    assert [record["dataset"] for record in task.train[:4]] == list(NAMES)
    asked = {record["question"] for record in task.train}
    assert not asked & {record["question"] for record in task.heldout}
    own = OPTIONS(config={"max_animals": "4"}, size=5, heldout_size=2, workers=1)
    settings = TaskSettings(data_dir=str(tmp_path), options=own, from_nothing=True)
    first = reasoning_gym.make(settings)
    monkeypatch.setattr(reasoning_gym, "write", pytest.fail)  # not called again
    again = reasoning_gym.make(settings)
    assert first.train == again.train and len(list(tmp_path.iterdir())) == 1
    assert json.loads(first.train[0]["settings"])["max_animals"] == 4
    (turn,) = first.messages(first.train[0])
    assert turn["content"] == first.train[0]["question"]
    assert [turn["role"] for turn in task.messages(task.train[0])] == ["system", "user"]


@installed
def test_answers_are_right_or_another_problems(task):
    best = [task.answer(record, None) for record in task.train]
    found = graded(task, task.train, best, parts_of(task))
    assert found.solved_N.all() and (found.reward_N == 1).all() and found.judged_N.all()
    drawn = [task.answer(record, "5") for record in task.train]
    assert drawn == [task.answer(record, "5") for record in task.train] != best
    assert 0 < sum(a != b for a, b in zip(drawn, best)) < len(best)
    record = {"question": "q", "answer": "3"}
    assert answer(record, "1", 1.0, ["4"]) == "<answer>4</answer>"


@installed
def test_where_the_answer_stands(task):
    record = record_of(task, "leg_counting")
    right = record["answer"]
    cases = [  # (text, right as mended, right as released, format)
        (f"<answer>{right}</answer>", 1, 1, 1),
        (f"so <answer>7</answer> no, <answer> {right}\n</answer>.", 1, 1, 1),
        (right, 1, 0, 0),
        (f" {right}\n", 1, 0, 0),
        (f"<answer>{right}", None, 0, 0),
        ("<answer></answer>", 0, 0, 1),
        ("", 0, 0, 0),
        ("x" * 20_001, 0, 0, 0),
    ]
    many = [record] * len(cases)
    said = [text for text, *_ in cases]
    mended = graded(task, many, said)
    with Judges(JUDGE, 1) as judges:
        released = grade(many, said, judges, RewardConfig("released"))
    for row, (text, one, other, form) in enumerate(cases):
        assert one is None or mended.solved_N[row] == one, text
        assert (released.solved_N[row], mended.parts["format"][row]) == (other, form), text


HOSTILE = (
    "__import__('os').system('touch PLACE')",
    "open('PLACE', 'w')",
    "exec(chr(111))",
    "exit()",
    "input()",
    "x.__class__",
    "(1).real",
    "lambda: 0",
    "[open, exit]",
    "((((((",
    "1e999999999",
    "\ud800",
    "\x00",
    "[x for x in [1]*10**12]",
)


@installed
@pytest.mark.parametrize("name", NAMES)
def test_answers_that_are_programs_do_nothing(task, name, tmp_path):
    place = tmp_path / "pwned"
    answers = [text.replace("PLACE", str(place)) for text in HOSTILE]
    found = graded(task, [record_of(task, name)] * len(answers), answers)
    assert not place.exists() and found.judged_N.all() and not found.solved_N.any()
    assert ((0 <= found.reward_N) & (found.reward_N < 0.1)).all()


@installed
@pytest.mark.slow
@pytest.mark.parametrize("text", ["9**9**9", "9**9**9**9"])
def test_work_without_bounds_ends_and_others_are_scored_then(task, text):
    for name in ("countdown", "n_queens"):
        record = record_of(task, name)
        found = graded(task, [record, record], [text, record["answer"]])
        assert found.reward_N.tolist() == [0.0, 1.0] and found.judged_N.all()


@installed
def test_a_problem_that_is_another_one_gets_no_verdict(task):
    record = record_of(task, "leg_counting") | {"question": "How many?"}
    found = graded(task, [record], ["3"])
    assert found.judged_N.tolist() == [False] and found.reward_N.tolist() == [0.0]


@pytest.mark.parametrize(
    "name, answer, harmless",
    [
        ("countdown", "(3 + 4) * sqrt(2) / x", True),
        ("simple_integration", "x**2/2 + C*exp(x)", True),
        ("countdown", "os", False),
        ("countdown", "x.y", False),
        ("countdown", "1. + .5", True),
        ("countdown", "'a'", False),
        ("n_queens", "[['_', 'Q']]", True),
        ("n_queens", "f()", False),
        ("n_queens", "_ _ Q _\nQ _ _ _", True),
        ("n_queens", "[valid_solutions[0][0:15:2]]", False),
        ("binary_matrix", "[[0, 1], [1, 0]]", True),
        ("binary_matrix", "0 1\n1 0", True),
        ("binary_matrix", "[[0] * 2, [1, 0]]", False),
        ("binary_matrix", "[oracle_answer[0:9:2]]", False),
        ("spiral_matrix", "4 6 -7 3", True),
        ("spiral_matrix", "(4, 6, 7)", True),
        ("spiral_matrix", "oracle_answer[::2]", False),
        ("string_insertion", "EACADDDDB", True),
        ("string_insertion", "['E', 'A']", True),
        ("string_insertion", "oracle_answer", False),
        ("string_insertion", "entry['answer']", False),
        ("string_insertion", "F'{oracle_answer}'", False),
        ("string_insertion", r"'\'' + oracle_answer + '\''", False),
        (
            "string_insertion",
            "\uff4f\uff52\uff41\uff43\uff4c\uff45\uff3f\uff41",
            False,
        ),  # NFKC: oracle_a
        ("string_insertion", "[" * 20_000, False),
        ("string_insertion", "\x00", False),
        ("leg_counting", "print(3)", True),  # compared, never evaluated
    ],
)
def test_which_answers_scorers_that_evaluate_get(name, answer, harmless):
    assert worker.is_harmless(name, answer) is harmless


GIVEN = {"answer": "False", "metadata": {"numbers": [8, 5, 10, 6]}}


@pytest.mark.parametrize(
    "name, answer, right",
    [
        ("puzzle24", "10*(8 - 5) - 6", True),
        ("puzzle24", "6+6+6+6", False),
        ("puzzle24", "8+5+10+6+1-6", False),
        ("puzzle24", "(8+5+10+6)*(x-x) + (x+x)/x*3", False),
        ("puzzle24", "8**5+10+6", False),
        ("countdown", "94*4 - 61 / (6)", True),
        ("countdown", "-94*-4", True),
        ("countdown", "94*(x-x)+(x+x)/x", False),
        ("countdown", "4**2", False),
        ("countdown", "9//2", False),
        ("countdown", "sqrt(4)", False),
        ("countdown", "2_4", False),
        ("number_sorting", "['-3.5', '1']", True),
        ("number_sorting", "[NaN, NaN]", False),
        ("number_sorting", "['nan']", False),
        ("number_sorting", r"['\u006ean']", False),
        ("complex_arithmetic", "3 - 4i", True),
        ("complex_arithmetic", "n an", False),
        ("game_of_life_halting", " false\n", True),
        ("game_of_life_halting", "True", False),
        ("game_of_life_halting", "maybe", False),
        ("leg_counting", "nan", True),  # compared as text
    ],
)
def test_what_scorers_do_not_look_at_must_be_of_the_question(name, answer, right):
    assert worker.is_to_the_question(name, answer, GIVEN) is right


@pytest.mark.parametrize(
    "answer, right",
    [("0.3125", True), ("5/16", True), ("0.31251", True)]
    + [(said, False) for said in ("0", "0.3", "0.31", "1/0", "nan", "1e9", "about 0.3")],
)
def test_the_begin_of_a_number_is_another_number(answer, right):
    entry = {"answer": "0.3125"}
    assert worker.is_to_the_question("coin_flip", answer, entry) is right


@installed
@pytest.mark.parametrize(
    "name, cheat",
    [
        ("puzzle24", "6+6+6+6"),
        ("complex_arithmetic", "nan"),
        ("coin_flip", "0"),
        ("game_of_life_halting", "maybe"),
        ("string_insertion", "oracle_answer"),
    ],
)
def test_no_answer_is_right_whatever_was_asked(name, cheat):
    settings = json.dumps({"seed": 1, "size": 3})
    for index in range(3):
        entry = worker.entry_of(name, settings, index)
        request = ["score", name, settings, index, entry["question"]]
        assert worker.judge([*request, entry["answer"]]) == 1.0
        assert worker.judge([*request, cheat]) == 0.0


def test_no_answers():
    with Judges(JUDGE, 1) as judges:
        found = grade([], [], judges, RewardConfig())
    assert found.reward_N.shape == (0,) and list(found.parts) == ["correct", "format"]


def bear(task, name, count, seed):
    record = record_of(task, name)
    found = graded(task, [record] * count, list(texts.thrown_together(count, seed)))
    assert ((0 <= found.reward_N) & (found.reward_N <= 1)).all() and found.judged_N.all()


@installed
@pytest.mark.parametrize("name", NAMES)
def test_any_text_is_borne(task, name):
    bear(task, name, 100, seed=0)


@installed
@pytest.mark.slow
def test_very_many_texts_are_borne(task):
    bear(task, "leg_counting", 100_000, seed=2)


@installed
@pytest.mark.slow
def test_ten_thousand_completions_of_256_tokens_take_less_than_ten_seconds(task):
    answers = texts.reasoned(10_000)
    record = record_of(task, "leg_counting")
    assert texts.seconds_of(lambda: graded(task, [record] * 10_000, answers)) < 10


def test_scores_are_numbers_in_0_to_1(monkeypatch):
    class Odd:
        def __init__(self, score):
            self.score = score

        def score_answer(self, answer, entry):
            return self.score

    monkeypatch.setattr(worker, "entry_of", lambda *_: {"question": "q"})
    for score, kept in ((0.3, 0.3), (True, 1.0), (-2, 0.0), (7, 1.0), (np.nan, 0.0)):
        monkeypatch.setattr(worker, "dataset_of", lambda *_, score=score: Odd(score))
        assert worker.judge(["score", "odd", "{}", 0, "q", "x"]) == kept
