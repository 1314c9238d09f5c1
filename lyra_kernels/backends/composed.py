"""Ops made of others, for backends that do not fuse them: ``gated_fft_conv``, ``s4d_fft`` and ``s4d_block``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..layout import compute_dtype, without_padding
from ..schemas import absent

Lookup = Callable[[str], Callable[..., Any]]
"""A backend's ops: op name to function."""


def _gated(x: Tensor, gate: Tensor | None) -> Tensor:
    """A product in the compute dtype: one between two ops is rounded only where they are."""
    value = x.to(compute_dtype(x))
    return value if gate is None else value * gate


def gated_fft_conv(
    ops: Lookup,
    u: Tensor,
    kernel: Tensor,
    reverse_kernel: Tensor | None,
    D: Tensor | None,
    pregate: Tensor | None,
    postgate: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
) -> Tensor:
    """The dispatcher op ``lyra::gated_fft_conv``; arguments as in :func:`lyra_kernels.reference.gated_fft_conv`."""
    y = ops("fft_conv")(_gated(u, pregate), kernel, reverse_kernel, D, lengths, cu_seqlens)
    return y.to(u.dtype) if postgate is None else without_padding(y * postgate, lengths).to(u.dtype)


def gated_fft_conv_backward(
    ops: Lookup,
    grad: Tensor,
    u: Tensor,
    kernel: Tensor,
    reverse_kernel: Tensor | None,
    D: Tensor | None,
    pregate: Tensor | None,
    postgate: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, ...]:
    """The dispatcher op ``lyra::gated_fft_conv_backward``: gradients of u, kernel, reverse_kernel, D and the gates."""
    gated = _gated(u, pregate)
    convolution = (gated, kernel, reverse_kernel, D, lengths, cu_seqlens)
    d_gated, *d_parameters = ops("fft_conv_backward")(_gated(grad, postgate), *convolution)

    def times(x: Tensor, factor: Tensor) -> Tensor:
        return without_padding(x * factor, lengths).to(u.dtype)

    du = d_gated.to(u.dtype) if pregate is None else times(d_gated, pregate)
    d_pregate = absent(u) if pregate is None else times(d_gated, u)
    d_postgate = absent(u) if postgate is None else times(ops("fft_conv")(*convolution), grad)
    return du, *d_parameters, d_pregate, d_postgate


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


def s4d_block(
    ops: Lookup,
    u: Tensor,
    log_dt: Tensor,
    log_A_real: Tensor,
    A_imag: Tensor,
    C: Tensor,
    D: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    mask: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    eps: float,
    add_input: bool,
    save: bool,
) -> tuple[Tensor, ...]:
    """The dispatcher op ``lyra::s4d_block``; arguments as in :func:`lyra_kernels.reference.s4d_block`."""
    z = u if norm_weight is None else ops("rms_norm")(u, norm_weight, eps)
    y, _, checkpoints = ops("s4d_scan")(z, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, None, save)
    out = ops("gelu_glu")(y, weight, bias, mask, u if add_input else None, lengths, cu_seqlens)
    if not save:
        return out, u.new_empty(0), u.new_empty(0), checkpoints
    return out, u.new_empty(0) if norm_weight is None else z.view(-1), y.reshape(-1), checkpoints


def s4d_block_backward(
    ops: Lookup,
    grad: Tensor,
    u: Tensor,
    log_dt: Tensor,
    log_A_real: Tensor,
    A_imag: Tensor,
    C: Tensor,
    D: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    mask: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    eps: float,
    add_input: bool,
    normalized: Tensor,
    convolved: Tensor,
    checkpoints: Tensor,
) -> tuple[Tensor, ...]:
    """The dispatcher op ``lyra::s4d_block_backward``: gradients of u, the modes, C, D, weight, bias and the norm."""
    z = u if norm_weight is None else normalized.view(u.shape)
    y = convolved.view(u.shape)
    dy, d_weight, d_bias = ops("gelu_glu_backward")(grad, y, weight, bias, mask, lengths, cu_seqlens)
    modes = (log_dt, log_A_real, A_imag, C)
    dz, *d_modes, d_D, _ = ops("s4d_scan_backward")(dy, None, z, *modes, D, lengths, cu_seqlens, None, checkpoints)
    if norm_weight is None:
        du, d_norm = dz, absent(u)
    else:
        du, d_norm = ops("rms_norm_backward")(dz, without_padding(u, lengths, 1.0), norm_weight, eps)
    if add_input:
        du = du + without_padding(grad, lengths)
    return du, *d_modes, d_D, d_weight, d_bias, d_norm
