"""Generated problems: a topic, and constraints that a short text about it can satisfy together.

Problems are split by topic and constraints, in whatever order these come. Everything follows from
fixed seeds through `random.Random` and SHA-256.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import hashlib
import json
import random
import types
from typing import Any

from gdsd_jax.tasks.instructions import writing
from gdsd_jax.tasks.instructions.constraints import RELATIONS, checked

# Of the generated problems: raise it with any change to them. The folder they are kept in has it in
# its name.
VERSION = "2.0.0"
SPLITS = ("train", "heldout")
NUM_TRAIN = 4096
NUM_HELDOUT = 512
HELDOUT_SHARE = 8  # one of so many pairs of topic and constraints is held out

ENDINGS = ("That is all.", "Ask me more.", "See you soon.")
FIRST_WORDS = ("today", "maybe", "once", "here")
KEYWORDS = ("river", "music", "winter", "market", "letter", "garden")
SPLITTERS = ("SECTION", "PART")

_PATIENCE = 2000  # draws without a new problem of the same kinds: these are taken to be used up


@dataclasses.dataclass(frozen=True)
class Range:
    """Which problems are generated.

    Attributes:
      constraints: fewest and most constraints of a problem, each number as likely.
      words: most that a constraint asks for; sentences, parts and the like are a tenth of it.
      kinds: the constraints to draw from, as in `KINDS`; () = all of them.
    """

    constraints: tuple[int, int] = (1, 3)
    words: int = 40
    kinds: tuple[str, ...] = ()


def _none(rng: random.Random, words: int) -> dict[str, Any]:
    return {}


def _keywords(rng: random.Random, words: int) -> dict[str, Any]:
    return {"keywords": rng.sample(KEYWORDS, rng.randint(1, 2))}


def _frequency(rng: random.Random, words: int) -> dict[str, Any]:
    return {
        "keyword": rng.choice(KEYWORDS),
        "frequency": rng.randint(1, 3),
        "relation": rng.choice(RELATIONS),
    }


def _forbidden(rng: random.Random, words: int) -> dict[str, Any]:
    return {"forbidden_words": rng.sample(writing.ADJECTIVES, rng.randint(1, 2))}


def _letter(rng: random.Random, words: int) -> dict[str, Any]:
    relation = rng.choice(RELATIONS)
    common = relation == "at least"
    return {
        "letter": rng.choice("aeiot" if common else "bcdfgwy"),
        "let_frequency": rng.randint(2, max(2, words // 8)) if common else rng.randint(2, 3),
        "let_relation": relation,
    }


def _sentences(rng: random.Random, words: int) -> dict[str, Any]:
    return {
        "num_sentences": rng.randint(2, max(2, words // 10)),
        "relation": rng.choice(RELATIONS),
    }


def _words(rng: random.Random, words: int) -> dict[str, Any]:
    relation = rng.choice(RELATIONS)
    least = 5 if relation == "at least" else 8
    return {"num_words": rng.randint(least, max(least, words)), "relation": relation}


def _first_word(rng: random.Random, words: int) -> dict[str, Any]:
    count = _count(rng, words)
    return {
        "num_paragraphs": count,
        "nth_paragraph": rng.randint(1, count),
        "first_word": rng.choice(FIRST_WORDS),
    }


def _capital_words(rng: random.Random, words: int) -> dict[str, Any]:
    return {"capital_frequency": rng.randint(1, 3), "capital_relation": rng.choice(RELATIONS)}


def _paragraphs(rng: random.Random, words: int) -> dict[str, Any]:
    return {"num_paragraphs": _count(rng, words)}


def _placeholders(rng: random.Random, words: int) -> dict[str, Any]:
    return {"num_placeholders": rng.randint(1, 3)}


def _postscript(rng: random.Random, words: int) -> dict[str, Any]:
    return {"postscript_marker": rng.choice(("P.S.", "P.P.S"))}


def _bullets(rng: random.Random, words: int) -> dict[str, Any]:
    return {"num_bullets": _count(rng, words)}


def _highlights(rng: random.Random, words: int) -> dict[str, Any]:
    return {"num_highlights": rng.randint(1, 2)}


def _sections(rng: random.Random, words: int) -> dict[str, Any]:
    return {"section_spliter": rng.choice(SPLITTERS), "num_sections": _count(rng, words)}


def _ending(rng: random.Random, words: int) -> dict[str, Any]:
    return {"end_phrase": rng.choice(ENDINGS)}


def _count(rng: random.Random, words: int) -> int:
    return rng.randint(2, max(2, words // 10))


# id -> (what the prompt says, what draws the arguments from a generator and `Range.words`)
KINDS: Mapping[str, tuple[str, Callable[[random.Random, int], dict[str, Any]]]] = (
    types.MappingProxyType(
        {
            "keywords:existence": ("Use the words {keywords}.", _keywords),
            "keywords:frequency": ("Say {keyword} {relation} {frequency} times.", _frequency),
            "keywords:forbidden_words": ("Do not use the words {forbidden_words}.", _forbidden),
            "keywords:letter_frequency": (
                "The letter {letter} stands there {let_relation} {let_frequency} times.",
                _letter,
            ),
            "length_constraints:number_sentences": (
                "Write {relation} {num_sentences} sentences.",
                _sentences,
            ),
            "length_constraints:number_words": ("Write {relation} {num_words} words.", _words),
            "length_constraints:number_paragraphs": (
                "Write {num_paragraphs} paragraphs with *** between them.",
                _paragraphs,
            ),
            "length_constraints:nth_paragraph_first_word": (
                "Write {num_paragraphs} paragraphs with an empty line between them. "
                "Paragraph {nth_paragraph} begins with {first_word}.",
                _first_word,
            ),
            "detectable_content:number_placeholders": (
                "Leave {num_placeholders} blanks in square brackets such as [name].",
                _placeholders,
            ),
            "detectable_content:postscript": ("Add a {postscript_marker} at the end.", _postscript),
            "detectable_format:number_bullet_lists": (
                "Make {num_bullets} points that begin with *.",
                _bullets,
            ),
            "detectable_format:constrained_response": (
                "Say My answer is yes. or My answer is no. or My answer is maybe.",
                _none,
            ),
            "detectable_format:number_highlighted_sections": (
                "Put {num_highlights} parts between stars such as *this*.",
                _highlights,
            ),
            "detectable_format:multiple_sections": (
                "Write {num_sections} sections. Each begins with {section_spliter} and its number.",
                _sections,
            ),
            "detectable_format:json_format": ("Answer in JSON and nothing else.", _none),
            "detectable_format:title": ("Give a title in << and >>.", _none),
            "combination:two_responses": (
                "Give two different answers with ****** between them.",
                _none,
            ),
            "combination:repeat_prompt": ("First say again: {prompt_to_repeat}", _none),
            "startend:end_checker": ("End with: {end_phrase}", _ending),
            "startend:quotation": ("Put all of it in double quotes.", _none),
            "change_case:capital_word_frequency": (
                "Write {capital_relation} {capital_frequency} words in capital letters.",
                _capital_words,
            ),
            "change_case:english_capital": ("Use capital letters alone.", _none),
            "change_case:english_lowercase": ("Use small letters alone.", _none),
            "punctuation:no_comma": ("Use no commas.", _none),
        }
    )
)


def task_of(topic: str) -> str:
    """What is asked about a topic."""
    return f"Write about the {topic}."


def prompt_of(topic: str, asked: Sequence[Mapping[str, Any]]) -> str:
    """The task and a sentence for each constraint."""
    return " ".join([task_of(topic), *map(description_of, asked)])


def description_of(constraint: Mapping[str, Any]) -> str:
    """What the prompt says of a constraint."""
    said = {
        name: " and ".join(value) if isinstance(value, list) else value
        for name, value in constraint.items()
    }
    return KINDS[constraint["id"]][0].format(**said)


def name_of(topic: str, asked: Sequence[Mapping[str, Any]]) -> str:
    """The same for the same topic and constraints, in whatever order these and their words come."""
    alike = [
        {key: sorted(value) if isinstance(value, list) else value for key, value in one.items()}
        for one in asked
    ]
    return json.dumps([topic, sorted(json.dumps(one, sort_keys=True) for one in alike)])


def split_of(topic: str, asked: Sequence[Mapping[str, Any]]) -> str:
    """ "heldout" or "train", whatever the order of the constraints."""
    digest = hashlib.sha256(name_of(topic, asked).encode()).digest()
    return "heldout" if digest[0] % HELDOUT_SHARE == 0 else "train"


def generate(chosen: Range) -> dict[str, list[dict[str, Any]]]:
    """The records by split: NUM_TRAIN under "train", NUM_HELDOUT under "heldout".

    Each has "prompt", "topic" and "constraints", and no two have the same topic and constraints. In
    both splits each number of constraints is as likely and each kind, but for what is at odds.
    Fewer where some kinds have not as many.
    """
    sizes = dict(zip(SPLITS, (NUM_TRAIN, NUM_HELDOUT), strict=True))
    return {split: of_split(chosen, split, size) for split, size in sizes.items()}


def of_split(chosen: Range, split: str, size: int) -> list[dict[str, Any]]:
    """The records of a split, at most `size`."""
    rng = random.Random(f"instructions {chosen} {split}")
    found, seen = [], set()
    while len(found) < size:
        kinds = draw_kinds(chosen, rng)
        for _ in range(_PATIENCE):  # of the same kinds, so that those of many problems get no more
            topic = rng.choice(writing.TOPICS)
            asked = [drawn(kind, topic, chosen.words, rng) for kind in kinds]
            name = name_of(topic, asked)
            if split_of(topic, asked) == split and name not in seen:
                break
        else:
            break
        seen.add(name)
        if writing.answer(topic, asked, None) is not None:  # else no text satisfies them all
            prompt = prompt_of(topic, asked)
            found.append({"prompt": prompt, "topic": topic, "constraints": asked})
    return found


def draw_kinds(chosen: Range, rng: random.Random) -> list[str]:
    """Different kinds of constraints, which may be at odds with each other."""
    kinds = chosen.kinds or tuple(KINDS)
    return rng.sample(kinds, min(rng.randint(*chosen.constraints), len(kinds)))


def drawn(kind: str, topic: str, words: int, rng: random.Random) -> dict[str, Any]:
    """A constraint of that kind."""
    given = KINDS[kind][1](rng, words)
    if kind == "combination:repeat_prompt":
        given["prompt_to_repeat"] = task_of(topic)
    return checked(kind, given)
