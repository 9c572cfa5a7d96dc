"""Evaluates a checkpoint on tasks of EleutherAI's lm-evaluation-harness (`pip install lm_eval`).

  python launch/harness.py --checkpoint=DIR --tasks=gsm8k,hellaswag
  ... --limit=100 --out=FILE.json --sampler=gen_length=256,block_length=32,steps=128 --chat
  ... --include=FOLDER
      besides, tasks from the YAML files in a folder of your own

DIR is a folder that launch/convert.py wrote, or the workdir of a run, whose newest checkpoint,
sampler settings and tokenizer are taken. Tasks that generate get the sampler's answers, greedy
unless the task or --gen_kwargs says otherwise. Tasks that compare log-likelihoods get the
evidence lower bound of masked diffusion over --draws random masks, each with its complement, and
perplexities are bounds of whole texts. FILE.json holds the harness' results and every sample.

Exit codes: 0 done; 2 bad input, lines say which; 1 a fault.
"""

import argparse
import importlib.util
import json
import math
import pathlib
import sys

# `python launch/harness.py` puts launch/ there, not the repository
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from gdsd_jax import interrupts

if __name__ == "__main__":
    interrupts.watch()  # the imports below take their time

from gdsd_jax.cli import BAD_INPUT, Parser, output_path, replacing, run, told
from gdsd_jax.mistakes import Gathered

LEAST = {"batch": 1, "draws": 1, "max_length": 2, "num_fewshot": 0, "limit": 0}


def arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add_tasks(parser)
    add_model(parser)
    args = parser.checked(check_flags)
    if args.limit is not None and args.limit >= 1:
        args.limit = int(args.limit)
    return args


def check_flags(args: argparse.Namespace) -> None:
    """Mistakes of the flags."""
    wrong = Gathered()
    for name, least in LEAST.items():
        value = getattr(args, name)
        if value is not None and not value >= least:  # nan is not, either
            wrong.lines.append(f"--{name}={value} must be at least {least}")
    if args.limit == 0:
        wrong.lines.append("--limit=0 leaves no problems: give a number, or a share below 1")
    if args.limit == math.inf:
        wrong.lines.append("--limit=inf: leave it out, and all problems are asked")
    with wrong.check():
        output_path("--out", args.out)
    with wrong.check():
        if args.include is not None and not pathlib.Path(args.include).is_dir():
            raise ValueError(f"--include={args.include}: no such folder")
    wrong.end()


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """What is asked, and where the results go."""
    parser.add_argument("--tasks", required=True, help="names, separated by commas")
    parser.add_argument("--include", help="folder with YAML files of tasks")
    parser.add_argument("--limit", type=float, help="first problems of each task; below 1: a share")
    parser.add_argument("--num_fewshot", type=int, help="examples before each problem")
    parser.add_argument("--chat", action="store_true", help="ask in the model's chat template")
    parser.add_argument("--system", help="system turn of the chat")
    parser.add_argument(
        "--gen_kwargs", default="", help="key=value,...: max_gen_toks, temperature, do_sample, ..."
    )
    parser.add_argument("--out", help="JSON file for the results and every sample")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Who answers, and how."""
    parser.add_argument(
        "--checkpoint", required=True, help="a converted model's folder, or a run's workdir"
    )
    parser.add_argument(
        "--sampler", default="", help="key=value,...: fields of sampling.SamplerConfig"
    )
    parser.add_argument(
        "--draws", type=int, default=64, help="masks of a log-likelihood, each with its complement"
    )
    parser.add_argument(
        "--no_greedy", action="store_true", help="do not ask whether greedy decoding gives a text"
    )
    parser.add_argument("--seed", type=int, default=0, help="of masks and answers")
    parser.add_argument("--batch", type=int, default=8, help="requests at once")
    parser.add_argument(
        "--max_length", type=int, default=4096, help="most tokens of a context and what follows"
    )
    parser.add_argument(
        "--mesh",
        default="",
        help="key=value,... of data, fsdp, tensor; default all devices on fsdp",
    )


def find_tasks(names: str, include: str | None):
    """(the harness' task manager, names); ValueError for a name that no task has."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=include)
    asked = [name for name in names.split(",") if name]
    unknown = [name for name in asked if not manager.match_tasks([name])]
    if unknown or not asked:
        raise ValueError(
            f"--tasks={names}: no task is named {', '.join(unknown) or '(nothing)'}; "
            "`lm-eval ls tasks` lists them, --include=FOLDER adds your own"
        )
    return manager, manager.match_tasks(asked)


def evaluate(args, model, manager, names: list[str]) -> dict:
    """The harness' results."""
    import lm_eval

    return lm_eval.simple_evaluate(
        model,
        tasks=names,
        task_manager=manager,
        limit=args.limit,
        num_fewshot=args.num_fewshot,
        apply_chat_template=args.chat,
        system_instruction=args.system,
        gen_kwargs=args.gen_kwargs or None,
        batch_size=args.batch,
        random_seed=args.seed,
    )


def main() -> int:
    args = arguments()
    try:
        out = output_path("--out", args.out)
        if importlib.util.find_spec("lm_eval") is None:
            raise ValueError("the lm-evaluation-harness is not installed: pip install lm_eval")
        manager, names = find_tasks(args.tasks, args.include)
        # only here, so that the above is said at once and the accelerator stays free
        from gdsd_jax.inference import harness

        model = harness.MaskedDiffusion(
            args.checkpoint,
            sampler=args.sampler,
            mesh=args.mesh,
            draws=args.draws,
            seed=args.seed,
            batch_size=args.batch,
            max_length=args.max_length,
            greedy=not args.no_greedy,
        )
    except Exception as error:
        return told(error, args.debug)
    try:
        results = evaluate(args, model, manager, names)
    except BAD_INPUT as error:  # a task's data or its generation keys may be what cannot work
        return told(error, args.debug)
    from lm_eval.utils import handle_non_serializable, make_table

    if out is not None:
        with replacing(out) as file:
            json.dump(results, file, indent=1, default=handle_non_serializable)
    print(make_table(results))
    if out is not None:
        print(f"{len(names)} tasks | {out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
