"""What is wrong with an input, told all at once: one line for each mistake."""

from collections.abc import Iterable, Iterator
import contextlib


class Mistakes(ValueError):
    """One or more mistakes; `lines` tells each."""

    def __init__(self, lines: Iterable[str]):
        self.lines = tuple(lines)
        super().__init__(" | ".join(self.lines))


def lines_of(error: BaseException) -> list[str]:
    """A line for each mistake that an error tells."""
    lines = error.lines if isinstance(error, Mistakes) else [str(error)]
    return [" ".join(line.split()) or type(error).__name__ for line in lines]


class Gathered:
    """Collects the mistakes of checks that do not need one another.

    Each check stands in a block `with gathered.check():`, which a ValueError ends early; `end()`
    raises all of them.
    """

    def __init__(self):
        self.lines: list[str] = []

    @contextlib.contextmanager
    def check(self, prefix: str = "") -> Iterator[None]:
        """A block whose ValueError is kept, its lines behind `prefix`."""
        try:
            yield
        except ValueError as error:
            self.lines += [prefix + line for line in lines_of(error)]

    def end(self) -> None:
        """Mistakes where there was one; each line is told once."""
        if self.lines:
            raise Mistakes(dict.fromkeys(self.lines)) from None


@contextlib.contextmanager
def prefixed(prefix: str) -> Iterator[None]:
    """A block whose ValueError becomes Mistakes, each line behind `prefix`."""
    gathered = Gathered()
    with gathered.check(prefix):
        yield
    gathered.end()
