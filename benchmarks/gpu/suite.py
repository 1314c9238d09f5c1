"""The tests of the card's backends in parallel, those known to be slow last; a row for each test as it ends."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

from . import children
from .results import JOURNAL_VARIABLE, Journal

Row = dict[str, Any]
# The parts that have tests of these backends. tests/app, tests/cpu and tests/emulation have none, and need more.
FOLDERS = ("tests/triton", "tests/ops", "tests/layers", "tests/models")
SELECTION = "triton or cuda"


def run(journal: Journal, limit: float, log: Path, processes: int, paths: tuple[str, ...] = FOLDERS) -> str:
    """Runs pytest, which adds to the journal itself; returns the stage's outcome."""
    if importlib.util.find_spec("pytest") is None:
        return "skipped: this Python has no pytest"
    command = [sys.executable, "-m", "pytest", *paths, "-k", SELECTION, "-m", "not full", "-q", "--tb=short"]
    # The project's own options ask for plugins that a card's machine may lack.
    command += ["-o", "addopts=", "-p", "no:cacheprovider", "-p", "benchmarks.gpu.suite_plugin"]
    command += ["--continue-on-collection-errors"]
    if processes > 1 and importlib.util.find_spec("xdist"):
        # One test at a time to each process: the order holds, and the slow ones at the end spread out.
        command += ["-n", str(processes), "--dist", "load", "--maxschedchunk", "1"]
    # What a pytest around this one says of itself is not for the processes here.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment = {
        **inherited, "OMP_NUM_THREADS": "1",
        JOURNAL_VARIABLE: json.dumps({"path": str(journal.path), "stamp": journal.stamp}),
    }  # fmt: skip
    before = len(journal.rows())
    status, output = children.run(command, limit, env=environment)
    with open(log, "a") as file:
        file.write(output)
    if status is None:
        return f"stopped by its limit of {limit:.0f} s"
    if status in (0, 1) and any("test" in row for row in journal.rows()[before:]):
        return "finished"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return f"failed: pytest ended with status {status}: {lines[-1][:200] if lines else ''}"
