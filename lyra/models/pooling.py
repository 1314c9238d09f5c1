"""From one vector per token to one vector per sequence, padding left out."""

from __future__ import annotations

import torch
from torch import Tensor


def pool(x: Tensor, how: str, lengths: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
    """The mean, the maximum or the first of each sequence's tokens; zeros for a sequence without any.

    Args:
        x: ``(B, L, C)``, or ``(1, T, C)`` with ``cu_seqlens``.
        how: "mean", "max" or "first".
        lengths: ``(B,)`` int64, the padded batch's lengths, or None.
        cu_seqlens: ``(S + 1,)`` int64, the packed batch's boundaries, or None.

    Returns:
        ``(S, C)`` in ``x``'s dtype; means of fp16 and bf16 are summed in fp32.
    """
    if cu_seqlens is not None:
        return _pool_packed(x[0], how, cu_seqlens)
    if x.shape[1] == 0:
        return x.sum(1)
    if how == "first":
        first = x[:, 0]
        return first if lengths is None else _zero_where(lengths == 0, first)
    if lengths is None:
        return x.mean(1) if how == "mean" else x.amax(1)
    real = (torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(-1)).unsqueeze(-1)
    if how == "max":
        lowest = torch.full((), -torch.inf, dtype=x.dtype, device=x.device)
        return _zero_where(lengths == 0, torch.where(real, x, lowest).amax(1))
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    total = torch.where(real, wide, torch.zeros_like(wide)).sum(1)
    return (total / lengths.clamp(min=1).unsqueeze(-1)).to(x.dtype)


def _zero_where(empty: Tensor, x: Tensor) -> Tensor:
    return torch.where(empty.unsqueeze(-1), torch.zeros_like(x), x)


def _pool_packed(x: Tensor, how: str, cu_seqlens: Tensor) -> Tensor:
    tokens, channels = x.shape
    lengths = cu_seqlens.diff()
    sequences = lengths.shape[0]
    if tokens == 0:
        return x.sum(0).expand(sequences, channels)
    if how == "first":
        return _zero_where(lengths == 0, x[cu_seqlens[:-1].clamp(max=tokens - 1)])
    positions = torch.arange(tokens, device=x.device)
    sequence = torch.searchsorted(cu_seqlens[1:].contiguous(), positions, right=True)
    if how == "max":
        lowest = x.new_full((sequences, channels), -torch.inf)
        highest = lowest.scatter_reduce(0, sequence.unsqueeze(-1).expand_as(x), x, "amax")
        return _zero_where(lengths == 0, highest)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    total = wide.new_zeros(sequences, channels).index_add(0, sequence, wide)
    return (total / lengths.clamp(min=1).unsqueeze(-1)).to(x.dtype)
