"""Runs the emulated kernels under the compiler's sanitizers: ``python -m tests.emulation.sanitize [asan] [tsan]``.

asan
    fibers under AddressSanitizer and UndefinedBehaviorSanitizer: every test of the ops.
tsan
    one operating-system thread per CUDA thread under ThreadSanitizer: a selection of the tests. A kernel with a
    missing barrier must be reported first, or the run proves nothing.

Python itself is not built with the sanitizer, so its library is loaded first, by LD_PRELOAD.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from emulation.build import ROOT, compiler

TESTS = ["tests/emulation/test_ops.py", "tests/emulation/test_s4d.py"]
# Without capture: what a sanitizer says before it stops the process would be lost.
PYTEST = ["-m", "pytest", "-q", "-x", "--capture=no", "-p", "no:cacheprovider"]
# Small shapes of every kernel: a block of 256 threads with ten barriers takes a tenth of a second.
TSAN = "(gated_conv and (2-37 or padded)) or (rms_norm and shape0-dtype0) or (s4d_kernel and 5-1-1-dtype1) or "
TSAN += "(s4d_scan and 2-70-5-4) or (fft_conv and 2-37)"
PLANTED = """
from tests.emulation.test_emulator import run
print(run("tsan", "{kernel}", 0))
"""


def _library(name: str) -> str:
    said = subprocess.run([*compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = Path(said.stdout.strip())
    if not path.is_absolute():
        raise SystemExit(f"the compiler has no {name}")
    return str(path.resolve())


def _environment(flavour: str) -> dict[str, str]:
    return {
        **os.environ,
        # libstdc++ too: the sanitizer looks for the real __cxa_throw when it starts.
        "LD_PRELOAD": f"{_library(f'lib{flavour}.so')} {_library('libstdc++.so.6')}",
        "LYRA_EMULATION_FLAVOUR": flavour,
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "TSAN_OPTIONS": "report_signal_unsafe=0:exitcode=66",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }


def _build(flavour: str) -> None:
    """Compile without the sanitizer's library in every process of the compiler."""
    build = (
        "from emulation.build import kernel_library\nfrom tests.emulation.test_emulator import planted_library\n"
        f"kernel_library({flavour!r})\nplanted_library({flavour!r})"
    )
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True)


def asan() -> bool:
    """Every test of the ops and of the public functions, under AddressSanitizer."""
    _build("asan")
    command = [sys.executable, *PYTEST, *TESTS, "tests/emulation/test_public.py"]
    return subprocess.run(command, cwd=ROOT, env=_environment("asan")).returncode == 0


def tsan() -> bool:
    """A selection of the tests under ThreadSanitizer, after a planted race and its repair."""
    _build("tsan")
    environment = _environment("tsan")
    for kernel, racy in (("missing_barrier", True), ("correct", False)):
        command = [sys.executable, "-c", PLANTED.format(kernel=kernel)]
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        found = "WARNING: ThreadSanitizer: data race" in result.stderr
        print(f"planted kernel {kernel}: {'a race' if found else 'no race'} reported", flush=True)
        if found != racy:
            print(result.stdout + result.stderr)
            return False
    command = [sys.executable, *PYTEST, *TESTS, "-k", TSAN]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode == 0


def main() -> int:
    """Runs what the command line names, or both; returns an exit status."""
    wanted = sys.argv[1:] or ["asan", "tsan"]
    clean = True
    for name in wanted:
        if name not in ("asan", "tsan"):
            raise SystemExit(f"{name!r} is neither asan nor tsan")
        works = {"asan": asan, "tsan": tsan}[name]()
        print(f"{name}: {'clean' if works else 'FAILED'}", flush=True)
        clean &= works
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
