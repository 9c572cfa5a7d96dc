"""Writes short texts about a topic that satisfy constraints: answers for a supervised start."""

from collections.abc import Mapping, Sequence
import itertools
import json
import random
from typing import Any

from gdsd_jax.tasks.instructions.constraints import satisfied
from gdsd_jax.tasks.repeating import is_repeating

THINGS = tuple(
    (
        "tea bread rain snow wind fire stone glass wood paper silk wool iron gold salt honey "
        "milk rice corn fruit apple grape lemon onion coffee soup cake cheese butter pepper "
        "bird cat dog horse bee whale wolf spider tree rose forest lake ocean desert island "
        "mountain bridge castle tower train boat bike map clock book poem song drum chess star "
        "planet cloud sand shoe hat"
    ).split()
)
ADJECTIVES = tuple(
    (
        "warm cold sweet old new good large small quiet bright rare plain green soft dark light "
        "heavy clean fresh dry"
    ).split()
)
TOPICS = tuple(f"{adjective} {thing}" for adjective in ADJECTIVES for thing in THINGS)
BLANKS = ("[name]", "[place]", "[time]", "[date]")
MOST_SENTENCES = 12

Constraint = Mapping[str, Any]


def answer(topic: str, asked: Sequence[Constraint], seed: str | None) -> str | None:
    """A text about `topic` that satisfies all that is asked; None where none was found.

    Another one for another seed, mostly.
    """
    words = list(ADJECTIVES)
    random.Random(f"{seed} {topic}").shuffle(words)
    by_name = {constraint["id"]: constraint for constraint in asked}
    forbidden = by_name.get("keywords:forbidden_words", {}).get("forbidden_words", ())
    words = [word for word in words if word not in forbidden]
    # the shortest text that does
    for sentences, more in itertools.product(range(1, MOST_SENTENCES + 1), (0, 1, 2)):
        text = draft(topic, by_name, words, sentences, more)
        if all(satisfied(text, constraint) for constraint in asked) and not is_repeating(text):
            return text
    return None


def wrong_answer(topic: str, asked: Sequence[Constraint], seed: str) -> str:
    """A text about `topic` that leaves out some of what is asked, at least one thing."""
    rng = random.Random(f"{seed} {topic} wrong")
    for _ in range(8):
        kept = rng.sample(asked, rng.randint(0, len(asked) - 1))
        text = answer(topic, kept, str(rng.random()))
        if text is not None and not all(satisfied(text, constraint) for constraint in asked):
            return text
    # what was left out was satisfied nevertheless
    text = answer(topic, asked, seed) or sentence(topic, itertools.cycle(ADJECTIVES), 0)
    added = " and ".join((*ADJECTIVES, *("I",) * 3))
    for worse in (f"{text}, {text}", f"{text} It is {added}.", text.swapcase()):
        if not all(satisfied(worse, constraint) for constraint in asked):
            return worse
    return ""  # satisfies nothing


def draft(
    topic: str, asked: Mapping[str, Constraint], words: Sequence[str], sentences: int, more: int
) -> str:
    """A text with what is asked by name, which may be too long or too short for the rest.

    Args:
      topic: a word or two.
      asked: the constraints by name.
      words: adjectives to use.
      sentences: their number, of those that say something about the topic.
      more: further adjectives of each.
    """
    supply = itertools.cycle(words)
    said = [sentence(topic, supply, more) for _ in range(sentences)]
    said = with_words(said, asked, supply)
    text = laid_out(said, asked)
    if "combination:two_responses" in asked:
        text += "\n******\n" + sentence(topic, supply, more + 1)
    if "detectable_format:title" in asked:
        text = f"<<The {topic}>>\n{text}"
    if "combination:repeat_prompt" in asked:
        text = asked["combination:repeat_prompt"]["prompt_to_repeat"] + f"\n{text}"
    if "detectable_content:postscript" in asked:
        marker = asked["detectable_content:postscript"]["postscript_marker"]
        text += f"\n{marker} {sentence(topic, supply, 0)}"
    if "startend:end_checker" in asked:
        text += " " + asked["startend:end_checker"]["end_phrase"]
    if "change_case:english_capital" in asked:
        text = text.upper()
    if "change_case:english_lowercase" in asked:
        text = text.lower()
    if "startend:quotation" in asked:
        text = f'"{text}"'
    if "detectable_format:json_format" in asked:
        text = json.dumps({"text": text})
    return text


def sentence(topic: str, supply, more: int) -> str:
    """Such as "The green tea is warm and old."."""
    said = [next(supply) for _ in range(more + 1)]
    return f"The {topic} is {' and '.join(said)}."


def with_words(said: list[str], asked: Mapping[str, Constraint], supply) -> list[str]:
    """The sentences, and others that hold the words, signs and blanks asked for."""
    said = list(said)
    if "keywords:existence" in asked:
        said.append(f"See the {' and '.join(asked['keywords:existence']['keywords'])}.")
    frequency = asked.get("keywords:frequency", {})
    if frequency.get("relation") == "at least":
        said.append(f"See the {' and '.join([frequency['keyword']] * frequency['frequency'])}.")
    capitals = asked.get("change_case:capital_word_frequency", {})
    if capitals.get("capital_relation") == "at least":
        loud = [next(supply).upper() for _ in range(capitals["capital_frequency"])]
        said.append(f"It is {' and '.join(loud)}.")
    if "detectable_format:number_highlighted_sections" in asked:
        count = asked["detectable_format:number_highlighted_sections"]["num_highlights"]
        said.append(f"It is {' and '.join(f'*{next(supply)}*' for _ in range(count))}.")
    if "detectable_content:number_placeholders" in asked:
        count = asked["detectable_content:number_placeholders"]["num_placeholders"]
        said.append(f"Ask {' and '.join(BLANKS[:count])}.")
    if "detectable_format:constrained_response" in asked:
        said.append("My answer is yes.")
    return said


def laid_out(said: Sequence[str], asked: Mapping[str, Constraint]) -> str:
    """The sentences as points, sections or paragraphs, or in one line."""
    if "detectable_format:number_bullet_lists" in asked:
        count = asked["detectable_format:number_bullet_lists"]["num_bullets"]
        return "\n".join(f"* {part}" for part in groups(said, count))
    if "detectable_format:multiple_sections" in asked:
        given = asked["detectable_format:multiple_sections"]
        parts = enumerate(groups(said, given["num_sections"]), 1)
        return "\n".join(f"{given['section_spliter']} {number}\n{part}" for number, part in parts)
    if "length_constraints:number_paragraphs" in asked:
        count = asked["length_constraints:number_paragraphs"]["num_paragraphs"]
        return "\n***\n".join(groups(said, count))
    if "length_constraints:nth_paragraph_first_word" in asked:
        given = asked["length_constraints:nth_paragraph_first_word"]
        parts = groups(said, given["num_paragraphs"])
        place = given["nth_paragraph"] - 1
        if place < len(parts):
            part = parts[place]
            parts[place] = f"{given['first_word'].capitalize()} {part[:1].lower()}{part[1:]}"
        return "\n\n".join(parts)
    return " ".join(said)


def groups(said: Sequence[str], count: int) -> list[str]:
    """The sentences in `count` parts, or fewer where there are not as many; the last are in one."""
    alone = [*said[: count - 1]]
    rest = " ".join(said[count - 1 :])
    return [*alone, rest] if rest else alone
