"""Which way to compute an S4D convolution: a cost model for the CPU, a rule for GPUs.

On the CPU a few constants, fitted by benchmarks/fit_cost_model.py. Per sequence of length L with H channels and M
modes, in multiply-adds:

====== =====================================================  ==========================
way    per sequence                                           once per call
====== =====================================================  ==========================
direct ``H L^2 / 2``                                          the kernel: ``6 H M L``
scan   ``6 H M L``
fft    ``H L log2(2 L)``, with a rate of its own              the kernel: ``6 H M L``
====== =====================================================  ==========================

A training step multiplies all of them by nearly the same factor, so that one choice serves both.

On GPUs a rule that an H200 gave: the scan. At the shapes that were measured, 64 x 128 to 1 x 131,072 tokens, forward
and training, fp32 and bf16, it was as fast as the fastest of the others, or up to five times faster (but CUDA C++ in
bf16 at 8 x 2048: forward 63 us, the FFT 55). Where it does not take as many modes, the direct convolution up to
128 tokens (30 us against 54 to 68 at 64 x 128 x 64), else the FFT.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from ..backends import Limits


@dataclass(frozen=True)
class Constants:
    """Nanoseconds per unit of the table above, one thread, float32; only their ratios matter."""

    direct: float
    scan: float
    fft: float
    kernel: float


CPU = Constants(direct=0.0186, scan=0.0384, fft=1.25, kernel=0.11)


def units(batch: int, length: int, modes: int, directions: int = 1) -> dict[str, float]:
    """Multiply-adds per channel of each part, as in the table above."""
    return {
        "direct": batch * length * (length + 1) / 2 * directions,
        "scan": batch * length * 6 * modes * directions,
        "fft": batch * length * math.log2(2 * max(length, 1)),
        "kernel": 6 * modes * length * directions,
    }


def costs(batch: int, length: int, modes: int, directions: int = 1, constants: Constants = CPU) -> dict[str, float]:
    """Predicted nanoseconds per channel of each algorithm."""
    work = units(batch, length, modes, directions)
    kernel = constants.kernel * work["kernel"]
    return {
        "direct": constants.direct * work["direct"] + kernel,
        "scan": constants.scan * work["scan"],
        "fft": constants.fft * work["fft"] + kernel,
    }


@functools.lru_cache(maxsize=1024)
def choose(batch: int, length: int, modes: int, directions: int = 1, constants: Constants = CPU) -> str:
    """The algorithm with the smallest predicted cost."""
    predicted = costs(batch, length, modes, directions, constants)
    return min(predicted, key=lambda name: predicted[name])


def choose_on_gpu(length: int, modes: int, limits: Limits) -> str:
    """The algorithm on a GPU whose backend has these limits."""
    if modes <= limits.scan_modes:
        return "scan"
    return "direct" if length <= limits.direct else "fft"
