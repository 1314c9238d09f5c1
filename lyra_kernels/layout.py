"""The three layouts of a batch of sequences, and the way between them.

dense
    ``x (B, L, C)``, every sequence ``L`` long.
padded
    the same with ``lengths (B,)``: sequence ``b`` is ``x[b, :lengths[b]]``.
packed
    ``x (1, T, C)`` with ``cu_seqlens (S + 1,)``: sequence ``s`` is ``x[0, cu_seqlens[s]:cu_seqlens[s + 1]]``.

The reference functions compute on dense and padded batches; a packed one is padded first. And the dtype of arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _torch


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that the arithmetic on ``x`` is done in: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def count_sequences(x: Tensor, cu_seqlens: Tensor | None) -> int:
    """How many there are in a dense, padded or packed batch."""
    return x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1


def sequence_mask(lengths: Tensor | None, length: int) -> Tensor | None:
    """``(B, length, 1)`` booleans, true at the real positions; None if every position is real."""
    if lengths is None:
        return None
    positions = torch.arange(length, device=lengths.device)
    return (positions < lengths.unsqueeze(-1)).unsqueeze(-1)


def fill_padding(x: Tensor, mask: Tensor | None, value: float = 0.0) -> Tensor:
    """``x`` with ``value`` at the padded positions.

    A selection, not a product with the mask: a NaN in the padding neither reaches the result nor, in the
    backward, the gradient.
    """
    if mask is None:
        return x
    return torch.where(mask, x, torch.full((), value, dtype=x.dtype, device=x.device))


def without_padding(x: Tensor, lengths: Tensor | None, value: float = 0.0) -> Tensor:
    """``x (B, L, C)`` with ``value`` where a padded batch has no tokens."""
    if lengths is None:
        return x
    with _torch.beside(lengths):
        return fill_padding(x, sequence_mask(lengths, x.shape[1]), value)


def unpack(x: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """Packed ``(1, T, C)`` to padded ``(S, longest, C)`` and its ``lengths (S,)``.

    The padding holds other sequences' tokens; whoever reads the result masks it.
    """
    lengths = cu_seqlens.diff()
    longest = int(lengths.max()) if lengths.numel() else 0
    positions = torch.arange(longest, device=x.device)
    tokens = (cu_seqlens[:-1].unsqueeze(-1) + positions).clamp(max=max(x.shape[1] - 1, 0))
    return x[0][tokens], lengths


def pack(x: Tensor, cu_seqlens: Tensor, tokens: int) -> Tensor:
    """Padded ``(S, longest, C)`` to packed ``(1, tokens, C)``: the inverse of :func:`unpack`."""
    token = torch.arange(tokens, device=x.device)
    sequence = torch.searchsorted(cu_seqlens[1:].contiguous(), token, right=True)
    return x[sequence, token - cu_seqlens[sequence]].unsqueeze(0)
