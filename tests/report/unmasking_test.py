"""The drawing: what it says of a state, and what it does on a terminal."""

import io
import re
from types import SimpleNamespace

import numpy as np

from gdsd_jax.report import unmasking

TOKENIZER = SimpleNamespace(  # a token is a byte; 0 ends the answer
    stop_ids=(0,), decode=lambda ids: bytes(i for i in ids if i).decode("utf-8", errors="replace")
)
HOLE, END = unmasking.HOLE, unmasking.END


def plain(line: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", line)


def test_pieces_hold_characters_back_until_they_are_whole():
    smile = list("\U0001f600".encode())
    tokens, steps = [97, *smile, 98, 0, 99], [2, 1, 1, 3, 1, 2, 1, 4]
    assert unmasking.pieces(TOKENIZER, tokens, steps) == [
        ("a", 2),
        ("", 1),
        ("", 1),
        ("", 3),
        ("\U0001f600", 1),
        ("b", 2),
        (END, 1),
    ]
    steps[3] = 0  # a byte of it is still masked: what is there cannot be read
    found = unmasking.pieces(TOKENIZER, tokens, steps)
    assert found[3] == (HOLE, 0) and [text for text, _ in found[:3]] == ["a", "", "\ufffd"]
    assert unmasking.pieces(TOKENIZER, [5, 5], [0, 0]) == [(HOLE, 0)] * 2


def test_frames_fit_the_terminal():
    cells = [("ab\tc", 1), (HOLE, 0), ("\n\u4f60\u597d\x1b\x07", 4), ("e\u0301", 4)]
    lines = unmasking.frame(cells, newest=4, passes=4, width=6, height=10)
    # nothing that moves the cursor
    assert [plain(line) for line in lines] == ["ab  c" + HOLE, "\u4f60\u597de"]
    assert [plain(line) for line in unmasking.frame(cells, 4, 4, width=4, height=2)] == [
        "c" + HOLE,
        "\u4f60\u597d",
        "e",
    ][-2:]
    assert (
        f"\x1b[38;5;{unmasking.COLOURS[0]}mab" in lines[0] and "\x1b[7m" not in lines[0]
    )  # oldest
    assert "\x1b[7m\u4f60\u597d" in lines[1] and f"\x1b[2m{HOLE}" in lines[0]  # newest, masked
    # more passes than were planned
    late = unmasking.frame([("x", 9)], newest=1, passes=4, width=6, height=1)
    assert late == [f"\x1b[38;5;{unmasking.COLOURS[-1]}mx\x1b[0m"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_is_drawn_in_place():
    stream = Terminal()
    drawing = unmasking.Drawing(TOKENIZER, 3, stream)
    drawing(np.array([97, 1, 98]), np.array([1, 0, 1]))
    drawing(np.array([97, 10, 98]), np.array([1, 2, 1]))
    drawing(np.array([97, 10, 98]), np.array([1, 2, 1]))
    frames = [plain(part) for part in stream.getvalue().split("\x1b[J")]
    assert frames == ["", f"a{HOLE}b\n\x1b[1A\r", "a\nb\n\x1b[2A\r", "a\nb\n"]


def test_elsewhere_a_state_is_a_line():
    stream = io.StringIO()
    drawing = unmasking.Drawing(TOKENIZER, 3, stream)
    drawing(np.array([97, 1, 10]), np.array([1, 0, 3]))
    assert stream.getvalue() == f"pass 3, 2/3: 'a{HOLE}\\n'\n"
