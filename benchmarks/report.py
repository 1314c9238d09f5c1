"""Tables and pictures from pytest-benchmark's record: `python -m benchmarks.report RESULTS.json`."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from . import floor

NAMES = {
    "lyra": "Lyra (this package)",
    "eager": "published, PyTorch",
    "float32": "the layer in float32",
    "compile": "torch.compile",
    "attention": "attention (SDPA)",
    "transformer": "transformer (SDPA)",
}
COLOURS = {"lyra": "C3", "eager": "C0", "compile": "C2", "attention": "C7", "transformer": "C7"}
Record = dict[str, Any]


def load(file: Path) -> tuple[list[Record], dict[str, str], float | None]:
    """The cases' records, the machine and the operations a second of one of its cores."""
    content = json.loads(file.read_text())
    records = [entry["extra_info"] for entry in content["benchmarks"]]
    records = [r for r in records if "subject" in r]
    records.sort(key=lambda r: (r.get("training", False), r["length"], r.get("threads", 1)))
    return records, content["machine"], content.get("peak")


def tables(records: list[Record], machine: dict[str, str], peak: float | None) -> str:
    """Everything measured, as Markdown."""
    lines = ["# Measured", "", ", ".join(f"{key} {value}" for key, value in machine.items() if value) + ".", ""]
    lines += [
        "d_model = d_state = 64, float32 where nothing else is said. Milliseconds are medians; a ratio is that side's",
        "time over ours, the median over rounds taken in turn, with its quartiles. `make bench` makes this anew.",
        "",
    ]
    if peak:
        lines += [
            f"Of peak: the multiply-adds of matrix products and scans alone (floor.py), at {peak / 1e9:.0f} GFLOP/s a",
            "core (vectors.py), over the time taken. What is missing to 100 % are norms, gates, GELU and memory.",
            "",
        ]
    opponents = [r for r in records if r.get("table") == "opponents"]
    for subject in sorted({r["subject"] for r in opponents}, key=str.lower):
        lines += [f"## {subject}", "", *_opponents([r for r in opponents if r["subject"] == subject], peak), ""]
    threads = [r for r in records if r.get("table") == "threads"]
    if threads:
        lines += [
            "## All cores against one",
            "",
            "| | B x L | | threads | ms | one thread takes |",
            "|---|---|---|---|---|---|",
        ]
        for r in threads:
            lines.append(f"| {r['subject']} {_start(r)} | {_ratio(r['ratio']['one thread'])} |")
        lines.append("")
    length = [r for r in records if r.get("table") == "length"]
    if length:
        lines += ["## The same number of tokens in one long sequence, and in short ones", ""]
        lines += ["| | B x L | | threads | ms | times the time of short sequences |", "|---|---|---|---|---|---|"]
        for r in length:
            ((side, (median, low, high)),) = r["ratio"].items()
            inverse = _ratio([1 / median, 1 / high, 1 / low])
            lines.append(f"| {r['subject']} {_start(r)} | {inverse}, {side} |")
        lines.append("")
    strands = [r for r in records if r.get("table") == "strands"]
    if strands:
        lines += ["## A model of both strands: its time over that of a model of one strand as wide", ""]
        lines += ["| | B x L | | threads | ms | times one call | times a call for either strand |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for r in strands:
            shares = (r["ratio"][side] for side in ("one strand", "either strand"))
            cells = " | ".join(_ratio([1 / median, 1 / high, 1 / low]) for median, low, high in shares)
            lines.append(f"| {r['subject']} {_start(r)} | {cells} |")
        lines.append("")
    memory = [r for r in records if r["subject"] == "memory"]
    if memory:
        lines += ["## Peak memory of a training step of one layer, batch 1, as multiples of its input", ""]
        lines += ["| L | input | Lyra | published, PyTorch | attention (SDPA) |", "|---|---|---|---|---|"]
        for r in memory:
            cells = [
                f"{r['peak'][s] / r['input_bytes']:.1f}" if s in r["peak"] else ""
                for s in ("lyra", "eager", "attention")
            ]
            lines.append(f"| {r['length']} | {r['input_bytes'] / 2**20:.3g} MiB | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _start(r: Record) -> str:
    """The first cells of a row: size, kind, threads and our own time."""
    kind = "training step" if r["training"] else "forward"
    return f"| {r['batch']} x {r['length']} | {kind} | {r['threads']} | {r['median_ms']['lyra']:.3g}"


def _opponents(rows: list[Record], peak: float | None) -> list[str]:
    """The rows of one subject as a table."""
    sides = [s for s in NAMES if any(s in r["ratio"] for r in rows)]
    shares = [
        floor.share(r["subject"], r["batch"], r["length"], r["training"], r["median_ms"]["lyra"], peak)
        if peak and r["threads"] == 1
        else None
        for r in rows
    ]
    heads = ["of peak"] if any(shares) else []
    lines = ["| B x L | | threads | ms | " + " | ".join([*heads, *(NAMES[s] for s in sides)]) + " |"]
    lines.append("|---|---|---|---|" + "---|" * (len(heads) + len(sides)))
    for r, share in zip(rows, shares, strict=True):
        cells = [f"{share:.0%}" if share else ""] if heads else []
        cells += [_ratio(r["ratio"].get(side)) for side in sides]
        lines.append(_start(r) + " | " + " | ".join(cells) + " |")
    return lines


def _ratio(value: list[float] | None) -> str:
    if value is None:
        return ""
    median, low, high = value
    return f"{median:.3g}x ({low:.3g} to {high:.3g})"


def crossing(rows: list[Record], side: str) -> float | None:
    """The length, interpolated in the logarithm, from which ours is the faster; None if it always or never is."""
    points = sorted((r["length"], r["ratio"][side][0]) for r in rows if side in r["ratio"])
    for (l0, r0), (l1, r1) in itertools.pairwise(points):
        if r0 < 1 <= r1:
            return l0 * (l1 / l0) ** ((1 - r0) / (r1 - r0))
    return None


def draw_time(records: list[Record], file: Path, training: bool, threads: int = 1) -> None:
    """Time per token against length, one panel a subject, points of crossing marked."""
    subjects = ("S4D", "PGC", "Lyra")
    records = [r for r in records if r.get("table") == "opponents"]
    figure, axes = plt.subplots(1, len(subjects), figsize=(11, 3.4), layout="constrained")
    for axis, subject in zip(axes, subjects, strict=True):
        rows = [r for r in records if r["subject"] == subject and r["training"] == training and r["threads"] == threads]
        for side in NAMES:
            found = sorted(
                (r["length"], 1e3 * r["median_ms"][side] / (r["batch"] * r["length"]))
                for r in rows
                if side in r["median_ms"]
            )
            if not found:
                continue
            axis.loglog(*zip(*found, strict=True), "o-", ms=4, color=COLOURS[side], label=NAMES[side])
            where = crossing(rows, side) if side != "lyra" else None
            if where is not None:
                axis.axvline(where, color=COLOURS[side], ls=":", lw=1)
        axis.set(title=f"{subject}{' layer' if subject != 'Lyra' else ' model'}", xlabel="sequence length")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    axes[0].set_ylabel(f"{'training step' if training else 'forward'}, µs per token")
    _save(figure, file)


def draw_memory(records: list[Record], file: Path) -> None:
    """Peak memory against length."""
    rows = [r for r in records if r["subject"] == "memory"]
    figure, axis = plt.subplots(figsize=(4, 3.2), layout="constrained")
    for side in ("lyra", "eager", "attention"):
        found = sorted((r["length"], r["peak"][side] / 2**20) for r in rows if side in r["peak"])
        axis.loglog(*zip(*found, strict=True), "o-", ms=4, color=COLOURS[side], label=NAMES[side])
    axis.set(xlabel="sequence length", ylabel="peak memory of a training step, MiB", title="one layer, batch 1")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    _save(figure, file)


def _save(figure: plt.Figure, file: Path) -> None:
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main(file: Path) -> None:
    """Writes the Markdown table and the pictures beside the record."""
    records, machine, peak = load(file)
    file.with_suffix(".md").write_text(tables(records, machine, peak))
    for training in (False, True):
        name = f"{file.stem}_{'training' if training else 'forward'}.png"
        if any(
            r["training"] == training
            for r in records
            if r["subject"] in ("S4D", "PGC", "Lyra") and r.get("table") == "opponents"
        ):
            draw_time(records, file.with_name(name), training)
    if any(r["subject"] == "memory" for r in records):
        draw_memory(records, file.with_name(f"{file.stem}_memory.png"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
