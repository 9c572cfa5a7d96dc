"""The command `gdsd`, also `python -m gdsd_jax`: the scripts of launch/ by name, from any folder.

`gdsd train --config=coding` is `python launch/main.py --config=configs/coding.py`.
"""

import importlib.util
import sys

from gdsd_jax.cli import ROOT, fail, run

COMMANDS = {  # name -> (script, what it does)
    "train": ("main.py", "trains, or resumes"),
    "eval": ("eval.py", "scores a checkpoint, grades completions, compares two evaluations"),
    "generate": ("generate.py", "answers prompts with a checkpoint"),
    "convert": ("convert.py", "Hugging Face and GGUF models to what runs start from, and back"),
    "plan": ("plan.py", "whether a run fits a TPU slice or GPUs, without them"),
    "compare": ("compare.py", "variants of an experiment over seeds, side by side"),
    "bench": ("bench.py", "measures this machine"),
    "harness": ("harness.py", "scores a checkpoint on tasks of the lm-evaluation-harness"),
}


def main() -> int:
    """Runs `gdsd COMMAND ...`; the exit code is the script's, 2 where there is no such command."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("usage: gdsd COMMAND ..., and gdsd COMMAND --help\n")
        for command, (_, what) in COMMANDS.items():
            print(f"  {command:<9} {what}")
        return 0
    if name == "--version":
        print(importlib.import_module("gdsd_jax").__version__)
        return 0
    if name not in COMMANDS:
        return fail(f"gdsd {name}: no such command; there are {', '.join(COMMANDS)}", 2)
    sys.argv = [f"gdsd {name}", *rest]  # what the script's usage line begins with
    script = ROOT / "launch" / COMMANDS[name][0]
    spec = importlib.util.spec_from_file_location(f"gdsd_launch_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return run(module.main)


if __name__ == "__main__":
    sys.exit(main())
