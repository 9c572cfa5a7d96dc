"""Finds the 4x4 grid in an answer, however its rows are drawn.

Work is linear in the length of a text.
"""

from collections.abc import Iterator
import re

SIDE = 4
CELLS = SIDE * SIDE

# Digits and separators share no character, so that a failed match tries nothing twice.
_RUN_OF_DIGITS = re.compile(r"(?<![0-9])[1-4](?:[ \t\r\n|,]{0,4}[1-4]){15}(?![0-9])")
# what ends a row besides the end of a line
_ROW_END = re.compile(r"\\\\(?:\[[^\]\n]{0,9}\])?|\]|;|(?<!<)/|<br ?/?>|</tr>")
# in this order; what stands there for a reader's eye
_DECORATION = tuple(
    re.compile(pattern)
    for pattern in (
        r"</?[a-z]{1,8}>|&nbsp;",
        r"\\(?:begin|end)\s*\{[a-z*]*\}(?:\{[clr|@ ]*\})?",
        r"\\(?:hline|left|right|quad|boxed|text|mathbf|,)(?![A-Za-z])|\\[\[\](){}]",
        r"```[a-z]*|[*`$'\"\u201c\u201d\u2018\u2019\ufe0f\u20e3]",
        r"[a-z_]+\s*[:=]\s*(?=\[)",
        r"(?<=[1-4])\s*[-\u2013]\s*(?=[1-4])",
    )
)
_LABEL = re.compile(
    r"[\s|>]*(?:[-+\u2022]\s+|[0-9][.)]\s+)?"
    r"(?:(?:row|line|r)\s*#?\s*(?:[0-9a-d]|one|two|three|four)\s*[:.)=|>\u2192-]+"
    r"|(?:first|second|third|fourth|last|[1-4](?:st|nd|rd|th))\s+row\s*[:=>\u2192-]+"
    r"|[a-d]\s*[:|])?",
    re.IGNORECASE,
)
_FRAME = re.compile(r"[\s|+=:_.,(){}\[\]\u2500-\u257f-]*")
_WIDE = {0xFF10 + digit: str(digit) for digit in range(10)}
_BETWEEN = re.compile(r"[\s|,&(){}\[\]\u2500-\u257f]+")


def grid_of(text: str) -> str | None:
    """The 16 digits, each 1 to 4, of the last whole grid of a text; None where there is none.

    A grid is a row of 16 digits that are written close together, or consecutive lines of 4, 8 or 16
    digits: of text, with bars and frames between them, of a table, of lists, of LaTeX, with names
    of the rows before them.
    """
    text = text.translate(_WIDE)
    block, last = [], (-1, None)  # rows so far; (where the grid ends, its digits)
    for end, row in _rows(text):
        digits = _digits_of(row)
        if digits is None or (not row.strip() and block and _whole(block)):
            block = []  # an empty line ends a grid that is whole
        elif digits:
            block.append(digits)
            last = (end, _whole(block)) if _whole(block) else last
    runs = list(_RUN_OF_DIGITS.finditer(text))
    if runs and runs[-1].end() > last[0]:
        return "".join(sign for sign in runs[-1][0] if "0" <= sign <= "9")
    return last[1]


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
