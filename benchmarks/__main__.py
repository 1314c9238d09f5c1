"""`make bench`: runs every benchmark and writes tables and pictures to benchmarks/results.

Arguments go to pytest: `python -m benchmarks -k "S4D and one"`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from . import machine, report

RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str]) -> int:
    """Runs pytest, trims its record to what was measured, and draws."""
    RESULTS.mkdir(exist_ok=True)
    name = torch.cuda.get_device_name().replace(" ", "_").lower() if torch.cuda.is_available() else "cpu"
    unfinished = RESULTS / f"{name}.json.tmp"
    options = ["--benchmark-only", "-q", "-p", "no:xdist", f"--benchmark-json={unfinished}"]
    code = pytest.main([str(Path(__file__).parent), *options, *arguments])
    if not unfinished.exists() or not unfinished.stat().st_size:
        return int(code) or 1
    content = json.loads(unfinished.read_text())
    content["machine"] = machine.describe()
    for private in ("machine_info", "commit_info"):  # host names and the like
        content.pop(private, None)
    for entry in content["benchmarks"]:
        entry["stats"].pop("data", None)
    unfinished.write_text(json.dumps(content, indent=1))
    file = RESULTS / f"{name}.json"
    os.replace(unfinished, file)
    report.main(file)
    print(f"written: {file.with_suffix('.md')}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
