"""Makes problems of reasoning-gym and scores answers to them, by the library itself.

A judge as `gdsd_jax/tasks/judges.py` wants it. Some of the library's scorers evaluate the answer as
a program. Those get answers only that are plain data, or that call nothing but functions of
mathematics. This is no jail: what else an evaluation may do is bounded by time and memory alone.
Some scorers give full marks to what is no answer to the question; those answers get 0 here.
"""

import ast
from fractions import Fraction
import functools
import json
import math
import re
from typing import Any

# Their scorers hand the answer to eval, where names such as oracle_answer hold the solution.
EVALUATED = ("binary_matrix", "n_queens", "spiral_matrix", "string_insertion")
# Their scorers hand the answer to sympy's parser, which evaluates it with Python's builtins.
PARSED = (
    "countdown",
    "intermediate_integration",
    "polynomial_multiplication",
    "puzzle24",
    "simple_integration",
)
FUNCTIONS = frozenset(
    (
        "sin cos tan cot sec csc asin acos atan sinh cosh tanh asinh acosh atanh exp log ln sqrt "
        "abs Abs pi erf erfi gamma Rational Integer"
    ).split()
)
# Their scorers look at the numbers of an expression alone: x/x is a 1 that was not given.
SUMS = ("countdown", "puzzle24")
# Their scorers ask whether an answer is far away, which NaN never is.
NEAR = ("complex_arithmetic", "number_sorting")
COIN_TOLERANCE = 1e-4  # the library's

_BOARD = re.compile(r"[-0-9A-Z_\s]*")  # what EVALUATED data sets ask for, and no name of theirs
_SUM = re.compile(r"(?:[-+0-9()\s]|\*(?!\*)|/(?!/))*")
_NAME = re.compile(r"[^\W\d]\w*")
_TEXT_OR_FIELD = re.compile(r"""["'\\{}\[\]:;@`]|\.\s*[^\W\d]""")


def judge(request: list) -> Any:
    """Answers ["make", name, settings, [indices]] with [question, answer] pairs or a fault's text,
    and ["score", name, settings, index, question, answer] with a score in 0..1.

    A score is None where the problem of that index is another one than the question.
    """
    what, name, settings, *rest = request
    if what == "make":
        return made(name, settings, *rest)
    index, question, answer = rest
    entry = entry_of(name, settings, index)
    if entry["question"] != question:
        return None
    if not is_harmless(name, answer) or not is_to_the_question(name, answer, entry):
        return 0.0
    score = float(dataset_of(name, settings).score_answer(answer, entry))
    return min(max(score, 0.0), 1.0) if math.isfinite(score) else 0.0


def made(name: str, settings: str, indices: list[int]) -> list | str:
    """The problems of the indices, or what is wrong with the data set's settings."""
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        return f"no data set {name!r}: choose one of {', '.join(sorted(DATASETS))}"
    try:
        entries = [entry_of(name, settings, index) for index in indices]
    except Exception as error:  # whatever the data set makes of its settings
        return f"{name} refuses its settings ({type(error).__name__}: {error})".replace("\n", " ")
    return [[entry["question"], entry["answer"]] for entry in entries]


def is_harmless(name: str, answer: str) -> bool:
    """Whether an answer may be given to the scorer of a data set."""
    if name in EVALUATED:
        return _BOARD.fullmatch(answer) is not None or _is_data(answer)
    if name not in PARSED:
        return True
    if _TEXT_OR_FIELD.search(answer):
        return False
    names = _NAME.findall(answer)
    return all(len(found) == 1 or found in FUNCTIONS for found in names)


def _is_data(answer: str) -> bool:
    """Whether an answer is a Python list, text or number, without names and calls."""
    try:
        ast.literal_eval(answer)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return False
    return True


def is_to_the_question(name: str, answer: str, entry: dict[str, Any]) -> bool:
    """Whether an answer is of the kind that is asked for, where the scorer does not look.

    True where it does, and for the data sets that have no such gap.
    """
    if name in SUMS and not _SUM.fullmatch(answer):
        return False
    if name == "puzzle24":  # any numbers that make 24 pass its scorer
        numbers = map(str, entry["metadata"]["numbers"])
        return sorted(re.findall("[0-9]+", answer)) == sorted(numbers)
    if name in NEAR:
        return "nan" not in answer.replace(" ", "").lower() and "\\" not in answer
    if name == "game_of_life_halting":  # any text passes its scorer
        return answer.strip().lower() == entry["answer"].lower()
    if name == "coin_flip":  # its scorer takes 0 for the begin of 0.25, and that for all of it
        try:
            wanted, found = Fraction(entry["answer"]), Fraction(answer.replace(",", ""))
        except (ValueError, ZeroDivisionError):
            return False
        return abs(wanted - found) <= COIN_TOLERANCE
    return True


@functools.lru_cache(256)
def dataset_of(name: str, settings: str):
    """The data set with settings as JSON, its seed and size among them."""
    import reasoning_gym

    return reasoning_gym.create_dataset(name, **json.loads(settings))


@functools.lru_cache(8192)
def entry_of(name: str, settings: str, index: int) -> dict[str, Any]:
    """A problem with what its scorer wants to know."""
    return dataset_of(name, settings)[index]


def warm() -> None:
    """Loads the library; an ImportError ends the process."""
    import reasoning_gym  # noqa: F401
