"""Trains, or resumes: python launch/main.py --config=configs/coding.py[:MODEL[,key=value...]] [--workdir=DIR]

Exit codes: 0 done; 2 bad configuration or input, one line says which; 143 after SIGTERM, with the state saved; 1 a fault.
"""
import argparse
import pathlib
import sys

# `python launch/main.py` puts launch/ there, not the repository
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from gdsd_jax.cli import ROOT, fail, load_config


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="FILE.py[:MODEL[,key=value...]]")
    parser.add_argument("--workdir", help="local folder or gs:// address; by default runs/NAME")
    args = parser.parse_args()
    try:
        config = load_config(args.config)
        if config.greeting:
            print(config.greeting, flush=True)
        from gdsd_jax import run as runs  # slow to import: a wrong config is told before
        from gdsd_jax import checkpoint, train

        run = runs.prepare(config, args.workdir or ROOT / "runs" / config.name)
    except (ValueError, OSError) as error:
        return fail(error, 2)
    try:
        with run.sandbox:
            train.train(run, say=lambda line: print(line, flush=True))
    except train.Interrupted:
        return 143
    except checkpoint.OtherSettings as error:
        return fail(error, 2)
    except FloatingPointError as error:
        return fail(error, 1)
    print(f"report: {run.workdir / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
