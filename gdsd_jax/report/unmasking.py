"""Draws a completion in the terminal while it is unmasked: colours tell the order, from blue to
red.

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
            whole = column + 1 == len(step_map_G) or step_map_G[column + 1] == 0
            new = text[len(said) :] if whole or not text.endswith("\ufffd") else ""
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
        colour = COLOURS[min((step - 1) * len(COLOURS) // passes, len(COLOURS) - 1)]
        style = "\x1b[2m" if step == 0 else f"\x1b[38;5;{colour}m" + "\x1b[7m" * (step == newest)
        for character in text.expandtabs(4):
            columns = columns_of(character)
            if character == "\n" or used + columns > width:
                lines.append([])
                used = 0
            if columns:
                lines[-1].append((style, character))
                used += columns
    return [painted(line) for line in lines[-height:]]


def painted(line: Sequence[tuple[str, str]]) -> str:
    """The characters of (style, character), each run of one style between its codes."""
    runs = itertools.groupby(line, lambda pair: pair[0])
    return "".join(
        f"{style}{''.join(character for _, character in run)}\x1b[0m" for style, run in runs
    )


def columns_of(character: str) -> int:
    """Columns of the terminal that a character takes; control characters would move its cursor, and
    take none."""
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


class Drawing:
    """Draws the states of one completion one after another: in place on a terminal, else a line
    each.

    Args:
      passes: how many there may be, for the colours.
    """

    def __init__(self, tokenizer, passes: int, stream: TextIO):
        self.tokenizer, self.passes, self.stream = tokenizer, passes, stream
        self.drawn = 0  # lines of the last frame on the terminal

    def __call__(self, tokens_G: np.ndarray, step_map_G: np.ndarray) -> None:
        """A state; step 0 is a masked position."""
        newest, cells = int(step_map_G.max()), pieces(self.tokenizer, tokens_G, step_map_G)
        if self.stream.isatty():
            width, height = shutil.get_terminal_size()
            lines = frame(cells, newest, self.passes, width, max(1, height - 2))
            self.stream.write(
                (f"\x1b[{self.drawn}A\r" if self.drawn else "") + "\x1b[J" + "\n".join(lines) + "\n"
            )
            self.drawn = len(lines)
        else:
            text = "".join(text for text, _ in cells)
            self.stream.write(
                f"pass {newest}, {np.sum(step_map_G > 0)}/{len(step_map_G)}: {text!r}\n"
            )
        self.stream.flush()
