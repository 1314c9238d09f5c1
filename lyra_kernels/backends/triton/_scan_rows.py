"""What a chunked scan over rows needs: what powers are made from, taps, and the states between the rows.

A lane of a program walks its row (:mod:`._row_table`) ``T`` tokens at a time. Where a sequence has several rows, the
states that enter them come from a pass over the activations before (``_scan``, states only) and :func:`combine`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import Config, cdiv, jit, launch
from ._modes import hold, load_pair, modes, round_to_nearest, sincos64, split_turns
from ._row_table import Rows


@triton.jit
def make_base(log_dt_ptr, log_A_real_ptr, A_imag_ptr, C_ptr, h, n, M):
    """Of channel ``h`` and modes ``n``: log |a|, the phase in turns as two parts, and c, fp32.

    Each program makes them: a launch and a table of them took as long as all else where sequences are short.

    Args:
        log_dt_ptr: ``(H,)`` fp32; log_A_real_ptr, A_imag_ptr: ``(H, M)`` fp32.
        C_ptr: ``(H, M, 2)`` fp32, of this direction.
    """
    mode_mask = n < M
    _, re, im, x, turns = modes(log_dt_ptr, log_A_real_ptr, A_imag_ptr, h, n, M, mode_mask)
    coarse, fine = split_turns(turns)
    s_re, s_im = hold(re, im, x, turns)
    C_re, C_im = load_pair(C_ptr, h * M + n, mode_mask)
    c_re = (C_re * s_re - C_im * s_im).to(tl.float32)
    c_im = (C_re * s_im + C_im * s_re).to(tl.float32)
    # Where there is no mode a is 0: its state stays finite.
    return tl.where(mode_mask, x.to(tl.float32), -1e4), coarse, fine, c_re, c_im


@triton.jit
def store_base(base_ptr, h, n, M, x, coarse, fine, c_re, c_im):
    """Keep what :func:`make_base` gives for the launches that follow: ``base_ptr (H, 5, M)`` fp32."""
    ptrs = base_ptr + h * (5 * M) + n
    mode_mask = n < M
    tl.store(ptrs, x, mask=mode_mask)
    tl.store(ptrs + M, coarse, mask=mode_mask)
    tl.store(ptrs + 2 * M, fine, mask=mode_mask)
    tl.store(ptrs + 3 * M, c_re, mask=mode_mask)
    tl.store(ptrs + 4 * M, c_im, mask=mode_mask)


@triton.jit
def load_base(base_ptr, h, n, M):
    """log |a| and the two parts of the phase, of channel ``h`` and modes ``n``, from :func:`store_base`."""
    ptrs = base_ptr + h * (5 * M) + n
    mode_mask = n < M
    x = tl.load(ptrs, mask=mode_mask, other=-1e4)
    return x, tl.load(ptrs + M, mask=mode_mask, other=0.0), tl.load(ptrs + 2 * M, mask=mode_mask, other=0.0)


@triton.jit
def load_c(base_ptr, h, n, M):
    """c of channels ``h`` and modes ``n``, from :func:`store_base`; 0 where there is no mode."""
    ptrs = base_ptr + h * (5 * M) + 3 * M + n
    return tl.load(ptrs, mask=n < M, other=0.0), tl.load(ptrs + M, mask=n < M, other=0.0)


@triton.jit
def toeplitz(taps, SHIFT: tl.constexpr, DOWN: tl.constexpr, T: tl.constexpr):
    """The tap at lag t-s as (s, t), s-t where DOWN, 0 where that is negative; one less with SHIFT 1.

    ``taps (T,)``: of lags 0, 1, ...; where DOWN the last one first.
    """
    i = tl.arange(0, T * T)
    lag = ((i // T - i % T) if DOWN else (i % T - i // T)) - SHIFT
    at = tl.maximum(lag, 0)
    values = tl.gather(taps, (T - 1 - at) if DOWN else at, axis=0)
    return tl.reshape(tl.where(lag >= 0, values, 0.0), (T, T))


@triton.jit
def row_offsets(start, h, L, H):
    """Where channel ``h`` of the token ``start``, counted in the tokens of the batch, lies in ``(B, H, L)`` memory."""
    return start // L * H * L + h * L + start % L


@triton.jit
def _power(x, turns, tokens):
    """a to the power of ``tokens``, a whole number, fp32, from log |a| and the phase in turns, float64."""
    angle = turns * tokens
    sine, cosine = sincos64(angle - round_to_nearest(angle))
    size = tl.exp(x * tokens)
    return (size * cosine).to(tl.float32), (size * sine).to(tl.float32)


@triton.jit
def _load_part(ptrs, stride, i, num_rows, mask):
    """What the ``i``-th row of a walk adds to a state; of the last it is not there."""
    mask = mask & (i < num_rows - 1)
    return tl.load(ptrs + i * stride, mask=mask, other=0.0), tl.load(ptrs + i * stride + 1, mask=mask, other=0.0)


@jit
def _combine(
    log_dt_ptr,
    log_A_real_ptr,
    A_imag_ptr,
    base_ptr,
    boundary_ptr,
    parts_ptr,
    out_ptr,
    lengths_ptr,
    cu_seqlens_ptr,
    L,
    num_rows,
    num_segments,
    segment_len,
    H,
    M,
    HAS_LENGTHS: tl.constexpr,
    PACKED: tl.constexpr,
    HAS_BOUNDARY: tl.constexpr,
    ADJOINT: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """The states between the rows of a sequence, in order; for the adjoint from the last row to the first.

    A program takes one sequence and BLOCK_N of its states, numbered by channel and mode, in one direction. The adjoint
    Lambda is kept in memory as the gradient by the state, its conjugate.

    Args:
        log_dt_ptr, log_A_real_ptr, A_imag_ptr: ``(H,)``, ``(H, M)`` and ``(H, M)`` fp32.
        base_ptr: of each direction, see :func:`store_base`; read where ADJOINT.
        boundary_ptr: ``(S, H, M, 2)`` fp32, the state before the first row (ADJOINT: after the last); read where
            HAS_BOUNDARY, else that state is 0; there is none of two directions.
        parts_ptr: ``(directions, num_rows, H, M, 2)`` fp32, what each row adds to a state.
        out_ptr: the same shape, written: the state that enters each row (ADJOINT: that leaves it).
        lengths_ptr, cu_seqlens_ptr, L, num_segments, segment_len, HAS_LENGTHS, PACKED: as of :func:`.row_at`.
        ADJOINT: rows are walked backwards, and what they add is multiplied by c a, in the second direction by c.
    """
    direction = tl.program_id(2)
    s = tl.program_id(0).to(tl.int64)
    state = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # channel and mode
    state_mask = state < H * M
    h = state // M
    n = state % M
    _, _, _, x, turns = modes(log_dt_ptr, log_A_real_ptr, A_imag_ptr, h, n, M, state_mask)
    if PACKED:
        begin = tl.load(cu_seqlens_ptr + s)
        length = tl.load(cu_seqlens_ptr + s + 1) - begin
        first = begin // segment_len + s
    else:
        length = L
        if HAS_LENGTHS:
            length = tl.load(lengths_ptr + s)
        first = s * num_segments
    count = tl.maximum((length + segment_len - 1) // segment_len, 1)
    s_re = tl.zeros((BLOCK_N,), tl.float32)
    s_im = tl.zeros((BLOCK_N,), tl.float32)
    if HAS_BOUNDARY:
        boundary_ptrs = boundary_ptr + (s * H * M + state) * 2
        s_re = tl.load(boundary_ptrs, mask=state_mask, other=0.0)
        s_im = tl.load(boundary_ptrs + 1, mask=state_mask, other=0.0)
        if ADJOINT:
            s_im = -s_im
    if ADJOINT:
        c_re, c_im = load_c(base_ptr + direction.to(tl.int64) * H * (5 * M), tl.where(state_mask, h, 0), n, M)
        # The first direction's output sees the state after its own token: c a.
        a_re, a_im = _power(x, turns, 1 - direction)
        c_re, c_im = c_re * a_re - c_im * a_im, c_re * a_im + c_im * a_re
    # All rows but a sequence's last are full, and what that one does to a state matters to the adjoint alone.
    full_re, full_im = _power(x, turns, segment_len)
    if ADJOINT:
        a_re, a_im = _power(x, turns, length - (count - 1) * segment_len)
    else:
        a_re = full_re
        a_im = full_im
    step: tl.constexpr = -1 if ADJOINT else 1
    start = direction.to(tl.int64) * num_rows + first
    if ADJOINT:
        start += count - 1
    ptrs = parts_ptr + (start * H * M + state) * 2
    out_ptrs = out_ptr + (start * H * M + state) * 2
    stride = step * tl.cast(H, tl.int64) * M * 2
    # Three rows ahead, or each would wait for the memory.
    e_re, e_im = _load_part(ptrs, stride, 0, count, state_mask)
    next_re, next_im = _load_part(ptrs, stride, 1, count, state_mask)
    then_re, then_im = _load_part(ptrs, stride, 2, count, state_mask)
    for i in range(count):
        last_re, last_im = _load_part(ptrs, stride, i + 3, count, state_mask)
        tl.store(out_ptrs + i * stride, s_re, mask=state_mask)
        if ADJOINT:
            tl.store(out_ptrs + i * stride + 1, -s_im, mask=state_mask)
            e_re, e_im = e_re * c_re - e_im * c_im, e_re * c_im + e_im * c_re
        else:
            tl.store(out_ptrs + i * stride + 1, s_im, mask=state_mask)
        s_re, s_im = a_re * s_re - a_im * s_im + e_re, a_re * s_im + a_im * s_re + e_im
        a_re = full_re
        a_im = full_im
        e_re = next_re
        e_im = next_im
        next_re = then_re
        next_im = then_im
        then_re = last_re
        then_im = last_im
    if HAS_LENGTHS:  # rows of nothing but padding; a state of theirs is multiplied by 0
        for i in range(count, num_segments):
            ptrs = out_ptr + ((direction.to(tl.int64) * num_rows + first + i) * H * M + state) * 2
            tl.store(ptrs, tl.zeros((BLOCK_N,), tl.float32), mask=state_mask)
            tl.store(ptrs + 1, tl.zeros((BLOCK_N,), tl.float32), mask=state_mask)


def combine(
    spectrum: tuple[Tensor, Tensor, Tensor],
    base: Tensor | None,
    boundary: Tensor | None,
    parts: Tensor,
    rows: Rows,
) -> Tensor:
    """The state that enters each row, ``(directions, rows, H, M, 2)``; with ``base`` the adjoint's, that leaves it.

    Args:
        spectrum: log_dt, log_A_real, A_imag.
        base: ``(directions, H, 5, M)``, for the adjoint.
        boundary: ``(S, H, M, 2)``, before the first row of each sequence (the adjoint: after the last), or None.
        parts: as what is returned, what each row adds to a state; of a sequence's last (first) row not read.
    """
    log_dt, log_A_real, A_imag = spectrum
    channels, count = A_imag.shape
    out = torch.empty_like(parts)
    launch(
        _combine,
        lambda config: (rows.sequences, cdiv(channels * count, config.blocks["BLOCK_N"]), parts.shape[0]),
        {
            "log_dt_ptr": log_dt,
            "log_A_real_ptr": log_A_real,
            "A_imag_ptr": A_imag,
            "base_ptr": base,
            "boundary_ptr": boundary,
            "parts_ptr": parts,
            "out_ptr": out,
            "lengths_ptr": rows.lengths,
            "cu_seqlens_ptr": rows.cu,
            "L": rows.length,
            "num_rows": rows.count,
            "num_segments": rows.segments,
            "segment_len": rows.segment,
            "H": channels,
            "M": count,
        },
        {**rows.constants(), "HAS_BOUNDARY": boundary is not None, "ADJOINT": base is not None},
        [Config({"BLOCK_N": 64}, 2, 1)],
    )
    return out
