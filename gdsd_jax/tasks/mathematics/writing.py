r"""One way to write an answer out of many: signs of print, of keyboards, and of LaTeX.

`cleaned` leaves out what changes nothing; `as_latex` writes a formula as math-verify reads it.
"""

from fractions import Fraction
import re
import unicodedata

from gdsd_jax.tasks.mathematics import words

MOST_CHARACTERS = 400  # of an answer that is looked into

_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}  # full-width characters
_SIGNS = str.maketrans(
    _WIDE
    | {
        "−": "-",
        "–": "-",
        "—": "-",
        "∕": "/",
        "\u2044": "/",
        "’": "'",
        "‘": "'",
        "Ω": " ohm",
        "。": ".",
        "µ": "u",
        "μ": "u",
    }
    | dict.fromkeys("“”„«»", '"')
    | dict.fromkeys("£€¥₹₩¢", "$")
    | {"\u00a0": " ", "\u2007": " ", "\u2009": " ", "\u202f": " ", "\u200b": ""}
)
_VULGAR = re.compile("[\u00bc-\u00be\u2150-\u215e]")
# praise; crosses say that an answer is wrong
_PRAISE = "[\u2713\u2714\u2705\u2611\u2728\u2b50\U0001f389\U0001f38a\U0001f44d\U0001f4af\ufe0f]"
_LOWERED = re.compile("(?<=[0-9])[\u2080-\u2089]+")
_BASE = re.compile(
    r"(?<=[0-9])(?:\s*_\s*\{?\s*(?:\\text\s*\{\s*)?(?:base[\s-]*\}?)?"
    r"|\s*\\text\s*\{\s*\(?(?:in\s+)?base[\s-]*\}?"
    r"|\s+(?:in\s+)?base[\s-]+|\s*\(base\s+)"
    rf"\s*\(?\s*(?P<base>[0-9]+|{'|'.join(list(words.SPELT)[2:17])})(?![A-Za-z0-9])[\s}})]*",
    re.IGNORECASE,
)


def _by_commas(hit: re.Match) -> str:
    """1 080 000 as 1,080,000."""
    return hit[1].replace(" ", ",")


def _repeating(hit: re.Match) -> str:
    r"""0.1\overline{6} as a fraction."""
    whole, once, again = (hit[name] or "" for name in ("whole", "once", "again"))
    bottom = (10 ** len(again) - 1) * 10 ** len(once)
    top = int(whole + once + again) - int(whole + once or "0")
    return rf"\frac{{{top}}}{{{bottom}}}"


def _in_base(hit: re.Match) -> str:
    base = hit["base"].lower()
    return f"_{words.SPELT.get(base, base)}"


def _split_vulgar(text: str) -> str:
    r"""A text with \frac{1}{2} for the sign of one half, and so on."""
    return _VULGAR.sub(
        lambda hit: r"\frac{{{}}}{{{}}}".format(
            *unicodedata.normalize("NFKC", hit[0]).split("\u2044")
        ),
        text,
    )


# In this order. A space that is printed between three digits is a separator.
_CLEANED = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"(?<=[0-9])(?:\\[,!]|\{,\}|[\u00a0\u2009\u202f'\u2019])(?=[0-9]{3}(?![0-9]))", ","),
        (rf"\\[!,]|</?[a-z]{{1,6}}>|\s*{_PRAISE}+$|^{_PRAISE}+\s*", ""),
        (r"(?i)(?<=[0-9\s])([ap])\.\s?m\b\.?", r"\1m"),
        (r"\\[;: ]|~|\\q?quad(?![A-Za-z])", " "),
        # thousands apart by a plain space, but for mixed numbers such as 1 100/3
        (r"(?<![0-9.,])([0-9]{1,3}(?: [0-9]{3})+)(?![0-9]|\s*[/\\])", _by_commas),
        (
            r"(?P<whole>[0-9]*)\.(?P<once>[0-9]*)\\(?:overline|bar|dot)\s*"
            r"\{?(?P<again>(?<=\{)[0-9]+(?=\})|(?<!\{)[0-9])\}?",
            _repeating,
        ),
        # 0.1(6), which is no product as 2.5(3) is, and 0.333...
        (
            r"(?<![0-9.,])(?P<whole>[0-9]*(?=\.\()|0?)\.(?P<once>[0-9]*)\((?P<again>[0-9]+)\)"
            r"(?![0-9A-Za-z\\(^])",
            _repeating,
        ),
        (
            r"(?<![0-9.,])(?P<whole>[0-9]*)\.(?P<once>[0-9]*?)(?P<again>[0-9])(?P=again){2,}"
            r"(?:\.\.\.|\u2026|\\[lc]?dots(?![A-Za-z]))$",
            _repeating,
        ),
        (r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])", ""),
        (r"^#{2,}\s*|\s*\\\\\s*$|^\\boxed\s*\{(?=[^{}]*$)", ""),
        (r"(?<![0-9A-Za-z)}*])\*\*([^\s*](?:[^*]*[^\s*])?)\*\*(?![0-9A-Za-z({\\*])", r"\1"),
        (r"\^\s*\{?\s*(?:\\(?:text|mathrm)\s*\{)?\s*(st|nd|rd|th)\s*\}{0,2}", r"\1"),
        # brackets around the digits of another base
        (r"(?<![0-9A-Za-z])\(\s*([0-9]+)\s*\)(?=\s*[_\u2080-\u2089])", r"\1"),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\displaystyle(?![A-Za-z])", ""),
        (r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|°|\\degrees?(?![A-Za-z])", " degrees"),
        (r"\\([$%])", r"\1"),
        (r"(?<![A-Za-z])(?:US|CA?|AU?|NZ|HK|SG?|R|NT|MX)\s?\$(?=\s*[-+]?[0-9.])", "$"),
    )
)
_AROUND = (
    *(("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("__", "__")),
    *(("*", "*"), ("_", "_"), ("```", "```"), ("`", "`"), ("``", "''"), ('"', '"'), ("'", "'")),
)
_WRAPPED = re.compile(
    r"(?:\\(?:text(?:bf|rm|it)?|emph|math(?:rm|bf)|boldsymbol|mbox|underline"
    r"|(?:textcolor|color)\s*\{[a-z]+\})|\\?boxed)\s*\{([^{}]*)\}"
)

_LETTER = re.compile("[A-Za-z]")
_NEARLY = re.compile(r"\\(?:approx|simeq|sim|cong|doteq)(?![A-Za-z])|[≈≃∼≅]|^[\s$]*(?:\\\()?\s*~")
_PRINTED = str.maketrans(
    _WIDE
    | {"\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u22c5": r"\cdot ", "\u00f7": "/"}
    | {"\u2212": "-", "\u2013": "-"}
    | {"\u221e": r"\infty ", "\u03c0": r"\pi ", "\u00b1": r"\pm ", "\u2213": r"\mp "}
)
_RAISED = re.compile("[\u207a\u207b]?[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207f]+")
_NAMES = re.compile(r"(?<![A-Za-z\\])(pi|inf|infty|infinity)(?![A-Za-z])")
_POWERS = re.compile(
    r"(?<=[0-9A-Za-z)}])\s*(?:\*\*\s*(-?[0-9]+(?:\.[0-9]+)?|[A-Za-z](?![A-Za-z]))"
    r"|\^\s*(-?[0-9]+(?:\.[0-9]+)?))"
)
_UNION = re.compile(r"(?<=[)\]])\s*[U\u222a]\s*(?=[(\[])")
_JOINED = re.compile(
    r"\\(?:textrm|mathrm|mbox)\s*\{\s*(?P<word>or|and)\s*\}|\\(?:lor|vee)(?![A-Za-z])"
)
_DECIMAL_POWER = re.compile(r"\^\{\s*(-?[0-9]*\.[0-9]+)\s*\}")
_ROOT = re.compile(r"\u221a|(?<![A-Za-z\\])sqrt(?![A-Za-z]{2})")
_SHORT_ROOT = re.compile(r"\\sqrt\s*([0-9])(?![0-9])")
_ARGUMENT = re.compile(r"\s*(?:\\[A-Za-z]+|[0-9A-Za-z])")
_UNDER = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?|\\pi(?![A-Za-z])|[A-Za-z](?![A-Za-z]))")


def exact_side(answer: str) -> str:
    r"""Of 22/7 \approx 3.14 the exact side; "" where there is none."""
    return _NEARLY.split(answer)[0]


def is_near(text: str) -> bool:
    """Whether a text says that something is only about so."""
    return _NEARLY.search(text) is not None


def cleaned(answer: str) -> str:
    r"""An answer without what changes nothing: signs of mathematics mode, \left, thin spaces.

    Also without \text{} around the whole of it.
    """
    answer = _split_vulgar(answer.strip())
    for pattern, new in _CLEANED[:1]:
        answer = pattern.sub(new, answer)
    answer = answer.translate(_SIGNS)
    for pattern, new in _CLEANED[1:]:
        answer = pattern.sub(new, answer)
    for _ in range(4):  # such as $\text{$5$}$
        inner = _unwrapped(answer.strip())
        if inner == answer:
            break
        answer = inner
    answer = _LOWERED.sub(lambda hit: "_" + unicodedata.normalize("NFKC", hit[0]), answer)
    return _BASE.sub(_in_base, answer)


def without_text(answer: str) -> str:
    r"""A cleaned answer with the words of its \text{} groups as they stand: 5 hours for
    5\text{ hours}."""
    for _ in range(4):  # \textbf{\text{...}}
        answer = _WRAPPED.sub(
            lambda hit: f" {hit[1]} " if _LETTER.search(hit[1]) else hit[0], answer
        )
    return " ".join(answer.split())


def _unwrapped(answer: str) -> str:
    """An answer without one pair of what stands around all of it."""
    for begin, end in _AROUND:
        inner = answer[len(begin) : len(answer) - len(end)]
        is_around = answer.startswith(begin) and answer.endswith(end)
        if is_around and len(answer) > len(begin) + len(end) and begin not in inner:
            return inner.strip()
    wrapped = _WRAPPED.fullmatch(answer)
    return answer if wrapped is None else wrapped[1].strip()


def as_latex(answer: str) -> str:
    """An answer that is no number as math-verify understands it: powers by ^, no approximation."""
    answer = exact_side(answer.translate(_PRINTED)) or answer
    answer = _split_vulgar(answer.rstrip().removesuffix("."))
    answer = _UNION.sub(r" \\cup ", _RAISED.sub(_raised, answer))
    # math-verify knows the words in \text{} alone
    answer = _JOINED.sub(lambda hit: rf"\text{{ {hit['word'] or 'or'} }}", answer)
    answer = _NAMES.sub(lambda hit: r"\pi " if hit[1] == "pi" else r"\infty ", answer)
    answer = _with_arguments(_with_roots(_SHORT_ROOT.sub(r"\\sqrt{\1}", answer)))
    answer = _POWERS.sub(lambda hit: f"^{{{hit[1] or hit[2]}}}", answer)
    answer = _with_brackets(answer)
    return _DECIMAL_POWER.sub(_as_fraction, answer)


def _raised(hit: re.Match) -> str:
    digits = unicodedata.normalize("NFKC", hit[0]).replace("\u2212", "-")
    return f"^{{{digits}}}"


def _as_fraction(hit: re.Match) -> str:
    value = Fraction(hit[1])
    sign = "-" if value < 0 else ""
    return rf"^{{{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}}}"


def _with_roots(text: str) -> str:
    r"""A text with \sqrt{} for signs and names of roots, the innermost first."""
    for hit in reversed(list(_ROOT.finditer(text))):
        rest = text[hit.end() :].lstrip()
        end = _closed_at(rest)
        under = _UNDER.match(rest)
        if end is not None:
            inside, rest = rest[1:end], rest[end + 1 :]
        elif under is not None:
            inside, rest = under[1], rest[under.end() :]
        else:
            continue
        text = rf"{text[: hit.start()]}\sqrt{{{inside}}}{rest}"
    return text


def _with_arguments(text: str) -> str:
    r"""A text with braces for those that \frac\pi4 goes without, the innermost first."""
    for hit in reversed(list(re.finditer(r"\\[dtc]?frac(?![A-Za-z])", text))):
        place, found = hit.end(), []
        for _ in range(2):
            rest = text[place:]
            begin = len(rest) - len(rest.lstrip())
            end = _closed_at(rest[begin:]) if rest[begin:].startswith("{") else None
            short = _ARGUMENT.match(rest)
            if end is not None:
                found.append(rest[begin + 1 : begin + end])
                place += begin + end + 1
            elif short is not None:
                found.append(short[0].strip())
                place += short.end()
        if len(found) == 2:
            text = rf"{text[: hit.start()]}\frac{{{found[0]}}}{{{found[1]}}}{text[place:]}"
    return text


def _with_brackets(text: str) -> str:
    """A text with braces for the brackets around a power."""
    for hit in reversed(list(re.finditer(r"(?:\^|\*\*)\s*(?=\()", text))):
        rest = text[hit.end() :]
        end = _closed_at(rest)
        if end is not None:
            text = f"{text[: hit.start()]}^{{{rest[1:end]}}}{rest[end + 1 :]}"
    return text


def _closed_at(text: str) -> int | None:
    """Where the bracket that a text begins with is closed; None without one."""
    if text[:1] not in ("(", "{"):
        return None
    begin, end = text[0], ")" if text[0] == "(" else "}"
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign == begin) - (sign == end)
        if depth == 0:
            return place
    return None
