"""Rows: what is no row is refused in one line that names file, line and mend; the rest is kept."""

import datetime
import gzip
import json
import math
import subprocess
import sys

import pyarrow.parquet
import pytest

from gdsd_jax import rows
from gdsd_jax.rows import Field

FIELDS = (
    Field("name", "non-empty text", "give a name"),
    Field("note", "text", "write a note or leave it out", default="none"),
    Field("parts", "texts", "list them", default=None),
    Field("size", "text or number", "say how large", default=""),
)
PROMPT = (
    Field("prompt", "non-empty text", "give a prompt", default=None),
    Field("messages", "turns", 'give {"role": "...", "content": "..."} each', default=None),
)
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}]


def test_fields_are_kept_or_get_their_defaults():
    row = {"name": "n", "note": "", "parts": ["x", ""], "size": 3}
    assert rows.check(row | {"other": 1}, "f:1", FIELDS) == row | {"size": "3"}
    bare = {"name": "n", "note": "none", "parts": None, "size": ""}
    assert rows.check({"name": "n"}, "f:1", FIELDS) == bare
    assert rows.check({"name": "n", "note": None, "parts": None}, "f:1", FIELDS) == bare


@pytest.mark.parametrize("row", [{"prompt": "Hi"}, {"messages": TURNS}])
def test_rows_of_prompts_or_messages(row):
    assert rows.check(row, "f:1", PROMPT) == {"prompt": None, "messages": None} | row


@pytest.mark.parametrize(
    "row, said",
    [
        ([], 'f:1: not a JSON object: write {"name": ...}'),
        (None, "f:1: not a JSON object"),
        ({}, "f:1: name is missing: give a name"),
        ({"name": None}, "f:1: name is not a non-empty string: give a name"),
        ({"name": "\n "}, "f:1: name is not a non-empty string: give a name"),
        ({"name": ["n"]}, "f:1: name is not a non-empty string: give a name"),
        ({"note": 1}, "f:1: note is not a string: write a note or leave it out"),
        ({"parts": "x"}, "f:1: parts is not a non-empty list: list them"),
        ({"parts": []}, "f:1: parts is not a non-empty list: list them"),
        ({"parts": ["x", None]}, "f:1: parts[1] is not a string: list them"),
        ({"size": True}, "f:1: size is neither a string nor a number: say how large"),
        ({"size": [1]}, "f:1: size is neither a string nor a number: say how large"),
        ({"size": math.nan}, "f:1: size is nan: say how large"),
        ({"size": -math.inf}, "f:1: size is -inf"),
        ({"name": "a\ud800"}, "f:1: name: a lone surrogate (\\ud800 to \\udfff) is no character"),
        ({"parts": ["a", "\udfff"]}, "f:1: parts: a lone surrogate"),
    ],
)
def test_wrong_rows_are_refused_in_one_line(row, said):
    if isinstance(row, dict) and row and "name" not in row:
        row = {"name": "n"} | row
    with pytest.raises(ValueError) as error:
        rows.check(row, "f:1", FIELDS)
    assert str(error.value).startswith(said) and len(str(error.value)) < 150
    assert "\n" not in str(error.value)
    str(error.value).encode()  # it can be printed
    with pytest.raises(ValueError) as error:
        rows.check(row, "", FIELDS)
    assert str(error.value).startswith(said.removeprefix("f:1: "))


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "Hi",
        ["Hi"],
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [*TURNS, {"role": 1, "content": "x"}],
    ],
)
def test_wrong_messages_are_refused(messages):
    with pytest.raises(ValueError, match="f:1: messages is not a list of"):
        rows.check({"messages": messages}, "f:1", PROMPT)
    with pytest.raises(ValueError, match="surrogate"):
        rows.check({"messages": [{"role": "user", "content": "\ud800"}]}, "f:1", PROMPT)


def write(path, *lines):
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_files_are_read_line_by_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('\ufeff{"a": "one\u2028two"}\r\n\r\n[1]\n \n'.encode())
    assert list(rows.read_rows(path, "")) == [
        (f"{path}:1", {"a": "one\u2028two"}),
        (f"{path}:3", [1]),
    ]


def test_tables_are_read_by_their_column_names(tmp_path):
    path = tmp_path / "a.CSV"
    path.write_bytes('\ufeffname,note\r\n001,"one, ""two"""\r\n\r\nn,"two\nlines"\r\n'.encode())
    assert list(rows.read_rows(path, "")) == [
        (f"{path}:2", {"name": "001", "note": 'one, "two"'}),
        (f"{path}:5", {"name": "n", "note": "two\nlines"}),
    ]
    records = rows.read_records(path, lambda row: rows.check(row, "", FIELDS), "")
    assert [record["name"] for record in records] == ["001", "n"]


@pytest.mark.parametrize(
    "lines, said",
    [
        ((), "a.csv has no rows"),
        (("name,note",), "a.csv has no rows"),
        (("name,note", "n,", "n"), "a.csv:3: not a row of CSV (it should have 2 values)"),
        (("name,note", "n,1,2"), "a.csv:2: not a row of CSV (it should have 2 values)"),
        (("name,note", 'n,"open'), "a.csv:2: not a row of CSV ("),
        (("name,note", "n," + "x" * 200_000), "a.csv:2: not a row of CSV ("),
        (("name,note,name", "n,1,2"), "a.csv:1: not a row of CSV (two columns are named 'name')"),
        (("name,note", ",1"), "a.csv:2: name is not a non-empty string"),
    ],
)
def test_faults_of_a_table_name_path_and_line(tmp_path, lines, said):
    path = write(tmp_path / "a.csv", *lines)
    with pytest.raises(ValueError) as error:
        rows.read_records(path, lambda row: rows.check(row, "", FIELDS), " with a name")
    assert str(error.value).startswith(f"{tmp_path}/{said}") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "value, text",
    [("72.0", "72.0"), (72, "72"), (72.0, "72"), (-0.0, "0"), (7.25, "7.25"), (1e300, "1e+300")],
)
def test_numbers_are_texts(value, text):
    """A table with a gap has whole numbers as floats."""
    field = (Field("n", "text or number", "give it"),)
    assert rows.check({"n": value}, "", field) == {"n": text}


@pytest.mark.parametrize(
    "kind, good, bad",
    [
        ("integer", (0, -3, 10**30), ("1", 1.0, True, [1])),
        ("integers", ([1], [3, -2]), ([], 1, [1, 2.0], ["1"], [False])),
    ],
)
def test_whole_numbers(kind, good, bad):
    field = (Field("n", kind, "give it"),)
    for value in good:
        assert rows.check({"n": value}, "f:1", field) == {"n": value}
    for value in bad:
        with pytest.raises(ValueError, match=r"f:1: n.* is not a .*: give it"):
            rows.check({"n": value}, "f:1", field)


@pytest.mark.parametrize(
    "lines, said",
    [
        (("", " "), "a.jsonl has no rows: give one JSON object a line with a name"),
        (('{"name": "n"}', "{"), "a.jsonl:2: not JSON ("),
        (('{"name": "n"}', "[" * 100_000), "a.jsonl:2: not JSON ("),
        (('{"name": "n"}', "", '"n"'), "a.jsonl:3: not a JSON object: give one a line with a name"),
        (('{"name": "n"}', "null"), "a.jsonl:2: not a JSON object"),
        (('{"name": "n"}', '{"name": 3}'), "a.jsonl:2: name is not a non-empty string"),
    ],
)
def test_faults_of_a_file_name_path_and_line(tmp_path, lines, said):
    path = write(tmp_path / "a.jsonl", *lines)

    def read(row):
        return rows.check(row, "", FIELDS)

    with pytest.raises(ValueError) as error:
        rows.read_records(path, read, " with a name")
    assert str(error.value).startswith(f"{tmp_path}/{said}") and "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"a": "\xe9"}')
    for name in ("none.jsonl", "latin.jsonl", "."):
        with pytest.raises(ValueError, match="--prompts=.* is not a readable UTF-8 file") as error:
            list(rows.read_rows(tmp_path / name, "", flag="--prompts="))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "row, columns, found",
    [
        ({"a": 1, "b": 2}, {}, {"a": 1, "b": 2}),
        ({"x": 1, "b": 2}, {"a": "x"}, {"a": 1, "b": 2}),
        ({"x": 1, "a": 2}, {"a": "x"}, {"a": 1}),  # the file's own "a" is something else
        ({"a": 1, "b": 2}, {"a": "b", "b": "a"}, {"a": 2, "b": 1}),
        ({"a": 1}, {"a": "x"}, {}),  # said to be elsewhere
        ({"x": 1}, {"a": "x", "b": "x"}, {"a": 1, "b": 1}),
        ({"a": 1}, {"a": "a"}, {"a": 1}),
    ],
)
def test_columns_rename(row, columns, found):
    assert rows.renamed(row, columns) == found


def test_columns_are_applied_before_checking_and_named_in_messages(tmp_path):
    path = write(tmp_path / "a.jsonl", json.dumps({"title": "n", "name": 3}))

    def read(row):
        return rows.check(row, "", FIELDS)

    (found,) = rows.read_records(path, read, "", {"name": "title"})
    assert found["name"] == "n"
    with pytest.raises(ValueError, match=r"a\.jsonl:1: name is missing.*name is read from heading"):
        rows.read_records(path, read, "", {"name": "heading"})
    rows.check_columns({"name": "title"}, FIELDS)
    with pytest.raises(ValueError, match=r"columns\.nam: no such field, choose one of name, note"):
        rows.check_columns({"nam": "title"}, FIELDS)


def test_what_every_row_needs_in_words():
    assert rows.required(FIELDS) == " with name"
    both = (*FIELDS, Field("age", "text or number", "say how old"))
    assert rows.required(both) == " with name and age"


def test_needs_neither_jax_nor_numpy():
    script = "import sys, gdsd_jax.rows\nprint({'jax', 'numpy', 'tensorflow'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize(
    "name, text, found",
    [
        ("a.jsonl.gz", '{"a": 1}\n\n{"a": 2}\n', [(1, {"a": 1}), (3, {"a": 2})]),
        ("a.CSV.GZ", "a,b\n1,2\n", [(2, {"a": "1", "b": "2"})]),
        ("a.json.gz", '[{"a": 1},\n{"a": 2}]', [(1, {"a": 1}), (2, {"a": 2})]),
        ("a.json", ' [{"a": 1},\n{"a": 2}]\n', [(1, {"a": 1}), (2, {"a": 2})]),
        ("a.json", '{"a": 1}\n{"a": 2}\n', [(1, {"a": 1}), (2, {"a": 2})]),
    ],
)
def test_packed_files_and_lists(tmp_path, name, text, found):
    path = tmp_path / name
    data = text.encode("utf-8-sig")
    path.write_bytes(gzip.compress(data) if name.lower().endswith(".gz") else data)
    assert list(rows.read_rows(path, "")) == [(f"{path}:{number}", row) for number, row in found]


@pytest.mark.parametrize(
    "name, data, said",
    [
        ("a.jsonl.gz", b'{"a": 1}', "is not a readable UTF-8 file (BadGzipFile)"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"a": 1}' * 9, mtime=0)[:-9],
            "is not a readable UTF-8 file",
        ),
        (
            "a.jsonl.gz",
            gzip.compress(b"\xe9", mtime=0),
            "is not a readable UTF-8 file (UnicodeDecodeError)",
        ),
        (
            "a.jsonl.gz",
            gzip.compress(b"x" * 99, mtime=0)[:12] + b"x" * 99,
            "is not a readable UTF-8 file",
        ),
        ("a.csv.gz", gzip.compress(b"a,b\n1", mtime=0), ":2: not a row of CSV"),
        ("a.json", b"[1,", ": not a JSON list ("),
        ("a.json", b"[]", " has no rows"),
    ],
)
def test_broken_packed_files_and_lists(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError) as error:
        list(rows.read_rows(tmp_path / name, ""))
    assert str(error.value).startswith(f"{tmp_path / name}") and said in str(error.value)
    assert "\n" not in str(error.value)


def test_parquet_is_read_as_json_would_be(tmp_path):
    """As the hub writes data sets: lists, structs, several row groups; dates are texts."""
    found = [
        {"question": f"q{number}", "tests": ["a", "b"][: number % 3], "level": {"name": None}}
        for number in range(7)
    ]
    dated = [row | {"at": datetime.date(2026, 1, 1 + n)} for n, row in enumerate(found)]
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(dated), tmp_path / "a.parquet", row_group_size=3
    )
    expected = [row | {"at": f"2026-01-0{1 + n}"} for n, row in enumerate(found)]
    read = list(rows.read_rows(tmp_path / "a.parquet", ""))
    assert read == [(f"{tmp_path / 'a.parquet'}:{n}", row) for n, row in enumerate(expected, 1)]
    data = (tmp_path / "a.parquet").read_bytes()
    for name, broken in {"cut": data[:-40], "no table": b"{}", "empty": b""}.items():
        (tmp_path / f"{name}.parquet").write_bytes(broken)
        with pytest.raises(ValueError, match="not a Parquet file") as error:
            list(rows.read_rows(tmp_path / f"{name}.parquet", ""))
        assert "\n" not in str(error.value)
    pyarrow.parquet.write_table(pyarrow.table({"a": []}), tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="none.parquet has no rows"):
        list(rows.read_rows(tmp_path / "none.parquet", ""))


def test_texts_that_parquet_has_as_bytes(tmp_path):
    table = pyarrow.table({"q": ["2 + 2 = \u00bd?".encode()], "picture": [b"\xff\xd8"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")

    def read(name):
        field = (Field(name, "text", "give it"),)
        return rows.read_records(tmp_path / "a.parquet", lambda row: rows.check(row, "", field), "")

    assert read("q") == [{"q": "2 + 2 = \u00bd?"}]
    with pytest.raises(ValueError, match="picture: a lone surrogate"):
        read("picture")


def test_a_missing_field_names_the_columns_that_there_are():
    def read(row):
        return rows.check(row, "", (rows.Field("name", "text", "give a name"),))

    with pytest.raises(ValueError) as error:
        rows.record_of("f:3", {"title": "x", "n": 1}, read, {})
    hint = "columns.name=NAME takes another of title, n"
    assert str(error.value) == f"f:3: name is missing: give a name ({hint})"
    with pytest.raises(ValueError, match="name is read from heading; columns.name=NAME takes"):
        rows.record_of("f:3", {"title": "x"}, read, {"name": "heading"})
    with pytest.raises(ValueError, match="c0, c1, .*, c11, \\.\\.\\.\\)$"):
        rows.record_of("f:3", {f"c{place}": 1 for place in range(99)}, read, {})
    with pytest.raises(ValueError, match="^f:3: name is not a string: give a name$"):
        rows.record_of("f:3", {"name": 3}, read, {})
