"""The gated depthwise convolution at the heart of a PGC block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..layout import compute_dtype, fill_padding, pack, sequence_mask, unpack
from .rms_norm import rms_norm


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, causal: bool) -> Tensor:
    """``out_t = sum_j weight[:, j] x_{t + j - left} + bias`` per channel, zeros outside ``0 <= t < L``.

    ``left`` is ``k - 1`` for a causal convolution and ``(k - 1) // 2`` for a centred one (odd ``k``).

    Args:
        x: ``(B, L, E)``.
        weight: ``(E, 1, k)``.
        bias: ``(E,)`` or None.
        causal: whether ``out_t`` may see only ``x_s`` with ``s <= t``.

    Returns:
        ``(B, L, E)``.
    """
    length, width = x.shape[1], weight.shape[-1]
    left = width - 1 if causal else (width - 1) // 2
    padded = F.pad(x, (0, 0, left, width - 1 - left))
    out = padded[:, :length] * weight[:, 0, 0]
    for tap in range(1, width):
        out = out + padded[:, tap : tap + length] * weight[:, 0, tap]
    return out if bias is None else out + bias


def gated_conv(
    xv: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    norm_weight: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    eps: float,
    causal: bool,
) -> Tensor:
    """``v * (depthwise_conv(x) + conv_bias)`` with ``x, v = split(rms_norm(xv))``.

    Args:
        xv: ``(B, L, 2E)``, or ``(1, T, 2E)`` with ``cu_seqlens``.
        conv_weight: ``(E, 1, k)``.
        conv_bias: ``(E,)`` or None.
        norm_weight: ``(2E,)``; None leaves out the whole norm.
        lengths: ``(B,)`` or None.
        cu_seqlens: ``(S + 1,)`` or None.
        eps: the norm's.
        causal: see :func:`depthwise_conv`.

    Returns:
        ``(B, L, E)`` in ``xv``'s dtype, zero at padded positions.
    """
    if cu_seqlens is not None:
        padded, lengths = unpack(xv, cu_seqlens)
        out = gated_conv(padded, conv_weight, conv_bias, norm_weight, lengths, None, eps, causal)
        return pack(out, cu_seqlens, xv.shape[1])

    mask = sequence_mask(lengths, xv.shape[1])
    # Ones in the padding keep the norm finite there even with eps = 0.
    value = fill_padding(xv, mask, 1.0).to(compute_dtype(xv))
    if norm_weight is not None:
        value = rms_norm(value, norm_weight, eps)
    x, v = fill_padding(value, mask).chunk(2, dim=-1)
    out = fill_padding(v * depthwise_conv(x, conv_weight, conv_bias, causal), mask)
    return out.to(xv.dtype)
