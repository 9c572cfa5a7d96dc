"""Tells whether a run fits a TPU slice and what it would take: the TPU compiler compiles its real
programs.

  python launch/plan.py --config=configs/coding.py:llada --topology=v5e:4x4 \\
      [--num_slices=2] [--json=FILE] [--search]

Needs libtpu (pip install "jax[tpu]"), no TPU and no weights; minutes and a few GB for an 8B model.
Memory and exchanges are the compiler's; seconds are predictions from data sheets, the best that
could be. --search tries other meshes, remat and slices too, one after the other, and names the
fastest that fits.
Exit codes: 0 it fits; 3 it does not, and by how much; 2 bad arguments, one line says which.
"""

import argparse
from collections.abc import Iterator
import contextlib
import importlib.util
import json
import math
import os
import pathlib
import re
import sys
import tempfile
import time
from typing import NamedTuple

# before jax is imported: this machine's accelerator is not asked
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
# several plans at once: none of them touches a TPU
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
from jax.experimental import topologies
import jax.numpy as jnp

from gdsd_jax import chips, experiment, hlo, models, settings, sharding, steps, weights
from gdsd_jax.cli import fail, load_config, output_path, replacing
from gdsd_jax.optimizer import init_state, make_optimizer
from gdsd_jax.settings import Settings

GENERATIONS = {"v4": {"chip_config_name": "megacore"}, "v5e": {}, "v5p": {}, "v6e": {}}
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class DoesNotCompile(Exception):
    """The compiler found no room; `needed` is what it wanted, bytes a chip, with the arguments or
    without."""

    def __init__(self, needed: int, with_arguments: bool):
        super().__init__(needed)
        self.needed, self.with_arguments = needed, with_arguments


class Call(NamedTuple):
    """One of the run's programs with the shapes and places of its arguments."""

    function: object
    arguments: tuple
    beside: int  # bytes a chip that lie in memory meanwhile and are no arguments
    loops: int  # passes of its loop without a known length
    weight_reads: int  # times that each weight is read from memory


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="FILE.py[:MODEL[,key=value...]]")
    parser.add_argument(
        "--topology", required=True, help="GENERATION:SHAPE such as v5e:8x8, v4:2x2x2; of one slice"
    )
    parser.add_argument("--num_slices", type=int, default=1)
    parser.add_argument("--json", help="where to write the numbers")
    parser.add_argument(
        "--search", action="store_true", help="try other meshes, remat policies and slices"
    )
    args = parser.parse_args()
    try:
        chosen = settings.parse(load_config(args.config))
        out = output_path("--json", args.json) if args.json else None
        devices = topology(args.topology, args.num_slices)
        found = search(chosen, devices) if args.search else plan(chosen, devices)
    except (ValueError, ImportError) as error:  # gs:// needs a package of its own
        return fail(error, 2)
    found = {"config": args.config, "topology": args.topology, "slices": args.num_slices, **found}
    print(table(found))
    if out is not None:
        with replacing(out) as file:
            json.dump(found, file, indent=1)
    return 0 if found["fits"] else 3


def topology(name: str, slices: int) -> list:
    """Devices of `slices` slices to compile for; ValueError where the name is none or the compiler
    is missing."""
    generation, _, shape = name.partition(":")
    if generation not in GENERATIONS or not re.fullmatch(r"\d+(x\d+){1,2}", shape) or slices < 1:
        raise ValueError(
            f"--topology={name}: give {' or '.join(GENERATIONS)}, a colon "
            "and the shape of a slice, as in v5e:4x4"
        )
    if importlib.util.find_spec("libtpu") is None and not os.environ.get("TPU_LIBRARY_PATH"):
        raise ValueError('the TPU compiler, libtpu, is not installed: pip install "jax[tpu]"')
    options = dict(GENERATIONS[generation])
    if slices > 1:
        options["num_slices"] = slices
    if math.prod(map(int, shape.split("x"))) == 1:  # hosts of one chip; others have four
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        with quiet():
            return list(topologies.get_topology_desc(name, platform="tpu", **options).devices)
    except Exception as error:  # whatever libtpu raises says why
        raise ValueError(f"--topology={name}: {error}") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the alarms that libtpu prints where there is no TPU."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def plan(chosen: Settings, devices: list, rollout: dict | None = None) -> dict:
    """Everything about one run on one topology; `rollout` is its part where another run's is the
    same."""
    mesh = experiment.make_mesh(chosen, devices)
    model = model_of(chosen)
    experiment.check(chosen, mesh, model)
    chip = chips.CHIPS[devices[0].device_kind]
    calls, score_share, whole = programs(chosen, model, mesh)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(models.param_shapes(model)))
    read = parameters * jnp.dtype(model.dtype).itemsize / mesh.shape["tensor"]
    found = {"rollout": rollout} if rollout else {}
    for name, call in calls.items():
        if name in found:
            continue
        print(f"compiling the {name} for {len(devices)} chips", flush=True)
        found[name] = measure(call, mesh, chip, read)
    missing = max(program["missing"] for program in found.values())
    return {
        "chips": len(devices),
        "chip": devices[0].device_kind,
        "memory": chip.memory,
        "mesh": dict(mesh.shape),
        "rollout_weights": "whole" if whole else "split",
        "remat": chosen.remat,
        "slices_of_update": chosen.slices,
        "parameters": parameters,
        "fits": missing <= 0,
        "missing": max(missing, 0),
        "programs": found,
        "prediction": predict(chosen, found, score_share, len(devices)),
    }


def model_of(chosen: Settings) -> models.ModelConfig:
    """The model of a folder, or the preset as it is: no tokenizer is needed for a plan."""
    if chosen.init_from is not None:
        return experiment.model_of(chosen, None, None)[0]
    if chosen.model is None:
        raise ValueError("model=none without init_from: name a model, or give init_from=DIR")
    return weights.with_settings(models.preset(chosen.model), chosen)


def programs(
    chosen: Settings, model: models.ModelConfig, mesh
) -> tuple[dict[str, Call], float, bool]:
    """(the rollout and an update, operations of scoring over those of an update, rollout weights
    whole?)."""
    denoiser, teacher = weights.make_denoisers(chosen, model, mesh)
    calls = steps.make_steps(denoiser, chosen, mesh, teacher)
    make = weights.make_trainable(chosen, model)
    optimizer = make_optimizer(chosen.optimizer)
    state = weights.abstract(mesh, lambda rng: init_state(make(rng), optimizer))
    frozen = weights.abstract(mesh, lambda rng: weights.copies_of(chosen, make(rng)))
    if chosen.lora_rank:
        frozen["base"] = weights.abstract(mesh, weights.make_weights(chosen, model))
    prompts, slices, scored = steps.abstract_round(calls, chosen, mesh, state.trainable, frozen)

    def everywhere(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.replicated(mesh))

    rng_shape, number_shape = jax.eval_shape(lambda: (jax.random.key(0), jnp.int32(0)))
    rng, number = everywhere(rng_shape), everywhere(number_shape)

    def used(*names):
        return {name: frozen[name] for name in names if name in frozen}

    first = chosen.inner_iterations == 1
    update = (state, used("base", "teacher"), slices, scored, number, rng, first)
    views = chosen.slices * chosen.mask_draws
    found = {
        "rollout": Call(
            calls.sample,
            (state.trainable, used("base"), prompts, rng),
            held((state.opt_state, used("reference", "teacher"))),
            chosen.sampler.steps,
            chosen.sampler.steps,
        ),
        "update": Call(calls.update, update, held(used("reference")), 1, 3 * views),
    }

    def cast(*trees):
        return jax.tree.map(lambda x: x.astype(model.dtype), denoiser.bind(*trees))

    cast_params = jax.eval_shape(cast, state.trainable, frozen)
    whole = steps.are_whole(cast_params, chosen.rollout_weights, mesh)
    score_ops = hlo.operations(calls.score.trace(state.trainable, frozen, slices, rng).jaxpr.jaxpr)
    update_ops = hlo.operations(calls.update.trace(*update).jaxpr.jaxpr)
    return found, score_ops / update_ops, whole


def held(tree) -> int:
    """Bytes a chip of abstract arrays; other leaves are no arguments of the compiled program."""
    arrays = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.ShapeDtypeStruct)]
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in arrays)


def measure(call: Call, mesh, chip: chips.Chip, read: float) -> dict:
    """What the compiler and the data sheet say of one program. `read` is the bytes of one reading
    of the weights."""
    began = time.monotonic()
    traced = call.function.trace(*call.arguments)
    flops = hlo.operations(traced.jaxpr.jaxpr, call.loops)
    seconds = {
        "compute": flops / mesh.size / chip.flops,
        "memory": call.weight_reads * read / chip.bandwidth,
    }
    arguments = held(call.arguments)
    found = {"flops": flops, "arguments": arguments, "beside": call.beside}
    try:
        compiled = compile_for_tpu(traced.lower())
    except DoesNotCompile as error:
        peak = error.needed if error.with_arguments else error.needed + arguments
        found |= {"temporaries": peak - arguments, "collectives": [], "gathers_per_pass": None}
    else:
        memory = compiled.memory_analysis()
        fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
        peak = (
            memory.argument_size_in_bytes
            + memory.temp_size_in_bytes
            + fresh
            + memory.generated_code_size_in_bytes
        )
        found |= {
            "temporaries": memory.temp_size_in_bytes,
            **exchanged(compiled.as_text(), call.loops),
        }
        inside = sum(one["bytes"] for one in found["collectives"] if not one["crosses_slices"])
        across = sum(one["bytes"] for one in found["collectives"] if one["crosses_slices"])
        seconds |= {"links": inside / chip.links, "network": across / chip.network}
    total = peak + call.beside
    found |= {"peak": peak, "total": total, "missing": total - chip.memory, "seconds": seconds}
    return found | {"compile_s": round(time.monotonic() - began, 1)}


def compile_for_tpu(lowered):
    """The compiled program; DoesNotCompile where it is larger than the chip's memory."""
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        wanted = re.search(r"(Used |HLO temporaries \()([\d.]+)([KMGT])", str(error))
        if not wanted:
            raise
        raise DoesNotCompile(
            int(float(wanted[2]) * UNITS[wanted[3]]), with_arguments=wanted[1] == "Used "
        ) from None


def exchanged(text: str, passes: int) -> dict:
    """Collectives added up by kind, and the bytes that each pass of a rollout collects, in one
    piece or around a ring."""
    kinds = {}
    gathers = 0
    for one in hlo.collectives(text, passes):
        across = one.between_slices
        entry = kinds.setdefault(
            (one.kind, across), {"kind": one.kind, "crosses_slices": across, "count": 0, "bytes": 0}
        )
        entry["count"] += one.times
        entry["bytes"] += one.times * one.sent
        if one.open_loop and one.kind in ("all-gather", "collective-permute"):
            gathers += one.times * one.sent // passes
    return {
        "collectives": sorted(kinds.values(), key=lambda entry: -entry["bytes"]),
        "gathers_per_pass": gathers,
    }


def predict(chosen: Settings, found: dict, score_share: float, count: int) -> dict:
    """The fastest that the data sheet allows, everything overlapped; seconds, tokens, and hours of
    one chip."""
    rollout = max(found["rollout"]["seconds"].values())
    update = max(found["update"]["seconds"].values())
    exchange = {
        name: sum(found[name]["seconds"].get(part, 0.0) for part in ("links", "network"))
        for name in found
    }
    work = {
        name: max(found[name]["seconds"][part] for part in ("compute", "memory")) for name in found
    }
    round_s = rollout + score_share * update + chosen.inner_iterations * update
    tokens = chosen.prompts_per_round * chosen.group_size * chosen.sampler.gen_length
    return {
        "rollout_s": rollout,
        "update_s": update,
        "score_s": score_share * update,
        "round_s": round_s,
        "tokens_per_s": tokens / rollout,
        "chip_hours": chosen.rounds * round_s * count / 3600,
        "exchange_share": {name: exchange[name] / (exchange[name] + work[name]) for name in found},
        "bound": {
            name: max(program["seconds"], key=program["seconds"].get)
            for name, program in found.items()
        },
    }


def search(chosen: Settings, devices: list) -> dict:
    """The best of several plans: first the mesh is varied, then remat, then the slices of an
    update."""
    best = plan(chosen, devices)
    tried = [best | {"change": None}]
    for vary in (other_meshes, other_remats, other_slices):
        for change in vary(chosen):
            rollout = None if vary is other_meshes else best["programs"]["rollout"]
            try:
                candidate = settings.replace(chosen, change)
                shape = dict(experiment.make_mesh(candidate, devices).shape)
                if vary is other_meshes and shape == best["mesh"]:
                    continue
                found = plan(candidate, devices, rollout)
            except ValueError:
                continue  # rows that do not go round, an axis that a mesh does not divide
            tried.append(found | {"change": change})
            print(
                f"tried {change}: {gib(found['missing'])} too much, "
                f"{found['prediction']['round_s']:.3g} s a round",
                flush=True,
            )
            if rank(found) < rank(best):
                best, chosen = found, candidate
    names = ("change", "mesh", "missing", "prediction")
    return best | {"tried": [{name: one[name] for name in names} for one in tried]}


def rank(found: dict) -> tuple[float, float]:
    """What a better plan has less of: memory that is missing, then seconds a round."""
    return found["missing"], found["prediction"]["round_s"]


def other_meshes(chosen: Settings) -> Iterator[dict]:
    for tensor in (1, 2, 4, 8):
        yield {"mesh.data": 1, "mesh.fsdp": -1, "mesh.tensor": tensor}


def other_remats(chosen: Settings) -> Iterator[dict]:
    for remat in ("none", "dots", "full"):
        if remat != chosen.remat:
            yield {"remat": remat}


def other_slices(chosen: Settings) -> Iterator[dict]:
    if chosen.slices > 1:
        yield {"slices": chosen.slices // 2}
    yield {"slices": chosen.slices * 2}


def gib(size: float) -> str:
    return f"{size / chips.GIB:.2f} GiB"


def table(found: dict) -> str:
    """The plan for people."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in found["mesh"].items())
    lines = [
        f"{found['topology']} x {found['slices']}: {found['chips']} chips ({found['chip']}), "
        f"mesh {mesh}, "
        f"{found['parameters'] / 1e9:.2f} B parameters, rollout weights {found['rollout_weights']}",
        f"{'GiB a chip':22}{'arguments':>10}{'temporary':>10}{'beside':>10}{'total':>10}{'of':>8}",
    ]
    for name, one in found["programs"].items():
        sizes = "".join(
            f"{one[part] / chips.GIB:10.2f}"
            for part in ("arguments", "temporaries", "beside", "total")
        )
        lines.append(f"{name:22}{sizes}{found['memory'] / chips.GIB:8.2f}")
    for name, one in found["programs"].items():
        lines.append(f"{name}: {one['flops']:.3g} operations, compiled in {one['compile_s']:.0f} s")
        for entry in one["collectives"]:
            where = " between slices" if entry["crosses_slices"] else ""
            lines.append(
                f"  {entry['kind']}{where}: {entry['count']} times, "
                f"{gib(entry['bytes'])} sent by each chip"
            )
    gathers = found["programs"]["rollout"]["gathers_per_pass"]
    if gathers:
        lines.append(f"each pass of the rollout collects {gib(gathers)} a chip")
    guess = found["prediction"]
    percent = guess["exchange_share"]
    lines += [
        "PREDICTION from data sheets, at best "
        "(peak rates, everything overlapped, no reads of memory but of weights):",
        *(
            f"  {name}: {guess[f'{name}_s']:.1f} s, bound by {guess['bound'][name]}, "
            f"exchange {percent[name]:.0%} if not overlapped"
            for name in found["programs"]
        ),
        f"  round {guess['round_s']:.0f} s, {guess['tokens_per_s']:,.0f} tokens/s, "
        f"{guess['chip_hours']:,.0f} chip-hours for the run",
        "fits" if found["fits"] else f"DOES NOT FIT: {gib(found['missing'])} a chip too much",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
