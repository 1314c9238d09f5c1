"""Times of several ways to do one thing, taken in turn in one process.

Shared machines drift by tens of per cent within seconds. So the sides alternate, and what is reported is the median
of the ratios of neighbouring rounds with its quartiles, beside each side's median time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

L2_BYTES = 256 * 2**20  # more than the second-level cache of any card


@dataclass(frozen=True)
class Ratio:
    """How many times longer than ours another side takes: median and quartiles over the rounds."""

    median: float
    low: float
    high: float


class Stopwatch:
    """Times one call in seconds, on the CPU's clock or with CUDA events and a flushed L2."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.flush = torch.empty(L2_BYTES, dtype=torch.int8, device=device) if device.type == "cuda" else None

    def __call__(self, function: Callable[[], object]) -> float:
        if self.flush is None:
            start = time.perf_counter()
            function()
            return time.perf_counter() - start
        self.flush.zero_()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        function()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3


def alternate(
    sides: dict[str, Callable[[], object]], device: torch.device, seconds: float = 1.5, most: int = 30
) -> dict[str, list[float]]:
    """Rounds of one call of each side, until `seconds` have gone by; at least 3 rounds, or 1 where a round is long.

    Each side is called once before, for whatever it prepares.
    """
    watch = Stopwatch(device)
    for function in sides.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in sides}
    start = time.perf_counter()
    while True:
        for name, function in sides.items():
            times[name].append(watch(function))
        spent, rounds = time.perf_counter() - start, len(times[next(iter(times))])
        if rounds >= most or spent > 4 * seconds or (spent > seconds and rounds >= 3):
            return times


def ratios(times: dict[str, list[float]], ours: str) -> dict[str, Ratio]:
    """Each other side's time over ours."""
    found = {}
    for name, values in times.items():
        if name == ours:
            continue
        rounds = [other / own for other, own in zip(values, times[ours], strict=True)]
        if len(rounds) > 1:
            low, median, high = statistics.quantiles(rounds, n=4, method="inclusive")
        else:
            low = median = high = rounds[0]
        found[name] = Ratio(median, low, high)
    return found
