"""Fits the constants of lyra_kernels/ops/cost_model.py: `python -m benchmarks.fit_cost_model`.

Times a training step of each op on one thread over a grid of sizes and takes, for each constant, the median of time
over units: ratios matter over a wide range, and a median is not ruled by the largest size as least squares would be.
Then says how often the model chooses the way that was in fact the fastest, in training and forward, and how much time
its choices cost over the best ones.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

import lyra_kernels as lk
from lyra_kernels.ops import cost_model

from .timing import Stopwatch

BATCHES, LENGTHS, MODES, CHANNELS = (1, 8, 64), (64, 128, 256, 1024, 4096, 16384), (4, 32), 64
WAYS = ("direct", "scan", "fft")
TOKENS = 2**17  # sizes above take long and say nothing new


def fastest(function, repeats: int = 7) -> float:
    """The shortest of a few times, in nanoseconds: what the machine can do when nothing disturbs it."""
    watch = Stopwatch(torch.device("cpu"))
    function()
    return 1e9 * min(watch(function) for _ in range(repeats))


def measure(training: bool) -> dict[tuple[int, int, int], dict[str, float]]:
    """Nanoseconds per channel of each way, and of the kernel, for each (batch, length, modes)."""
    found = {}
    for batch, length, modes in itertools.product(BATCHES, LENGTHS, MODES):
        if batch * length > TOKENS:
            continue
        space = lk.S4DKernel(CHANNELS, 2 * modes)
        p = [x.detach().requires_grad_(training) for x in (space.log_dt, space.log_A_real, space.A_imag, space.C)]
        u = torch.randn(batch, length, CHANNELS, requires_grad=training)

        def timed(function: Callable[[], Tensor]) -> float:
            """Of a call, or of a training step."""
            if not training:
                return fastest(function)
            grad = torch.randn_like(function())
            return fastest(lambda: function().backward(grad))

        times = {"kernel": timed(lambda p=p, n=length: lk.s4d_kernel(*p, n))}
        for way in WAYS:
            if way != "direct" or length <= 1024:
                times[way] = timed(lambda u=u, p=p, way=way: lk.s4d_conv(u, *p, algorithm=way))
        found[batch, length, modes] = {name: t / CHANNELS for name, t in times.items()}
    return found


def fit(measured: dict[tuple[int, int, int], dict[str, float]]) -> cost_model.Constants:
    """The constants: medians of time over units."""
    rates: dict[str, list[float]] = {name: [] for name in ("direct", "scan", "fft", "kernel")}
    for (batch, length, modes), times in measured.items():
        units = cost_model.units(batch, length, modes)
        for name, t in times.items():
            own = t - times["kernel"] if name in ("direct", "fft") else t
            rates[name].append(max(own, 0.0) / units[name])
    return cost_model.Constants(**{name: round(statistics.median(values), 4) for name, values in rates.items()})


def judge(measured: dict[tuple[int, int, int], dict[str, float]], constants: cost_model.Constants) -> None:
    """Prints every size, and what the choices cost."""
    right, excess = 0, []
    for (batch, length, modes), times in measured.items():
        ways = {way: times[way] for way in WAYS if way in times}
        best, chosen = min(ways, key=ways.__getitem__), cost_model.choose(batch, length, modes, constants=constants)
        right += best == chosen
        excess.append(ways.get(chosen, float("inf")) / ways[best] - 1)
        shown = "  ".join(f"{way} {t * CHANNELS / 1e6:8.3f}" for way, t in ways.items()) + " ms"
        note = "" if best == chosen else f" (best: {best})"
        print(f"B {batch:3d}  L {length:5d}  M {modes:3d}   {shown}   {chosen}{note}")
    print(f"the fastest chosen in {right} of {len(measured)}; cost over it: median {statistics.median(excess):.1%}, "
          f"worst {max(excess):.0%}")  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    measured = measure(training=True)
    constants = fit(measured)
    print(constants, "\nTraining steps:")
    judge(measured, constants)
    print("Forward passes:")
    judge(measure(training=False), constants)


if __name__ == "__main__":
    main()
