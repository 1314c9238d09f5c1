"""What a launch's accesses to global memory touch, and how often its loops turn, from Triton's GPU IR.

A request (one warp, one instruction) costs by the 128-byte lines and 32-byte sectors that its active lanes touch. Both
follow from the addresses, which :mod:`.addresses` works out for some programs of the grid, and from which lane holds
what, by :mod:`.layouts`. Machine code and IR meet at the source line.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from lyra_kernels.backends.triton._row_table import COLUMNS

from .addresses import Memory, Moment
from .layouts import LANES, UnknownLayout, coordinates
from .record import Launch
from .ttgir import Access, Kernel, Unknown, accesses

LINE, SECTOR = 128, 32
_SAMPLES = 8  # in pairs of consecutive turns of loops: what is done every other turn weighs as it should
_GOLDEN = 0.6180339887


@dataclass(frozen=True)
class Touched:
    """Means over the sampled requests of one access: 128-byte lines, 32-byte sectors."""

    lines: float
    sectors: float


@dataclass
class Traffic:
    """Of one launch.

    Args:
        touched: by source line, whether it stores, and bytes a lane: what a request touches.
        trips: by source line of a loop: mean number of turns, each time that it is reached.
        bytes_a_turn: by source line of a loop, bytes that a thread loads and stores in one turn of it, by the source
            line of the access.
        unknown: source lines of accesses whose addresses are not known, and why.
    """

    touched: dict[tuple[str, bool, int], Touched] = field(default_factory=dict)
    trips: dict[str, float] = field(default_factory=dict)
    bytes_a_turn: dict[str, dict[str, int]] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RowTable:
    """The table that ``_rows`` makes of a dense batch; its columns: ``_row_table.column_ptrs``.

    Args:
        length: of a sequence; segments: rows of a sequence; segment: tokens of a row.
    """

    length: int
    segments: int
    segment: int

    def __call__(self, name: str, at: np.ndarray) -> np.ndarray:
        """A :data:`.addresses.Memory`: the table's values at flat indices."""
        if name != "table_ptr":
            raise Unknown(f"integers of {name}")
        row, column = at // COLUMNS, at % COLUMNS
        sequence, g = row // self.segments, row % self.segments
        taken = np.clip(self.length - g * self.segment, 0, self.segment)
        return np.choose(column, [sequence * self.length + g * self.segment, taken])


def nothing(name: str, at: np.ndarray) -> np.ndarray:
    """The memory of a launch that reads no table."""
    raise Unknown(f"integers of {name}")


def _moments(kernel: Kernel, launch: Launch, memory: Memory) -> list[Moment]:
    """Programs and turns of loops spread over the grid, the same ones every time."""
    grid = (*launch.grid, 1, 1)[:3]
    constants = {n: v for n, v in launch.constants.items() if isinstance(v, int)}
    out = []
    for n in range(_SAMPLES):
        pair, second = divmod(n, 2)
        share = [(0.37 + _GOLDEN * (pair + 3 * axis)) % 1 for axis in range(5)]
        program = (int(share[0] * grid[0]), int(share[1] * grid[1]), int(share[2] * grid[2]))

        def turn(depth: int, trips: int, share: list[float] = share, second: int = second) -> int:
            return max(0, min(int(share[3 + depth % 2] * trips), trips - 2)) + second if trips > 1 else 0

        out.append(Moment(kernel, {**constants, **launch.integers}, program, grid, memory, turn))
    return out


def analyse(kernel: Kernel, launch: Launch, memory: Memory = nothing) -> Traffic:
    """What the accesses of a launch touch.

    Args:
        kernel: its IR; launch: as recorded, with its integers; memory: what it loads for addresses.
    """
    traffic = Traffic()
    moments = _moments(kernel, launch, memory)
    turns: dict[str, list[float]] = defaultdict(list)
    for op in kernel.ops:
        if op.name == "scf.for":
            line = kernel.line(op)
            try:
                turns[line] += [m.trips(op) for m in moments if m.reached(op)]
            except Unknown as why:
                traffic.unknown[line] = f"turns of the loop: {why}"
    traffic.trips = {line: float(np.mean(t)) for line, t in turns.items() if t}
    groups: dict[tuple[str, bool, int], list[Touched]] = defaultdict(list)
    for access in accesses(kernel):
        line = kernel.line(access.op)
        try:
            where = _places(kernel, access)
            for each, widths in _vectors(access.type.pointee).items():
                sampled = [_touched(access, m, where, each) for m in moments]
                for width in widths:
                    groups[line, access.stores, width] += sampled
            for loop in access.op.inside:
                if loop.name == "scf.for":
                    seen = traffic.bytes_a_turn.setdefault(kernel.line(loop), defaultdict(int))
                    seen[line] += len(where) * access.type.pointee
        except (Unknown, UnknownLayout) as why:
            traffic.unknown[line] = str(why)
    for key, found in groups.items():
        traffic.touched[key] = Touched(
            float(np.mean([t.lines for t in found])), float(np.mean([t.sectors for t in found]))
        )
    return traffic


def _places(kernel: Kernel, access: Access) -> np.ndarray:
    """Flat index of the element in each register of each lane: ``(registers, warps, lanes)``."""
    shape = access.type.shape
    if not shape:
        return np.zeros((1, 1, LANES), np.int64)
    where = coordinates(kernel.layout(access.type.layout), shape)
    return np.asarray(np.ravel_multi_index(tuple(np.moveaxis(where, -1, 0)), shape))


def _vectors(element: int) -> dict[int, list[int]]:
    """Bytes a lane of a request, by the elements that it takes; the compiler may leave out an element's upper half."""
    out: dict[int, list[int]] = defaultdict(list)
    for width in (1, 2, 4, 8, 16):
        out[max(width // element, 1)].append(width)
    return out


def _touched(access: Access, moment: Moment, where: np.ndarray, each: int) -> Touched:
    """Means over the requests that the warps of a program make for one access, of ``each`` elements a lane."""
    if not moment.reached(access.op):
        return Touched(0.0, 0.0)
    shape = access.type.shape
    address = np.broadcast_to(moment.value(access.pointer), shape).reshape(-1)[where]
    active = np.ones_like(address, bool)
    if access.mask is not None:
        active = np.broadcast_to(moment.value(access.mask) != 0, shape).reshape(-1)[where]
    each = min(each, len(where))
    address, active = address[: len(where) // each * each : each], active[: len(where) // each * each : each]
    return Touched(*(_distinct(address // size, active) for size in (LINE, SECTOR)))


def _distinct(numbers: np.ndarray, active: np.ndarray) -> float:
    """How many different numbers the active lanes of a request have, on average over requests."""
    rows = np.where(active, numbers, -1).reshape(-1, LANES)
    rows.sort(axis=1)
    first = np.concatenate([rows[:, :1] >= 0, (np.diff(rows, axis=1) != 0) & (rows[:, 1:] >= 0)], axis=1)
    return float(first.sum(axis=1).mean())
