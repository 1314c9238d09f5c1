"""Compiles the CUDA kernels with nvcc and their bindings with the C++ compiler; setup.py links the result.

Neither a GPU, nor a driver, nor a PyTorch with CUDA is needed: the kernels include no torch headers, and cudart is
linked statically.

Environment:
  TORCH_CUDA_ARCH_LIST  as in PyTorch: "8.0;9.0+PTX". By default every architecture of DEFAULT_ARCHITECTURES that this
                        nvcc knows, and PTX of the newest for the cards to come.
  LYRA_BUILD_CUDA       1 (and not merely unset): a register spill is an error, not a message.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CSRC = Path("csrc")

# Code of one minor version runs on the later ones of the same major version: five serve all cards since Turing.
DEFAULT_ARCHITECTURES = "7.5;8.0;9.0;10.0;12.0+PTX"
OLDEST = (7, 5)
NAMES = {"Turing": "7.5", "Ampere": "8.0;8.6", "Ada": "8.9", "Hopper": "9.0", "Blackwell": "10.0;12.0"}

FLAGS = ["-std=c++17", "-O3", "-Werror", "all-warnings", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra"]

Compile = Callable[[Path, Path, str, list[str]], str]


class BuildError(RuntimeError):
    """nvcc failed, or what it made is not what is shipped."""


@dataclass(frozen=True)
class Usage:
    """What ptxas says of one kernel on one architecture; sizes in bytes, registers per thread."""

    kernel: str  # mangled
    architecture: str
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int  # static


def find_nvcc() -> str | None:
    """The path of nvcc: from CUDA_HOME or CUDA_PATH, from PATH, or in /usr/local/cuda; None if there is none."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        folder = os.environ.get(variable)
        found = shutil.which("nvcc", path=os.path.join(folder, "bin")) if folder else None
        if found:
            return found
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def known_architectures(nvcc: str) -> set[str]:
    """What this nvcc can make code for, like {"sm_75", "sm_80"}."""
    listed = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout
    return set(listed.split())


def architectures(nvcc: str) -> list[tuple[str, bool]]:
    """What to compile for: number, as in "90", and whether to add PTX.

    Raises:
        BuildError: TORCH_CUDA_ARCH_LIST has something that is no architecture, or one that is too old or too new.
    """
    known = known_architectures(nvcc)
    asked = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip()
    wanted = re.split(r"[;, ]+", asked or DEFAULT_ARCHITECTURES)
    entries = [(number, item.endswith("+PTX")) for item in wanted if item for number in _numbers(item)]
    chosen: dict[str, bool] = {}
    for number, ptx in entries:
        if f"sm_{number}" not in known:
            if asked:
                raise BuildError(f"TORCH_CUDA_ARCH_LIST={asked!r}: this nvcc cannot compile for sm_{number}")
            continue
        chosen[number] = chosen.get(number, False) or ptx
    if not chosen:
        raise BuildError(f"this nvcc knows none of the architectures {DEFAULT_ARCHITECTURES}")
    if not asked:
        chosen[list(chosen)[-1]] = True
    return list(chosen.items())


def _numbers(item: str) -> list[str]:
    """ "9.0+PTX" -> ["90"], "Ampere" -> ["80", "86"]."""
    name = item.removesuffix("+PTX")
    numbers = []
    for part in NAMES.get(name, name).split(";"):
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)", part)
        if not match:
            raise BuildError(f"TORCH_CUDA_ARCH_LIST: {item!r} is not an architecture like 8.0 or 9.0+PTX")
        if (int(match[1]), int(match[2])) < OLDEST:
            raise BuildError(f"TORCH_CUDA_ARCH_LIST: {item!r} is too old; these kernels need 7.5 or newer")
        numbers.append(match[1] + match[2] + match[3])
    return numbers


def code_flags(chosen: list[tuple[str, bool]]) -> list[str]:
    flags = []
    for number, ptx in chosen:
        flags += ["-gencode", f"arch=compute_{number},code=sm_{number}"]
        if ptx:
            flags += ["-gencode", f"arch=compute_{number},code=compute_{number}"]
    return flags


def code_names(chosen: list[tuple[str, bool]]) -> str:
    """What a build has code for, as ``backends.cuda.architectures`` reads it: "sm_80, sm_90, compute_90"."""
    return ", ".join(kind + number for number, ptx in chosen for kind in (("sm_", "compute_") if ptx else ("sm_",)))


def parse_usage(log: str) -> list[Usage]:
    """The resources of every kernel, from the output of ptxas -v."""
    pattern = re.compile(
        r"Compiling entry function '(\w+)' for '(\w+)'.*?"
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\s*"
        r"ptxas info\s*: Used (\d+) registers([^\n]*)",
        re.DOTALL,
    )
    found = []
    for kernel, architecture, stack, stores, loads, registers, rest in pattern.findall(log):
        shared = re.search(r"(\d+) bytes smem", rest)
        found.append(
            Usage(
                kernel,
                architecture,
                int(registers),
                int(stack),
                int(stores),
                int(loads),
                int(shared[1]) if shared else 0,
            )
        )
    return found


def report_spills(usages: list[Usage], strict: bool) -> None:
    """Say which kernels do not fit their registers: they spill, or keep an array in memory.

    Raises:
        BuildError: if strict and there is one.
    """
    spilled = [u for u in usages if u.spill_stores or u.spill_loads or u.stack]
    lines = [
        f"  {_demangle(u.kernel)} on {u.architecture}: "
        f"{u.spill_stores} bytes stored, {u.spill_loads} loaded, stack {u.stack}"
        for u in spilled
    ]
    if not spilled:
        return
    message = "register spills in the CUDA kernels:\n" + "\n".join(lines)
    if strict:
        raise BuildError(message)
    print(f"lyra: {message}", file=sys.stderr)


def _demangle(name: str) -> str:
    if not shutil.which("c++filt"):
        return name
    return subprocess.run(["c++filt", name], capture_output=True, text=True).stdout.strip() or name


def compile_kernel(nvcc: str, source: Path, target: Path, chosen: list[tuple[str, bool]]) -> list[Usage]:
    """Compile one .cu file, unless that was done since it last changed; returns what its kernels use.

    Raises:
        BuildError: nvcc failed or warned.
    """
    define = f'-DLYRA_CUDA_ARCHITECTURES="{code_names(chosen)}"'
    command = [nvcc, *FLAGS, *code_flags(chosen), define, f"-I{CSRC}", "-Xptxas", "-v", "-MMD"]
    command += ["-MF", str(target.with_suffix(".d")), "-c", str(source), "-o", str(target)]
    record = target.with_suffix(".ptxas")
    text = " ".join(command) + "\n"
    if _up_to_date(target) and record.exists() and record.read_text().startswith(text):
        return parse_usage(record.read_text())
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    log = result.stdout + result.stderr
    warnings = [line for line in log.splitlines() if "warning" in line.lower()]
    if result.returncode or warnings:
        target.unlink(missing_ok=True)
        raise BuildError(f"nvcc on {source}:\n{log if result.returncode else chr(10).join(warnings)}")
    record.write_text(text + log)
    return parse_usage(log)


def _up_to_date(target: Path) -> bool:
    dependencies = target.with_suffix(".d")
    if not (target.exists() and dependencies.exists()):
        return False
    made = target.stat().st_mtime
    names = dependencies.read_text().replace("\\\n", " ").split(":", 1)[1].split()
    return all((ROOT / name).exists() and (ROOT / name).stat().st_mtime <= made for name in names)


def compile_kernels(nvcc: str, folder: Path, chosen: list[tuple[str, bool]]) -> tuple[list[Path], list[Usage]]:
    """Compile every kernel file into `folder`; returns the objects and what the kernels use."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = sorted((ROOT / CSRC / "cuda").glob("*.cu"), key=lambda path: -path.stat().st_size)  # longest first
    targets = [folder / f"cuda.{source.stem}.o" for source in sources]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        jobs = zip(sources, targets, strict=True)
        usages = list(pool.map(lambda job: compile_kernel(nvcc, job[0].relative_to(ROOT), job[1], chosen), jobs))
    return targets, [usage for found in usages for usage in found]


def cudart_flags(nvcc: str) -> list[str]:
    """How to link the static CUDA runtime of the toolkit that nvcc belongs to.

    Raises:
        BuildError: that toolkit does not have it.
    """
    command = [nvcc, "--dryrun", "-c", str(CSRC / "cuda" / "check.cu"), "-o", os.devnull]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stderr
    folders = re.findall(r'"-L([^"]+)"', said)
    folders += [f"{top}/{name}" for top in re.findall(r"TOP=(.+)", said) for name in ("lib64", "lib")]
    for folder in folders:
        if Path(folder, "libcudart_static.a").exists():
            return [f"-L{os.path.normpath(folder)}", "-lcudart_static", "-lpthread", "-ldl", "-lrt"]
    raise BuildError(f"no libcudart_static.a in {folders}: the CUDA toolkit of {nvcc} is incomplete")


def build(nvcc: str, objects_dir: Path, host_flags: list[str], compile: Compile) -> tuple[list[str], list[str]]:
    """Compile kernels and bindings.

    Args:
        nvcc: its path.
        objects_dir: where object files go and are looked for.
        host_flags: of the C++ compiler, for the bindings.
        compile: calls it: (folder, source, object's name, flags) -> path of the object.

    Returns:
        Objects, and flags for the linker.

    Raises:
        BuildError: a compiler failed or warned, or, with LYRA_BUILD_CUDA=1, a kernel spills registers.
    """
    chosen = architectures(nvcc)
    print(f"lyra: CUDA kernels for {code_names(chosen)}", flush=True)
    kernels, usages = compile_kernels(nvcc, objects_dir, chosen)
    report_spills(usages, strict=os.environ.get("LYRA_BUILD_CUDA") == "1")
    bindings = [
        compile(objects_dir, source, f"bind.cuda.{source.stem}", [*host_flags, "-Werror"])
        for source in sorted((CSRC / "bind" / "cuda").glob("*.cpp"))
    ]
    return [*map(str, kernels), *bindings], cudart_flags(nvcc)
