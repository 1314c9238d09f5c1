"""Compiles what the timed stages will run, in as many processes as there are cores.

Triton and torch.compile keep what they have compiled on the disk. One process that times would compile on one core,
for minutes, while the others wait.
"""

from __future__ import annotations

import contextlib
import importlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import children
from .cards import Card
from .cases import Answers, Context, Pace, Row, Say
from .timed import Timer

MODULES = ("benchmarks.gpu.layers", "benchmarks.gpu.ops")
NOT_COMPILED = ("eager", "attention", "transformer", "reference")


def specs(tiny: bool) -> list[Row]:
    """The cases of all modules, those for torch.compile first: they take longest."""
    found = [
        {"module": "benchmarks.gpu.warm", "stage": "warm-up", "of": name, "case": case}
        for name in MODULES
        for case in importlib.import_module(name).specs(tiny)
    ]
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


def warm_up(kind: str, tiny: bool, limit: float, log: Path, processes: int) -> str:
    """Goes through the cases; returns the stage's outcome."""
    waiting = specs(tiny)
    timers = [Timer(kind, log, ignore) for _ in range(min(processes, len(waiting)))]
    pool = ThreadPoolExecutor(len(timers))
    try:
        parts = [waiting[start :: len(timers)] for start in range(len(timers))]
        outcomes = list(pool.map(lambda timer, part: timer.cases(part, limit), timers, parts))
    except BaseException:
        for timer in timers:
            timer.stopped = True
        children.end_all()
        raise
    finally:
        pool.shutdown()
        for timer in timers:
            timer.close()
    return next((outcome for outcome in outcomes if outcome != "finished"), "finished")


def ignore(row: dict[str, Any]) -> None:
    """What goes wrong here is told by the stage that times it."""
