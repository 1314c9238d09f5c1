"""Compiles the CUDA kernels for the CPU, against the emulation, and loads them as dispatcher ops.

The kernels, their launchers and their bindings are the files that nvcc and the C++ compiler build for a GPU. A build
comes in flavours (see runtime.h) and its ops lie in a dispatcher namespace of its own, ``lyra_emulated_<flavour>``.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.utils.cpp_extension import include_paths, library_paths

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = Path(os.environ.get("LYRA_EMULATION_BUILD", ROOT / "build" / "emulation"))

COMMON = ["-std=c++20", "-O2", "-g1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]
KERNEL = ["-ffp-contract=fast", *(["-mavx2", "-mfma", "-mf16c"] if os.uname().machine == "x86_64" else [])]
# Flags of everything, and of the kernels alone.
FLAVOURS: dict[str, tuple[list[str], list[str]]] = {
    "fibers": ([], []),
    "monitor": (["-DEMU_MONITOR"], ["-fsanitize=thread"]),
    "tsan": (["-DEMU_THREADS", "-fsanitize=thread"], []),
    "asan": (["-fsanitize=address", "-fno-omit-frame-pointer"], []),
}


def compiler() -> list[str]:
    return os.environ.get("CXX", "c++").split()


def _run(command: list[str]) -> None:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if result.returncode or result.stderr:
        raise RuntimeError(f"{' '.join(command)}\n{result.stdout}{result.stderr}")


def _fresh(target: Path, command: list[str]) -> bool:
    record, dependencies = target.with_suffix(".cmd"), target.with_suffix(".d")
    if not (target.exists() and record.exists() and record.read_text() == " ".join(command)):
        return False
    made = target.stat().st_mtime
    names = dependencies.read_text().replace("\\\n", " ").split(":", 1)[1].split()
    paths = [ROOT / name for name in names]
    return all(path.exists() and path.stat().st_mtime <= made for path in paths)


def compile_object(source: Path, folder: Path, flags: list[str]) -> Path:
    """Compile one file, unless that was done since it and its headers last changed."""
    tag = hashlib.sha256(str(source).encode()).hexdigest()[:6]
    target = folder / f"{source.stem}.{tag}.o"
    language = ["-x", "c++"] if source.suffix == ".cu" else []
    command = [*compiler(), *COMMON, *flags, f"-I{HERE}", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc' / 'cuda'}"]
    command += ["-MMD", *language, "-c", str(source), "-o", str(target)]
    if not _fresh(target, command):
        _run(command)
        target.with_suffix(".cmd").write_text(" ".join(command))
    return target


def build(flavour: str, kernels: list[Path], bindings: list[Path], name: str) -> Path:
    """A shared library of kernels (``.cu``), bindings (``.cpp``) and the runtime; returns its path."""
    general, kernel_flags = FLAVOURS[flavour]
    folder = BUILD / f"{flavour}-torch-{torch.__version__}"
    folder.mkdir(parents=True, exist_ok=True)
    python = [f"-isystem{path}" for path in [*include_paths(), sysconfig.get_paths()["include"]]]
    stable = ["-DTORCH_TARGET_VERSION=0x020a000000000000", f"-DLYRA_EMULATED=lyra_emulated_{flavour}", *python]
    # The kernels come last: of an inline function the linker keeps the first copy, and the runtime's own calls of
    # std::string must not be watched.
    jobs = [(HERE / "runtime.cpp", general), (HERE / "shared_memory.cpp", general)]
    jobs += [(HERE / "monitor.cpp", general)] if flavour == "monitor" else []
    jobs += [(source, [*general, *stable]) for source in bindings]
    jobs += [(source, [*general, *KERNEL, *kernel_flags]) for source in kernels]
    with ThreadPoolExecutor(max_workers=2) as pool:
        objects = list(pool.map(lambda job: compile_object(job[0], folder, job[1]), jobs))
    library = folder / f"{name}.so"
    if not library.exists() or any(o.stat().st_mtime > library.stat().st_mtime for o in objects):
        unfinished = library.with_suffix(f".{os.getpid()}.tmp")
        torch_libraries = [f"-L{path}" for path in library_paths()] + ["-ltorch", "-ltorch_cpu", "-lc10"]
        # The monitor answers the sanitizer's calls itself, so libtsan stays out.
        link = [flag for flag in general if flag.startswith("-fsanitize")]
        _run([*compiler(), "-shared", *link, *map(str, objects), "-o", str(unfinished), *torch_libraries])
        os.replace(unfinished, library)
    return library


def kernel_library(flavour: str) -> Path:
    """The kernels of the package with their bindings."""
    kernels, bindings = (ROOT / "csrc" / "cuda").glob("*.cu"), (ROOT / "csrc" / "bind" / "cuda").glob("*.cpp")
    return build(flavour, sorted(kernels), sorted(bindings), "kernels")


class Emulation:
    """One loaded build.

    Attributes:
        ops: the dispatcher namespace that has ``rms_norm``, ``gated_conv`` and so on, for CPU tensors.
    """

    def __init__(self, flavour: str) -> None:
        self.path = str(kernel_library(flavour))
        torch.ops.load_library(self.path)
        self.ops = getattr(torch.ops, f"lyra_emulated_{flavour}")
        self._library = ctypes.CDLL(self.path)

    def set_order(self, order: int) -> None:
        """0: threads and blocks run in order, 1: in reverse, above: at random, seeded by the number."""
        self._library.emu_set_order(order)

    def set_shared_limit(self, bytes_: int) -> None:
        """Play a card whose blocks get so much shared memory, at most 99 KB."""
        self._library.emu_set_shared_limit(bytes_)

    def count_traffic(self, on: bool) -> None:
        """Start counting from zero, or stop counting (monitor only)."""
        self._library.emu_count(int(on))

    def counters(self) -> dict[str, dict[str, Any]]:
        """Per kernel: launches, bytes, sectors, shared-memory wavefronts (monitor only).

        ``sites`` has the same by instruction: offset -> [shared, store, name, least, moved], counted in wavefronts
        where shared and in bytes where not.
        """
        self._library.emu_counters.restype = ctypes.c_char_p
        return json.loads(self._library.emu_counters())

    def source_lines(self, offsets: list[str]) -> list[str]:
        """Where the instructions at these offsets come from: ``s4d_scan.cuh:97 < s4d_scan.cu:120``, inlined first."""
        # A hook is told where it returns to, which is past the instruction.
        text = "\n".join(hex(int(offset) - 1) for offset in offsets)
        command = ["addr2line", "-a", "-i", "-s", "-e", self.path]
        said = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
        found: list[list[str]] = []
        for line in said.splitlines():
            if line.startswith("0x"):
                found.append([])
            elif (place := line.split(" (")[0]) not in found[-1]:
                found[-1].append(place)
        return [" < ".join(places[:4]) for places in found]


@cache
def emulation(flavour: str) -> Emulation:
    return Emulation(flavour)
