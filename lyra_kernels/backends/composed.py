"""``s4d_fft`` and its backward as two ops, kernel generation and convolution, for backends that do not fuse them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Lookup = Callable[[str], Callable[..., Any]]
"""A backend's ops: op name to function."""


def _kernels(ops: Lookup, spectrum: Sequence[Tensor], C: Tensor, length: int) -> tuple[Tensor, Tensor | None]:
    """The taps of each direction."""
    kernel = ops("s4d_kernel")
    taps = [kernel(*spectrum, C[d].contiguous(), length) for d in range(C.shape[0])]
    return taps[0], taps[1] if len(taps) == 2 else None


def parameter_gradients(
    ops: Lookup, taps: Sequence[Tensor], log_dt: Tensor, log_A_real: Tensor, A_imag: Tensor, C: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of log_dt, log_A_real, A_imag and C from those of each direction's taps, ``(H, L)``."""
    backward = ops("s4d_kernel_backward")
    each = [backward(g, log_dt, log_A_real, A_imag, C[d].contiguous()) for d, g in enumerate(taps)]
    if len(each) == 1:
        return *each[0][:3], each[0][3].unsqueeze(0)
    first, second = each
    shared = tuple(a + b for a, b in zip(first[:3], second[:3], strict=True))
    return *shared, torch.stack((first[3], second[3]))


def s4d_fft(
    ops: Lookup,
    u: Tensor,
    log_dt: Tensor,
    log_A_real: Tensor,
    A_imag: Tensor,
    C: Tensor,
    D: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
) -> Tensor:
    """The dispatcher op ``lyra::s4d_fft``; arguments as in :func:`lyra_kernels.reference.s4d_fft`."""
    kernel, reverse = _kernels(ops, (log_dt, log_A_real, A_imag), C, u.shape[1])
    return ops("fft_conv")(u, kernel, reverse, D, lengths, cu_seqlens)


def s4d_fft_backward(
    ops: Lookup,
    grad: Tensor,
    u: Tensor,
    log_dt: Tensor,
    log_A_real: Tensor,
    A_imag: Tensor,
    C: Tensor,
    D: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, ...]:
    """The dispatcher op ``lyra::s4d_fft_backward``: gradients of u, log_dt, log_A_real, A_imag, C and D."""
    kernel, reverse = _kernels(ops, (log_dt, log_A_real, A_imag), C, u.shape[1])
    du, dkernel, dreverse, dD = ops("fft_conv_backward")(grad, u, kernel, reverse, D, lengths, cu_seqlens)
    taps = [dkernel] if reverse is None else [dkernel, dreverse]
    return du, *parameter_gradients(ops, taps, log_dt, log_A_real, A_imag, C), dD
