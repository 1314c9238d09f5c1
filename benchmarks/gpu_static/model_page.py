"""benchmarks/results/gpu_model.md: what the time model predicts, beside what was measured."""

from __future__ import annotations

import math

from . import calibration, fit
from .fit import Prediction
from .time_model import H200, TOLD

_PARAMETERS = {
    "line": "cycles of the load/store unit, a 128-byte line that a request touches",
    "sector_loaded": "and a 32-byte sector of it",
    "sector_stored": "the same of a store",
    "shared_pass": "cycles, a pass of a shared-memory request; above 1 for bank conflicts",
    "gap": "us between two launches of a graph",
    "cold": "cycles to fetch an instruction for the first time",
    "stream": "cycles an instruction and turn of a loop that the instruction cache does not hold",
    "dram": "TB/s",
    "fp32_products": "TFLOP/s of PyTorch's products at these narrow shapes",
    "latency_l2": "cycles of a load that hits the L2; left by the fit as set",
    "latency_dram": "cycles of a load that does not; left by the fit as set",
    "l2": "TB/s; left by the fit as set",
}


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _short(us: float) -> str:
    return f"{us:.3g}" if us < 1000 else f"{us:.0f}"


def _table(present: list[Prediction], calibrated: list[Prediction]) -> list[str]:
    beside = {p.row: p for p in calibrated}
    head = ["op", "B, L, H", "storage", "", "measured", "model", "model / measured", "bound by", "present kernels"]
    out = [_line(head), _line(["---"] * len(head))]
    for p in present:
        cells = [p.row.op, ", ".join(map(str, p.row.shape)), p.row.dtype, p.row.direction]
        known = beside.get(p.row)
        if known is None or known.measured is None:
            cells += ["", "", "", p.bound]
        else:
            cells += [_short(known.measured), _short(known.us), f"{known.ratio:.2f}", known.bound]
        out.append(_line([*cells, _short(p.us)]))
    return out


def _layers(layers: list[Prediction]) -> list[str]:
    head = ["layer", "B, L, H", "", "measured", "model", "model / measured", "bound by"]
    out = [_line(head), _line(["---"] * len(head))]
    for p in layers:
        assert p.measured is not None
        cells = [p.row.op, ", ".join(map(str, p.row.shape)), p.row.direction]
        out.append(_line([*cells, _short(p.measured), _short(p.us), f"{p.ratio:.2f}", p.bound]))
    return out


def _present_layers(layers: list[Prediction]) -> list[str]:
    """A line for each layer, shape and storage: forward, and with its backward."""
    head = ["layer", "B, L, H", "storage", "forward", "with backward", "bound by"]
    out = [_line(head), _line(["---"] * len(head))]
    training = {(p.row.op, p.row.shape, p.row.dtype): p for p in layers if p.row.direction == "train"}
    for p in layers:
        if p.row.direction == "forward":
            whole = training[p.row.op, p.row.shape, p.row.dtype]
            cells = [p.row.op, ", ".join(map(str, p.row.shape)), p.row.dtype]
            out.append(_line([*cells, _short(p.us), _short(whole.us), whole.bound]))
    return out


_TEXT = """# What the Triton kernels take on an H200, by a model

Written by `python -m benchmarks.gpu_static.time_model`; how it works: benchmarks/gpu_static/time_model.py. **Measured**
is measured: one {card}, commit {commit} ({change}), torch {torch}, triton {triton}, calls replayed as a CUDA graph,
microseconds. **Model** is predicted from the machine code of those launches. **Present kernels** is predicted from the
kernels of this checkout, compiled by triton {compiler}: nothing of it was measured.

## How far to believe it

{rows} measured rows (s4d_auto left out, whose launches are another row's): {within}. Root mean square of log(model /
measured): {first} on the half of the rows that the parameters were fitted to, {second} on the other; bias {bias}.

- The other half is not pristine: all rows were looked at while the model was built, and some of its parts were chosen
  after seeing what was not explained. Those are: the cost of a request split into lines and sectors, the cost of loops
  beyond the instruction cache, asynchronous copies, and what is told of single kernels ({told}).
- The layers below were never used to build it. Their kernels are those of the ops, so that they test shapes, not
  kernels.
- A kernel whose code is unlike these is extrapolation. So is another card, or another clock.
- Farthest off: {worst}.
- Not in it: bank conflicts one by one, spilled registers, contention and the far half of the L2, TLB misses, clocks
  below the highest. PyTorch's products are one rate, its long transforms are left out. Of kernels with several
  configurations the first is taken.

## Ops

A bound is the unit that is busy for more than 70 % of the longest launch, DRAM, or the chain of dependent steps, with
the busiest unit in brackets. `sectors` is the load/store unit with global memory, `shared` the same with shared memory,
`issue` the schedulers.

{ops}

## Layers, fp32, an independent check

{layers}

## Layers, present kernels

Predicted, without the norm and the residual of a model's block; activations are stored as said.

{present_layers}

## Parameters

| parameter | value | meaning |
|---|---|---|
{parameters}

Assumed: a clock of {clock} GHz, with which every figure in cycles scales. Latencies of the units are in
benchmarks/gpu_static/simulate.py.
"""


def page(
    present: list[Prediction],
    present_layers: list[Prediction],
    calibrated: list[Prediction],
    layers: list[Prediction],
    compiler: str,
) -> str:
    """The whole page.

    Args:
        present, present_layers: every row for the kernels of this checkout, compiled by triton ``compiler``.
        calibrated, layers: the measured launches, with what was measured.
    """
    found = fit.statistics(calibrated)
    worst = sorted((p for p in calibrated if fit.independent(p.row)), key=lambda p: abs(math.log(p.ratio)))[-6:]
    parameters = [
        _line([f"`{n}`", f"{getattr(H200.costs, n, None) or getattr(H200, n):.3g}", meaning])
        for n, meaning in _PARAMETERS.items()
    ]
    return _TEXT.format(
        **calibration.measured_on(),
        compiler=compiler,
        rows=found["rows"],
        within=found["within"],
        first=found["spread, fitted half"],
        second=found["spread, other half"],
        bias=found["bias"],
        told="; ".join(f"`{name}`: {told.why}" for name, told in TOLD.items()),
        worst="; ".join(f"{p.row} {p.ratio:.2f}" for p in reversed(worst)),
        ops="\n".join(_table(present, calibrated)),
        layers="\n".join(_layers(layers)),
        present_layers="\n".join(_present_layers(present_layers)),
        parameters="\n".join(parameters),
        clock=H200.gigahertz,
    )
