"""What a program is at right now, for the one who waits for it.

Long work stands in a block `with phase("loading weights"):`, which by itself says nothing. Inside
`shown(stream)` a thread tells the open phases: on a terminal in a live line, elsewhere in a line of
its own whenever nothing has been said for `QUIET_S` seconds. It asks no device and no file. Lines
are said by `say`, so that they do not tear the live one.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import os
import shutil
import sys
import threading
import time
from typing import Any, TextIO

from tqdm import tqdm

QUIET_S = 30.0  # the longest silence where there is no terminal
REDRAW_S = 0.25  # between two drawings of the live line
BAR = 16  # columns of its bar

_open: list["Phase"] = []  # of all threads, the innermost last
_last_s: dict[str, float] = {}  # phase -> seconds that it took the last time
_screens: list["_Screen"] = []  # of the blocks `shown` that are open, the innermost last


class Phase:
    """Work that goes on: its name, since when, and how many of its parts are done."""

    def __init__(self, name: str, parts: int | None):
        self.name, self.parts, self.done = name, parts, 0
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has gone on."""
        return time.monotonic() - self.began

    @property
    def is_counted(self) -> bool:
        """Whether its parts tell more than that it goes on."""
        return self.parts is not None and self.parts > 1

    @property
    def share(self) -> float | None:
        """How much of it is done, 0..1: by its parts, or by the time that it took the last time.
        None where neither is known."""
        if self.is_counted:
            return min(self.done / self.parts, 1.0)
        before = _last_s.get(self.name)
        return min(self.seconds / before, 1.0) if before else None


@contextlib.contextmanager
def phase(name: str, parts: int | None = None) -> Iterator[Callable[[], None]]:
    """A block of long work, perhaps inside another one.

    Args:
      name: what is done, such as "rollout".
      parts: how many equal parts it has; None: not known.

    Yields a function that is to be called when a part is done, from any thread.
    """
    here, lock = Phase(name, parts), threading.Lock()

    def step() -> None:
        with lock:
            here.done += 1

    _open.append(here)
    try:
        yield step
    finally:
        _open.remove(here)
        _last_s[name] = here.seconds


def counted(parts: Sequence[Any], name: str) -> Iterator[Any]:
    """The parts one after the other, as a phase that counts them."""
    with phase(name, len(parts)) as step:
        for part in parts:
            yield part
            step()


def say(line: str) -> None:
    """Prints a line, where the phases are told; where they are not, on stdout."""
    if _screens:
        _screens[-1].say(line)
    else:
        print(line, flush=True)


@contextlib.contextmanager
def shown(stream: TextIO | None = None) -> Iterator[None]:
    """A block in which open phases are told on the stream, by default stdout."""
    screen = _Screen(sys.stdout if stream is None else stream)
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(screen, done), daemon=True)
    _screens.append(screen)
    thread.start()
    try:
        yield
    finally:
        done.set()
        _screens.remove(screen)
        thread.join()
        screen.close()


def _watch(screen: "_Screen", done: threading.Event) -> None:
    """Tells the open phases until the block ends, or nobody reads the stream any more."""
    with contextlib.suppress(OSError, ValueError):
        while not done.wait(REDRAW_S):
            screen.tell(list(_open))


class _Screen:
    """Where the lines go."""

    def __init__(self, stream: TextIO):
        self.stream, self.spoke = stream, time.monotonic()
        self.lock = threading.RLock()
        self.live = None
        if stream.isatty() and os.environ.get("TERM") != "dumb":
            tqdm.set_lock(self.lock)  # its own would be one between processes
            self.live = tqdm(file=stream, leave=False, bar_format="{desc}")

    def say(self, line: str) -> None:
        """Prints a line."""
        with self.lock:
            self.spoke = time.monotonic()
            if self.live is None:
                print(line, file=self.stream, flush=True)
            else:
                tqdm.write(line, file=self.stream)
                self.stream.flush()

    def tell(self, phases: list[Phase]) -> None:
        """Draws the phases, or says them where it has been quiet for long."""
        with self.lock:
            if self.live is not None:
                width = shutil.get_terminal_size().columns - 1
                self.live.set_description_str(self.drawn(phases)[:width])
            elif phases and time.monotonic() - self.spoke >= QUIET_S:
                self.say(f"{names_of(phases)}, {time_of(phases[-1])}")

    def drawn(self, phases: list[Phase]) -> str:
        """The live line; empty where nothing goes on."""
        if not phases:
            return ""
        bar, share = "", phases[-1].share
        if share is not None:
            told = tqdm.format_meter(
                share, 1.0, 0, ncols=BAR, ascii=self.live.ascii, bar_format="{bar}"
            )
            bar = f" |{told}|"
        return f"{names_of(phases)}{bar} {time_of(phases[-1])}"

    def close(self) -> None:
        """Takes the live line away."""
        with self.lock:
            if self.live is not None:
                self.live.close()


def names_of(phases: list[Phase]) -> str:
    """The phases, the innermost last and with its parts."""
    here = phases[-1]
    parts = f" [{here.done}/{here.parts}]" if here.is_counted else ""
    return ": ".join(one.name for one in phases) + parts


def time_of(here: Phase) -> str:
    """How long a phase has gone on, and how long it took the last time."""
    before = _last_s.get(here.name)
    last = ""
    if before is not None and before >= 1:
        last = f" (the last one took {tqdm.format_interval(before)})"
    return f"{tqdm.format_interval(here.seconds)}{last}"
