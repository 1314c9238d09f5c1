"""The report: benchmarks/results/gpu_static.md."""

from __future__ import annotations

from typing import Any

MAX_SHARED = 99 * 1024
MATRIX_KERNELS = (
    "_scan",
    "_scan_backward",
    "_s4d_kernel",
    "_s4d_kernel_backward",
    "_gelu_glu",
    "_pgc",
    "_conv",
    "_fft_conv",
    "_fft_correlate",
)
HALF_KERNELS = ("_scan", "_scan_backward")  # whose 16-bit activations are operands as they are


def ratio(row: dict[str, Any]) -> float:
    """Bytes moved over the floor."""
    return sum(x["loaded"] + x["stored"] for x in row["launches"]) / row["floor"]


def byte_violations(rows: list[dict[str, Any]]) -> list[str]:
    """Rows that move more bytes than their limit."""
    out = []
    for row in rows:
        if row["limit"] is not None and ratio(row) > row["limit"]:
            what = f"{row['case']} {row['direction']} {row['dtype']}"
            out.append(f"{what}: moves {ratio(row):.2f} times the floor, limit {row['limit']}")
    return out


def compile_violations(compiled: list[dict[str, Any]]) -> list[str]:
    """Compiled kernels that pass a limit; gfx942 need only compile."""
    out = []
    for c in compiled:
        name = f"{c['kernel']} {c['variant']} on {c['arch']}"
        if c["error"]:
            out.append(f"{name}: does not compile: {c['error']}")
        elif c["arch"].startswith("sm_"):
            if c["spills"] or c["stack"]:
                out.append(f"{name}: {c['spills']} bytes spilled, {c['stack']} bytes of stack")
            if c["shared"] > MAX_SHARED:
                out.append(f"{name}: {c['shared']} bytes of shared memory, limit {MAX_SHARED}")
            wanted = [d for d in ("fp16", "bf16") if c["kernel"] in HALF_KERNELS and f" {d} " in c["variant"]]
            kinds = " ".join(c["matrix_kinds"]).replace("bf16", "BF16").replace("f16", "fp16").lower()
            if c["kernel"] in MATRIX_KERNELS and not c["matrix_instructions"]:
                out.append(f"{name}: no matrix instruction")
            elif any(d not in kinds for d in wanted):
                out.append(f"{name}: no {wanted[0]} matrix instruction")
    return out


def _line(cells: list[Any]) -> str:
    return "| " + " | ".join(str(c) for c in cells) + " |"


def moved(rows: list[dict[str, Any]]) -> list[str]:
    """Bytes over the floor of the cases at sizes that are measured."""
    head = ["op", "B, L, H", "storage", "", "bytes / floor", "limit"]
    out = [_line(head), _line(["---"] * len(head))]
    for row in rows:
        if row["measured"]:
            cells = [row["case"], tuple(row["shape"]), row["dtype"], row["direction"], f"{ratio(row):.2f}"]
            out.append(_line([*cells, "" if row["limit"] is None else row["limit"]]))
    return out


def kernels(compiled: list[dict[str, Any]]) -> list[str]:
    """What each compiled kernel needs."""
    head = ["kernel", "configuration", "card", "registers", "spills", "stack", "shared", "matrix instructions"]
    out = [_line(head), _line(["---"] * len(head))]
    for c in compiled:
        needs = ["failed"] * 5
        if not c["error"]:
            found = f"{c['matrix_instructions']} {', '.join(c['matrix_kinds'])}"
            needs = [c["registers"], c["spills"], c["stack"], c["shared"], found]
        out.append(_line([f"`{c['kernel']}`", c["variant"], c["arch"], *needs]))
    return out


def report(rows: list[dict[str, Any]], compiled: list[dict[str, Any]], violations: list[str]) -> str:
    """The whole page."""
    limits = ["Every limit is kept."] if not violations else ["Limits passed:", "", *(f"- {v}" for v in violations)]
    return "\n".join(
        [
            "# Triton kernels without a GPU",
            "",
            "Written by `python -m benchmarks.gpu_static`. **Counts, not measurements**: every launch is run in",
            "Triton's interpreter, where its loads, stores and products are counted, and compiled ahead of time. What",
            "that takes on a card: [gpu_model.md](gpu_model.md).",
            "",
            *limits,
            "",
            "## Bytes",
            "",
            "Loaded and stored by the kernels over the floor, which reads each input and writes each output once. The",
            "scan reads one channel a program out of channels-last activations: it counts on neighbouring programs to",
            "share sectors in the cache, whose own traffic is not counted. d_state is 64.",
            "",
            *moved(rows),
            "",
            "## Compiled kernels",
            "",
            "Registers a thread; spills, stack and shared memory in bytes.",
            "",
            *kernels(compiled),
            "",
        ]
    )
