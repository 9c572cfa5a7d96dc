"""A run that goes on has its own settings, or changes nothing; one may start from another's
supervised phase."""

import contextlib
import json
import shutil

import jax.numpy as jnp
import pytest

from gdsd_jax import (
    checkpoint,
    experiment,
    metrics,
    paths,
    resume,
    settings,
    train,
    weights,
    workdirs,
)
from gdsd_jax.checkpoint import Checkpoints, OtherSettings
from gdsd_jax.checksums import sum_of
from tests.contents import contents


@pytest.fixture(scope="module")
def prepared(workdir):
    found = experiment.prepare(settings.read(workdir), say=len)
    with contextlib.closing(found.task):
        yield found


@pytest.fixture
def copy(workdir, tmp_path):
    """The workdir of a run, as a kill leaves it."""
    folder = tmp_path / "run"
    shutil.copytree(workdir, folder)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "tr')
    return folder


def with_settings(prepared, **changes):
    return prepared._replace(settings=settings.replace(prepared.settings, changes))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("gdsd.psi", 3.5),
        ("group_size", 4),
        ("optimizer.learning_rate", 0.5),
        ("sft.steps", 5),
    ],
)
def test_other_settings_are_refused_and_nothing_changes(prepared, copy, key, value):
    before = contents(copy)
    old = settings.flat(prepared.settings)[key]
    other = with_settings(prepared, **{key: value, "rounds": 3})
    with pytest.raises(OtherSettings) as error:
        train.train(other, copy, say=pytest.fail)
    assert f"other settings, {key}={old} is now {value}: give" in str(error.value)
    assert str(copy) in str(error.value) and "\n" not in str(error.value)
    assert contents(copy) == before


def test_a_run_that_came_meanwhile_is_seen(prepared, copy, tmp_path, monkeypatch):
    """Between the look at the workdir and its lock another run saved its first checkpoint."""
    folder, claimed = tmp_path / "fresh", workdirs.claimed

    def late(*given):
        shutil.copytree(copy, folder)
        return claimed(*given)

    monkeypatch.setattr(workdirs, "claimed", late)
    other = with_settings(prepared, seed=7, **{"gdsd.psi": 3.0})
    with pytest.raises(OtherSettings, match="the run there has other settings"):
        train.train(other, folder, say=pytest.fail)
    assert contents(folder) == contents(copy)


@pytest.mark.parametrize("name", [*workdirs.FILES, *workdirs.FOLDERS])
def test_a_file_in_a_folders_place_is_refused(prepared, copy, name):
    path = copy / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.mkdir() if name in workdirs.FILES else path.write_text("")
    before = contents(copy)
    with pytest.raises(paths.WorkdirError, match=f"/{name} is no .*: move it away"):
        train.train(prepared, copy, say=pytest.fail)
    assert contents(copy) == before


@pytest.mark.parametrize("text", ["{", "[1]", '{"sft": "x", "eval": null}', '{"lost": 1}'])
def test_what_sinks_got_may_be_unreadable(prepared, copy, text):
    (copy / "metrics.jsonl.sent").write_text(text)
    before = contents(copy)
    with pytest.raises(OtherSettings, match=r"metrics\.jsonl\.sent.*: delete it") as error:
        train.train(with_settings(prepared, sinks=("csv",)), copy, say=len)
    assert "\n" not in str(error.value)
    after = contents(copy)
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("text", [None, "{", '{"format": 2, "sed": 1}'])
def test_a_run_without_readable_settings_is_refused(prepared, copy, text):
    """Nothing could be compared."""
    (copy / "config.json").unlink() if text is None else (copy / "config.json").write_text(text)
    before = contents(copy)
    with pytest.raises(OtherSettings, match="config.json") as error:
        train.train(prepared, copy, say=pytest.fail)
    assert "\n" not in str(error.value) and contents(copy) == before


def test_what_may_change_is_told(prepared, copy):
    """And written."""
    said = []
    train.train(with_settings(prepared, eval_every=7, keep_best="mean_reward"), copy, said.append)
    old = prepared.settings.eval_every
    assert f"settings that are others now: eval_every={old} is now 7, keep_best=None is now " in (
        "\n".join(said)
    )
    assert settings.read(copy).eval_every == 7


def test_the_best_of_an_earlier_run_makes_room(copy):
    """Of one whose checkpoints were deleted to start afresh; one that goes on keeps it."""
    checkpoints, best = (Checkpoints(copy / name / "checkpoints") for name in ("", workdirs.BEST))
    best.save(7, {"state": jnp.arange(4.0)}, {"round": 3})
    best.wait()
    said = []
    given = resume.Resumed(None, {}, None, resume.Progress(), {}), {}, said.append
    train.tell_beginning(copy, checkpoints, best, *given)
    assert best.iterations() == [7] and said[0].startswith("resuming ")
    shutil.rmtree(copy / "checkpoints")
    train.tell_beginning(copy, checkpoints, best, *given)
    assert best.iterations() == [] and (copy / workdirs.BEST / "earlier" / "7-1").is_dir()
    assert said[1].endswith(f"moved to {copy}/{workdirs.BEST}/earlier/7-1")


def test_a_round_that_is_over_is_not_traced(prepared, copy, monkeypatch):
    """A line says so."""
    found, said = resume.Resumed(None, {}, None, resume.Progress("rl", round=2), {}), []
    monkeypatch.setattr(train, "begin_until_stopped", lambda *_: found)
    monkeypatch.setattr(train, "reinforce", lambda *_: None)
    for profile in (None, 3, 2):
        train.train(prepared, copy, said.append, profile)
        told = [line for line in said if "--profile" in line]
        assert told == ["--profile=2: that round is over, nothing is traced"] * (profile == 2)


STARTS = {
    "nothing there": (
        lambda folder: shutil.rmtree(folder / "checkpoints"),
        {},
        "no finished check",
    ),
    "another phase": (len, {"sft.noise": 0.75}, "another supervised phase, sft.noise=0.4 is now"),
    "another seed": (len, {"seed": 3}, "another supervised phase, seed=0 is now 3"),
    "in a round": (None, {}, "begun no round: train one with rounds=0"),
}


@pytest.mark.parametrize(("spoil", "changes", "said"), STARTS.values(), ids=STARTS)
def test_a_start_that_does_not_fit_is_refused(prepared, copy, tmp_path, spoil, changes, said):
    if spoil is None:
        newest = checkpoint.latest_iteration(copy)
        place = copy / "checkpoints" / str(newest)
        host = json.loads((place / "host" / "metadata").read_text()) | {"inner": 1}
        (place / "host" / "metadata").write_text(json.dumps(host))
        told = place / "checksums" / "metadata"
        told.write_text(json.dumps(json.loads(told.read_text()) | {"host": sum_of(host)}))
    else:
        spoil(str(copy)) if spoil is len else spoil(copy)
    changes = {"start_from": str(copy), "rounds": 1} | changes
    with pytest.raises(OtherSettings, match=said) as error:
        train.train(with_settings(prepared, **changes), tmp_path / "new", say=pytest.fail)
    assert "\n" not in str(error.value) and not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_run_starts_from_anothers_supervised_phase(prepared, workdir, tmp_path):
    """Its first evaluation is the other's last; the best checkpoint is a workdir of its own, from
    which the run goes on without a word of the start."""
    changes = {"start_from": str(workdir), "rounds": 1, "keep_best": "-forwards_per_token"}
    changes |= {"optimizer.learning_rate": 0.5, "eval_every": 1}
    chosen = with_settings(prepared, **changes)
    new, said = tmp_path / "new", []
    train.train(chosen, new, say=said.append)
    theirs, ours = (metrics.read_metrics(folder / "metrics.jsonl") for folder in (workdir, new))
    assert [row["phase"] for row in ours][:2] == ["sft", "eval"] == [row["phase"] for row in theirs]
    for before, after in zip(theirs, ours):
        assert before | {"wall_s": 0} == after | {"wall_s": 0}
    assert [row["step"] for row in ours if row["phase"] == "eval"] == [0, 1]
    assert any(line.startswith("best forwards_per_token so far") for line in said)
    best = Checkpoints(new / workdirs.BEST / "checkpoints")
    assert len(best.iterations()) == 1
    weights.load(new / workdirs.BEST)
    train.train(with_settings(prepared, **changes | {"rounds": 2}), new, say=said.append)
    assert [row["step"] for row in metrics.read_metrics(new / "metrics.jsonl")][-1] == 2
