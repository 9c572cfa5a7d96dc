"""The task of instructions: each constraint, repeating texts, both rules, problems, public rows."""

import json
import random

import numpy as np
import pytest

from gdsd_jax.tasks import RewardConfig, TaskSettings, graded, instructions, parts_of, repeating
from gdsd_jax.tasks.instructions import OPTIONS, constraints, grading, problems, released, writing
from tests.tasks import texts

PROSE = (
    "The harbour was quiet when the last boat came in. Gulls sat along the wall and waited for "
    "fish that nobody threw away that evening. A child counted the lights on the other shore, "
    "lost the number twice, and began again without minding. Somewhere a radio played a waltz "
)


def constraint(name, **given):
    return constraints.checked(name, given)


WORDS, SENTENCES = "length_constraints:number_words", "length_constraints:number_sentences"
PARAGRAPHS = "length_constraints:number_paragraphs"
FIRST = "length_constraints:nth_paragraph_first_word"
BULLETS, LIGHTS = (
    "detectable_format:number_bullet_lists",
    "detectable_format:number_highlighted_sections",
)
CASES = [  # (name, arguments, texts that satisfy it, texts that do not)
    (
        WORDS,
        {"num_words": 3, "relation": "at least"},
        ["one two three", "one, two - three", "don't stop", "eins zwei drei", "一 二 三"],
        ["one two", "... - ...", "stop"],
    ),
    (WORDS, {"num_words": 3, "relation": "less than"}, ["one two"], ["one two three"]),
    (
        SENTENCES,
        {"num_sentences": 2, "relation": "at least"},
        ["One. Two.", "One! Two", 'He said "no." Then he left.', "One... Two", "Yes?\nNo."],
        ["One.", "Dr. Who came.", "1. milk", "3.5 miles.", "One . . .", "e.g. this."],
    ),
    (SENTENCES, {"num_sentences": 2, "relation": "less than"}, ["One."], ["One. Two."]),
    (
        PARAGRAPHS,
        {"num_paragraphs": 2},
        ["a\n***\nb", "a *** b", "a\n\n***\n\nb\n***"],
        ["a\n\nb", "a", "a\n***\nb\n***\nc", "a\n***\n\n***\nb"],
    ),
    (
        FIRST,
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "today"},
        [
            "a\n\nToday, b",
            'a\n\n\n\n"today" b',
            "a\n\n  TODAY",
            "a\n\nToday's b",
            "a\n\ntoday\u2019s",
        ],
        ["Today\n\na", "a\nToday", "a\n\nTodays", "a\n\nb\n\nToday", "a\n\n..."],
    ),
    (
        "keywords:existence",
        {"keywords": ["tea", "a+b"]},
        ["Tea: a+b", "steam A+B"],
        ["tea", "tea aab", ""],
    ),
    (
        "keywords:frequency",
        {"keyword": "tea", "frequency": 2, "relation": "at least"},
        ["tea Tea", "teatea"],
        ["tea", ""],
    ),
    (
        "keywords:frequency",
        {"keyword": "tea", "frequency": 2, "relation": "less than"},
        ["tea", "x"],
        ["tea tea"],
    ),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["tea", "no way"]},
        ["steam", "teas"],
        ["Tea.", "no way!", "(tea)"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "O", "let_frequency": 2, "let_relation": "at least"},
        ["oo", "Only two"],
        ["o", "0000"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[a] [b]", "[a][b]\n[c]"],
        ["[a]", "[] []", "[a\n] [b]", "a] [b"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Bye.\nP.S. Call me", "p. s. yes"],
        ["PS call", "P.S.", "stop.s. x", "P.P.S. more"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        ["P.P.S. more", "P. P. S more"],
        ["P.S. more", "P.P.S"],
    ),
    (
        BULLETS,
        {"num_bullets": 2},
        ["* a\n* b", "- a\n  - b", "x\n* a\n- b\nend", "*a\n*b"],
        ["* a", "* a\n* b\n* c", "**a**\n**b**", "*\n*", "---\n---", "1. a\n2. b"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes.", "I think my answer is NO. Truly"],
        ["yes", "My answer is yes"],
    ),
    (
        LIGHTS,
        {"num_highlights": 2},
        ["*a* *b*", "**a** and *b*", "* *a* and *b*", "***a*** *b*"],
        ["*a*", "* a\n* b", "*a\nb* *c*", "** ** * *"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "PART", "num_sections": 2},
        ["PART 1\na\nPART 2\nb", "PART1 PART2"],
        ["PART 1", "Part 1 Part 2", "PART one PART two"],
    ),
    (
        "detectable_format:json_format",
        {},
        [
            '{"a": 1}',
            "[]",
            '```json\n{"a": 1}\n```',
            "```\n[1]\n```",
            " {} ",
            '```json {"a": 1}```',
        ],
        ["", "5", '"a"', "{'a': 1}", "x {}", "[" * 100_000, "[" + "9" * 10_000 + "]", "```json"],
    ),
    (
        "detectable_format:title",
        {},
        ["<<a>>\nb", "x <<a b>> y", "<<<a>>>", "<< > >>"],
        ["<a>", "<<>>", "<< >>", "<<a\nb>>", ">>a<<"],
    ),
    (
        "combination:two_responses",
        {},
        ["a ****** b", "a\n******\nb\n******"],
        ["a", "a ****** a", "a ******", "a ****** b ****** c", "a\n***\nb"],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Say it. "},
        ["Say it.\nyes", " say IT. Yes"],
        ["Yes. Say it.", ""],
    ),
    (
        "startend:end_checker",
        {"end_phrase": "That is all."},
        ["x That is all.", 'x "that is all." ', "That is all.\n"],
        ["That is all. x", "That is all", 'That is all. "', ""],
    ),
    (
        "startend:quotation",
        {},
        ['"a"', ' "a b"\n', '"a" and "b"'],
        ["a", '"a', '"', '""', '" "', "“a”"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["NO WAY", "I AM", "a B-C D"],
        ["No Way", "NO", "1 2"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "less than"},
        ["NO way"],
        ["NO WAY"],
    ),
    ("change_case:english_capital", {}, ["NO WAY 1!", "É"], ["No", "1", ""]),
    ("change_case:english_lowercase", {}, ["no way 1!"], ["No", "1", ""]),
    ("punctuation:no_comma", {}, ["a; b", "a، b"], ["a, b", ","]),
]


@pytest.mark.parametrize("name, given, good, bad", CASES, ids=[case[0] for case in CASES])
def test_constraints(name, given, good, bad):
    one = constraint(name, **given)
    assert [text for text in good if not constraints.satisfied(text, one)] == []
    assert [text for text in bad if constraints.satisfied(text, one)] == []


def test_every_constraint_has_a_case_and_a_generator():
    assert {case[0] for case in CASES} | {constraints.LANGUAGE} == set(constraints.KINDS)
    assert set(problems.KINDS) | {constraints.LANGUAGE} == set(constraints.KINDS)
    assert len(constraints.KINDS) == 25


# ---------------------------------------------------------------- grading

RECORD = {
    "prompt": "x",
    "topic": "",
    "constraints": [
        constraint("punctuation:no_comma"),
        constraint(WORDS, num_words=3, relation="at least"),
        constraint("detectable_format:title"),
    ],
}


def grade(text, variant="mended", record=RECORD, **weights):
    return grading.grade([record], [text], RewardConfig(variant, weights))


@pytest.mark.parametrize(
    "text, met",
    [
        ("<<a>> b c", 3),
        ("<<a>> b, c", 2),
        ("a", 1),
        ("a,", 0),
        ("", 0),
        (" \n\t", 0),
        ("<<a>> b c " * 100, 0),  # repeats itself
        ("yes " * 19, 0),
        ("\u200b", 0),
        (".", 0),
        ("<< >>", 0),
        ("<|eot_id|>", 0),
        ("<|mdm_mask|>", 0),
        ("<pad>", 0),
        ("[MASK]", 0),
        ("<|im_end|><<a>> b c", 0),
        ("<<a>> b c<|im_end|>, and", 3),
    ],
)
def test_share_of_constraints(text, met):
    found = grade(text)
    assert found.points_Nx2.tolist() == [[met, 3]]
    assert found.parts["followed"][0] == pytest.approx(met / 3)
    assert found.parts["all"][0] == found.solved_N[0] == (met == 3)
    assert found.reward_N[0] == found.parts["followed"][0]


def test_the_loose_form_forgives_a_first_line_a_last_line_and_stars():
    asked = {"constraints": [constraint("startend:end_checker", end_phrase="Bye.")]}
    for text in ("x\nBye.\nI hope this helps!", "x **Bye.**", "Sure:\n*Bye.*\nGood luck"):
        assert not grade(text, record=asked).solved_N[0]
        assert grade(text, "released", record=asked).solved_N[0]
    quoted = {"constraints": [constraint("startend:quotation")]}
    assert grade('Sure:\n"a"', "released", record=quoted).solved_N[0]
    assert not grade("", "released", record=quoted).solved_N[0]
    no_comma = {"constraints": [constraint("punctuation:no_comma")]}
    assert not grade(" \n ", "released", record=no_comma).solved_N[0]
    assert grade("a " * 200, "released", record=no_comma).solved_N[0]  # the paper has no rule


def test_rows_of_json_repeat_their_names_alone():
    asked = {"constraints": [constraint("detectable_format:json_format")]}
    things = (
        "lamp chair table radio mirror pencil bottle kettle ladder window carpet basket".split()
    )
    rows = [
        {"name": name, "price": 7 * i * i % 100, "inStock": i % 3 > 0}
        for i, name in enumerate(things)
    ]
    assert grade(json.dumps(rows, indent=2), record=asked).solved_N[0]
    assert not grade(json.dumps(rows[:1] * 60, indent=2), record=asked).solved_N[0]


def test_weights_and_unjudged_languages():
    assert grade("<<a>> b c", all=0.5).reward_N[0] == 1.5
    with pytest.raises(ValueError, match="speed=1: there is no such part"):
        grade("", speed=1.0)
    record = {"constraints": [constraint(constraints.LANGUAGE), *RECORD["constraints"]]}
    found = grading.grade([record, RECORD], ["<<a>> b c"] * 2, RewardConfig())
    assert found.judged_N.tolist() == [False, True]
    for variant in ("mended", "released"):
        assert grading.grade([], [], RewardConfig(variant)).points_Nx2.shape == (0, 2)


# ---------------------------------------------------------------- problems


@pytest.fixture(scope="module")
def splits():
    return problems.generate(problems.Range())


def test_no_held_out_topic_with_its_constraints_is_trained_on(splits):
    assert {name: len(found) for name, found in splits.items()} == {"train": 4096, "heldout": 512}
    names = {
        split: {problems.name_of(record["topic"], record["constraints"][::-1]) for record in found}
        for split, found in splits.items()
    }
    assert (len(names["train"]), len(names["heldout"])) == (4096, 512)
    assert not names["train"] & names["heldout"]
    kinds = {one["id"] for record in splits["train"] for one in record["constraints"]}
    assert kinds == set(problems.KINDS)
    counts = [len(record["constraints"]) for record in splits["train"]]
    assert set(counts) == {1, 2, 3}


def test_every_kind_is_as_often_held_out_and_in_training():
    kinds = ("keywords:existence", "length_constraints:number_words", "punctuation:no_comma")
    found = problems.generate(problems.Range((1, 1), 12, kinds))
    for records, first in ((found["train"], 4096), (found["heldout"], 128)):
        names = [record["constraints"][0]["id"] for record in records[:first]]
        # of a binomial law, five times the spread
        spread = 5 * (len(names) * (1 / 3) * (2 / 3)) ** 0.5
        for kind in kinds:
            assert abs(names.count(kind) - len(names) / 3) < spread


def test_words_in_another_order_are_the_same_problem():
    words = (["river", "music"], ["music", "river"])
    asked = [[{"id": "keywords:existence", "keywords": one}] for one in words]
    assert problems.name_of("old tea", asked[0]) == problems.name_of("old tea", asked[1])
    kinds = ("keywords:existence", "keywords:forbidden_words")
    train, heldout = (
        {problems.name_of(record["topic"], record["constraints"]) for record in records}
        for records in problems.generate(problems.Range((1, 1), 12, kinds)).values()
    )
    assert not train & heldout


def test_a_kind_of_few_problems_ends_by_itself():
    found = problems.generate(problems.Range((1, 1), 12, ("punctuation:no_comma",)))
    assert 0 < len(found["heldout"]) < 512 and 512 < len(found["train"]) < len(writing.TOPICS)


def test_options_without_a_problem_are_refused(tmp_path):
    at_odds = ("change_case:english_capital", "change_case:english_lowercase")
    settings = TaskSettings(data_dir=str(tmp_path), options=OPTIONS((2, 2), 12, at_odds))
    with pytest.raises(ValueError, match="options: no problem can be generated for train"):
        instructions.make(settings)
    assert not list(tmp_path.iterdir())


def test_prompts_say_every_argument(splits):
    for record in splits["train"][:500]:
        assert record["topic"] in record["prompt"]
        for one in record["constraints"]:
            for value in one.values():
                values = value if isinstance(value, list) else [value]
                values = [said for said in values if said != one["id"]]
                assert all(str(said) in record["prompt"] for said in values), record


def test_answers_satisfy_and_by_seed_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr(problems, "NUM_TRAIN", 300)
    monkeypatch.setattr(problems, "NUM_HELDOUT", 20)
    settings = TaskSettings(data_dir=str(tmp_path), noise=0.5)
    task = instructions.make(settings)
    assert (len(task.train), len(task.heldout)) == (300, 20)
    best = [task.answer(record, None) for record in task.train]
    found = graded(task, task.train, best, parts_of(task))
    assert found.solved_N.all() and (found.reward_N == 1).all() and task.score == "followed"
    drawn = [task.answer(record, "7") for record in task.train]
    assert drawn == [task.answer(record, "7") for record in task.train] != best
    found = graded(task, task.train, drawn, parts_of(task))
    assert 110 < found.solved_N.sum() < 190
    assert instructions.make(settings).train == task.train  # read back
    assert [path.name for path in tmp_path.iterdir()] == ["instructions-2.0.0-1-3-40"]
    kinds = ("punctuation:no_comma", WORDS)
    own = TaskSettings(data_dir=str(tmp_path), options=OPTIONS((2, 2), 10, kinds))
    assert {one["id"] for record in instructions.make(own).train for one in record["constraints"]}


@pytest.mark.parametrize(
    "given, said",
    [
        ({"constraints": (0, 1)}, "options.constraints"),
        ({"constraints": (3, 2)}, "options.constraints"),
        ({"words": 3}, "options.words=3"),
        ({"kinds": ("rhymes",)}, "options.kinds: no rhymes"),
    ],
)
def test_options_that_cannot_work_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        OPTIONS(**given)


# ---------------------------------------------------------------- public rows


def row(**changes):
    return {
        "key": 1000,
        "prompt": "Write. No commas.",
        "instruction_id_list": ["punctuation:no_comma", WORDS],
        "kwargs": [
            {"num_words": None, "relation": None},  # as some copies of the file have it
            {"num_words": 300, "relation": "at least", "keywords": None},
        ],
    } | changes


def test_public_rows_are_read_as_they_are(tmp_path):
    language = row(
        instruction_id_list=[constraints.LANGUAGE], kwargs=[{"language": "hi"}], prompt="Hindi."
    )
    path = tmp_path / "input_data.jsonl"
    path.write_text("\n".join(map(json.dumps, [row(), language, row(key=None)])))
    task = instructions.make(TaskSettings(data_file=str(path), heldout_file=str(path)))
    assert task.train == task.heldout and len(task.train) == 2 and task.answer is None
    assert task.train[0]["constraints"] == [
        {"id": "punctuation:no_comma"},
        {"id": WORDS, "num_words": 300, "relation": "at least"},
    ]
    assert task.messages(task.train[0]) == [{"role": "user", "content": "Write. No commas."}]
    said = "1 of 3 rows ask for a language, which nothing here checks, and are left out"
    assert [said in note for note in task.notes] == [True, True]
    path.write_text(json.dumps(language))
    with pytest.raises(ValueError, match="every row asks for a language"):
        instructions.make(TaskSettings(data_file=str(path), heldout_file=str(path)))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"prompt": ""}, "prompt is not a non-empty string"),
        ({"instruction_id_list": []}, "instruction_id_list is not a non-empty list"),
        ({"kwargs": [{}]}, "kwargs has 1 entries for 2 constraints"),
        ({"kwargs": [{}, 3]}, r"kwargs\[1\] is not an object"),
        ({"kwargs": [{}, {}]}, f"{WORDS}: num_words=None: give a whole number"),
        (
            {"kwargs": [{}, {"num_words": 3, "relation": "exactly"}]},
            "relation='exactly': choose at least or less than",
        ),
        ({"instruction_id_list": ["no:rhymes", WORDS]}, "no constraint 'no:rhymes': choose one"),
    ],
)
def test_bad_rows_are_refused_in_one_line(changes, said):
    with pytest.raises(ValueError, match=said) as error:
        instructions.read(row(**changes))
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- any text

EVERY = {"constraints": [constraint(name, **given) for name, given, _, _ in CASES]}
SIGNS = ("***", "******", "<<", ">>", "[", "]", '"', "P.S.", "P.P.S", "PART 1", "* a", "\n\n")
SIGNS += ("```json\n", "My answer is yes.", "tea", "That is all.", "Dr.", "?!", "…", "Say it.")


def bear(count, seed):
    rng = random.Random(seed)
    drawn = [
        text + "".join(rng.choices(SIGNS, k=rng.randint(0, 12)))
        for text in texts.thrown_together(count, seed)
    ]
    asked = [{"constraints": rng.sample(EVERY["constraints"], 4)} for _ in drawn]
    for variant in ("mended", "released"):
        found = grading.grade(asked, drawn, RewardConfig(variant))
        assert ((0 <= found.reward_N) & (found.reward_N <= 1)).all()
        assert np.ptp(found.points_Nx2[:, 0]) >= 3


def test_any_text_is_borne():
    bear(1000, seed=0)


@pytest.mark.slow
def test_very_many_texts_are_borne():
    bear(10_000, seed=2)  # by two rules


def test_long_texts_take_no_more_than_a_second_a_constraint():
    units = [(sign, 30_000) for sign in SIGNS + (".", ". ", "Dr. ", "1. ", ".)", '."x', "[a]")]
    long = [unit * times for unit, times in units] + list(texts.long_ones())[::12]
    slow = {}
    for text in long:
        for one in EVERY["constraints"]:
            for rule in (constraints, released):
                seconds = texts.seconds_of(lambda: rule.satisfied(text, one))  # noqa: B023
                if seconds > 1:
                    slow[text[:20], one["id"], rule.__name__] = seconds
        assert texts.seconds_of(lambda: repeating.is_repeating(text)) < 1  # noqa: B023
    assert not slow


@pytest.mark.parametrize("variant", ["mended", "released"])
def test_ten_thousand_completions_of_256_tokens_take_less_than_ten_seconds(variant, splits):
    answers = [PROSE * 3 + text[-200:] for text in texts.reasoned(10_000)]
    records = random.Random(0).choices(splits["train"], k=10_000)
    reward = RewardConfig(variant)
    assert texts.seconds_of(lambda: grading.grade(records, answers, reward)) < 10
