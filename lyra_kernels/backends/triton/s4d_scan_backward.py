"""The backward of the S4D scan: the adjoint scan for du, a sweep for the parameters' sums, then the chain rule.

With Lambda the adjoint of the state that leaves a chunk of T tokens, S the state that enters it (from the forward's
checkpoints), g the gradient of y and K the kernel:

    du_s = sum_{t>=s} K_{t-s} g_t + Re Lambda a^(T-1-s) + D g_s,     Gamma = sum_t a^(t+1) g_t
    Lambda' = c Gamma + a^T Lambda

and, as derivatives by c and by z = log a, with W_l = sum_{t-s=l} g_t u_s the correlation within chunks,

    dc = sum S Gamma + sum_l a^l W_l
    dz = c (sum S Gamma_1 + sum_l l a^l W_l) + sum Lambda (E_1 + T a^T S)
    Gamma_1 = sum_t (t+1) a^(t+1) g_t,     E_1 = sum_s (T-1-s) a^(T-1-s) u_s

Everything but the two elementwise lines is a matrix product, and nothing of size (H, L) is formed.

du is the scan of g with time reversed (``_scan`` with ADJOINT). The sums for the parameters, which need the states of
both directions in step, are a second kernel: together they would need the tables of both at once, and more than the
255 registers that a thread has; apart, g is read twice, a quarter of the floor, and no program runs two sets of warps
on the same product. That sweep goes from the last chunk to the first, two at a time. u and g are read in the order of
time, which is that of ``(B, H, L)`` memory; u is turned back to front within a warp, so that one table of a^t serves
every product. A sequence's last chunk, r tokens long, has a^r in place of a^T.

What programs sum goes to a partial buffer; :mod:`._scan_chain` adds it up in a fixed order and takes it to the
parameters in float64.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...layout import count_sequences
from ...schemas import absent
from ..reference import operations as formulas
from ._dot import dot16, nearest
from ._launch import cdiv, jit, launch, next_power_of_2, precision
from ._modes import powers
from ._row_table import CHUNK, row_at, rows, segment_length
from ._scan_chain import num_sums, parameter_gradients, times
from ._scan_rows import combine, load_base, load_c, row_offsets
from ._transpose import channels_first, lying_as, takes_channels_first
from .s4d_scan import configurations, run_scan, why_not


@triton.jit
def _flip(x, rest, t):
    """The ``rest`` tokens of each row back to front: column j is that j before the last one; 0 behind them."""
    return tl.where(t < rest, tl.gather(x, tl.maximum(rest - 1 - t, 0), axis=1), 0.0)


@triton.jit
def _half(x, HALF: tl.constexpr):
    """Rows half of all apart, both of which a thread has, added: half the registers of a sum."""
    if HALF:
        return tl.sum(tl.reshape(x, (2, x.shape[0] // 2, x.shape[1])), axis=0)
    else:
        return x


@triton.jit
def _after(s_re, s_im, u_back, p_re, p_im, aT_re, aT_im, PREC: tl.constexpr):
    """The state behind a chunk that is full, of which ``u_back`` are the activations, back to front."""
    u = nearest(u_back.to(tl.float32), PREC)
    s_re, s_im = times(aT_re, aT_im, s_re, s_im)
    s_re = tl.dot(u, p_re, s_re, input_precision=PREC)
    s_im = tl.dot(u, p_im, s_im, input_precision=PREC)
    return s_re, s_im


@triton.jit
def _add_lags(
    u, u_back, g, lam_re, lam_im, e_sum_re, e_sum_im, w, t, p_re, p_im, HALF: tl.constexpr, PREC: tl.constexpr
):
    """What of a chunk does not need the state that enters it, added: Lambda E_1 to ``e_sum``, and W.

    ``lam``: Lambda after the chunk; ``p``: a^t as (t, n).
    """
    if u.dtype == tl.float32:
        w = tl.dot(tl.trans(nearest(u, PREC)), nearest(g, PREC), w, input_precision=PREC)
    else:
        w = dot16(tl.trans(u), g, w)
    late = nearest(u_back.to(tl.float32) * t.to(tl.float32), PREC)
    e_re = tl.dot(late, p_re, input_precision=PREC)
    e_im = tl.dot(late, p_im, input_precision=PREC)
    e_re, e_im = times(lam_re, lam_im, e_re, e_im)
    return e_sum_re + _half(e_re, HALF), e_sum_im + _half(e_im, HALF), w


@triton.jit
def _where_not_full(a_lam_re, a_lam_im, lam_re, lam_im, base_ptr, h, n, M, rest, T: tl.constexpr):
    """``a_lam``, Lambda times a^T, but Lambda times a to the power of ``rest`` in rows that have fewer tokens."""
    decay, coarse, fine = load_base(base_ptr, h, n, M)  # again: seldom, and not worth registers
    a_re, a_im = powers(decay, coarse, fine, 0.0, rest.to(tl.float32))
    a_re, a_im = times(a_re, a_im, lam_re, lam_im)
    return tl.where(rest == T, a_lam_re, a_re), tl.where(rest == T, a_lam_im, a_im)


@triton.jit
def _add_states(
    g, s_re, s_im, a_lam_re, a_lam_im, e_sum_re, e_sum_im, f_sum_re, f_sum_im,
    rest, t, p_re, p_im, c_re, c_im, SHIFT: tl.constexpr, HALF: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """Lambda before a chunk, and the sums with what it adds to them and the state ``s`` that enters it.

    ``rest`` of its tokens are real; ``a_lam``: Lambda after it, times a to the power of ``rest``; ``p``: a^t as (t, n);
    ``c``: c a, or c where SHIFT is 1.
    """
    r = rest.to(tl.float32)
    f_re, f_im = times(s_re, s_im, a_lam_re, a_lam_im)
    e_sum_re += _half(r * f_re, HALF)
    e_sum_im += _half(r * f_im, HALF)
    g = g.to(tl.float32)
    late = nearest(g * (t.to(tl.float32) + (1 - SHIFT)), PREC)
    k_re = tl.dot(late, p_re, input_precision=PREC)
    k_im = tl.dot(late, p_im, input_precision=PREC)
    k_re, k_im = times(c_re, c_im, k_re, k_im)
    k_re, k_im = times(s_re, s_im, k_re, k_im)
    e_sum_re += _half(k_re, HALF)
    e_sum_im += _half(k_im, HALF)
    now = nearest(g, PREC)
    g_re = tl.dot(now, p_re, input_precision=PREC)
    g_im = tl.dot(now, p_im, input_precision=PREC)
    f_re, f_im = times(s_re, s_im, g_re, g_im)
    f_sum_re += _half(f_re, HALF)
    f_sum_im += _half(f_im, HALF)
    g_re, g_im = times(c_re, c_im, g_re, g_im)
    return a_lam_re + g_re, a_lam_im + g_im, e_sum_re, e_sum_im, f_sum_re, f_sum_im


@jit
def _scan_backward(
    grad_ptr,
    u_ptr,
    base_ptr,
    leave_ptr,
    checkpoints_ptr,
    partial_ptr,
    lengths_ptr,
    cu_seqlens_ptr,
    L,
    S,
    num_rows,
    num_segments,
    segment_len,
    H,
    M,
    checkpoint_stride,
    HAS_LENGTHS: tl.constexpr,
    PACKED: tl.constexpr,
    HAS_LEAVE: tl.constexpr,
    HAS_FINAL: tl.constexpr,
    DIRECTION: tl.constexpr,
    PREC: tl.constexpr,
    SAVE_EVERY: tl.constexpr,
    BLOCK_R: tl.constexpr,
    T: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """What BLOCK_R rows of one channel add in one direction to the sums for the parameters.

    Args:
        grad_ptr, u_ptr: ``(B, H, L)``, the gradient of y, and the activations.
        base_ptr: of this direction, see :func:`._scan_rows.store_base`.
        leave_ptr: ``(num_rows, H, M, 2)`` fp32, the gradient of the state that leaves each row; read where HAS_LEAVE,
            else it is 0.
        HAS_FINAL: it may be other than 0 at the end of a sequence, too, where a chunk need not be full.
        DIRECTION: 1 for the second, from the end of a sequence.
        checkpoints_ptr, checkpoint_stride, L, PREC, SAVE_EVERY, BLOCK_N: as of :func:`._scan_walk.walk`; SAVE_EVERY
            is a multiple of 2 T.
        lengths_ptr, cu_seqlens_ptr, S, num_rows, num_segments, segment_len, HAS_LENGTHS, PACKED: see :func:`.row_at`.
        partial_ptr: ``(4 M + T,)`` fp32, written: four sums of each mode, see :mod:`._scan_chain`, and W by lag.
    """
    PAIR: tl.constexpr = 2 * T
    tl.static_assert(SAVE_EVERY % PAIR == 0)
    h = tl.program_id(0).to(tl.int64)
    STEP: tl.constexpr = 1 - 2 * DIRECTION
    row = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    row_mask = row < num_rows
    _, start, length, slot, _ = row_at(
        row, lengths_ptr, cu_seqlens_ptr, L, S, num_rows, num_segments, segment_len,
        DIRECTION == 1, HAS_LENGTHS, PACKED, SAVE_EVERY,
    )  # fmt: skip
    row = row.to(tl.int64)
    n = tl.arange(0, BLOCK_N)[None, :]
    t = tl.arange(0, T)[None, :]
    s = tl.arange(0, T)[:, None]
    mode_mask = n < M
    offsets = row_offsets(start, h, L, H) + STEP * t
    u_ptrs = u_ptr + offsets
    grad_ptrs = grad_ptr + offsets
    decay, coarse, fine = load_base(base_ptr, h, n, M)
    p_re, p_im = powers(decay, coarse, fine, 0.0, s.to(tl.float32))
    p_re = nearest(p_re, PREC)
    p_im = nearest(p_im, PREC)
    aT_re, aT_im = powers(decay, coarse, fine, 0.0, tl.full((1, BLOCK_N), T, tl.float32))
    one_re, one_im = powers(decay, coarse, fine, 0.0, tl.full((1, BLOCK_N), 1 - DIRECTION, tl.float32))
    c_re, c_im = load_c(base_ptr, h, n, M)
    c_re, c_im = times(c_re, c_im, one_re, one_im)
    lam_re = tl.zeros((BLOCK_R, BLOCK_N), tl.float32)
    lam_im = tl.zeros((BLOCK_R, BLOCK_N), tl.float32)
    if HAS_LEAVE:
        leave_ptrs = leave_ptr + row * (H * M * 2) + (h * M + n) * 2
        lam_re = tl.load(leave_ptrs, mask=mode_mask & row_mask, other=0.0)
        lam_im = -tl.load(leave_ptrs + 1, mask=mode_mask & row_mask, other=0.0)  # a gradient is the conjugate of Lambda
    # Sums over rows wait for the end. fp32, whose tables are two operands each, has no register to spare for more.
    WIDE: tl.constexpr = u_ptr.dtype.element_ty == tl.float32
    HALF: tl.constexpr = WIDE or HAS_LEAVE
    none = tl.zeros((BLOCK_R // 2 if HALF else BLOCK_R, BLOCK_N), tl.float32)
    e_sum_re = none
    e_sum_im = none
    f_sum_re = none
    f_sum_im = none
    w = tl.zeros((T, T), tl.float32)
    pair = tl.arange(0, 2 * BLOCK_N)[None, :]
    checkpoint_ptrs = checkpoints_ptr + slot * checkpoint_stride + h * (2 * M) + pair
    pair_mask = pair < 2 * M
    longest = tl.max(tl.max(length, axis=0), axis=0)
    shortest = tl.min(tl.min(tl.where(row_mask, length, 1 << 30), axis=0), axis=0)
    pairs = (longest + PAIR - 1) // PAIR
    # Two chunks a step, the upper one first; its state is that of the lower one, taken through it.
    off = (pairs - 1) * PAIR
    u_upper = tl.load(u_ptrs + STEP * (off + T), mask=t < length - (off + T), other=0.0)
    g_upper = tl.load(grad_ptrs + STEP * (off + T), mask=t < length - (off + T), other=0.0)
    u_lower = tl.load(u_ptrs + STEP * off, mask=t < length - off, other=0.0)
    if not WIDE:
        state = tl.load(
            checkpoint_ptrs + off // SAVE_EVERY * checkpoint_stride, mask=pair_mask & (off < length), other=0.0
        )
    for i in range(pairs):
        off = (pairs - 1 - i) * PAIR
        if WIDE:
            state = tl.load(
                checkpoint_ptrs + off // SAVE_EVERY * checkpoint_stride, mask=pair_mask & (off < length), other=0.0
            )
        g_lower = tl.load(grad_ptrs + STEP * off, mask=t < length - off, other=0.0)
        rest = tl.minimum(tl.maximum(length - (off + T), 0), T)
        e_sum_re, e_sum_im, w = _add_lags(
            u_upper, _flip(u_upper, rest, t), g_upper, lam_re, lam_im, e_sum_re, e_sum_im, w, t, p_re, p_im, HALF, PREC
        )
        s_re, s_im = tl.split(tl.reshape(state, (BLOCK_R, BLOCK_N, 2)))
        if SAVE_EVERY != PAIR:  # from the checkpoint to this pair, whose rows have all of what is before it
            for k in range(off // SAVE_EVERY * SAVE_EVERY, off, T):
                full = tl.where(off < length, T, 0) + tl.zeros_like(length)
                u_before = tl.load(u_ptrs + STEP * k, mask=t < full, other=0.0)
                s_re, s_im = _after(s_re, s_im, _flip(u_before, full, t), p_re, p_im, aT_re, aT_im, PREC)
        rest_lower = tl.minimum(tl.maximum(length - off, 0), T)
        u_back = _flip(u_lower, rest_lower, t)
        n_re, n_im = _after(s_re, s_im, u_back, p_re, p_im, aT_re, aT_im, PREC)
        a_lam_re, a_lam_im = times(aT_re, aT_im, lam_re, lam_im)
        if HAS_FINAL:  # else Lambda is 0 where a chunk is not full: a sequence's last, and what is behind it
            if off + PAIR > shortest:
                a_lam_re, a_lam_im = _where_not_full(a_lam_re, a_lam_im, lam_re, lam_im, base_ptr, h, n, M, rest, T)
        lam_re, lam_im, e_sum_re, e_sum_im, f_sum_re, f_sum_im = _add_states(
            g_upper, n_re, n_im, a_lam_re, a_lam_im, e_sum_re, e_sum_im, f_sum_re, f_sum_im,
            rest, t, p_re, p_im, c_re, c_im, DIRECTION, HALF, PREC,
        )  # fmt: skip
        # What the next step needs is on its way while the lower chunk is multiplied.
        down = off - PAIR
        some = down >= 0
        u_upper = tl.load(u_ptrs + STEP * (down + T), mask=(t < length - (down + T)) & some, other=0.0)
        g_upper = tl.load(grad_ptrs + STEP * (down + T), mask=(t < length - (down + T)) & some, other=0.0)
        u_next = tl.load(u_ptrs + STEP * down, mask=(t < length - down) & some, other=0.0)
        if not WIDE:
            mask = pair_mask & (down < length) & some
            state = tl.load(checkpoint_ptrs + down // SAVE_EVERY * checkpoint_stride, mask=mask, other=0.0)
        e_sum_re, e_sum_im, w = _add_lags(
            u_lower, u_back, g_lower, lam_re, lam_im, e_sum_re, e_sum_im, w, t, p_re, p_im, HALF, PREC
        )
        a_lam_re, a_lam_im = times(aT_re, aT_im, lam_re, lam_im)
        if HAS_FINAL:
            if off + T > shortest:
                a_lam_re, a_lam_im = _where_not_full(
                    a_lam_re, a_lam_im, lam_re, lam_im, base_ptr, h, n, M, rest_lower, T
                )
        lam_re, lam_im, e_sum_re, e_sum_im, f_sum_re, f_sum_im = _add_states(
            g_lower, s_re, s_im, a_lam_re, a_lam_im, e_sum_re, e_sum_im, f_sum_re, f_sum_im,
            rest_lower, t, p_re, p_im, c_re, c_im, DIRECTION, HALF, PREC,
        )  # fmt: skip
        u_lower = u_next
    partial_ptr += (tl.program_id(1).to(tl.int64) * H + h) * (4 * M + T)
    partial_ptrs = partial_ptr + tl.arange(0, BLOCK_N)[None, :]
    tl.store(partial_ptrs, tl.sum(f_sum_re, axis=0, keep_dims=True), mask=mode_mask)
    tl.store(partial_ptrs + M, tl.sum(f_sum_im, axis=0, keep_dims=True), mask=mode_mask)
    tl.store(partial_ptrs + 2 * M, tl.sum(e_sum_re, axis=0, keep_dims=True), mask=mode_mask)
    tl.store(partial_ptrs + 3 * M, tl.sum(e_sum_im, axis=0, keep_dims=True), mask=mode_mask)
    # Lag l lies at (s, s + l).
    w = tl.where(s + t < T, tl.gather(w, (s + t) % T, axis=1), 0.0)
    tl.store(partial_ptr + 4 * M + tl.arange(0, T), tl.sum(w, axis=0))


@takes_channels_first
def s4d_scan_backward(
    grad_y,
    grad_final_state,
    u,
    log_dt,
    log_A_real,
    A_imag,
    C,
    D,
    lengths,
    cu_seqlens,
    initial_state,
    checkpoints,
) -> tuple[Tensor, ...]:
    """``torch.ops.lyra.s4d_scan_backward``."""
    if why_not(u, A_imag, cu_seqlens):
        args = (u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state, checkpoints)
        return formulas()["s4d_scan_backward"](grad_y, grad_final_state, *args)
    directions, (channels, count) = C.shape[0], A_imag.shape
    sequences = count_sequences(u, cu_seqlens)
    spectrum = (log_dt, log_A_real, A_imag)
    # Three products for one leave no registers for a final state's gradient, nor for masks of modes.
    lean = precision(u) == "tf32x3" and (grad_final_state is not None or count < next_power_of_2(max(count, 32)))
    config = configurations(count, lean)[0]
    segment = segment_length(u, sequences, channels, config.blocks["BLOCK_R"])
    size = config.blocks["T"]
    modes = (*spectrum, C)
    base = u.new_empty(directions, channels, 5, count, dtype=torch.float32)
    v, grad = channels_first(u), channels_first(grad_y)
    du = torch.empty_like(v.transpose(1, 2))
    d_initial = absent(u) if initial_state is None else torch.empty_like(initial_state)
    row = rows(u, lengths, cu_seqlens, segment)
    leave = grad_final_state
    if row.count > sequences:
        parts = u.new_empty(directions, row.count, channels, count, 2, dtype=torch.float32)
        run_scan(grad, None, modes, base, None, row, None, parts, None, config, parts=True, back=True)
        leave = combine(spectrum, base, grad_final_state, parts, row)
    initial = None if initial_state is None else d_initial
    run_scan(grad, du, modes, base, D, row, leave, initial, None, config, back=True, adjoint=True)
    programs = cdiv(row.count, config.blocks["BLOCK_R"])
    partial = u.new_empty(directions, programs, channels, num_sums(count, size), dtype=torch.float32)
    states = channels * count * 2
    for direction in range(directions):
        launch(
            _scan_backward,
            lambda _: (channels, programs),
            {
                "grad_ptr": grad,
                "u_ptr": v,
                "base_ptr": base[direction],
                "leave_ptr": leave if leave is None or directions == 1 else leave[direction],
                "checkpoints_ptr": checkpoints.view(-1)[direction * states :],
                "partial_ptr": partial[direction],
                **row.arguments(),
                "H": channels,
                "M": count,
                "checkpoint_stride": checkpoints.shape[-1],
            },
            {
                **row.constants(),
                "HAS_LEAVE": leave is not None,
                "HAS_FINAL": grad_final_state is not None,
                "DIRECTION": direction,
                "PREC": precision(u),
                "SAVE_EVERY": CHUNK,
            },
            [config],
        )
    *gradients, d_skip = parameter_gradients(partial, spectrum, C, D)
    return (lying_as(du, u), *gradients, d_skip, d_initial)
