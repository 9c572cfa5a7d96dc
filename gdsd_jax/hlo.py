"""What a compiled program sends between devices, and what it computes.

What it sends is read from its text (HLO), what it computes from its jaxpr.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
import math
import re
from typing import Any, NamedTuple

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
BYTES |= {"f32": 4, "s32": 4, "u32": 4, "s64": 8, "u64": 8}

# products of scores' size in cuDNN's attention; its gradient computes the scores again
CUDNN = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 5}
Shares = Sequence[Sequence[float]]  # of passes, that go into each branch

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
    between_slices: bool = False  # of a pod, over the data-centre network; `devices` is then empty


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


def collectives(text: str, passes: int = 1, shares: Shares = ()) -> list[Collective]:
    """The exchanges of a compiled program.

    A loop whose length is not known runs `passes` times. Of a condition's branches the one that
    sends the most is taken. Where `shares` says how often each branch is, as for `operations`, the
    exchanges of all are, each as often as its branch; a condition that the compiler has made into
    one of other branches is none of those.
    """
    bodies, entry = computations(text)
    begun: set[str] = set()  # channels whose exchange is found already

    def within(name: str, visit: Visit, shares: Shares) -> list[Collective]:
        scattered = name.startswith("all-reduce-scatter")
        found = []
        for one in bodies.get(name, ()):
            if one.operation.removesuffix("-start") in KINDS:
                # one that runs beside products is written in the first of them, in the last, and
                # between
                channel = re.search(r"channel_id=(\d+).*chain_id=", one.rest)
                if channel is None or channel[1] not in begun:
                    found.append(exchange(one, visit, scattered))
                if channel is not None:
                    begun.add(channel[1])
            elif one.operation == "send" and MEGASCALE.search(one.rest):
                found.append(transfer(one, visit))
            inner = looped(bodies, one, visit, passes) if one.operation == "while" else visit
            names, conditional = called_by(one), one.operation == "conditional"
            shared = conditional and bool(shares) and len(shares[0]) == len(names)
            visits = parted(inner, shares[0]) if shared else [inner] * len(names)
            deeper = shares[1:] if conditional else shares
            called = [within(*other, deeper) for other in zip(names, visits)]
            if conditional and not shared:
                called = [max(called, key=sent_by)]
            for exchanges in called:
                found += exchanges
        return found

    return within(entry, Visit(1, 0, False), shares)


def parted(visit: Visit, shares: Sequence[float]) -> list[Visit]:
    """How often each branch of a condition runs."""
    return [visit._replace(times=round(share * visit.times)) for share in shares]


def called_by(instruction: Instruction) -> list[str]:
    """Names of the computations that an instruction runs; of a condition in the order of a jaxpr,
    what is done where it is false before the rest."""
    branches = " ".join(BRANCHES.findall(instruction.rest))
    names = CALLED.findall(instruction.rest)
    if "true_computation=" in instruction.rest:  # which HLO writes first
        names.reverse()
    return names + re.findall(r"[\w.\-]+", branches)


def looped(bodies: dict, loop: Instruction, visit: Visit, passes: int) -> Visit:
    """How often the body of a while loop runs."""
    trips = trip_count(bodies, loop.rest)
    if not trips:
        return Visit(visit.times * passes, visit.depth + 1, True)
    return Visit(visit.times * trips, visit.depth + 1, visit.open_loop)


def exchanged(
    text: str, passes: int, shares: Shares = (), hosts: Sequence[int] | None = None
) -> dict:
    """Collectives added up by kind, and the bytes that each pass of a rollout collects, in one
    piece or around a ring.

    Args:
      text: of a compiled program.
      passes: of its loop without a known length.
      shares: of those, that go into each branch.
      hosts: the host of each device in the program's order; None: their links leave hosts too.
    """
    kinds = {}
    gathers = 0
    for one in collectives(text, passes, shares):
        across, sent = one.between_slices, one.sent
        places = [hosts[number] for number in one.devices] if hosts else []
        if len(set(places)) > 1:  # a ring through each of the host's network cards
            across, sent = True, sent // places.count(places[0])
        entry = kinds.setdefault(
            (one.kind, across), {"kind": one.kind, "crosses": across, "count": 0, "bytes": 0}
        )
        entry["count"] += one.times
        entry["bytes"] += one.times * sent
        if one.open_loop and one.kind in ("all-gather", "collective-permute"):
            gathers += one.times * one.sent // passes
    return {
        "collectives": sorted(kinds.values(), key=lambda entry: -entry["bytes"]),
        "gathers_per_pass": gathers,
    }


def sent_by(exchanges: list[Collective]) -> int:
    """Bytes that each device sends."""
    return sum(one.sent * one.times for one in exchanges)


def computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """(the instructions of each computation, name of the entry)."""
    bodies = {}
    entry = ""
    name = ""  # of the computation that the line stands in
    for line in text.splitlines():
        header = HEADER.match(line)
        if header is not None:
            name = header[2]
            bodies[name] = []
            if header[1]:
                entry = name
            continue
        instruction = INSTRUCTION.match(line)
        if name and instruction is not None:
            bodies[name].append(Instruction(*instruction.groups()))
    return bodies, entry


def trip_count(bodies: dict, rest: str) -> int | None:
    """How often a while loop runs, where the text tells.

    It tells where the condition does nothing but compare a counter with one constant.
    """
    told = TRIPS.search(rest)
    if told is not None:
        return int(told[1])
    first = re.search(r"condition=%?([\w.\-]+)", rest)[1]
    body = re.search(r"body=%?([\w.\-]+)", rest)[1]
    condition = []
    waiting = [first]
    while waiting:
        inside = bodies.get(waiting.pop(), [])
        condition += inside
        waiting += [name for one in inside for name in CALLED.findall(one.rest)]
    constants = [one for one in condition if one.operation == "constant" and is_counter(one)]
    compares = [
        one for one in condition if one.operation == "compare" and "direction=LT" in one.rest
    ]
    plain = {"and", "or", "reduce"}.isdisjoint(one.operation for one in condition)
    if not plain or len(constants) != 1 or len(compares) != 1:
        return None
    counters = [
        one for one in bodies[first] if one.operation == "get-tuple-element" and is_counter(one)
    ]
    added = 1
    if len(counters) == 1:
        added = step(bodies[body], counters[0])
    return math.ceil(int(constants[0].operands[0]) / added)


def is_counter(instruction: Instruction) -> bool:
    """Whether the result is one integer of 32 bits."""
    return instruction.result.startswith(("s32[]", "u32[]"))


def step(body: list[Instruction], counter: Instruction) -> int:
    """What a loop's body adds to its counter; 1 if that is not plain.

    A ring of exchanges is unrolled and adds two.
    """
    named = {one.name: one for one in body}
    index = int(re.search(r"index=(\d+)", counter.rest)[1])
    if body[-1].operation != "tuple":
        return 1
    added = named.get(body[-1].operands[index])
    if added is None or added.operation != "add":
        return 1
    for name in added.operands:
        if name in named and named[name].operation == "constant":
            return int(named[name].operands[0])
    return 1


def exchange(instruction: Instruction, visit: Visit, scattered: bool) -> Collective:
    """A collective; `scattered` where a fusion keeps only a device's own part of a sum."""
    _, result, operation, rest = instruction
    kind = operation.removesuffix("-start")
    if operation != kind and kind != "all-reduce":
        # a -start names (operands, results, ...), an all-reduce-start its results alone
        result = entries(result)[1]
    # several arrays may be exchanged at once
    size = sum(nbytes(*array) for array in ARRAY.findall(result))
    _, shape = largest(result)
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


def transfer(instruction: Instruction, visit: Visit) -> Collective:
    """An exchange between pod slices, over the data-centre network."""
    kind = MEGASCALE.search(instruction.rest)[1].lower().replace("_", "-")
    size, shape = largest(instruction.result)
    return Collective(kind, shape, size, (), *visit, between_slices=True)


def entries(result: str) -> list[str]:
    """The types in a tuple's type, which may be tuples."""
    found, depth, begin = [], 0, 1
    for place, letter in enumerate(result):
        depth += (letter in "([{") - (letter in ")]}")
        if depth == 0 or (depth == 1 and letter == ","):
            found.append(result[begin:place])
            begin = place + 1
    return found


def largest(result: str) -> tuple[int, str]:
    """(bytes, type) of the largest array of an instruction's result."""
    return max((nbytes(*array), "{}[{}]".format(*array)) for array in ARRAY.findall(result))


def group_of(rest: str) -> tuple[int, ...]:
    """The devices of an instruction's first group; of a permutation, its first pair."""
    iota = GROUPS.search(rest)
    if iota is not None:
        shape, source = integers(iota[1]), integers(iota[2])
        order = integers(iota[3]) if iota[3] else None
        grid = np.arange(math.prod(source)).reshape(source).transpose(order)
        return tuple(grid.reshape(shape)[0].tolist())
    named = MESH_GROUPS.search(rest)
    if named is not None:
        axes = dict(entry.strip().split("=") for entry in named[1].split(","))
        sizes = [int(size) for size in axes.values()]
        source = integers(named[2]) if named[2] else [math.prod(sizes)]
        order = integers(named[3]) if named[3] else None
        grid = np.arange(math.prod(source)).reshape(source).transpose(order).reshape(sizes)
        wanted = [axis.strip() for axis in named[4].split(",")]
        first = tuple(slice(None) if axis in wanted else 0 for axis in axes)
        return tuple(grid[first].reshape(-1).tolist())
    listed = re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", rest)
    return tuple(integers(listed[1])) if listed else ()


def integers(text: str) -> list[int]:
    """The numbers of a list with commas."""
    return [int(number) for number in text.split(",")]


def nbytes(dtype: str, dims: str) -> int:
    """Bytes of an array, from its type and sizes as HLO writes them."""
    return BYTES.get(dtype, 0) * math.prod(int(size) for size in dims.split(",") if size)


def operations(jaxpr: Any, passes: int = 1, shares: Shares = (), dtype: str | None = None) -> int:
    """Operations of all matrix products of a jaxpr, recomputation included; with `dtype`, such as
    "int8", of those alone whose factors are both of that type.

    A multiply and an add are two. `added` says how often each is taken.
    """

    def of(equation: Any) -> int:
        return products(equation) if dtype is None or is_product_of(equation, dtype) else 0

    return added(jaxpr, of, passes, shares)


def weights_read(jaxpr: Any, shapes: Collection[tuple[int, ...]], passes: int = 1) -> int:
    """Bytes of the second factors of all matrix products whose shape is one of `shapes`, each as
    often as it is read; `added` says how often that is."""

    def of(equation: Any) -> int:
        if equation.primitive.name != "dot_general":
            return 0
        factor = equation.invars[1].aval
        return factor.size * factor.dtype.itemsize if factor.shape in shapes else 0

    return added(jaxpr, of, passes)


def added(jaxpr: Any, of: Callable[[Any], int], passes: int = 1, shares: Shares = ()) -> int:
    """The sum of `of(equation)` over all equations of a jaxpr, each as often as it is computed.

    A loop without a known length runs `passes` times. Of a condition's branches the costliest is
    taken. Where `shares` says how often each branch is, it is their mean: its first entry is of
    conditions that stand in no other, the next of those in one other, and so on; a Pallas kernel's
    own are none of them. What each device of a mesh does for itself counts for all of them, and a
    Pallas kernel as often as its grid has tiles.
    """
    total = 0
    for equation in jaxpr.eqns:
        total += of(equation)
        conditional = equation.primitive.name == "cond"
        deeper = shares[1:] if conditional else shares
        if equation.primitive.name == "pallas_call":
            deeper = ()  # its conditions are the kernel's own
        inside = [added(one, of, passes, deeper) for one in subjaxprs(equation.params)]
        if inside and conditional and shares:
            assert len(shares[0]) == len(inside), "shares of other branches"
            total += round(sum(share * cost for share, cost in zip(shares[0], inside)))
        elif inside and conditional:
            total += max(inside)
        elif inside:
            total += repeats(equation, passes) * sum(inside)
    return total


def is_product_of(equation: Any, dtype: str) -> bool:
    """Whether an equation has two factors of this type."""
    return [str(getattr(one.aval, "dtype", "")) for one in equation.invars[:2]] == [dtype, dtype]


def products(equation: Any) -> int:
    """Operations of the matrix products that an equation itself is."""
    if equation.primitive.name == "dot_general":
        (left, _), _ = equation.params["dimension_numbers"]
        inner = math.prod(equation.invars[0].aval.shape[axis] for axis in left)
        return 2 * inner * math.prod(equation.outvars[0].aval.shape)
    if equation.primitive.name in CUDNN:
        query_BxQxHxd, key_BxLxKxd = (one.aval.shape for one in equation.invars[:2])
        one = 2 * math.prod(query_BxQxHxd) * key_BxLxKxd[1]
        return CUDNN[equation.primitive.name] * one
    return 0


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
    """The jaxprs among an equation's parameters."""
    for value in params.values():
        several = value if isinstance(value, tuple | list) else (value,)
        for one in several:
            inner = getattr(one, "jaxpr", one)
            if hasattr(inner, "eqns"):
                yield inner
