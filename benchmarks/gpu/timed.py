"""The stages that time: their cases one after another in a worker, which is replaced when it is lost."""

from __future__ import annotations

import importlib
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .children import Lost, Worker

Row = dict[str, Any]
CASE_SECONDS = 90.0  # no case needs longer, except to hang


def run(
    module: str,
    kind: str,
    tiny: bool,
    limit: float,
    log: Path,
    add: Callable[[Row], None],
    case_seconds: float = CASE_SECONDS,
) -> str:
    """Goes through the cases of a module and adds their rows.

    Returns:
        "finished", or why not all were reached.
    """
    deadline = time.monotonic() + limit
    waiting = deque(importlib.import_module(module).specs(tiny))
    total, worker = len(waiting), None
    try:
        while waiting:
            left = deadline - time.monotonic()
            if left <= 0:
                return f"stopped by its limit of {limit:.0f} s with {len(waiting)} of {total} cases left"
            spec = waiting.popleft()
            case = Progress(spec)
            try:
                worker = worker or Worker(module, kind, log)
                for message in worker.ask(case.question(), min(left, case_seconds)):
                    case.hear(message, add)
            except Lost as lost:
                assert worker is not None
                worker.close()
                worker = None
                if time.monotonic() >= deadline:
                    waiting.appendleft(spec)
                    continue
                if case.lost(str(lost), add):
                    waiting.appendleft(case.spec)
        return "finished"
    finally:
        if worker is not None:
            worker.close()


class Progress:
    """What has become of a case: which of its rows are there, and which is being tried."""

    def __init__(self, spec: Row) -> None:
        self.spec = spec
        self.done: list[list[str]] = list(spec.get("skip", []))
        self.trying: Row | None = None

    def question(self) -> Row:
        return {**self.spec, "skip": self.done}

    def hear(self, message: Row, add: Callable[[Row], None]) -> None:
        """Takes in what the worker says: that it tries something, or a row."""
        if "trying" in message:
            self.trying = message["trying"]
            return
        add(message)
        if "side" in message:
            self.done.append([message["direction"], message["side"]])

    def lost(self, reason: str, add: Callable[[Row], None]) -> bool:
        """Adds the row that took the worker with it; whether the case is to be tried again without that."""
        trying = self.trying
        if trying is None:
            add({**{k: v for k, v in self.spec.items() if k not in ("skip", "only", "tiny")}, "failed": reason})
            return False
        side = [trying["direction"], trying["side"]]
        if side not in self.done:
            add({**trying, "failed": reason})
            self.done.append(side)
        self.spec = {**self.spec, "skip": self.done}
        return True
