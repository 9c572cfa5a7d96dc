"""Draws a completion in the terminal while it is unmasked; colours tell the order, blue to red.

G completion columns.
"""

from collections.abc import Sequence
import itertools
import shutil
from typing import TextIO
import unicodedata

import numpy as np

HOLE, END = "\u2591", "\u25a0"  # a masked position; the token that ends the answer
# of a 256-colour terminal
COLOURS = (27, 33, 39, 45, 51, 49, 47, 82, 118, 154, 190, 226, 220, 214, 208, 202, 196)
DIM, INVERTED, PLAIN = "\x1b[2m", "\x1b[7m", "\x1b[0m"


def pieces(tokenizer, tokens_G: Sequence[int], step_map_G: Sequence[int]) -> list[tuple[str, int]]:
    """(text, pass) of each position up to the end of the answer; a masked one is (HOLE, 0).

    A character spelled by several tokens appears with the last of them, once all are there.
    """
    found, known, said = [], [], ""
    for column, (token, step) in enumerate(zip(map(int, tokens_G), map(int, step_map_G))):
        if step == 0:
            found.append((HOLE, 0))
            known, said = [], ""
        elif token in tokenizer.stop_ids:
            return [*found, (END, step)]
        else:
            known.append(token)
            text = tokenizer.decode(known)
            last = column + 1 == len(step_map_G) or step_map_G[column + 1] == 0
            new = ""
            if last or not text.endswith("\ufffd"):
                new = text[len(said) :]
            said += new
            found.append((new, step))
    return found


def frame(
    cells: Sequence[tuple[str, int]], newest: int, passes: int, width: int, height: int
) -> list[str]:
    """The last `height` lines of the answer, wrapped at `width`; the newest pass's tokens are shown
    inverted."""
    lines, used = [[]], 0  # of (style, character)
    for text, step in cells:
        style = style_of(step, newest, passes)
        for character in text.expandtabs(4):
            columns = columns_of(character)
            if character == "\n" or used + columns > width:
                lines.append([])
                used = 0
            if columns:
                lines[-1].append((style, character))
                used += columns
    return [painted(line) for line in lines[-height:]]


def style_of(step: int, newest: int, passes: int) -> str:
    """The terminal's codes for a token of pass `step`; 0 is a masked position."""
    if step == 0:
        return DIM
    colour = COLOURS[min((step - 1) * len(COLOURS) // passes, len(COLOURS) - 1)]
    style = f"\x1b[38;5;{colour}m"
    return style + INVERTED if step == newest else style


def painted(line: Sequence[tuple[str, str]]) -> str:
    """The characters of (style, character), each run of one style between its codes."""
    runs = itertools.groupby(line, lambda pair: pair[0])
    return "".join(
        f"{style}{''.join(character for _, character in run)}{PLAIN}" for style, run in runs
    )


def columns_of(character: str) -> int:
    """Columns of the terminal that a character takes.

    Control characters would move its cursor: they take none and are not drawn.
    """
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


class Drawing:
    """Draws the states of one completion one after another.

    They are drawn in place on a terminal, elsewhere each is a line.

    Args:
      tokenizer: `decode` and `stop_ids` are used.
      passes: how many there may be, for the colours.
      stream: what is written to.
    """

    def __init__(self, tokenizer, passes: int, stream: TextIO):
        self.tokenizer = tokenizer
        self.passes = passes
        self.stream = stream
        self.drawn = 0  # lines of the last frame on the terminal

    def __call__(self, tokens_G: np.ndarray, step_map_G: np.ndarray) -> None:
        """A state; step 0 is a masked position."""
        newest, cells = int(step_map_G.max()), pieces(self.tokenizer, tokens_G, step_map_G)
        if self.stream.isatty():
            width, height = shutil.get_terminal_size()
            lines = frame(cells, newest, self.passes, width, max(1, height - 2))
            if self.drawn:
                self.stream.write(f"\x1b[{self.drawn}A\r")
            self.stream.write("\x1b[J" + "\n".join(lines) + "\n")
            self.drawn = len(lines)
        else:
            text = "".join(text for text, _ in cells)
            known = f"{np.sum(step_map_G > 0)}/{len(step_map_G)}"
            self.stream.write(f"pass {newest}, {known}: {text!r}\n")
        self.stream.flush()
