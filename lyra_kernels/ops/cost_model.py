"""Which way to compute an S4D convolution: a cost model of a few constants, fitted by benchmarks/fit_cost_model.py.

Per sequence of length L with H channels and M modes, in multiply-adds:

====== =====================================================  ==========================
way    per sequence                                           once per call
====== =====================================================  ==========================
direct ``H L^2 / 2``                                          the kernel: ``6 H M L``
scan   ``6 H M L``
fft    ``H L log2(2 L)``, with a rate of its own              the kernel: ``6 H M L``
====== =====================================================  ==========================

A training step multiplies all of them by nearly the same factor, so that one choice serves both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


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


def choose(batch: int, length: int, modes: int, directions: int = 1, constants: Constants = CPU) -> str:
    """The algorithm with the smallest predicted cost."""
    predicted = costs(batch, length, modes, directions, constants)
    return min(predicted, key=lambda name: predicted[name])
