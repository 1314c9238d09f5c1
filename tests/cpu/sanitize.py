"""Runs the CPU kernels on random shapes under sanitizers: ``python -m tests.cpu.sanitize``.

Every ``sanitize_*.cpp`` beside this file is a driver; its line ``// sources:`` names the kernel files it needs. Each is
built and run once per vector width with the address and the undefined-behaviour sanitizer, and once with the thread
sanitizer. Where the processor lacks an instruction set, its vector width is tested in the baseline's instructions.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parents[1] / "csrc" / "cpu"
WIDTHS = {
    "baseline": (16, []),
    "avx2": (32, ["-mavx2", "-mfma", "-mf16c"]),
    "avx512": (64, ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mf16c"]),
}
FLAGS = ["-std=c++17", "-O1", "-g", "-Wno-psabi", "-ffp-contract=fast", "-pthread", "-fno-omit-frame-pointer"]
SANITIZERS = {
    "address,undefined": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}


@dataclass(frozen=True)
class Build:
    """One driver, one vector width, one set of sanitizers."""

    driver: Path
    width: str
    sanitizer: str

    def __str__(self) -> str:
        return f"{self.driver.stem} {self.width} {self.sanitizer}"

    def flags(self) -> list[str]:
        size, instructions = WIDTHS[self.width]
        # One kernel namespace is enough, whatever the instructions: there is nothing to choose at run time.
        flags = [*FLAGS, *SANITIZERS[self.sanitizer], f"-DLYRA_VECTOR_BYTES={size}", "-DLYRA_ISA=baseline"]
        return [*flags, *instructions] if has(self.width) else flags


def has(width: str) -> bool:
    """Whether this processor runs a width's own instructions."""
    if width == "baseline" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        words = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return {"avx2": "avx2", "avx512": "avx512vl"}[width] in words


def sources(driver: Path) -> list[Path]:
    for line in driver.read_text().splitlines():
        if line.startswith("// sources:"):
            return [KERNELS / name for name in line.removeprefix("// sources:").split()]
    raise SystemExit(f"{driver.name}: no line '// sources:' with the kernel files that it needs")


def compile_all(builds: Sequence[Build], compiler: str, folder: Path, jobs: int) -> dict[Build, Path]:
    """The executables; a kernel file that several drivers need is compiled once for each set of flags."""
    commands: dict[Path, list[str]] = {}
    parts: dict[Build, list[Path]] = {}
    for build in builds:
        label = f"{build.width}.{build.sanitizer.replace(',', '-')}"
        parts[build] = []
        for source in [build.driver, KERNELS / "dispatch.cpp", *sources(build.driver)]:
            target = folder / f"{source.stem}.{label}.o"
            commands[target] = [compiler, *build.flags(), "-c", str(source), "-o", str(target)]
            parts[build].append(target)
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(_run, commands.values()))
    programs = {build: folder / str(build).replace(" ", ".").replace(",", "-") for build in builds}
    for build, program in programs.items():
        _run([compiler, *build.flags(), *map(str, parts[build]), "-o", str(program)])
    return programs


def _run(command: Sequence[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)}\n{result.stdout}{result.stderr}")


def run(build: Build, program: Path, cases: int, seed: int) -> bool:
    """Whether the driver came to its end; shows the report and the case it is about where it did not."""
    # Not detect_stack_use_after_return: GCC 12 puts 64-byte vectors at addresses that are no multiple of 64 then.
    options = {"UBSAN_OPTIONS": "print_stacktrace=1", "ASAN_OPTIONS": "detect_stack_use_after_return=0"}
    result = subprocess.run(
        [str(program), str(cases), str(seed)], capture_output=True, text=True, env={**os.environ, **options}
    )
    last = (result.stdout.strip().splitlines() or ["no case"])[-1]
    print(f"{'ok    ' if result.returncode == 0 else 'FAILED'} {build}: {last}", flush=True)
    if result.returncode:
        print(result.stderr[-6000:], file=sys.stderr)
    return result.returncode == 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drivers", nargs="*", help="names like s4d; all by default")
    parser.add_argument("--cases", type=int, default=300, help="random shapes for each driver and width")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", choices=WIDTHS, action="append", help="vector widths; all by default")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise SystemExit("no C++ compiler: neither CXX, g++ nor c++")
    drivers = [HERE / f"sanitize_{name}.cpp" for name in options.drivers] or sorted(HERE.glob("sanitize_*.cpp"))
    for driver in drivers:
        if not driver.exists():
            raise SystemExit(f"{driver}: no such driver")
    widths = options.width or list(WIDTHS)
    builds = [Build(driver, width, "address,undefined") for driver in drivers for width in widths]
    builds += [Build(driver, widths[0], "thread") for driver in drivers]
    with tempfile.TemporaryDirectory() as folder:
        programs = compile_all(builds, compiler, Path(folder), options.jobs)
        good = [
            run(build, program, options.cases if "address" in build.sanitizer else options.cases // 3, options.seed)
            for build, program in programs.items()
        ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
