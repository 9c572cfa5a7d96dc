"""What the accelerator can do, how full its memory has been, and how long jax has compiled.

A chip is one jax device: a v4 or v5p chip works as one, "megacore". Rates are peaks from the
maker's data sheets.
"""

from typing import NamedTuple

import jax


class Chip(NamedTuple):
    """Rates and memory of one chip."""

    flops: float  # bfloat16 operations a second
    memory: int  # bytes that a program may use
    bandwidth: float  # bytes a second from that memory
    links: float  # bytes a second along one axis of its pod slice's torus, both ways
    network: float  # bytes a second to other pod slices, over the data-centre network


GIB = 1 << 30
CHIPS = {  # by jax's device_kind
    "TPU v4": Chip(275e12, 31 * GIB, 1.23e12, 90e9, 3.1e9),
    "TPU v5 lite": Chip(197e12, int(15.75 * GIB), 0.82e12, 90e9, 3.1e9),
    "TPU v5": Chip(459e12, int(95.7 * GIB), 2.77e12, 180e9, 6.2e9),
    "TPU v6 lite": Chip(918e12, int(31.25 * GIB), 1.64e12, 180e9, 12.5e9),
}


def memory_of(device) -> int | None:
    """Bytes of fast memory that a program may use; None where that is not known, as on a CPU."""
    if device.device_kind in CHIPS:
        return CHIPS[device.device_kind].memory
    if device.platform != "gpu":
        return None
    return (device.memory_stats() or {}).get("bytes_limit")


def peak_line() -> str:
    """How full the fullest of this process's devices has been, as ", X of Y GiB a chip".

    Empty where no device tells.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    stats = [one for one in stats if "bytes_limit" in one]
    if not stats:
        return ""
    fullest = max(stats, key=lambda one: one["peak_bytes_in_use"])
    peak = fullest["peak_bytes_in_use"] / GIB
    limit = fullest["bytes_limit"] / GIB
    return f", {peak:.1f} of {limit:.1f} GiB a chip"


class Compiling:
    """Seconds that jax has spent compiling since this was made."""

    def __init__(self):
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self.add)

    def add(self, event: str, seconds: float, **_) -> None:
        if event.endswith("backend_compile_duration"):
            self.seconds += seconds
