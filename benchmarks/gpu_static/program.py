"""A launch ready to be simulated: its machine code, what its accesses touch, how often its loops turn.

:func:`prepare` compiles a recorded launch for sm_90 and joins machine code and IR at source lines. What could not be
joined is assumed and said: an access whose addresses are not known touches consecutive memory, a loop of which nothing
is known turns once.
"""

from __future__ import annotations

import functools
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

from . import aot, sass, traffic, ttgir
from .launches import Aten
from .record import Launch
from .sass import Instruction

CAPABILITY = 90
LANES = 32


@dataclass(frozen=True)
class Program:
    """A launch of one kernel.

    Args:
        grid: programs on each axis; warps: of a program.
        registers: a thread; shared: bytes a program.
        moved: bytes of all tensors that it is given: what it moves if each is read or written once.
        element: bytes of a value of the largest of them.
        code: its machine code, and for each of :func:`.sass.loops` its mean number of turns.
        touched: lines and sectors of each access to global memory, by its index in ``code``.
        assumed: source lines of which something had to be assumed, and what.
    """

    kernel: str
    grid: tuple[int, ...]
    warps: int
    registers: int
    shared: int
    moved: int
    element: int
    code: tuple[Instruction, ...]
    turns: tuple[float, ...]
    touched: dict[int, tuple[float, float]]
    assumed: dict[str, str] = field(default_factory=dict)

    @property
    def programs(self) -> int:
        return math.prod(self.grid)


def prepare(launches: Sequence[Launch | Aten]) -> list[Program | Aten]:
    """The launches of one call, compiled; PyTorch's own operations as they are.

    Raises:
        whatever Triton's compiler raises.
    """
    return [x if isinstance(x, Aten) else _join(_compiled(_Key(x)), x, memory) for x, memory in _with_memory(launches)]


def _with_memory(launches: Sequence[Launch | Aten]) -> Iterator[tuple[Launch | Aten, traffic.Memory]]:
    """Each with the table of rows that was made last before it."""
    memory = traffic.nothing
    for x in launches:
        if isinstance(x, Launch) and x.kernel == "_rows":
            yield x, traffic.nothing
            memory = traffic.RowTable(*(x.integers[n] for n in ("L", "num_segments", "segment_len")))
        else:
            yield x, memory


class _Key:
    """A launch, equal to another that has the same compiled code."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch

    def __hash__(self) -> int:
        return hash(self.launch.identity())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.launch.identity() == other.launch.identity()


@dataclass(frozen=True)
class _Compiled:
    code: tuple[Instruction, ...]
    kernel: ttgir.Kernel
    registers: int
    shared: int


@functools.cache
def _compiled(key: _Key) -> _Compiled:
    made = aot.build(asdict(key.launch), f"sm_{CAPABILITY}")
    code = tuple(sass.parse(sass.disassemble(made.asm["cubin"])))
    return _Compiled(code, ttgir.parse(made.asm["ttgir"]), aot.resources(made.asm["cubin"])[0], made.metadata.shared)


def _join(made: _Compiled, launch: Launch, memory: traffic.Memory) -> Program:
    found = traffic.analyse(made.kernel, launch, memory)
    assumed = dict(found.unknown)
    turns = _turns(made.code, found, assumed)
    touched = {}
    for n, i in enumerate(made.code):
        kind = sass.classify(i).kind
        if kind in ("load", "store"):
            touched[n] = _touched(i, kind == "store", found, assumed)
    return Program(
        launch.kernel,
        tuple(launch.grid),
        launch.num_warps,
        made.registers,
        made.shared,
        sum(launch.sizes.values()),
        _element(launch),
        made.code,
        turns,
        touched,
        assumed,
    )


def _element(launch: Launch) -> int:
    largest = max(launch.sizes, key=lambda name: launch.sizes[name])
    return int(re.search(r"\d+", launch.signature[largest])[0]) // 8  # type: ignore[index]


def _touched(i: Instruction, stores: bool, found: traffic.Traffic, assumed: dict[str, str]) -> tuple[float, float]:
    """Lines and sectors of a request; consecutive memory where that is not known."""
    known = found.touched.get((i.line, stores, i.width))
    if known is not None:
        return known.lines, known.sectors
    assumed.setdefault(i.line, f"{i.op} touches consecutive memory")
    return max(1, i.width * LANES / traffic.LINE), max(1, i.width * LANES / traffic.SECTOR)


def _turns(code: Sequence[Instruction], found: traffic.Traffic, assumed: dict[str, str]) -> tuple[float, ...]:
    """Of each loop of the machine code.

    A loop is known by the source line of its branch, else by the accesses in it. One that the compiler has unrolled
    turns less often; what is left over then is a loop of its own, or done in the last turn.
    """
    loops = sass.loops(code)
    lines = [_loop_line(code, loop, found) for loop in loops]
    unrolled = [_unrolled(code, loop, line, found) for loop, line in zip(loops, lines, strict=True)]
    most: dict[str, int] = defaultdict(lambda: 1)
    for line, times in zip(lines, unrolled, strict=True):
        most[line] = max(most[line], times)
    turns = []
    for (first, last), line, times in zip(loops, lines, unrolled, strict=True):
        if line not in found.trips:
            if any(sass.classify(i).kind in ("load", "store") for i in code[first : last + 1]):
                assumed.setdefault(code[last].line, "the loop turns once")
            turns.append(1.0)
        elif times == 1 == most[line]:
            turns.append(found.trips[line])
        elif times == most[line]:
            rest = any(other < times for at, other in zip(lines, unrolled, strict=True) if at == line)
            turns.append(float((math.floor if rest else math.ceil)(found.trips[line] / times)))
        else:
            turns.append(found.trips[line] % most[line] / times)
    return tuple(turns)


def _loop_line(code: Sequence[Instruction], loop: tuple[int, int], found: traffic.Traffic) -> str:
    """The source line of the loop that a loop of the machine code was compiled from, or ""."""
    first, last = loop
    if code[last].line in found.trips:
        return code[last].line
    inside = {i.line for i in code[first : last + 1]}
    # By its accesses: the innermost of the loops that have some, that is the one which has the fewest.
    around = [(len(seen), line) for line, seen in found.bytes_a_turn.items() if inside & set(seen)]
    return min(around)[1] if around else ""


def _unrolled(code: Sequence[Instruction], loop: tuple[int, int], line: str, found: traffic.Traffic) -> int:
    """How many turns of the source's loop one turn of the machine code's is."""
    first, last = loop
    bytes_: dict[str, int] = defaultdict(int)
    for i in code[first : last + 1]:
        if sass.classify(i).kind in ("load", "store"):
            bytes_[i.line] += i.width
    ratios = [bytes_[at] / wanted for at, wanted in found.bytes_a_turn.get(line, {}).items() if bytes_[at] and wanted]
    return max(1, round(min(ratios))) if ratios else 1
