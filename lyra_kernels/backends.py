"""Which backends this machine has, and which one serves a call.

========== ===========================================================================================
triton     Triton kernels; NVIDIA and AMD GPUs
cuda       CUDA C++ kernels; NVIDIA GPUs where Triton is not
cpu        C++ kernels; every CPU
reference  plain PyTorch; any device, any dtype, never fast
========== ===========================================================================================

By default a CPU tensor goes to ``cpu``, a CUDA tensor to ``triton``, else ``cuda``, and everything falls back to
``reference``. :func:`use_backend` forces one.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import ModuleType

import torch

from . import cuda_architectures

BACKENDS = ("triton", "cuda", "cpu", "reference")

_DEVICES = {"triton": ("cuda",), "cuda": ("cuda",), "cpu": ("cpu", "meta")}
"""Types of the devices whose tensors a backend takes (the reference: all)."""

_forced: str | None = None
_registered: dict[str, Mapping[str, Callable]] = {}


def _import_native() -> tuple[ModuleType | None, str]:
    try:
        return importlib.import_module("lyra_kernels._C"), ""
    except ImportError as error:
        return None, str(error)


_native, _native_error = _import_native()


@cache
def availability() -> dict[str, tuple[bool, str]]:
    """For each backend, whether calls can be served by it here, and why not or how."""
    found = {"reference": (True, "plain PyTorch"), "cpu": _cpu_availability()}
    found["triton"] = _triton_availability()
    found["cuda"] = _cuda_availability()
    return {name: found[name] for name in BACKENDS}


def _cpu_availability() -> tuple[bool, str]:
    if _native is None:
        return False, f"lyra_kernels._C was not built or does not load: {_native_error}"
    return True, f"instruction set {_native.cpu_isa()} (of {', '.join(_native.available_cpu_isas())})"


def _triton_availability() -> tuple[bool, str]:
    try:
        module = importlib.import_module("lyra_kernels.triton")
    except ImportError as error:
        return False, f"Triton kernels do not import: {error}"
    return module.availability()


def _cuda_availability() -> tuple[bool, str]:
    if "cuda" in _registered:
        return True, "registered by the caller"
    if _native is None or not hasattr(torch.ops.lyra_cuda, "gated_conv"):
        return False, "the CUDA C++ kernels were not built (no nvcc at build time)"
    if not torch.cuda.is_available():
        return False, "built, but PyTorch finds no CUDA device"
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    reason = cuda_architectures.why_not(name, capability, _native.cuda_architectures().split(", "))
    return reason is None, reason or name


def available_backends() -> tuple[str, ...]:
    """The names of the backends that can serve a call on this machine, fastest first."""
    return tuple(name for name, (works, _) in availability().items() if works)


def default_backend(device: torch.device) -> str:
    """The backend that serves tensors on a device unless another is forced. A constant to torch.compile."""
    candidates = {"cpu": ("cpu",), "cuda": ("triton", "cuda")}.get(device.type, ())
    for name in candidates:
        if availability()[name][0]:
            return name
    return "reference"


# What torch.compiler.assume_constant_result does, which imports all of the compiler first: 3 seconds of every start.
default_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


def forced() -> str | None:
    """The backend that :func:`use_backend` asked for, or None."""
    return _forced


def runs_reference(backend: str | None, device: torch.device) -> bool:
    """Whether a call runs the plain formulas, with PyTorch's own autograd."""
    if backend is not None:
        return backend == "reference"
    return device.type not in ("cuda", "meta") and (device.type != "cpu" or _native is None)


def check_device(op: str, backend: str, device: torch.device) -> None:
    """Refuse tensors that a forced backend cannot compute on.

    Raises:
        ValueError: the device is not the backend's; the message says what to do.
    """
    if device.type in _DEVICES[backend] or backend in _registered:
        return
    if backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
        return
    place, move = ("the CPU", ".cpu()") if backend == "cpu" else ("a GPU", '.to("cuda")')
    raise ValueError(
        f"{op}: backend {backend!r} computes on {place}, but the tensors are on {device}: "
        f"move them there, and the layer, with {move}, or call outside use_backend({backend!r})"
    )


@contextlib.contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Serve every call inside the ``with`` block by one backend, in the whole process; None restores the choice.

    Raises:
        ValueError: no such backend.
        RuntimeError: that backend cannot work on this machine; the message says why.
    """
    global _forced
    if name is not None and name not in BACKENDS:
        raise ValueError(f"backend {name!r} does not exist: it must be one of {', '.join(BACKENDS)}")
    if name is not None:
        works, reason = availability()[name]
        if not works:
            raise RuntimeError(f"backend {name!r} is not available here: {reason}")
    previous, _forced = _forced, name
    try:
        yield
    finally:
        _forced = previous


def register(backend: str, implementations: Mapping[str, Callable]) -> None:
    """Provide a backend's ops: op name -> function with the dispatcher op's positional arguments."""
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} does not exist: it must be one of {', '.join(BACKENDS)}")
    _registered[backend] = implementations
    availability.cache_clear()


def implementation(op: str, backend: str) -> Callable:
    """The function that computes a dispatcher op on a backend.

    Raises:
        RuntimeError: that backend does not have the op.
    """
    if backend in _registered and op in _registered[backend]:
        return _registered[backend][op]
    if backend == "triton":
        table = importlib.import_module("lyra_kernels.triton").IMPLEMENTATIONS
        if op in table:
            return table[op]
    if backend == "cuda" and hasattr(torch.ops.lyra_cuda, "gated_conv"):
        table = _cuda_implementations()
        if op in table:
            return table[op]
    if backend == "cpu":
        from .ops.schemas import OPS

        return _below_autograd(OPS[op])
    raise RuntimeError(f"backend {backend!r} has no op {op!r}")


@cache
def _cuda_implementations() -> Mapping[str, Callable]:
    return importlib.import_module("lyra_kernels.cuda").implementations(torch.ops.lyra_cuda)


def _below_autograd(function: Callable) -> Callable:
    def call(*args):
        with torch._C._AutoDispatchBelowAutograd():
            return function(*args)

    return call


def cpu_isa() -> str | None:
    """The instruction set that the C++ kernels use, or None where they are not built."""
    return None if _native is None else _native.cpu_isa()


def available_cpu_isas() -> tuple[str, ...]:
    """Instruction sets that were built and that this CPU has, slowest first."""
    return () if _native is None else tuple(_native.available_cpu_isas())


@contextlib.contextmanager
def use_cpu_isa(name: str) -> Iterator[None]:
    """Run the C++ kernels with one instruction set inside the ``with`` block, in the whole process.

    The environment variable ``LYRA_CPU_ISA`` does the same from the start.

    Raises:
        ValueError: that instruction set is not available; the message lists those that are.
    """
    previous = cpu_isa()
    if _native is None or not _native.set_cpu_isa(name):
        known = ", ".join(available_cpu_isas()) or "none (the C++ kernels are not built)"
        raise ValueError(f"CPU instruction set {name!r} is not available; available: {known}")
    try:
        yield
    finally:
        _native.set_cpu_isa(previous)


def env_report() -> dict[str, str]:
    """What a bug report should say of this installation: versions, processor, threads, backends and reasons."""
    from . import __version__

    report = {
        "lyra-bio": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "torch": torch.__version__,
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
    for name, (works, reason) in availability().items():
        report[f"backend {name}"] = f"{'yes' if works else 'no'}: {reason}"
    return report


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as info:
            for line in info:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
