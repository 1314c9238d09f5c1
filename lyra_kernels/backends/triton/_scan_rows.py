"""What a chunked scan over rows needs: tables of powers, and the states between the rows.

A lane of a program walks its row (:mod:`._row_table`) ``T`` tokens at a time. Where a sequence has several rows, the
states that enter them come from a pass over the activations before (``_scan``, states only) and :func:`combine`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import Config, cdiv, jit, launch, next_power_of_2
from ._modes import hold, load_pair, modes, powers, round_to_nearest, sincos64, split_turns
from ._row_table import Rows, column_ptrs


@triton.jit
def load_base(base_ptr, h, n, M):
    """What the powers of channel ``h`` are made from, of modes ``n``: log |a|, and the phase in turns as two parts.

    ``base_ptr``: ``(H, 3, M)`` fp32, see :class:`Tables`.
    """
    ptrs = base_ptr + h * (3 * M) + n
    mode_mask = n < M
    # Where there is no mode a is 0: its state stays finite.
    x = tl.load(ptrs, mask=mode_mask, other=-1e4)
    return x, tl.load(ptrs + M, mask=mode_mask, other=0.0), tl.load(ptrs + 2 * M, mask=mode_mask, other=0.0)


@triton.jit
def load_toeplitz(taps_ptr, h, SHIFT: tl.constexpr, DOWN: tl.constexpr, T: tl.constexpr):
    """The taps of channel ``h`` at lag t-s as (s, t), s-t where DOWN, 0 where that is negative; one less with SHIFT 1.

    ``taps_ptr``: ``(H, 2T)`` fp32, the first T of them 0. All 2T are read.
    """
    i = tl.arange(0, T * T)
    values = tl.load(taps_ptr + h * (2 * T) + tl.arange(0, 2 * T))
    lag = (i // T - i % T) if DOWN else (i % T - i // T)
    return tl.reshape(tl.gather(values, lag + (T - SHIFT), axis=0), (T, T))


@triton.jit
def row_offsets(start, h, L, H):
    """Where channel ``h`` of the token ``start``, counted in the tokens of the batch, lies in ``(B, H, L)`` memory."""
    return start // L * H * L + h * L + start % L


@triton.jit
def _tables(
    log_dt_ptr,
    log_A_real_ptr,
    A_imag_ptr,
    C_ptr,
    base_ptr,
    taps_ptr,
    c_ptr,
    H,
    M,
    DIRECTIONS: tl.constexpr,
    T: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One channel of :class:`Tables`: what powers are made from; the kernel's first T taps behind T zeros; c.

    Args:
        log_dt_ptr: ``(H,)`` fp32.
        log_A_real_ptr, A_imag_ptr: ``(H, M)`` fp32.
        C_ptr: ``(DIRECTIONS, H, M, 2)`` fp32.
        base_ptr, taps_ptr, c_ptr: written.
        BLOCK_N: M or more, a power of 2.
    """
    h = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, T)
    n = tl.arange(0, BLOCK_N)
    mode_mask = n < M
    _, re, im, x, turns = modes(log_dt_ptr, log_A_real_ptr, A_imag_ptr, h, n, M, mode_mask)
    coarse, fine = split_turns(turns)
    x32 = x.to(tl.float32)
    base_ptrs = base_ptr + h * (3 * M) + n
    tl.store(base_ptrs, x32, mask=mode_mask)
    tl.store(base_ptrs + M, coarse, mask=mode_mask)
    tl.store(base_ptrs + 2 * M, fine, mask=mode_mask)
    p_re, p_im = powers(x32[None, :], coarse[None, :], fine[None, :], 0.0, j.to(tl.float32)[:, None])
    s_re, s_im = hold(re, im, x, turns)
    for d in tl.static_range(DIRECTIONS):
        C_re, C_im = load_pair(C_ptr, (d * H + h) * M + n, mode_mask)
        c_re = (C_re * s_re - C_im * s_im).to(tl.float32)
        c_im = (C_re * s_im + C_im * s_re).to(tl.float32)
        tl.store(c_ptr + (d * H + h) * (2 * M) + n, c_re, mask=mode_mask)
        tl.store(c_ptr + (d * H + h) * (2 * M) + M + n, c_im, mask=mode_mask)
        terms = tl.where(mode_mask[None, :], c_re[None, :] * p_re - c_im[None, :] * p_im, 0.0)
        taps_ptrs = taps_ptr + (d * H + h) * (2 * T) + j
        tl.store(taps_ptrs, tl.zeros((T,), tl.float32))
        tl.store(taps_ptrs + T, tl.sum(terms, axis=1))


@dataclass
class Tables:
    """``base (H, 3, M)``, ``taps (directions, H, 2T)``, ``c (directions, H, 2, M)``, all fp32.

    Powers are made by each program from ``base``, and the Toeplitz matrix out of ``taps``: a table of T powers would
    weigh as much as T tokens of 4 rows.
    """

    base: Tensor
    taps: Tensor
    c: Tensor


def tables(log_dt: Tensor, log_A_real: Tensor, A_imag: Tensor, C: Tensor, T: int) -> Tables:
    """Tables of S4D's modes for chunks of ``T`` tokens; C is (directions, H, M, 2)."""
    channels, count = A_imag.shape
    directions = C.shape[0]
    result = Tables(
        C.new_empty(channels, 3, count),
        C.new_empty(directions, channels, 2 * T),
        C.new_empty(directions, channels, 2, count),
    )
    launch(
        _tables,
        lambda c: (channels,),
        {
            "log_dt_ptr": log_dt,
            "log_A_real_ptr": log_A_real,
            "A_imag_ptr": A_imag,
            "C_ptr": C,
            "base_ptr": result.base,
            "taps_ptr": result.taps,
            "c_ptr": result.c,
            "H": channels,
            "M": count,
        },
        {"DIRECTIONS": directions, "T": T},
        [Config({"BLOCK_N": next_power_of_2(count)}, 4, 1)],
    )
    return result


@jit
def _combine(
    log_dt_ptr,
    log_A_real_ptr,
    A_imag_ptr,
    c_ptr,
    boundary_ptr,
    parts_ptr,
    out_ptr,
    table_ptr,
    cu_seqlens_ptr,
    H,
    M,
    num_segments,
    segment_len,
    PACKED: tl.constexpr,
    HAS_BOUNDARY: tl.constexpr,
    ADJOINT: tl.constexpr,
    SHIFT: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """The states between the rows of a sequence, in order; for the adjoint from the last row to the first.

    A program takes one sequence and BLOCK_N of its states, numbered by channel and mode. The adjoint Lambda is kept in
    memory as the gradient by the state, its conjugate.

    Args:
        log_dt_ptr, log_A_real_ptr, A_imag_ptr: ``(H,)``, ``(H, M)`` and ``(H, M)`` fp32.
        c_ptr: ``(H, 2, M)`` fp32; read where ADJOINT.
        boundary_ptr: ``(S, H, M, 2)`` fp32, the state before the first row (ADJOINT: after the last); read where
            HAS_BOUNDARY, else that state is 0.
        parts_ptr: ``(rows, H, M, 2)`` fp32, what each row adds to a state.
        out_ptr: the same shape, written: the state that enters each row (ADJOINT: that leaves it).
        table_ptr: the table of rows.
        cu_seqlens_ptr: ``(S + 1,)`` int64; read where PACKED.
        num_segments: rows of a sequence where not PACKED.
        segment_len: tokens of a row.
        ADJOINT: rows are walked backwards, and what they add is multiplied by c (or c a, see SHIFT).
        SHIFT: 1 for the second direction, whose output does not see its own token: c in place of c a.
    """
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
        num_rows = tl.maximum((length + segment_len - 1) // segment_len, 1)
    else:
        first = s * num_segments
        num_rows = num_segments
    s_re = tl.zeros((BLOCK_N,), tl.float32)
    s_im = tl.zeros((BLOCK_N,), tl.float32)
    if HAS_BOUNDARY:
        boundary_ptrs = boundary_ptr + (s * H * M + state) * 2
        s_re = tl.load(boundary_ptrs, mask=state_mask, other=0.0)
        s_im = tl.load(boundary_ptrs + 1, mask=state_mask, other=0.0)
        if ADJOINT:
            s_im = -s_im
    if ADJOINT:
        c_re = tl.load(c_ptr + h * 2 * M + n, mask=state_mask, other=0.0)
        c_im = tl.load(c_ptr + h * 2 * M + M + n, mask=state_mask, other=0.0)
        if SHIFT == 0:  # the output sees the state after its own token: c a
            sine, cosine = sincos64(turns)
            size = tl.exp(x)
            a_re = (size * cosine).to(tl.float32)
            a_im = (size * sine).to(tl.float32)
            c_re, c_im = c_re * a_re - c_im * a_im, c_re * a_im + c_im * a_re
    for i in range(num_rows):
        row = first + i
        if ADJOINT:
            row = first + (num_rows - 1 - i)
        offsets = (row * H * M + state) * 2
        tl.store(out_ptr + offsets, s_re, mask=state_mask)
        if ADJOINT:
            tl.store(out_ptr + offsets + 1, -s_im, mask=state_mask)
        else:
            tl.store(out_ptr + offsets + 1, s_im, mask=state_mask)
        tokens = tl.load(column_ptrs(table_ptr, row, "length"))
        angle = turns * tokens
        sine, cosine = sincos64(angle - round_to_nearest(angle))
        size = tl.exp(x * tokens)
        a_re = (size * cosine).to(tl.float32)
        a_im = (size * sine).to(tl.float32)
        e_re = tl.load(parts_ptr + offsets, mask=state_mask & (i < num_rows - 1), other=0.0)
        e_im = tl.load(parts_ptr + offsets + 1, mask=state_mask & (i < num_rows - 1), other=0.0)
        if ADJOINT:
            e_re, e_im = e_re * c_re - e_im * c_im, e_re * c_im + e_im * c_re
        s_re, s_im = a_re * s_re - a_im * s_im + e_re, a_re * s_im + a_im * s_re + e_im


def combine(
    spectrum: tuple[Tensor, Tensor, Tensor],
    c: Tensor,
    boundary: Tensor | None,
    parts: Tensor,
    rows: Rows,
    cu: Tensor | None,
    sequences: int,
    adjoint: bool,
    shift: bool,
) -> Tensor:
    """The state that enters each row (the adjoint: that leaves it), ``(rows, H, M, 2)``.

    Args:
        spectrum: log_dt, log_A_real, A_imag.
        c: ``(H, 2, M)``, of this direction.
        boundary: ``(S, H, M, 2)``, before the first row of each sequence (the adjoint: after the last), or None.
        parts: ``(rows, H, M, 2)``, what each row adds to a state; of a sequence's last (first) row not read.
    """
    log_dt, log_A_real, A_imag = spectrum
    channels, count = A_imag.shape
    out = torch.empty_like(parts)
    launch(
        _combine,
        lambda config: (sequences, cdiv(channels * count, config.blocks["BLOCK_N"])),
        {
            "log_dt_ptr": log_dt,
            "log_A_real_ptr": log_A_real,
            "A_imag_ptr": A_imag,
            "c_ptr": c,
            "boundary_ptr": boundary,
            "parts_ptr": parts,
            "out_ptr": out,
            "table_ptr": rows.table,
            "cu_seqlens_ptr": cu,
            "H": channels,
            "M": count,
            "num_segments": rows.segments,
            "segment_len": rows.segment,
        },
        {"PACKED": cu is not None, "HAS_BOUNDARY": boundary is not None, "ADJOINT": adjoint, "SHIFT": int(shift)},
        [Config({"BLOCK_N": 64}, 2, 1)],
    )
    return out
