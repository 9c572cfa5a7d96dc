"""What is wrong with an input, told all at once: one line for each mistake."""

from collections.abc import Iterable, Iterator
import contextlib


class Mistakes(ValueError):
    """One or more mistakes; `lines` tells each."""

    def __init__(self, lines: Iterable[str]):
        self.lines = tuple(lines)
        super().__init__(" | ".join(self.lines))


def one_line(error: BaseException, most: int = 200) -> str:
    """An error's message as a part of a line, of at most so many characters."""
    return " ".join(str(error).split())[:most]


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
    def check(self, prefix: str = "", suffix: str = "") -> Iterator[None]:
        """A block whose ValueError is kept, its lines between `prefix` and `suffix`."""
        try:
            yield
        except ValueError as error:
            self.lines += [prefix + line + suffix for line in lines_of(error)]

    def end(self) -> None:
        """Mistakes where there was one; each line is told once."""
        if self.lines:
            raise Mistakes(dict.fromkeys(self.lines)) from None


@contextlib.contextmanager
def prefixed(prefix: str, suffix: str = "") -> Iterator[None]:
    """A block whose ValueError becomes Mistakes, each line between `prefix` and `suffix`."""
    gathered = Gathered()
    with gathered.check(prefix, suffix):
        yield
    gathered.end()


def check_choices(config, **choices: Iterable) -> None:
    """Mistakes naming the fields whose values are not among those allowed."""
    wrong = Gathered()
    for key, allowed in choices.items():
        value = getattr(config, key)
        if value not in (known := tuple(allowed)):
            wrong.lines.append(f"{key}={value!r}: choose one of {', '.join(map(str, known))}")
    wrong.end()


def check_share(config, key: str, span: str = "[0, 1]") -> None:
    """ValueError unless the field lies in a span from 0 to 1, such as "(0, 1]"."""
    value = getattr(config, key)
    above = value > 0 or (value == 0 and span[0] == "[")
    below = value < 1 or (value == 1 and span[-1] == "]")
    if not (above and below):
        raise ValueError(f"{key}={value} must lie in {span}")


def check_least(config, **least: float) -> None:
    """Mistakes naming the fields below their least values."""
    wrong = Gathered()
    for key, value in least.items():
        if not getattr(config, key) >= value:  # nan is not, either
            wrong.lines.append(f"{key}={getattr(config, key)} must be at least {value}")
    wrong.end()
