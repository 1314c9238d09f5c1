"""What a program of the scan does in one direction; see :mod:`.s4d_scan`."""

from __future__ import annotations

import triton
import triton.language as tl

from ._dot import dot16, dot_table, nearest, operand, power_of_two
from ._modes import powers
from ._row_table import row_at
from ._scan_chain import times
from ._scan_rows import make_base, row_offsets, store_base, toeplitz


@triton.jit
def walk(
    u_ptr, y_ptr, before_ptr, log_dt_ptr, log_A_real_ptr, A_imag_ptr, C_ptr, base_ptr, skip_ptr, enter_ptr, state_ptr,
    checkpoints_ptr, lengths_ptr, cu_seqlens_ptr, L, S, num_rows, num_segments, segment_len, H, M, checkpoint_stride,
    zero, HAS_LENGTHS: tl.constexpr, PACKED: tl.constexpr, HAS_OUTPUT: tl.constexpr, HAS_BEFORE: tl.constexpr,
    HAS_SKIP: tl.constexpr, HAS_ENTER: tl.constexpr, FINAL: tl.constexpr, PARTS: tl.constexpr, SAVE: tl.constexpr,
    KEEP: tl.constexpr, PAD: tl.constexpr, ADJOINT: tl.constexpr, STEP: tl.constexpr, BACK: tl.constexpr,
    SHIFT: tl.constexpr, PREC: tl.constexpr, SAVE_EVERY: tl.constexpr, BLOCK_R: tl.constexpr, T: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """BLOCK_R rows of one channel, T tokens at a time: outputs, states, or both.

    Args:
        u_ptr: ``(B, H, L)``, the activations, or in the backward the gradient of y.
        y_ptr: as u or fp32, written where HAS_OUTPUT.
        before_ptr: fp32, what outputs are added to; read where HAS_BEFORE.
        log_dt_ptr, log_A_real_ptr, A_imag_ptr, C_ptr: the parameters, fp32, C of this direction.
        base_ptr: see :func:`store_base`; written where KEEP.
        skip_ptr: D, ``(H,)`` fp32; read where HAS_SKIP.
        enter_ptr: ``(num_rows, H, M, 2)`` fp32, the state that enters each row; read where HAS_ENTER, else it is 0.
        state_ptr: fp32, written: where FINAL ``(S, H, M, 2)``, the state that leaves each sequence; where PARTS
            ``(num_rows, H, M, 2)``, what each row adds to a state, but that which is walked last of its sequence.
        checkpoints_ptr: fp32, written where SAVE: slots of ``checkpoint_stride`` values, in each ``(H, M, 2)``, the
            state before each SAVE_EVERY-th token of a row.
        ADJOINT: states are Lambda, in memory its conjugate, the gradient by the state; u is multiplied by c as it
            enters a state, not the state as it enters y.
        PAD: of a padded batch y is set to 0 behind each sequence.
        STEP: 1, or -1 where rows run backwards in time.
        BACK: each row is walked from its own end.
        L: tokens of a sequence, or of the whole batch where it is packed (B = 1).
        lengths_ptr, cu_seqlens_ptr, S, num_rows, num_segments, segment_len, HAS_LENGTHS, PACKED: see :func:`row_at`.
        SHIFT: 1 for the second direction, whose output does not see its own token.
        PREC: of products of fp32 values, ``tl.dot``'s input_precision.
        zero: 0; where the compiler does not know it, it keeps nothing in registers for this walk from one before.
        BLOCK_N: M or more, a power of 2.
    """
    h = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R) + zero
    row_mask = row < num_rows
    sequence, start, length, slot, flags = row_at(
        row, lengths_ptr, cu_seqlens_ptr, L, S, num_rows, num_segments, segment_len,
        STEP == -1, HAS_LENGTHS, PACKED, SAVE_EVERY,
    )  # fmt: skip
    row = row.to(tl.int64)
    END: tl.constexpr = 1 if BACK else 2  # the flag of the row of a sequence that its states leave last
    if PARTS:  # nothing comes after (before) a sequence's last (first) row
        length = tl.where((flags & END) == 0, length, 0)
    if BACK:  # each row from its own end
        start += STEP * (length - 1)
    step: tl.constexpr = -STEP if BACK else STEP
    n = tl.arange(0, BLOCK_N)[None, :] + zero
    t = tl.arange(0, T)[None, :]
    s = tl.arange(0, T)[:, None] + zero
    # Columns are in the order of memory, whichever way the walk goes: else a request touches a line for each value.
    # Column j of the chunk at ``off`` is the walk's token off + j, or off + T - 1 - j where it goes down.
    DOWN: tl.constexpr = step == -1
    offsets = row_offsets(start, h, L, H)[:, None] + t
    late = t  # tokens that a column comes after the first
    if DOWN:
        offsets -= T - 1
        late = T - 1 - t
    u_ptrs = u_ptr + offsets
    like: tl.constexpr = u_ptr.dtype.element_ty
    AHEAD: tl.constexpr = BLOCK_N <= 32  # else registers are short
    if HAS_OUTPUT:
        y_ptrs = y_ptr + offsets
        if HAS_BEFORE:
            before_ptrs = before_ptr + offsets
            if AHEAD and like != tl.float32:
                before = tl.load(before_ptrs, mask=late < length[:, None], other=0.0)
    decay, coarse, fine, c_re, c_im = make_base(log_dt_ptr, log_A_real_ptr, A_imag_ptr, C_ptr, h, n, M)
    if KEEP:
        if tl.program_id(1) == 0:
            store_base(base_ptr, h, n, M, decay, coarse, fine, c_re, c_im)
    aT_re, aT_im = powers(decay, coarse, fine, 0.0, tl.full((1, BLOCK_N), T, tl.float32))
    p_re, p_im = powers(decay, coarse, fine, 0.0, (s if DOWN else T - 1 - s).to(tl.float32))
    encode_re, low_re = operand(p_re, like, PREC)
    encode_im, low_im = operand(p_im, like, PREC)
    none = tl.zeros((BLOCK_R, BLOCK_N), tl.float32)
    if HAS_OUTPUT:
        d_re = c_re
        d_im = c_im
        if SHIFT == 0:  # the output sees the state after its own token: c a
            a_re, a_im = powers(decay, coarse, fine, 0.0, tl.full((1, BLOCK_N), 1.0, tl.float32))
            d_re, d_im = times(c_re, c_im, a_re, a_im)
        q_re, q_im = powers(decay, coarse, fine, 0.0, (T - 1 - s if DOWN else s).to(tl.float32))
        taps = tl.sum(c_re * q_re - c_im * q_im, axis=1)
        if not ADJOINT:  # the coefficients once, not at every chunk
            q_re, q_im = q_re * d_re - q_im * d_im, q_re * d_im + q_im * d_re
        decode_re = tl.trans(nearest(q_re, PREC))
        decode_im = tl.trans(nearest(q_im, PREC))
        matrix = toeplitz(taps, SHIFT, DOWN, T)
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
    if AHEAD:
        u = tl.load(u_ptrs, mask=late < length[:, None], other=0.0)
    for off in range(0, tl.max(length, axis=0), T):
        if AHEAD:  # the next chunk is on its way while this one is multiplied
            ahead_mask = late < length[:, None] - (off + T)
            ahead = tl.load(u_ptrs + step * (off + T), mask=ahead_mask, other=0.0)
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
                if AHEAD and like != tl.float32:
                    y += before
                    before = tl.load(before_ptrs + step * (off + T), mask=ahead_mask, other=0.0)
                else:
                    y += tl.load(before_ptrs + step * off, mask=token_mask, other=0.0)
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

    if PAD:
        # What is behind a sequence, as far as it falls to this row.
        i = row % num_segments
        pad = i * segment_len + length
        end = tl.where(row_mask, tl.minimum((i + 1) * segment_len, L), 0)
        pad_ptrs = y_ptr + row_offsets(sequence * L, h, L, H)[:, None] + t
        first = tl.min(tl.where(row_mask, pad, L), axis=0)
        for off in range(first.to(tl.int32), tl.max(end, axis=0).to(tl.int32), T):
            pad_mask = (off + t >= pad[:, None]) & (off + t < end[:, None])
            tl.store(pad_ptrs + off, tl.zeros((BLOCK_R, T), y_ptr.dtype.element_ty), mask=pad_mask)
