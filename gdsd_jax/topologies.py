"""Accelerators that are not there, for the compilers to compile for.

TPU slices go by their shape or by their name on Google Cloud, GPUs by card, hosts and GPUs a host.
"""

from collections.abc import Iterator
import contextlib
import importlib
import importlib.util
import math
import os
import re
import sys
import tempfile
import types

import jax
from jax._src.cudnn import fused_attention_stablehlo
from jax.experimental import topologies

from gdsd_jax import chips

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
GENERATIONS = {"v4": {"chip_config_name": "megacore"}, "v5e": {}, "v5p": {}, "v6e": {}}
# as Google Cloud names slices, by chips or by cores of which a chip has two -> (generation, cores)
CLOUD = {"v4": ("v4", 2), "v5litepod": ("v5e", 1), "v5p": ("v5p", 2), "v6e": ("v6e", 1)}
FLAT = ("v5e", "v6e")  # their slices have two sides, others three

# Of each card: jax's device_kind, and what the compiler asks beside the memory in chips.py. Compute
# capability, multiprocessors and float32 lanes in each, shared memory of one and of a block of
# threads (bytes), level 2 cache (bytes), clock (GHz). Source: OpenXLA's descriptions of these
# cards, xla/backends/gpu/target_config/specs, and NVIDIA's CUDA programming guide, "Compute
# capabilities".
GPUS = {
    "a100": ("NVIDIA A100-SXM4-80GB", 8, 108, 64, 167936, 166912, 41943040, 1.41),
    "h100": ("NVIDIA H100 80GB HBM3", 9, 132, 128, 233472, 232448, 52428800, 1.98),
    "h200": ("NVIDIA H200", 9, 132, 128, 233472, 232448, 52428800, 1.98),
    "b200": ("NVIDIA B200", 10, 148, 128, 233472, 232448, 132644864, 1.965),
}
CUDNN = (9, 10, 0)  # the version that programs are compiled for
GPU_PLUGINS = ("xla_cuda12", "xla_cuda13")
# Of the compiler, by platform. Triton's products are tuned by running them; cuBLAS's are not tuned
# where there is no GPU.
OPTIONS = {"gpu": {"xla_gpu_enable_triton_gemm": False}, "tpu": {}}


def devices(name: str, slices: int = 1) -> list:
    """Devices to compile for: of `slices` TPU slices, or GPUs.

    Args:
      name: "v5e:4x4", a generation and the shape of a slice; "v5litepod-16", the same as Google
        Cloud has it; "h100:8", a card and how many one host has, or "h100:2x8" of several hosts.
      slices: how many TPU slices.

    Raises:
      ValueError: there is no such thing, or its compiler is not installed; one line says which.
    """
    kind, _, shape = sliced(name).partition(":")
    gpu = kind in GPUS and re.fullmatch(r"(\d+x)?\d+", shape)
    tpu = kind in GENERATIONS and re.fullmatch(r"\d+(x\d+){1,2}", shape)
    if not gpu and not tpu:
        raise ValueError(
            f"--topology={name}: give {' or '.join(GENERATIONS)}, a colon and the shape of a "
            "slice, as in v5e:4x4, or its name on Google Cloud, as in v5litepod-16; or "
            f"{' or '.join(GPUS)}, a colon and how many, as in h100:8, h100:2x8 for two hosts"
        )
    if slices < 1 or (gpu and slices > 1):
        raise ValueError(f"--num_slices={slices}: TPUs have one or more, GPUs none")
    if gpu:
        check_gpus(name, shape)
    try:
        with quiet():
            return gpus(kind, shape) if gpu else tpus(kind, shape, slices)
    except MissingCompiler as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # whatever a compiler raises says why
        raise ValueError(f"--topology={name}: {error}") from None


def check_gpus(name: str, shape: str) -> None:
    """ValueError where hosts have other numbers of GPUs than there are, or jax's share of their
    memory is none."""
    hosts, _, each = shape.rpartition("x")
    most = chips.GPUS_A_HOST
    if int(hosts or 1) < 1 or not 0 < int(each) <= most:
        card = name.partition(":")[0]
        raise ValueError(
            f"--topology={name}: a host has 1 to {most} of these GPUs, give {card}:{most} or, of "
            f"two hosts, {card}:2x{most}"
        )
    chips.memory_fraction()


class MissingCompiler(Exception):
    """It is not installed; says how to."""


def sliced(name: str) -> str:
    """A slice's name on Google Cloud as generation and shape; other names as they are.

    Those of powers of two have sides as equal as can be, the longest last.
    """
    named = re.fullmatch(r"(\w+)-(\d+)", name)
    if named is None or named[1] not in CLOUD:
        return name
    generation, cores = CLOUD[named[1]]
    count = int(named[2]) // cores
    exponent = count.bit_length() - 1
    if count * cores != int(named[2]) or count != 1 << max(exponent, 0):
        return name
    if generation in FLAT:
        sides = [exponent // 2, (exponent + 1) // 2]
    else:
        sides = [exponent // 3, (exponent + 1) // 3, (exponent + 2) // 3]
    if count == 4:  # one host
        sides = [1, 1] if generation in FLAT else [1, 1, 0]
    return f"{generation}:{'x'.join(str(1 << side) for side in sides)}"


def tpus(generation: str, shape: str, slices: int) -> list:
    """Devices of TPU slices."""
    if importlib.util.find_spec("libtpu") is None and not os.environ.get("TPU_LIBRARY_PATH"):
        raise MissingCompiler('the TPU compiler, libtpu, is not installed: pip install "jax[tpu]"')
    options = dict(GENERATIONS[generation])
    if slices > 1:
        options["num_slices"] = slices
    if math.prod(map(int, shape.split("x"))) == 1:  # hosts of one chip; others have four
        options["chips_per_host_bounds"] = (1, 1, 1)
    name = f"{generation}:{shape}"
    return list(topologies.get_topology_desc(name, platform="tpu", **options).devices)


def gpus(card: str, shape: str) -> list:
    """Devices of hosts with GPUs."""
    hosts, _, each = shape.rpartition("x")
    options = {"target_config": target_config(card), "topology": f"{hosts or 1}x1x{each}"}
    folder = os.environ.get("CUDA_PLUGIN_PATH")
    if folder and folder not in sys.path:
        sys.path.append(folder)
    try:
        found = topologies.get_topology_desc(card, platform="cuda", **options)
    except NotImplementedError:  # the plugin was not on the path when jax looked for plugins
        gpu_plugin().initialize()
        found = topologies.get_topology_desc(card, platform="cuda", **options)
    return list(found.devices)


def gpu_plugin() -> types.ModuleType:
    """The GPU compiler; MissingCompiler where there is none."""
    for name in GPU_PLUGINS:
        try:
            return importlib.import_module(f"jax_plugins.{name}")
        except ImportError:
            continue
    packages = " ".join(f"jax-cuda12-{part}=={jax.__version__}" for part in ("plugin", "pjrt"))
    raise MissingCompiler(
        f"the GPU compiler is not installed: pip install --no-deps --target=DIR {packages}, "
        "and set CUDA_PLUGIN_PATH=DIR"
    )


def target_config(card: str) -> str:
    """What the compiler must know of a GPU, a text of the message GpuTargetConfigProto."""
    kind, capability, cores, lanes, shared, optin, cache, clock = GPUS[card]
    chip = chips.CHIPS[kind]
    major, minor, patch = CUDNN
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  core_count: {cores} fpus_per_core: {lanes} clock_rate_ghz: {clock}
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared} shared_memory_per_block_optin: {optin}
  l2_cache_size: {cache}
  memory_bandwidth: {int(chip.bandwidth)} device_memory_size: {chip.memory}
  cuda_compute_capability {{ major: {capability} }}
}}
platform_name: "CUDA"
runtime_version {{ major: 12 minor: 8 }}
dnn_version_info {{ major: {major} minor: {minor} patch: {patch} }}
device_description_str: "{kind}"
"""


class DoesNotCompile(Exception):
    """The compiler found no room; `needed` is what it wanted, bytes a chip, with the arguments or
    without."""

    def __init__(self, needed: int, with_arguments: bool):
        super().__init__(needed)
        self.needed, self.with_arguments = needed, with_arguments


def compile_for(platform: str, lowered):
    """The compiled program; DoesNotCompile where a TPU's compiler finds it larger than the chip's
    memory. That of GPUs compiles what does not fit too."""
    try:
        return lowered.compile(OPTIONS[platform])
    except jax.errors.JaxRuntimeError as error:
        wanted = re.search(r"(Used |HLO temporaries \()([\d.]+)([KMGT])", str(error))
        if not wanted:
            raise
        raise DoesNotCompile(
            int(float(wanted[2]) * UNITS[wanted[3]]), with_arguments=wanted[1] == "Used "
        ) from None


@contextlib.contextmanager
def without_cudnn() -> Iterator[None]:
    """Programs with cuDNN's attention can be traced without its library.

    jax asks the library for its version while it traces; the compiler does not need it.
    """
    major, minor, patch = CUDNN
    version = types.SimpleNamespace(cudnn_get_version=lambda: major * 10000 + minor * 100 + patch)
    kept = fused_attention_stablehlo.cuda_versions
    fused_attention_stablehlo.cuda_versions = version
    try:
        yield
    finally:
        fused_attention_stablehlo.cuda_versions = kept


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the alarms that compilers print where their device is missing."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
