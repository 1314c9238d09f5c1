"""Builds lyra_kernels/_C: C++ for every CPU always, CUDA where nvcc is found.

Environment:
  LYRA_BUILD_CPP   unset: build, and go on in pure PyTorch if that fails; 1: fail if it fails; 0: do not build
  LYRA_BUILD_CUDA  unset: build where nvcc is found; 1: fail if it is not; 0: do not build
  LYRA_ISAS        instruction sets to build, e.g. "avx2" while developing (baseline is always built)
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # a PEP 517 build does not put the project's folder on the path

CSRC = Path("csrc")
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # torch 2.10 and newer
COMMON_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"]
KERNEL_FLAGS = ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-semantic-interposition"]
ISA_FLAGS = {
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mf16c",
               "-mprefer-vector-width=512"],
}  # fmt: skip
BF16_FLAGS = {
    "avx512_bf16": [*ISA_FLAGS["avx512"], "-mavx512bf16"],
    "amx": [*ISA_FLAGS["avx512"], "-mavx512bf16", "-mamx-tile", "-mamx-bf16"],
}
"""Instruction sets of which only the products of bfloat16 operands are made, beside the kernels of avx512."""


def switch(name: str) -> bool | None:
    """The value of an on/off/automatic environment variable."""
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"{name}={value!r}: it must be 0, 1 or unset")
    return None if value == "" else value == "1"


def instruction_sets() -> list[str]:
    """The instruction sets to compile the CPU kernels for, beside the baseline."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return []
    wanted = os.environ.get("LYRA_ISAS")
    if wanted is None:
        return list(ISA_FLAGS)
    names = [name.strip() for name in wanted.split(",") if name.strip() not in ("", "baseline")]
    for name in names:
        if name not in ISA_FLAGS:
            raise SystemExit(f"LYRA_ISAS={wanted!r}: {name!r} is none of baseline, {', '.join(ISA_FLAGS)}")
    return names


class BuildNative(build_ext):
    """Compiles each kernel file once per instruction set, in parallel, and only what changed."""

    def run(self) -> None:
        wanted = switch("LYRA_BUILD_CPP")
        self.nvcc = self.find_nvcc()
        instruction_sets()  # a wrong setting is an error whatever happens next
        if wanted is False:
            return
        try:
            super().run()
        except Exception as error:  # a missing compiler must not make the package uninstallable
            if wanted:
                raise
            print(
                f"lyra: the native kernels were not built ({error}). The package works in pure PyTorch, slower; "
                "`lyra env` says so too. LYRA_BUILD_CPP=1 makes this an error.",
                file=sys.stderr,
            )

    def copy_extensions_to_source(self) -> None:
        # By renaming: a process that has the old library mapped keeps it.
        for ext in self.extensions:
            built = Path(self.build_lib) / self.get_ext_filename(ext.name)
            target = ROOT / self.get_ext_filename(ext.name)
            if built.exists():
                unfinished = target.with_name(target.name + f".{os.getpid()}.tmp")
                shutil.copy2(built, unfinished)
                os.replace(unfinished, target)

    def build_extension(self, ext: Extension) -> None:
        if sys.platform == "win32":
            raise RuntimeError("the CPU kernels need GCC or Clang")
        import torch
        from torch.utils.cpp_extension import include_paths, library_paths

        isas = instruction_sets()
        products = self.bf16_sets() if "avx512" in isas else []
        built = [f"-DLYRA_BUILT_{isa.upper()}" for isa in (*isas, *products)]
        includes = [f"-isystem{path}" for path in include_paths()]
        python = [f"-I{path}" for path in self.include_dirs]
        host = [*COMMON_FLAGS, *built, STABLE_ABI, f"-I{CSRC}", *includes, *python]
        jobs: list[tuple[Path, str, list[str]]] = []
        jobs.append((CSRC / "bind/module.cpp", "module", [*host, *self.cuda_architectures()]))
        jobs.append((CSRC / "bind/children.cpp", "children", host))
        for folder in ("cpu", "plans"):
            for source in sorted((CSRC / "bind" / folder).glob("*.cpp")):
                jobs.append((source, f"bind.{folder}.{source.stem}", host))
        jobs.append((CSRC / "cpu/dispatch.cpp", "dispatch", [*COMMON_FLAGS, *built]))
        for source in sorted((CSRC / "cpu").glob("*.cpp")):
            if source.name == "dispatch.cpp":
                continue
            for isa in ["baseline", *isas]:
                flags = [*COMMON_FLAGS, *KERNEL_FLAGS, *built, f"-DLYRA_ISA={isa}", *ISA_FLAGS.get(isa, [])]
                jobs.append((source, f"{source.stem}.{isa}", flags))
        for isa in products:
            flags = [*COMMON_FLAGS, *KERNEL_FLAGS, *BF16_FLAGS[isa], "-Wno-uninitialized"]  # of GCC 12's own headers
            jobs.append((CSRC / f"cpu/bf16/{isa}.cpp", f"bf16.{isa}", flags))
        objects_dir = self.objects_folder() / f"torch-{torch.__version__}"
        objects_dir.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(max_workers=self.parallel or os.cpu_count()) as pool:
            objects = list(pool.map(lambda job: self.compile(objects_dir, *job), jobs))
        extra_objects, extra_link = self.cuda(objects_dir, host)
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(target.name + f".{os.getpid()}.tmp")
        link = [*self.compiler_command(), "-shared", *objects, *extra_objects, "-o", str(unfinished)]
        link += [f"-L{path}" for path in library_paths()] + ["-ltorch", "-ltorch_cpu", "-lc10", *extra_link]
        if sys.platform == "darwin":
            link += ["-undefined", "dynamic_lookup"]
        else:  # lazily: a C++ program that loads the library for its operators has no Python's symbols
            link += ["-ldl", "-Wl,-z,lazy"]
        self.call(link)
        os.replace(unfinished, target)

    def objects_folder(self) -> Path:
        """Where objects are kept for the next build, of whatever kind: an editable install has a folder that is gone
        after it."""
        if not self.editable_mode:
            return ROOT / self.build_temp
        return ROOT / "build" / f"temp.{self.plat_name}-{sys.implementation.cache_tag}"

    def compiler_command(self) -> list[str]:
        return os.environ.get("CXX", "c++").split()

    def bf16_sets(self) -> list[str]:
        """Those of BF16_FLAGS that the compiler knows."""
        command = [*self.compiler_command(), "-fsyntax-only", "-x", "c++", os.devnull]
        return [
            isa
            for isa, flags in BF16_FLAGS.items()
            if not subprocess.run([*command, *flags], capture_output=True).returncode
        ]

    def compile(self, objects_dir: Path, source: Path, name: str, flags: list[str]) -> str:
        target = objects_dir / f"{name}.o"
        command = [*self.compiler_command(), *flags, "-MMD", "-c", str(source), "-o", str(target)]
        record = target.with_suffix(".cmd")
        if not (self.up_to_date(target) and record.exists() and record.read_text() == " ".join(command)):
            self.call(command)
            record.write_text(" ".join(command))
        return str(target)

    @staticmethod
    def up_to_date(target: Path) -> bool:
        dependencies = target.with_suffix(".d")
        if not (target.exists() and dependencies.exists()):
            return False
        made = target.stat().st_mtime
        names = dependencies.read_text().replace("\\\n", " ").split(":", 1)[1].split()
        return all(Path(name).exists() and Path(name).stat().st_mtime <= made for name in names)

    @staticmethod
    def call(command: list[str]) -> None:
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if result.stdout or result.stderr:
            print(result.stdout + result.stderr, file=sys.stderr, flush=True)
        if result.returncode:
            raise RuntimeError(f"{command[0]} failed on {command[-3] if '-c' in command else command[-1]}")

    @staticmethod
    def find_nvcc() -> str | None:
        """The CUDA compiler to use, or None where CUDA is not to be built."""
        wanted = switch("LYRA_BUILD_CUDA")
        if wanted is False or not (ROOT / "build_cuda.py").exists():
            return None
        import build_cuda

        nvcc = build_cuda.find_nvcc()
        if wanted and nvcc is None:
            raise SystemExit("LYRA_BUILD_CUDA=1, but there is no nvcc on PATH, in CUDA_HOME or in /usr/local/cuda")
        return nvcc

    def cuda_architectures(self) -> list[str]:
        """The flag by which the module knows what its CUDA kernels are compiled for; none where there are none."""
        if self.nvcc is None:
            return []
        import build_cuda

        return [f'-DLYRA_CUDA_ARCHITECTURES="{build_cuda.code_names(build_cuda.architectures(self.nvcc))}"']

    def cuda(self, objects_dir: Path, host_flags: list[str]) -> tuple[list[str], list[str]]:
        """Objects and link flags of the CUDA kernels and their bindings; none where CUDA is not built."""
        if self.nvcc is None:
            return [], []
        import build_cuda

        return build_cuda.build(self.nvcc, objects_dir, host_flags, self.compile)


class LimitedApiWheel(bdist_wheel):
    """One wheel for every Python from 3.10 on, or for any platform when nothing native was built."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.py_limited_api = "cp310"


setup(
    ext_modules=[Extension("lyra_kernels._C", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": LimitedApiWheel},
)
