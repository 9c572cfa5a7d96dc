"""Answers are those of the sampler, whatever the batch; every bad input is one line; the drawing
shows what was decided."""

import dataclasses
import io
import json
from pathlib import Path
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import (
    checkpoint,
    cli,
    models,
    sampling,
    settings,
    sharding,
    tokenizers,
    weights,
)
from gdsd_jax.report import unmasking
from gdsd_jax.types import Prompts
from launch import convert
from launch import generate as launch_generate
from tests import folders
from tests.reference import random_params
from tests.scripts import code_of

ROOT = Path(__file__).resolve().parents[1]
TEXTS = [
    "Write f(x) for a list x: sort it.",
    "Write f(x) for a string x: reverse it, then lowercase it.",
    "x",
    "a b c d e f",
]
SAMPLER = "gen_length=8,block_length=4,steps=4"
SIZES = dict(
    vocab_size=64,
    d_model=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    d_ff=32,
    mask_id=0,
    pad_id=1,
    stop_ids=(1,),
)
TEMPLATE = (
    "{% for turn in messages %}[{{ turn.content }}]{% endfor %}{% if enable_thinking %}!{% endif %}"
)


@pytest.fixture
def generate(monkeypatch, capsys):
    """`generate(*flags) -> (exit code, printed on stdout, on stderr)`."""

    def start(*flags):
        monkeypatch.setattr("sys.argv", ["generate.py", *flags])
        code = code_of(launch_generate.main)
        said = capsys.readouterr()
        return code, said.out, said.err

    return start


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """(folder, config, params) of a model that shifts, has biases and few key heads."""
    config = models.ModelConfig(family="llada", qkv_bias=True, shift=True, **SIZES)
    return save_converted(tmp_path_factory.mktemp("converted"), config)


def save_converted(folder, config):
    """(folder, config, params): as launch/convert.py writes a model, with a tokenizer."""
    pieces = sorted(set("".join(TEXTS)) | set("!?[]") | set(map(str, range(10))))
    words = {
        piece.replace(" ", "\u0120"): i for i, piece in enumerate(["<mask>", "<end>", *pieces])
    }
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    params = random_params(config, seed=3)
    params["lm_head"]["kernel"] *= 3.0
    config = dataclasses.replace(config, tokenizer_size=len(words))
    checkpoint.save_params(
        folder, params, {"model": dataclasses.asdict(config), "dtype": ["float32"]}
    )
    return folder, config, params


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def expected(converted):
    """`expected(prompt, place, ...) -> entries of a line`, by the model of `converted`."""
    _, config, params = converted
    return make_expected(config, params)


def make_expected(config, params):
    """`expected(prompt, place, ...) -> entries of a line`: one prompt's ids alone, by the sampler
    itself."""
    rollout_fns = {}  # by sampler, each compiled once

    def answer(ids, place, temperature=0.0, threshold=np.inf, seed=0, **fields):
        sampler = sampling.SamplerConfig(
            **{"gen_length": 8, "block_length": 4, "steps": 4} | fields
        )
        if sampler not in rollout_fns:
            rollout_fns[sampler] = sampling.make_rollout_fn(models.make_denoiser(config), sampler)
        tokens, valid = tokenizers.pad_left([ids], 70, config.pad_id)
        prompts = Prompts(
            tokens, valid, jnp.array([temperature]), jnp.array([threshold], jnp.float32)
        )
        rng = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), place), 0)
        rollout = rollout_fns[sampler](params, prompts, rng[None])
        length = int(rollout.length_B[0])
        return {
            "tokens": rollout.tokens_BxG[0, :length].tolist(),
            "step_map": rollout.step_map_BxG[0, :length].tolist(),
            "length": length,
            "passes": int(rollout.passes_B[0]),
        }

    return answer


def test_answers_are_the_samplers_whatever_the_batch(generate, converted, expected, tmp_path):
    folder, *_ = converted
    tokenizer = tokenizers.load(folder, pad_id=1, mask_id=0, stop_ids=(1,))
    rows = [{"prompt": text, "id": i} for i, text in enumerate(TEXTS)]
    rows += [{"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}]
    flags = [
        f"--checkpoint={folder}",
        f"--prompts={write(tmp_path / 'p.jsonl', rows)}",
        f"--out={tmp_path / 'o.jsonl'}",
    ]
    flags += [f"--sampler={SAMPLER}", "--temperature=0.8", "--threshold=0.9", "--seed=3"]
    found = {}
    for batch, mesh in ((2, "data=2,fsdp=4"), (8, "data=1,fsdp=-1")):
        code, _, said = generate(*flags, f"--batch={batch}", f"--mesh={mesh}")
        assert code == 0 and said.startswith("5 answers, ")
        found[batch] = read(tmp_path / "o.jsonl")
    chats = [f"[{text}]" for text in TEXTS] + ["[a][b]"]
    for place, (row, line, chat) in enumerate(zip(rows, found[2], chats)):
        assert {key: line[key] for key in row} == row  # ids and other entries are kept
        wanted = expected(tokenizer.encode(chat), place, 0.8, 0.9, 3)
        assert {key: line[key] for key in wanted} == wanted
        assert line["text"] == tokenizer.decode(line["tokens"]) and line["tokens_per_s"] > 0
        assert {key: found[8][place][key] for key in wanted} == wanted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.jsonl", "p.jsonl"]
    assert len({tuple(line["tokens"]) for line in found[2]}) > 1


def test_raw_thinking_and_printing(generate, converted, expected):
    folder, *_ = converted
    tokenizer = tokenizers.load(folder, pad_id=1, mask_id=0, stop_ids=(1,))
    flags = [f"--checkpoint={folder}", "--prompt=a b", f"--sampler={SAMPLER}"]
    for flag, prompt in (("--raw", "a b"), ("--thinking", "[a b]!")):
        code, said, _ = generate(*flags, flag)
        assert code == 0
        assert said == tokenizer.decode(expected(tokenizer.encode(prompt), 0)["tokens"]) + "\n"


@pytest.mark.parametrize(
    "sampler",
    [
        dict(kind="dream", alg="maskgit_plus", top_p=0.9),
        dict(kind="block", remasking="random"),
        dict(cache="dual", alg="maskgit_plus"),
    ],
    ids=lambda sampler: sampler.get("kind", "cache"),
)
def test_every_sampler(generate, converted, expected, tmp_path, sampler):
    folder, *_ = converted
    tokenizer = tokenizers.load(folder, pad_id=1, mask_id=0, stop_ids=(1,))
    changes = "".join(f",{key}={value}" for key, value in sampler.items())
    flags = [
        f"--checkpoint={folder}",
        "--prompt=a b",
        f"--out={tmp_path / 'o.jsonl'}",
        "--temperature=0.7",
    ]
    code, _, said = generate(*flags, f"--sampler={SAMPLER}{changes}")
    assert code == 0, said
    doubt = "note: sampler.kind=block takes block-causal attention, but these weights have learnt"
    assert (doubt in said) == (sampler.get("kind") == "block")
    idle = "note: sampler.alg=maskgit_plus changes nothing, it is of kind dream alone"
    assert (idle in said) == ("alg" in sampler and sampler.get("kind") != "dream")
    wanted = expected(tokenizer.encode("[a b]"), 0, 0.7, **sampler)
    (line,) = read(tmp_path / "o.jsonl")
    assert {key: line[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    "family, sampler, fields",
    [
        ("a2d-qwen3", dict(kind="block", block_length=4), dict(qk_norm=True)),
        ("sdar", dict(kind="block", block_length=4), dict(qk_norm=True)),
        ("Dream", dict(kind="dream", block_length=None), dict(qkv_bias=True, shift=True)),
    ],
    ids=["a2d", "sdar", "dream"],
)
def test_a_converted_model_answers_with_its_familys_sampler(
    generate, tmp_path, family, sampler, fields
):
    """LLaDA's sampler would give other tokens in other passes."""
    config = models.ModelConfig(family=family, **fields, **SIZES)
    (tmp_path / "model").mkdir()
    folder, config, params = save_converted(tmp_path / "model", config)
    expected = make_expected(config, params)
    ids = tokenizers.load(folder, pad_id=1, mask_id=0, stop_ids=(1,)).encode("[a b]")
    flags = [f"--checkpoint={folder}", "--prompt=a b", "--temperature=0.7"]
    flags += ["--sampler=gen_length=8,steps=4", f"--out={tmp_path / 'o.jsonl'}"]
    code, _, said = generate(*flags)
    assert code == 0, said
    (line,) = read(tmp_path / "o.jsonl")
    wanted = expected(ids, 0, 0.7, **sampler)
    assert {key: line[key] for key in wanted} == wanted
    assert wanted != expected(ids, 0, 0.7, kind="llada", block_length=None)
    # whatever is given goes before the family's
    generate(*flags, "--sampler=gen_length=8,steps=4,kind=llada,block_length=none")
    (line,) = read(tmp_path / "o.jsonl")
    wanted = expected(ids, 0, 0.7, kind="llada", block_length=None)
    assert {key: line[key] for key in wanted} == wanted


@pytest.mark.parametrize("family", ["LLADA", "QWEN3"])
def test_a_hugging_face_folder_answers_as_its_conversion(generate, family, tmp_path):
    """By the family's sampler; also an autoregressive one, and in another precision."""
    folders.write(tmp_path / "raw", getattr(folders, family))
    folders.write_tokenizer(tmp_path / "raw")
    given = [f"--from_hf={tmp_path / 'raw'}", f"--to_orbax={tmp_path / 'converted'}"]
    assert convert.main(given) == 0
    answers = {}
    for name in ("raw", "converted"):
        flags = [f"--checkpoint={tmp_path / name}", "--prompt=a b", "--raw", "--dtype=bfloat16"]
        flags += [
            "--sampler=gen_length=8",
            "--mesh=data=-1,fsdp=1",
            f"--out={tmp_path / name}.jsonl",
        ]
        code, _, errors = generate(*flags)
        assert code == 0, errors
        (answers[name],) = read(tmp_path / f"{name}.jsonl")
        answers[name].pop("tokens_per_s")
    assert answers["raw"] == answers["converted"] and answers["raw"]["length"] > 0


def test_an_autoregressive_model_answers_token_by_token(generate, tmp_path):
    """Its folder has no mask; what is shown are the tokens that are there, one more a pass."""
    conventions = models.FAMILIES["llama"].CONVENTIONS["llama"]
    config = models.ModelConfig(**conventions, **SIZES | {"mask_id": None})
    (tmp_path / "model").mkdir()
    folder, config, params = save_converted(tmp_path / "model", config)
    ids = tokenizers.load(folder, pad_id=1, mask_id=-1, stop_ids=(1,)).encode("[a b]")
    wanted = make_expected(config, params)(ids, 0, 0.9, kind="block", block_length=1)
    assert wanted["step_map"] == [*range(1, wanted["length"] + 1)] and wanted["length"] > 1
    flags = [f"--checkpoint={folder}", "--prompt=a b", "--temperature=0.9"]
    flags += ["--sampler=gen_length=8,steps=4", f"--out={tmp_path / 'o.jsonl'}"]
    for show in ([], ["--show"]):
        code, said, errors = generate(*flags, *show)
        assert code == 0, errors
        (line,) = read(tmp_path / "o.jsonl")
        assert {key: line[key] for key in wanted} == wanted
    counts = [frame.split(": ")[0] for frame in said.splitlines()]
    assert counts == [f"pass {i}, {i}/{i}" for i in wanted["step_map"]]
    code, _, errors = generate(*flags, "--sampler=block_length=4")
    assert code == 2 and "sampler.block_length=1" in errors


def test_showing_changes_no_token(generate, converted, expected, tmp_path):
    """A line a pass, the last with the whole answer."""
    folder, *_ = converted
    tokenizer = tokenizers.load(folder, pad_id=1, mask_id=0, stop_ids=(1,))
    flags = [
        f"--prompts={write(tmp_path / 'p.jsonl', [{'prompt': 'a b'}, {'prompt': 'c'}])}",
        "--temperature=0.9",
    ]
    flags += [f"--checkpoint={folder}", f"--sampler={SAMPLER}", f"--out={tmp_path / 'o.jsonl'}"]
    code, said, _ = generate(*flags, "--show")
    assert code == 0
    frames = said.splitlines()
    for place, line in enumerate(read(tmp_path / "o.jsonl")):
        wanted = expected(tokenizer.encode(f"[{line['prompt']}]"), place, 0.9)
        assert {key: line[key] for key in wanted} == wanted
        shown, frames = frames[: line["passes"]], frames[line["passes"] :]
        assert [frame.split(",")[0] for frame in shown] == [
            f"pass {number}" for number in range(1, line["passes"] + 1)
        ]
        assert repr(line["text"])[1:-1] in shown[-1] and unmasking.HOLE in shown[0]
    assert not frames


def test_a_conversation_has_the_turns_before_in_mind(
    generate, converted, expected, monkeypatch, capsys
):
    """As many of them as fit the prompt's columns."""
    folder, *_ = converted
    tokenizer = tokenizers.load(folder, pad_id=1, mask_id=0, stop_ids=(1,))
    flags = [f"--checkpoint={folder}", "--chat", f"--sampler={SAMPLER}", "--temperature=0.9"]
    said = ["a b", "", "c", "d" * 40, "e", "\udcff"]  # an empty line asks nothing, no text neither

    def text_of(chat, place):
        return tokenizer.decode(expected(tokenizer.encode(chat), place, 0.9)["tokens"])

    first = text_of("[a b]", 0)
    second = text_of(f"[a b][{first}][c]", 2)
    chats = [f"[a b][{first}][c]", f"[c][{second}][e]"]  # a turn more of either would not fit
    third = text_of(chats[1], 4)
    columns = max(len(tokenizer.encode(chat)) for chat in chats)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(said) + "\n"))
    code, shown, errors = generate(*flags, f"--prompt_length={columns}")
    assert code == 0
    assert shown == "\n".join([first, second, third]) + "\n"
    first, second = errors.splitlines()
    assert first == f"the line is over --prompt_length={columns}" and "cannot read" in second
    for flag in ("--out=x.jsonl", "--raw"):
        code, _, errors = generate(*flags, flag)
        assert code == 2 and "leave out --out, --raw" in errors


@pytest.mark.parametrize("name", ["workdir", "lora_workdir"])
def test_a_workdir_answers_with_its_own_tokenizer_and_sampler(generate, request, name, tmp_path):
    """Trained weights, and adapters over their base."""
    workdir = request.getfixturevalue(name)
    prompts = write(tmp_path / "p.jsonl", [{"prompt": text} for text in TEXTS[:2]])
    code, _, _ = generate(
        f"--checkpoint={workdir}",
        f"--prompts={prompts}",
        f"--out={tmp_path / 'o.jsonl'}",
        "--batch=8",
    )
    chosen = settings.read(workdir)
    model, tokenizer = weights.read_model(chosen, weights.kept_tokenizer(chosen, workdir))
    denoiser = models.make_denoiser(model)
    mesh = sharding.make_mesh({}, devices=jax.devices()[:1])
    params = denoiser.bind(*weights.load_weights(workdir, chosen, model, mesh))
    asked = tokenizers.encode_prompts(tokenizer, TEXTS[:2], 24)
    rollout_fn = sampling.make_rollout_fn(denoiser, chosen.sampler)
    rollout = rollout_fn(
        params, Prompts(asked.tokens, asked.valid), jax.random.split(jax.random.key(0), 2)
    )
    assert code == 0
    for line, tokens, length in zip(
        read(tmp_path / "o.jsonl"), rollout.tokens_BxG, rollout.length_B
    ):
        assert line["tokens"] == tokens[:length].tolist()
        assert line["text"] == tokenizer.decode(tokens)


def test_prompts_over_the_limit(generate, converted, expected, tmp_path):
    folder, *_ = converted
    tokenizer = tokenizers.load(folder, pad_id=1, mask_id=0, stop_ids=(1,))
    prompts = write(tmp_path / "p.jsonl", [{"prompt": text} for text in TEXTS])
    flags = [
        f"--checkpoint={folder}",
        f"--prompts={prompts}",
        f"--out={tmp_path / 'o.jsonl'}",
        f"--sampler={SAMPLER}",
    ]
    flags += ["--temperature=0.9"]
    code, _, said = generate(*flags, "--prompt_length=20")
    assert (
        code == 2
        and f"{prompts}:1: 35 tokens, over --prompt_length=20" in said
        and said.count("\n") == 1
    )
    code, _, said = generate(*flags, "--prompt_length=20", "--too_long=drop")
    assert code == 0 and said.count("dropped") == 2
    assert [line["prompt"] for line in read(tmp_path / "o.jsonl")] == TEXTS[2:]
    # its noise is that of its place in the file
    wanted = expected(tokenizer.encode(f"[{TEXTS[3]}]"), 3, 0.9)
    assert read(tmp_path / "o.jsonl")[1]["tokens"] == wanted["tokens"]
    code, _, said = generate(*flags, "--prompt_length=20", "--too_long=cut")
    assert code == 0 and said.count("cut at the front") == 2
    cut = expected(tokenizer.encode(f"[{TEXTS[0]}]")[-20:], 0, 0.9)
    assert read(tmp_path / "o.jsonl")[0]["tokens"] == cut["tokens"]


BAD_ROWS = {
    "{": "not JSON",
    "[]": "not a JSON object",
    '{"text": "x"}': "question is missing: give what is asked in words, or messages",
    '{"prompt": ""}': "prompt is not a non-empty string",
    '{"prompt": 3}': "prompt is not a non-empty string",
    '{"prompt": "x", "messages": []}': "messages is not a list",
    '{"question": ["x"]}': "question is not a non-empty string",
    '{"messages": [{"role": "asistant", "content": "x"}]}': "choose system, user, assistant",
    '{"messages": [{"role": "system", "content": "x"}]}': "must end with a turn of the user, or",
    '{"messages": [{"role": "user", "content": " "}]}': "messages end with an empty turn",
    '{"messages": []}': "messages is not a list",
    '{"messages": ["x"]}': "messages is not a list",
    '{"messages": [{"role": "user"}]}': "messages is not a list",
    '{"prompt": "\\ud800"}': "surrogate",
}


def test_bad_input_is_one_line_and_nothing_is_written(generate, converted, tmp_path):
    folder, *_ = converted
    flags = [f"--checkpoint={folder}", f"--out={tmp_path / 'o.jsonl'}"]

    def error(*changed):
        code, said, line = generate(*flags, *changed)
        assert code == 2 and said == "" and line.startswith("error: ") and line.count("\n") == 1, (
            line
        )
        return line

    for row, words in BAD_ROWS.items():
        (tmp_path / "p.jsonl").write_text('{"prompt": "x"}\n\n' + row)
        line = error(f"--prompts={tmp_path / 'p.jsonl'}")
        assert f"{tmp_path / 'p.jsonl'}:3: " in line and words in line
    (tmp_path / "p.jsonl").write_text("\n")
    assert "has no rows" in error(f"--prompts={tmp_path / 'p.jsonl'}")
    assert "not a readable UTF-8 file" in error(f"--prompts={tmp_path / 'none.jsonl'}")
    assert "--sampler: config key 'gen_length' takes int values such as 8, not 'x'" in error(
        "--prompt=x", "--sampler=gen_length=x"
    )
    assert "'nothing=1' is no key=value" in error("--prompt=x", "--sampler=nothing=1")
    assert "kind='nothing'" in error("--prompt=x", "--sampler=kind=nothing")
    assert "does not fit 8 devices" in error("--prompt=x", "--mesh=data=3")
    assert "--batch=0" in error("--prompt=x", "--batch=0")
    assert "--temperature=-1.0" in error("--prompt=x", "--temperature=-1")
    assert "neither the manifest.json" in error("--prompt=x", f"--checkpoint={tmp_path}")
    assert "no folder" in error("--prompt=x", f"--out={tmp_path / 'none' / 'o.jsonl'}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.jsonl"]


def test_the_script_itself(tmp_path):
    """As a user starts it: from the repository, with the exit code of bad input."""
    done = subprocess.run(
        [sys.executable, "launch/generate.py", f"--checkpoint={tmp_path}", "--prompt=x"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (
        done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    )


def test_entries_of_a_flag_have_the_types_of_their_fields():
    """As settings have: whole numbers are no fractions, and commas in brackets part nothing."""

    def sampler(text, **defaults):
        return settings.section("--sampler", text, sampling.SamplerConfig, defaults)

    found = sampler("steps=8,cfg_scale=2,reference_quirks=true,stop_ids=(1,2)", kind="dream")
    fields = dict(kind="dream", steps=8, cfg_scale=2.0, reference_quirks=True, stop_ids=(1, 2))
    assert found == sampling.SamplerConfig(**fields) and type(found.cfg_scale) is float
    # a field that a default has set may be left to the kind again
    assert sampler("block_length=none", block_length=4) == sampling.SamplerConfig()
    for text in ("steps", "steps=1.5", "reference_quirks=1", "kind=3", "other=1", "steps=0"):
        with pytest.raises(ValueError, match="^--sampler: "):
            sampler(text)
    layout = settings.section("--mesh", "tensor=2", sharding.MeshConfig, {"data": 1, "fsdp": -1})
    assert vars(layout) == {"data": 1, "fsdp": -1, "tensor": 2}


def test_a_file_is_whole_or_absent(tmp_path):
    path = cli.output_path("--out", str(tmp_path / "o"))
    with pytest.raises(RuntimeError), cli.replacing(path) as file:
        file.write("half\n")
        raise RuntimeError
    assert [found.name for found in tmp_path.iterdir()] == ["o.partial"]  # nothing is lost either
    with cli.replacing(path) as file:
        file.write("whole\n")
    assert {found.name: found.read_text() for found in tmp_path.iterdir()} == {"o": "whole\n"}
    with pytest.raises(ValueError, match="that is a folder"):
        cli.output_path("--out", str(tmp_path))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full here")
def test_a_full_disk_is_told_with_the_files_name(tmp_path):
    """The system's own error of a write has none."""
    with pytest.raises(OSError, match=r"No space left on device: '.*/o\.partial'"):
        (tmp_path / "o.partial").symlink_to("/dev/full")
        with cli.replacing(cli.output_path("--out", str(tmp_path / "o"))) as file:
            file.write("lost\n")
