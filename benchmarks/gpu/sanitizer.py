"""compute-sanitizer over every op: memcheck, then racecheck, as many processes at a time as there are cores.

Each op, backend and tool has a process of its own, so one that hangs loses its row only. PyTorch's caching allocator is
off: with it a kernel that writes past its tensor hits memory that is allocated, and memcheck has nothing to say.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from . import children, ops
from .sanitized import FINISHED

Row = dict[str, Any]
TOOLS = ("memcheck", "racecheck")
SECONDS = 120.0  # for one process
TOO_LONG = "not through in time"
SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (.*)")


def find() -> str | None:
    """The path of compute-sanitizer: on PATH, or in the CUDA toolkit."""
    folders = [os.path.join(os.environ[name], "bin") for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    paths = [None, *folders, "/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer"]
    return next((found for path in paths if (found := shutil.which("compute-sanitizer", path=path))), None)


def run(
    add: Callable[[Row], None],
    kind: str,
    backends: Sequence[str],
    limit: float,
    processes: int,
    names: Sequence[str] = ops.OPS,
    tools: Sequence[str] = TOOLS,
) -> str:
    """Adds a row for each tool, backend and op; returns the stage's outcome."""
    sanitizer = find()
    if sanitizer is None:
        return "skipped: compute-sanitizer is neither on PATH nor in a CUDA toolkit"
    deadline = time.monotonic() + limit
    jobs = [(tool, backend, name) for tool in tools for backend in backends for name in names]

    def one(job: tuple[str, str, str]) -> bool:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        row = check(sanitizer, *job, kind, min(left, SECONDS))
        if row.get("failed") == TOO_LONG and left < SECONDS:
            return False  # it is the stage's time that was up
        add(row)
        return True

    pool = ThreadPoolExecutor(processes)
    try:
        reached = sum(pool.map(one, jobs))
    except BaseException:
        deadline = time.monotonic()
        children.end_all()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return "finished" if reached == len(jobs) else f"stopped by its limit of {limit:.0f} s: {reached} of {len(jobs)}"


def check(sanitizer: str, tool: str, backend: str, name: str, kind: str, limit: float) -> Row:
    """The row of one op under one tool."""
    command = [sanitizer, "--tool", tool, "--target-processes", "application-only", "--error-exitcode", "86"]
    command += [sys.executable, "-m", "benchmarks.gpu.sanitized", name, backend, kind]
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    status, output = children.run(command, limit, env=environment)
    return {"stage": "sanitizer", "tool": tool, "side": backend, "subject": name, **verdict(status, output)}


def verdict(status: int | None, output: str) -> Row:
    """What a sanitizer's run says: "found", its own summary; "failed" unless the program ran and nothing was found."""
    if status is None:
        return {"failed": TOO_LONG}
    summary = SUMMARY.search(output)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if summary is None or (FINISHED not in output and status != 86):
        return {"failed": f"status {status}: {lines[-1][:200] if lines else 'nothing was printed'}"}
    found = summary[1].strip()
    if re.match(r"0 (errors|hazards)", found):
        return (
            {"found": found} if status == 0 else {"found": found, "failed": f"status {status}, though it found {found}"}
        )
    first = next((line for line in lines if line.startswith("=========") and "COMPUTE-SANITIZER" not in line), "")
    return {"found": found, "failed": f"{found}; first: {first.lstrip('= ')[:160]}"}
