"""Choices by name: ours, a user's file, wherever it lies, and what is refused."""

import importlib.util
import os

from etils import epath
import pytest

from gdsd_jax import extensions

KNOWN = {"left": 1, "right": 2}


def load(name):
    return extensions.load(name, KNOWN, "ORDER", "order")


def test_a_name_is_one_of_ours_or_a_file(tmp_path):
    (tmp_path / "mine.py").write_text("ORDER = object()")
    assert load("right") == 2
    assert load(str(tmp_path / "mine.py")) is load(str(tmp_path / "mine.py"))


def test_a_file_is_the_same_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("ORDER = object()")
    monkeypatch.chdir(tmp_path)
    path = extensions.absolute("mine.py")
    assert path == str(tmp_path / "mine.py") and extensions.absolute("left") == "left"
    mine = load("mine.py")
    monkeypatch.chdir(os.sep)
    assert load(path) is mine


def test_a_file_may_lie_in_a_bucket(bucket):
    address = "gs://bucket/code/mine.py"
    epath.Path(address).write_text("ORDER = 7")
    assert extensions.absolute(address) == address and load(address) == 7
    with pytest.raises(ValueError, match="order=gs://bucket/none.py is not a readable file"):
        load("gs://bucket/none.py")


def test_the_package_that_addresses_need_is_named():
    if importlib.util.find_spec("gcsfs"):
        pytest.skip("gcsfs is installed")
    with pytest.raises(ValueError, match="order=gs://bucket/mine.py: .*gcsfs"):
        load("gs://bucket/mine.py")


def test_addresses_of_other_kinds_are_refused():
    with pytest.raises(ValueError, match="http://host/mine.py: give a local path or gs://"):
        load("http://host/mine.py")


@pytest.mark.parametrize(
    "text, said",
    [
        ("OTHER = 1", "the file defines no ORDER"),
        ("1 / 0", "fails: ZeroDivisionError"),
        ("def", "fails: SyntaxError"),
        (None, "is not a readable file .FileNotFoundError.: check the path"),
    ],
)
def test_what_a_file_lacks_is_named_in_one_line(tmp_path, text, said):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    for _ in range(2):  # a file that failed is not taken for one that did not
        with pytest.raises(ValueError, match=said) as error:
            load(str(path))
        assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown order 'up', known: left, right; or a file"):
        load("up")
