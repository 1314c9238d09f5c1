"""A short causal depthwise convolution with what surrounds it in state space models: bias, SiLU, the tokens before."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layout import compute_dtype, fill_padding, pack, sequence_mask, unpack


def short_conv(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    silu: bool,
) -> Tensor:
    """``y_t = act(sum_j weight_j u_{t-W+1+j} + bias)``: the last tap is a token's own.

    Args:
        u: ``(B, L, H)``, or ``(1, T, H)`` with ``cu_seqlens``.
        weight: ``(H, W)``, W at least 1.
        bias: ``(H,)`` or None.
        initial_state: ``(S, W - 1, H)``, the tokens before each sequence's first, the oldest first; None for zeros.
        lengths: ``(B,)`` or None.
        cu_seqlens: ``(S + 1,)`` or None.
        silu: whether act(z) is ``z sigmoid(z)``, else z.

    Returns:
        ``(B, L, H)`` in ``u``'s dtype, zero at padded positions.
    """
    if cu_seqlens is not None:
        padded, lengths = unpack(u, cu_seqlens)
        y = short_conv(padded, weight, bias, initial_state, lengths, None, silu)
        return pack(y, cu_seqlens, u.shape[1])

    length, width = u.shape[1], weight.shape[1]
    mask = sequence_mask(lengths, length)
    value = fill_padding(u, mask).to(compute_dtype(u))
    if initial_state is None:
        value = F.pad(value, (0, 0, width - 1, 0))
    else:
        value = torch.cat([initial_state, value], dim=1)
    y = value[:, :length] * weight[:, 0]
    for j in range(1, width):
        y = y + value[:, j : j + length] * weight[:, j]
    if bias is not None:
        y = y + bias
    return fill_padding(F.silu(y) if silu else y, mask).to(u.dtype)
