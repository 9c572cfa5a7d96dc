"""What each constraint asks of a text, under the names and arguments of IFEval (arXiv 2311.07911).

A constraint is a dict with "id" and the arguments of that id. A check is a function (text,
arguments) -> whether the text satisfies it. Checks take time linear in the text, whatever it holds.
"""

from collections.abc import Callable, Mapping
import json
import re
import types
from typing import Any, NamedTuple

RELATIONS = ("at least", "less than")
LANGUAGE = "language:response_language"  # known, but nothing here tells languages apart
CHOICES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")

_WORD = re.compile(r"\w+")
_WORD_WITH_JOINTS = re.compile(r"\w+(?:['’-]\w+)*")
# Signs that end a sentence, with what may close it, before a space or the end.
# Possessive: a long run of signs is tried once.
_SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’)\]*]*+(?=\s|$)")
_NO_END = re.compile(r"(?:^|[\s(\"'“])(?:mr|mrs|ms|dr|prof|st|vs|e\.g|i\.e|p\.s|p\.p\.s)$", re.I)
_MARKERS = {  # as the models write them: with or without spaces between the letters
    "p.s.": re.compile(r"(?<!\w)(?<!p\.)(?<!p\. )p\.\s?s\."),
    "p.p.s": re.compile(r"(?<!\w)p\.\s?p\.\s?s"),
}

Arguments = Mapping[str, Any]


class Kind(NamedTuple):
    """One constraint that there is.

    Attributes:
      check: (text, arguments) -> whether it is satisfied.
      arguments: name -> kind of `ARGUMENTS`; all of them are needed.
    """

    check: Callable[[str, Arguments], bool]
    arguments: Mapping[str, str] = types.MappingProxyType({})


def satisfied(text: str, constraint: Mapping[str, Any]) -> bool:
    """Whether a text satisfies a constraint that `checked` has passed, as the text stands."""
    return KINDS[constraint["id"]].check(text, constraint)


def checked(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The constraint of that name with its arguments; others, and null ones, are left out.

    Raises:
      ValueError: no such constraint, or an argument that is missing or wrong; one line.
    """
    if name not in KINDS:
        raise ValueError(f"no constraint {name!r}: choose one of {', '.join(KINDS)}")
    found = {"id": name}
    for argument, kind in KINDS[name].arguments.items():
        value = given.get(argument)
        fits, mend = ARGUMENTS[kind]
        if not fits(value):
            raise ValueError(f"{name}: {argument}={value!r:.60}: {mend}")
        found[argument] = value
    return found


# ---------------------------------------------------------------- arguments


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_count(value: Any) -> bool:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return whole and not isinstance(value, bool) and value >= 0


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_relation(value: Any) -> bool:
    return isinstance(value, str) and value in RELATIONS


def _is_sign(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 1


def _is_marker(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lower() in _MARKERS


ARGUMENTS: Mapping[str, tuple[Callable[[Any], bool], str]] = types.MappingProxyType(
    {
        "text": (_is_text, "give a non-empty string"),
        "texts": (_is_texts, "give a list of non-empty strings"),
        "count": (_is_count, "give a whole number"),
        "relation": (_is_relation, f"choose {' or '.join(RELATIONS)}"),
        "sign": (_is_sign, "give one character"),
        "marker": (_is_marker, "choose P.S. or P.P.S"),
    }
)


# ---------------------------------------------------------------- counting


def compare(count: int, relation: str, limit: int) -> bool:
    """Whether `count` is "at least" or "less than" `limit`."""
    return count >= limit if relation == "at least" else count < limit


def words_of(text: str) -> list[str]:
    """Runs of letters and digits; what an apostrophe parts counts as two."""
    return _WORD.findall(text)


def count_sentences(text: str) -> int:
    """Parts that end in . ! ? or an ellipsis before a space, or with the text, and hold a word.

    A list's number ("1.") and a few titles ("Dr.") end none.
    """
    count, begin = 0, 0
    for hit in _SENTENCE_END.finditer(text):
        # a look at the end of the part alone: a whole one may be as long as the text
        before = text[max(begin, hit.start() - 8) : hit.start()]
        if before.strip().isdigit() or _NO_END.search(before):
            continue
        count += _WORD.search(text, begin, hit.start()) is not None
        begin = hit.end()
    return count + (_WORD.search(text, begin) is not None)


def parts_between(text: str, divider: str) -> list[str] | None:
    """The parts of a text between dividers; None where one within is empty.

    An empty part before the first divider or behind the last is left out.
    """
    parts = [part.strip() for part in text.split(divider)]
    if "" in parts[1:-1]:
        return None
    return [part for part in parts if part]


def count_literal(text: str, wanted: str) -> int:
    """How often a text holds another, also as a part of words; cases do not matter."""
    return text.lower().count(wanted.lower())


def has_word(text: str, word: str) -> bool:
    """Whether a text holds a word or phrase on its own; cases do not matter."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def count_placeholders(text: str, empty: bool = False) -> int:
    """Square brackets that hold something, in one line; also `empty` ones, where asked for."""
    count = 0
    for line in text.split("\n"):
        place = 0
        while True:
            begin = line.find("[", place)
            end = -1 if begin < 0 else line.find("]", begin + 1)
            if end < 0:
                break
            count += empty or bool(line[begin + 1 : end].strip())
            place = end + 1
    return count


def count_highlights(text: str) -> int:
    """Pieces between * and *, or ** and **, in one line, that hold more than space.

    A "*" that begins a line and is followed by a space begins an item of a list.
    """
    count = 0
    for line in text.split("\n"):
        if line.lstrip().startswith("* "):
            line = line.lstrip()[2:]
        pieces = re.split(r"\*+", line)
        # every second piece lies inside, but for one that is not closed
        count += sum(bool(piece.strip()) for piece in pieces[1:-1:2])
    return count


def count_bullets(text: str) -> int:
    """Lines that begin with "-", or with one "*", and hold more."""
    lines = [line.strip() for line in text.split("\n")]
    marked = [line for line in lines if line[:1] in ("-", "*") and line[:2] != "**"]
    return sum(bool(line[1:].strip(" -*")) for line in marked)


def titles_of(text: str) -> list[str]:
    """What stands in << and >>, in one line, and is not empty."""
    found = []
    for line in text.split("\n"):
        begin, end = line.find("<<"), line.rfind(">>")
        if 0 <= begin < end:
            found.append(line[begin:end].lstrip("<").rstrip(">").strip())
    return [title for title in found if title]


# ---------------------------------------------------------------- the checks


def _keywords(text: str, given: Arguments) -> bool:
    return all(count_literal(text, word) for word in given["keywords"])


def _keyword_frequency(text: str, given: Arguments) -> bool:
    count = count_literal(text, given["keyword"].strip())
    return compare(count, given["relation"], given["frequency"])


def _forbidden(text: str, given: Arguments) -> bool:
    return not any(has_word(text, word) for word in given["forbidden_words"])


def _letter(text: str, given: Arguments) -> bool:
    return compare(
        count_literal(text, given["letter"]), given["let_relation"], given["let_frequency"]
    )


def _sentences(text: str, given: Arguments) -> bool:
    return compare(count_sentences(text), given["relation"], given["num_sentences"])


def _words(text: str, given: Arguments) -> bool:
    return compare(len(words_of(text)), given["relation"], given["num_words"])


def _paragraphs(text: str, given: Arguments) -> bool:
    """Paragraphs are parted by a line of three stars."""
    parts = parts_between(text, "***")
    return parts is not None and len(parts) == given["num_paragraphs"]


def _first_word(text: str, given: Arguments) -> bool:
    """Paragraphs are parted by an empty line. The first word of "It's" is it's, and it too."""
    parts = [part.strip() for part in text.split("\n\n")]
    parts = [part for part in parts if part]
    number = given["nth_paragraph"]
    if len(parts) != given["num_paragraphs"] or not 1 <= number <= len(parts):
        return False
    hit = _WORD_WITH_JOINTS.search(parts[number - 1].split(maxsplit=1)[0].lower())
    words = () if hit is None else (hit[0], re.split("['\u2019]", hit[0])[0])
    return given["first_word"].strip().lower() in words


def _placeholders(text: str, given: Arguments) -> bool:
    return count_placeholders(text) >= given["num_placeholders"]


def _postscript(text: str, given: Arguments) -> bool:
    marker = given["postscript_marker"].strip().lower()
    hits = [hit.end() for hit in _MARKERS[marker].finditer(text.lower())]
    return bool(hits) and _WORD.search(text.lower(), hits[-1]) is not None


def _bullets(text: str, given: Arguments) -> bool:
    return count_bullets(text) == given["num_bullets"]


def _choice(text: str, given: Arguments) -> bool:
    return any(choice.lower() in text.lower() for choice in CHOICES)


def _highlights(text: str, given: Arguments) -> bool:
    return count_highlights(text) >= given["num_highlights"]


def _sections(text: str, given: Arguments) -> bool:
    """Sections begin with the word and a number, such as "SECTION 2"."""
    mark = re.escape(given["section_spliter"].strip())
    return len(re.findall(rf"{mark}\s?\d", text)) >= given["num_sections"]


def _json(text: str, given: Arguments) -> bool:
    """An object or a list, alone or in a block of code, which may be one line."""
    text = text.strip()
    block = re.match(r"```(?:json)?", text, re.IGNORECASE)
    if block is not None and text.endswith("```"):
        text = text[block.end() : -3]
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):  # the latter: nested too deeply
        return False


def _title(text: str, given: Arguments) -> bool:
    return bool(titles_of(text))


def _two_responses(text: str, given: Arguments) -> bool:
    """Two different texts, parted by six stars."""
    parts = parts_between(text, "******")
    return parts is not None and len(parts) == 2 and parts[0] != parts[1]


def _repeat(text: str, given: Arguments) -> bool:
    return text.strip().lower().startswith(given["prompt_to_repeat"].strip().lower())


def _ending(text: str, given: Arguments) -> bool:
    ending = given["end_phrase"].strip().lower()
    return text.strip().strip('"').lower().endswith(ending)


def _quotation(text: str, given: Arguments) -> bool:
    text = text.strip()
    return len(text) > 2 and text[0] == text[-1] == '"' and bool(text[1:-1].strip())


def _capital_words(text: str, given: Arguments) -> bool:
    count = sum(word.isupper() for word in _WORD_WITH_JOINTS.findall(text))
    return compare(count, given["capital_relation"], given["capital_frequency"])


def _upper(text: str, given: Arguments) -> bool:
    return text.isupper()


def _lower(text: str, given: Arguments) -> bool:
    return text.islower()


def _no_comma(text: str, given: Arguments) -> bool:
    return "," not in text


def _unknown(text: str, given: Arguments) -> bool:
    return False


KINDS: Mapping[str, Kind] = types.MappingProxyType(
    {
        "keywords:existence": Kind(_keywords, {"keywords": "texts"}),
        "keywords:frequency": Kind(
            _keyword_frequency, {"keyword": "text", "frequency": "count", "relation": "relation"}
        ),
        "keywords:forbidden_words": Kind(_forbidden, {"forbidden_words": "texts"}),
        "keywords:letter_frequency": Kind(
            _letter, {"letter": "sign", "let_frequency": "count", "let_relation": "relation"}
        ),
        LANGUAGE: Kind(_unknown),
        "length_constraints:number_sentences": Kind(
            _sentences, {"num_sentences": "count", "relation": "relation"}
        ),
        "length_constraints:number_paragraphs": Kind(_paragraphs, {"num_paragraphs": "count"}),
        "length_constraints:number_words": Kind(
            _words, {"num_words": "count", "relation": "relation"}
        ),
        "length_constraints:nth_paragraph_first_word": Kind(
            _first_word,
            {"num_paragraphs": "count", "nth_paragraph": "count", "first_word": "text"},
        ),
        "detectable_content:number_placeholders": Kind(
            _placeholders, {"num_placeholders": "count"}
        ),
        "detectable_content:postscript": Kind(_postscript, {"postscript_marker": "marker"}),
        "detectable_format:number_bullet_lists": Kind(_bullets, {"num_bullets": "count"}),
        "detectable_format:constrained_response": Kind(_choice),
        "detectable_format:number_highlighted_sections": Kind(
            _highlights, {"num_highlights": "count"}
        ),
        "detectable_format:multiple_sections": Kind(
            _sections, {"section_spliter": "text", "num_sections": "count"}
        ),
        "detectable_format:json_format": Kind(_json),
        "detectable_format:title": Kind(_title),
        "combination:two_responses": Kind(_two_responses),
        "combination:repeat_prompt": Kind(_repeat, {"prompt_to_repeat": "text"}),
        "startend:end_checker": Kind(_ending, {"end_phrase": "text"}),
        "startend:quotation": Kind(_quotation),
        "change_case:capital_word_frequency": Kind(
            _capital_words, {"capital_frequency": "count", "capital_relation": "relation"}
        ),
        "change_case:english_capital": Kind(_upper),
        "change_case:english_lowercase": Kind(_lower),
        "punctuation:no_comma": Kind(_no_comma),
    }
)
