"""The command `gdsd`, also `python -m gdsd_jax`: the scripts of launch/ by name, from any folder.

`gdsd train --config=coding` is `python launch/main.py --config=configs/coding.py`.
"""

import importlib
import sys
import types

from gdsd_jax import interrupts
from gdsd_jax.cli import ROOT, fail

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
    interrupts.watch()
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
    module = types.ModuleType("__main__")
    module.__file__ = str(script)
    sys.modules["__main__"] = module  # dataclasses look their module up there
    # as a script, which tries its flags before its imports; ends by sys.exit with its own code
    exec(compile(script.read_bytes(), script, "exec"), vars(module))
    return 0


if __name__ == "__main__":
    sys.exit(main())
