"""Finds the 4x4 grid in an answer, however its rows are drawn.

Work is linear in the length of a text.
"""

from collections.abc import Iterator
import re
from typing import NamedTuple

SIDE = 4
CELLS = SIDE * SIDE

# Digits and separators share no character, so that a failed match tries nothing twice.
_RUN_OF_DIGITS = re.compile(r"(?<![0-9])[1-4](?:[ \t\r\n|,]{0,4}[1-4]){15}(?![0-9])")
# what ends a row besides the end of a line
_ROW_END = re.compile(r"\\\\(?:\[[^\]\n]{0,9}\])?|\]|\),|;|(?<!<)/|<br ?/?>|</tr>")
# in this order; what stands there for a reader's eye
_DECORATION = tuple(
    re.compile(pattern)
    for pattern in (
        r"</?[a-z]{1,8}>|&nbsp;",
        r"\\(?:begin|end)\s*\{[a-z*]*\}(?:\{[clr|@ ]*\})?",
        r"\\(?:textcolor|color|colorbox|cellcolor)\s*(?:\[[A-Za-z]*\])?\s*\{[A-Za-z0-9!]*\}"
        r"|\\cline\s*\{[0-9-]*\}",
        r"\\(?:hline|left|right|quad|boxed|emph|underline|(?:text|math)(?:bf|it|rm|tt|sf)?|bf|bm"
        r"|boldsymbol|bfseries|[lL]arge|,)(?![A-Za-z])|\\[\[\](){}]",
        r"```[a-z]*|[*`$'\"\u201c\u201d\u2018\u2019\ufe0f\u20e3]",
        r"(?i)\b(?:[a-z_][a-z_ ]{0,20}#?[0-9]?|[0-9])\s{0,9}[:=]\s{0,9}(?=[a-z.]{0,20}\(?\s*\[)",
        r"(?:np|numpy|jnp|torch|sympy)?\.?\b(?:array|asarray|matrix|Matrix|tensor|list|tuple)"
        r"\s*\(|\bdtype\s*=\s*[a-z.0-9]+",
        r"(?<=[1-4])\s*[-\u2013]\s*(?=[1-4])",
    )
)
_LABEL = re.compile(
    r"[\s|>{,]*(?:[-+\u2022]\s+|[0-9][.)]\s+)?"
    r"(?:(?:row|line|r)[\s_#]*(?:[0-9a-d]|one|two|three|four)\s*(?:\([a-z ,]{1,20}\)\s*)?"
    r"[:.)=|>\u2192-]+"
    r"|(?:first|second|third|fourth|last|top|bottom|[1-4](?:st|nd|rd|th))\s+row\s*"
    r"(?:\([a-z ,]{1,20}\)\s*)?[:=>\u2192-]+"
    r"|[a-d]\s*[:|])?",
    re.IGNORECASE,
)
_FRAME = re.compile(r"[\s|+=:_.,(){}\[\]\u2500-\u257f-]*")
# what the words before a grid say of it: that it is the answer, or something else
_ANSWER = re.compile(r"answer|solution|solved|complet|result|filled|correct", re.IGNORECASE)
_OTHER = re.compile(
    r"\bcol(?:umn)?s?\b|\bbox(?:es)?\b|\bblocks?\b|\bsub-?(?:grid|square)s?\b|\bquadrants?\b"
    r"|\bregions?\b|\btranspos|\bcheck|\bverif|\bpuzzle|\bgiven\b|\boriginal|\binitial"
    r"|\binput\b",
    re.IGNORECASE,
)
_CHECK = re.compile(
    r"[^A-Za-z]*(?:(?:let|now|we|us|me|to|then|and|the|by)\b[^A-Za-z]*)*"
    r"(?:check|verif|col(?:umn)?s?\b|box|sub-?(?:grid|square)|block|quadrant|region|transpos)",
    re.IGNORECASE,
)
_HEADING_CHARACTERS = 200
_ROW_CHARACTERS = 5000  # far above 16 cells of coloured LaTeX; what is longer is not looked at
_WIDE = {0xFF10 + digit: str(digit) for digit in range(10)}
_BETWEEN = re.compile(r"[\s|,&(){}\[\]\u2500-\u257f]+")


def grid_of(text: str) -> str | None:
    """The 16 digits, each 1 to 4, of the last whole grid of a text; None where there is none.

    A grid is a row of 16 digits that are written close together, or consecutive lines of 4, 8 or 16
    digits: of text, with bars and frames between them, of a table, of lists, of LaTeX, with names
    of the rows before them. One that the words before it call something else than the answer, such
    as columns, counts only where there is no other.
    """
    text = text.translate(_WIDE)
    found = [grid for grid in (_last(_blocks(text)), _last(_runs(text))) if grid is not None]
    stated = [grid for grid in found if not grid.is_other]
    return max(stated or found).digits if found else None


class _Grid(NamedTuple):
    end: int  # its place in the text
    digits: str
    is_other: bool


def _last(found: list[tuple[int, str, str]]) -> _Grid | None:
    """The last grid that is not called something else, or else the last, of (its end, its digits,
    the words before it); None of none."""
    for end, digits, heading in reversed(found):
        if not _is_other(heading):
            return _Grid(end, digits, False)
    return _Grid(*found[-1][:2], True) if found else None


def _blocks(text: str) -> list[tuple[int, str, str]]:
    """The grids of consecutive lines, as `_last` takes them."""
    block, heading, before, found = [], "", "", []  # rows so far; words before them; last words
    for end, row in _rows(text):
        digits = _digits_of(row)
        if digits is None or (not row.strip() and block and _whole(block)):
            before = row[-_HEADING_CHARACTERS:] if digits is None else ""
            block = []  # an empty line ends a grid that is whole
        elif digits:
            heading = heading if block else before
            block.append(digits)
            whole = _whole(block)
            if whole:
                found.append((end, whole, heading))
    return found


def _runs(text: str) -> list[tuple[int, str, str]]:
    """The grids of 16 digits close together, as `_last` takes them."""
    found = []
    for hit in _RUN_OF_DIGITS.finditer(text):
        heading = text[max(0, hit.start() - _HEADING_CHARACTERS) : hit.start()]
        digits = "".join(sign for sign in hit[0] if "0" <= sign <= "9")
        found.append((hit.end(), digits, heading.rstrip().rpartition("\n")[2]))
    return found


def _is_other(heading: str) -> bool:
    """Whether the words before a grid call it something else than the answer."""
    return bool(_CHECK.match(heading) or (_OTHER.search(heading) and not _ANSWER.search(heading)))


def _rows(text: str) -> Iterator[tuple[int, str]]:
    """(where it ends, a row) of each line, cut where a row ends inside of it."""
    begin = 0
    for line in text.splitlines(keepends=True):
        place = begin
        for end in _ROW_END.finditer(line):
            yield begin + end.end(), text[place : begin + end.start()]
            place = begin + end.end()
        begin += len(line)
        yield begin, text[place:begin]


def _digits_of(row: str) -> str | None:
    """The digits of a row of the grid; "" for an empty row or a frame, None for anything else."""
    if len(row) > _ROW_CHARACTERS:
        return None
    for pattern in _DECORATION:
        row = pattern.sub(" ", row)
    if _FRAME.fullmatch(row):
        return ""
    row = row[_LABEL.match(row).end() :]
    digits = _BETWEEN.sub("", row.rstrip(" .\t\r\n"))
    is_row = set(digits) <= set("1234") and len(digits) % SIDE == 0
    return digits if is_row and len(digits) <= CELLS else None


def _whole(block: list[str]) -> str | None:
    """The last 16 digits of rows of equal length; None where there are fewer."""
    width = len(block[-1])
    count = CELLS // width if CELLS % width == 0 else 0
    rows = block[-count:]
    if not count or len(rows) < count or any(len(row) != width for row in rows):
        return None
    return "".join(rows)
