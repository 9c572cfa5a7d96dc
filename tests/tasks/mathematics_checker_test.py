"""Answers of mathematics that take algebra: verdicts, and the processes that find them."""

import json
import os
import signal
import threading
import time

import pytest

from gdsd_jax.tasks import RewardConfig, TaskSettings
from gdsd_jax.tasks.judges import JudgesError
from gdsd_jax.tasks.mathematics import checker, competition, grading
from gdsd_jax.tasks.mathematics.checker import Checker
from tests.tasks.mathematics_numbers_test import entries


def equal(gold, answer, by):
    return by.equal([(gold, answer)])[0]


# ---------------------------------------------------------------- formulas


@pytest.mark.parametrize(
    "gold, answer, right",
    [
        ("3r^2", "3R^2", False),
        ("2\\pi", "2\\pi.", True),
        ("x+1", "x+1.", True),
        ("(3,5)", "(3,5).", True),
        ("3r^2", "3r\u00b2", True),
        ("2\\sqrt{3}", "2\u221a3", True),
        ("1080", "1.08 \u00d7 10\u00b3", True),
        ("3r^2", "3r^{2}", True),
        ("\\pi r^2", "r^2\\pi", True),
        ("E=mc^2", "E = mc^2", True),
        ("2ab", "2Ab", False),
        ("10", "10_2", False),
        ("10_2", "10", False),
        ("10_2", "10_{2}", True),
        ("10_2", "10_3", False),
        ("3,4", "4, 3", True),
        ("3,4", "\\{3,4\\}", True),
        ("\\{3, 4\\}", "4,3", True),
        ("3,4", "(3,4)", False),
        ("(3,4)", "3,4", False),
        ("(3,4)", "(3, 4)", True),
        ("(3,4)", "\\left(3,4\\right)", True),
        ("(3,4)", "[3,4]", False),
        ("[3,4)", "(3,4]", False),
        ("(3,4)", "(x,y) = (3,4)", True),
        ("(3,4)", "(4,3)", False),
        ("(1,2),(3,4)", "(1,2), (3,4)", True),
        ("x^{10}", "x**10", True),
        ("x^{10}", "x**1", False),
        ("2^n", "2**n", True),
        ("64", "4**3", True),
        ("64", "4**2", False),
        ("\\sqrt{2}", "\\sqrt2", True),
        ("\\sqrt{2}", "\\sqrt{2} \\approx 1.414", True),
        ("\\sqrt{2}", "1.414", False),
        ("\\sqrt{2}", "\\approx \\sqrt{2}", False),
        ("5", "5 g", True),
        ("\\frac{\\pi}{4}", "\\frac\\pi4", True),
        ("\\frac{\\pi}{4}", "pi/4", True),
        ("\\frac{\\pi}{4}", "\\frac\\pi5", False),
        ("\\frac{\\pi}{4}", "4/pi", False),
        ("\\frac{\\sqrt{3}}{2}", "\\frac{\\sqrt3}2", True),
        ("\\frac{1+\\sqrt{5}}{2}", "(1+sqrt(5))/2", True),
        ("\\frac{1+\\sqrt{5}}{2}", "1+sqrt(5)/2", False),
        ("\\text{(C)}", "C)", True),
        ("\\text{(C)}", "Option C", True),
        ("\\text{(C)}", "The answer is (C).", True),
        ("\\text{(C)}", "Option D", False),
        ("\\text{(C)}", "C or D", False),
        ("\\text{(C)}", "not C", False),
        ("\\text{(C)}", "Option C is wrong", False),
        ("\\sqrt{2}", "2^{0.5}", True),
        ("\\sqrt{2}", "2^(1/2)", True),
        ("\\sqrt{x}", "x^{0.5}", True),
        ("\\sqrt{2}", "2^{0.25}", False),
        ("\\sqrt{2}", "1.41421356", False),
        ("\\sqrt{2}", "wrong: \\sqrt{2}", False),
        ("\\sqrt{2}", "twice \\sqrt{2}", False),
        ("11\\sqrt{2}", "11√2", True),
        ("11\\sqrt{2}", "11sqrt2", True),
        ("11\\sqrt{2}", "11sqrt3", False),
        ("2\\sqrt{3}", "2√(3)", True),
        ("2\\sqrt{3}", "3√2", False),
        ("(-\\infty,3)", "(-∞,3)", True),
        ("(-\\infty,3)", "(-inf, 3)", True),
        ("(-\\infty,3)", "(-∞,3]", False),
        ("(-\\infty,3)", "(∞,3)", False),
        ("(-\\infty,2)\\cup(3,\\infty)", "(-∞, 2) ∪ (3, ∞)", True),
        ("256", "4⁴", True),
        ("\\sqrt{25}", "5 g", True),
        ("\\sqrt{26}", "5 g", False),
        ("\\frac{1+\\sqrt{2}}{3}", "12 apples", False),
        ("256", "4⁵", False),
        ("7", "2x = 7", True),  # where 2x is asked for
    ],
)
def test_formulas_are_told_apart(gold, answer, right, shared):
    """Also where math-verify takes unlike for equal: letters in another case, bases, brackets."""
    assert equal(gold, answer, shared) is right
    record, text = {"answer": gold}, f"\\boxed{{{answer}}}"
    found = grading.grade([record], [text], RewardConfig(), shared, competition.KIND.rule)
    assert found.solved_N[0] == right


@pytest.mark.parametrize(
    "gold, answer, right",
    [
        ("\\frac{\\sqrt{3}}{2}", "\\frac{3}{2\\sqrt{3}}", True),
        ("11\\sqrt2", "11\\sqrt{2}", True),
        ("2k+2", "2(k + 1)", True),
        ("(3, \\frac{\\pi}{2})", "\\left(3,\\pi/2\\right)", True),
        ("3, 5, 7", "3, 7, 5", True),
        ("x = 5", "5", True),
        ("\\text{Evelyn}", "Evelyn", True),
        ("\\text{(C)}", "C", True),
        ("(-\\infty, 2) \\cup (3, \\infty)", "(-\\infty,2)\\cup(3,\\infty)", True),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", True),
        ("90^\\circ", "90", True),
        ("\\frac{1}{8}", "\\frac{3}{24}", True),
        ("(2,5)", "[2,5]", False),
        ("x=5", "y=5", False),
        ("2k", "k", False),
        ("\\text{Evelyn}", "Navin", False),
        ("x", "X", False),
        ("C", "D", False),
        ("\\pi", "3.14", False),
        ("\\sqrt{53}", "53", False),
        ("(3, 4)", "(4, 3)", False),
        ("p - q", "q - p", False),
        ("\\frac{1}{2}", "\\frac{1}{2", False),
    ],
)
def test_formulas(gold, answer, right, shared):
    assert equal(gold, answer, shared) is right


WITH_UNITS = r"""
36\pi \text{ cm}^3 | 36\pi \, \text{cm}^{3} | 36\pi \mbox{ cm}^2 | 36\pi \mathrm{cm}^3 | 36\pi cm³
36\pi \textrm{ in}^2 | 36\pi \text{ units}^{ 2 } | 36\pi \text{ m/s}^2 | 36\pi \text{ cm}^3.
36\pi \text{m}/\text{s}^2 | 36\pi \text{ s}^{-1} | 36\pi \text{ cm}^{\text{3}} | 36\pi cm^3
36\pi \text{ cm}^3 \text{ of water} | 36\pi\ cm^{3} | 36\pi m^2 | 36\pi units^2 | 36π ft²
36\pi \text{ cm^3} | 36\pi \mathrm{cm^3} | 36\pi \text{cm}³"""
OTHERS = r"""
36\pi \text{ cm}^3 + 2 | 36\pi \text{ cm} 3 | 36\pi \text{ cm}^{12} | 36\pi \text{ cm}^3 \times 2
36\pi\text{r}^2 | 36\pi\mathrm{e}^3 | 36\pi r^2 | 36\pi at^2 | 36\pi x cm^2 | 35\pi \text{ cm}^3
36\pi \text{ cm}^3 \text{ and } 4 \text{ cm} | 35\pi cm^3"""


@pytest.mark.parametrize("answer", entries(WITH_UNITS))
def test_units_with_powers_say_nothing_to_a_formula(answer, shared):
    assert equal(r"36\pi", answer, shared) is True


@pytest.mark.parametrize("answer", entries(OTHERS))
def test_powers_that_are_no_unit_s_do(answer, shared):
    assert equal(r"36\pi", answer, shared) is False


@pytest.mark.parametrize(
    "gold, answer, right",
    [
        (r"5\sqrt{2}", r"5\sqrt{2} \text{ cm}^2", True),
        (r"5\sqrt{2}", r"5\sqrt{2} km²", True),
        (r"5\sqrt{2}", r"5\sqrt{3} \text{ cm}^2", False),
        (r"5\sqrt{2}", r"5\sqrt{2} \text{ cm}^2 \text{ or } 3", False),
        (r"\frac{5\sqrt{2}}{3}", r"\frac{5\sqrt{2}}{3} \text{ m}^2", True),
        (r"\frac{5\sqrt{2}}{3}", r"\frac{5\sqrt{2}}{3} \text{ m}^2 \cdot 2", False),
        ("16x", r"16x \text{ cm}^2", True),
        ("16x", "16x cm^2", True),
        ("16x", r"16x^2 \text{ cm}^2", False),
        ("16m^2", "16m^3", False),
        ("60", r"12 \text{ cm} \times 5 \text{ cm}", False),
        ("12", r"12 \text{ cm}^2 \times 5 \text{ cm}", False),
        ("2", r"2\text{x}^2", False),
    ],
)
def test_powers_of_units_and_others(gold, answer, right, shared):
    assert equal(gold, answer, shared) is right


def test_each_pair_is_asked_once_and_verdicts_keep_their_order(shared, monkeypatch):
    asked = []

    def ask(pair):
        asked.append(pair)
        return len(pair[1]) == 7

    monkeypatch.setattr(shared, "_ask", ask)
    pairs = [("x", "x+y+z+1"), ("1", "1.0"), ("x", "x+y"), ("x", "x+y+z+1")] * 3
    assert shared.equal(pairs) == [True, True, False, True] * 3
    assert sorted(asked) == [("x", "x+y"), ("x", "x+y+z+1")]


# ---------------------------------------------------------------- the processes


def process_of(one):
    return one._workers[0]._process


def test_what_takes_too_long_is_wrong_and_the_process_lives_on():
    with Checker(1, limit_s=0.3) as one:
        assert equal("\\sin 2k", "\\sin(k + k)", one) is True
        first = process_of(one).pid
        assert equal("5", "99999999! - 99999998!", one) is False
        assert equal("\\sin 2k", "\\sin(3k - k)", one) is True
        assert process_of(one).pid == first


@pytest.mark.parametrize(
    "answer",
    ["99**99**99999", "10^{10^{10}}", "(2^{99999999}, 3)", "2^9999999999 - 1", "2⁹⁹⁹⁹⁹⁹⁹⁹⁹"],
)
def test_a_vast_number_is_wrong_at_once_unless_it_is_the_gold_text(answer):
    with Checker(1) as one:
        assert equal("\\sqrt{5}", answer, one) is False
        assert equal(answer, "\\sqrt{5}", one) is False
        assert equal(answer, answer, one) is True
        assert process_of(one) is None


def test_a_killed_process_is_started_again():
    with Checker(1) as one:
        assert equal("\\sin 2k", "\\sin(k + k)", one) is True
        first = process_of(one)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert equal("\\sin 2k", "\\sin(3k - k)", one) is True
        assert process_of(one).pid != first.pid


def test_a_silent_process_is_replaced_and_the_answer_is_not_judged():
    """A stopped process answers nothing; so does the second one."""
    with Checker(1, wall_s=1.0) as one:
        assert equal("\\sin 2k", "\\sin(k + k)", one) is True
        stopped = []

        def stop():
            while len(stopped) < 2 and not done.is_set():
                process = process_of(one)
                if process is not None and process.pid not in stopped and warm(process.pid):
                    os.kill(process.pid, signal.SIGSTOP)
                    stopped.append(process.pid)
                time.sleep(0.01)

        done = threading.Event()
        thread = threading.Thread(target=stop)
        thread.start()
        while not stopped:
            time.sleep(0.01)
        found = grading.grade(
            [{"answer": "\\sin 2k"}],
            ["\\boxed{\\sin(k + 7k - 6k)}"],
            RewardConfig(),
            one,
            grading.MATH,
        )
        done.set()
        thread.join()
        assert len(stopped) == 2
        assert found.judged_N.tolist() == [False] and found.solved_N.tolist() == [False]
        assert equal("\\sin 2k", "\\sin(5k - 3k)", one) is True
    for pid in stopped:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def warm(pid):
    """Whether a process has loaded what it needs: its errors go nowhere then."""
    try:
        return os.readlink(f"/proc/{pid}/fd/2") == os.devnull
    except OSError:
        return False


def test_closing_ends_the_processes_also_while_they_work():
    one = Checker(1, limit_s=60.0)
    assert equal("\\sin 2k", "\\sin(k + k)", one) is True
    process = process_of(one)
    found = []
    thread = threading.Thread(target=lambda: found.append(equal("5", "99999999! - 99999998!", one)))
    thread.start()
    time.sleep(0.3)
    one.close()
    thread.join(20)
    assert not thread.is_alive() and found == [None] and process.poll() is not None
    one.close()


def test_without_the_library_one_line_says_the_mend(tmp_path, monkeypatch):
    with Checker(1) as one:
        one._workers[0]._command = [*one._workers[0]._command[:1], "-c", "import math_verity"]
        with pytest.raises(JudgesError, match="math_verity.*pip install 'math-verify") as e:
            equal("\\sin 2k", "\\sin(k + k)", one)
        assert "\n" not in str(e.value)
    monkeypatch.setattr(checker.importlib.util, "find_spec", lambda name: None)
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"problem": "x", "answer": "1"}))
    with pytest.raises(ValueError, match="pip install 'math-verify"):
        competition.make(TaskSettings(data_file=str(path)))
    task = competition.make(TaskSettings(data_file=str(path), reward=RewardConfig("released")))
    task.close()
