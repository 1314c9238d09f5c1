"""Rows of a tile moved against each other: the neighbours of tokens, for short convolutions."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def shifted(x, seq_ptr, here, begin, end, by: tl.constexpr, HAS_SEQ: tl.constexpr):
    """Row i + ``by`` of a tile at row i: the last row again where there is none, 0 if it is of another sequence.

    Args:
        x: ``(BLOCK_T, BLOCK_E)``.
        seq_ptr: of the tile's first token, read where HAS_SEQ from ``begin`` to ``end``; here: what it has there.
    """
    if by == 0:
        return x
    else:
        i = tl.arange(0, x.shape[0])
        source = tl.minimum(tl.maximum(i + by, 0), x.shape[0] - 1)
        moved = tl.gather(x, tl.broadcast_to(source[:, None], (x.shape[0], x.shape[1])), 0)
        if HAS_SEQ:
            other = tl.load(seq_ptr + i + by, mask=(i + by >= begin) & (i + by < end), other=-2)
            moved = tl.where((other == here)[:, None], moved, 0.0)
        return moved
