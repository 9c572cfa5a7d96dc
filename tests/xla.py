"""The flags under which tests, and the programs they start, compile for the CPU."""

import functools
import importlib.util
import mmap
from pathlib import Path

# Compiling is most of the tests' time; the older way to emit fusions takes a third of it.
EMITTERS = "xla_cpu_use_fusion_emitters"


def flags(devices: int) -> str:
    """XLA_FLAGS of a process with so many fake devices."""
    quick = f"--{EMITTERS}=false " if knows(EMITTERS) else ""
    return f"{quick}--xla_force_host_platform_device_count={devices}"


@functools.cache
def knows(flag: str) -> bool:
    """Whether this jaxlib has the flag; XLA ends a process that names another."""
    library = Path(importlib.util.find_spec("jaxlib").origin).parent / "libjax_common.so"
    if not library.is_file():
        return False
    with (
        open(library, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return content.find(flag.encode()) >= 0
