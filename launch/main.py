"""Trains, or resumes, one run.

  python launch/main.py --config=configs/coding.py[:MODEL[,key=value...]] [--workdir=DIR]

With --check it is only said whether the run can begin: settings, files, problems and devices are
looked at, the workdir is not touched.
On TPU VM pod slices the same command on every host: the processes find one another. Elsewhere each
is told:
  ... --coordinator=HOST:PORT --num_processes=N --process_id=I
Exit codes: 0 done; 2 bad configuration or input, lines say which; 143 after SIGTERM, with the
state saved; 130 after Ctrl-C; 1 a fault.
"""

import argparse
import contextlib
import logging
import pathlib
import shutil
import sys

# `python launch/main.py` puts launch/ there, not the repository
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from gdsd_jax import interrupts

if __name__ == "__main__":
    interrupts.watch()  # the imports below take their time

from gdsd_jax.cli import Parser, fail, fault, load_config, output_folder, run, split_config, told
from gdsd_jax.mistakes import Gathered


def make_parser() -> Parser:
    parser = Parser(__doc__, add_help=False)
    parser.add_argument(
        "-h", "--help", action="store_true", help="these flags; with --config its keys too"
    )
    parser.add_argument("--config", help="FILE.py[:MODEL[,key=value...]]")
    parser.add_argument(
        "--print_config", action="store_true", help="the config's keys, with values and meanings"
    )
    parser.add_argument(
        "--workdir", help="local folder or gs:// address; by default runs/NAME-OVERRIDES"
    )
    parser.add_argument(
        "--check", action="store_true", help="say whether the run can begin, and begin nothing"
    )
    parser.add_hosts()
    parser.add_argument(
        "--profile",
        type=int,
        metavar="ROUND",
        help="write a profiler trace of that round to WORKDIR/profile",
    )
    return parser


def arguments() -> argparse.Namespace:
    args = make_parser().checked(check_flags)
    if args.help and args.config is None:
        make_parser().print_help()
        raise SystemExit(0)
    return args


def check_flags(args: argparse.Namespace) -> None:
    """Mistakes of the flags."""
    wrong = Gathered()
    if args.config is None and not args.help:
        wrong.lines.append("the following arguments are required: --config; --help tells all flags")
    with wrong.check():
        if args.config is not None:
            load_config(args.config)
    with wrong.check():
        if args.workdir is not None:
            output_folder("--workdir", args.workdir)
    wrong.end()


if __name__ == "__main__":
    arguments()  # tells what is wrong before the imports below, which take seconds

import jax

from gdsd_jax import (
    banner,
    checkpoint,
    experiment,
    hosts,
    paths,
    progress,
    report,
    settings,
    tasks,
    train,
    workdirs,
)
from gdsd_jax.hosts import Hosts
from gdsd_jax.settings import Settings


def main() -> int:
    args = arguments()
    try:
        chosen = settings.parse(load_config(args.config))
        if args.help or args.print_config:
            return explain(chosen, args)
        check_profile(chosen, args.profile)
        here = hosts.start(args.coordinator, args.num_processes, args.process_id)
    except Exception as error:
        return told(error, args.debug)
    code = hosts.run_together(here, lambda: launch(chosen, args, here), fault)
    if code in (130, 143):
        hosts.leave(code)  # a thread may be compiling still
    return code


def check_profile(chosen: Settings, profile: int | None) -> None:
    """ValueError where the round that is to be traced is none of the run's."""
    if profile is not None and not 1 <= profile <= chosen.rounds:
        raise ValueError(
            f"--profile={profile}: the run has rounds={chosen.rounds}, counted from 1: name one of "
            "them, or leave it out"
        )


def explain(chosen: Settings, args: argparse.Namespace) -> int:
    """Prints what can be chosen; the exit code."""
    if args.help:
        make_parser().print_help()
        print()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(
        f"The settings of {args.config}. Those with a * are not the default; any may follow in "
        "--config, as key=value.\n"
    )
    print("\n".join(settings.explained(chosen, width)))
    if chosen.rounds:
        print(f"\nA round: {banner.arithmetic_of(chosen)}.")
    return 0


def launch(chosen: Settings, args: argparse.Namespace, here: Hosts) -> int:
    """The run in this process; its exit code."""
    name = settings.run_name(chosen.name, split_config(args.config)[1])
    try:
        workdir = output_folder("--workdir", args.workdir or f"runs/{name}")
        workdirs.check_before(here, workdir, chosen)
    except Exception as error:
        return told(error, args.debug)
    is_cached = jax.config.jax_compilation_cache_dir is not None
    if jax.default_backend() != "cpu" and not is_cached and not args.check:
        # a run that resumes compiles nothing
        jax.config.update("jax_compilation_cache_dir", str(workdir / "compiled"))
    # orbax logs each fault several times and then raises it, which is one line here
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    if chosen.greeting and here.first:
        print(chosen.greeting, flush=True)
    try:
        with shown(here):
            prepared = experiment.prepare(chosen, here, say=progress.say, workdir=workdir)
    except KeyboardInterrupt:
        return fail("interrupted; nothing was begun", 130)
    except Exception as error:
        return told(error, args.debug)
    try:
        with shown(here):
            if here.first:
                progress.say("\n".join(banner.lines_of(prepared, workdir)))
            if args.check:
                progress.say("nothing is wrong: without --check the run begins")
                return 0
            train.train(prepared, workdir, say=progress.say, profile=args.profile)
    except train.Interrupted:
        return 143
    except KeyboardInterrupt:
        return fail(interrupted(workdir), 130)
    except (paths.WorkdirError, report.SinkError, tasks.GradeError, ImportError) as error:
        return told(error, args.debug)
    except (FloatingPointError, OSError) as error:  # such as a full disk
        return fail(error, 1)
    finally:
        prepared.task.close()
    if here.first:
        print(f"report: {workdir / 'report.html'}")
    return 0


def shown(here: Hosts) -> contextlib.AbstractContextManager:
    """A block in which the first process tells what it is at."""
    return progress.shown() if here.first else contextlib.nullcontext()


def interrupted(workdir) -> str:
    """What becomes of a run that was interrupted."""
    if checkpoint.latest_iteration(workdir) is None:
        return "interrupted before the first checkpoint; the same command begins anew"
    return "interrupted; the same command goes on from the last checkpoint"


if __name__ == "__main__":
    sys.exit(run(main))
