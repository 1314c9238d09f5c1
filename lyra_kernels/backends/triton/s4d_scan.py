"""The S4D recurrence in linear time, chunks of T tokens at a time, as matrix products.

Within a chunk that state S enters, position t from 0, per channel (x the chunk as a row vector, R rows at a time):

    y = x Toeplitz(K) + Re(c a S  a^t) + D x,      S' = a^T S + x a^(T-1-s)

A program takes one channel of R rows. States stay in registers from chunk to chunk: u is read once and y written once.
Activations are channels-last, so it is the programs of neighbouring channels, running side by side, that use whole
sectors of the level-2 cache. The second direction is the same with time reversed and a shift of one token (a token
does not see itself twice).

Activations in 16 bits stay so, as operands beside tables in 16 bits; states are TF32. See ``_dot``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...layout import count_sequences
from ..reference import operations as formulas
from . import LIMITS
from ._dot import dot16, dot_table, nearest, operand, power_of_two
from ._launch import MOST_ROWS, Config, jit, launch, next_power_of_2, precision, supports
from ._modes import powers
from ._scan_rows import CHUNK, Rows, Tables, combine, load_base, load_toeplitz, rows, segment_length, tables

MAX_MODES = LIMITS.scan_modes  # whose states fit in registers


@triton.jit
def load_coefficient(c, x, coarse, fine, h, n, M, SHIFT: tl.constexpr):
    """c a, or c where SHIFT is 1."""
    at = c + h * (2 * M) + n
    real = n < M
    re = tl.load(at, mask=real, other=0.0)
    im = tl.load(at + M, mask=real, other=0.0)
    if SHIFT == 0:
        a_re, a_im = powers(x, coarse, fine, 0.0, 1.0)
        return re * a_re - im * a_im, re * a_im + im * a_re
    else:
        return re, im


@jit
def _scan(
    u,
    y,
    before,
    base,
    taps,
    c,
    skip,
    table,
    enter,
    state,
    checkpoints,
    H,
    M,
    count,
    width,
    OUTPUT: tl.constexpr,
    ADD: tl.constexpr,
    SKIP: tl.constexpr,
    ENTER: tl.constexpr,
    FINAL: tl.constexpr,
    PARTS: tl.constexpr,
    SAVE: tl.constexpr,
    ADJOINT: tl.constexpr,
    STEP: tl.constexpr,
    BACK: tl.constexpr,
    SHIFT: tl.constexpr,
    PREC: tl.constexpr,
    CHUNK_: tl.constexpr,
    R: tl.constexpr,
    T: tl.constexpr,
    N: tl.constexpr,
):
    # Neighbouring channels run side by side: together they use whole sectors of the cache.
    h = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * R + tl.arange(0, R)
    inside = row < count
    row = row.to(tl.int64)
    start = tl.load(table + row * 5, mask=inside, other=0)
    length = tl.load(table + row * 5 + 1, mask=inside, other=0).to(tl.int32)
    slot = tl.load(table + row * 5 + 2, mask=inside, other=0)
    sequence = tl.load(table + row * 5 + 3, mask=inside, other=0)
    flags = tl.load(table + row * 5 + 4, mask=inside, other=0)
    if PARTS:  # nothing comes after (before) a sequence's last (first) row
        length = tl.where((flags & (1 if BACK else 2)) == 0, length, 0)
    if BACK:  # each row from its own end
        start += STEP * (length - 1)
    step: tl.constexpr = -STEP if BACK else STEP
    n = tl.arange(0, N)[None, :]
    t = tl.arange(0, T)[None, :]
    s = tl.arange(0, T)[:, None]
    decay, coarse, fine = load_base(base, h, n, M)
    aT_re, aT_im = powers(decay, coarse, fine, 0.0, tl.full((1, N), T, tl.float32))
    like: tl.constexpr = u.dtype.element_ty
    p_re, p_im = powers(decay, coarse, fine, 0.0, (T - 1 - s).to(tl.float32))
    encode_re, low_re = operand(p_re, like, PREC)
    encode_im, low_im = operand(p_im, like, PREC)
    none = tl.zeros((R, N), tl.float32)
    if OUTPUT:
        # Outputs come back to front, t' = T - 1 - t: so a^t is the same table, transposed.
        d_re, d_im = load_coefficient(c, decay, coarse, fine, h, n, M, SHIFT)
        decode_re = tl.trans(nearest(p_re, PREC))
        decode_im = tl.trans(nearest(p_im, PREC))
        matrix = load_toeplitz(taps, h, SHIFT, T)
        if SKIP:
            matrix += tl.where(t + s == T - 1, tl.load(skip + h), 0.0)
        if like == tl.float16:  # which has fewer exponents than taps may have
            scale, inverse = power_of_two(tl.max(tl.max(tl.abs(matrix), axis=1), axis=0))
            matrix *= inverse
        matrix, low = operand(matrix, like, PREC)
    at_state = (h * M + n) * 2
    real = n < M
    s_re = tl.zeros((R, N), tl.float32)
    s_im = tl.zeros((R, N), tl.float32)
    if ENTER:
        entering = enter + row[:, None] * (H * M * 2) + at_state
        s_re = tl.load(entering, mask=real & inside[:, None], other=0.0)
        s_im = tl.load(entering + 1, mask=real & inside[:, None], other=0.0)
        if ADJOINT:  # a gradient is the conjugate of Lambda
            s_im = -s_im
    for off in range(0, tl.max(length, axis=0), T):
        token = (start[:, None] + step * (off + t)) * H + h
        there = off + t < length[:, None]
        x = tl.load(u + token, mask=there, other=0.0)
        if SAVE:
            if off % CHUNK_ == 0:
                kept = checkpoints + (slot + off // CHUNK_)[:, None] * width + at_state
                keep = real & (off < length)[:, None]
                tl.store(kept, s_re, mask=keep)
                tl.store(kept + 1, s_im, mask=keep)
        if OUTPUT:
            o = tl.zeros((R, T), tl.float32)
            if like == tl.float16:
                o = dot16(x, matrix, o) * scale
            else:
                o = dot_table(x, matrix, low, o, PREC)
            f_re = s_re
            f_im = s_im
            if not ADJOINT:
                f_re = s_re * d_re - s_im * d_im
                f_im = s_re * d_im + s_im * d_re
            o = tl.dot(nearest(f_re, PREC), decode_re, o, input_precision=PREC)
            o = tl.dot(-nearest(f_im, PREC), decode_im, o, input_precision=PREC)
            back = off + T - 1 - t
            token = (start[:, None] + step * back) * H + h
            there = back < length[:, None]
            if ADD:
                o += tl.load(before + token, mask=there, other=0.0).to(tl.float32)
            tl.store(y + token, o.to(y.dtype.element_ty), mask=there)
        # A chunk that is not full leaves the state as it is: what follows takes care of it.
        full = (off + T <= length)[:, None]
        if ADJOINT:
            e_re = dot_table(x, encode_re, low_re, none, PREC)
            e_im = dot_table(x, encode_im, low_im, none, PREC)
            f_re = aT_re * s_re - aT_im * s_im + (d_re * e_re - d_im * e_im)
            e_im = aT_re * s_im + aT_im * s_re + (d_re * e_im + d_im * e_re)
            e_re = f_re
        else:
            e_re = dot_table(x, encode_re, low_re, aT_re * s_re - aT_im * s_im, PREC)
            e_im = dot_table(x, encode_im, low_im, aT_re * s_im + aT_im * s_re, PREC)
        s_re = tl.where(full, e_re, s_re)
        s_im = tl.where(full, e_im, s_im)
    if FINAL or PARTS:
        # The r tokens after the last full chunk, at the end of a chunk of zeros, and a^r for the state.
        rest = length % T
        off = length - T
        token = (start[:, None] + step * (off[:, None] + t)) * H + h
        there = t >= T - rest[:, None]
        x = tl.load(u + token, mask=there, other=0.0)
        a_re, a_im = powers(decay, coarse, fine, 0.0, rest[:, None].to(tl.float32))
        if ADJOINT:
            e_re = dot_table(x, encode_re, low_re, none, PREC)
            e_im = dot_table(x, encode_im, low_im, none, PREC)
            f_re = a_re * s_re - a_im * s_im + (d_re * e_re - d_im * e_im)
            e_im = -(a_re * s_im + a_im * s_re + (d_re * e_im + d_im * e_re))
            e_re = f_re
        else:
            e_re = dot_table(x, encode_re, low_re, a_re * s_re - a_im * s_im, PREC)
            e_im = dot_table(x, encode_im, low_im, a_re * s_im + a_im * s_re, PREC)
        if PARTS:
            wanted = inside & ((flags & (1 if BACK else 2)) == 0)
            leaving = state + row[:, None] * (H * M * 2) + at_state
        else:
            wanted = inside & ((flags & (1 if BACK else 2)) != 0)
            leaving = state + sequence[:, None] * (H * M * 2) + at_state
        tl.store(leaving, e_re, mask=real & wanted[:, None])
        tl.store(leaving + 1, e_im, mask=real & wanted[:, None])


def configurations(modes: int) -> list[Config]:
    """16 rows: the smallest product a matrix unit takes. Chunks and warps so that no register is spilled.

    At least 32 modes: for 16 the compiler has each warp do every column of a product, and spills hundreds of bytes.
    """
    block = next_power_of_2(max(modes, 32))
    chunk, warps = (32, 4) if block <= 32 else (16, 8)
    return [Config({"R": 16, "T": chunk, "N": block}, warps, 1)]


def fits(u: Tensor, A_imag: Tensor, cu_seqlens: Tensor | None) -> bool:
    """Whether the kernels take this call."""
    known = supports(u) and A_imag.dtype == torch.float32
    small = 0 < A_imag.shape[1] <= MAX_MODES and count_sequences(u, cu_seqlens) <= MOST_ROWS
    return known and small and u.numel() > 0


def run_scan(
    u: Tensor,
    y: Tensor | None,
    before: Tensor | None,
    table: Tables,
    direction: int,
    skip: Tensor | None,
    row: Rows,
    enter: Tensor | None,
    state: Tensor | None,
    checkpoints: Tensor | None,
    config: Config,
    *,
    parts: bool = False,
    back: bool = False,
    adjoint: bool = False,
) -> None:
    """Launch ``_scan`` for one direction; see its constants for what each argument does where it is given.

    With ``back`` each row is walked from its end; with ``adjoint`` states are gradients, and the kernel's coefficients
    are applied to what enters a state, not to what leaves it.
    """
    channels, count = u.shape[-1], table.base.shape[-1]
    width = 0 if checkpoints is None else checkpoints.shape[-1]
    if checkpoints is not None:
        checkpoints = checkpoints.view(-1)[direction * channels * count * 2 :]
    launch(
        _scan,
        lambda c: (channels, triton.cdiv(row.count, c.blocks["R"])),
        (
            u,
            y,
            before,
            table.base,
            table.taps[direction],
            table.c[direction],
            skip,
            row.table,
            enter,
            state,
            checkpoints,
            channels,
            count,
            row.count,
            width,
        ),
        {
            "OUTPUT": y is not None,
            "ADD": before is not None,
            "SKIP": skip is not None,
            "ENTER": enter is not None,
            "FINAL": state is not None and not parts,
            "PARTS": parts,
            "SAVE": checkpoints is not None,
            "ADJOINT": adjoint,
            "STEP": -1 if row.reverse else 1,
            "BACK": back,
            "SHIFT": direction,
            "PREC": precision(u),
            "CHUNK_": CHUNK,
        },
        [config],
    )


def s4d_scan(u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state, save):
    """``torch.ops.lyra.s4d_scan``."""
    if not fits(u, A_imag, cu_seqlens):
        args = (u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state)
        return formulas()["s4d_scan"](*args, save)
    directions, (channels, count) = C.shape[0], A_imag.shape
    sequences = count_sequences(u, cu_seqlens)
    slots = u.shape[1] // CHUNK + sequences if cu_seqlens is not None else u.shape[0] * triton.cdiv(u.shape[1], CHUNK)
    shape = (slots, directions * channels * count * 2) if save else (0,)
    checkpoints = torch.zeros(shape, dtype=torch.float32, device=u.device)
    config = configurations(count)[0]
    table = tables(log_dt, log_A_real, A_imag, C, config.blocks["T"])
    segment = segment_length(u, sequences, channels, config.blocks["R"])
    y = torch.zeros_like(u) if lengths is not None else torch.empty_like(u)
    state = u.new_empty((sequences, channels, count, 2) if directions == 1 else (0,), dtype=torch.float32)
    whole = y if directions == 1 or u.dtype == torch.float32 else torch.zeros_like(u, dtype=torch.float32)
    for direction in range(directions):
        row = rows(u, lengths, cu_seqlens, segment, reverse=direction == 1)
        enter = initial_state
        if row.count > sequences:
            parts = u.new_empty(row.count, channels, count, 2, dtype=torch.float32)
            run_scan(u, None, None, table, direction, None, row, None, parts, None, config, parts=True)
            spectrum = (log_dt, log_A_real, A_imag)
            enter = combine(
                spectrum, table.c[direction], initial_state, parts, row, cu_seqlens, sequences, False, direction == 1
            )
        last = direction == directions - 1
        run_scan(
            u,
            y if last else whole,
            whole if direction else None,
            table,
            direction,
            None if direction else D,
            row,
            enter,
            state if directions == 1 else None,
            checkpoints if save else None,
            config,
        )
    return y, state, checkpoints
