"""Peak memory of a training step, in a process of its own: `python -m benchmarks.memory SIDE LENGTH` prints bytes.

Linux counts the most that a process ever held (VmHWM) and can start that count anew; what the process held before the
step, the input and the parameters included, is taken off.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from . import cases

SIDES = ("lyra", "eager", "attention")
LENGTHS = (1024, 4096, 16384, 65536)


def peak(side: str, length: int) -> int:
    """Bytes that a training step of an S4D layer (or attention) at batch 1 needs on top of its input."""
    command = [sys.executable, "-m", "benchmarks.memory", side, str(length)]
    root = Path(__file__).resolve().parent.parent
    result = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    return int(result.stdout.split()[-1])


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def _measure(side: str, length: int) -> int:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    small = cases.Case("S4D", 1, 64, True, (side,))
    inputs, sides = cases.SUBJECTS["S4D"](small, torch.device("cpu"))
    layer = sides[side]
    leaves = list(layer.parameters())  # type: ignore[attr-defined]

    def step(u: torch.Tensor) -> None:
        y = layer(u)
        torch.autograd.grad(y, [u, *leaves], y.detach())

    step(inputs[0])  # libraries load and pools grow
    u = torch.randn(1, length, cases.D_MODEL, requires_grad=True)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    step(u)
    return _status("VmHWM") - before


if __name__ == "__main__":
    print(_measure(sys.argv[1], int(sys.argv[2])))
