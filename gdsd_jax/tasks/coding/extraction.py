"""Finds the program in an answer that is graded as evaluators do: fenced, bare, or a body alone.

The rules, in their order; the first that gives a program decides:

1. An answer that begins with an indented line goes on with the prompt: it is the body of the
   prompt's function.
2. A fenced block (```python, ```py or without a name, or of tildes) that is a whole program, the
   last one first; then a block that was never closed; then the text before the first fence, without
   the words around its code; then the whole text.
3. The same places in the same order, read as a body. Its indentation may be missing.

A whole program parses and defines what is asked for. An open block and bare text end before the
first line that stands at the margin and is no Python: a sentence, a lone word, a statement that was
cut off. Of a body, functions, classes and imports behind the function stay; other code at the
margin ends it. Everything here is linear in the length of the text, of which MAX_CHARACTERS are
read.
"""

import ast
import bisect
from collections.abc import Iterator, Sequence
import re
import textwrap
from typing import NamedTuple
import warnings

from gdsd_jax.tasks import answer_tags

MAX_CHARACTERS = 50_000  # some 12,000 tokens
FENCE = "```"

_BLOCKS = 4  # fenced blocks looked at, from the last
_STARTS = 4  # lines tried as the first of a bare program
_FURTHER_IN = 3  # columns by which the end of a block may stand further in than its begin
_CUTS = 4  # times that a text is shortened and parsed again
_ANY_FENCE = re.compile("(?:`{3,}|~{3,})")
_LINE_FENCE = re.compile(r"^[ \t>]*(?:[-*+][ \t]+|[0-9]+[.)][ \t]+)?(`{3,}|~{3,})", re.MULTILINE)
_INDENTED = re.compile(r"(?:^|\n)(?:[ \t]+|[ \t]*[-*+][ \t]+|[ \t]*[0-9]+[.)][ \t]+)$")
_NAME = re.compile(r"[ \t]*\{?\.?(?:(?:python3?|py)\b\}?)?[ \t]*", re.IGNORECASE)
_START = re.compile(r"^(?:def|class|import|from|async[ \t]+def)\b|^@", re.MULTILINE)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_BLOCKS_OF_CODE = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.ExceptHandler)
_KEPT = (*DEFINITIONS, ast.Import, ast.ImportFrom)
_ACTS = (ast.Call, ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr)
_GIVES = (ast.Return, ast.Yield, ast.YieldFrom)


class Asked(NamedTuple):
    """What a program must define.

    Attributes:
      name: of the function; "" = any function, class or variable will do.
      prompt: the begin of the program up to the function's body; "" = there is none.
    """

    name: str = ""
    prompt: str = ""


ANYTHING = Asked()


def parse(source: str) -> ast.Module | None:
    """The syntax tree of a Python text, None where it is no Python."""
    return _parse(source)[0]


def find_program(text: str, asked: Asked = ANYTHING) -> str | None:
    """The program in an answer, by the rules above; None where there is none."""
    text = text[:MAX_CHARACTERS].replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", "")
    said = answer_tags.until_end(text)
    # such tokens may be strings of the program, too
    for place in dict.fromkeys((answer_tags.without_fillers(said), said, text)):
        found = _find(place, asked)
        if found is not None:
            return found
    return None


def _find(text: str, asked: Asked) -> str | None:
    """As `find_program`, of a text with its line ends and its end in order."""
    closed, unclosed, bare = _places(text)
    if asked.prompt and _is_indented(bare):
        for begin in dict.fromkeys((bare, text)):  # a fence may stand in its documentation
            found = _body(begin, asked, cuts=_CUTS)
            if found is not None:
                return found
    for code in closed:
        if _is_whole(parse(code), asked):
            return _with_preamble(code, asked)
    for start in (unclosed, *_starts(bare)):
        found = _cut_to_code(start, 0, 0, _CUTS)
        if found is not None and _is_whole(found[1], asked):
            return _with_preamble(found[0], asked)
    for start in _starts(bare) if bare != text else ():  # its fences are strings
        found = _cut_to_code(text[len(bare) - len(start) :], 0, 0, _CUTS)
        if found is not None and _is_whole(found[1], asked):
            return _with_preamble(found[0], asked)
    if not asked.prompt:
        return None
    places = [(code, 1) for code in closed] + [(unclosed, _CUTS), (bare, _CUTS)]
    bodies = (_body(code, asked, cuts) for code, cuts in places)
    return next((body for body in bodies if body is not None), None)


# ---------------------------------------------------------------- places


def _places(text: str) -> tuple[list[str], str, str]:
    """(closed blocks from the last, the block without an end, the text before the first fence)."""
    outside, inside, is_open = _pieces(text)
    codes = [
        _code_of(piece, indented=_INDENTED.search(before) is not None)
        for before, piece in zip(outside, inside)
    ]
    unclosed = codes.pop() if is_open else ""
    closed = [code for code in codes[-_BLOCKS:] if code.strip()]
    return closed[::-1], unclosed, outside[0]


def _pieces(text: str) -> tuple[list[str], list[str], bool]:
    """(what stands before each block and behind the last, what each block holds, whether the last
    is open).

    A block ends in its first line, or where a line begins with a fence that stands no further in,
    so that a program may hold one; without such a line at the next line that begins with one, or
    else at the next fence.
    """
    fences = [hit.span() for hit in _ANY_FENCE.finditer(text)]
    in_front = {hit.start(1): hit.start(1) - hit.start() for hit in _LINE_FENCE.finditer(text)}
    heads = [number for number, (start, _) in enumerate(fences) if start in in_front]
    outside, inside, place, number = [], [], 0, 0
    while number < len(fences):
        start, begin = fences[number]
        line = text.find("\n", begin)
        line = len(text) if line < 0 else line
        number += 1
        end = number if number < len(fences) and fences[number][0] < line else None
        if end is None and start not in in_front and not _NAME.fullmatch(text, begin, line):
            continue  # a string of the program, say
        if end is None:
            later = bisect.bisect_left(heads, number)
            column = in_front.get(start, 0) + _FURTHER_IN
            closing = (head for head in heads[later:] if in_front[fences[head][0]] <= column)
            end = next(closing, heads[later] if later < len(heads) else number)
        outside.append(text[place:start])
        if end >= len(fences):
            return outside, [*inside, text[begin:]], True
        inside.append(text[begin : fences[end][0]])
        place, number = fences[end][1], end + 1
    return [*outside, text[place:]], inside, False


def _code_of(piece: str, indented: bool) -> str:
    """What stands in a block behind its name; "" where it is no Python by its name.

    A block in a list has the list's indentation. Code may begin in the line of the name.
    """
    first, line_end, code = piece.partition("\n")
    name = _NAME.match(first)
    rest = first[name.end() :].strip()
    if rest and (not line_end or _START.match(rest)):
        code = f"{rest}\n{code}"
    elif rest and not name[0].strip():
        return ""  # the name of another language
    return textwrap.dedent(code) if indented else code


def _starts(bare: str) -> Iterator[str]:
    """The text from its begin, and from the first lines that may begin a program."""
    yield bare
    for number, match in enumerate(_START.finditer(bare)):
        if number == _STARTS:
            return
        if match.start() > 0:
            yield bare[match.start() :]


def _is_indented(text: str) -> bool:
    """Whether the first line that is not blank begins with a space."""
    lines = text.lstrip("\n").split("\n", 1)
    return lines[0][:1] in (" ", "\t") and bool(text.strip())


# ---------------------------------------------------------------- whole programs and bodies


def _is_whole(tree: ast.Module | None, asked: Asked) -> bool:
    """Whether a program defines what is asked for."""
    if tree is None:
        return False
    names = set(bound(tree.body))
    return asked.name in names if asked.name else bool(names)


def bound(body: Sequence[ast.stmt]) -> Iterator[str]:
    """The names that statements define, also within conditions, loops, with and try."""
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, DEFINITIONS):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.AnnAssign):
            waiting += [node.target] if node.value else []
        elif isinstance(node, ast.Assign):
            waiting += node.targets
        elif isinstance(node, _BLOCKS_OF_CODE):
            for name in ("body", "orelse", "finalbody", "handlers"):
                waiting += getattr(node, name, [])
        elif isinstance(node, ast.Tuple | ast.List | ast.Starred):
            waiting += node.elts if not isinstance(node, ast.Starred) else [node.value]


def _with_preamble(code: str, asked: Asked) -> str:
    """The program behind the imports and helpers of the prompt, which it need not repeat."""
    if not asked.prompt or "from __future__" in code:
        return code
    return f"{preamble_of(asked) or ''}\n{code}"


def preamble_of(asked: Asked) -> str | None:
    """What stands in the prompt before its function; None where it begins no such function."""
    match = re.search(rf"^(?:async[ \t]+)?def[ \t]+{re.escape(asked.name)}\b", asked.prompt, re.M)
    return asked.prompt[: match.start()] if match else None


def _body(code: str, asked: Asked, cuts: int) -> str | None:
    """The prompt with the code as its function's body; None where that gives no such function.

    The code is taken as it is, or with four spaces before its first line, as where blanks around
    an answer were stripped, or before all lines. Without its own indentation it must return
    something: words and calls that show the function's use are no body.
    """
    if not code.strip():
        return None
    found = _grown(asked.prompt, code, asked, 0, cuts)
    if found is not None:
        return found
    begin, rest = asked.prompt.rstrip() + "\n", code.lstrip("\n")
    for shifted in ("    " + rest.lstrip(), textwrap.indent(rest, "    ")):
        found = _grown(begin, shifted, asked, 4, cuts, must_give=True)
        if found is not None:
            return found
    return None


def _grown(
    prompt: str, code: str, asked: Asked, indent: int, cuts: int, must_give: bool = False
) -> str | None:
    """The prompt and the code, as far as it is Python, where the function has grown by it."""
    floor = prompt.count("\n") + (not prompt.endswith("\n"))
    found = _cut_to_code(prompt + code, floor, indent, cuts)
    if found is None:
        return None
    source, tree = found
    places = [
        place
        for place, node in enumerate(tree.body)
        if isinstance(node, DEFINITIONS) and node.name == asked.name
    ]
    if not places or tree.body[places[0]].lineno > floor:
        return None
    function = tree.body[places[0]]
    new = [node for node in function.body if node.end_lineno > floor]
    own = [node for node in new if not isinstance(node, DEFINITIONS)]
    gives = any(isinstance(part, _GIVES) for node in own for part in ast.walk(node))
    if not new or (must_give and not gives):
        return None
    if _returns_at_the_margin(tree):
        return None  # the indentation is another one
    end = function.end_lineno
    for node in tree.body[places[0] + 1 :]:
        if not isinstance(node, _KEPT) or getattr(node, "name", "") == asked.name:
            break
        end = node.end_lineno
    return "\n".join(source.split("\n")[:end]) + "\n"


def _returns_at_the_margin(tree: ast.Module) -> bool:
    """Whether something is returned outside of functions, which the parser lets pass."""
    outside = [node for node in tree.body if not isinstance(node, DEFINITIONS)]
    return any(isinstance(part, ast.Return) for node in outside for part in ast.walk(node))


# ---------------------------------------------------------------- where the code ends


def _cut_to_code(source: str, floor: int, indent: int, cuts: int) -> tuple[str, ast.Module] | None:
    """(the source as far as it is Python, its tree); None where only `floor` lines are left.

    It is cut before lines of at most `indent` columns. Where the parser stops, the statement at the
    margin that holds this place is the first to go.
    """
    lines = source.split("\n")
    for _ in range(cuts):
        tree, line = _parse("\n".join(lines))
        if tree is not None:
            line = _words_at(tree, floor)
            if line is None:
                return "\n".join(lines), tree
        if line is None:
            return None
        at = min(line, len(lines)) - 1
        while at >= floor and not _stands_out(lines[at], indent):
            at -= 1
        lines = lines[: max(at, 0)]
        if at < floor or not "".join(lines[floor:]).strip():
            return None
    return None


def _stands_out(line: str, indent: int) -> bool:
    """Whether a line that is not blank begins in the first columns."""
    return 0 < len(line.strip()) and len(line) - len(line.lstrip()) <= indent


def _words_at(tree: ast.Module, floor: int) -> int | None:
    """The line of the first statement behind `floor` that is words: it names things, does nothing.

    "Explanation" and "[DONE]" are such, and so is "Note: this".
    """
    for node in tree.body:
        if node.lineno <= floor:
            continue
        if isinstance(node, ast.AnnAssign) and node.value is None:
            return node.lineno
        if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
            if not any(isinstance(part, _ACTS) for part in ast.walk(node)):
                return node.lineno
    return None


def _parse(source: str) -> tuple[ast.Module | None, int | None]:
    """(the tree or None, the line where the parser stops or None)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes, which are allowed
            return ast.parse(source), None
    except SyntaxError as error:
        return None, max(error.lineno or 1, 1)
    except (ValueError, RecursionError, MemoryError):
        return None, None  # ValueError: null bytes; the others: nested beyond the parser
