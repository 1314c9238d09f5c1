"""The stages that time: their cases one after another in a worker, which is replaced when it is lost."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .cases import DIRECTIONS
from .children import Lost, Worker

Row = dict[str, Any]
CASE_SECONDS = 90.0  # no case needs longer, except to hang
PRIVATE = ("module", "skip", "only", "tiny")  # what a spec holds beyond the identity of its rows


def state(spec: Row, rows: list[Row], commit: str) -> int:
    """How far a case is in results: 0 not through, 1 through at other commits only, 2 at this commit.

    A case is through when its last direction has a row, or something of it has failed.
    """
    only = spec.get("only")
    identity = {name: value for name, value in spec.items() if name not in PRIVATE}
    found = 0
    for row in rows:
        side = row.get("side", "")
        mine = side in only if only else "compile" not in side
        through = row.get("direction") == DIRECTIONS[-1] or "failed" in row
        if mine and through and all(row.get(name) == value for name, value in identity.items()):
            found = max(found, 2 if row.get("commit") == commit else 1)
    return found


class Timer:
    """Has the cases of modules measured by one worker after another.

    Args:
        kind: of the device: "cuda" or "cpu".
        log: file for what the workers print.
        add: takes the rows.
        case_seconds: after which a case is given up.
    """

    def __init__(self, kind: str, log: Path, add: Callable[[Row], None], case_seconds: float = CASE_SECONDS) -> None:
        self.kind, self.log, self.add, self.case_seconds = kind, log, add, case_seconds
        self.worker: Worker | None = None
        self.stopped = False  # by another thread: no further case is begun

    def close(self) -> None:
        """Ends the worker; the next case gets a new one."""
        if self.worker is not None:
            self.worker.close()
            self.worker = None

    def cases(self, specs: list[Row], limit: float) -> str:
        """Goes through specs, each with its "module", within `limit` seconds.

        Returns:
            "finished", or how many were not reached.
        """
        deadline = time.monotonic() + limit
        waiting = deque(specs)
        total = len(waiting)
        while waiting:
            if self.stopped or time.monotonic() >= deadline:
                return f"stopped by its limit of {limit:.0f} s with {len(waiting)} of {total} cases left"
            case = Progress(waiting[0])
            while not self._through(case, deadline) and not self.stopped and time.monotonic() < deadline:
                pass
            if case.through:
                waiting.popleft()
        return "finished"

    def _through(self, case: Progress, deadline: float) -> bool:
        """One attempt at a case; whether nothing is left of it to try."""
        try:
            if self.worker is None:
                self.worker = Worker(self.kind, self.log)
                self.worker.wait(deadline - time.monotonic())
            for message in self.worker.ask(case.question(), min(deadline - time.monotonic(), self.case_seconds)):
                case.hear(message, self.add)
            case.through = True
        except Lost as lost:
            self.close()
            if time.monotonic() < deadline:  # else it is the stage's time that is up, not the case's fault
                case.lost(str(lost), self.add)
        return case.through


class Progress:
    """What has become of a case: which of its rows are there, which is being tried, whether it is through."""

    def __init__(self, spec: Row) -> None:
        self.spec = spec
        self.done: list[list[str]] = []
        self.trying: Row | None = None
        self.through = False
        self._before = 0

    def question(self) -> Row:
        """What the worker is asked: the case without the rows that are there."""
        self._before = len(self.done)
        return {**self.spec, "skip": self.done}

    def hear(self, message: Row, add: Callable[[Row], None]) -> None:
        """Takes in what the worker says: that it tries something, or a row."""
        if "trying" in message:
            self.trying = message["trying"]
            return
        add(message)
        self.trying = None
        if "side" in message:
            self.done.append([message["direction"], message["side"]])

    def lost(self, reason: str, add: Callable[[Row], None]) -> None:
        """Adds the row that took the worker with it: of the side that was tried, else of the whole case."""
        if self.trying is None and len(self.done) > self._before:
            return  # its row is there, with the reason in its own words
        row = self.trying or {name: value for name, value in self.spec.items() if name not in PRIVATE}
        add({**row, "failed": reason})
        if self.trying is None:
            self.through = True
        else:
            self.done.append([row["direction"], row["side"]])
            self.trying = None
