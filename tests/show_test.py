"""The drawing: what it says of a state, what it does on a terminal, and that watching changes no token."""
import io
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from gdsd_jax import models, sampling, show
from gdsd_jax.types import Prompts
from tests.reference import random_params, tiny

TOKENIZER = SimpleNamespace(  # a token is a byte; 0 ends the answer
    stop_ids=(0,), decode=lambda ids: bytes(i for i in ids if i).decode("utf-8", errors="replace")
)
HOLE, END = show.HOLE, show.END


def plain(line: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", line)


def test_pieces_hold_characters_back_until_they_are_whole():
    smile = list("\U0001f600".encode())
    tokens, steps = [97, *smile, 98, 0, 99], [2, 1, 1, 3, 1, 2, 1, 4]
    assert show.pieces(TOKENIZER, tokens, steps) == [("a", 2), ("", 1), ("", 1), ("", 3), ("\U0001f600", 1), ("b", 2), (END, 1)]
    steps[3] = 0  # a byte of it is still masked: what is there cannot be read
    found = show.pieces(TOKENIZER, tokens, steps)
    assert found[3] == (HOLE, 0) and [text for text, _ in found[:3]] == ["a", "", "\ufffd"]
    assert show.pieces(TOKENIZER, [5, 5], [0, 0]) == [(HOLE, 0)] * 2


def test_frames_fit_the_terminal():
    cells = [("ab\tc", 1), (HOLE, 0), ("\n\u4f60\u597d\x1b\x07", 4), ("e\u0301", 4)]
    lines = show.frame(cells, newest=4, passes=4, width=6, height=10)
    assert [plain(line) for line in lines] == ["ab  c" + HOLE, "\u4f60\u597de"]  # nothing that moves the cursor
    assert [plain(line) for line in show.frame(cells, 4, 4, width=4, height=2)] == ["c" + HOLE, "\u4f60\u597d", "e"][-2:]
    assert f"\x1b[38;5;{show.COLOURS[0]}mab" in lines[0] and "\x1b[7m" not in lines[0]  # oldest
    assert "\x1b[7m\u4f60\u597d" in lines[1] and f"\x1b[2m{HOLE}" in lines[0]  # newest, masked
    late = show.frame([("x", 9)], newest=1, passes=4, width=6, height=1)  # more passes than were planned
    assert late == [f"\x1b[38;5;{show.COLOURS[-1]}mx\x1b[0m"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_is_drawn_in_place_and_overtaken_frames_are_left_out():
    stream = Terminal()
    drawing = show.Drawing(TOKENIZER, 3, stream)
    drawing(np.array([[97, 1, 98]]), np.array([[1, 0, 1]]))
    drawing(np.array([[97, 10, 98]]), np.array([[1, 2, 1]]))
    before = stream.getvalue()
    drawing(np.array([[97, 1, 98]]), np.array([[1, 0, 1]]))
    assert stream.getvalue() == before
    assert [plain(part) for part in before.split("\x1b[J")] == ["", f"a{HOLE}b\n\x1b[1A\r", "a\nb\n"]
    drawing.begin()
    drawing(np.array([[97, 1, 1]]), np.array([[1, 0, 0]]))
    assert stream.getvalue()[len(before) :].startswith("\x1b[J")  # below the last one


def test_watching_changes_nothing_and_sees_every_pass():
    config = tiny(stop_ids=(5,))
    denoiser, params = models.make_denoiser(config), random_params(config, seed=6)
    settings = sampling.SamplerConfig(gen_length=12, block_length=4, steps=12)
    prompts = Prompts(jnp.full((2, 3), 7), jnp.ones((2, 3), bool), jnp.array([0.0, 1.0]), max_length_B=jnp.array([12, 9]))
    rng_B, seen = jax.random.split(jax.random.key(1), 2), []
    watch = lambda tokens, steps: seen.append((np.asarray(tokens), np.asarray(steps)))  # noqa: E731
    rollout = sampling.make_rollout_fn(denoiser, settings)(params, prompts, rng_B)
    watched = jax.block_until_ready(sampling.make_rollout_fn(denoiser, settings, watch)(params, prompts, rng_B))
    jax.effects_barrier()
    jax.tree.map(np.testing.assert_array_equal, watched, rollout)
    assert len(seen) == int(rollout.passes_B.max())
    seen.sort(key=lambda state: int((state[1] > 0).sum()))
    for row in range(2):
        for number, (tokens, steps) in enumerate(seen, 1):
            shown = (steps[row] > 0) & (np.arange(12) < int(rollout.length_B[row]))
            known = np.asarray(rollout.step_map_BxG[row])
            assert np.array_equal(shown, (known > 0) & (known <= number))
            assert np.array_equal(tokens[row][shown], np.asarray(rollout.tokens_BxG[row])[shown])
