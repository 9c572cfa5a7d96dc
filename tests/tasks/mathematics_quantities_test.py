"""Lists of numbers with units, quantities of several units, and words behind formulas."""

import pytest

from gdsd_jax.tasks.mathematics import quantities, writing
from tests.tasks.mathematics_numbers_test import entries
from tests.tasks.mathematics_test import equal

HALF_PAST_TWO = r"2\text{ hours }30\text{ minutes}"
SPEEDS = r"20\text{ mph}, 30\text{ mph}"


@pytest.mark.parametrize(
    "gold, answer, right",
    [
        (HALF_PAST_TWO, "2 hours 30 minutes", True),
        (HALF_PAST_TWO, r"2\text{ hr }30\text{ min}", True),
        (HALF_PAST_TWO, "2 hours and 30 minutes", True),
        (HALF_PAST_TWO, "2 hours, 30 minutes", True),
        (HALF_PAST_TWO, r"2\text{ hours }45\text{ minutes}", False),
        (HALF_PAST_TWO, "30 hours 2 minutes", False),
        (HALF_PAST_TWO, r"2\text{ hours}", False),
        (HALF_PAST_TWO, "2", False),
        (HALF_PAST_TWO, "30", False),
        (HALF_PAST_TWO, "never", False),
        (r"2\text{ hours and }30\text{ minutes}", "2 hours 30 minutes", True),
        (r"5 \text{ feet } 6 \text{ inches}", "5", False),
        (r"5 \text{ feet } 6 \text{ inches}", "5 ft 6 in", True),
        (r"5 \text{ feet } 6 \text{ inches}", r"5 \text{ feet } 8 \text{ inches}", False),
        (r"10\text{ red, }5\text{ blue}", "5 blue and 10 red", True),
        (r"10\text{ red, }5\text{ blue}", r"10\text{ red, }6\text{ blue}", False),
    ],
)
def test_every_number_of_a_quantity_counts(gold, answer, right, shared):
    assert equal(gold, answer, shared) is right


@pytest.mark.parametrize("gold", ["20, 30", r"20 \text{ and } 30", "x=20, y=30", SPEEDS])
@pytest.mark.parametrize(
    "answer, right",
    [
        ("20 mph, 30 mph", True),
        ("20 mph and 30 mph", True),
        (SPEEDS, True),
        (r"x=20\text{ cm}, y=30\text{ cm}", True),
        (r"20\text{ mph}, 40\text{ mph}", False),
        (r"x=20\text{ cm}, y=40\text{ cm}", False),
        (r"20\text{ mph and }40\text{ mph}", False),
        (r"20\text{ cm}", False),
        ("20 mph, 30 mph, 30 mph", False),
        ("20 mph or more, 30 mph", False),
        ("(20 mph, 30 mph]", False),
    ],
)
def test_units_in_a_list_do_not_matter(gold, answer, right, shared):
    assert equal(gold, answer, shared) is right


@pytest.mark.parametrize(
    "gold, answer, right",
    [
        ("20, 30", "30 mph, 20 mph", True),
        (r"\{20, 30\}", "30 mph, 20 mph", True),
        (r"20\%, 30\%", "30%, 20%", True),
        (r"20\%, 30\%", "30%, 25%", False),
        ("(20, 30)", r"(20\text{ cm}, 30\text{ cm})", True),
        ("(20, 30)", r"(30\text{ cm}, 20\text{ cm})", False),
        ("(20, 30)", r"x=20\text{ cm}, y=30\text{ cm}", True),
        ("(20, 30)", r"x=30\text{ cm}, y=20\text{ cm}", False),
        ("(20, 30)", "20 cm, 30 cm", False),  # as without units
        ("x=3, y=5", "3, 5", True),
        ("x=3, y=5", "3 and 5", True),
        ("x=3, y=5", "(3, 5)", True),
        ("x=3, y=5", "y=5, x=3", True),
        ("x=3, y=5", "5, 3", False),
        ("x=3, y=5", "(5, 3)", False),
        ("m=3, n=5", "5, 3", False),
        ("x=3, x=5", "5, 3", True),
        (r"x=20\text{ cm}, y=30\text{ cm}", "y=30, x=20", True),
        (r"x=20\text{ cm}, y=30\text{ cm}", "y=20, x=30", False),
        (r"x=20\text{ cm}, y=30\text{ cm}", "30 cm, 20 cm", False),
    ],
)
def test_the_order_counts_in_brackets_and_where_only_the_gold_answer_has_names(
    gold, answer, right, shared
):
    assert equal(gold, answer, shared) is right


OTHERS = r"""
2\pi\text{ or more} | $2\pi$ or more | 2\pi \text{ at most} | 2\pi\text{ squared} | 2\pi doubled
2\pi\text{ (negative)} | 2\pi\text{ hundred} | 2\pi \text{ or less} | 2\pi\text{ factorial}
2\pi\text{ times two} | 2\pi \text{ million} | 2\pi\text{ more}"""
SAME = r"""
2\pi\text{ cm} | 2\pi \text{ square units} | 2\pi\text{ radians} | 2 pi | 2pi cm
2\pi \text{ (exactly)} | 2\pi\text{ in total} | the area is 2\pi | x = 2\pi"""


@pytest.mark.parametrize("answer", entries(OTHERS))
def test_words_that_make_another_value_of_a_formula_do_matter(answer, shared):
    assert equal(r"2\pi", answer, shared) is False


@pytest.mark.parametrize("answer", entries(SAME))
def test_other_words_behind_a_formula_do_not(answer, shared):
    assert equal(r"2\pi", answer, shared) is True


@pytest.mark.parametrize(
    "gold, answer, right",
    [
        ("x+1", r"x+1 \text{ squared}", False),
        (r"3\sqrt{2}", r"3\sqrt{2}\text{ hundred}", False),
        (r"3\sqrt{2} \text{ million}", r"3\sqrt{2} \text{ million}.", True),
        (r"-\sqrt{3}", r"-\sqrt{3}\text{ (negative)}", True),
        (r"1, \sqrt{2}", r"\sqrt{2} \text{ or } 1", True),
        (r"\pm\sqrt{2}", r"\sqrt{2} \text{ or } -\sqrt{2}", True),
    ],
)
def test_words_behind_other_formulas(gold, answer, right, shared):
    assert equal(gold, answer, shared) is right


def test_what_is_no_list_of_numbers_gets_no_verdict():
    for gold in ("5", "x+1", r"2\pi, 3", "(1,2),(3,4)", "20, 30", "", "three"):
        assert quantities.verdict(gold, "20, 30") is None


def test_long_answers_are_borne():
    for text in ("1 cm, " * 100, "(" * 400, "1 ft 2 in " * 40, "a=" * 200):
        quantities.verdict(SPEEDS, text[: writing.MOST_CHARACTERS])
