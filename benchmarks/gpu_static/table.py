"""The report: benchmarks/results/gpu_static.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MAX_SHARED = 99 * 1024
MATRIX_KERNELS = (
    "_scan",
    "_scan_backward",
    "_s4d_kernel",
    "_s4d_kernel_backward",
    "_gelu_glu",
    "_gelu_glu_backward",
    "_pgc",
    "_pgc_pairs",
    "_linear",
    "_linear_weight_gradient",
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


def _limits_passed(c: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What one compiled kernel gets wrong: which limit, and in words."""
    if c["error"]:
        yield "error", f"does not compile: {c['error']}"
    elif c["whole"] and c["arch"].startswith("sm_"):
        if c["spills"] or c["stack"]:
            why = "for want of registers" if c["forced"] else "by ptxas's choice"
            yield why, f"{c['spills']} bytes spilled, {c['stack']} bytes of stack, {why}"
        if c["shared"] > MAX_SHARED:
            yield "shared", f"{c['shared']} bytes of shared memory, limit {MAX_SHARED}"
        wanted = [d for d in ("fp16", "bf16") if c["kernel"] in HALF_KERNELS and f"*{d}" in c["types"]]
        kinds = " ".join(c["matrix_kinds"]).replace("bf16", "BF16").replace("f16", "fp16").lower()
        if c["kernel"] in MATRIX_KERNELS and not c["matrix_instructions"]:
            yield "matrix", "no matrix instruction"
        elif any(d not in kinds for d in wanted):
            yield "matrix", f"no {wanted[0]} matrix instruction"


def compile_violations(compiled: list[dict[str, Any]]) -> list[str]:
    """Compiled kernels that pass a limit; gfx942 need only compile. Of variants alike the one with the least to say."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for c in compiled:
        for limit, words in _limits_passed(c):
            text = f"{c['kernel']} {c['variant']} on {c['arch']}: {words}"
            alike.setdefault((c["kernel"], c["arch"], limit), []).append(text)
    more = [f" (and {len(some) - 1} more)" if len(some) > 1 else "" for some in alike.values()]
    return [min(some, key=len) + rest for some, rest in zip(alike.values(), more, strict=True)]


def _line(cells: list[Any]) -> str:
    return "| " + " | ".join(str(c) for c in cells) + " |"


def moved(rows: list[dict[str, Any]]) -> list[str]:
    """Bytes over the floor of the cases at sizes that are measured."""
    head = ["op", "B, L, H", "storage", "", "bytes / floor", "limit"]
    out = [_line(head), _line(["---"] * len(head))]
    for row in rows:
        cells = [row["case"], tuple(row["shape"]), row["dtype"], row["direction"], f"{ratio(row):.2f}"]
        out.append(_line([*cells, "" if row["limit"] is None else row["limit"]]))
    return out


def summary(compiled: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By kernel and architecture: how many variants were compiled, and the most that one of them needs."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for c in compiled:
        groups.setdefault((c["kernel"], c["arch"]), []).append(c)
    out = []
    for (kernel, arch), some in groups.items():
        whole = [c for c in some if c["whole"] and not c["error"]]
        most = {key: max((c[key] for c in whole), default=0) for key in ("registers", "spills", "stack", "shared")}
        kinds = sorted({kind for c in whole for kind in c["matrix_kinds"]})
        failed = sum(bool(c["error"]) for c in some)
        out.append({"kernel": kernel, "arch": arch, "variants": len(whole), "failed": failed, **most, "kinds": kinds})
    return out


def _bytes(rows: list[dict[str, Any]]) -> list[str]:
    return [
        "## Bytes",
        "",
        "Loaded and stored by the kernels over the floor, which reads each input and writes each output once. The",
        "scan reads one channel a program out of channels-last activations: it counts on neighbouring programs to",
        "share sectors in the cache, whose own traffic is not counted. d_state is 64.",
        "",
        *moved(rows),
        "",
    ]


def kernels(compiled: list[dict[str, Any]]) -> list[str]:
    """What the variants of each kernel need."""
    head = ["kernel", "card", "variants", "registers", "spills", "stack", "shared", "matrix instructions"]
    out = [_line(head), _line(["---"] * len(head))]
    for c in summary(compiled):
        count = f"{c['variants']} and {c['failed']} that failed" if c["failed"] else c["variants"]
        needs = [c["registers"], c["spills"], c["stack"], c["shared"], ", ".join(c["kinds"])]
        out.append(_line([f"`{c['kernel']}`", c["arch"], count, *needs]))
    return out


def report(rows: list[dict[str, Any]], compiled: list[dict[str, Any]], violations: list[str], options: str = "") -> str:
    """The whole page; ``options`` are those of the command that makes it."""
    checked = sum(not c["whole"] for c in compiled)
    which = "All of it was taken to machine code."
    if checked:
        which = f"Triton's front end took {checked} variants, these were taken to machine code."
    limits = ["Every limit is kept."] if not violations else ["Limits passed:", "", *(f"- {v}" for v in violations)]
    return "\n".join(
        [
            "# Triton kernels without a GPU",
            "",
            f"Written by `python -m benchmarks.gpu_static{options}`. **Counts, not measurements**: launches are run",
            "in Triton's interpreter, where their loads, stores and products are counted, and compiled ahead of time.",
            "What they take on a card: [gpu_model.md](gpu_model.md).",
            "",
            *limits,
            "",
            *(_bytes(rows) if rows else ()),
            "## Compiled kernels",
            "",
            f"What calls of the public functions reach, found by calling them on a fake card. {which} The most",
            "that one of them needs: registers a thread; spills, stack and shared memory in bytes.",
            "",
            *kernels(compiled),
            "",
        ]
    )
