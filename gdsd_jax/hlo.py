"""What a compiled program sends between devices, read from its text (HLO), and what it computes, from its jaxpr."""
from collections.abc import Iterator
import math
import re
from typing import Any, NamedTuple

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "s64": 8, "u64": 8}

HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
GROUPS = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}")


class Collective(NamedTuple):
    """One kind of exchange at one place of the program."""

    kind: str
    shape: str  # of its largest array, as HLO writes it
    sent: int  # bytes that each device sends, for one execution
    devices: tuple[int, ...]  # numbers of one group's devices in the program's order
    times: int  # executions in a run of the program
    depth: int  # loops around it
    open_loop: bool  # whether one of those ends by a condition, so that `times` rests on `passes`


class Visit(NamedTuple):
    """How often a computation runs."""

    times: int
    depth: int
    open_loop: bool


def collectives(text: str, passes: int = 1) -> list[Collective]:
    """The exchanges of a compiled program; a loop whose length is not known runs `passes` times."""
    bodies, entry = computations(text)
    found, waiting, begun = [], [(entry, Visit(1, 0, False))], set()
    while waiting:
        name, visit = waiting.pop()
        for result, operation, rest in bodies[name]:
            if operation.removesuffix("-start") in KINDS:
                # one that runs beside products is written in the first of them, in the last, and between
                parts = re.search(r"channel_id=(\d+).*chain_id=", rest)
                if parts is None or parts[1] not in begun:
                    found.append(exchange(result, operation, rest, visit, scattered=name.startswith("all-reduce-scatter")))
                begun |= {parts[1]} if parts else set()
            inner = visit
            if operation == "while":
                trips = trip_count(bodies, rest)
                inner = Visit(visit.times * (trips or passes), visit.depth + 1, visit.open_loop or not trips)
            called = CALLED.findall(rest)
            for names in BRANCHES.findall(rest):
                called += re.findall(r"[\w.\-]+", names)
            waiting += [(other, inner) for other in called if other in bodies]
    return found


def computations(text: str) -> tuple[dict[str, list[tuple[str, str, str]]], str]:
    """({computation: its (result type, operation, rest of the line)}, name of the entry)."""
    bodies, entry, name = {}, "", ""
    for line in text.splitlines():
        if header := HEADER.match(line):
            name = header[2]
            bodies[name], entry = [], name if header[1] else entry
        elif name and (instruction := INSTRUCTION.match(line)):
            bodies[name].append(instruction.groups())
    return bodies, entry


def trip_count(bodies: dict, rest: str) -> int | None:
    """How often a while loop runs, where the text tells: its condition compares a counter with one constant."""
    if told := TRIPS.search(rest):
        return int(told[1])
    condition, waiting = [], CALLED.findall(rest[rest.index("condition=") :].split(",")[0])
    while waiting:
        inside = bodies.get(waiting.pop(), [])
        condition += inside
        waiting += [name for _, _, more in inside for name in CALLED.findall(more)]
    limits = [more.split(")")[0] for result, operation, more in condition if operation == "constant" and result[:5] == "s32[]"]
    compares = [more for _, operation, more in condition if operation == "compare" and "direction=LT" in more]
    plain = not {"and", "or", "reduce"} & {operation for _, operation, _ in condition}
    return int(limits[0]) if plain and len(limits) == len(compares) == 1 else None


def exchange(result: str, operation: str, rest: str, visit: Visit, scattered: bool) -> Collective:
    """One instruction; `scattered` where a fusion keeps a device's own part of a sum alone."""
    kind = operation.removesuffix("-start")
    arrays = {array: nbytes(*array) for array in ARRAY.findall(result)}
    largest = max(arrays, key=arrays.get)
    # several arrays may be exchanged at once; but the result of a -start names operand and result of one
    size = sum(nbytes(*array) for array in ARRAY.findall(result)) if operation == kind else arrays[largest]
    devices = group_of(rest)
    count = max(len(devices), 1)
    share = size * (count - 1) // count
    if scattered:
        return Collective("reduce-scatter", "{}[{}]".format(*largest), share, devices, *visit)
    sent = {"all-reduce": 2 * share, "reduce-scatter": size * (count - 1), "collective-permute": size}.get(kind, share)
    return Collective(kind, "{}[{}]".format(*largest), sent, devices, *visit)


def group_of(rest: str) -> tuple[int, ...]:
    """The devices of an instruction's first group; of a permutation, its first pair."""
    numbers = lambda text: [int(x) for x in text.split(",")] if text else None  # noqa: E731
    if iota := GROUPS.search(rest):
        shape, source, order = map(numbers, iota.groups())
        return tuple(np.arange(math.prod(source)).reshape(source).transpose(order).reshape(shape)[0].tolist())
    if named := MESH_GROUPS.search(rest):
        axes = dict(entry.strip().split("=") for entry in named[1].split(","))
        sizes = [int(size) for size in axes.values()]
        source, order = numbers(named[2]) or [math.prod(sizes)], numbers(named[3])
        grid = np.arange(math.prod(source)).reshape(source).transpose(order).reshape(sizes)
        wanted = [axis.strip() for axis in named[4].split(",")]
        return tuple(grid[tuple(slice(None) if axis in wanted else 0 for axis in axes)].reshape(-1).tolist())
    listed = re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", rest)
    return tuple(numbers(listed[1])) if listed else ()


def nbytes(dtype: str, dims: str) -> int:
    return BYTES.get(dtype, 0) * math.prod(int(x) for x in dims.split(",") if x)


def operations(jaxpr: Any, passes: int = 1) -> int:
    """Floating-point operations of all matrix products of a jaxpr, recomputation included, two for a multiply and an add.

    A loop without a known length runs `passes` times; of a condition's branches the costliest is taken. What each device
    of a mesh does for itself counts for all of them, and a Pallas kernel as often as its grid has tiles.
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (left, _), _ = equation.params["dimension_numbers"]
            inner = math.prod(equation.invars[0].aval.shape[axis] for axis in left)
            total += 2 * inner * math.prod(equation.outvars[0].aval.shape)
        inside = [operations(one, passes) for one in subjaxprs(equation.params)]
        if inside:
            total += max(inside) if equation.primitive.name == "cond" else repeats(equation, passes) * sum(inside)
    return total


def repeats(equation: Any, passes: int) -> int:
    """How often what an equation holds is computed."""
    match equation.primitive.name:
        case "while":
            return passes
        case "shard_map":
            return equation.params["mesh"].size
        case "pallas_call":
            return math.prod(equation.params["grid_mapping"].grid)
    return equation.params.get("length", 1)


def subjaxprs(params: dict) -> Iterator[Any]:
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            one = getattr(one, "jaxpr", one)
            if hasattr(one, "eqns"):
                yield one
