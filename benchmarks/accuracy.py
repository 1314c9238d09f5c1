"""Errors against float64 at every length: `python -m benchmarks.accuracy` writes results/accuracy.md and .png.

Relative RMS error of a float32 S4D convolution and of its kernel: ours by each algorithm, and the published formula,
which forms exp(dt A l) with a phase of up to 2e5 radians in float32 and so loses digits as l grows.
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

import lyra_kernels as lk

from . import opponents

LENGTHS = (1, 2, 3, 17, 128, 1000, 4096, 65536, 1048576)
MODES = 32
DIRECT_LIMIT = 4096  # quadratic
RESULTS = Path(__file__).parent / "results"

# log_dt and log_A_real: the layer as it starts, slow decay, and both ends of the time step.
SETTINGS = {
    "as initialised": (None, math.log(0.5)),
    "slow decay (log_A_real = -6)": (None, -6.0),
    "dt = 0.001": (math.log(0.001), math.log(0.5)),
    "dt = 0.1": (math.log(0.1), math.log(0.5)),
    "dt = 0.1, slow decay": (math.log(0.1), -6.0),
}


def channels(length: int) -> int:
    """Few where the published formula would need tens of gigabytes."""
    return 4 if length > 4096 else 64


def parameters(setting: str, H: int) -> tuple[Tensor, ...]:
    """log_dt, log_A_real, A_imag, C and D of a layer, float32."""
    log_dt, log_A_real = SETTINGS[setting]
    torch.manual_seed(0)
    kernel = lk.S4DKernel(H, 2 * MODES)
    dt = kernel.log_dt.detach() if log_dt is None else torch.full((H,), log_dt)
    decay = torch.full((H, MODES), log_A_real)
    return dt, decay, kernel.A_imag.detach(), kernel.C.detach(), torch.randn(H)


def relative_error(x: Tensor, exact: Tensor) -> float:
    """Root mean square of the error over that of the exact values."""
    return float((x.double() - exact).norm() / exact.norm())


def errors(setting: str, length: int) -> dict[str, float]:
    """Each way's error of the kernel and of the convolution."""
    *p, D = parameters(setting, channels(length))
    u = torch.randn(1, length, channels(length))
    exact_kernel = lk.reference.s4d_kernel(*(x.double() for x in p), length)
    doubles = [x.double() for x in p]
    scan = (u.double(), *doubles[:3], doubles[3].unsqueeze(0), D.double(), None, None, None)
    exact = lk.reference.s4d_scan(*scan)[0]
    published = opponents.complex_kernel(*p, length)
    found = {
        "kernel": relative_error(lk.s4d_kernel(*p, length), exact_kernel),
        "kernel, published": relative_error(published, exact_kernel),
        "published": relative_error(opponents.fft_conv(u, published, D), exact),
    }
    for algorithm in ("scan", "fft", "direct"):
        if algorithm != "direct" or length <= DIRECT_LIMIT:
            found[algorithm] = relative_error(lk.s4d_conv(u, *p, D, algorithm=algorithm), exact)
    return found


def main() -> None:
    """Measures, writes the table and the picture, and says where ours is the worse."""
    table = {setting: {length: errors(setting, length) for length in LENGTHS} for setting in SETTINGS}
    columns = ("kernel", "kernel, published", "scan", "direct", "fft", "published")
    lines = [
        "# Relative RMS error of float32 against float64",
        "",
        "`python -m benchmarks.accuracy` makes this anew.",
        "",
    ]
    for setting, rows in table.items():
        lines += [f"## {setting}", "", "| L | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
        for length, row in rows.items():
            lines.append(f"| {length} | " + " | ".join(f"{row[c]:.1e}" if c in row else "" for c in columns) + " |")
        lines.append("")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "accuracy.md").write_text("\n".join(lines))
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained", sharey=True)
    for axis, setting in zip(axes, ("as initialised", "dt = 0.1, slow decay"), strict=True):
        for name in ("scan", "direct", "fft", "published"):
            points = [(length, row[name]) for length, row in table[setting].items() if row.get(name)]
            axis.loglog(*zip(*points, strict=True), "o-", ms=4, label=name)
        axis.set(title=setting, xlabel="sequence length")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("relative RMS error, float32")
    axes[0].legend(fontsize=8)
    figure.savefig(RESULTS / "accuracy.png", dpi=110)
    for setting, rows in table.items():
        for length, row in rows.items():
            for ours, theirs in (("kernel", "kernel, published"), ("scan", "published")):
                if row[ours] > row[theirs]:
                    print(f"{setting}, L={length}: {ours} {row[ours]:.1e}, published {row[theirs]:.1e}")


if __name__ == "__main__":
    main()
