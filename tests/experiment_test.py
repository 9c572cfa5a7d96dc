"""What a run is put together from: prompts, held-out problems, a sandbox where programs run."""

import contextlib
import dataclasses
import itertools
import json

import numpy as np
import pytest

from configs import coding
from gdsd_jax import experiment, meanings, metrics, settings, tokenizers, weights
from gdsd_jax.sandbox import SandboxError
from gdsd_jax.tasks import coding as coding_task

SMALL = "tiny,prompts_per_round=8,group_size=2,sft.steps=0,eval_problems=4"


@contextlib.contextmanager
def prepared(data_dir, *overrides, **others):
    """What `experiment.prepare` gives, its task open for as long."""
    config = coding.get_config(",".join([SMALL, f"data_dir={data_dir}", *overrides]))
    found = experiment.prepare(settings.parse(config), **others)
    with contextlib.closing(found.task):
        yield found


def write_rows(path, count, first=0):
    numbers = range(first, first + count)
    rows = [{"question": f"Give {n}.", "test_cases": [f"assert f() == {n}"]} for n in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_alone_is_split_and_says_so(data_dir, tmp_path, capsys):
    file = write_rows(tmp_path / "rows.jsonl", 20)
    own = (f"data_file={file}", "prompt_length=200")
    with prepared(data_dir, *own) as found:
        train, heldout = (
            {r["question"] for r in (p.records[i] for i in p.index)}
            for p in (found.train, found.heldout)
        )
    assert len(train) == 18 and len(heldout) == 2 and not train & heldout
    said = capsys.readouterr().out
    assert "held out: 2 of the 20 problems" in said and "heldout_share=0.1" in said
    with prepared(data_dir, *own, "heldout_share=0.0") as found:
        assert len(found.heldout.records) == 20 and "nothing of" in capsys.readouterr().out
    with pytest.raises(ValueError, match=f"heldout_file={file} needs a data_file"):
        with prepared(data_dir, f"heldout_file={file}"):
            pass


def test_a_sorted_file_is_mixed(data_dir, tmp_path):
    """Both phases train on all of it, a few held-out problems are of all of it, and the problems
    that are held out are those of the seed alone."""
    file = write_rows(tmp_path / "rows.jsonl", 200)
    rows = [json.loads(line) | {"solution": "f = int"} for line in file.read_text().splitlines()]
    file.write_text("\n".join(map(json.dumps, rows)))
    own = (
        f"data_file={file}",
        "prompt_length=200",
        "sft.steps=5",
        "sft.noise=0",
        "heldout_share=0.2",
    )
    places = {}
    for seed in (0, 1):
        with prepared(data_dir, *own, f"seed={seed}") as found:
            train, heldout = (
                [int(p.records[i]["question"][5:-1]) for i in p.index]
                for p in (found.train, found.heldout)
            )
        places[seed] = train, heldout
    train, heldout = places[0]
    assert places[0] == places[1] and len(heldout) == 40
    for part in (train, heldout[:20], heldout[20:]):  # means of a uniform law, four spreads around
        assert abs(np.mean(part) - 99.5) < 4 * 58 / len(part) ** 0.5


def test_a_sorted_file_that_its_task_splits_is_mixed(data_dir, tmp_path):
    """Of Countdown's own split too the first problems are a fair sample."""
    pairs = sorted(itertools.combinations(range(1, 46), 2), key=sum)
    rows = [{"numbers": pair, "target": sum(pair)} for pair in pairs]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    with prepared(data_dir, "task=countdown", f"data_file={file}", "prompt_length=400") as found:
        for part in (found.train, found.heldout):
            places = [pairs.index(tuple(part.records[i]["numbers"])) for i in part.index]
            first = places[: len(places) // 2]
            assert len(first) > 30
            assert abs(np.mean(first) - len(pairs) / 2) < 4 * 290 / len(first) ** 0.5


def test_a_heldout_file_is_what_is_held_out(data_dir, tmp_path):
    """Nothing of the other file is, and nobody says so; lines go where they are wanted."""
    files = [write_rows(tmp_path / "train.jsonl", 8), write_rows(tmp_path / "test.jsonl", 3, 8)]
    own = (f"data_file={files[0]}", f"heldout_file={files[1]}", "prompt_length=200")
    lines = []
    with prepared(data_dir, *own, say=lines.append) as found:
        assert len(found.train.records) == 8 and len(found.heldout.records) == 3
    assert lines == []


def test_problems_on_both_sides_are_told_or_kept_together(data_dir, tmp_path):
    """Some files have several answers to a question, and some test files leak."""
    own = ("prompt_length=200", f"data_file={write_rows(tmp_path / 'train.jsonl', 8)}")
    lines, test = [], write_rows(tmp_path / "test.jsonl", 4, 6)
    with prepared(data_dir, *own, f"heldout_file={test}", say=lines.append):
        assert lines == [f"{test}: 2 of its problems are trained on, word by word"]
    rows = (tmp_path / "train.jsonl").read_text().splitlines()
    spaced = [row.replace("Give ", r"Give\n ") for row in rows]
    (tmp_path / "twice.jsonl").write_text("\n".join(rows + spaced + rows))
    twice = f"data_file={tmp_path / 'twice.jsonl'}"
    with prepared(data_dir, own[0], twice, "heldout_share=0.3") as found:
        train, heldout = (
            {" ".join(r["question"].split()) for r in (p.records[i] for i in p.index)}
            for p in (found.train, found.heldout)
        )
        assert len(heldout) == 2 and len(train) == 6 and not train & heldout
        assert (len(found.train), len(found.heldout)) == (18, 6)


def test_the_halves_of_what_is_held_out_share_nothing(data_dir, tmp_path):
    files = [write_rows(tmp_path / f"{count}.jsonl", count) for count in (8, 5)]
    own = (f"data_file={files[0]}", f"heldout_file={files[1]}", "prompt_length=200")
    asked = {}
    for half in ("development", "test"):
        with prepared(data_dir, *own, f"heldout_half={half}") as found:
            asked[half] = [record["question"] for record in found.heldout.records]
    assert asked["development"] == ["Give 0.", "Give 2.", "Give 4."]
    assert asked["test"] == ["Give 1.", "Give 3."]
    (tmp_path / "one.jsonl").write_text(files[0].read_text().splitlines()[0])
    alone = (own[0], f"heldout_file={tmp_path / 'one.jsonl'}", own[2], "heldout_half=test")
    with pytest.raises(ValueError, match="heldout_half=test: of 1 held-out problems none is left"):
        with prepared(data_dir, *alone):
            pass


def test_the_task_says_what_is_graded(data_dir):
    with prepared(data_dir) as found:
        assert found.parts == ("format", "tests") and found.task.score == "tests"
        assert found.teacher is None and found.hosts.first
        assert found.settings.prompts_per_round == 8
        assert found.sft_problems.index is found.train.index


def test_without_a_working_sandbox_one_line_says_so(data_dir, monkeypatch):
    def broken(*_, **__):
        raise SandboxError("no sandbox works here; install bubblewrap")

    monkeypatch.setattr(coding_task, "open_sandbox", broken)
    with pytest.raises(ValueError, match="install bubblewrap"):
        with prepared(data_dir):
            pass


def write_prompts(path, count):
    rows = [{"question": f"sum the items {n}", "domain": "chat"} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_task_that_runs_no_program_asks_for_none(workdir, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(
        coding_task, "open_sandbox", lambda *_, **__: pytest.fail("a sandbox was opened")
    )
    file = write_prompts(tmp_path / "prompts.jsonl", 16)
    overrides = ["task=prompts", f"init_from={workdir}", f"data_file={file}", "prompt_length=64"]
    with prepared(data_dir, *overrides) as found:
        assert len(found.train.records) == 14


@pytest.fixture
def opened(monkeypatch):
    """Tasks as `experiment` makes them from now on: [whether it is closed]."""
    closed, find = [], experiment.tasks.find

    def watched(name):
        def make(chosen):
            task, place = find(name)(chosen), len(closed)
            closed.append(False)

            def close():
                task.close()
                closed[place] = True

            return task._replace(close=close)

        return make

    monkeypatch.setattr(experiment.tasks, "find", watched)
    return closed


@pytest.mark.parametrize(
    "override, said",
    [
        ("prompt_length=1", "no prompt has 1 tokens or fewer: raise prompt_length"),
    ],
)
def test_what_cannot_work_closes_the_task(data_dir, opened, override, said):
    with pytest.raises(ValueError, match=said) as error:
        with prepared(data_dir, override):
            pass
    assert "\n" not in str(error.value) and opened == [True]


@pytest.mark.parametrize(
    "override, said",
    [
        ("require_init=true", "convert.*add init_from=DIR"),
        ("mesh.data=3", "mesh"),
        ("prompts_per_round=3", "prompts_per_round"),
        ("attention_kernel=splash", "splash"),
        ("model=llada_huge", "llada_huge"),
        ("objective=spg,spg.block_length=7", "spg.block_length=7"),
        ("sinks=(tensorbord,)", "tensorbord"),
    ],
)
def test_some_faults_are_found_before_the_task_is_made(data_dir, opened, override, said):
    with pytest.raises(ValueError, match=said) as error:
        with prepared(data_dir, override):
            pass
    assert "\n" not in str(error.value) and opened == []


@pytest.mark.parametrize("metric", ["reward_mean", "-kl", "threshold_pass_at_1", "loss", ""])
def test_the_number_to_keep_by_is_one_that_evaluations_tell(data_dir, tmp_path, opened, metric):
    """Found before problems are built, of a task of ours also where it could be a part."""
    said = "evaluations of this run tell pass_at_1, mean_reward, .*: choose one"
    with pytest.raises(ValueError, match=f"^keep_best={metric}: {said}"):
        with prepared(tmp_path / "data", f"keep_best={metric}"):
            pass
    assert all(opened) and not (tmp_path / "data").exists()
    for known in ("tests", "-looping"):
        with prepared(data_dir, f"keep_best={known}"):
            pass
    chats = tmp_path / "chats.jsonl"
    chats.write_text('{"question": "a", "solution": "b"}\n' * 4)
    own = (f"data_file={chats}", "task=chats", "rounds=0", "keep_best=pass_at_1")
    with pytest.raises(ValueError, match="tell problems, forwards_per_token, looping: choose"):
        with prepared(data_dir, *own):
            pass


def test_evaluations_tell_what_is_foreseen(workdir):
    rows = metrics.read_metrics(workdir / "metrics.jsonl")
    told = next(row for row in rows if row["phase"] == "eval")
    foreseen = meanings.of_evaluations(("tests", "format"), True, taught=False, threshold=False)
    assert {*told} - {"phase", "step", "wall_s"} == {*foreseen}


def test_rewards_need_a_task_that_grades(data_dir):
    with prepared(data_dir) as found:
        silent = found.task._replace(grade=None)
        model = found.denoiser.config
        with pytest.raises(ValueError, match="objective=gdsd learns from rewards.*grades nothing"):
            experiment.check(found.settings, found.mesh, model, silent)
        experiment.check(found.settings, found.mesh, model, found.task)
        wide = dataclasses.replace(model, d_ff=127)
        split = settings.replace(found.settings, {"mesh.data": 4, "mesh.tensor": 2})
        with pytest.raises(ValueError, match="127 is not divisible by mesh axis tensor=2"):
            experiment.check(split, experiment.make_mesh(split), wide, found.task)


def test_a_folder_brings_its_own_model_and_tokenizer(workdir, data_dir):
    """As an evaluation wants it: the problems of these settings, the model of another run."""
    with prepared(data_dir, "model=none", folder=workdir, say=len) as found:
        assert found.denoiser.config.family == "llada"
        assert found.settings.model is None
        kept = tokenizers.load(workdir / "tokenizer")
        assert found.tokenizer.encode("sum the items") == kept.encode("sum the items")


def test_a_folder_is_asked_by_a_recipe_that_starts_from_released_weights(workdir):
    """An evaluation starts from nothing else than the folder."""
    asked = settings.parse(coding.get_config("llada,mesh.fsdp=8"))
    assert asked.require_init
    assert experiment.check_before_data(asked, weights.settings_of(workdir), False).size == 8


def test_a_folder_of_another_model_than_the_settings_name_is_refused(workdir, data_dir):
    with pytest.raises(ValueError, match="holds a model of family=llada") as error:
        with prepared(data_dir, "model=a2d_qwen3_tiny", folder=workdir, say=len):
            pass
    assert str(workdir) in str(error.value) and "\n" not in str(error.value)


def test_a_run_that_goes_on_has_the_tokenizer_that_it_kept(data_dir, tmp_path, capsys):
    """Its weights were trained with that, whatever the task's own is now."""
    texts = ["Write f(x) for a list x: keep the odd items."] * 3
    model = tokenizers.train_sentencepiece_model(texts, 400, soft=True)
    kept = tokenizers.SentencePiece(model)
    tokenizers.save(kept, tmp_path / "tokenizer")
    with prepared(data_dir, "prompt_length=200", workdir=tmp_path, say=len) as found:
        own = found.tokenizer.vocab_size  # nothing there has been trained
        assert own != kept.vocab_size
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    with prepared(data_dir, "prompt_length=200", workdir=tmp_path, say=len) as found:
        assert found.tokenizer.encode("keep the odd") == kept.encode("keep the odd")
        assert found.tokenizer.vocab_size == kept.vocab_size
    with prepared(data_dir, workdir=tmp_path / "fresh", say=len) as found:
        assert found.tokenizer.vocab_size == own
