"""The program in an answer, as evaluators look for it: a table of answers, and any text at all."""

import functools
import random

import pytest

from gdsd_jax.tasks.coding import grading
from gdsd_jax.tasks.coding.extraction import Asked, find_program
from tests.tasks import texts

PROMPT = '''import math


def helper(x):
    return x + 1


def double(x: int) -> int:
    """Twice the number.
    >>> double(2)
    4
    """
'''
ASKED = Asked("double", PROMPT)
BODY = "    y = x\n    return 2 * y\n"
WHOLE = "def double(x):\n    return x + x\n"
OTHER = "def other(x):\n    return 0\n"
WRONG = "def double(x):\n    return 5\n"

DOCUMENTED = '''def double(x):
    """Twice the number.

    ```python
    double(2)
    ```
    """
    return x + x
'''
INDENTED = "   def double(x):\n       return x + x\n"
FENCES = "def double(x):\n    s = '```'\n    t = ['```python', '```']\n    return x + x\n"

# what it shows, the answer, what double(21) and f are then; None = no program
FUNCTIONS = [
    ("a body", BODY, 42),
    ("a body of one line", "    return 2 * x", 42),
    ("a body after a blank line", "\n\n" + BODY, 42),
    ("a body with tabs", "\treturn 2 * x\n", 42),
    ("a body, then words", BODY + "\nThis doubles the number.\n", 42),
    ("a body, then one word", BODY + "\nExplanation\n", 42),
    ("a body, then an annotation in words", BODY + "Note: this\n", 42),
    ("a body, then a comment", BODY + "\n# that was it", 42),
    ("a body, then a call", BODY + "\nprint(double(2)))\n", 42),
    ("a body, then a failing test", BODY + "\nassert double(2) == 5\n", 42),
    ("a body, then a main part cut off", BODY + "\nif __name__ == '__main__':\n    pri", 42),
    ("a body, then a function cut off", BODY + "\ndef next(a):\n    b = (", 42),
    ("a body, then the function again", BODY + "\n" + WRONG, 42),
    ("a body, then a fence", BODY + "```\nThat is all.", 42),
    ("a body, then an example in a fence", BODY + "```\n\nSo:\n```python\ndouble(1)\n```", 42),
    ("a body that calls what follows", "    return two(x)\n\ndef two(x):\n    return 2 * x\n", 42),
    ("a body with a text at the margin", '    """\nNote: this\n"""\n    return 2 * x\n', 42),
    ("a body with brackets at the margin", "    return sum([\nx,\nx\n])\n", 42),
    ("a body with the prompt's helper", "    return helper(x) * 2 - 2\n", 42),
    ("a body with the prompt's import", "    return x * math.gcd(2, 4)\n", 42),
    ("a stub", "    pass\n", "none"),
    ("a stub of dots", "    ...\n", "none"),
    ("a stripped body", BODY.strip(), 42),
    ("a stripped body, then words", BODY.strip() + "\n\nHope this helps!", 42),
    ("a body at the margin", "y = x\nreturn 2 * y\n", 42),
    ("a body at the margin, with a block", "if x:\n    return 2 * x\nreturn 0", 42),
    ("a body at the margin, first line complete", "if not x: return 0\nreturn 2 * x", 42),
    ("a body in a fence", f"```python\n{BODY}```", 42),
    ("a body in a fence, stripped", f"```python\n{BODY.strip()}\n```", 42),
    ("a body in an open fence", f"```python\n{BODY}", 42),
    ("a body cut off", "    y = (x +", None),
    ("a fence", f"```python\n{WHOLE}```", 42),
    ("a fence with the prompt", f"```python\n{PROMPT}{BODY}```", 42),
    ("a fence between words", f"So:\n```python\n{WHOLE}```\nIt adds.", 42),
    ("a fence with an empty name", f"```\n{WHOLE}```", 42),
    ("a fence named py", f"```py\n{WHOLE}```", 42),
    ("a fence named in capitals", f"``` Python \n{WHOLE}```", 42),
    ("a fence with other line ends", f"```python\n{WHOLE}```".replace("\n", "\r\n"), 42),
    ("a fence of another language", f"```cpp\n{WHOLE}```", None),
    ("a fence with the helper only used", "```python\ndef double(x):\n  return helper(x)\n```", 22),
    ("the last of two fences", f"```python\n{WRONG}```\nBetter:\n```python\n{WHOLE}```", 42),
    ("a fence, then an example", f"```python\n{WHOLE}```\n```python\ndouble(2)\n```", 42),
    ("a fence, then its output", f"```python\n{WHOLE}```\n```\n4\n```", 42),
    ("a fence, then another function", f"```python\n{WHOLE}```\n```python\n{OTHER}```", 42),
    ("a fence that does not parse", "```python\ndef double(x) return\n```", None),
    ("an open fence", f"So:\n```python\n{WHOLE}", 42),
    ("an open fence, cut off", f"So:\n```python\n{WHOLE}\ndef next(a", 42),
    ("a body in a fence of one line", "```python return 2 * x```", 42),
    ("a fence of one line", "```python def double(x): return 2 * x```", 42),
    ("a fence of one line without a name", "So: ```def double(x): return 2 * x``` it is.", 42),
    ("code in the line of the name", f"```python {WHOLE}```", 42),
    ("a fence behind words", f"So it is: ```python\n{WHOLE}```", 42),
    ("a fence of tildes", f"~~~python\n{WHOLE}~~~\n", 42),
    ("a longer fence", f"`````python\n{WHOLE}`````", 42),
    ("a fence with attributes", f"```{{.python}}\n{WHOLE}```", 42),
    ("a fence in a list", f"1. So:\n   ```python\n{INDENTED}   ```\n2. Done.", 42),
    ("a fence behind a dash", f"- ```python\n{INDENTED}  ```", 42),
    ("a fence with fences in it", f"```python\n{FENCES}```\nDone.", 42),
    ("fences in a program without one", FENCES, 42),
    ("a fence, then an end token", f"```python\n{WHOLE}```<|eot_id|>", 42),
    ("an end token in a fence", f"```python\n{WHOLE}<|im_end|>\n```", 42),
    ("a program, then an end token", f"{WHOLE.rstrip()}<|eot_id|><|eot_id|>", 42),
    ("a program, then another turn", f"{WHOLE}<|im_end|>\n```python\n{WRONG}```", 42),
    ("a program with an end token in it", f"{WHOLE}    s = '<|endoftext|>'\n", 42),
    ("a program that begins with an end token", f"s = '<|endoftext|>'\n{WHOLE}", 42),
    ("a body, then an end token", f"{BODY}<|endoftext|>{WRONG}", 42),
    ("a bare program", WHOLE, 42),
    ("a bare program after words", f"Here it is:\n\n{WHOLE}", 42),
    ("a bare program between words", f"Sure! From here:\n{WHOLE}\nIt adds x to x.", 42),
    ("a bare program after an import", f"import math\n{WHOLE}", 42),
    ("a bare program after a constant", f"N = 2\ndef double(x):\n    return N * x\n{OTHER}", 42),
    ("a bare program with future imports", f"from __future__ import annotations\n{WHOLE}", 42),
    ("a bare program, then [DONE]", f"{WHOLE}[DONE]", 42),
    ("a bare program, closed by a fence", f"{WHOLE}```\nIt adds.", 42),
    ("a program, then masks", f"{WHOLE}<|mdm_mask|><|mdm_mask|>", 42),
    ("a program, then a mask in its line", f"{WHOLE.rstrip()}<|mdm_mask|>", 42),
    ("a program, then lines of masks", f"{WHOLE}<|mdm_mask|>\n<|mdm_mask|>\n", 42),
    ("a program, then a mask and an end", f"{WHOLE}<mask><|eot_id|>", 42),
    ("a fence, then masks", f"```python\n{WHOLE}```<|mdm_mask|>", 42),
    ("masks in a fence", f"```python\n{WHOLE}<|mdm_mask|>\n```", 42),
    ("a mask within a program", "def double(x):\n    return 2<|mdm_mask|> * x", None),
    ("a mask for a word", "def double(x):\n    return <|mdm_mask|>x", None),
    ("a body, then masks", f"{BODY}<|mdm_mask|>", 42),
    ("a program behind a begin token", f"<s>{WHOLE}", 42),
    ("a program behind a begin token and a space", f"<s> {WHOLE}", 42),
    ("a program behind another begin token", f"<|begin_of_text|>\n{WHOLE}", 42),
    ("a mark of byte order", f"\ufeff{WHOLE}", 42),
    ("a mark of byte order in a fence", f"```python\n\ufeff{WHOLE}```", 42),
    ("two names at once", "double, other = (lambda x: 2 * x), 1", 42),
    ("a list of names", "[other, double] = 1, lambda x: 2 * x", 42),
    ("a definition within a condition", "if True:\n    def double(x):\n        return 2 * x\n", 42),
    (
        "a definition within a try",
        "try:\n    import nothing\nexcept ImportError:\n    def double(x):\n        return 2 * x\n",
        42,
    ),
    ("a definition within a class", "class A:\n    def double(x):\n        return 2 * x\n", None),
    ("a definition within a function", "def a():\n    def double(x):\n        return 2", None),
    ("an attribute of that name", "a.double = 5", None),
    ("a fence in documentation", f"So:\n\n{DOCUMENTED}\nThat is all.", 42),
    ("a fence in documentation in a fence", f"```python\n{DOCUMENTED}```\nDone.", 42),
    ("a fence in a body's documentation", "    " + DOCUMENTED.split("    ", 1)[1], 42),
    ("a variable", "double = lambda x: 2 * x", 42),
    ("another function only", OTHER, None),
    ("words", "I do not know.", None),
    ("words in python's words", "return to sender", None),
    ("a call alone", "double(2)", None),
    ("a name alone", "double", None),
    ("nothing", "", None),
    ("blanks", " \n\t\n", None),
    ("fences alone", "``````", None),
    ("a null byte", "    return '\0'", None),
    ("half a character", "    return '\ud800'", None),
]
PROGRAMS = [
    ("a fence", "```python\ndef f(x):\n    return 1\n```", 1),
    ("the last fence that defines", "```python\ndef f(x):\n    return 1\n```\n```\nf(2)\n```", 1),
    ("a bare program between words", "Well,\ndef f(x):\n    return 1\n\nDone.", 1),
    ("tags of the published prompt", "[BEGIN]\ndef f(x):\n    return 1\n[DONE]\nMore", 1),
    ("a name bound", "from math import floor as f", 1),
    ("a body has no prompt here", "    return 1", None),
    ("a call is no program", "print(1)", None),
    ("words", "The answer is 1.", None),
]


def ran(source):
    names = {}
    exec(compile(source, "program", "exec"), names)
    return names


@pytest.mark.parametrize("answer, value", [row[1:] for row in FUNCTIONS], ids=lambda x: None)
def test_functions(answer, value):
    source = find_program(answer, ASKED)
    if value is None:
        assert source is None
        return
    assert ran(source)["double"](21) == (None if value == "none" else value)


@pytest.mark.parametrize("answer, value", [row[1:] for row in PROGRAMS], ids=lambda x: None)
def test_programs(answer, value):
    source = find_program(answer)
    assert source is None if value is None else ran(source)["f"](1.5) == value


def test_the_names_of_the_cases_are_unlike():
    for table in (FUNCTIONS, PROGRAMS):
        assert len({row[0] for row in table}) == len(table)


def test_a_second_search_finds_the_same():
    for _, answer, _ in FUNCTIONS:
        source = find_program(answer, ASKED)
        if source is not None:
            assert find_program(f"```python\n{source}```", Asked("double")) == source


# ---------------------------------------------------------------- any text

PIECES = (
    ("```python\n", "```py\n", "```", "\n```\n", "def double(x):\n", "def f(x):\n", "return x\n")
    + ("    return 2 * x\n", "    ", "\t", "\n", "\r\n", "if x:\n", "else:\n", "class A:\n", "@a\n")
    + ("import math\n", "from a import b\n", "async def g():\n", "lambda: ", "yield ", "await ")
    + ("'''", '"""', "'", '"', "f'{", "}", "(", ")", "[", "]", "{", "#", "\\", "\\\n", ":", ";")
    + ("Some words here.\n", "Note: this\n", "x = 1\n", "pass\n", "...", "*", "**", "->", ":=")
    + ("\x00", "\x0c", "\u2028", "\ud800", "🙂", "é", "0x", "1_", "1e999", "9" * 5000)
)
LONG = ("(", "-", "not ", "lambda: ", "a.", "a(", "a[", "1+", "a if a else ", "if x:\n ", "```")
LONG += (
    "```python\n",
    "```\n",
    "def f():\n",
    "def double(x):\n    return 1\n",
    "\\\n",
    "'''",
    "@a\n",
)
LONG += ("x = 1\n", "word\n", "word word\n", "    ", "\n", "elif x: pass\n", "f'{", "import a\n")
RECORDS = (
    {"tests": ["assert f(1)"]},
    {"tests": ["check(double)"], "form": "function", "entry_point": "double", "question": PROMPT},
    {"tests": ["assert f(1)"], "form": "program"},
)


def readings(text, records):
    """(format, program) for some kinds of record, by both rules."""
    for record in records:
        yield grading._mended(record, text)
        yield grading._released(record, text)


def check(text, records=RECORDS):
    for format, source in readings(text, records):
        assert format in (0.0, 0.5, 1.0) and (source is None or isinstance(source, str))


def test_no_text_makes_it_fail():
    rng = random.Random(0)
    for _ in range(1500):
        check("".join(rng.choices(PIECES, k=rng.randint(0, 40))))
    for text in texts.thrown_together(500, seed=1):
        check(text)


def test_no_cut_of_an_answer_makes_it_fail():
    for _, answer, _ in FUNCTIONS:
        for end in range(0, len(answer), 3):
            check(answer[:end])
            check(answer[end:])


@pytest.mark.slow
@pytest.mark.parametrize("frame", ["{}", "    {}", "```python\n{}\n```"])
def test_long_texts_take_seconds_at_most(frame):
    for unit in LONG:
        text = frame.format(unit * (60_000 // len(unit)))
        assert texts.seconds_of(functools.partial(check, text, RECORDS[1:2])) < 5, unit
