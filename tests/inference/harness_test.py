"""The harness' tasks on our sampler; what it needs is said before jax is imported."""

import dataclasses
import json
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest

from gdsd_jax import checkpoint, models
from gdsd_jax.inference import generation, likelihood
from launch import generate as launch_generate
from launch import harness as launch_harness
from tests.reference import random_params
from tests.scripts import code_of

ROOT = Path(__file__).resolve().parents[2]
SAMPLER = "gen_length=8,block_length=4,steps=4"
QUESTIONS = ["a b c d", "f(x) = x", "d", "a longer question, to be padded differently: x"]
CHOICES = [["d", "e f", "to be"], ["x", "xx", "= x"]]
TEMPLATE = "{% for turn in messages %}[{{ turn.content }}]{% endfor %}"
GENERATE = """
task: small_generate
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/questions.jsonl}, cache_dir: FOLDER/cache}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["UNTIL"], max_gen_toks: 300}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
CHOOSE = """
task: small_choice
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/choices.jsonl}, cache_dir: FOLDER/cache}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: 0
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
ROLL = """
task: small_perplexity
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/questions.jsonl}, cache_dir: FOLDER/cache}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: bits_per_byte}]
"""


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    """A small model as launch/convert.py writes one, with a chat template."""
    folder = tmp_path_factory.mktemp("converted")
    pieces = sorted(set("".join(QUESTIONS) + "[]Q?"))
    vocabulary = ["<mask>", "<end>", *pieces]
    ids = {piece.replace(" ", "\u0120"): number for number, piece in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    config = models.ModelConfig(
        family="llada",
        vocab_size=64,
        d_model=32,
        layers=1,
        heads=4,
        kv_heads=4,
        head_dim=8,
        d_ff=32,
        mask_id=0,
        pad_id=1,
        stop_ids=(1,),
    )
    model = {"model": dataclasses.asdict(config), "dtype": ["float32"]}
    checkpoint.save_params(folder, random_params(config, seed=3), model)
    return folder


def run(monkeypatch, capsys, script, *flags):
    """(exit code, printed on stdout, on stderr) of a script's main."""
    monkeypatch.setattr("sys.argv", ["script.py", *flags])
    code = code_of(script.main)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_without_the_package_one_line_says_so_and_jax_stays_out():
    """The package is hidden, whether it is there or not."""
    program = (
        "import sys; sys.modules['lm_eval'] = None\n"
        "from launch import harness\n"
        "code = harness.main()\n"
        "assert 'jax' not in sys.modules\n"
        "sys.exit(code)"
    )

    def start(*flags):
        done = subprocess.run(
            [sys.executable, "-c", program, "--checkpoint=none", "--tasks=x", *flags],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout
        return done.stderr

    assert "pip install lm_eval" in start()
    assert "--draws=0 must be at least 1" in start("--draws=0")
    assert "--limit=0" in start("--limit=0")
    assert "no folder" in start("--out=/no/such/folder/o.json")


def test_answers_are_those_of_generate(converted, monkeypatch, capsys, tmp_path):
    """For the same prompts, seed and temperature, cut at the string that ends them."""
    prompts, out = tmp_path / "p.jsonl", tmp_path / "o.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": text}) for text in QUESTIONS))
    flags = [f"--checkpoint={converted}", f"--prompts={prompts}", f"--out={out}", "--raw"]
    flags += [f"--sampler={SAMPLER}", "--temperature=0.8", "--seed=3"]
    assert run(monkeypatch, capsys, launch_generate, *flags)[0] == 0
    texts = [json.loads(line)["text"] for line in out.read_text().splitlines()]
    model = generation.load_model(str(converted), SAMPLER)
    asked = {"do_sample": True, "temperature": 0.8, "until": texts[0][2]}
    asked = [generation.generation_of(asked)] * len(QUESTIONS)
    found = generation.answers(model, QUESTIONS, asked, seed=3, batch=8, longest=64)
    assert len(set(texts)) == len(texts)
    assert found == [text.split(texts[0][2])[0] for text in texts]
    short = [generation.Generation((), 3, 0.0)] * len(QUESTIONS)
    found = generation.answers(model, QUESTIONS, short, seed=3, batch=8, longest=64)
    assert all(len(model.tokenizer.encode(text)) <= 3 for text in found)


def write_tasks(folder: Path, until: str = "no such text") -> None:
    """Three tasks of our own, with their problems."""
    rows = [{"question": question, "answer": "d"} for question in QUESTIONS]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = [{"question": row, "choices": given} for row, given in zip(QUESTIONS, CHOICES)]
    (folder / "choices.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, text in (("generate", GENERATE), ("choice", CHOOSE), ("perplexity", ROLL)):
        text = text.replace("FOLDER", str(folder)).replace("UNTIL", until)
        (folder / f"{name}.yaml").write_text(text)


def responses(results: dict, task: str) -> list[list]:
    """What the model answered to each problem of a task."""
    samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
    return [[answer for (answer,) in sample["resps"]] for sample in samples]


@pytest.mark.slow
def test_the_real_harness_scores_our_model(converted, monkeypatch, capsys, tmp_path):
    """Texts are those of launch/generate.py in the chat template, choices are ordered by their
    bounds, perplexities are bounds of whole texts."""
    pytest.importorskip("lm_eval")
    write_tasks(tmp_path)
    out = tmp_path / "results.json"
    flags = [f"--checkpoint={converted}", f"--include={tmp_path}", f"--sampler={SAMPLER}"]
    flags += ["--draws=4", "--seed=5", f"--out={out}"]
    tasks = "--tasks=small_generate,small_choice,small_perplexity"
    code, table, said = run(monkeypatch, capsys, launch_harness, *flags, tasks, "--chat")
    assert code == 0 and "small_choice" in table
    assert "answers have at most gen_length=8" in said and "6 log-likelihoods, Monte-Carlo" in said
    results = json.loads(out.read_text())

    prompts, lines = tmp_path / "p.jsonl", tmp_path / "o.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": text}) for text in QUESTIONS))
    asked = [f"--checkpoint={converted}", f"--prompts={prompts}", f"--out={lines}"]
    assert run(monkeypatch, capsys, launch_generate, *asked, f"--sampler={SAMPLER}")[0] == 0
    texts = [json.loads(line)["text"] for line in lines.read_text().splitlines()]
    assert responses(results, "small_generate") == [[text] for text in texts]

    model = generation.load_model(str(converted), SAMPLER)
    right = []
    for place, choices in enumerate(CHOICES):
        context = model.tokenizer.encode(f"[{QUESTIONS[place]}]")
        pairs = [likelihood.Pair(context, model.tokenizer.encode(text), place) for text in choices]
        wanted = [bound for bound, _ in likelihood.bounds(model, pairs, 4, 5, 8)]
        found = responses(results, "small_choice")[place]
        np.testing.assert_allclose([bound for bound, _ in found], wanted, rtol=1e-5)
        right.append(np.argmax(wanted) == 0)
    assert results["results"]["small_choice"]["acc,none"] == np.mean(right)

    pairs = [
        likelihood.Pair([1], model.tokenizer.encode(text), place)
        for place, text in enumerate(QUESTIONS)
    ]
    total = sum(bound for bound, _ in likelihood.bounds(model, pairs, 4, 5, 8))
    bits = -total / np.log(2) / sum(len(text.encode()) for text in QUESTIONS)
    assert results["results"]["small_perplexity"]["bits_per_byte,none"] == pytest.approx(bits)


@pytest.mark.slow
def test_what_the_real_harness_cannot_do_is_one_line(converted, monkeypatch, capsys, tmp_path):
    pytest.importorskip("lm_eval")
    write_tasks(tmp_path)

    def error(*flags):
        flags = [f"--include={tmp_path}", "--out=" + str(tmp_path / "o.json"), *flags]
        code, table, said = run(monkeypatch, capsys, launch_harness, *flags)
        assert code == 2 and not table and not (tmp_path / "o.json").exists()
        return said

    model = f"--checkpoint={converted}"
    assert "no task is named nothing" in error(model, "--tasks=small_choice,nothing")
    assert "--include=none" in error(model, "--tasks=small_choice", "--include=none")
    assert "neither the manifest.json" in error(f"--checkpoint={tmp_path}", "--tasks=small_choice")
    assert "top_k=5" in error(
        model, "--tasks=small_generate", "--gen_kwargs=do_sample=true,top_k=5"
    )
