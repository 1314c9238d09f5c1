"""Where sequences lie: what the kernels read instead of asking the host."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from ._launch import Config, cdiv, jit, launch, next_power_of_2

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


@jit
def _fill_padding(x_ptr, lengths_ptr, out_ptr, num_tokens, L, C, value, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr):
    """BLOCK_T tokens of ``out``: those of ``x``, or ``value`` where there is padding, whatever is there in x.

    Args:
        x_ptr, out_ptr: ``(B, L, C)``, num_tokens = B L.
        lengths_ptr: ``(B,)`` int64.
        BLOCK_C: C or more, a power of 2.
    """
    token = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    c = tl.arange(0, BLOCK_C)
    there = token < num_tokens
    real = there & (token % L < tl.load(lengths_ptr + token // L, mask=there, other=0))
    offsets = token[:, None] * C + c[None, :]
    x = tl.load(x_ptr + offsets, mask=real[:, None] & (c < C)[None, :], other=0.0).to(tl.float32)
    x = tl.where(real[:, None], x, value)
    tl.store(out_ptr + offsets, x.to(out_ptr.dtype.element_ty), mask=there[:, None] & (c < C)[None, :])


def fill_padding(x: Tensor, lengths: Tensor | None, value: float = 0.0) -> Tensor:
    """A contiguous ``x (B, L, C)`` with ``value`` where a padded batch has no tokens; x itself if it is not padded."""
    if lengths is None:
        return x
    out = torch.empty_like(x)
    _, length, channels = x.shape
    block = next_power_of_2(channels)
    tokens = x.numel() // channels
    launch(
        _fill_padding,
        lambda c: (cdiv(tokens, c.blocks["BLOCK_T"]),),
        {
            "x_ptr": x,
            "lengths_ptr": lengths,
            "out_ptr": out,
            "num_tokens": tokens,
            "L": length,
            "C": channels,
            "value": float(value),
        },
        {},
        [Config({"BLOCK_T": max(1, 4096 // block), "BLOCK_C": block}, 8 if block > 1024 else 4, 1)],
    )
    return out
