"""Compiles what the timed stages will run, in as many processes as there are cores.

Triton and torch.compile keep what they have compiled on the disk. One process that times would compile on one core,
for minutes, while the others wait.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import children
from .cards import Card
from .cases import Answers, Context, Pace, Row, Say
from .results import FINISHED
from .timed import Timer

MODULES = ("benchmarks.gpu.layers", "benchmarks.gpu.ops")
NOT_COMPILED = ("eager", "attention", "transformer", "reference")


def timed_specs(tiny: bool) -> list[Row]:
    """The cases of all modules, each with its "module"."""
    return [{"module": name, **case} for name in MODULES for case in importlib.import_module(name).specs(tiny)]


def specs(timed: list[Row]) -> list[Row]:
    """How cases are asked of a worker for warming up: those for torch.compile first, since each takes longest."""
    found = [
        {"module": "benchmarks.gpu.warm", "stage": "warm-up", "of": case["module"],
         "case": {name: value for name, value in case.items() if name != "module"}}
        for case in timed
    ]  # fmt: skip
    return sorted(found, key=lambda spec: "only" not in spec["case"])


def run(spec: Row, card: Card, pace: Pace, say: Say) -> None:
    """Each side of a case that compiles something, once in each direction; what fails will be told when it is timed."""
    case = importlib.import_module(spec["of"]).build(spec["case"], card)
    answers = Answers(case, card)
    for name, make in case.sides.items():
        if name in NOT_COMPILED:
            continue
        for direction in case.directions:
            with contextlib.suppress(Exception):
                context = Context(side := make(), case.autocast, card)
                step, _ = answers.step(side, direction, context)
                with context:
                    step()
                card.synchronize()


def warm_up(kind: str, specs: list[Row], limit: float, log: Path, processes: int) -> str:
    """Goes through the cases, each taken by whoever is free; returns the stage's outcome."""
    deadline = time.monotonic() + limit
    waiting = deque(specs)
    timers = [Timer(kind, log, ignore) for _ in range(min(processes, len(waiting)))]

    def work(timer: Timer) -> int:
        """How many cases were begun and not got through."""
        left = 0
        while not timer.stopped and time.monotonic() < deadline:
            try:
                spec = waiting.popleft()
            except IndexError:
                break
            left += timer.cases([spec], deadline - time.monotonic()) != FINISHED
        return left

    pool = ThreadPoolExecutor(len(timers))
    try:
        left = sum(pool.map(work, timers)) + len(waiting)
    except BaseException:
        for timer in timers:
            timer.stopped = True
        children.end_all()
        raise
    finally:
        pool.shutdown()
        for timer in timers:
            timer.close()
    return f"stopped by its limit of {limit:.0f} s with {left} of {len(specs)} cases left" if left else FINISHED


def ignore(row: dict[str, Any]) -> None:
    """What goes wrong here is told by the stage that times it."""
