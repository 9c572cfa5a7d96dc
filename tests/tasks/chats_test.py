"""The user's own chats: which rows are read, and the supervised phase alone, from a file."""

import json
import math
import types

import numpy as np
import pytest

from configs import sft
from gdsd_jax import data, experiment, settings, supervised
from gdsd_jax.metrics import read_metrics
from gdsd_jax.tasks import RewardConfig, TaskSettings, chats, parts_of, prompts
from gdsd_jax.train import train


def turn(role, content):
    return {"role": role, "content": content}


ASKED = {"question": "Hi", "solution": "Hello."}
ROW = {"messages": [turn("user", "Hi"), turn("assistant", "Hello.")]}


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_the_last_turn_is_the_answer_and_the_others_the_prompt(tmp_path):
    turns = [
        turn("system", "Be brief."),
        turn("user", "Hi"),
        turn("assistant", "Hello."),
        turn("user", "Bye"),
        turn("assistant", "So long.") | {"weight": 1},
    ]
    path = write(tmp_path / "a.jsonl", [{"talk": turns, "id": 3}])
    task = chats.make(TaskSettings(data_file=path, columns={"messages": "talk"}))
    (record,) = task.train
    assert task.messages(record) == turns[:4] and task.answer(record, "7") == "So long."
    assert task.heldout is None and task.grade is None and parts_of(task) == ()


def said_by(name, value):
    return {"from": name, "value": value}


def test_sharegpts_layout_is_known_by_itself(tmp_path):
    """Its own names of roles and ours, under its own column or another one."""
    turns = [said_by("system", "Be brief."), said_by("human", "Hi"), said_by("gpt", "Hello.")]
    ours = [turn("system", "Be brief."), turn("user", "Hi"), turn("assistant", "Hello.")]
    named = [said_by("user", "Hi"), said_by("assistant", "Hello.") | {"weight": None}]
    rows = [
        {"id": "a_0", "conversations": turns},
        {"messages": turns},
        {"conversations": ours},
        {"conversations": named},
    ]
    task = chats.make(TaskSettings(data_file=write(tmp_path / "a.jsonl", rows)))
    asked = [ours[:-1]] * 3 + [ours[1:-1]]
    assert [record["messages"] for record in task.train] == asked
    assert [record["solution"] for record in task.train] == ["Hello."] * 4
    path = write(tmp_path / "b.jsonl", [{"talk": turns}])
    task = chats.make(TaskSettings(data_file=path, columns={"messages": "talk"}))
    assert task.train == [{"messages": ours[:-1], "solution": "Hello."}]


@pytest.mark.parametrize(
    "row, said",
    [
        ([], "not a JSON object"),
        ({}, "messages is missing"),
        ({"messages": []}, "messages is not a list of"),
        ({"messages": "Hi"}, "messages is not a list of"),
        ({"messages": [{"role": "user"}]}, "messages is not a list of"),
        (
            {"messages": [turn("user", "Hi")]},
            "nothing there to learn: end the messages with a turn",
        ),
        ({"question": "Hi", "solution": " "}, "nothing there to learn"),
        ({"question": "Hi", "solution": 3}, "solution is not a string"),
        ({"messages": [turn("assistant", "Hi")]}, "must end with a turn of the user"),
        ({"messages": [*ROW["messages"], turn("assistant", "!")]}, "must end with a turn"),
        ({"messages": [turn("tool", "3"), *ROW["messages"]]}, r"messages\[0\] has role='tool'"),
        ({"messages": [turn("user", "Hi"), turn("assistant", " ")]}, "an empty turn"),
        ({"turns": ROW["messages"]}, 'messages is missing.*or "conversations".*another of turns'),
        (
            {"conversations": "Hi"},
            'messages is not a list of.*or "conversations" with turns such as',
        ),
        ({"conversations": []}, "messages is not a list of"),
        ({"conversations": [{"from": "human"}]}, "messages is not a list of"),
        ({"conversations": [{"from": 3, "value": "Hi"}]}, "messages is not a list of"),
        ({"conversations": [said_by("human", 3)]}, "messages is not a list of"),
        ({"conversations": [said_by("tool", "3")]}, r"role='tool': choose .*also human, gpt"),
        ({"conversations": [said_by("human", "Hi")]}, "nothing there to learn"),
    ],
)
def test_bad_rows_are_refused_in_one_line(tmp_path, row, said):
    path = write(tmp_path / "rows.jsonl", [ROW, row])
    with pytest.raises(ValueError, match=rf"rows.jsonl:2: .*{said}") as error:
        chats.make(TaskSettings(data_file=path))
    assert "\n" not in str(error.value)


def test_without_a_file_or_with_another_column_one_line_says_so(tmp_path):
    with pytest.raises(ValueError, match="add data_file=FILE.jsonl: one JSON object a line with"):
        chats.make(TaskSettings())
    path = write(tmp_path / "a.jsonl", [ROW])
    with pytest.raises(ValueError, match=r"columns\.talk: no such field, choose one of question"):
        chats.make(TaskSettings(data_file=path, columns={"talk": "prompt"}))


def test_what_chats_know_nothing_of_is_refused(tmp_path):
    """Rewards, and how to make an answer wrong."""
    path = write(tmp_path / "a.jsonl", [ROW])
    for reward in (RewardConfig("released"), RewardConfig(weights={"format": 2.0})):
        with pytest.raises(ValueError, match="reward: the task chats grades nothing: leave reward"):
            chats.make(TaskSettings(data_file=path, reward=reward))
    for make in (chats.make, prompts.make):
        task = make(TaskSettings(data_file=write(tmp_path / "b.jsonl", [ASKED]), noise=0.25))
        assert task.answer(task.train[0], None) == "Hello."
        with pytest.raises(ValueError, match="sft.noise=0.25 needs generated records: set sft.no"):
            task.answer(task.train[0], "7")


def chat(number):
    answer = "It is " + "very " * (number % 3) + "good."
    if number in (3, 4, 5):
        answer = " ".join(map(str, range(400)))
    return {"messages": [turn("user", f"How is number {number}?"), turn("assistant", answer)]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chats")
    path = write(folder / "chats.jsonl", map(chat, range(60)))
    said = []
    changes = (
        "sft.steps=6,sft.batch=8,sft.log_every=3,sft.heldout_problems=5,heldout_share=0.2,"
        "eval_problems=4,sampler.steps=8,sft_optimizer.warmup_steps=1,sft_optimizer.decay_steps=6"
    )
    chosen = settings.parse(sft.get_config(f"tiny,data_file={path},{changes}"))
    return experiment.prepare(chosen, say=said.append), said


def test_answers_that_are_too_long_are_dropped_with_one_line(prepared):
    found, said = prepared
    left = len(found.sft_problems)
    assert 45 <= left < 48 and len(found.heldout) == 12
    line = "of 48 answers have more than 64 tokens (sampler.gen_length) and were dropped"
    assert f"{48 - left} {line}" in said
    with pytest.raises(ValueError, match="no answer has 1 tokens or fewer: raise sampler.gen_len"):
        data.fitting(found.task, found.sft_problems, found.tokenizer, 1)


def test_the_heldout_loss_weighs_problems_alike(prepared, monkeypatch):
    """Nine in batches of eight: the last one fills a batch."""
    found = prepared[0]
    chosen = settings.replace(found.settings, {"sft.heldout_problems": 9})
    losses = iter([1.0, 2.0])
    monkeypatch.setattr(supervised, "make_sft_loss", lambda *_: lambda *_: next(losses))
    loop = types.SimpleNamespace(
        experiment=found._replace(settings=chosen), keys=lambda number: {"evaluation": None}
    )
    heldout_loss = supervised.make_heldout_loss(loop)
    told = heldout_loss(types.SimpleNamespace(trainable=None), {})
    assert told == pytest.approx((8 * 1 + 2) / 9, rel=1e-12)


@pytest.mark.slow
def test_the_supervised_phase_alone_is_a_run(prepared, tmp_path):
    found, _ = prepared
    said = []
    train(found, tmp_path / "run", say=said.append)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [(row["phase"], row["step"]) for row in rows] == [("sft", 3), ("sft", 6), ("eval", 0)]
    first, last, final = rows
    assert 0 < last["heldout_loss"] < first["heldout_loss"] < 2 * math.log(1024)
    assert np.isfinite([first["loss"], last["loss"]]).all() and final["problems"] == 4
    (line,) = [line for line in said if line.startswith("sft step 6/6")]
    assert f", held-out {last['heldout_loss']:.3f} nats a token" in line
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("model", sft.MODELS)
def test_recipes_are_accepted(model):
    chosen = settings.parse(sft.get_config(model))
    assert (chosen.task, chosen.rounds, chosen.name) == ("chats", 0, f"sft-{model}")
    assert chosen.require_init == (model != "tiny") and chosen.sft.heldout_problems
    experiment.check_settings(chosen, experiment.make_mesh(chosen))


def test_rounds_of_rewards_are_refused(tmp_path):
    path = write(tmp_path / "chats.jsonl", map(chat, range(9)))
    with pytest.raises(ValueError, match="learns from rewards, but task=chats grades.*rounds=0"):
        experiment.prepare(settings.parse(sft.get_config(f"tiny,data_file={path},rounds=1")))
