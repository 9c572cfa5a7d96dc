"""Answers prompts with a checkpoint.

  python launch/generate.py --checkpoint=DIR --prompts=FILE.jsonl --out=FILE.jsonl
  python launch/generate.py --checkpoint=DIR --prompt="Write f(x) ..." --show
  python launch/generate.py --checkpoint=DIR --chat
  ... --sampler=gen_length=128,block_length=32,steps=64 --temperature=0.7 --threshold=0.9 \\
      --seed=1 --batch=16

DIR is a folder that launch/convert.py wrote, the workdir of a run, whose newest checkpoint, sampler
settings and tokenizer are taken, or a Hugging Face folder of a family that we know. Each line of
--prompts is {"question": "..."}, also called "prompt", or {"messages": [{"role": ..., "content":
...}, ...]}, of which a last turn of the assistant is continued; other entries are kept. Each line
of --out is the same with "text" (the answer, with that turn as its begin), "tokens" (ids up to and
including the stop id), "step_map" (the pass at which each was committed), "length" (tokens),
"passes" and "tokens_per_s" (of its batch, without compiling; with --show everything counts). A
prompt's answer depends on the seed and its place in the file, not on the batch.

--chat asks for a line after another, until Ctrl-D or the end of a piped file; each is answered with
the turns before it in mind, of which the oldest are forgotten where they exceed --prompt_length.

An autoregressive model writes one token after another, up to gen_length of them; --show then draws
its tokens as they come.

Exit codes: 0 done; 2 bad input, lines say which; 1 a fault.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
import itertools
import json
import math
import pathlib
import sys
import time
from typing import Any, NamedTuple

# `python launch/generate.py` puts launch/ there, not the repository
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from gdsd_jax import interrupts

if __name__ == "__main__":
    interrupts.watch()  # the imports below take their time

from gdsd_jax.cli import Parser, output_path, read_of_run, replacing, run, told
from gdsd_jax.mistakes import Gathered

LIMITS = {  # of numbers: keys of jax have 32 bits, positions are int32
    "batch": (1, 1 << 20),
    "prompt_length": (1, 1 << 24),
    "temperature": (0, 1_000_000),
    "seed": (0, (1 << 32) - 1),
}


def arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add_files(parser)
    add_sampling(parser)
    add_settings(parser)
    return parser.checked(check_flags)


def check_flags(args: argparse.Namespace) -> None:
    """Mistakes of the flags."""
    wrong = Gathered()
    for name, (least, most) in LIMITS.items():
        if not least <= getattr(args, name) <= most:  # nan is not, either
            wrong.lines.append(
                f"--{name}={getattr(args, name)} must be at least {least} and at most {most}"
            )
    if not 0 < args.threshold <= 1:
        wrong.lines.append(f"--threshold={args.threshold} must lie in (0, 1]; 1 commits none early")
    if args.chat and (args.out or args.raw):
        wrong.lines.append(
            "--chat prints its answers, by the chat template: leave out --out, --raw"
        )
    with wrong.check():
        output_path("--out", args.out, args.prompts, *read_of_run(args.checkpoint))
    wrong.end()


def add_files(parser: argparse.ArgumentParser) -> None:
    """The checkpoint, the prompts and where the answers go."""
    parser.add_argument(
        "--checkpoint", required=True, help="a converted model's folder, or a run's workdir"
    )
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--prompts", help="JSONL file")
    asked.add_argument("--prompt", help="one prompt")
    asked.add_argument("--chat", action="store_true", help="a conversation, line by line")
    parser.add_argument(
        "--out", help="JSONL file for the answers; without it their text is printed"
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How answers are drawn."""
    parser.add_argument(
        "--sampler", default="", help="key=value,...: fields of sampling.SamplerConfig"
    )
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="of the proposals; 0, the default, is greedy"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=1.0,
        help="commit all more probable than this; 1, the default, commits none early",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=8, help="prompts at once")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """How prompts are read, what computes and what is shown."""
    parser.add_argument(
        "--raw",
        action="store_true",
        help="continue the prompt's text: no chat template, at most the tokenizer's begin token",
    )
    parser.add_argument(
        "--thinking", action="store_true", help="let templates that know enable_thinking ask for it"
    )
    parser.add_argument("--prompt_length", type=int, default=1024, help="most tokens of a prompt")
    parser.add_argument(
        "--too_long", choices=("error", "drop", "cut"), default="error", help="prompts over it"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="of activations; default: the weights' own"
    )
    parser.add_argument(
        "--mesh",
        default="",
        help="key=value,... of data, fsdp, tensor; default all devices on fsdp",
    )
    parser.add_argument(
        "--show", action="store_true", help="draw the unmasking as it happens, one prompt at a time"
    )


if __name__ == "__main__":
    arguments()  # tells what is wrong before the imports below, which take seconds

import jax
import numpy as np

from gdsd_jax import progress, row_schema, sampling, settings, sharding, tokenizers, weights
from gdsd_jax.inference import generation
from gdsd_jax.keys import row_keys
from gdsd_jax.report import unmasking
from gdsd_jax.rows import read_rows
from gdsd_jax.sampling import SamplerConfig
from gdsd_jax.settings import Settings
from gdsd_jax.steps import make_sampler
from gdsd_jax.types import Denoiser, Prompts, PyTree, Rollout


class Row(NamedTuple):
    """A prompt and where it came from."""

    where: str  # for messages: FILE:LINE
    place: int  # among all the prompts given
    entries: dict[str, Any]  # as given
    ids: list[int]
    begin: str = ""  # of the answer, which the prompt has already


class Model(NamedTuple):
    """What answers, but for the weights."""

    denoiser: Denoiser
    tokenizer: tokenizers.Tokenizer
    sampler: SamplerConfig
    mesh: jax.sharding.Mesh
    settings: Settings


def read_model(args) -> Model:
    """ValueError, in one line, for a folder or setting that cannot work."""
    changes = {}
    if args.thinking:
        changes["enable_thinking"] = True
    if args.dtype:
        changes["dtype"] = args.dtype
    chosen, model, tokenizer = weights.read_folder(args.checkpoint, changes)
    sampler = settings.section("--sampler", args.sampler, SamplerConfig, chosen.sampler.given())
    sampling.check_model(model, sampler)
    learnt = chosen.sampler.kind, model.block_length
    doubts = sampling.attention_doubts(sampler, *learnt, "these weights")
    for doubt in doubts + sampling.idle_doubts(sampler):
        print(f"note: {doubt}", file=sys.stderr)
    mesh = generation.mesh_of(args.mesh)
    return Model(weights.on_mesh(model, mesh), tokenizer, sampler, mesh, chosen)


def read_prompts(args, tokenizer) -> Iterator[Row]:
    """Prompts as ids; ValueError naming FILE:LINE for the first that is none. Too long ones are
    reported."""
    if args.prompt is not None:
        rows = [("--prompt", {"prompt": args.prompt})]
    else:
        rows = read_rows(args.prompts, ', such as {"question": "..."}', flag="--prompts=")
    for place, (where, entries) in enumerate(rows):
        try:
            asked = row_schema.read(entries, uses=())
            if not args.raw:
                ids = tokenizer.apply_chat(asked.turns)
            elif asked.messages is None:
                ids = tokenizer.encode_raw(asked.question)
            else:
                raise ValueError(
                    '--raw takes a text as prompt: give "question" instead of "messages"'
                )
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if len(ids) > args.prompt_length:
            said = f"{where}: {len(ids)} tokens, over --prompt_length={args.prompt_length}"
            if args.too_long == "error":
                raise ValueError(f"{said}: raise it, or give --too_long=drop or --too_long=cut")
            done = "dropped" if args.too_long == "drop" else "cut at the front"
            print(f"{said}: {done}", file=sys.stderr)
            if args.too_long == "drop":
                continue
        ids, begin = ids[-args.prompt_length :], row_schema.begin_of(asked.turns)
        yield Row(where, place, entries, ids, begin)


def make_shown(model: Model) -> Callable[[PyTree, dict, Prompts, jax.Array], Rollout]:
    """What `steps.make_sampler` makes, pass by pass, with the first row drawn after each."""
    passes = sampling.Passes(*map(jax.jit, sampling.make_passes(model.denoiser, model.sampler)))
    gen_length = model.sampler.gen_length

    def sample(trainable: PyTree, frozen: dict, prompts: Prompts, rng: jax.Array) -> Rollout:
        params = model.denoiser.bind(trainable, frozen)
        rng_B = jax.jit(row_keys)(rng, prompts.index_B, prompts.sample_B)
        drawing = unmasking.Drawing(model.tokenizer, model.sampler.steps, sys.stdout)
        state = passes.begin(params, prompts)
        while passes.running(state):
            state = passes.advance(params, prompts, rng_B, state)
            drawing(*drawn(state, gen_length, model.denoiser.config.autoregressive))
        return passes.end(prompts, state)

    return sample


def drawn(
    state: sampling.SamplerState, gen_length: int, autoregressive: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, step map) of the first row; of an autoregressive model, what it has written."""
    tokens_G, step_map_G = jax.device_get(
        (state.tokens_BxL[0, -gen_length:], state.step_map_BxG[0])
    )
    columns = np.count_nonzero(step_map_G) if autoregressive else gen_length
    return tokens_G[:columns], step_map_G[:columns]


def make_answer(
    model: Model, loaded: tuple[PyTree, dict], args
) -> Callable[[Sequence[Row], int], Iterator[dict]]:
    """`answer(rows, batch)`: a line of --out for each row, in order; the batch is filled up by
    repeating. Each width is compiled once."""
    if args.show:
        sample = make_shown(model)
    else:
        sample = make_sampler(model.denoiser, model.sampler, model.mesh)
    key = jax.device_put(jax.random.key(args.seed), sharding.replicated(model.mesh))
    shards = sharding.row_shards(model.mesh)
    compiled = {}  # width of the prompts -> the function

    def answer(rows: Sequence[Row], batch: int) -> Iterator[dict]:
        filled = math.ceil(batch / shards) * shards
        prompts = prompts_of(model, [rows[i % len(rows)] for i in range(filled)], args)
        arguments = (*loaded, prompts, key)
        width = prompts.tokens_BxP.shape[1]
        if width not in compiled:  # here, so that it is not timed
            with progress.phase("compiling"):
                compiled[width] = sample if args.show else sample.lower(*arguments).compile()
        began = time.perf_counter()
        rollout = jax.device_get(compiled[width](*arguments))
        seconds = time.perf_counter() - began
        tokens_per_s = round(float(rollout.length_B[: len(rows)].sum()) / seconds, 1)
        for number, row in enumerate(rows):
            length = int(rollout.length_B[number])
            tokens = rollout.tokens_BxG[number, :length].tolist()
            yield row.entries | {
                "text": row.begin + model.tokenizer.decode(tokens),
                "tokens": tokens,
                "step_map": rollout.step_map_BxG[number, :length].tolist(),
                "length": length,
                "passes": int(rollout.passes_B[number]),
                "tokens_per_s": tokens_per_s,
            }

    return answer


def converse(model: Model, answer: Callable, args) -> None:
    """Answers line after line of stdin; each with the turns before it, as many as fit."""
    turns, sign = [], "> " if sys.stdin.isatty() else ""
    for place in itertools.count():
        try:
            text = input(sign).strip()
        except EOFError:
            return
        if not text:
            continue
        try:
            asked = fitting([*turns, {"role": "user", "content": text}], model.tokenizer, args)
        except ValueError as error:  # half of a character, or a template that refuses
            print(error, file=sys.stderr)
            continue
        if not asked:
            print(f"the line is over --prompt_length={args.prompt_length}", file=sys.stderr)
            continue
        row = Row("--chat", place, {}, model.tokenizer.apply_chat(asked))
        (line,) = answer([row], 1)
        print(line["text"], flush=True)
        turns = [*asked, {"role": "assistant", "content": line["text"]}]


def fitting(turns: list[dict], tokenizer, args) -> list[dict]:
    """The last turns that fit --prompt_length, from a question on; none where the last does not."""
    while turns and len(tokenizer.apply_chat(turns)) > args.prompt_length:
        turns = turns[2:]
    return turns


def prompts_of(model: Model, rows: Sequence[Row], args) -> Prompts:
    """A batch of prompts on the mesh, left-padded to a width that few batches have of their own.

    The noise of an answer comes from the prompt's place in the file.
    """
    ids = [row.ids for row in rows]
    return generation.prompts_of(
        model,
        ids,
        lengths=[model.sampler.gen_length] * len(ids),
        index=[row.place for row in rows],
        width=tokenizers.bucket(max(map(len, ids))),
        temperature=args.temperature,
        threshold=args.threshold,
    )


def main() -> int:
    args = arguments()
    try:
        out = output_path("--out", args.out)
        model = read_model(args)
        rows = [] if args.chat else list(read_prompts(args, model.tokenizer))
        if not rows and not args.chat:
            raise ValueError("no prompt is left: raise --prompt_length")
        with progress.shown(sys.stderr), progress.phase("loading the weights"):
            loaded = weights.load_weights(
                args.checkpoint, model.settings, model.denoiser.config, model.mesh
            )
    except Exception as error:
        return told(error, args.debug)
    begun = sum(row.begin != "" for row in rows)
    if begun:
        print(row_schema.begun_line(begun, len(rows)), file=sys.stderr)
    answer = make_answer(model, loaded, args)
    if args.chat:
        converse(model, answer, args)
    else:
        write_answers(rows, answer, out, args)
    return 0


def write_answers(rows: Sequence[Row], answer: Callable, out, args) -> None:
    """The answers to all the prompts, into the file or printed."""
    tokens, batch = 0, 1 if args.show else min(args.batch, len(rows))
    began = time.perf_counter()
    starts = range(0, len(rows), batch)
    with contextlib.ExitStack() as opened:
        file = sys.stdout
        if out is not None:
            file = opened.enter_context(replacing(out))
            opened.enter_context(progress.shown(sys.stderr))
        for start in progress.counted(starts, "answering"):
            for line in answer(rows[start : start + batch], batch):
                text = line["text"] if out is None else json.dumps(line)
                file.write(text + "\n")
                tokens += line["length"]
    seconds = time.perf_counter() - began
    said = f"{len(rows)} answers, {tokens} tokens in {seconds:.1f} s with compiling"
    if out is not None:
        said += f" | {out}"
    print(said, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run(main))
