"""Long convolutions, one kernel per channel: by the Toeplitz product and by FFT."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layout import compute_dtype, fill_padding, pack, sequence_mask, unpack


def _resize(kernel: Tensor, length: int) -> Tensor:
    """``(H, K)`` to ``(H, length)``: taps that no token can reach are cut, missing ones are zero."""
    return F.pad(kernel, (0, length - kernel.shape[-1]))


def toeplitz(kernel: Tensor, reverse_kernel: Tensor | None) -> Tensor:
    """The matrix ``(H, L, L)`` that the convolution with kernels ``(H, L)`` multiplies by.

    ``[h, t, s]`` is ``kernel[h, t - s]`` where ``s <= t`` and ``reverse_kernel[h, s - t - 1]`` above that.
    """
    length = kernel.shape[-1]
    position = torch.arange(length, device=kernel.device)
    lag = position.unsqueeze(-1) - position
    zero = torch.zeros((), dtype=kernel.dtype, device=kernel.device)
    above = zero if reverse_kernel is None else reverse_kernel[:, (-lag - 1).clamp(min=0)]
    return torch.where(lag >= 0, kernel[:, lag.clamp(min=0)], above)


def causal_conv(
    u: Tensor,
    kernel: Tensor,
    reverse_kernel: Tensor | None,
    D: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
) -> Tensor:
    """``y_t = sum_{s<=t} kernel_{t-s} u_s + sum_{s>t} reverse_kernel_{s-t-1} u_s + D u_t``, directly.

    Args:
        u: ``(B, L, H)``, or ``(1, T, H)`` with ``cu_seqlens``.
        kernel: ``(H, K)``, any ``K``; taps beyond are zero.
        reverse_kernel: ``(H, K')`` or None for a causal convolution.
        D: ``(H,)`` or None.
        lengths: ``(B,)`` or None.
        cu_seqlens: ``(S + 1,)`` or None.

    Returns:
        ``(B, L, H)`` in ``u``'s dtype, zero at padded positions.
    """
    if cu_seqlens is not None:
        padded, lengths = unpack(u, cu_seqlens)
        return pack(causal_conv(padded, kernel, reverse_kernel, D, lengths, None), cu_seqlens, u.shape[1])

    length = u.shape[1]
    mask = sequence_mask(lengths, length)
    value = fill_padding(u, mask).to(compute_dtype(u))
    reverse = None if reverse_kernel is None else _resize(reverse_kernel, length)
    y = torch.einsum("hts,bsh->bth", toeplitz(_resize(kernel, length), reverse), value)
    if D is not None:
        y = y + D * value
    return fill_padding(y, mask).to(u.dtype)


def fft_conv(
    u: Tensor,
    kernel: Tensor,
    reverse_kernel: Tensor | None,
    D: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
) -> Tensor:
    """The same function as :func:`causal_conv`, by the convolution theorem.

    Transforms of ``2 L`` points hold every lag from ``-(L - 1)`` to ``L - 1`` without overlap; the reverse
    kernel's tap ``j`` is lag ``-(j + 1)``, that is index ``2 L - 1 - j``.
    """
    if cu_seqlens is not None:
        padded, lengths = unpack(u, cu_seqlens)
        return pack(fft_conv(padded, kernel, reverse_kernel, D, lengths, None), cu_seqlens, u.shape[1])

    if u.numel() == 0:  # which MKL's transforms refuse
        return causal_conv(u, kernel, reverse_kernel, D, lengths, None)
    length = u.shape[1]
    points = 2 * length
    mask = sequence_mask(lengths, length)
    value = fill_padding(u, mask).to(compute_dtype(u))
    taps = F.pad(_resize(kernel, length), (0, points - length))
    if reverse_kernel is not None:
        taps = taps + F.pad(_resize(reverse_kernel, length), (0, points - length)).flip(-1)
    signal = F.pad(value.transpose(1, 2), (0, points - length))
    product = torch.fft.rfft(signal) * torch.fft.rfft(taps)
    y = torch.fft.irfft(product, n=points)[..., :length].transpose(1, 2)
    if D is not None:
        y = y + D * value
    return fill_padding(y, mask).to(u.dtype)


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
    """``postgate * fft_conv(pregate * u)``, in one rounding; the gates ``(B, L, H)`` like u, or None."""
    mask = sequence_mask(lengths, u.shape[1])

    def value(x: Tensor) -> Tensor:
        return fill_padding(x, mask).to(compute_dtype(u))

    gated = value(u) if pregate is None else value(u) * value(pregate)
    y = fft_conv(gated, kernel, reverse_kernel, D, lengths, cu_seqlens)
    return (y if postgate is None else y * value(postgate)).to(u.dtype)
