"""The tail of an S4D layer: GELU, dropout, projection, gated linear unit, residual."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layout import compute_dtype, fill_padding, pack, sequence_mask, unpack


def gelu_glu(
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    residual: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
) -> Tensor:
    """``z1 * sigmoid(z2) + residual`` with ``z1, z2 = split(W (gelu(y) * mask) + b)``.

    Args:
        y: ``(B, L, H)``, or ``(1, T, H)`` with ``cu_seqlens``.
        weight, bias: ``(2H, H)`` and ``(2H,)`` or None.
        mask: ``(S, H)``, what each sequence's channels are multiplied by (a dropout mask, already scaled), or
            None.
        residual: like ``y``, added to the result, or None.
        lengths: ``(B,)`` or None.
        cu_seqlens: ``(S + 1,)`` or None.

    Returns:
        ``(B, L, H)`` in ``y``'s dtype, zero at padded positions. The GELU is the exact one (erf).
    """
    if cu_seqlens is not None:
        padded, lengths = unpack(y, cu_seqlens)
        added = None if residual is None else unpack(residual, cu_seqlens)[0]
        return pack(gelu_glu(padded, weight, bias, mask, added, lengths, None), cu_seqlens, y.shape[1])

    real = sequence_mask(lengths, y.shape[1])
    value = F.gelu(fill_padding(y, real).to(compute_dtype(y)))
    if mask is not None:
        value = value * mask.unsqueeze(1)
    linear, gate = F.linear(value, weight, bias).chunk(2, dim=-1)
    out = linear * torch.sigmoid(gate)
    if residual is not None:
        out = out + residual
    return fill_padding(out, real).to(y.dtype)
