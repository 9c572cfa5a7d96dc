"""Tells whether a run fits a TPU slice or some GPUs and what it would take: their compiler compiles
its real programs.

  python launch/plan.py --config=configs/coding.py:llada --topology=v5e:4x4 \\
      [--num_slices=2] [--json=FILE] [--search]
  ... --topology=v5litepod-16      the same slice, by its name on Google Cloud
  ... --topology=h100:8            one host of eight; h100:2x8 two hosts; a100 (80GB), h200, b200

Needs no accelerator and no weights; minutes and a few GB for an 8B model. For TPUs it needs libtpu
(pip install "jax[tpu]"), for GPUs jax's plugin of the same version in a folder of its own:
  pip install --no-deps --target=DIR jax-cuda12-plugin==VERSION jax-cuda12-pjrt==VERSION
  export CUDA_PLUGIN_PATH=DIR
Memory and exchanges are the compiler's; seconds are predictions from data sheets, the best that
could be. Of a GPU's memory a program gets the share XLA_CLIENT_MEM_FRACTION, 0.75 unless it is set.
Where rows that are done leave a block-causal rollout, the keys and values of those that go on, at
most half of all, lie in memory twice for a moment; that is not counted. --search tries other meshes
and remat too, one after the other, then finds the fewest slices that fit, and names the overrides
of the fastest plan. With rounds=0 a step of the supervised phase is planned.
Exit codes: 0 it fits; 3 it does not, and by how much; 2 bad arguments, lines say which.
"""

import argparse
import bisect
from collections.abc import Callable
import json
import math
import os
import pathlib
import sys
import time

# before jax is imported: this machine's accelerator is not asked
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
# several plans at once: none of them touches a TPU
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from gdsd_jax import interrupts

if __name__ == "__main__":
    interrupts.watch()  # the imports below take their time

from gdsd_jax.cli import Parser, load_config, output_path, replacing, run, told
from gdsd_jax.mistakes import Gathered


def arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--config", required=True, help="FILE.py[:MODEL[,key=value...]]")
    parser.add_argument(
        "--topology", required=True, help="of one TPU slice, v5e:8x8 or v6e-16; of GPUs, h100:8"
    )
    parser.add_argument("--num_slices", type=int, default=1)
    parser.add_argument("--json", help="where to write the numbers")
    parser.add_argument(
        "--search", action="store_true", help="try other meshes, remat policies and slices"
    )
    return parser.checked(check_flags)


def check_flags(args: argparse.Namespace) -> None:
    """Mistakes of the flags."""
    wrong = Gathered()
    with wrong.check():
        load_config(args.config)
    with wrong.check():
        output_path("--json", args.json)
    wrong.end()


if __name__ == "__main__":
    arguments()  # tells what is wrong before the imports below, which take seconds

import jax
import numpy as np

from gdsd_jax import (
    chips,
    experiment,
    hlo,
    models,
    progress,
    round_programs,
    settings,
    sharding,
    topologies,
    weights,
)
from gdsd_jax.settings import Settings
from gdsd_jax.topologies import DoesNotCompile, compile_for


def main() -> int:
    args, wrong = arguments(), Gathered()
    try:
        with wrong.check():
            chosen = settings.parse(load_config(args.config))
        with wrong.check():
            devices = topologies.devices(args.topology, args.num_slices)
        wrong.end()
        with topologies.without_cudnn(), progress.shown():
            found = search(chosen, devices) if args.search else plan(chosen, devices)
    except Exception as error:
        return told(error, args.debug)
    found = {"config": args.config, "topology": args.topology, "slices": args.num_slices, **found}
    print(table(found))
    if args.json:
        with replacing(output_path("--json", args.json)) as file:
            json.dump(found, file, indent=1)
    return 0 if found["fits"] else 3


def plan(chosen: Settings, devices: list, rollout: dict | None = None) -> dict:
    """Everything about one run on one topology; `rollout` is its part where another run's is the
    same."""
    mesh = experiment.make_mesh(chosen, devices)
    model = model_of(chosen)
    experiment.check(chosen, mesh, model)
    if not chosen.rounds and not chosen.sft.steps:
        raise ValueError("rounds=0 and sft.steps=0: the run computes nothing, give one of them")
    if chosen.rounds:
        calls, others, whole = round_programs.programs(chosen, model, mesh)
    else:
        calls = {"supervised_step": round_programs.supervised(chosen, model, mesh)}
        others, whole = {}, False
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(models.param_shapes(model)))
    found = {"rollout": rollout} if rollout else {}
    for name, call in calls.items():
        if name in found:
            continue
        said = f"compiling the {plain(name)}"
        progress.say(f"{said} for {len(devices)} chips")
        with progress.phase(said):
            found[name] = measure(call, mesh)
    told = notes(chosen, mesh) if chosen.rounds else []
    if chosen.rounds and chosen.sft.steps:
        told.append(
            f"note: of the {chosen.sft.steps} supervised steps nothing is told: rounds=0 plans them"
        )
    missing = max(program["missing"] for program in found.values())
    beside = {f"{name}_s": least_seconds(other, mesh) for name, other in others.items()}
    return {
        "chips": len(devices),
        "chip": devices[0].device_kind,
        "memory": chips.memory_of(devices[0]),
        "mesh": dict(mesh.shape),
        "rollout_weights": "whole" if whole else "split",
        "rollout_parts": round_programs.parts_of(chosen, mesh),
        "notes": told,
        "remat": chosen.remat,
        "slices_of_update": chosen.slices,
        "parameters": parameters,
        "fits": missing <= 0,
        "missing": max(missing, 0),
        "programs": found,
        "prediction": predict(chosen, found, beside, len(devices)),
    }


def notes(chosen: Settings, mesh) -> list[str]:
    """Lines on settings that a run on this mesh cannot take whole."""
    asked, parts, shards = (
        chosen.rollout_parts,
        round_programs.parts_of(chosen, mesh),
        sharding.row_shards(mesh),
    )
    if parts == asked or chosen.answers == "teacher":
        return []
    each = chosen.rows // shards
    return [
        f"note: rollout_parts={asked} is {parts} here: a chip has {each} of the {chosen.rows} "
        f"completions, and {asked} does not divide {each}",
    ]


def model_of(chosen: Settings) -> models.ModelConfig:
    """The model of a folder, or the preset as it is: no tokenizer is needed for a plan."""
    if chosen.init_from is not None:
        return experiment.model_of(chosen, None, None)[0]
    if chosen.model is None:
        raise ValueError("model=none without init_from: name a model, or give init_from=DIR")
    return weights.with_settings(models.preset(chosen.model), chosen)


def measure(call: round_programs.Call, mesh) -> dict:
    """What the compiler and the data sheet say of one program."""
    began = time.monotonic()
    device = mesh.devices.flat[0]
    chip = chips.CHIPS[device.device_kind]
    traced = call.function.trace(*call.arguments)
    flops = hlo.operations(traced.jaxpr.jaxpr, call.loops, call.shares)
    in_int8 = hlo.operations(traced.jaxpr.jaxpr, call.loops, call.shares, dtype="int8")
    read = call.weights / mesh.shape["tensor"]
    seconds = {
        "compute": ((flops - in_int8) / chip.flops + in_int8 / chip.int8) / mesh.size,
        "memory": call.weight_reads * read / chip.bandwidth,
    }
    unread = round_programs.unread(traced, call.arguments)
    arguments, beside = round_programs.held(call.arguments) - unread, call.beside + unread
    found = {
        "flops": flops,
        "int8_share": in_int8 / flops,
        "arguments": arguments,
        "beside": beside,
    }
    try:
        compiled = compile_for(device.platform, traced.lower())
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
            **hlo.exchanged(compiled.as_text(), call.loops, call.shares, hosts_of(mesh)),
        }
        inside = sum(one["bytes"] for one in found["collectives"] if not one["crosses"])
        across = sum(one["bytes"] for one in found["collectives"] if one["crosses"])
        seconds |= {"links": inside / chip.links, "network": across / chip.network}
    total = peak + beside
    missing = total - chips.memory_of(device)
    found |= {"peak": peak, "total": total, "missing": missing, "seconds": seconds}
    return found | {"compile_s": round(time.monotonic() - began, 1)}


def hosts_of(mesh) -> list[int] | None:
    """The host of each GPU in a program's order; None of TPUs, whose links leave hosts too."""
    flat = list(mesh.devices.flat)
    return [device.process_index for device in flat] if flat[0].platform == "gpu" else None


def least_seconds(other: round_programs.Other, mesh) -> float:
    """The fastest that the data sheet allows a program that is not compiled.

    Each forward collects the layers' weights that are split over fsdp; sums over tensor, and what
    becomes of rows that do not go round the mesh, are left out.
    """
    chip, shape = chips.CHIPS[mesh.devices.flat[0].device_kind], mesh.shape
    read = other.read / shape["tensor"]
    collected = read * (shape["fsdp"] - 1) / shape["fsdp"]
    hosts = hosts_of(mesh)  # of a group that shares weights
    group = np.reshape(hosts, mesh.devices.shape)[0, :, 0].tolist() if hosts else [0]
    exchange = collected / chip.links
    if len(set(group)) > 1:  # a ring through each of the host's network cards
        exchange = collected / group.count(group[0]) / chip.network
    return max(other.operations / chip.flops / mesh.size, read / chip.bandwidth, exchange)


def predict(chosen: Settings, found: dict, beside: dict[str, float], count: int) -> dict:
    """The fastest that the data sheet allows, everything overlapped; seconds, tokens, and hours of
    one chip."""
    guess = {f"{name}_s": max(one["seconds"].values()) for name, one in found.items()} | beside
    if chosen.rounds:
        updates_s = chosen.inner_iterations * guess["update_s"]
        run_s = guess["round_s"] = guess["rollout_s"] + sum(beside.values()) + updates_s
        run_s *= chosen.rounds
        guess["tokens_per_s"] = chosen.rows * chosen.sampler.gen_length / guess["rollout_s"]
    else:
        run_s = chosen.sft.steps * guess["supervised_step_s"]
    exchange = {
        name: sum(found[name]["seconds"].get(part, 0.0) for part in ("links", "network"))
        for name in found
    }
    work = {
        name: max(found[name]["seconds"][part] for part in ("compute", "memory")) for name in found
    }
    return guess | {
        "chip_hours": run_s * count / 3600,
        "exchange_share": {name: exchange[name] / (exchange[name] + work[name]) for name in found},
        "bound": {
            name: max(program["seconds"], key=program["seconds"].get)
            for name, program in found.items()
        },
    }


def search(chosen: Settings, devices: list) -> dict:
    """The best of several plans: the mesh is varied, then remat, then the slices of an update."""
    best = plan(chosen, devices)
    tried = [best | {"change": None}]
    kept: dict = {}  # what the best plan changes

    def attempt(change: dict) -> dict | None:
        """Its plan, which becomes the best if it is; None where it is no other or impossible."""
        nonlocal best, chosen
        try:
            candidate = settings.replace(chosen, change)
            shape = dict(experiment.make_mesh(candidate, devices).shape)
            if candidate == chosen or ("mesh.tensor" in change and shape == best["mesh"]):
                return None
            same = shape == best["mesh"]
            found = plan(candidate, devices, best["programs"].get("rollout") if same else None)
        except ValueError:
            return None  # rows that do not go round, an axis that a mesh does not divide
        tried.append(found | {"change": change})
        missing, hours = gib(found["missing"]), found["prediction"]["chip_hours"]
        progress.say(f"tried {change}: {missing} too much, {hours:.3g} chip-hours for the run")
        if rank(found) < rank(best):
            best, chosen = found, candidate
            kept.update(change)
        return found

    for tensor in (1, 2, 4, 8):
        attempt({"mesh.data": 1, "mesh.fsdp": -1, "mesh.tensor": tensor})
    for remat in [other for other in ("none", "dots", "full") if other != chosen.remat]:
        attempt({"remat": remat})
    if chosen.rounds and not chosen.slices_apart:  # else they change what is learnt
        fewest_slices(chosen, devices, lambda slices: attempt({"slices": slices}) or best)
    names = ("change", "mesh", "missing", "prediction")
    override = ",".join(f"{name}={value}" for name, value in kept.items())
    parts = [{name: one[name] for name in names} for one in tried]
    return best | {"tried": parts, "override": override}


def fewest_slices(chosen: Settings, devices: list, attempt: Callable[[int], dict]) -> None:
    """Halves the numbers of slices that are possible until the fewest that fits is found."""
    possible = []
    for count in range(1, chosen.rows // chosen.minibatches + 1):
        try:
            candidate = settings.replace(chosen, {"slices": count})
            experiment.check_settings(candidate, experiment.make_mesh(candidate, devices))
        except ValueError:
            continue
        possible.append(count)
    bisect.bisect_left(possible, True, key=lambda count: attempt(count)["fits"])


def rank(found: dict) -> tuple[float, float, int]:
    """What a better plan has less of: memory that is missing, time, slices."""
    return found["missing"], found["prediction"]["chip_hours"], found["slices_of_update"]


def gib(size: float) -> str:
    return f"{size / chips.GIB:.2f} GiB"


def plain(name: str) -> str:
    """The name of a program in words."""
    return name.replace("_", " ")


def computed(found: dict) -> list[str]:
    """Lines on what the programs compute and exchange."""
    lines = []
    for name, one in found["programs"].items():
        in_int8 = f" ({one['int8_share']:.0%} in int8)" if one["int8_share"] else ""
        lines.append(
            f"{plain(name)}: {one['flops']:.3g} operations{in_int8}, "
            f"compiled in {one['compile_s']:.0f} s"
        )
        for entry in one["collectives"]:
            where = " over the network" if entry["crosses"] else ""
            lines.append(
                f"  {entry['kind']}{where}: {entry['count']} times, "
                f"{gib(entry['bytes'])} sent by each chip"
            )
    gathers = found["programs"].get("rollout", {}).get("gathers_per_pass")
    if gathers:
        lines.append(f"each pass of the rollout collects {gib(gathers)} a chip")
    return lines


def table(found: dict) -> str:
    """The plan for people."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in found["mesh"].items())
    made = f"{found['parameters'] / 1e9:.2f} B parameters"
    if "rollout" in found["programs"]:
        made += f", rollout weights {found['rollout_weights']}"
    lines = [
        f"{found['topology']} x {found['slices']}: {found['chips']} chips ({found['chip']}), "
        f"mesh {mesh}, {made}",
        f"{'GiB a chip':22}{'arguments':>10}{'temporary':>10}{'beside':>10}{'total':>10}{'of':>8}",
    ]
    for name, one in found["programs"].items():
        sizes = "".join(
            f"{one[part] / chips.GIB:10.2f}"
            for part in ("arguments", "temporaries", "beside", "total")
        )
        lines.append(f"{plain(name):22}{sizes}{found['memory'] / chips.GIB:8.2f}")
    lines += [*computed(found), *found["notes"]]
    guess = found["prediction"]
    percent, paced = guess["exchange_share"], ""
    if "round_s" in guess:
        paced = f"round {guess['round_s']:.0f} s, {guess['tokens_per_s']:,.0f} tokens/s, "
    lines += [
        "PREDICTION from data sheets, at best "
        "(peak rates, everything overlapped, no reads of memory but of weights):",
        *(
            f"  {plain(name)}: {guess[f'{name}_s']:.1f} s, bound by {guess['bound'][name]}, "
            f"exchange {percent[name]:.0%} if not overlapped"
            for name in found["programs"]
        ),
        *(
            f"  {plain(name)}: {guess[f'{name}_s']:.1f} s"
            for name in ("score", "drift", "probe_before", "probe_after")
            if guess.get(f"{name}_s")
        ),
        f"  {paced}{guess['chip_hours']:,.0f} chip-hours for the run",
        *([f"best: {found['override'] or 'as it is'}"] if "override" in found else ()),
        "fits" if found["fits"] else f"DOES NOT FIT: {gib(found['missing'])} a chip too much",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run(main))
