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
from gdsd_jax.cli import ROOT, fail, load_config, split_config


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    except ValueError as error:
        return fail(error, 2)
    if here.count == 1:
        code = launch(config, args, here)
        if code in (130, 143):
            hosts.leave(code)  # a thread may be compiling still
        return code
    with hosts.naming_failures(here):
        code = launch(config, args, here)
        if code in (0, 143):
            here.finish()
    here.linger()
    hosts.leave(code)


def launch(config, args: argparse.Namespace, hosts) -> int:
    """The run in this process; its exit code."""
    import jax

    from gdsd_jax import experiment, report, settings, train

    try:
        chosen = settings.parse(config)
        name = settings.run_name(chosen.name, split_config(args.config)[1])
        workdir = paths.absolute(args.workdir or ROOT / "runs" / name)
    except ValueError as error:
        return fail(error, 2)
    if jax.default_backend() != "cpu" and jax.config.jax_compilation_cache_dir is None:
        # a run that resumes compiles nothing
        jax.config.update("jax_compilation_cache_dir", str(workdir / "compiled"))
    # orbax logs each fault several times and then raises it, which is one line here
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    if chosen.greeting and hosts.first:
        print(chosen.greeting, flush=True)
    try:
        if workdir.exists() and not workdir.is_dir():
            raise ValueError(f"--workdir={workdir}: that is a file; name a folder")
        prepared = experiment.prepare(chosen, hosts, say=say, workdir=workdir)
    except (ValueError, OSError, ImportError) as error:  # gs:// needs a package of its own
        return fail(error, 2)
    try:
        train.train(prepared, workdir, say=say, profile=args.profile)
    except train.Interrupted:
        return 143
    except KeyboardInterrupt:
        return fail("interrupted; the same command goes on from the last checkpoint", 130)
    except (paths.WorkdirError, report.SinkError, ImportError) as error:
        return fail(error, 2)
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
    sys.exit(main())
