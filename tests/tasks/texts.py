"""Texts that a scorer must bear: bits of answers thrown together, and long ones of one kind."""

from collections.abc import Iterator
import random
import time

PIECES = (
    ("<answer>", "</answer>", "<reasoning>", "</reasoning>", "<answer", "answer>")
    + ("<|eot_id|>", "<|endoftext|>", "```", "`", "\\boxed{", "\\boxed ", "\\boxed", "\\fbox{")
    + ("{", "}", "$", "\\times", "\\div", "\\frac{1}{2}", "\\(", "\\left(", "×", "÷", "−")
    + (" ", "\n", "\t", "\r\n", "\x00", "\u2028", "\x1c", "=", " = 24", "(", ")", "((", "))")
    + ("+", "-", "*", "/", "**", "//", ".", ",", "|", "_", "e9", "j", "x", "if", "__import__('os')")
    + ("1", "2", "3", "4", "0", "25", "100", "9" * 40, "1234341221434321", "0204032001400402")
    + ("²", "٣", "१२", "\ud800", "🙂", "3-1*4", "2*4-3", "99**99**99", "1/0", "0.5", "...")
)
LONG = (  # (unit, times): each makes a naive search or parser slow, or overflows a stack
    ("<answer>", 100_000),
    ("</answer>", 100_000),
    ("<answer>1</answer>", 50_000),
    ("<answer>```", 50_000),
    ("``` ", 100_000),
    ("1", 1_000_000),
    ("1 ", 500_000),
    ("1  ", 300_000),
    (" ", 1_000_000),
    ("1+", 300_000),
    ("(", 300_000),
    ("-", 300_000),
    ("=", 300_000),
    ("\\boxed{", 100_000),
    ("\\boxed ", 100_000),
    ("{", 300_000),
    ("<|eot_id|>", 100_000),
    ("9**", 100_000),
)


def thrown_together(count: int, seed: int) -> Iterator[str]:
    """`count` texts of up to 60 pieces."""
    rng = random.Random(seed)
    for _ in range(count):
        yield "".join(rng.choices(PIECES, k=rng.randint(0, 60)))


def long_ones() -> Iterator[str]:
    """Texts of about a million characters, bare and where an answer belongs."""
    for unit, times in LONG:
        text = unit * times
        for frame in ("{}", "<answer>{}", "<answer>{}</answer>", "{}</answer>", "\\boxed{{{}}}"):
            yield frame.format(text)
        yield f"<answer>```{text}"


def reasoned(count: int) -> list[str]:
    """`count` answers of about 1,000 characters, which are some 256 tokens, and an ending each."""
    rng = random.Random(0)
    line = "The first row is 1 0 0 4, so 8 * 3 = 24 and (8 - 4) + 3 = 7 are left to try.\n"
    return [
        line * 11 + f"</reasoning>\n<answer>\n{''.join(rng.choices(PIECES, k=8))}\n</answer>"
        for _ in range(count)
    ]


def seconds_of(call) -> float:
    """Processor seconds of a call at a `pace` of one, so that a busy machine changes little."""
    before, began = pace(), time.process_time()
    call()
    own = time.process_time() - began
    return own * (before + pace()) / 2


def pace() -> float:
    """How fast a plain loop goes just now: one at 40 million turns a processor second."""
    began, turns = time.process_time(), 200_000
    for _ in range(turns):
        pass
    return turns / 40e6 / (time.process_time() - began)
