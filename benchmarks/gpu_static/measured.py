"""Measured beside predicted, on a machine with a GPU: the cases of the static model at their full size.

``python -m benchmarks -k test_kernel`` on such a machine times each kernel (``benchmarks/test_kernels.py``), once as a
user calls it and once as a CUDA graph, which leaves out the time that Python takes to launch; the prediction has no
launches either, so it stands beside the graph. The predictions come from results/gpu_static.json: no interpreter is
needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..timing import Spread, sample
from . import cases
from .model import CARDS, Card, launch_seconds

RESULTS = Path(__file__).parent.parent / "results" / "gpu_static.json"
_NAMES = {"A100": "A100 80GB", "H100": "H100 SXM", "H200": "H200", "4090": "RTX 4090", "MI300X": "MI300X"}
_FULL: dict[str, Callable[[int, int, int], Callable[[torch.dtype], list[Any]]]] = {
    "gated_conv": lambda batch, length, channels: cases._gated(batch, length, channels, 3),
    "s4d_kernel": lambda batch, length, channels: cases._kernel(channels, 32, length),
    "s4d_scan": lambda batch, length, channels: cases._scan(batch, length, channels, 32),
    "s4d_fft": lambda batch, length, channels: cases._fft(batch, length, channels, 32),
    "rms_norm": lambda batch, length, channels: cases._norm(batch * length, channels),
    "pgc": lambda batch, length, channels: cases._pgc(batch, length, channels, channels),
    "causal_conv": lambda batch, length, channels: cases._direct(batch, length, channels),
    "fft_conv": lambda batch, length, channels: cases._direct(batch, length, channels),
    "gelu_glu": lambda batch, length, channels: cases._tail(batch, length, channels),
}
Step = Callable[[], Any]


def card_named(device_name: str) -> Card | None:
    """The card of the model that a device is, by the name that its driver gives; None where there is none."""
    for part, name in _NAMES.items():
        if part in device_name:
            return next(c for c in CARDS if c.name == name)
    return None


def steps(case: cases.Case, dtype: str, device: torch.device) -> dict[str, Step]:
    """A case's forward and backward at full size, ready to call.

    Raises:
        KeyError: nothing says what the op's arguments are.
    """
    from lyra_kernels.triton import IMPLEMENTATIONS

    torch.manual_seed(0)
    made = _FULL[case.op](*case.shape)(cases.DTYPES[dtype])
    args = [a.to(device) if isinstance(a, Tensor) else a for a in made]
    forward, backward = IMPLEMENTATIONS[case.op], IMPLEMENTATIONS[f"{case.op}_backward"]
    more = [False] if case.op == "s4d_scan" else []
    out = forward(*args, *more)
    saved = cases.backward_arguments(case, args, out if isinstance(out, tuple) else (out,))
    saved = [a.to(device) if isinstance(a, Tensor) else a for a in saved]
    return {"forward": lambda: forward(*args, *more), "backward": lambda: backward(*saved)}


def captured(step: Step) -> Step:
    """The same work as a CUDA graph: one launch, whatever Python does in between."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step()  # compiles, allocates
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def predictions(file: Path = RESULTS) -> dict[tuple[str, str, str], tuple[list[dict[str, Any]], int]]:
    """Recorded launches, and the factor to full size, by case, storage and direction."""
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    return {(r["case"], r["dtype"], r["direction"]): (r["launches"], r["scale"]) for r in rows}


def measure(
    case: cases.Case, dtype: str, direction: str, step: Step, graph: Step | None, watch: Callable, device_name: str
) -> dict[str, Any]:
    """What goes into the record: times of the call and of its graph, and the prediction for this card, in seconds."""
    launches, scale = predictions().get((case.name, dtype, direction), ([], 1))
    card = card_named(device_name)
    known = card is not None and launches
    return {
        "kernel": case.name,
        "shape": list(case.shape),
        "dtype": dtype,
        "direction": direction,
        "device": device_name,
        "call": _times(sample(step, watch)),
        "graph": None if graph is None else _times(sample(graph, watch)),
        "predicted": sum(launch_seconds(card, x, scale) for x in launches) if known else None,
    }


def _times(spread: Spread) -> list[float]:
    return [spread.median, spread.low, spread.high]


def table(records: list[dict[str, Any]]) -> list[str]:
    """Measured beside predicted, as Markdown."""
    if not records:
        return []
    out = [
        "## Kernels, measured beside predicted",
        "",
        "Microseconds: median, and what one in ten is below and above; the cache is flushed before each. A graph",
        "leaves out what Python takes to launch. Predicted: benchmarks/gpu_static for this card, at published rates.",
        "",
        "| kernel | B, L, H | storage | | predicted | graph | graph / predicted | call |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in records:
        graph, predicted = r["graph"], r["predicted"]
        cells = [r["kernel"], ", ".join(map(str, r["shape"])), r["dtype"], r["direction"]]
        cells.append("" if predicted is None else f"{predicted * 1e6:.1f}")
        cells.append("" if graph is None else _microseconds(graph))
        cells.append("" if graph is None or predicted is None else f"{graph[0] / predicted:.2f}")
        out.append("| " + " | ".join([*cells, _microseconds(r["call"])]) + " |")
    return [*out, ""]


def _microseconds(times: list[float]) -> str:
    median, low, high = (1e6 * t for t in times)
    return f"{median:.1f} ({low:.1f} to {high:.1f})"
