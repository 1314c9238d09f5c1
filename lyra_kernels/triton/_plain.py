"""Ops that have no Triton kernel: PyTorch's own operations, on the same device, by the reference formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lyra_kernels.reference as reference

from ._launch import reference_gradients

_DIFFERENTIABLE = {
    "rms_norm": range(2),
    "pgc": range(9),
    "gelu_glu": range(3),
    "causal_conv": range(4),
    "fft_conv": range(4),
}


def _forward(name: str) -> Callable[..., Any]:
    def function(*args: Any) -> Any:
        return getattr(reference, name)(*args).contiguous()

    return function


def _backward(name: str) -> Callable[..., Any]:
    def function(grad: Any, *args: Any) -> Any:
        if name == "gelu_glu":  # the backward op does not need the residual
            args = (*args[:4], None, *args[4:])
        return reference_gradients(name, (grad,), args, _DIFFERENTIABLE[name])

    return function


def __getattr__(name: str) -> Callable[..., Any]:
    op = name.removesuffix("_backward")
    if op not in _DIFFERENTIABLE:
        raise AttributeError(name)
    return _forward(op) if op == name else _backward(op)
