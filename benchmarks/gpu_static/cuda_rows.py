"""What the CUDA C++ kernels cost, without a GPU: ``python -m benchmarks.gpu_static --cuda``.

Bytes, 32-byte sectors and shared-memory wavefronts are counted by the emulation, warp by warp, from
the addresses of the kernels' own loads and stores. Registers, spills and shared memory are ptxas's, where there is an
nvcc.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import build_cuda
from emulation.build import ROOT, emulation

LIMITS = {
    "gated_conv": 1.25,
    "s4d_kernel": 1.25,
    "s4d_scan": 2.5,
    "rms_norm": 1.25,
    "fft_pack": 1.25,
    "fft_unpack": 1.25,
}
"""Bytes moved over the floor (each input read once, each output written once) that an op and its backward may reach."""
SHORT = "short"
"""In the size of a case that has no limit of bytes; see `PAGE`."""
STATIC_SHARED = 48 * 1024
"""Bytes of shared memory that a kernel may declare."""
SECTORS = 0.9
CONFLICTS = 0.01
"""Of an op's wavefronts: what the set-up of a block may cost. An inner loop with a conflict is far above it."""
ARCHITECTURES = ("75", "80", "90", "100", "120")
# Per multiprocessor: registers, threads, blocks, bytes of shared memory (CUDA C++ Programming Guide, table of
# technical specifications).
MULTIPROCESSOR = {
    "75": (65536, 1024, 16, 65536),
    "80": (65536, 2048, 32, 167936),
    "90": (65536, 2048, 32, 233472),
    "100": (65536, 2048, 32, 233472),
    "120": (65536, 1536, 24, 102400),
}


@dataclass(frozen=True)
class Case:
    """A call to count: an op, how its size reads, and its arguments."""

    op: str
    size: str
    arguments: tuple[Any, ...]

    @property
    def floor(self) -> int:
        """Bytes of every argument; the results are added when they are known."""
        return sum(_bytes(a) for a in self.arguments if isinstance(a, Tensor))


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


def _spectrum(channels: int, modes: int, directions: int | None = None) -> list[Tensor]:
    shape = (channels, modes, 2) if directions is None else (directions, channels, modes, 2)
    A_imag = 3.14159 * torch.arange(modes, dtype=torch.float32).repeat(channels, 1)
    return [torch.rand(channels) * 4.6 - 6.9, torch.full((channels, modes), -0.7), A_imag, torch.randn(shape)]


def cases(kernels: Any, reduced: bool = False) -> Iterator[Case]:
    """The calls that are counted; ``kernels`` makes the checkpoints that a backward needs.

    Args:
        reduced: smaller ones, of a single sequence, for a test.
    """
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        B, L, E, k = 1 if reduced else 4, 512, 64, 3
        gated = (torch.randn(B, L, 2 * E).to(dtype), torch.randn(E, 1, k), torch.randn(E), torch.randn(2 * E))
        rest = (None, None, 1e-8, False)
        size = f"{name} B={B} L={L} E={E} k={k}"
        yield Case("gated_conv", size, (*gated, *rest))
        yield Case("gated_conv_backward", size, (torch.randn(B, L, E).to(dtype), *gated, *rest))
        # Reduced: a group of channels, and as many segments in both storage types.
        L, H, M = (4096, 32, 32) if not reduced else (1024, 8, 32) if dtype == torch.float32 else (2048, 16, 32)
        u = torch.randn(1, L, H).to(dtype)
        for directions in (2,) if reduced else (1, 2):
            scan = (u, *_spectrum(H, M, directions), torch.randn(H), None, None, None)
            size = f"{name} B=1 L={L} H={H} N={2 * M}{', both directions' if directions == 2 else ''}"
            yield Case("s4d_scan", size, (*scan, False))
            checkpoints = kernels.s4d_scan(*scan, True)[2]
            yield Case("s4d_scan_backward", size, (torch.randn_like(u), None, *scan, checkpoints))
    if reduced:
        return
    for dtype, H in ((torch.float32, 8), (torch.bfloat16, 16)):
        u = torch.randn(16, 128, H).to(dtype)
        scan = (u, *_spectrum(H, M, 2), torch.randn(H), None, None, None)
        size = f"{str(dtype).removeprefix('torch.')} B=16 L=128 H={H} N={2 * M}, both directions, {SHORT}"
        yield Case("s4d_scan", size, (*scan, False))
        checkpoints = kernels.s4d_scan(*scan, True)[2]
        yield Case("s4d_scan_backward", size, (torch.randn_like(u), None, *scan, checkpoints))
    H, M, L = 4, 32, 8192
    yield Case("s4d_kernel", f"float32 H={H} N={2 * M} L={L}", (*_spectrum(H, M), L))
    yield Case("s4d_kernel_backward", f"float32 H={H} N={2 * M} L={L}", (torch.randn(H, L), *_spectrum(H, M)))
    x = torch.randn(8, 512, 64)
    yield Case("rms_norm", "float32 4096 x 64", (x, torch.randn(64), 1e-8))
    yield Case("rms_norm_backward", "float32 4096 x 64", (torch.randn_like(x), x, torch.randn(64), 1e-8))
    spectra = torch.randn(8, 64, 257, 2)
    yield Case("fft_multiply_", "float32 B=8 L=256 H=64", (spectra, torch.randn(64, 257, 2), False))
    yield Case("fft_correlate", "float32 B=8 L=256 H=64", (spectra, torch.randn_like(spectra)))
    yield Case("fft_pack", "float32 B=8 L=512 H=64", (x, None, None, 1024))
    yield Case("fft_unpack", "float32 B=8 L=512 H=64", (x, torch.randn(8, 64, 1024), torch.randn(64), None, None))


def traffic(
    progress: Callable[[str], None] = lambda line: None, only: str = "", reduced: bool = False
) -> list[dict[str, Any]]:
    """One row per kernel of each case, and one with kernel "" for the case as a whole.

    Returns:
        Rows with op, size, kernel, launches, threads, dynamic_bytes, moved_bytes, sectors_used (bytes asked for over
        bytes of the sectors touched), conflicts (shared-memory wavefronts beyond the least, per least); the case's
        row also has floor_bytes and ratio.
    """
    machine = emulation("monitor")
    rows: list[dict[str, Any]] = []
    for case in cases(machine.ops, reduced):
        if only not in case.op:
            continue
        progress(f"{case.op} {case.size}")
        machine.count_traffic(True)
        results = getattr(machine.ops, case.op)(*case.arguments)
        counted = machine.counters()
        machine.count_traffic(False)
        results = (results,) if isinstance(results, Tensor) else results
        floor = case.floor + sum(_bytes(r) for r in results or ())
        if case.op == "fft_multiply_":  # which writes where it reads
            floor += _bytes(case.arguments[0])
        if case.op == "fft_unpack":  # which reads the half of the signal that has tokens
            floor -= _bytes(case.arguments[1]) // 2
        rows.append({"op": case.op, "size": case.size, "kernel": "", "floor_bytes": floor, **_sum(counted.values())})
        rows[-1]["ratio"] = rows[-1]["moved_bytes"] / floor
        rows += [
            {"op": case.op, "size": case.size, "kernel": k, **_sum([c]), "places": _places(machine, c["sites"])}
            for k, c in counted.items()
        ]
    return rows


def _places(machine: Any, sites: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The instructions that move more than they must, worst first."""
    worse = {offset: site for offset, site in sites.items() if site[4] > site[3]}
    lines = machine.source_lines(list(worse)) if worse else []
    places = [
        {"line": line, "shared": shared, "store": store, "name": name, "least": least, "moved": moved}
        for line, (shared, store, name, least, moved) in zip(lines, worse.values(), strict=True)
    ]
    return sorted(places, key=lambda place: place["least"] - place["moved"])


def _sum(counters: Any) -> dict[str, Any]:
    counters = list(counters)
    total = {key: sum(c[key] for c in counters) for key in counters[0] if key != "sites"}
    moved = total["load_bytes"] + total["store_bytes"]
    sectors = 32 * (total["load_sectors"] + total["store_sectors"])
    ideal = total["shared_ideal"]
    return {
        "launches": total["launches"],
        "threads": max(c["threads"] for c in counters),
        "dynamic_bytes": max(c["dynamic_bytes"] for c in counters),
        "moved_bytes": moved,
        "sectors_used": moved / sectors if sectors else 1.0,
        "conflicts": (total["shared_wavefronts"] - ideal) / ideal if ideal else 0.0,
    }


def occupancy(architecture: str, registers: int, threads: int, shared: int) -> float:
    """Resident warps over the most that a multiprocessor holds; 0 where a block asks for more than there is, as the
    scan does not do there: its segments are shorter on a card with less shared memory."""
    most_registers, most_threads, most_blocks, most_shared = MULTIPROCESSOR[architecture]
    per_warp = -(-registers * 32 // 256) * 256
    warps = -(-threads // 32)
    blocks = min(
        most_registers // (per_warp * warps), most_threads // (warps * 32), most_blocks, most_shared // (shared + 1024)
    )
    return blocks * warps * 32 / most_threads


def instances(folder: Path | None = None) -> list[build_cuda.Usage]:
    """What ptxas says of every instance of every kernel on every architecture, by its name in C++; [] without an nvcc.

    A launcher that reaches an instance makes the compiler emit it: there are no others, and none is listed by hand.
    """
    nvcc = build_cuda.find_nvcc()
    if nvcc is None:
        return []
    folder = (folder or ROOT / "build" / "gpu_static").resolve()
    usages = build_cuda.compile_kernels(nvcc, folder, [(a, False) for a in ARCHITECTURES])[1]
    names = subprocess.run(["c++filt"], input="\n".join(u.kernel for u in usages), capture_output=True, text=True)
    return [replace(u, kernel=name) for u, name in zip(usages, names.stdout.splitlines(), strict=True)]


def instance_problems(usages: list[build_cuda.Usage]) -> list[str]:
    """Instances that do not fit their registers or shared memory, or have no code for one of the architectures."""
    out = []
    for u in usages:
        if u.spill_stores or u.spill_loads or u.stack:
            spills = u.spill_stores + u.spill_loads
            out.append(f"{u.kernel}: spills {spills} bytes, stack {u.stack} on {u.architecture}")
        if u.shared > STATIC_SHARED:
            out.append(f"{u.kernel}: {u.shared} bytes of static shared memory on {u.architecture}")
    architectures = {u.architecture for u in usages}
    for kernel in dict.fromkeys(u.kernel for u in usages):
        lacking = architectures - {u.architecture for u in usages if u.kernel == kernel}
        out += [f"{kernel}: no code for {architecture}" for architecture in sorted(lacking)]
    return out


def resources(usages: list[build_cuda.Usage]) -> dict[str, dict[str, dict[str, int]]]:
    """Kernel -> architecture -> the largest use of its float instantiations; spills and stack of all of them."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for usage in usages:
        name = usage.kernel
        kernel = name.split("(anonymous namespace)::")[-1].split("lyra::cuda::")[-1] if "<" not in name else ""
        kernel = kernel or name.split("<")[0].split("::")[-1]
        use = found.setdefault(kernel, {}).setdefault(
            usage.architecture.removeprefix("sm_"), {"registers": 0, "spills": 0, "stack": 0, "static_bytes": 0}
        )
        if "<double" not in name:
            use["registers"] = max(use["registers"], usage.registers)
            use["static_bytes"] = max(use["static_bytes"], usage.shared)
        use["spills"] = max(use["spills"], usage.spill_stores + usage.spill_loads)
        use["stack"] = max(use["stack"], usage.stack)
    return found


def rows(
    usages: list[build_cuda.Usage], progress: Callable[[str], None] = lambda line: None, only: str = ""
) -> list[dict[str, Any]]:
    """`traffic`, with registers, spills, stack, shared_bytes and occupancy per architecture, of :func:`instances`.

    Args:
        usages: of all instances.
        progress: is told what is done.
        only: counts the ops whose name has this in it.
    """
    result = traffic(progress, only)
    found = resources(usages)
    for row in result:
        for architecture, use in found.get(row["kernel"], {}).items():
            shared = use["static_bytes"] + row["dynamic_bytes"]
            row[f"sm_{architecture}"] = {
                **use,
                "shared_bytes": shared,
                "occupancy": occupancy(architecture, use["registers"], row["threads"], shared),
            }
    return result


def problems(found: list[dict[str, Any]]) -> list[str]:
    """What in these rows misses the limits above."""
    out = []
    for row in found:
        what = f"{row['op']} ({row['size']}) {row['kernel']}".strip()
        limit = LIMITS.get(row["op"].removesuffix("_backward"))
        if row["kernel"] == "" and limit is not None and SHORT not in row["size"] and row["ratio"] > limit:
            out.append(f"{what}: moves {row['ratio']:.2f} times the floor, more than {limit}")
        if row["kernel"] == "" and row["sectors_used"] < SECTORS:
            out.append(f"{what}: uses {row['sectors_used']:.0%} of the sectors it touches")
        if row["kernel"] == "" and row["conflicts"] > CONFLICTS:
            out.append(f"{what}: {row['conflicts']:.1%} of its shared-memory wavefronts are bank conflicts")
    return out


def table(found: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| op | size | moved / floor | sectors used | bank conflicts |", "|---|---|---|---|---|"]
    for row in (r for r in found if r["kernel"] == ""):
        lines.append(
            f"| {row['op']} | {row['size']} | {row['ratio']:.2f} | {row['sectors_used']:.0%} | {row['conflicts']:.1%} |"
        )
    kernels: dict[str, dict[str, Any]] = {}
    for row in (r for r in found if f"sm_{ARCHITECTURES[0]}" in r):  # each with the case that takes most shared memory
        best = kernels.setdefault(row["kernel"], row)
        if row["dynamic_bytes"] > best["dynamic_bytes"]:
            kernels[row["kernel"]] = row
    if kernels:
        lines += [
            "",
            "| kernel | threads | registers | spills, stack | shared KB | occupancy |",
            "|---|---|---|---|---|---|",
        ]
    for name, row in kernels.items():
        uses = [row[f"sm_{a}"] for a in ARCHITECTURES]

        def each(key: str, form: str = "{}", uses: list[dict[str, Any]] = uses) -> str:
            return " / ".join(form.format(u[key]) for u in uses)

        lost = max(u["spills"] + u["stack"] for u in uses)
        shared = max(u["shared_bytes"] for u in uses) / 1024
        full = " / ".join(f"{u['occupancy']:.0%}" if u["occupancy"] else "-" for u in uses)
        lines.append(f"| {name} | {row['threads']} | {each('registers')} | {lost} | {shared:.1f} | {full} |")
    if kernels:
        lines.append(f"\nRegisters and occupancy on {' / '.join('sm_' + a for a in ARCHITECTURES)}.")
    return "\n".join(lines)


def places(found: list[dict[str, Any]]) -> str:
    """For each kernel, the source lines with bank conflicts or unused sectors."""
    lines = []
    for row in (r for r in found if r.get("places")):
        lines.append(f"{row['op']} ({row['size']}) {row['kernel']}:")
        for place in row["places"]:
            unit = "wavefronts" if place["shared"] else "bytes"
            what = f"{'store to' if place['store'] else 'load from'} {place['name']}"
            lines.append(f"  {place['least']:>9} -> {place['moved']:>9} {unit}: {what}, {place['line']}")
    return "\n".join(lines)


PAGE = """# CUDA C++ kernels without a GPU

Written by `python -m benchmarks.gpu_static --cuda`. **Counts and predictions, not measurements**: the kernels' own
source runs on the CPU under an emulation that sees every address; registers and spills are ptxas's.

Moved / floor: bytes of all loads and stores to global memory, states and tables between the launches included, over
those of the arguments and results. Sectors used: bytes asked for over the bytes of the 32-byte sectors that a warp's
access touches. Bank conflicts: wavefronts of shared memory beyond the least, per least.

The limit of bytes does not cover 'short' sequences: the tables of every block weigh as much there as its activations.
They come from the cache, and `auto` convolves directly at such lengths.
"""


def report(found: list[dict[str, Any]], missed: list[str]) -> str:
    """The page of results."""
    limits = ["Every limit is kept."] if not missed else ["Limits passed:", "", *(f"- {line}" for line in missed)]
    return "\n".join([PAGE, *limits, "", table(found), ""])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the rows there")
    parser.add_argument("--page", type=Path, help="also write the page there")
    parser.add_argument("--check", action="store_true", help="fail where a limit is missed")
    parser.add_argument("--places", action="store_true", help="also list the lines with conflicts or unused sectors")
    parser.add_argument("--only", default="", help="count only the ops whose name has this in it")
    options = parser.parse_args(arguments)

    def progress(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    progress(f"compiling for {', '.join('sm_' + a for a in ARCHITECTURES)}")
    usages = instances()
    found = rows(usages, progress, options.only)
    missed = problems(found) + instance_problems(usages)
    print(table(found))
    if options.places:
        print("\n" + places(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.page:
        options.page.write_text(report(found, missed))
    for line in missed:
        print("missed:", line, file=sys.stderr)
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
