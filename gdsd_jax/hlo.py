"""What a compiled program sends between devices, read from its text (HLO), and what it computes,
from its jaxpr."""

from collections.abc import Iterator
import math
import re
from typing import Any, NamedTuple

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "bf16": 2,
    "f16": 2,
    "s16": 2,
    "u16": 2,
    "f32": 4,
    "s32": 4,
    "u32": 4,
    "s64": 8,
    "u64": 8,
}

HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
BRANCHES = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")
MEGASCALE = re.compile(r'_xla_megascale_transfer_type="(\w+)"')  # the runtime that joins TPU slices
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
GROUPS = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
MESH_GROUPS = re.compile(
    r"replica_groups=mesh\[([^\]]*)\]"
    r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)


class Collective(NamedTuple):
    """One kind of exchange at one place of the program."""

    kind: str
    shape: str  # of its largest array, as HLO writes it
    sent: int  # bytes that each device sends, for one execution
    devices: tuple[int, ...]  # numbers of one group's devices in the program's order
    times: int  # executions in a run of the program
    depth: int  # loops around it
    open_loop: bool  # whether one of those ends by a condition, so that `times` rests on `passes`
    between_slices: bool = False  # over the data-centre network; `devices` is then not told


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    result: str  # its type
    operation: str
    rest: str  # of the line, from the first operand on

    @property
    def operands(self) -> list[str]:
        """What stands in its brackets: names, or the value of a constant."""
        return re.findall(r"[\w.\-]+", re.sub(r"/\*.*?\*/", "", self.rest.split(")")[0]))


class Visit(NamedTuple):
    """How often a computation runs."""

    times: int
    depth: int
    open_loop: bool


def collectives(text: str, passes: int = 1) -> list[Collective]:
    """The exchanges of a compiled program; a loop whose length is not known runs `passes` times,
    and of a condition's branches the one that sends the most is taken."""
    bodies, entry = computations(text)
    begun = set()

    def within(name: str, visit: Visit) -> list[Collective]:
        found = []
        for _, result, operation, rest in bodies.get(name, ()):
            if operation.removesuffix("-start") in KINDS:
                # one that runs beside products is written in the first of them, in the last, and
                # between
                parts = re.search(r"channel_id=(\d+).*chain_id=", rest)
                if parts is None or parts[1] not in begun:
                    found.append(
                        exchange(
                            result,
                            operation,
                            rest,
                            visit,
                            scattered=name.startswith("all-reduce-scatter"),
                        )
                    )
                begun.update(parts.groups() if parts else ())
            elif operation == "send" and (asked := MEGASCALE.search(rest)):
                size, shape = largest(result)
                found.append(
                    Collective(
                        asked[1].lower().replace("_", "-"),
                        shape,
                        size,
                        (),
                        *visit,
                        between_slices=True,
                    )
                )
            inner = visit
            if operation == "while":
                trips = trip_count(bodies, rest)
                inner = Visit(
                    visit.times * (trips or passes), visit.depth + 1, visit.open_loop or not trips
                )
            names = CALLED.findall(rest) + re.findall(r"[\w.\-]+", " ".join(BRANCHES.findall(rest)))
            called = [within(other, inner) for other in names]
            found += max(called, key=sent_by) if operation == "conditional" else sum(called, [])
        return found

    return within(entry, Visit(1, 0, False))


def sent_by(exchanges: list[Collective]) -> int:
    """Bytes that each device sends."""
    return sum(one.sent * one.times for one in exchanges)


def computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """(the instructions of each computation, name of the entry)."""
    bodies, entry, name = {}, "", ""
    for line in text.splitlines():
        if header := HEADER.match(line):
            name = header[2]
            bodies[name], entry = [], name if header[1] else entry
        elif name and (instruction := INSTRUCTION.match(line)):
            bodies[name].append(Instruction(*instruction.groups()))
    return bodies, entry


def trip_count(bodies: dict, rest: str) -> int | None:
    """How often a while loop runs, where the text tells: its condition compares a counter with one
    constant."""
    if told := TRIPS.search(rest):
        return int(told[1])
    first, body = (re.search(rf"{part}=%?([\w.\-]+)", rest)[1] for part in ("condition", "body"))
    condition, waiting = [], [first]
    while waiting:
        inside = bodies.get(waiting.pop(), [])
        condition += inside
        waiting += [name for one in inside for name in CALLED.findall(one.rest)]
    limits = [
        int(one.operands[0])
        for one in condition
        if one.operation == "constant" and one.result[1:5] == "32[]"
    ]
    compares = [
        one for one in condition if one.operation == "compare" and "direction=LT" in one.rest
    ]
    plain = not {"and", "or", "reduce"} & {one.operation for one in condition}
    if not plain or len(limits) != 1 or len(compares) != 1:
        return None
    counters = [
        one
        for one in bodies[first]
        if one.operation == "get-tuple-element" and one.result[1:5] == "32[]"
    ]
    return -(-limits[0] // (step(bodies[body], counters[0]) if len(counters) == 1 else 1))


def step(body: list[Instruction], counter: Instruction) -> int:
    """What a loop's body adds to its counter, 1 if that is not plain; a ring of exchanges is
    unrolled and adds two."""
    named, index = {one.name: one for one in body}, int(re.search(r"index=(\d+)", counter.rest)[1])
    added = named.get(body[-1].operands[index]) if body[-1].operation == "tuple" else None
    found = (
        [named[name] for name in added.operands if name in named]
        if added and added.operation == "add"
        else []
    )
    return next((int(one.operands[0]) for one in found if one.operation == "constant"), 1)


def exchange(result: str, operation: str, rest: str, visit: Visit, scattered: bool) -> Collective:
    """One instruction; `scattered` where a fusion keeps a device's own part of a sum alone."""
    kind, (size, shape) = operation.removesuffix("-start"), largest(result)
    # several arrays may be exchanged at once; a -start's result names operand and result of one
    if operation == kind:
        size = sum(nbytes(*array) for array in ARRAY.findall(result))
    devices = group_of(rest)
    count = max(len(devices), 1)
    share = size * (count - 1) // count
    if scattered:
        return Collective("reduce-scatter", shape, share, devices, *visit)
    sent = {
        "all-reduce": 2 * share,
        "reduce-scatter": size * (count - 1),
        "collective-permute": size,
    }.get(kind, share)
    return Collective(kind, shape, sent, devices, *visit)


def largest(result: str) -> tuple[int, str]:
    """(bytes, type) of the largest array of an instruction's result."""
    return max((nbytes(*array), "{}[{}]".format(*array)) for array in ARRAY.findall(result))


def group_of(rest: str) -> tuple[int, ...]:
    """The devices of an instruction's first group; of a permutation, its first pair."""

    def numbers(text):
        return [int(x) for x in text.split(",")] if text else None

    if iota := GROUPS.search(rest):
        shape, source, order = map(numbers, iota.groups())
        return tuple(
            np.arange(math.prod(source)).reshape(source).transpose(order).reshape(shape)[0].tolist()
        )
    if named := MESH_GROUPS.search(rest):
        axes = dict(entry.strip().split("=") for entry in named[1].split(","))
        sizes = [int(size) for size in axes.values()]
        source, order = numbers(named[2]) or [math.prod(sizes)], numbers(named[3])
        grid = np.arange(math.prod(source)).reshape(source).transpose(order).reshape(sizes)
        wanted = [axis.strip() for axis in named[4].split(",")]
        return tuple(
            grid[tuple(slice(None) if axis in wanted else 0 for axis in axes)].reshape(-1).tolist()
        )
    listed = re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", rest)
    return tuple(numbers(listed[1])) if listed else ()


def nbytes(dtype: str, dims: str) -> int:
    return BYTES.get(dtype, 0) * math.prod(int(x) for x in dims.split(",") if x)


def operations(jaxpr: Any, passes: int = 1) -> int:
    """Floating-point operations of all matrix products of a jaxpr, recomputation included, two for
    a multiply and an add.

    A loop without a known length runs `passes` times; of a condition's branches the costliest is
    taken. What each device of a mesh does for itself counts for all of them, and a Pallas kernel as
    often as its grid has tiles.
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (left, _), _ = equation.params["dimension_numbers"]
            inner = math.prod(equation.invars[0].aval.shape[axis] for axis in left)
            total += 2 * inner * math.prod(equation.outvars[0].aval.shape)
        inside = [operations(one, passes) for one in subjaxprs(equation.params)]
        if inside:
            total += (
                max(inside)
                if equation.primitive.name == "cond"
                else repeats(equation, passes) * sum(inside)
            )
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
