"""What the accelerator can do, how full its memory has been, and how long jax has compiled.

A chip is one jax device: a v4 or v5p chip works as one, "megacore". Rates are peaks of dense
products and come from the makers' data sheets. For GPUs these are NVIDIA's A100 80GB, H100, H200
and HGX B200 data sheets, all of the SXM form, eight to a host. Their memory is what OpenXLA's own
descriptions of these cards say (xla/backends/gpu/target_config/specs). Their network is that of the
DGX user guides: a ConnectX for each GPU, 200 Gb/s beside an A100 and 400 Gb/s beside the others.
"""

import math
import os
from typing import NamedTuple

import jax


class Chip(NamedTuple):
    """Rates and memory of one chip."""

    flops: float  # bfloat16 operations a second
    int8: float  # int8 operations a second, summed in int32
    memory: int  # bytes; of a TPU those that a program may use, of a GPU all of them
    bandwidth: float  # bytes a second from that memory
    # bytes a second that it sends along one axis of its pod slice's torus, both ways, or by NVLink
    links: float
    network: float  # bytes a second to other pod slices or hosts, over the data-centre network


GIB = 1 << 30
# by which jax is told the share of a GPU's memory to take; the second name is deprecated
FRACTIONS = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
GPUS_A_HOST = 8  # of the form that the rates are of
CHIPS = {  # by jax's device_kind
    "TPU v4": Chip(275e12, 275e12, 31 * GIB, 1.23e12, 90e9, 3.1e9),
    "TPU v5 lite": Chip(197e12, 394e12, int(15.75 * GIB), 0.82e12, 90e9, 3.1e9),
    "TPU v5": Chip(459e12, 918e12, int(95.7 * GIB), 2.77e12, 180e9, 6.2e9),
    "TPU v6 lite": Chip(918e12, 1836e12, int(31.25 * GIB), 1.64e12, 180e9, 12.5e9),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 624e12, 85100068864, 2.04e12, 300e9, 25e9),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 1979e12, 84942979072, 3.35e12, 450e9, 50e9),
    "NVIDIA H200": Chip(989e12, 1979e12, 151397597184, 4.8e12, 450e9, 50e9),
    "NVIDIA B200": Chip(2250e12, 4500e12, 191514411008, 7.7e12, 900e9, 50e9),
}


def memory_of(device) -> int | None:
    """Bytes of fast memory that a program may use; None where that is not known, as on a CPU.

    Of a GPU that is the share that jax takes of it. A plan and its run are told the same.
    """
    known = CHIPS.get(device.device_kind)
    if device.platform != "gpu":
        return known and known.memory
    if known is not None:
        return int(known.memory * memory_fraction())
    return (device.memory_stats() or {}).get("bytes_limit")


def memory_fraction() -> float:
    """The share of a GPU's memory that jax takes.

    Raises:
      ValueError: the environment says what is no share.
    """
    name = next((name for name in FRACTIONS if name in os.environ), FRACTIONS[0])
    text = os.environ.get(name, "0.75")
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share < math.inf:
        raise ValueError(f"{name}={text} in the environment: give a share such as 0.9")
    return share


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
