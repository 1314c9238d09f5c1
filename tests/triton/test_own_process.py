"""The tests of this folder in a process of their own, when they are part of a larger run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_interpreter_suite(request: pytest.FixtureRequest) -> None:
    """`pytest tests/triton`, with the marker expression of this run."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", str(Path(__file__).parent)]
    expression = request.config.getoption("markexpr")
    if expression:
        command += ["-m", expression]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=request.config.rootpath)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
