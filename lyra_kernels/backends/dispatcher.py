"""Gives every dispatcher op a kernel on every device, beside those that the native library has registered itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .. import _torch, backends
from ..schemas import ASKED, LIBRARY, SCHEMAS
from . import cpu, reference


def _on_gpus(name: str) -> Callable[..., Any]:
    """An op by whichever backend serves the device: known when it is called."""

    def kernel(*args: Any) -> Any:
        if _torch.any_autocast_enabled():  # an op's arguments say how it computes
            with _torch.below_autocast():
                return kernel(*args)
        device = next(a.device for a in args if isinstance(a, Tensor))
        return backends.serving(name, device)(*args)

    return kernel


def _as_asked(name: str) -> Callable[..., Any]:
    """An op by the backend that its first argument names."""

    def kernel(backend: str, *args: Any) -> Any:
        if _torch.any_autocast_enabled():
            with _torch.below_autocast():
                return kernel(backend, *args)
        backends.check_available(backend)
        backends.check_device(name, backend, next(a.device for a in args if isinstance(a, Tensor)))
        return backends.implementation(name, backend)(*args)

    return kernel


def register() -> None:
    """Once, when the package is imported."""
    formulas = reference.operations()
    for name in SCHEMAS:
        if not _torch.has_kernel(f"lyra::{name}", "CPU"):
            LIBRARY.impl(name, cpu.PYTHON.get(name, formulas[name]), "CPU")
        LIBRARY.impl(name, _on_gpus(name), "CUDA")
        ASKED.impl(name, _as_asked(name), "CompositeExplicitAutograd")
        for key in ("MPS", "XPU"):
            LIBRARY.impl(name, formulas[name], key)
