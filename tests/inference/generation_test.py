"""What a task asks of an answer; widths and batches."""

import pytest

from gdsd_jax.inference import generation
from gdsd_jax.inference.generation import Generation


def test_answers_are_greedy_unless_the_task_samples():
    asked = {"until": ["a"], "max_gen_toks": 7, "temperature": 0.7, "top_k": 3}
    assert generation.generation_of(asked) == Generation(("a",), 7, 0.0)
    assert generation.generation_of({"until": "b"}) == Generation(("b",), None, 0.0)
    asked = {"do_sample": True, "temperature": 0.7, "max_new_tokens": 3, "top_p": 1.0}
    assert generation.generation_of(asked) == Generation((), 3, 0.7)
    assert generation.generation_of({"do_sample": True}) == Generation((), None, 1.0)
    assert generation.generation_of({"do_sample": True, "top_p": 0.9}, 0.9).temperature == 1.0


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"do_sample": True, "top_p": 0.9}, "top_p=0.9"),
        ({"do_sample": True, "top_k": 5}, "top_k=5"),
        ({"do_sample": True, "temperature": -1}, "temperature=-1"),
        ({"max_gen_toks": 0}, "max_gen_toks=0"),
    ],
)
def test_what_the_sampler_cannot_do_is_refused(asked, said):
    with pytest.raises(ValueError, match=said):
        generation.generation_of(asked)


def test_a_text_ends_before_the_first_string():
    assert generation.cut_at("one\n\ntwo.", ["\n\n", "."]) == "one"
    assert generation.cut_at("a.b", ["\n", "."]) == "a"
    assert generation.cut_at("a.b", ["", "?"]) == "a.b"


def test_widths_are_few_and_wide_enough():
    widths = [generation.width_of(length) for length in range(5000)]
    assert all(width >= length for length, width in enumerate(widths))
    assert all(
        width <= max(1.25 * length, length + 31) for length, width in enumerate(widths) if length
    )
    assert len(set(widths)) == 25
    assert all(generation.width_of(length, 96) % 96 == 0 for length in range(1, 5000, 7))


def test_batches_hold_equal_keys():
    found = list(generation.batches_of("abacaa", 2))
    assert found == [[0, 2], [4, 5], [1], [3]]
    assert generation.filled([4, 7], 5) == [4, 7, 4, 7, 4]
