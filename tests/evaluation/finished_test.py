"""Batches of a killed evaluation come back; those of another are refused."""

import json

import pytest

from gdsd_jax.evaluation.finished import Finished
from gdsd_jax.hosts import Hosts

MANIFEST = {"seed": 1, "sampler": {"steps": 8, "cfg_scale": 0.1}, "names": ["a"]}


def opened(path, manifest=MANIFEST, **given):
    said = []
    return Finished(path, manifest, Hosts(), 3, say=said.append, **given), said


def test_batches_come_back(tmp_path):
    """Nothing is written before the first batch; a torn line counts for nothing."""
    path = tmp_path / "eval.json.partial.jsonl"
    finished, said = opened(path)
    assert finished.get("one") is None and not path.exists() and said == []
    finished.keep("one", {"x": [0.1, 2]})
    finished.keep("two", [])
    assert [line.partition(" |")[0] for line in said] == ["batch 1/3", "batch 2/3"]
    path.write_text(path.read_text() + '["three", {"x"')
    again, said = opened(path)
    assert said == [f"2 of 3 batches are done, in {path}"]
    assert again.get("one") == {"x": [0.1, 2]} and again.get("two") == []
    assert again.get("three") is None
    again.keep("three", 3)
    assert len(path.read_text().splitlines()) == 4
    assert opened(path)[0].get("three") == 3
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_other_batches_are_refused(tmp_path):
    path = tmp_path / "partial"
    opened(path)[0].keep("one", 1)
    other = {**MANIFEST, "sampler": {"steps": 4, "cfg_scale": 0.1}}
    with pytest.raises(ValueError, match=r"sampler.steps was 8, now it is 4\): give --fresh"):
        opened(path, other)
    fresh, said = opened(path, other, fresh=True)
    assert fresh.get("one") is None and said == []
    fresh.keep("two", 2)
    assert json.loads(path.read_text().splitlines()[0]) == other
    for text in ("[1]\n", "{}\nnothing\n", '{}\n["a"]\n', "\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match="--fresh"):
            opened(path)


def test_all_processes_learn_what_the_first_has_read(tmp_path):
    second = Hosts(1, 2)
    second.exchange = lambda value: [({"one": 1}, None), value]
    found = Finished(tmp_path / "partial", MANIFEST, second, 3, say=len)
    assert found.get("one") == 1
    found.keep("two", 2)
    assert not (tmp_path / "partial").exists()
    second.exchange = lambda value: [({}, "a fault"), value]
    with pytest.raises(ValueError, match="a fault"):
        Finished(tmp_path / "partial", MANIFEST, second, 3, say=len)
