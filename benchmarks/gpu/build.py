"""The native library: taken as it is where it has CUDA, else built with the nvcc of the machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import build_cuda

from . import children

Row = dict[str, Any]
Run = Callable[..., tuple[int | None, str]]
ASK = "import json; from lyra_kernels import backends; print(json.dumps(backends.availability()['cuda']))"


def build(add: Callable[[Row], None], limit: float, architecture: str, log: Path, run: Run = children.run) -> str:
    """Adds a row that says what the cuda backend will be; returns the stage's outcome.

    Args:
        architecture: of the card, as in "9.0".
        log: file for what the compilers print.
        run: as children.run.
    """

    def told(value: str, **more: str) -> str:
        add({"stage": "build", "name": "cuda backend", "value": value, **more})
        return "finished"

    works, reason = available(run)
    if works:
        return told("the library that was there")
    nvcc = build_cuda.find_nvcc()
    if nvcc is None:
        return told("none", failed=f"{reason}; and there is no nvcc to build them with")
    environment = {
        **os.environ, "LYRA_BUILD_CPP": "1", "LYRA_BUILD_CUDA": "",
        "TORCH_CUDA_ARCH_LIST": os.environ.get("TORCH_CUDA_ARCH_LIST") or architecture,
    }  # fmt: skip
    status, output = run([sys.executable, "setup.py", "build_ext", "--inplace"], limit, env=environment)
    with open(log, "a") as file:
        file.write(output)
    if status is None:
        return told("none", failed=f"the build was not through after {limit:.0f} s")
    if status:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        return told("none", failed=f"the build ended with status {status}: {lines[-1][:200] if lines else ''}")
    works, reason = available(run)
    return told(f"built by {nvcc}") if works else told("none", failed=f"built, but: {reason}")


def available(run: Run) -> tuple[bool, str]:
    """Whether the cuda backend works in a fresh process, and why not."""
    status, output = run([sys.executable, "-c", ASK], 60.0)
    if status != 0:
        return False, (output.strip().splitlines() or ["lyra_kernels does not import"])[-1][:200]
    return tuple(json.loads(output.strip().splitlines()[-1]))
