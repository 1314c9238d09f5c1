"""Where sequences lie: what the kernels read instead of asking the host."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from ._launch import Config, cdiv, jit, launch

CONFIG = Config({"BLOCK_T": 256}, 4, 1)


@jit(also=["steps"])
def _sequence_of_token(cu_seqlens_ptr, seq_ptr, num_tokens, S, steps, BLOCK_T: tl.constexpr):
    """How many sequences end at each of BLOCK_T tokens or before it, by bisection.

    Args:
        cu_seqlens_ptr: ``(S + 1,)`` int64, ascending.
        seq_ptr: ``(num_tokens,)`` int32, written.
        steps: 2^steps > S.
    """
    t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    low = tl.zeros((BLOCK_T,), tl.int32)
    high = low + S.to(tl.int32)
    for _ in range(steps):
        searching = low < high
        middle = (low + high) // 2
        end = tl.load(cu_seqlens_ptr + 1 + middle, mask=searching, other=0)
        over = searching & (end <= t)
        low = tl.where(over, middle + 1, low)
        high = tl.where(searching & (end > t), middle, high)
    tl.store(seq_ptr + t, low, mask=t < num_tokens)


def sequence_of_token(cu_seqlens: Tensor | None, tokens: int) -> Tensor | None:
    """``(tokens,)`` int32, the number of the packed sequence that each token belongs to; None if not packed."""
    if cu_seqlens is None:
        return None
    sequences = cu_seqlens.shape[0] - 1
    seq = cu_seqlens.new_empty((tokens,), dtype=torch.int32)
    launch(
        _sequence_of_token,
        lambda c: (cdiv(tokens, c.blocks["BLOCK_T"]),),
        {
            "cu_seqlens_ptr": cu_seqlens,
            "seq_ptr": seq,
            "num_tokens": tokens,
            "S": sequences,
            "steps": sequences.bit_length(),
        },
        {},
        [CONFIG],
    )
    return seq
