"""Trains, or resumes, one run.

  python launch/main.py --config=configs/coding.py[:MODEL[,key=value...]] [--workdir=DIR]

On TPU VM pod slices the same command on every host: the processes find one another. Elsewhere each
is told:
  ... --coordinator=HOST:PORT --num_processes=N --process_id=I
Exit codes: 0 done; 2 bad configuration or input, one line says which; 143 after SIGTERM, with the
state saved; 130 after Ctrl-C; 1 a fault.
"""

import argparse
import logging
import pathlib
import sys

# `python launch/main.py` puts launch/ there, not the repository
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from gdsd_jax import paths
from gdsd_jax.cli import Parser, fail, fault, load_config, output_folder, run, split_config, told


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--config", required=True, help="FILE.py[:MODEL[,key=value...]]")
    parser.add_argument(
        "--workdir", help="local folder or gs:// address; by default runs/NAME-OVERRIDES"
    )
    parser.add_argument("--coordinator", help="HOST:PORT of process 0, which listens there")
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("--process_id", type=int)
    parser.add_argument(
        "--profile",
        type=int,
        metavar="ROUND",
        help="write a profiler trace of that round to WORKDIR/profile",
    )
    args = parser.parse_args()
    try:
        config = load_config(args.config)
        from gdsd_jax import hosts  # slow to import: a wrong config is told before

        here = hosts.start(args.coordinator, args.num_processes, args.process_id)
    except Exception as error:
        return told(error, args.debug)
    if here.count == 1:
        code = launch(config, args, here)
        if code in (130, 143):
            hosts.leave(code)  # a thread may be compiling still
        return code
    with hosts.naming_failures(here, fault):
        code = launch(config, args, here)
        if code in (0, 143):
            here.finish()
    here.linger()
    hosts.leave(code)


def launch(config, args: argparse.Namespace, hosts) -> int:
    """The run in this process; its exit code."""
    import jax

    from gdsd_jax import experiment, report, settings, tasks, train

    try:
        chosen = settings.parse(config)
        name = settings.run_name(chosen.name, split_config(args.config)[1])
        workdir = output_folder("--workdir", args.workdir or f"runs/{name}")
    except Exception as error:
        return told(error, args.debug)
    if jax.default_backend() != "cpu" and jax.config.jax_compilation_cache_dir is None:
        # a run that resumes compiles nothing
        jax.config.update("jax_compilation_cache_dir", str(workdir / "compiled"))
    # orbax logs each fault several times and then raises it, which is one line here
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    if chosen.greeting and hosts.first:
        print(chosen.greeting, flush=True)
    try:
        prepared = experiment.prepare(chosen, hosts, say=say, workdir=workdir)
    except KeyboardInterrupt:
        return fail("interrupted; nothing was begun", 130)
    except Exception as error:
        return told(error, args.debug)
    try:
        train.train(prepared, workdir, say=say, profile=args.profile)
    except train.Interrupted:
        return 143
    except KeyboardInterrupt:
        return fail("interrupted; the same command goes on from the last checkpoint", 130)
    except (paths.WorkdirError, report.SinkError, tasks.GradeError, ImportError) as error:
        return told(error, args.debug)
    except (FloatingPointError, OSError) as error:  # such as a full disk
        return fail(error, 1)
    finally:
        prepared.task.close()
    if hosts.first:
        print(f"report: {workdir / 'report.html'}")
    return 0


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(run(main))
