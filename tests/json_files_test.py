"""JSON of others: nothing but ValueError comes out, and an entry has the type that is wanted."""

import json

import pytest

from gdsd_jax import json_files

DEEP = json_files.DEEPEST


@pytest.mark.parametrize("begin, end", [("[", "]"), ('{"a":', "}")])
def test_depth_is_bounded(begin, end):
    """To the layer; 100,000 of them are told like one too many."""
    for text in (str, str.encode):
        assert json_files.parse(text(begin * DEEP + "1" + end * DEEP))
        for depth in (DEEP + 1, 900, 100_000):
            with pytest.raises(ValueError, match="nested more than 100 deep"):
                json_files.parse(text(begin * depth + "1" + end * depth))


def test_many_brackets_side_by_side_are_not_deep():
    value = [[[]] for _ in range(1000)]
    assert json_files.parse(json.dumps(value)) == value
    assert json_files.parse(json.dumps("[" * 1000)) == "[" * 1000


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"a": "\xe9"}', b"nul", b"1" * 5000])
def test_what_is_no_json_is_a_value_error(data):
    with pytest.raises(ValueError):
        json_files.parse(data)


# kind -> (values of it, values of another)
FITS = {
    "text": (["", "a"], [0, [], {}, True]),
    "flag": ([True, False], [0, 1, "true", []]),
    "whole number": ([0, -1, 10**30], [True, 1.0, "1"]),
    "size": ([1, 2**31 - 1], [0, -1, 2**31, True, 2.0, "2"]),
    "id": ([0, 2**31 - 1], [-1, 2**31, False, "0"]),
    "ids": ([0, [1, 2]], [[], [-1], [True], "1", {}]),
    "id list": ([[0]], [0, [], ["0"]]),
    "number": ([0, -1.5, 10**30], [float("nan"), float("inf"), True, "1", 10**400]),
    "numbers": ([[1, 0.5]], [[], 1, [None]]),
    "object": ([{}, {"a": 1}], [[], "{}", 0]),
    "list": ([[], [1]], [{}, "[]", 0]),
    "texts": ([["a"]], [[], "a", [1]]),
}


@pytest.mark.parametrize("kind", json_files.KINDS)
def test_an_entry_is_of_its_kind(kind):
    """A falsy value is a value; null is absent."""
    good, bad = FITS[kind]
    for value in good:
        assert json_files.entry({"a": value}, "a", kind, "default") is value
    for value in bad:
        with pytest.raises(ValueError, match="^a=.*: give "):
            json_files.entry({"a": value}, "a", kind, "default")
    for entries in ({}, {"a": None}):
        assert json_files.entry(entries, "a", kind, "default") == "default"
        with pytest.raises(ValueError, match="entry 'a' is missing"):
            json_files.entry(entries, "a", kind)
