"""Layers and models sharded over two processes train as in one: what sharded.py checks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .sharded import CHECKS


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The checks that failed, with what each rank said."""
    folder = tmp_path_factory.mktemp("sharded")
    command = [sys.executable, "-m", f"{__package__}.sharded", str(folder)]
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=root)
    assert run.returncode == 0, run.stderr
    return json.loads((folder / "failed.json").read_text())


@pytest.mark.parametrize("check", CHECKS)
def test_sharded(failed, check):
    assert check not in failed, failed[check]
