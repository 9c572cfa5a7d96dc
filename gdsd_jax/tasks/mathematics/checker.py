"""Compares final answers: numbers and equal texts at once, all others by math-verify.

math-verify runs in processes of its own (`worker.py`), since it may hang, and sets signals.
"""

from collections.abc import Sequence
import importlib.util
import pathlib

from gdsd_jax.tasks.judges import LIMIT_S, WALL_S, Judge, Judges
from gdsd_jax.tasks.mathematics import sentences, verdicts, writing

MEND = "pip install 'math-verify>=0.8' (requirements.txt names it)"
JUDGE = Judge(pathlib.Path(__file__).with_name("worker.py"), "math-verify", MEND, failed=False)


class Checker(Judges):
    """Judges answers; closed by `close` or `with`, may be called from several threads.

    Processes start when the first answer needs one, and again after a loss.
    """

    def __init__(self, workers: int = 2, limit_s: float = LIMIT_S, wall_s: float = WALL_S):
        super().__init__(JUDGE, workers, limit_s, wall_s)

    def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """Whether each (gold, answer) is the same; None where no verdict was possible.

        What takes more than `limit_s` of processor time or too much memory is not the same. None
        is left for an answer that two processes were lost to, by something from outside.

        Raises:
          JudgesError: no process can be started.
        """
        found = {}
        for pair in pairs:
            if pair not in found:
                found[pair] = verdicts.decide(*pair)
        open_pairs = [pair for pair, verdict in found.items() if verdict is None]
        asked = [tuple(map(writing.as_latex, sentences.alike(*pair))) for pair in open_pairs]
        found.update(zip(open_pairs, self.ask(asked)))
        return [found[pair] for pair in pairs]


def check_installed() -> None:
    """ValueError where math-verify is not installed; does not import it, which takes seconds."""
    if importlib.util.find_spec("math_verify") is None:
        raise ValueError(f"answers in mathematics are compared by math-verify: {MEND}")
