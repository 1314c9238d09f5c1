"""``fft_conv``, ``gated_fft_conv`` and their backwards on CPUs: which rows share the lanes of the C++ kernels' vectors.

Those transform as many channels at once as a vector has lanes (csrc/cpu/fft.h). One to three channels would leave most
lanes empty, so that the channels of all sequences become those of one: rows of (B, H, L) memory, each with its own copy
of its kernel. Where all rows of a batch are one to three and long, PyTorch's transforms of one row after the other are
faster, at 20,000 tokens twice.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from ...layout import compute_dtype, without_padding
from ...schemas import absent

FEW = 3
"""Channels, or rows of a batch, that vectors are too wide for."""
LONG = 4096
"""Tokens from which so few rows are transformed one after the other."""


@functools.lru_cache(maxsize=4096)
def good_length(least: int) -> int:
    """The smallest even 2^a 3^b 5^c 7^d that is at least ``least``: lengths that PyTorch's transforms are fast at."""
    if least <= 2:
        return 2
    best = 1 << (least - 1).bit_length()
    seven = 2
    while seven < best:
        five = seven
        while five < best:
            three = five
            while three < best:
                quotient = -(-least // three)
                best = min(best, three << (quotient - 1).bit_length())
                three *= 3
            five *= 5
        seven *= 7
    return best


def _goes_row_by_row(u: Tensor, cu_seqlens: Tensor | None) -> bool:
    return cu_seqlens is None and 0 < u.shape[0] * u.shape[2] <= FEW and u.shape[1] > LONG


def _is_folded(u: Tensor, cu_seqlens: Tensor | None) -> bool:
    return cu_seqlens is None and u.shape[0] > 1 and 0 < u.shape[2] <= FEW


def _check_lengths(u: Tensor, lengths: Tensor | None) -> None:
    """Of a compiled graph too, which calls the op without the public function's checks."""
    if lengths is not None and not 0 <= int(lengths.min()) <= int(lengths.max()) <= u.shape[1]:
        raise ValueError(f"lengths must lie between 0 and {u.shape[1]}, not {lengths.tolist()}")


# ---- folded --------------------------------------------------------------------------------------------------------
def _fold(x: Tensor | None, lengths: Tensor | None) -> Tensor | None:
    """``(B, L, H)`` to ``(1, L, B H)``, the rows one after the other in memory, zero in the padding."""
    if x is None:
        return None
    rows = without_padding(x, lengths).transpose(1, 2).reshape(1, x.shape[0] * x.shape[2], x.shape[1])
    return rows.transpose(1, 2)


def _unfold(x: Tensor, like: Tensor, lengths: Tensor | None) -> Tensor:
    """Back, in the memory order of ``like``."""
    rows = x.transpose(1, 2).reshape(like.shape[0], like.shape[2], like.shape[1]).transpose(1, 2)
    return torch.empty_like(like).copy_(without_padding(rows, lengths))


def _repeated(parameters: Sequence[Tensor | None], times: int) -> list[Tensor | None]:
    return [p if p is None else p.repeat(times, *[1] * (p.dim() - 1)) for p in parameters]


# ---- row by row ----------------------------------------------------------------------------------------------------
def _row(x: Tensor, gate: Tensor | None, lengths: Tensor | None) -> Tensor:
    """``(B, H, L)`` in the compute dtype, times the gate, zero in the padding."""
    value = x.to(compute_dtype(x))
    return without_padding(value if gate is None else value * gate, lengths).transpose(1, 2)


class _Spectra:
    """The transforms of a call: their points, and the spectrum of its kernels by lags."""

    def __init__(self, length: int, kernel: Tensor, reverse: Tensor | None, D: Tensor | None):
        self.length = length
        self.taps = min(kernel.shape[1], length)
        self.reverse_taps = 0 if reverse is None else min(reverse.shape[1], length - 1)
        # An output sees no wrapped lag if there is room for the longer side beyond the sequence.
        room = length if self.reverse_taps else max(self.taps, 1)
        self.points = good_length(length + room - 1)
        self.kernel = torch.fft.rfft(kernel[:, : self.taps], n=self.points)
        if reverse is not None and self.reverse_taps:
            lags = kernel.new_zeros((kernel.shape[0], self.points))
            lags[:, self.points - self.reverse_taps :] = reverse[:, : self.reverse_taps].flip(-1)
            self.kernel += torch.fft.rfft(lags)
        if D is not None:
            self.kernel += D.unsqueeze(-1)

    def of(self, rows: Tensor) -> Tensor:
        return torch.fft.rfft(rows, n=self.points)

    def tokens(self, spectrum: Tensor) -> Tensor:
        """``(B, L, H)``"""
        return torch.fft.irfft(spectrum, n=self.points)[..., : self.length].transpose(1, 2)


def _stored(x: Tensor, gate: Tensor | None, lengths: Tensor | None, like: Tensor) -> Tensor:
    return torch.empty_like(like).copy_(without_padding(x if gate is None else x * gate, lengths))


# ---- the ops -------------------------------------------------------------------------------------------------------
def gated_fft_conv(
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
    op = torch.ops.lyra_cpu.gated_fft_conv.default
    if _goes_row_by_row(u, cu_seqlens):
        _check_lengths(u, lengths)
        spectra = _Spectra(u.shape[1], kernel, reverse_kernel, D)
        y = spectra.tokens(spectra.of(_row(u, pregate, lengths)).mul_(spectra.kernel))
        return _stored(y, postgate, lengths, u)
    if _is_folded(u, cu_seqlens):
        _check_lengths(u, lengths)
        parameters = _repeated((kernel, reverse_kernel, D), u.shape[0])
        gates = [_fold(gate, lengths) for gate in (pregate, postgate)]
        return _unfold(op(_fold(u, lengths), *parameters, *gates, None, None), u, lengths)
    return op(u, kernel, reverse_kernel, D, pregate, postgate, lengths, cu_seqlens)


def gated_fft_conv_backward(
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
    op = torch.ops.lyra_cpu.gated_fft_conv_backward.default
    if _goes_row_by_row(u, cu_seqlens):
        _check_lengths(u, lengths)
        return _backward_row_by_row(grad, u, kernel, reverse_kernel, D, pregate, postgate, lengths)
    if not _is_folded(u, cu_seqlens):
        return op(grad, u, kernel, reverse_kernel, D, pregate, postgate, lengths, cu_seqlens)
    _check_lengths(u, lengths)
    parameters = (kernel, reverse_kernel, D)
    folded = [_fold(gate, lengths) for gate in (pregate, postgate)]
    du, *found = op(_fold(grad, lengths), _fold(u, lengths), *_repeated(parameters, u.shape[0]), *folded, None, None)
    sums = [
        absent(u) if p is None else g.reshape(u.shape[0], *p.shape).sum(0)
        for p, g in zip(parameters, found[:3], strict=True)
    ]
    gates = [
        absent(u) if gate is None else _unfold(g, gate, lengths)
        for gate, g in zip((pregate, postgate), found[3:], strict=True)
    ]
    return _unfold(du, u, lengths), *sums, *gates


def _backward_row_by_row(
    grad: Tensor,
    u: Tensor,
    kernel: Tensor,
    reverse_kernel: Tensor | None,
    D: Tensor | None,
    pregate: Tensor | None,
    postgate: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, ...]:
    """What is convolved gets a correlation of the gradient with the kernel, lags one of it with what is convolved."""
    spectra = _Spectra(u.shape[1], kernel, reverse_kernel, D)
    of_u, of_grad = spectra.of(_row(u, pregate, lengths)), spectra.of(_row(grad, postgate, lengths))
    dpost = absent(u)
    if postgate is not None:
        dpost = _stored(spectra.tokens(of_u * spectra.kernel), grad, lengths, postgate)
    correlated = spectra.tokens(of_grad * spectra.kernel.conj())
    du = _stored(correlated, pregate, lengths, u)
    dpre = absent(u) if pregate is None else _stored(correlated, u, lengths, pregate)
    lags = torch.fft.irfft((of_u.conj() * of_grad).sum(0), n=spectra.points)
    dkernel = torch.zeros_like(kernel)
    dkernel[:, : spectra.taps] = lags[:, : spectra.taps]
    dreverse, dD = absent(u), absent(u)
    if reverse_kernel is not None:
        dreverse = torch.zeros_like(reverse_kernel)
        taps = spectra.reverse_taps
        dreverse[:, :taps] = lags[:, spectra.points - taps :].flip(-1)[:, :taps]
    if D is not None:
        dD = lags[:, 0].clone()
    return du, dkernel, dreverse, dD, dpre, dpost


def fft_conv(
    u: Tensor,
    kernel: Tensor,
    reverse_kernel: Tensor | None,
    D: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
) -> Tensor:
    """The dispatcher op ``lyra::fft_conv``; arguments as in :func:`lyra_kernels.reference.fft_conv`."""
    return gated_fft_conv(u, kernel, reverse_kernel, D, None, None, lengths, cu_seqlens)


def fft_conv_backward(
    grad: Tensor,
    u: Tensor,
    kernel: Tensor,
    reverse_kernel: Tensor | None,
    D: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, ...]:
    """The dispatcher op ``lyra::fft_conv_backward``: gradients of u, kernel, reverse_kernel and D."""
    found = gated_fft_conv_backward(grad, u, kernel, reverse_kernel, D, None, None, lengths, cu_seqlens)
    return found[:4]
