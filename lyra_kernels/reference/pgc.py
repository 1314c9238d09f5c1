"""The projected gated convolution block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..layout import compute_dtype, fill_padding, pack, sequence_mask, unpack
from .gated_conv import gated_conv
from .rms_norm import rms_norm


def pgc(
    u: Tensor,
    in_weight: Tensor,
    in_bias: Tensor | None,
    in_norm_weight: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    out_norm_weight: Tensor | None,
    residual: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    eps: float,
    causal: bool,
) -> Tensor:
    """``rms_norm(W_out gated_conv(W_in u + b_in) + b_out) + residual``.

    Args:
        u: ``(B, L, d)``, or ``(1, T, d)`` with ``cu_seqlens``.
        in_weight, in_bias: ``(2E, d)`` and ``(2E,)`` or None.
        in_norm_weight: ``(2E,)``; None leaves out the norm before the gate.
        conv_weight, conv_bias: ``(E, 1, k)`` and ``(E,)`` or None.
        out_weight, out_bias: ``(d_out, E)`` and ``(d_out,)`` or None.
        out_norm_weight: ``(d_out,)``; None leaves out the norm of the output.
        residual: ``(B, L, d_out)``, added to the result, or None.
        lengths: ``(B,)`` or None.
        cu_seqlens: ``(S + 1,)`` or None.
        eps: both norms'.
        causal: whether the convolution looks only backwards.

    Returns:
        ``(B, L, d_out)`` in ``u``'s dtype, zero at padded positions.
    """
    if cu_seqlens is not None:
        before = (in_weight, in_bias, in_norm_weight, conv_weight, conv_bias)
        padded, lengths = unpack(u, cu_seqlens)
        added = None if residual is None else unpack(residual, cu_seqlens)[0]
        out = pgc(padded, *before, out_weight, out_bias, out_norm_weight, added, lengths, None, eps, causal)
        return pack(out, cu_seqlens, u.shape[1])

    mask = sequence_mask(lengths, u.shape[1])
    value = fill_padding(u, mask).to(compute_dtype(u))
    xv = F.linear(value, in_weight, in_bias)
    gated = gated_conv(xv, conv_weight, conv_bias, in_norm_weight, lengths, None, eps, causal)
    out = fill_padding(F.linear(gated, out_weight, out_bias), mask, 1.0)
    if out_norm_weight is not None:
        out = rms_norm(out, out_norm_weight, eps)
    if residual is not None:
        out = out + residual
    return fill_padding(out, mask).to(u.dtype)
