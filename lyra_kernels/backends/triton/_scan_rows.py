"""What a chunked scan over rows needs: tables of powers, where the rows lie, and the states between them.

A *row* is a stretch of at most ``segment`` tokens of one sequence, walked by one lane of a program, ``T`` tokens at a
time. Where the sequences alone fill the card there is one row a sequence, else several; then the states that enter
them come from a pass over the activations before (``_scan``, states only) and :func:`combine`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...schemas import SCAN_CHUNK as CHUNK
from . import LIMITS
from ._launch import Config, jit, launch, next_power_of_2
from ._modes import hold, load_pair, modes, powers, round_to_nearest, sincos64, split_turns

COLUMNS = 5  # of the table of rows: first token, tokens, first checkpoint, sequence, 1 = its first row + 2 = its last


@triton.jit
def load_base(base, h, n, M):
    """What the powers of channel ``h`` are made from: log |a|, and the phase in turns as two parts."""
    at = base + h * (3 * M) + n
    real = n < M
    # Where there is no mode a is 0: its state stays finite.
    x = tl.load(at, mask=real, other=-1e4)
    return x, tl.load(at + M, mask=real, other=0.0), tl.load(at + 2 * M, mask=real, other=0.0)


@triton.jit
def load_toeplitz(taps, h, SHIFT: tl.constexpr, T: tl.constexpr):
    """The taps at lag T-1-t-s as (s, t), 0 where that is negative. Reads 2T values."""
    at = tl.arange(0, T * T)
    lag = T - 1 - at % T - at // T
    values = tl.load(taps + h * (2 * T) + tl.arange(0, 2 * T))
    return tl.reshape(tl.gather(values, lag + (T - SHIFT), axis=0), (T, T))


@triton.jit
def _tables(
    log_dt,
    log_A_real,
    A_imag,
    C,
    base,
    taps,
    c,
    H,
    M,
    DIRECTIONS: tl.constexpr,
    T: tl.constexpr,
    N: tl.constexpr,
):
    """What powers are made from; the kernel's first T taps behind T zeros; c."""
    h = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, T)
    n = tl.arange(0, N)
    real = n < M
    _, re, im, x, turns = modes(log_dt, log_A_real, A_imag, h, n, M, real)
    coarse, fine = split_turns(turns)
    x32 = x.to(tl.float32)
    to = base + h * (3 * M) + n
    tl.store(to, x32, mask=real)
    tl.store(to + M, coarse, mask=real)
    tl.store(to + 2 * M, fine, mask=real)
    p_re, p_im = powers(x32[None, :], coarse[None, :], fine[None, :], 0.0, j.to(tl.float32)[:, None])
    s_re, s_im = hold(re, im, x, turns)
    for d in tl.static_range(DIRECTIONS):
        C_re, C_im = load_pair(C, (d * H + h) * M + n, real)
        c_re = (C_re * s_re - C_im * s_im).to(tl.float32)
        c_im = (C_re * s_im + C_im * s_re).to(tl.float32)
        tl.store(c + (d * H + h) * (2 * M) + n, c_re, mask=real)
        tl.store(c + (d * H + h) * (2 * M) + M + n, c_im, mask=real)
        taken = tl.where(real[None, :], c_re[None, :] * p_re - c_im[None, :] * p_im, 0.0)
        to = taps + (d * H + h) * (2 * T) + j
        tl.store(to, tl.zeros((T,), tl.float32))
        tl.store(to + T, tl.sum(taken, axis=1))


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
        (log_dt, log_A_real, A_imag, C, result.base, result.taps, result.c, channels, count),
        {"DIRECTIONS": directions, "T": T},
        [Config({"N": next_power_of_2(count)}, 4, 1)],
    )
    return result


@jit
def _rows(
    table,
    lengths,
    cu,
    L,
    S,
    rows,
    segments,
    segment,
    REVERSE: tl.constexpr,
    PADDED: tl.constexpr,
    PACKED: tl.constexpr,
    CHUNK_: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    if PACKED:
        # Sequence s takes the rows from cu[s] // segment + s on.
        s = tl.zeros((BLOCK,), tl.int64) - 1
        for first in range(0, S, 32):
            at = first + tl.arange(0, 32)
            begin = tl.load(cu + at, mask=at < S, other=0) // segment + at
            s += tl.sum(((at < S)[None, :] & (begin[None, :] <= row[:, None])).to(tl.int64), axis=1)
        begin = tl.load(cu + s, mask=inside, other=0)
        length = tl.load(cu + s + 1, mask=inside, other=0) - begin
        g = row - (begin // segment + s)
        slot = begin // CHUNK_ + s
    else:
        s = (row // segments).to(tl.int64)
        g = (row % segments).to(tl.int64)
        begin = s * L
        if PADDED:
            length = tl.load(lengths + s, mask=inside, other=0)
        else:
            length = begin * 0 + L
        slot = s * ((L + CHUNK_ - 1) // CHUNK_)
    taken = tl.maximum(length - g * segment, 0)
    taken = tl.minimum(taken, segment)
    start = begin + g * segment
    if REVERSE:
        start = begin + length - 1 - g * segment
    last = g == tl.maximum((length + segment - 1) // segment, 1) - 1
    flags = (g == 0).to(tl.int64) + 2 * last.to(tl.int64)
    to = table + row.to(tl.int64) * 5
    tl.store(to, start, mask=inside)
    tl.store(to + 1, taken, mask=inside)
    tl.store(to + 2, slot + g * (segment // CHUNK_), mask=inside)
    tl.store(to + 3, s, mask=inside)
    tl.store(to + 4, flags, mask=inside)


@dataclass
class Rows:
    """Rows of a batch: ``table (count, COLUMNS)`` int64, and how sequences are cut into them."""

    table: Tensor
    count: int
    segments: int  # a sequence, in a dense or padded batch
    segment: int
    reverse: bool


def rows(u: Tensor, lengths: Tensor | None, cu: Tensor | None, segment: int, reverse: bool) -> Rows:
    """Cut the sequences of ``u (B, L, H)`` into rows of ``segment`` tokens, a multiple of 64, without asking the host.

    With ``reverse`` a sequence is walked from its end.
    """
    batch, length, _ = u.shape
    sequences = batch if cu is None else cu.shape[0] - 1
    segments = max(triton.cdiv(length, segment), 1)
    count = batch * segments if cu is None else length // segment + sequences
    table = torch.empty(count, COLUMNS, dtype=torch.int64, device=u.device)
    launch(
        _rows,
        lambda c: (triton.cdiv(count, c.blocks["BLOCK"]),),
        (table, lengths, cu, length, sequences, count, segments, segment),
        {"REVERSE": reverse, "PADDED": lengths is not None, "PACKED": cu is not None, "CHUNK_": CHUNK},
        [Config({"BLOCK": 64}, 2, 1)],
    )
    return Rows(table, count, segments, segment, reverse)


@jit
def _combine(
    log_dt,
    log_A_real,
    A_imag,
    c,
    boundary,
    parts,
    out,
    table,
    cu,
    H,
    M,
    segments,
    segment,
    PACKED: tl.constexpr,
    BOUNDARY: tl.constexpr,
    ADJOINT: tl.constexpr,
    SHIFT: tl.constexpr,
    N: tl.constexpr,
):
    """The states between the rows of a sequence, in order; for the adjoint from the last row to the first.

    The adjoint Lambda is kept in memory as the gradient by the state, its conjugate.
    """
    s = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * N + tl.arange(0, N)  # channel and mode
    real = at < H * M
    h = at // M
    n = at % M
    _, _, _, x, turns = modes(log_dt, log_A_real, A_imag, h, n, M, real)
    if PACKED:
        begin = tl.load(cu + s)
        length = tl.load(cu + s + 1) - begin
        first = begin // segment + s
        count = tl.maximum((length + segment - 1) // segment, 1)
    else:
        first = s * segments
        count = segments
    s_re = tl.zeros((N,), tl.float32)
    s_im = tl.zeros((N,), tl.float32)
    if BOUNDARY:
        s_re = tl.load(boundary + (s * H * M + at) * 2, mask=real, other=0.0)
        s_im = tl.load(boundary + (s * H * M + at) * 2 + 1, mask=real, other=0.0)
        if ADJOINT:
            s_im = -s_im
    if ADJOINT:
        c_re = tl.load(c + h * 2 * M + n, mask=real, other=0.0)
        c_im = tl.load(c + h * 2 * M + M + n, mask=real, other=0.0)
        if SHIFT == 0:  # the output sees the state after its own token: c a
            sine, cosine = sincos64(turns)
            size = tl.exp(x)
            a_re = (size * cosine).to(tl.float32)
            a_im = (size * sine).to(tl.float32)
            c_re, c_im = c_re * a_re - c_im * a_im, c_re * a_im + c_im * a_re
    for i in range(count):
        row = first + i
        if ADJOINT:
            row = first + (count - 1 - i)
        to = (row * H * M + at) * 2
        tl.store(out + to, s_re, mask=real)
        if ADJOINT:
            tl.store(out + to + 1, -s_im, mask=real)
        else:
            tl.store(out + to + 1, s_im, mask=real)
        tokens = tl.load(table + row * 5 + 1)
        angle = turns * tokens
        sine, cosine = sincos64(angle - round_to_nearest(angle))
        size = tl.exp(x * tokens)
        a_re = (size * cosine).to(tl.float32)
        a_im = (size * sine).to(tl.float32)
        e_re = tl.load(parts + to, mask=real & (i < count - 1), other=0.0)
        e_im = tl.load(parts + to + 1, mask=real & (i < count - 1), other=0.0)
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
    channels, count = spectrum[1].shape
    out = torch.empty_like(parts)
    launch(
        _combine,
        lambda config: (sequences, triton.cdiv(channels * count, config.blocks["N"])),
        (*spectrum, c, boundary, parts, out, rows.table, cu, channels, count, rows.segments, rows.segment),
        {"PACKED": cu is not None, "BOUNDARY": boundary is not None, "ADJOINT": adjoint, "SHIFT": int(shift)},
        [Config({"N": 64}, 2, 1)],
    )
    return out


@functools.cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def segment_length(u: Tensor, sequences: int, channels: int, rows_per_program: int) -> int:
    """Tokens a row: a whole sequence where that fills the card, else fewer, but enough that states cost little.

    Rows are walked twice where there are several a sequence, so that two or three make nothing faster.
    """
    length = u.shape[1]
    whole = triton.cdiv(length + 1, CHUNK) * CHUNK
    programs = 2 * (_processors(u.device) if u.is_cuda else 1)
    wanted = max(triton.cdiv(programs, channels), 1) * rows_per_program
    mean = u.shape[0] * length // max(sequences, 1)
    least = LIMITS.segment[u.element_size()]
    segments = min(wanted // max(sequences, 1), mean // least)
    return whole if segments < 4 else triton.cdiv(triton.cdiv(mean, segments), CHUNK) * CHUNK
