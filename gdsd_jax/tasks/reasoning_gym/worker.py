"""Makes problems of reasoning-gym and scores answers to them, by the library itself.

A judge as `gdsd_jax/tasks/judges.py` wants it. Some of the library's scorers evaluate the answer as
a program. Those get answers only that can call nothing, or nothing but functions of mathematics.
This is no jail: what else an evaluation may do is bounded by time and memory alone.
"""

import functools
import json
import math
import re
from typing import Any

# Their scorers hand the answer to eval: without a bracket it calls nothing.
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
    if not is_harmless(name, answer):
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
        return "(" not in answer
    if name not in PARSED:
        return True
    if _TEXT_OR_FIELD.search(answer):
        return False
    names = _NAME.findall(answer)
    return all(len(found) == 1 or found in FUNCTIONS for found in names)


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
