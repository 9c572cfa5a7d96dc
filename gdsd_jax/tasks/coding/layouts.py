"""Rows of users' files, by their layout: records of the coding task.

Every record has "question", "tests", "solution" ("" where unknown) and "spec" ("");
"messages" and "domain" where the row has them. The others also have a "form", which says what an
answer is and how it runs:

- no form: asserts, each counted, run after the program. Rows of `row_schema`.
- "function": as "program", and the answer may be the body of the function alone, whose begin is
  the question. HumanEval's rows; one test, so that there is one verdict.
- "program": MBPP's rows; all asserts are one test.
- "stdin": each test runs the program on an input and compares what it prints.

"shown" is the text of the example in a prompt; without it the first test is shown.
"""

import ast
import builtins
from collections.abc import Mapping
import functools
import json
import sys
from typing import Any

from gdsd_jax import row_schema, rows
from gdsd_jax.tasks.coding import acecode
from gdsd_jax.tasks.coding.extraction import Asked, bound, parse, preamble_of

WANTED = " with question or messages, and test_cases"
TESTS = rows.Field("test_cases", "texts", "give assert statements as strings")
STDIN = (
    rows.Field("inputs", "texts", "give what the program reads, a string for each run"),
    rows.Field("outputs", "texts", "give what the program prints, a string for each run"),
)
HUMAN_EVAL = (
    rows.Field("prompt", "non-empty text", "give the program up to the function's body"),
    rows.Field("entry_point", "non-empty text", "give the function's name"),
    rows.Field("test", "non-empty text", "give a text that defines check(candidate)"),
    rows.Field("canonical_solution", "text", "give the body or leave it out", default=""),
)
MBPP = (
    rows.Field("text", "non-empty text", "give the task in words, as text or prompt"),
    rows.Field("test_list", "texts", "give assert statements as strings"),
    rows.Field("challenge_test_list", "texts", "give asserts or leave it out", default=()),
    rows.Field("test_setup_code", "text", "give it or leave it out", default=""),
    rows.Field("test_imports", "texts", "give import statements or leave it out", default=()),
    rows.Field("code", "text", "give the program's text or leave it out", default=""),
)
# The columns that a user's file may name otherwise; published files have their own names.
COLUMNS = (*row_schema.FIELDS, *STDIN)


def read(row: Any, challenge: bool = False, hard: bool = False) -> dict[str, Any]:
    """The record of a file's row, of whichever layout; ValueError, in one line, where it is none.

    Args:
      row: what a line of the file holds.
      challenge: whether MBPP's challenge_test_list must pass too.
      hard: keep what `acecode.hard` needs.
    """
    # a merged table has empty columns of the other layouts
    given = {name for name in row if row[name] is not None} if isinstance(row, Mapping) else set()
    if "test_cases" not in given:
        if {"entry_point", "test"} <= given:
            return _human_eval(row)
        if "test_list" in given:
            return _mbpp(row, challenge)
        if given & {"input_output", "inputs"}:
            return _stdin(row)
    found = row_schema.read(row, ("domain", "solution"))
    tests = rows.check(row, "", [TESTS])["test_cases"]  # which not every row has to have
    _check_statements("test_cases", tests)
    record = {
        "question": found.question,
        "tests": tests,
        "solution": found.solution,
        "spec": "",
    }
    record |= found.kept
    return record | acecode.of_row(row) if hard else record


def asked_of(record: Mapping[str, Any]) -> Asked:
    """What an answer to a record must define."""
    if record["form"] == "function":
        return Asked(record["entry_point"], record["question"])
    return Asked(_called_in(record["tests"][0]))


@functools.lru_cache(1024)  # all answers to a prompt ask for it
def _called_in(test: str) -> str:
    """The name that asserts call first, of those that neither Python nor what stands before them
    defines; "" where there is none."""
    body = parse(test).body
    known = {*dir(builtins), *bound(body)}
    asserts = (node for node in body if isinstance(node, ast.Assert))
    calls = (x.func for one in asserts for x in ast.walk(one) if isinstance(x, ast.Call))
    names = (x.id for x in calls if isinstance(x, ast.Name))
    return next((name for name in names if name not in known), "")


def _human_eval(row: Mapping[str, Any]) -> dict[str, Any]:
    found = rows.check(row, "", HUMAN_EVAL)
    name, prompt = found["entry_point"], found["prompt"]
    if not name.isidentifier():
        raise ValueError(f"entry_point={name!r:.60} is no name: {HUMAN_EVAL[1].mend}")
    if preamble_of(Asked(name, prompt)) is None:
        raise ValueError(f"prompt does not begin the function {name}: {HUMAN_EVAL[0].mend}")
    _check_statements("test", [found["test"]], number=False)
    if "def check(" not in found["test"]:
        raise ValueError(f"test does not define check: {HUMAN_EVAL[2].mend}")
    body = found["canonical_solution"]
    return {
        "question": prompt,
        "tests": [f"{found['test']}\n\ncheck({name})\n"],
        "solution": prompt + body if body.strip() else "",
        "spec": "",
        "form": "function",
        "entry_point": name,
    }


def _mbpp(row: Mapping[str, Any], challenge: bool) -> dict[str, Any]:
    named = {name: None if value == [] else value for name, value in row.items()}
    if named.get("text") is None and "prompt" in named:  # the sanitized part's name
        named["text"] = named["prompt"]
    found = rows.check(named, "", MBPP)
    tests = [*found["test_list"], *(found["challenge_test_list"] if challenge else ())]
    _check_statements("test_list", tests)
    setup = [*found["test_imports"], found["test_setup_code"]]
    _check_statements("test_setup_code", ["\n".join(setup)], number=False, empty=True)
    return {
        "question": found["text"],
        "tests": ["\n".join([*setup, *tests])],
        "solution": found["code"],
        "spec": "",
        "form": "program",
        "shown": "\n".join(found["test_list"]),
    }


def _stdin(row: Mapping[str, Any]) -> dict[str, Any]:
    pairs = row if row.get("input_output") is None else row["input_output"]
    if isinstance(pairs, str):
        try:
            pairs = json.loads(pairs)
        except (ValueError, RecursionError):
            raise ValueError("input_output is not JSON: give inputs and outputs") from None
    if not isinstance(pairs, Mapping):
        raise ValueError("input_output is not an object: give inputs and outputs")
    if pairs.get("fn_name"):
        raise ValueError(
            f"fn_name={pairs['fn_name']!r:.60}: rows that call a function are not read; write "
            "test_cases, assert statements, in place of inputs and outputs"
        )
    named = dict(row) | {name: _joined(pairs.get(name)) for name in ("inputs", "outputs")}
    found, asked = rows.check(named, "", STDIN), row_schema.read(row, ("domain", "solution"))
    runs = list(zip(found["inputs"], found["outputs"]))
    if len(found["inputs"]) != len(found["outputs"]):
        raise ValueError(
            f"{len(found['inputs'])} inputs but {len(found['outputs'])} outputs: give as many"
        )
    given, printed = runs[0]
    return {
        "question": asked.question,
        "tests": [f"assert prints({given!r}, {printed!r})" for given, printed in runs],
        "solution": asked.solution,
        "spec": "",
        "form": "stdin",
        "shown": f"Input:\n{given.rstrip()}\nOutput:\n{printed.rstrip()}",
    } | asked.kept


def _joined(values: Any) -> Any:
    """Inputs or outputs as texts, where an item is a list of lines."""
    if not isinstance(values, list):
        return values
    found = []
    for value in values:
        lines = isinstance(value, list) and all(isinstance(line, str) for line in value)
        found.append("\n".join(value) if lines else value)
    return found


def _check_statements(
    field: str, texts: list[str], number: bool = True, empty: bool = False
) -> None:
    """ValueError for the first text that is no Python statement, or takes a module that the sandbox
    lacks: every program would fail it."""
    for place, text in enumerate(texts):
        tree = parse(text)
        which = f"{field}[{place}]" if number else field
        if tree is None or not (tree.body or empty):
            raise ValueError(f"{which} is not a Python statement: give asserts as strings")
        absent = sorted(imported(tree) - sys.stdlib_module_names)
        if absent:
            raise ValueError(
                f"{which} imports {absent[0]:.40}, and the sandbox has the standard library alone: "
                "compare without it, or leave the row out"
            )


def imported(tree: ast.Module) -> set[str]:
    """The modules that a program imports, their packages' names."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found
