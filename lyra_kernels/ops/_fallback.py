"""Implementations on the dispatcher where no native kernel is: the reference formulas, and the choice for GPUs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import backends, composed, cpu_fft
from ._autograd import Op, _as_tuple
from .schemas import LIBRARY, SCHEMAS, _fake_s4d_scan


def _keys(*names: str) -> Any:
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, names[0]))
    for name in names[1:]:
        keys = keys | torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name))
    return keys


# What a program starts with. Inside a kernel autograd is switched off, and under torch.compile much else is, lazy
# conjugation among it: complex formulas would give wrong numbers there without a word.
_INCLUDED = _keys("BackendSelect", "ADInplaceOrView")
_EXCLUDED = _keys(*(name for name in dir(torch._C.DispatchKey) if name.startswith("Autocast")))


def _as_outside(function: Callable, *args: Any) -> Any:
    """Call a function of tensors from inside a kernel as if outside: complex arithmetic and autograd work."""
    with torch._C._ForceDispatchKeyGuard(_INCLUDED, _EXCLUDED):
        return function(*(a.detach() if isinstance(a, Tensor) else a for a in args))


def reference_kernels(op: Op) -> dict[str, Callable]:
    """The dispatcher op and its backward, by the reference formula."""

    def forward(*args: Any) -> Any:
        with torch.no_grad():
            out = tuple(o.contiguous() for o in _as_tuple(_as_outside(op.reference, *args)))
        if op.name == "s4d_scan":  # the reference leaves no checkpoints: its backward starts from the inputs
            out = (*out, torch.zeros_like(_fake_s4d_scan(*args)[2]))
        return out[0] if len(out) == 1 else out

    def backward(*args: Any) -> tuple[Tensor, ...]:
        with torch.inference_mode(False), torch.enable_grad():
            args = tuple(a.clone() if isinstance(a, Tensor) and a.is_inference() else a for a in args)
            found = _as_outside(op.reference_backward, *args)
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
    lookup = partial(backends.implementation, backend="cpu")
    python_kernels: dict[str, Callable] = {
        "fft_conv": cpu_fft.fft_conv,
        "fft_conv_backward": cpu_fft.fft_conv_backward,
        "s4d_fft": partial(composed.s4d_fft, lookup),
        "s4d_fft_backward": partial(composed.s4d_fft_backward, lookup),
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
