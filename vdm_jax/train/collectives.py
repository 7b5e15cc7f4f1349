"""What the devices of a compiled program tell each other: read from XLA's text of it.

Each exchange counts as often as it runs: those within loops as often as the loop goes round.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
         "ragged-all-to-all", "collective-broadcast")  # fmt: skip
FUSED_SCATTER = "all-reduce-scatter"  # a fusion of TPUs: the sum is never whole on one device

HEADER = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
LINE = re.compile(
    r"  (ROOT )?%?(?P<name>[\w.\-]+) = (?P<shape>\(.*?\)|\S+) (?P<op>[a-z][\w\-]*)\((?P<rest>.*)$"
)
CALLED = re.compile(r"\w=\{?((?:%[\w.\-]+(?:, ?)?)+)\}?")
LAYOUT = re.compile(r"\{[^{}]*\}|/\*.*?\*/")
ARRAY = re.compile(r"(?P<type>[a-z]+)(?P<bits>\d+)?[a-z0-9]*\[(?P<sizes>[\d,]*)\]")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Exchange(NamedTuple):
    """One kind of exchange: how often a step does it, and bytes in all, of one device.

    Bytes are of what goes in, or for a gather of what comes out: the larger of the two.
    """

    count: int
    bytes: int


class _Operation(NamedTuple):
    name: str
    shape: str
    op: str
    rest: str


def collectives(text: str) -> dict[str, Exchange]:
    """The exchanges of a compiled program by kind, from its `as_text()`; the largest first."""
    computations, entry = _computations(text)
    times = _times(computations, entry)
    found: dict[str, Exchange] = defaultdict(lambda: Exchange(0, 0))
    seen = set()
    for name, operations in computations.items():
        shapes = {operation.name: operation.shape for operation in operations}
        for operation in operations:
            kind, channel = _kind(name, operation), _channel(operation)
            if kind is None or times[name] == 0 or channel in seen:
                continue
            seen |= {channel} - {None}
            count, size = found[kind]
            each = _exchanged(operation, shapes)
            found[kind] = Exchange(count + times[name], size + times[name] * each)
    return dict(sorted(found.items(), key=lambda item: -item[1].bytes))


def _computations(text: str) -> tuple[dict[str, list[_Operation]], str]:
    """The operations of each computation by its name, and the name of the one that runs."""
    computations: dict[str, list[_Operation]] = {}
    entry, name = "", ""
    for line in text.splitlines():
        if header := HEADER.match(line):
            name = header["name"]
            computations[name] = []
            entry = name if header["entry"] else entry
        elif name and (match := LINE.match(line)):
            parts = (match[part] for part in ("name", "shape", "op", "rest"))
            computations[name].append(_Operation(*parts))
    return computations, entry


def _times(computations: dict[str, list[_Operation]], entry: str) -> dict[str, int]:
    """How often each computation runs; 0: never."""
    times = dict.fromkeys(computations, 0)

    def run(name: str, count: int) -> None:
        times[name] += count
        for operation in computations[name]:
            trips = _trips(operation, computations) if operation.op == "while" else 1
            for called in _called(operation):
                if called in computations:
                    run(called, count * trips)

    run(entry, 1)
    return times


def _called(operation: _Operation) -> Iterator[str]:
    for names in CALLED.findall(operation.rest):
        yield from (name.strip("% ") for name in names.split(","))


def _trips(loop: _Operation, computations: dict[str, list[_Operation]]) -> int:
    """How often a loop goes round: what XLA says, else the bound that its condition compares
    with; 1 where neither is told."""
    if told := TRIPS.search(loop.rest):
        return int(told[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
    operations = computations.get(condition[1], []) if condition else []
    bounds = [int(o.rest.partition(")")[0]) for o in operations if _is_number(o)]
    return max(bounds, default=1)


def _is_number(operation: _Operation) -> bool:
    return operation.op == "constant" and operation.rest.partition(")")[0].isdigit()


def _kind(computation: str, operation: _Operation) -> str | None:
    """Of an exchange; asynchronous ones count where they start."""
    kind = operation.op.removesuffix("-start")
    if kind not in KINDS:
        return None
    fused = kind == "all-reduce" and computation.startswith(FUSED_SCATTER)
    return "reduce-scatter" if fused else kind


def _channel(operation: _Operation) -> str | None:
    """Its number in the program: TPUs show one exchange where it starts, goes on and ends."""
    channel = re.search(r"channel_id=(\d+)", operation.rest)
    return None if channel is None else channel[1]


def _exchanged(operation: _Operation, shapes: dict[str, str]) -> int:
    """Bytes of what comes out of a gather, and of what goes into any other exchange."""
    names = re.findall(r"%([\w.\-]+)", LAYOUT.sub("", operation.rest).partition(")")[0])
    entering = sum(_bytes(shapes.get(name, "")) for name in names)
    if not operation.op.startswith("all-gather"):
        return entering
    started = operation.op.endswith("-start")  # what comes out of a start holds what went in
    return _bytes(operation.shape) - (entering if started else 0)


def _bytes(shape: str) -> int:
    """Of an array or a tuple of arrays, as XLA writes their shapes."""
    total = 0
    for array in ARRAY.finditer(LAYOUT.sub("", shape)):
        bits = 8 if array["type"] == "pred" else int(array["bits"] or 0)
        total += math.prod(int(n) for n in array["sizes"].split(",") if n) * bits // 8
    return total
