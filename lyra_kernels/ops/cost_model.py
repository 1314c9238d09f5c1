"""Which way to compute an S4D convolution: one cost model for the CPU, one for GPUs.

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

On a GPU, counts instead of a fit: per kernel a constant for the launch, and the largest of bytes over bandwidth,
operations over the rate of the processors that have work, and steps that wait for each other; see :func:`gpu_costs`.
Nothing here was timed on a card: the rates are the maker's, the two latencies are estimates.
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


@dataclass(frozen=True)
class Card:
    """A GPU. Operations a second of matrix products in TF32 and in 16 bits, bytes a second, seconds of waiting."""

    bandwidth: float
    tf32: float
    half: float
    processors: int
    launch: float  # from one kernel's start to the next one's, at best
    step: float  # a load, and the chain of products on what was loaded


A100 = Card(bandwidth=2.039e12, tf32=156e12, half=312e12, processors=108, launch=3e-6, step=1e-6)
"""In the middle of the cards that there are: others move all three ways together."""


def gpu_costs(
    batch: int,
    length: int,
    channels: int,
    modes: int,
    directions: int = 1,
    size: int = 4,
    *,
    limits: Limits,
    card: Card = A100,
) -> dict[str, float]:
    """Predicted seconds of each algorithm in the forward, for activations of ``size`` bytes an element.

    ``limits`` are those of the backend that would run. Without kernels for transforms, as CUDA C++, these are
    torch.fft's and the direct way is one too; a scan of any number of modes has no matrix products: its time is a lower
    bound.

    Operations of products count two a multiply-add; fp32 takes three TF32 products for one.

    ====== ======================================================================================================
    scan   ``2 T + 8 N`` a token and channel (T = 32, N modes padded to a power of 2 from 32 on), rows of a batch in
           sixteens; u read, y written. A program takes ``L / T`` steps. Where batch times channels do not fill the card
           sequences are cut: u is read twice, and states cost ``2 N`` and two launches.
    direct ``2 T`` a tile of T x T taps and row, ``b (b + 1) / 2`` tiles for ``b = L / T`` (``b^2`` in two directions),
           each of which reads T tokens of sixteen rows and its taps; up to b steps a program
    fft    up to 4096: one program a row and once for the kernel, whose ``4 N`` a tap it makes itself; for ``P`` points,
           the next power of 2 from 256 on, 20 products with sides of 16, ``640 P`` (256 points: 12, ``384 P``); beyond,
           torch.fft: five kernels that read and write 8 bytes a token each, and the transposition there and back
    kernel (direct, fft beyond 4096) ``4 N`` a tap and channel in TF32 thrice, taps written and read
    ====== ======================================================================================================
    """
    rate, times = (card.tf32, 3) if size == 4 else (card.half, 2)  # two 16-bit parts of each table
    padded = max(32, 1 << max(modes - 1, 0).bit_length())
    tokens = batch * length * channels
    sixteens = -(-batch // limits.rows)
    blocks = max(-(-length // limits.chunk), 1)
    moved = 2 * tokens * size

    def seconds(bytes_: float, flops: float, programs: float, steps: float) -> float:
        busy = min(max(programs, 1) / card.processors, 1.0)
        return max(bytes_ / card.bandwidth, times * flops / (rate * busy), steps * card.step)

    wanted = max(-(-2 * card.processors // max(channels, 1)), 1) * limits.rows
    parts = min(wanted // max(batch, 1), length // limits.segment[min(size, 4)])
    parts = 1 if parts < 4 else parts
    rows = -(-batch * parts // limits.rows)
    per_token = 2 * limits.chunk + 8 * padded
    reads = tokens * size if parts > 1 else 0
    states = 16 * modes * batch * parts * channels if parts > 1 else 0
    flops: float = rows * limits.rows * -(-blocks // parts) * limits.chunk * channels
    flops *= per_token + (4 * padded if parts > 1 else 0)
    steps = -(-blocks // parts) * (2 if parts > 1 else 1)
    scan = (3 if parts == 1 else 5) * card.launch * directions
    scan = (
        math.inf
        if modes > limits.scan_modes
        else scan + directions * seconds(moved + reads + states, flops, rows * channels, steps)
    )

    tiles = blocks * (blocks + 1) // 2 if directions == 1 else blocks * blocks
    tile = limits.rows * limits.chunk * size + 4 * limits.chunk * limits.chunk * directions
    flops = tiles * sixteens * limits.rows * channels * 2 * limits.chunk * limits.chunk
    taps = length * channels
    kernel = directions * (card.launch + max(8 * taps / card.bandwidth, 12 * padded * taps / card.tf32))
    direct = kernel + 2 * card.launch
    direct += seconds(tiles * sixteens * channels * tile + tokens * size, flops, blocks * sixteens * channels, blocks)

    points = max(1 << max(length - 1, 0).bit_length(), 256)
    if length <= limits.transform:
        flops = (384 if points == 256 else 640) * points * channels * (batch + directions)
        flops += 4 * padded * points * channels * directions
        fft = card.launch + seconds(moved, flops, batch * channels, 4)
    else:
        fft = kernel + 7 * card.launch + (moved + 5 * 16 * tokens + 16 * taps * directions) / card.bandwidth
    return {"direct": direct if limits.direct else fft, "scan": scan, "fft": fft}


@functools.lru_cache(maxsize=1024)
def choose_on_gpu(
    batch: int, length: int, channels: int, modes: int, directions: int = 1, size: int = 4, *, limits: Limits
) -> str:
    """The algorithm with the smallest predicted time."""
    predicted = gpu_costs(batch, length, channels, modes, directions, size, limits=limits)
    return min(predicted, key=lambda name: predicted[name])
