"""How long launches take on a card, without one: what any public call costs, in a line.

    from benchmarks.gpu_static import program, rows, time_model
    x = lambda *shape: torch.empty(*shape, device="cuda")           # inside the call: a fake card's tensors
    launches = rows.launches(lambda: lk.rms_norm(x(8, 2048, 64), x(64)), training=True)
    for e in time_model.estimate(program.prepare(launches)): print(e)

A launch's time is that of its waves, each a simulation (:mod:`.simulate`) of the programs that one processor holds, or
the time in which memory moves its bytes, whichever is longer, softly. Calibrated on one H200 (:mod:`.calibration`):
believe it of other cards, or of code unlike that it was checked on, only after checking.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from . import sass, simulate
from .launches import Aten
from .program import Program
from .simulate import Costs, Request


@dataclass(frozen=True)
class Card:
    """What is known of a card. *Fitted*: found by :mod:`.fit` on half of the measured rows; *set*: by hand before."""

    name: str = "NVIDIA H200"
    processors: int = 132
    registers: int = 65536  # of a processor
    warps: int = 64
    programs: int = 32
    shared: float = 227e3  # bytes for all programs of a processor, each of which needs 1 KB more than it asks for
    resident: float = 40e6  # bytes that are still in the L2 when the next launch reads them: less than its 60 MB, set
    gigahertz: float = 1.98  # the boost clock, set: every figure in cycles scales with it
    latency_l2: float = 300.0  # cycles of a load that hits the L2, set; the fit left it
    latency_dram: float = 800.0  # or does not, set; the fit left it
    gap: float = 0.711  # us between two launches of a CUDA graph, fitted
    cold: float = 2.11  # cycles to fetch an instruction for the first time, fitted
    stream: float = 0.335  # cycles an instruction of a loop beyond the instruction cache, each turn, fitted
    cache: int = 2048  # instructions that fit into that cache (32 KB), set
    dram: float = 3.76  # TB/s, fitted; a large copy reached 2.8 to 4.2
    l2: float = 6.0  # TB/s of what stays in the L2, set; the fit left it
    fp32_products: float = 18.0  # TFLOP/s of cuBLAS at these narrow shapes, fitted
    half_products: float = 800.0  # of a large bf16 product, measured; at narrow shapes unknown
    product: float = 2.0  # us before a matrix product of PyTorch is under way, set
    elementwise: float = 0.8  # the same of its other operations, set
    costs: Costs = field(default_factory=Costs)


H200 = Card()


@dataclass(frozen=True)
class Told:
    """What the model is told of a kernel, because nothing here derives it.

    Args:
        fresh: share of a loop's loads that wait for DRAM where the tensors do not fit the L2.
        missed: of the sectors that a load touches, those not yet in the L1, by bytes of an element: {4: 1.0}.
        why: the reason.
    """

    why: str
    fresh: float = 1.0
    missed: dict[int, float] = field(default_factory=dict)


_QUARTERS = "a turn takes 16 of 64 channels, a quarter of the lines that its first turn has brought; seen in residuals"
_NEIGHBOURS = "programs beside it on the processor take other channels of the same sectors; seen in residuals"
TOLD = {
    "_pgc": Told(_QUARTERS, fresh=0.25),
    "_gelu_glu": Told(_QUARTERS, fresh=0.25),
    "_conv": Told(_NEIGHBOURS, missed={4: 0.5, 2: 0.25}),
    "_correlate": Told(_NEIGHBOURS, missed={4: 0.5, 2: 0.25}),
}


@dataclass(frozen=True)
class Estimate:
    """What a launch is predicted to take.

    Args:
        us: in all, the gap before it included.
        bound: ``DRAM``; a unit that is busy for more than 70 % of the time; or the chain of dependent steps, with the
            busiest unit. For PyTorch's own operations ``product`` or ``memory``.
        waves: how often the card is filled; resident: programs that a processor holds at once.
        computing, moving: us that the processors and the memory need, each alone.
        busy: by unit, share of the computing time.
        assumed: what :mod:`.program` had to assume.
    """

    kernel: str
    us: float
    bound: str
    grid: tuple[int, ...] = ()
    waves: float = 0.0
    resident: int = 0
    computing: float = 0.0
    moving: float = 0.0
    busy: dict[str, float] = field(default_factory=dict)
    assumed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        busy = ", ".join(f"{u} {s:.0%}" for u, s in sorted(self.busy.items(), key=lambda x: -x[1])[:4])
        where = f"{self.grid} {self.waves:.2f} waves of {self.resident} a processor; {busy}" if self.grid else ""
        marks = "".join(f"\n      assumed: {line} {what}" for line, what in self.assumed.items())
        return f"{self.us:8.1f} us  {self.kernel:22s} {self.bound:24s} {where}{marks}"


def estimate(launches: Sequence[Program | Aten], card: Card = H200) -> list[Estimate]:
    """Of each launch, in order; views of PyTorch launch nothing and are left out."""
    return [e for x in launches if (e := _aten(x, card) if isinstance(x, Aten) else _kernel(x, card)) is not None]


def total(launches: Sequence[Program | Aten], card: Card = H200) -> tuple[float, str]:
    """Microseconds of them all, replayed as a CUDA graph, and what bounds the longest: ``_scan: sectors 71 %``."""
    found = estimate(launches, card)
    longest = max(found, key=lambda e: e.us)
    return sum(e.us for e in found), f"{longest.kernel}: {longest.bound}"


def _aten(x: Aten, card: Card) -> Estimate | None:
    if x.name in ("t", "_unsafe_view"):
        return None
    moving = x.bytes / ((card.dram if x.bytes > card.resident else card.l2) * 1e6)
    if "mm" in x.name:
        rate = card.fp32_products if x.dtype == "float32" else card.half_products
        inner, out = x.shapes[-3][-1], x.shapes[-1]
        computing = 2 * math.prod(out) * inner / (rate * 1e6)
        us = card.gap + card.product + max(moving, computing)
        return Estimate(x.kernel, us, "product", computing=computing, moving=moving)
    return Estimate(x.kernel, card.gap + card.elementwise + moving, "memory", moving=moving)


def resident(p: Program, card: Card) -> int:
    """Programs of a kernel that a processor holds at once, at least one."""
    registers = -(-p.registers // 8) * 8 * 32 * p.warps
    room = (
        card.registers // registers,
        card.warps // p.warps,
        card.programs,
        int(card.shared // (p.shared + 1024)),
    )
    return max(1, min(room))


def waves(programs: int, places: int, processors: int) -> list[tuple[float, int]]:
    """How often a processor runs so many programs side by side: (times, programs).

    Of few waves the last is simulated as full as it is; of many the card never stands still, so that they count as
    what they are of a full one.
    """
    most = places * processors
    if programs <= most:
        return [(1.0, -(-programs // processors))]
    if programs > 4 * most:
        return [(programs / most, places)]
    whole, rest = divmod(programs, most)
    return [(float(whole), places)] + ([(1.0, -(-rest // processors))] if rest else [])


def _kernel(p: Program, card: Card) -> Estimate:
    places = resident(p, card)
    far = p.moved > card.resident
    cycles, used = 0.0, dict[str, float]()
    for times, side_by_side in waves(p.programs, places, card.processors):
        one, units = _cycles(p, side_by_side, card, far)
        cycles += times * one
        for unit, busy in units.items():
            used[unit] = used.get(unit, 0.0) + times * busy
    cycles += card.cold * len(set(sass.trace(p.code, [1] * len(p.turns))))
    computing = cycles / card.gigahertz / 1e3
    moving = p.moved / ((card.dram if far else card.l2) * 1e6)
    us = card.gap + (computing**4 + moving**4) ** 0.25
    shares = {unit: busy / cycles for unit, busy in used.items()}
    top = max(shares, key=lambda unit: shares[unit])
    bound = f"{top} {shares[top]:.0%}" if shares[top] > 0.7 else f"chain ({top} {shares[top]:.0%})"
    if moving > computing:
        bound = "DRAM" if far else "L2"
    return Estimate(
        p.kernel,
        us,
        bound,
        p.grid,
        p.programs / places / card.processors,
        places,
        computing,
        moving,
        shares,
        p.assumed,
    )


_known: dict[tuple, tuple[tuple[float, dict[str, float]], Program]] = {}
"""Simulations done: cycles and use of the units; and the program, whose code must stay alive while its id is a key."""


def _cycles(p: Program, programs: int, card: Card, far: bool) -> tuple[float, dict[str, float]]:
    """Cycles in which a processor executes so many programs side by side, and for how many each unit is taken."""
    latencies = (card.latency_l2, card.latency_dram if far else card.latency_l2)
    key = (id(p.code), p.kernel, p.turns, tuple(p.touched.items()), p.warps, programs, latencies, card.costs)
    if key not in _known:
        _known[key] = _extrapolated(p, programs, card.costs, _requests(p, *latencies)), p
    cycles, used = _known[key][0]
    large = sum(
        (last - first) * turns
        for (first, last), turns in zip(sass.loops(p.code), p.turns, strict=True)
        if last - first > card.cache
    )
    return cycles + large * card.stream, used


def _requests(p: Program, near: float, far: float) -> dict[int, Request]:
    """What the accesses of a kernel touch, and their latencies: inside loops those of DRAM, where tensors are large."""
    told = TOLD.get(p.kernel, Told(""))
    loops = sass.loops(p.code)
    last = max((b for _, b in loops), default=-1)
    first = min((a for a, b in loops if b == last), default=0)
    out = {}
    for n, (lines, sectors) in p.touched.items():
        inside = first <= n <= last or not loops
        if inside and sass.classify(p.code[n]).kind == "load":
            sectors *= told.missed.get(p.element, 1.0)
        out[n] = Request(lines, sectors, near + told.fresh * (far - near) if inside else near)
    return out


def _extrapolated(p: Program, programs: int, costs: Costs, requests: dict[int, Request]) -> tuple[float, dict]:
    """Simulated with few turns of each loop, and continued on a straight line."""
    most, step = (2, 1) if len(p.code) > 3000 else (4, 2)
    loops = sass.loops(p.code)
    base = [max(1, min(math.ceil(t), most)) for t in p.turns]

    def run(turns: Sequence[int]) -> tuple[float, dict[str, float]]:
        return simulate.simulate(p.code, sass.trace(p.code, turns), p.warps, programs, costs, requests)

    start, used_at_start = run(base)
    cycles, used = start, dict(used_at_start)
    for n, ((first, last), turns) in enumerate(zip(loops, p.turns, strict=True)):
        if turns == base[n]:
            continue
        further, used_further = run([b + step if m == n else b for m, b in enumerate(base)])
        times = (turns - base[n]) / step
        for m, (a, b) in enumerate(loops):  # what is inside another loop is gone through as often as that turns
            if a <= first and last < b:
                times *= p.turns[m] / base[m]
        cycles += (further - start) * times
        for unit, busy in used_further.items():
            used[unit] = used.get(unit, 0.0) + (busy - used_at_start.get(unit, 0.0)) * times
    return cycles, used


if __name__ == "__main__":
    from .predict import main

    raise SystemExit(main())
