"""Which way to compute a convolution, S4D's or with any kernel: a cost model for the CPU, a rule for GPUs.

On the CPU a few constants, fitted by benchmarks/fit_cost_model.py. Per sequence of length L with H channels and M
modes, in multiply-adds:

====== =====================================================  ==========================
way    per sequence                                           once per call
====== =====================================================  ==========================
direct ``H L^2 / 2``                                          the kernel: ``6 H M L``
scan   ``H L (6 M + 64)``, whose 64 is what moving a token
       costs
fft    ``H L log2(2 L)``, with a rate of its own, up to       the kernel: ``6 H M L``
       twice as much where its tiles leave the cache
====== =====================================================  ==========================

They are a training step's, whose scan takes four to five times as long as a forward pass and whose other ways three to
four times, so that where a forward pass alone is about as fast either way a layer does not scan. With a kernel of fewer
taps the direct way takes a multiply-add for each token and tap in its reach.

On GPUs a rule that an H200 gave: the scan. At the shapes that were measured, 64 x 128 to 1 x 131,072 tokens, forward
and training, fp32 and bf16, it was as fast as the fastest of the others, or up to five times faster (but CUDA C++ in
bf16 at 8 x 2048: forward 63 us, the FFT 55). Where it does not take as many modes, the direct convolution up to
128 tokens (30 us against 54 to 68 at 64 x 128 x 64), else the FFT.
"""

from __future__ import annotations

import enum
import functools
import math
from dataclasses import dataclass

from ..backends import Limits


class Why(enum.Enum):
    """What decides between the algorithms."""

    STATE = "it alone carries a state"
    TRACE = "it suits every length that a trace will be run with"
    UNKNOWN = "the length is not known yet, and it is never a bad choice"
    SHORT_WHATEVER = "the length is not known yet, but it is short beside the modes"
    LONG_PACKED = "the sequences of the packed batch are long on average"
    COSTS = "its predicted cost is the smallest"
    FASTEST = "on a card it was the fastest, or nearly, at every shape measured"
    SHORT = "the scan's kernel does not take as many modes, and the sequences are short"
    LONG = "the scan's kernel does not take as many modes, and the sequences are long, or it is not known how long"


@dataclass(frozen=True)
class Constants:
    """Nanoseconds per unit of the table above: a training step's, one thread, float32; only their ratios matter."""

    direct: float
    scan: float
    fft: float
    kernel: float


CPU = Constants(direct=0.106, scan=0.08, fft=1.1, kernel=0.173)


UNCACHED = 1 << 14
"""Tokens of a sequence whose transform is too large for a second-level cache."""


def units(batch: int, length: int, modes: int, directions: int = 1) -> dict[str, float]:
    """Multiply-adds per channel of each part, as in the table above."""
    return {
        "direct": batch * length * (length + 1) / 2 * directions,
        "scan": batch * length * (6 * modes + 64) * directions,
        "fft": batch * length * math.log2(2 * max(length, 1)) * (1 + (min(length, UNCACHED) / UNCACHED) ** 2),
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
def choose(
    batch: int, length: int, modes: int, directions: int = 1, constants: Constants = CPU, packed: bool = False
) -> str:
    """The algorithm with the smallest predicted cost.

    Args:
        packed: whether the length is a mean: no transforms then, which take every sequence for as long as the longest.
    """
    predicted = costs(batch, length, modes, directions, constants)
    if packed:
        del predicted["fft"]
    return min(predicted, key=lambda name: predicted[name])


FEW_TAPS = 64
"""Up to which a direct convolution is cheaper than transforms on a CPU, whatever the length, of both kernels together:
``direct`` of so many a token is less than ``fft`` already where sequences are no longer than that."""


@functools.lru_cache(maxsize=1024)
def convolves_directly(length: int, taps: int, reverse_taps: int, constants: Constants = CPU) -> bool:
    """Whether a convolution with any kernel is cheaper on a CPU by its taps than by transforms."""
    forward, backward = min(taps, length), min(reverse_taps, max(length - 1, 0))
    pairs = length * (forward + backward) - forward * (forward - 1) / 2 - backward * (backward + 1) / 2
    return constants.direct * pairs <= constants.fft * units(1, length, 0)["fft"]


def choose_on_gpu(length: int, modes: int, limits: Limits) -> tuple[str, Why]:
    """The algorithm on a GPU whose backend has these limits, and why."""
    if modes <= limits.scan_modes:
        return "scan", Why.FASTEST
    return ("direct", Why.SHORT) if length <= limits.direct else ("fft", Why.LONG)


MEASURED: dict[str, dict[tuple[int, int], dict[str, tuple[float, float]]]] = {
    "triton": {
        (64, 128): {"scan": (23.9, 77.8), "direct": (31.4, 104), "fft": (69.3, 195)},
        (8, 2048): {"scan": (43.6, 129), "direct": (401, 1215), "fft": (81.6, 262)},
        (64, 4096): {"scan": (215, 755), "fft": (1039, 2821)},
        (1, 131072): {"scan": (415, 1340), "fft": (1120, 3800)},
    },
    "cuda": {
        (64, 128): {"scan": (19.7, 59.8), "direct": (50.9, 135), "fft": (49.7, 137)},
        (8, 2048): {"scan": (40.3, 121), "direct": (57.3, 154), "fft": (57.0, 152)},
        (64, 4096): {"scan": (451, 1434), "fft": (508, 1253)},
        (1, 131072): {"scan": (267, 801), "fft": (766, 2020)},
    },
}
"""Backend to (B, L) to algorithm to microseconds of a forward pass and of a training step: as CUDA graphs on an NVIDIA
H200, float32, 64 channels, 32 modes, from benchmarks/results/nvidia_h200.json."""


def measured(backend: str, batch: int, length: int) -> tuple[tuple[int, int], dict[str, tuple[float, float]]] | None:
    """The entry of :data:`MEASURED` of the nearest shape, by ratios of batches and lengths; None: nothing measured."""
    table = MEASURED.get(backend)
    if table is None:
        return None

    def distance(shape: tuple[int, int]) -> float:
        return abs(math.log(shape[0] / max(batch, 1))) + abs(math.log(shape[1] / max(length, 1)))

    nearest = min(table, key=distance)
    return nearest, table[nearest]
