"""The CPU kernels' vectors (csrc/cpu/simd.h) against other abstractions, and the arithmetic a core can do.

``python -m benchmarks.vectors`` compiles vectors.cpp for each instruction set that this machine has, and writes
results/vectors.md. ``peak`` is what the tables of `make bench` take a share of.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

import lyra_kernels
from lyra_kernels import backends

from . import machine

SOURCE = Path(__file__).with_suffix(".cpp")
RESULTS = Path(__file__).parent / "results" / "vectors.md"
FLAGS = "-std=c++17 -O3 -Wno-psabi -ffp-contract=fast -fno-math-errno -fno-trapping-math".split()
ARCHITECTURES = {
    "baseline": [],
    "avx2": ["-march=x86-64-v3", "-maes", "-mpclmul", "-DCPU_CAPABILITY=AVX2", "-DCPU_CAPABILITY_AVX2"],
    "avx512": ["-march=x86-64-v4", "-maes", "-mpclmul", "-mprefer-vector-width=512", "-DCPU_CAPABILITY=AVX512",
               "-DCPU_CAPABILITY_AVX512"],
}  # fmt: skip

TEXT = """# Vector abstractions, measured

Written by `python -m benchmarks.vectors` ({machine}).

Two inner loops of the CPU kernels and a loop of multiply-adds alone, each written once (vectors.cpp) and instantiated
with the vectors of csrc/cpu/simd.h, of the C++ standard's experimental library, of ATen and, where it is installed, of
Highway. Billions of operations a second on one core, the best of 100 rounds; a multiply-add is two.

{table}

The compiler makes nearly the same code of all of them, so the choice is by what each asks for: ATen's needs torch's
headers, which the kernels do without, and one width a build; Highway is one more library to have; the standard's is
experimental and its masks are awkward. The vector extensions of GCC and Clang need nothing, and run any width on any
machine, which is how the code for AVX-512 is tested where there is none.
"""


def _run(isa: str, aten: bool) -> dict[tuple[str, str], float]:
    """(abstraction, loop) -> billions of operations a second."""
    flags = [*FLAGS, *ARCHITECTURES.get(isa, [])]
    if aten:
        from torch.utils.cpp_extension import include_paths

        flags += ["-std=c++20", "-DLYRA_WITH_ATEN", *(f"-isystem{path}" for path in include_paths())]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "vectors"
        command = [*os.environ.get("CXX", "c++").split(), *flags, str(SOURCE), "-o", str(program)]
        subprocess.run(command, check=True, capture_output=True)
        out = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    rows = [line.rsplit(" ", 2) for line in out.splitlines()]
    return {(name, loop): float(rate) for name, loop, rate in rows}


@cache
def peak() -> float | None:
    """Operations a second that one core does in float32 with the instruction set in use; None without a compiler."""
    isa = lyra_kernels.backends.cpu_isa()
    if isa is None:
        return None
    try:
        return 1e9 * _run(isa if isa in ARCHITECTURES else "avx512", aten=False)["ours", "peak"]
    except (OSError, subprocess.CalledProcessError):
        return None


def main() -> None:
    isas = [isa for isa in backends.available_cpu_isas() if isa in ARCHITECTURES and isa != "baseline"] or ["baseline"]
    rates = {isa: _run(isa, aten=True) for isa in isas}
    loops = ("product", "modes", "peak")
    lines = ["| | " + " | ".join(f"{isa} {loop}" for isa in isas for loop in loops) + " |"]
    lines.append("|---|" + "---|" * (len(isas) * len(loops)))
    for name in dict.fromkeys(name for found in rates.values() for name, _ in found):
        cells = [
            f"{rates[isa][name, loop]:.0f}" if (name, loop) in rates[isa] else "" for isa in isas for loop in loops
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    what = machine.describe()
    where = f"{what['processor']}, {what['cores']} cores, torch {torch.__version__}"
    RESULTS.write_text(TEXT.format(machine=where, table="\n".join(lines)))
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
