"""Implementations on the dispatcher where no native kernel is: the reference formulas, and the choice for GPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import backends, cpu_fft
from ._autograd import Op, _as_tuple
from .schemas import LIBRARY, SCHEMAS, _fake_s4d_scan


def _with_autograd_keys(function: Callable, *args: Any) -> Any:
    """Call a function that differentiates, from inside a kernel, where the dispatcher has autograd switched off."""
    included = torch._C._dispatch_tls_local_include_set()
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in (
        "AutogradOther",
        "AutogradCPU",
        "AutogradCUDA",
        "AutogradXPU",
        "AutogradMPS",
        "ADInplaceOrView",
    ):
        excluded = excluded.remove(getattr(torch._C.DispatchKey, key, torch._C.DispatchKey.AutogradOther))
    with torch._C._ForceDispatchKeyGuard(included, excluded), torch.enable_grad():
        return function(*args)


def reference_kernels(op: Op) -> dict[str, Callable]:
    """The dispatcher op and its backward, by the reference formula."""

    def forward(*args: Any) -> Any:
        with torch.no_grad():
            out = tuple(o.contiguous() for o in _as_tuple(op.reference(*args)))
        if op.name == "s4d_scan":  # the reference leaves no checkpoints: its backward starts from the inputs
            out = (*out, torch.zeros_like(_fake_s4d_scan(*args)[2]))
        return out[0] if len(out) == 1 else out

    def backward(*args: Any) -> tuple[Tensor, ...]:
        detached = [a.detach() if isinstance(a, Tensor) else a for a in args]
        found = _with_autograd_keys(op.reference_backward, *detached)
        return tuple(g.detach() for g in found)

    return {op.name: forward, op.name + "_backward": backward}


def _gpu(name: str, fallback: Callable) -> Callable:
    def kernel(*args: Any) -> Any:
        device = next(a.device for a in args if isinstance(a, Tensor))
        backend = backends.default_backend(device)
        if backend == "reference":
            return fallback(*args)
        return backends.implementation(name, backend)(*args)

    return kernel


def register(ops: list[Op]) -> None:
    """Give every op of the library an implementation on every device."""
    python_kernels: dict[str, Callable] = {
        "fft_conv": cpu_fft.fft_conv,
        "fft_conv_backward": cpu_fft.fft_conv_backward,
    }
    for op in ops:
        for name, function in reference_kernels(op).items():
            assert name in SCHEMAS
            on_cpu = python_kernels.get(name, function)
            if not torch._C._dispatch_has_kernel_for_dispatch_key(f"lyra::{name}", "CPU"):
                LIBRARY.impl(name, on_cpu, "CPU")
            LIBRARY.impl(name, _gpu(name, function), "CUDA")
            for key in ("MPS", "XPU"):
                LIBRARY.impl(name, function, key)
