"""The S4D recurrence in linear time, chunks of T tokens at a time, as matrix products.

Within a chunk that state S enters, position t from 0, per channel (x the chunk as a row vector, R rows at a time):

    y = x Toeplitz(K) + Re(c a S  a^t) + D x,      S' = a^T S + x a^(T-1-s)

A program takes one channel of R rows. States stay in registers from chunk to chunk: u is read once and y written once,
and the next chunk of u is on its way while one is multiplied. Kernels read and write ``(B, H, L)`` memory, where a
chunk of a row is one line: out of channels-last memory every value is a request of its own, which took 3 times (fp32)
and 4 times (bf16) as long (H200, 64 x 4096 x 64). Other layouts are transposed before and after (:mod:`._transpose`),
which is still twice as fast. The second direction is the same with time reversed and a shift of one token (a token does
not see itself twice).

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
from ._launch import MOST_ROWS, Config, cdiv, jit, launch, next_power_of_2, precision, refusal, refusing, supports
from ._modes import powers
from ._row_table import CHUNK, Rows, column_ptrs, rows, segment_length
from ._scan_rows import Tables, combine, load_base, load_toeplitz, row_offsets, tables
from ._transpose import as_given, channels_first

MAX_MODES = LIMITS.scan_modes  # whose states fit in registers


@triton.jit
def load_coefficient(c_ptr, x, coarse, fine, h, n, M, SHIFT: tl.constexpr):
    """c a of channel ``h`` and modes ``n``, or c where SHIFT is 1; ``c_ptr (H, 2, M)``, fp32.

    ``x``, ``coarse``, ``fine``: what :func:`load_base` gives.
    """
    ptrs = c_ptr + h * (2 * M) + n
    mode_mask = n < M
    re = tl.load(ptrs, mask=mode_mask, other=0.0)
    im = tl.load(ptrs + M, mask=mode_mask, other=0.0)
    if SHIFT == 0:
        a_re, a_im = powers(x, coarse, fine, 0.0, 1.0)
        return re * a_re - im * a_im, re * a_im + im * a_re
    else:
        return re, im


@jit
def _scan(
    u_ptr,
    y_ptr,
    before_ptr,
    base_ptr,
    taps_ptr,
    c_ptr,
    skip_ptr,
    table_ptr,
    enter_ptr,
    state_ptr,
    checkpoints_ptr,
    L,
    H,
    M,
    num_rows,
    checkpoint_stride,
    HAS_OUTPUT: tl.constexpr,
    HAS_BEFORE: tl.constexpr,
    HAS_SKIP: tl.constexpr,
    HAS_ENTER: tl.constexpr,
    FINAL: tl.constexpr,
    PARTS: tl.constexpr,
    SAVE: tl.constexpr,
    ADJOINT: tl.constexpr,
    STEP: tl.constexpr,
    BACK: tl.constexpr,
    SHIFT: tl.constexpr,
    PREC: tl.constexpr,
    SAVE_EVERY: tl.constexpr,
    BLOCK_R: tl.constexpr,
    T: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """BLOCK_R rows of one channel, T tokens at a time: outputs, states, or both.

    Args:
        u_ptr: ``(B, H, L)``, the activations, or in the backward the gradient of y.
        y_ptr: as u or fp32, written where HAS_OUTPUT.
        before_ptr: as y, what outputs are added to; read where HAS_BEFORE.
        base_ptr, taps_ptr, c_ptr: :class:`Tables`, of this direction.
        skip_ptr: D, ``(H,)`` fp32; read where HAS_SKIP.
        table_ptr: the table of rows.
        enter_ptr: ``(num_rows, H, M, 2)`` fp32, the state that enters each row; read where HAS_ENTER, else it is 0.
        state_ptr: fp32, written: where FINAL ``(S, H, M, 2)``, the state that leaves each sequence; where PARTS
            ``(num_rows, H, M, 2)``, what each row adds to a state, but that which is walked last of its sequence.
        checkpoints_ptr: fp32, written where SAVE: slots of ``checkpoint_stride`` values, in each ``(H, M, 2)``, the
            state before each SAVE_EVERY-th token of a row.
        ADJOINT: states are Lambda, in memory its conjugate, the gradient by the state; u is multiplied by c as it
            enters a state, not the state as it enters y.
        STEP: 1, or -1 where rows run backwards in time.
        BACK: each row is walked from its own end.
        L: tokens of a sequence, or of the whole batch where it is packed (B = 1).
        SHIFT: 1 for the second direction, whose output does not see its own token.
        PREC: of products of fp32 values, ``tl.dot``'s input_precision.
        BLOCK_N: M or more, a power of 2.
    """
    h = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    row_mask = row < num_rows
    row = row.to(tl.int64)
    start = tl.load(column_ptrs(table_ptr, row, "start"), mask=row_mask, other=0)
    length = tl.load(column_ptrs(table_ptr, row, "length"), mask=row_mask, other=0).to(tl.int32)
    slot = tl.load(column_ptrs(table_ptr, row, "checkpoint"), mask=row_mask, other=0)
    sequence = tl.load(column_ptrs(table_ptr, row, "sequence"), mask=row_mask, other=0)
    flags = tl.load(column_ptrs(table_ptr, row, "flags"), mask=row_mask, other=0)
    END: tl.constexpr = 1 if BACK else 2  # the flag of the row of a sequence that its states leave last
    if PARTS:  # nothing comes after (before) a sequence's last (first) row
        length = tl.where((flags & END) == 0, length, 0)
    if BACK:  # each row from its own end
        start += STEP * (length - 1)
    step: tl.constexpr = -STEP if BACK else STEP
    n = tl.arange(0, BLOCK_N)[None, :]
    t = tl.arange(0, T)[None, :]
    s = tl.arange(0, T)[:, None]
    # Columns are in the order of memory, whichever way the walk goes: else a request touches a line for each value.
    # Column j of the chunk at ``off`` is the walk's token off + j, or off + T - 1 - j where it goes down.
    DOWN: tl.constexpr = step == -1
    offsets = row_offsets(start, h, L, H)[:, None] + t
    late = t  # tokens that a column comes after the first
    if DOWN:
        offsets -= T - 1
        late = T - 1 - t
    u_ptrs = u_ptr + offsets
    if HAS_OUTPUT:
        y_ptrs = y_ptr + offsets
        if HAS_BEFORE:
            before_ptrs = before_ptr + offsets
    decay, coarse, fine = load_base(base_ptr, h, n, M)
    aT_re, aT_im = powers(decay, coarse, fine, 0.0, tl.full((1, BLOCK_N), T, tl.float32))
    like: tl.constexpr = u_ptr.dtype.element_ty
    p_re, p_im = powers(decay, coarse, fine, 0.0, (s if DOWN else T - 1 - s).to(tl.float32))
    encode_re, low_re = operand(p_re, like, PREC)
    encode_im, low_im = operand(p_im, like, PREC)
    none = tl.zeros((BLOCK_R, BLOCK_N), tl.float32)
    if HAS_OUTPUT:
        d_re, d_im = load_coefficient(c_ptr, decay, coarse, fine, h, n, M, SHIFT)
        q_re, q_im = powers(decay, coarse, fine, 0.0, (T - 1 - s if DOWN else s).to(tl.float32))
        if not ADJOINT:  # the coefficients once, not at every chunk
            q_re, q_im = q_re * d_re - q_im * d_im, q_re * d_im + q_im * d_re
        decode_re = tl.trans(nearest(q_re, PREC))
        decode_im = tl.trans(nearest(q_im, PREC))
        matrix = load_toeplitz(taps_ptr, h, SHIFT, DOWN, T)
        if HAS_SKIP:
            matrix += tl.where(t == s, tl.load(skip_ptr + h), 0.0)
        if like == tl.float16:  # which has fewer exponents than taps may have
            scale, inverse = power_of_two(tl.max(tl.max(tl.abs(matrix), axis=1), axis=0))
            matrix *= inverse
        matrix, low = operand(matrix, like, PREC)
    state_offsets = (h * M + n) * 2
    mode_mask = n < M
    s_re = tl.zeros((BLOCK_R, BLOCK_N), tl.float32)
    s_im = tl.zeros((BLOCK_R, BLOCK_N), tl.float32)
    if HAS_ENTER:
        entering_ptrs = enter_ptr + row[:, None] * (H * M * 2) + state_offsets
        s_re = tl.load(entering_ptrs, mask=mode_mask & row_mask[:, None], other=0.0)
        s_im = tl.load(entering_ptrs + 1, mask=mode_mask & row_mask[:, None], other=0.0)
        if ADJOINT:  # a gradient is the conjugate of Lambda
            s_im = -s_im
    AHEAD: tl.constexpr = BLOCK_N <= 32  # else registers are short
    if AHEAD:
        u = tl.load(u_ptrs, mask=late < length[:, None], other=0.0)
    for off in range(0, tl.max(length, axis=0), T):
        if AHEAD:  # the next chunk is on its way while this one is multiplied
            ahead = tl.load(u_ptrs + step * (off + T), mask=late < length[:, None] - (off + T), other=0.0)
        else:
            u = tl.load(u_ptrs + step * off, mask=late < length[:, None] - off, other=0.0)
        if SAVE:
            if off % SAVE_EVERY == 0:
                # Real and imaginary parts side by side: stored apart, a lane of a request would have its own line.
                pair = tl.arange(0, 2 * BLOCK_N)[None, :]
                checkpoint_ptrs = checkpoints_ptr + (slot + off // SAVE_EVERY)[:, None] * checkpoint_stride
                checkpoint_mask = (pair < 2 * M) & (off < length)[:, None]
                pairs = tl.reshape(tl.join(s_re, s_im), (BLOCK_R, 2 * BLOCK_N))
                tl.store(checkpoint_ptrs + h * (2 * M) + pair, pairs, mask=checkpoint_mask)
        if HAS_OUTPUT:
            y = tl.zeros((BLOCK_R, T), tl.float32)
            if like == tl.float16:
                y = dot16(u, matrix, y) * scale
            else:
                y = dot_table(u, matrix, low, y, PREC)
            y = tl.dot(nearest(s_re, PREC), decode_re, y, input_precision=PREC)
            y = tl.dot(-nearest(s_im, PREC), decode_im, y, input_precision=PREC)
            token_mask = late < length[:, None] - off
            if HAS_BEFORE:
                y += tl.load(before_ptrs + step * off, mask=token_mask, other=0.0).to(tl.float32)
            tl.store(y_ptrs + step * off, y.to(y_ptr.dtype.element_ty), mask=token_mask)
        # A chunk that is not full leaves the state as it is: what follows takes care of it.
        full = (off + T <= length)[:, None]
        if ADJOINT:
            e_re = dot_table(u, encode_re, low_re, none, PREC)
            e_im = dot_table(u, encode_im, low_im, none, PREC)
            f_re = aT_re * s_re - aT_im * s_im + (d_re * e_re - d_im * e_im)
            e_im = aT_re * s_im + aT_im * s_re + (d_re * e_im + d_im * e_re)
            e_re = f_re
        else:
            e_re = dot_table(u, encode_re, low_re, aT_re * s_re - aT_im * s_im, PREC)
            e_im = dot_table(u, encode_im, low_im, aT_re * s_im + aT_im * s_re, PREC)
        s_re = tl.where(full, e_re, s_re)
        s_im = tl.where(full, e_im, s_im)
        if AHEAD:
            u = ahead
    if FINAL or PARTS:
        # The r tokens after the last full chunk, at the end of a chunk of zeros, and a^r for the state.
        rest = length % T
        off = length - T
        u = tl.load(u_ptrs + step * off[:, None], mask=late >= T - rest[:, None], other=0.0)
        decay, coarse, fine = load_base(base_ptr, h, n, M)  # again: not kept in registers all the while
        a_re, a_im = powers(decay, coarse, fine, 0.0, rest[:, None].to(tl.float32))
        if ADJOINT:
            e_re = dot_table(u, encode_re, low_re, none, PREC)
            e_im = dot_table(u, encode_im, low_im, none, PREC)
            f_re = a_re * s_re - a_im * s_im + (d_re * e_re - d_im * e_im)
            e_im = -(a_re * s_im + a_im * s_re + (d_re * e_im + d_im * e_re))
            e_re = f_re
        else:
            e_re = dot_table(u, encode_re, low_re, a_re * s_re - a_im * s_im, PREC)
            e_im = dot_table(u, encode_im, low_im, a_re * s_im + a_im * s_re, PREC)
        if PARTS:
            state_mask = row_mask & ((flags & END) == 0)
            state_ptrs = state_ptr + row[:, None] * (H * M * 2) + state_offsets
        else:
            state_mask = row_mask & ((flags & END) != 0)
            state_ptrs = state_ptr + sequence[:, None] * (H * M * 2) + state_offsets
        tl.store(state_ptrs, e_re, mask=mode_mask & state_mask[:, None])
        tl.store(state_ptrs + 1, e_im, mask=mode_mask & state_mask[:, None])


def configurations(modes: int, lean: bool = False) -> list[Config]:
    """16 rows: the smallest product a matrix unit takes. Chunks and warps so that no register is spilled.

    At least 32 modes: for 16 the compiler has each warp do every column of a product, and spills hundreds of bytes.
    ``lean``: shorter chunks, which leave registers.
    """
    block = next_power_of_2(max(modes, 32))
    chunk, warps = (16 if lean else 32, 4) if block <= 32 else (16, 8)
    return [Config({"BLOCK_R": 16, "T": chunk, "BLOCK_N": block}, warps, 1)]


def why_not(u: Tensor, A_imag: Tensor, cu_seqlens: Tensor | None) -> str | None:
    """Why the kernels do not take this call, or None."""
    known = supports(u) and A_imag.dtype == torch.float32
    small = 0 < A_imag.shape[1] <= MAX_MODES and count_sequences(u, cu_seqlens) <= MOST_ROWS
    if known and small and u.numel() > 0:
        return None
    return refusal(u, f"the scan takes 1 to {MAX_MODES} modes, in float32, and up to {MOST_ROWS} sequences")


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
    """Launch ``_scan`` for one direction of ``u (B, H, L)``; see there for what each argument does where it is given.

    With ``back`` each row is walked from its end; with ``adjoint`` states are gradients, and the kernel's coefficients
    are applied to what enters a state, not to what leaves it.
    """
    channels, length, count = u.shape[1], u.shape[2], table.base.shape[-1]
    width = 0 if checkpoints is None else checkpoints.shape[-1]
    if checkpoints is not None:
        checkpoints = checkpoints.view(-1)[direction * channels * count * 2 :]
    launch(
        _scan,
        lambda c: (channels, cdiv(row.count, c.blocks["BLOCK_R"])),
        {
            "u_ptr": u,
            "y_ptr": y,
            "before_ptr": before,
            "base_ptr": table.base,
            "taps_ptr": table.taps[direction],
            "c_ptr": table.c[direction],
            "skip_ptr": skip,
            "table_ptr": row.table,
            "enter_ptr": enter,
            "state_ptr": state,
            "checkpoints_ptr": checkpoints,
            "L": length,
            "H": channels,
            "M": count,
            "num_rows": row.count,
            "checkpoint_stride": width,
        },
        {
            "HAS_OUTPUT": y is not None,
            "HAS_BEFORE": before is not None,
            "HAS_SKIP": skip is not None,
            "HAS_ENTER": enter is not None,
            "FINAL": state is not None and not parts,
            "PARTS": parts,
            "SAVE": checkpoints is not None,
            "ADJOINT": adjoint,
            "STEP": -1 if row.reverse else 1,
            "BACK": back,
            "SHIFT": direction,
            "PREC": precision(u),
            "SAVE_EVERY": CHUNK,
        },
        [config],
    )


@refusing(lambda u, log_dt, log_A_real, A_imag, *rest: why_not(u, A_imag, rest[3]))
def s4d_scan(u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state, save):
    """``torch.ops.lyra.s4d_scan``."""
    if why_not(u, A_imag, cu_seqlens):
        args = (u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state)
        return formulas()["s4d_scan"](*args, save)
    directions, (channels, count) = C.shape[0], A_imag.shape
    sequences = count_sequences(u, cu_seqlens)
    slots = u.shape[1] // CHUNK + sequences if cu_seqlens is not None else u.shape[0] * cdiv(u.shape[1], CHUNK)
    shape = (slots, directions * channels * count * 2) if save else (0,)
    checkpoints = u.new_empty(shape, dtype=torch.float32)
    config = configurations(count)[0]
    table = tables(log_dt, log_A_real, A_imag, C, config.blocks["T"])
    segment = segment_length(u, sequences, channels, config.blocks["BLOCK_R"])
    v = channels_first(u)
    y = torch.zeros_like(v) if lengths is not None else torch.empty_like(v)
    state = u.new_empty((sequences, channels, count, 2) if directions == 1 else (0,), dtype=torch.float32)
    whole = y if directions == 1 or u.dtype == torch.float32 else torch.zeros_like(v, dtype=torch.float32)
    for direction in range(directions):
        row = rows(u, lengths, cu_seqlens, segment, reverse=direction == 1)
        enter = initial_state
        if row.count > sequences:
            parts = u.new_empty(row.count, channels, count, 2, dtype=torch.float32)
            run_scan(v, None, None, table, direction, None, row, None, parts, None, config, parts=True)
            spectrum = (log_dt, log_A_real, A_imag)
            enter = combine(
                spectrum, table.c[direction], initial_state, parts, row, cu_seqlens, sequences, False, direction == 1
            )
        last = direction == directions - 1
        run_scan(
            v,
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
    return as_given(y, u), state, checkpoints
