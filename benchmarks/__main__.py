"""`make bench`: runs every benchmark and writes tables and pictures to benchmarks/results.

Arguments go to pytest: `python -m benchmarks -k "S4D and one"` measures those anew and keeps the other results of the
same machine.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from . import machine, report, vectors
from .gpu.results import slug

RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str]) -> int:
    """Runs pytest, trims its record to what was measured, and draws."""
    RESULTS.mkdir(exist_ok=True)
    # Without the prefix it would be the file of `make gpu`.
    name = f"bench_{slug(torch.cuda.get_device_name())}" if torch.cuda.is_available() else "cpu"
    unfinished = RESULTS / f"{name}.json.tmp"
    options = ["--benchmark-only", "-q", "-p", "no:xdist", f"--benchmark-json={unfinished}"]
    code = pytest.main([str(Path(__file__).parent), *options, *arguments])
    if not unfinished.exists() or not unfinished.stat().st_size:
        return int(code) or 1
    content = json.loads(unfinished.read_text())
    content["machine"] = machine.describe()
    content["peak"] = vectors.peak() if name == "cpu" else None
    for private in ("machine_info", "commit_info"):  # host names and the like
        content.pop(private, None)
    for entry in content["benchmarks"]:
        entry["stats"].pop("data", None)
    file = RESULTS / f"{name}.json"
    if arguments and file.exists():
        content["benchmarks"] = merge(json.loads(file.read_text()), content)
    unfinished.write_text(json.dumps(content, indent=1))
    os.replace(unfinished, file)
    report.main(file)
    print(f"written: {file.with_suffix('.md')}")
    return int(code)


def merge(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, Any]]:
    """The new results, and the old ones of the same machine that were not measured again."""
    if old["machine"] != new["machine"]:
        return new["benchmarks"]
    found = {entry["fullname"]: entry for entry in [*old["benchmarks"], *new["benchmarks"]]}
    return list(found.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
