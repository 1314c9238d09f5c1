"""Child processes: each in a group of its own, heard line by line, gone when they are no longer wanted."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
Row = dict[str, Any]


class Lost(Exception):
    """The child ended or hung; the message says how."""


_alive: set[subprocess.Popen] = set()


def end(process: subprocess.Popen) -> None:
    """Ends a child and all that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def started(command: list[str], **options: Any) -> Iterator[subprocess.Popen]:
    """A child in a group of its own, which is ended when the block is left, however it is left."""
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **options)
    _alive.add(process)
    try:
        yield process
    finally:
        _alive.discard(process)
        end(process)


def end_all() -> None:
    """Ends every child there is: those of other threads too, which then go on."""
    for process in list(_alive):
        end(process)


def run(command: list[str], limit: float, **options: Any) -> tuple[int | None, str]:
    """The exit status of a command, None where it was ended after `limit` seconds, and what it printed."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    with started(command, text=True, errors="replace", **streams, **options) as process:
        try:
            output, _ = process.communicate(timeout=max(0.1, limit))
            return process.returncode, output
        except subprocess.TimeoutExpired:
            end(process)
            return None, process.communicate()[0]


class Worker:
    """A process of worker.py.

    Args:
        kind: of the device: "cuda" or "cpu".
        log: file for what it prints, which ends with the reason if it dies.
    """

    def __init__(self, kind: str, log: Path) -> None:
        self.log = log
        self.offset = log.stat().st_size if log.exists() else 0
        self._stack = contextlib.ExitStack()
        stream = self._stack.enter_context(open(log, "a"))
        command = [sys.executable, "-m", "benchmarks.gpu.worker", kind]
        self.process = self._stack.enter_context(
            started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream, text=True)
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def wait(self, limit: float) -> None:
        """Until it takes cases: torch is imported, the device is there.

        Raises:
            Lost: it ended, or was not ready after `limit` seconds.
        """
        self._hear(time.monotonic() + limit, f"not ready after {limit:.0f} s")

    def ask(self, spec: Row, limit: float) -> Iterator[Row]:
        """What the worker says of a case, until it is through with it.

        Raises:
            Lost: it ended, or was not through after `limit` seconds; it is of no more use.
        """
        assert self.process.stdin is not None
        deadline = time.monotonic() + limit
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(spec) + "\n")
            self.process.stdin.flush()
        while "end" not in (message := self._hear(deadline, f"not through after {limit:.0f} s")):
            yield message

    def _hear(self, deadline: float, late: str) -> Row:
        try:
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise Lost(late) from None
        if line is None:
            raise Lost(self._how())
        return json.loads(line)

    def _how(self) -> str:
        status = self.process.wait()
        name = f"signal {-status} ({signal.Signals(-status).name})" if status < 0 else f"status {status}"
        with open(self.log, errors="replace") as file:
            file.seek(self.offset)
            lines = [line.strip() for line in file if line.strip()]
        return f"the process ended with {name}" + (f": {lines[-1][:160]}" if lines else "")

    def close(self) -> None:
        """Ends the process."""
        self._stack.close()
