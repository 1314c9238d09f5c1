"""How long a processor takes to execute a kernel's code: its warps replayed in order, cycle by cycle where it matters.

A processor has four schedulers; warps are shared out evenly, so one scheduler stands for all. Each cycle it issues the
instruction that can issue first. An instruction waits for its warp's stall count, for the scoreboards in its wait
mask, and for its unit. The load/store unit serves all four schedulers: what one uses of it counts four times.

Not here: bank conflicts one by one (a common factor), contention in the L2, instruction fetch, register banks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .sass import NO_SCOREBOARD, Instruction, classify

SCHEDULERS = 4
_NAMES = {
    "load": "sectors",
    "store": "sectors",
    "shared_load": "shared",
    "shared_store": "shared",
    "shuffle": "shuffle",
}


@dataclass(frozen=True)
class Costs:
    """Cycles of a processor. What :class:`.time_model.Card` fits is marked; the others are as in published
    microbenchmarks of this architecture (latencies to within a few cycles)."""

    line: float = 1.2  # fitted: of the load/store unit, a 128-byte line that a request touches
    sector_loaded: float = 0.361  # fitted: and a 32-byte sector of it
    sector_stored: float = 1.67  # fitted: likewise
    shared_pass: float = 1.13  # fitted: a pass of a shared-memory request; above 1 for bank conflicts
    latency_shared_load: float = 33
    latency_shared_store: float = 20
    latency_store: float = 40  # until its operands may be overwritten
    latency_mufu: float = 30
    latency_fp64: float = 18
    latency_shuffle: float = 25
    latency_tensor: float = 24
    latency_other: float = 20  # of what signals by a scoreboard and is nothing of these
    operands_read: float = 10  # from issue until the operands have been read
    barrier: float = 24  # from the last warp's arrival to the next instruction
    queue: float = 64  # cycles of requests that wait before the load/store unit while warps go on


@dataclass(frozen=True)
class Request:
    """What one access to global memory, by one warp, touches on average; and its latency in cycles, if a load."""

    lines: float
    sectors: float
    latency: float = 0.0


@dataclass(frozen=True)
class _Step:
    """An instruction, ready to replay."""

    unit: str
    cycles: float
    latency: float
    stall: int
    write: int
    read: int
    waits: tuple[int, ...]
    barrier: bool
    copies: bool  # starts an asynchronous copy
    commits: bool  # closes a group of them
    pending: int  # waits until at most so many groups are under way, -1: does not
    counted: str  # the name under which the unit's use is counted


def _step(i: Instruction, request: Request | None, costs: Costs, schedulers: int) -> _Step:
    use = classify(i)
    cycles = use.cycles
    latency = getattr(costs, f"latency_{use.kind}", costs.latency_other)
    if use.kind in ("load", "store"):
        assert request is not None, i.op
        sector = costs.sector_loaded if use.kind == "load" else costs.sector_stored
        cycles = max(1.0, request.lines * costs.line + request.sectors * sector) * schedulers
        if use.kind == "load":
            latency = request.latency
    elif use.kind in ("shared_load", "shared_store"):
        cycles *= costs.shared_pass * schedulers
    elif use.kind == "shuffle":
        cycles *= schedulers
    return _Step(
        use.unit,
        cycles,
        latency,
        max(1, i.stall),
        i.write,
        i.read,
        tuple(b for b in range(6) if i.wait >> b & 1),
        i.op.startswith(("BAR.SYNC", "BAR.RED")),
        i.name == "LDGSTS",
        i.name == "LDGDEPBAR",
        i.pending,
        _NAMES.get(use.kind, use.unit),
    )


class _Warp:
    """Where a warp is, and what it waits for; times in cycles."""

    __slots__ = ("at", "copied", "groups", "own", "program", "ready", "scoreboards", "since", "unit")

    def __init__(self, program: int) -> None:
        self.program = program
        self.at = 0  # the next of the steps
        self.unit = ""  # that it needs
        self.own = 0.0  # when everything but the unit lets it issue
        self.ready = 0.0  # when the stall count does
        self.scoreboards = [0.0] * 6  # when each is released
        self.since = -1.0  # when it came to the barrier that it waits at, -1: at none
        self.copied = 0.0  # when the copies of the open group have arrived
        self.groups: list[float] = []  # and those of closed groups

    def come_to(self, step: _Step) -> None:
        """Note when the next step can issue, as far as the warp itself decides."""
        t = self.ready
        if 0 <= step.pending < len(self.groups):
            t = max(t, self.groups[-1 - step.pending])
        for b in step.waits:
            if self.scoreboards[b] > t:
                t = self.scoreboards[b]
        self.own, self.unit = t, step.unit


def simulate(
    code: Sequence[Instruction],
    order: Sequence[int],
    warps: int,
    programs: int,
    costs: Costs,
    requests: dict[int, Request],
) -> tuple[float, dict[str, float]]:
    """Cycles until the last warp has finished, and for how many each unit was taken.

    Args:
        order: of the instructions that every warp executes, from :func:`.sass.trace`.
        warps: of a program.
        programs: that run on the processor side by side, all starting at once.
        requests: of each global access, by its index in ``code``.

    The second value counts cycles by unit; under ``issue`` one for each instruction, under ``sectors``, ``shared`` and
    ``shuffle`` those of the load/store unit.
    """
    schedulers = min(SCHEDULERS, warps * programs)
    mine = -(-warps * programs // SCHEDULERS)  # warps of this scheduler
    each = max(1, min(warps // SCHEDULERS, mine))  # of these, how many belong to one program
    queue = costs.queue * schedulers
    made = {n: _step(code[n], requests.get(n), costs, schedulers) for n in set(order)}
    steps = [made[n] for n in order]
    running = [_Warp(w // each) for w in range(mine)]
    for warp in running:
        warp.come_to(steps[0])
    free = dict.fromkeys({s.unit for s in steps}, 0.0)  # when each unit has done what it was given
    gate = dict(free)  # when it takes more
    used: dict[str, float] = {"issue": 0.0}
    last, end, count = -1.0, 0.0, len(steps)
    while running:
        best, when = None, float("inf")
        for warp in running:
            if warp.since < 0:
                t = warp.own
                if gate[warp.unit] > t:
                    t = gate[warp.unit]
                if t < when:
                    best, when = warp, t
        assert best is not None, "every warp waits at a barrier"
        step = steps[best.at]
        last = max(when, last + 1)
        done = _execute(best, step, last, free, used, costs)
        gate[step.unit] = free[step.unit] - (queue if step.unit == "lsu" else 0.0)
        best.at += 1
        if best.at == count:
            running.remove(best)
            end = max(end, best.ready, done)
        elif step.barrier:
            best.since = last
            _release([w for w in running if w.program == best.program], steps, costs)
        else:
            best.come_to(steps[best.at])
    return end, used


def _execute(warp: _Warp, step: _Step, t: float, free: dict[str, float], used: dict[str, float], costs: Costs) -> float:
    """Issue ``step`` at time ``t``; when its unit has done with it."""
    used["issue"] += 1
    done = t
    if step.unit:
        begin = max(t, free[step.unit])
        free[step.unit] = begin + step.cycles
        used[step.counted] = used.get(step.counted, 0.0) + step.cycles
        done = begin + (step.cycles if step.unit == "lsu" else 0)
    if step.copies:
        warp.copied = max(warp.copied, done + step.latency)
    elif step.commits:
        warp.groups.append(warp.copied)
    elif step.write < 6 and step.pending < 0:
        warp.scoreboards[step.write] = max(warp.scoreboards[step.write], done + step.latency)
    if step.read != NO_SCOREBOARD:
        warp.scoreboards[step.read] = max(warp.scoreboards[step.read], done + costs.operands_read)
    warp.ready = t + step.stall
    return done


def _release(warps: list[_Warp], steps: list[_Step], costs: Costs) -> None:
    """Let the warps of a program go on if all of them have come to the barrier."""
    if all(w.since >= 0 for w in warps):
        t = max(w.since for w in warps) + costs.barrier
        for w in warps:
            w.ready = max(w.ready, t)
            w.since = -1.0
            w.come_to(steps[w.at])
