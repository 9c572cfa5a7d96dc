"""Trains, or resumes: python launch/main.py --config=configs/coding.py[:MODEL[,key=value...]] [--workdir=DIR]

Exit codes: 0 done; 2 bad configuration or input, one line says which; 143 after SIGTERM, with the state saved; 1 a fault.
"""
import argparse
import importlib.util
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `python launch/main.py` puts launch/ there, not the repository


def load_config(text: str):
    """The locked config of `FILE.py[:ARG]`; ValueError where there is none."""
    path, _, arg = text.partition(":")
    file = pathlib.Path(path)
    if not file.is_file():
        known = [f"configs/{name.name}" for name in sorted((ROOT / "configs").glob("*.py")) if "get_config(" in name.read_text()]
        raise ValueError(f"--config: no file {path}; there are {', '.join(known)}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"--config: {path} has no get_config(arg)")
    return module.get_config(arg or None)


def fail(error: BaseException, code: int) -> int:
    print("error:", " ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
    return code


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
        from gdsd_jax import train

        run = runs.prepare(config, args.workdir or ROOT / "runs" / config.name)
    except (ValueError, OSError) as error:
        return fail(error, 2)
    try:
        with run.sandbox:
            train.train(run, say=lambda line: print(line, flush=True))
    except train.Interrupted:
        return 143
    except FloatingPointError as error:
        return fail(error, 1)
    print(f"report: {run.workdir / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
