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
on the same product. That sweep goes from the last chunk to the first. u is read back to front (s' = T-1-s), so that
one table of a^t serves every product. A sequence's last chunk, r tokens long, sits at the end of T tokens for u, at
the start for Gamma, and has a^r in place of a^T.

Sums over rows go to a partial buffer, are added in a fixed order, and :func:`_scan_chain` takes them to the
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
from ._launch import Config, cdiv, jit, launch, next_power_of_2, precision
from ._modes import chain, hold, load_pair, modes, powers, split_turns
from ._reduce import sum_rows
from ._row_table import CHUNK, column_ptrs, rows, segment_length
from ._scan_rows import combine, load_base, tables
from .s4d_scan import configurations, fits, run_scan

SUMS = 6  # real and imaginary part of S Gamma, S Gamma_1 and Lambda (E_1 + T a^T S)


@triton.jit
def _times(a_re, a_im, b_re, b_im):
    """The product of two complex numbers."""
    return a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re


@triton.jit
def _sums(ptr, index, M, T: tl.constexpr):
    """Where the sums of ``index`` begin in an array ``(..., 6 M + T)``: six of each mode (SUMS), then W by lag."""
    return ptr + index * (6 * M + T)


@triton.jit
def _load(ptr, start, off, rest, t, h, H, STEP: tl.constexpr):
    """The ``rest`` tokens of channel ``h`` from ``off`` on, (BLOCK_R, T), back to front; 0 behind them."""
    offsets = (start + STEP * (off + rest - 1 - t)) * H + h
    return tl.load(ptr + offsets, mask=t < rest, other=0.0)


@triton.jit
def _chunk(
    g_back, u_back, s_re, s_im, lam_re, lam_im, a_lam_re, a_lam_im, sums, w,
    rest, t, p_re, p_im, one_re, one_im, c_re, c_im, SHIFT: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """One chunk, ``rest`` tokens of which are real: Lambda before it, the sums with what it adds, and W.

    ``g_back`` and ``u_back``: the gradients and activations, back to front; ``s``: the state that enters; ``lam``:
    Lambda after the chunk, ``a_lam``: times a to the power of ``rest``; ``p``: a^t as (t, n); ``one``: a, or 1 where
    SHIFT is 1.
    """
    if u_back.dtype == tl.float32:
        w = tl.dot(tl.trans(nearest(g_back, PREC)), nearest(u_back, PREC), w, input_precision=PREC)
    else:
        w = dot16(tl.trans(g_back), u_back, w)
    g_back = g_back.to(tl.float32)
    u_back = u_back.to(tl.float32)
    j = t.to(tl.float32)
    f_re, f_im = _times(s_re, s_im, a_lam_re, a_lam_im)
    r = rest.to(tl.float32)
    late = nearest(u_back * j, PREC)
    e_re = tl.dot(late, p_re, input_precision=PREC)
    e_im = tl.dot(late, p_im, input_precision=PREC)
    e_re, e_im = _times(lam_re, lam_im, e_re, e_im)
    e_sum = (sums[4] + tl.sum(e_re + r * f_re, axis=0), sums[5] + tl.sum(e_im + r * f_im, axis=0))
    g = tl.where(t < rest, tl.gather(g_back, tl.maximum(rest - 1 - t, 0), axis=1), 0.0)
    late = nearest(g * (j + (1 - SHIFT)), PREC)
    g = nearest(g, PREC)
    k_re = tl.dot(late, p_re, input_precision=PREC)
    k_im = tl.dot(late, p_im, input_precision=PREC)
    k_re, k_im = _times(k_re, k_im, one_re, one_im)
    k_re, k_im = _times(s_re, s_im, k_re, k_im)
    k_sum = (sums[2] + tl.sum(k_re, axis=0), sums[3] + tl.sum(k_im, axis=0))
    g_re = tl.dot(g, p_re, input_precision=PREC)
    g_im = tl.dot(g, p_im, input_precision=PREC)
    g_re, g_im = _times(g_re, g_im, one_re, one_im)
    f_re, f_im = _times(s_re, s_im, g_re, g_im)
    f_sum = (sums[0] + tl.sum(f_re, axis=0), sums[1] + tl.sum(f_im, axis=0))
    g_re, g_im = _times(c_re, c_im, g_re, g_im)
    return a_lam_re + g_re, a_lam_im + g_im, f_sum + k_sum + e_sum, w


@jit
def _scan_backward(
    grad_ptr,
    u_ptr,
    base_ptr,
    c_ptr,
    table_ptr,
    leave_ptr,
    checkpoints_ptr,
    partial_ptr,
    H,
    M,
    num_rows,
    checkpoint_stride,
    HAS_LEAVE: tl.constexpr,
    STEP: tl.constexpr,
    SHIFT: tl.constexpr,
    PREC: tl.constexpr,
    SAVE_EVERY: tl.constexpr,
    BLOCK_R: tl.constexpr,
    T: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """What BLOCK_R rows of one channel add to the sums for the parameters.

    Args:
        grad_ptr, u_ptr: ``(tokens, H)``, the gradient of y, and the activations.
        base_ptr, c_ptr: see :class:`._scan_rows.Tables`, of this direction.
        table_ptr: the table of rows.
        leave_ptr: ``(num_rows, H, M, 2)`` fp32, the gradient of the state that leaves each row; read where HAS_LEAVE,
            else it is 0.
        checkpoints_ptr, checkpoint_stride, STEP, SHIFT, PREC, SAVE_EVERY, BLOCK_N: as of :func:`.s4d_scan._scan`.
        partial_ptr: ``(programs, H, 6 M + T)`` fp32, written; see :func:`_sums`.
    """
    h = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    row_mask = row < num_rows
    row = row.to(tl.int64)
    start = tl.load(column_ptrs(table_ptr, row, "start"), mask=row_mask, other=0)
    length = tl.load(column_ptrs(table_ptr, row, "length"), mask=row_mask, other=0).to(tl.int32)
    slot = tl.load(column_ptrs(table_ptr, row, "checkpoint"), mask=row_mask, other=0)
    n = tl.arange(0, BLOCK_N)[None, :]
    t = tl.arange(0, T)[None, :]
    s = tl.arange(0, T)[:, None]
    mode_mask = n < M
    decay, coarse, fine = load_base(base_ptr, h, n, M)
    p_re, p_im = powers(decay, coarse, fine, 0.0, s.to(tl.float32))
    p_re = nearest(p_re, PREC)
    p_im = nearest(p_im, PREC)
    aT_re, aT_im = powers(decay, coarse, fine, 0.0, tl.full((1, BLOCK_N), T, tl.float32))
    one_re, one_im = powers(decay, coarse, fine, 0.0, tl.full((1, BLOCK_N), 1 - SHIFT, tl.float32))
    c_re = tl.load(c_ptr + h * (2 * M) + n, mask=mode_mask, other=0.0)
    c_im = tl.load(c_ptr + h * (2 * M) + M + n, mask=mode_mask, other=0.0)
    state_offsets = (h * M + n) * 2
    lam_re = tl.zeros((BLOCK_R, BLOCK_N), tl.float32)
    lam_im = tl.zeros((BLOCK_R, BLOCK_N), tl.float32)
    if HAS_LEAVE:
        leave_ptrs = leave_ptr + row * (H * M * 2) + state_offsets
        lam_re = tl.load(leave_ptrs, mask=mode_mask & row_mask, other=0.0)
        lam_im = -tl.load(leave_ptrs + 1, mask=mode_mask & row_mask, other=0.0)  # a gradient is the conjugate of Lambda
    none = tl.zeros((BLOCK_N,), tl.float32)
    sums = (none, none, none, none, none, none)
    w = tl.zeros((T, T), tl.float32)
    chunks = (tl.max(tl.max(length, axis=0), axis=0) + T - 1) // T
    first_re = tl.zeros((BLOCK_R, BLOCK_N), tl.float32)
    first_im = tl.zeros((BLOCK_R, BLOCK_N), tl.float32)
    for i in range(chunks):
        off = (chunks - 1 - i) * T
        checkpoint = off // SAVE_EVERY * SAVE_EVERY
        if (i == 0) | (off + T == checkpoint + SAVE_EVERY):
            checkpoint_ptrs = checkpoints_ptr + (slot + checkpoint // SAVE_EVERY) * checkpoint_stride + state_offsets
            checkpoint_mask = mode_mask & (checkpoint < length)
            first_re = tl.load(checkpoint_ptrs, mask=checkpoint_mask, other=0.0)
            first_im = tl.load(checkpoint_ptrs + 1, mask=checkpoint_mask, other=0.0)
        s_re = first_re
        s_im = first_im
        for k in range(checkpoint, off, T):  # from the checkpoint's state to that which enters this chunk
            full = tl.where(off < length, T, 0) + tl.zeros_like(length)
            x = nearest(_load(u_ptr, start, k, full, t, h, H, STEP).to(tl.float32), PREC)
            n_re, n_im = _times(aT_re, aT_im, s_re, s_im)
            s_re = tl.dot(x, p_re, n_re, input_precision=PREC)
            s_im = tl.dot(x, p_im, n_im, input_precision=PREC)
        rest = tl.minimum(tl.maximum(length - off, 0), T)
        s_re = tl.where(rest > 0, s_re, 0.0)
        s_im = tl.where(rest > 0, s_im, 0.0)
        x = _load(u_ptr, start, off, rest, t, h, H, STEP)
        a_lam_re, a_lam_im = _times(aT_re, aT_im, lam_re, lam_im)
        if HAS_LEAVE:  # else Lambda is 0 where a chunk is not full, a sequence's last
            if tl.max(tl.max(((rest > 0) & (rest < T)).to(tl.int32), axis=0), axis=0) > 0:
                a_re, a_im = powers(decay, coarse, fine, 0.0, rest.to(tl.float32))
                a_re, a_im = _times(a_re, a_im, lam_re, lam_im)
                a_lam_re = tl.where(rest == T, a_lam_re, a_re)
                a_lam_im = tl.where(rest == T, a_lam_im, a_im)
            a_lam_re = tl.where(rest == 0, lam_re, a_lam_re)
            a_lam_im = tl.where(rest == 0, lam_im, a_lam_im)
        grad = _load(grad_ptr, start, off, rest, t, h, H, STEP)
        lam_re, lam_im, sums, w = _chunk(
            grad, x, s_re, s_im, lam_re, lam_im, a_lam_re, a_lam_im, sums, w,
            rest, t, p_re, p_im, one_re, one_im, c_re, c_im, SHIFT, PREC,
        )  # fmt: skip
    partial_ptrs = _sums(partial_ptr, tl.program_id(1).to(tl.int64) * H + h, M, T)
    i = tl.arange(0, BLOCK_N)
    for k in tl.static_range(len(sums)):
        tl.store(partial_ptrs + k * M + i, sums[k], mask=i < M)
    # W is back to front: lag t lies at (s, s + t).
    w = tl.where(s + t < T, tl.gather(w, (s + t) % T, axis=1), 0.0)
    tl.store(partial_ptrs + len(sums) * M + tl.arange(0, T), tl.sum(w, axis=0))


@triton.jit
def _scan_chain(
    sums_ptr,
    log_dt_ptr,
    log_A_real_ptr,
    A_imag_ptr,
    C_ptr,
    d_log_dt_ptr,
    d_log_A_real_ptr,
    d_A_imag_ptr,
    d_C_ptr,
    d_skip_ptr,
    H,
    M,
    DIRECTIONS: tl.constexpr,
    HAS_SKIP: tl.constexpr,
    T: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """From the sums of each direction to the gradients of the parameters of one channel.

    Args:
        sums_ptr: ``(DIRECTIONS, H, 6 M + T)`` fp32, see :func:`_sums`.
        log_dt_ptr, log_A_real_ptr, A_imag_ptr, C_ptr: the parameters, fp32.
        d_log_dt_ptr, d_log_A_real_ptr, d_A_imag_ptr, d_C_ptr: as these, written.
        d_skip_ptr: ``(H,)`` fp32, the gradient of D; written where HAS_SKIP, from lag 0 of W.
        BLOCK_N: M or more, a power of 2.
    """
    h = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BLOCK_N)
    mode_mask = n < M
    j = tl.arange(0, T)
    dt, re, im, x, turns = modes(log_dt_ptr, log_A_real_ptr, A_imag_ptr, h, n, M, mode_mask)
    s_re, s_im = hold(re, im, x, turns)
    x32 = x.to(tl.float32)
    coarse, fine = split_turns(turns)
    by_dt = tl.zeros((BLOCK_N,), tl.float64)
    by_re = tl.zeros((BLOCK_N,), tl.float64)
    by_im = tl.zeros((BLOCK_N,), tl.float64)
    for d in tl.static_range(DIRECTIONS):
        sums_ptrs = _sums(sums_ptr, d * H + h, M, T)
        w = tl.load(sums_ptrs + 6 * M + j)
        if HAS_SKIP and d == 0:
            tl.store(d_skip_ptr + h, tl.sum(tl.where(j == 0, w, 0.0), axis=0))
        l = tl.maximum(j - d, 0)  # the second direction leaves a token's own lag out
        w = tl.where(j >= d, w, 0.0)
        p_re, p_im = powers(x32[None, :], coarse[None, :], fine[None, :], 0.0, l.to(tl.float32)[:, None])
        p_re = p_re * w[:, None]
        p_im = p_im * w[:, None]
        late = l.to(tl.float32)[:, None]
        c_re = tl.load(sums_ptrs + n, mask=mode_mask, other=0.0).to(tl.float64) + tl.sum(p_re, axis=0)
        c_im = tl.load(sums_ptrs + M + n, mask=mode_mask, other=0.0).to(tl.float64) + tl.sum(p_im, axis=0)
        k_re = tl.load(sums_ptrs + 2 * M + n, mask=mode_mask, other=0.0).to(tl.float64) + tl.sum(late * p_re, axis=0)
        k_im = tl.load(sums_ptrs + 3 * M + n, mask=mode_mask, other=0.0).to(tl.float64) + tl.sum(late * p_im, axis=0)
        e_re = tl.load(sums_ptrs + 4 * M + n, mask=mode_mask, other=0.0)
        e_im = tl.load(sums_ptrs + 5 * M + n, mask=mode_mask, other=0.0)
        C_re, C_im = load_pair(C_ptr, (d * H + h) * M + n, mode_mask)
        co_re, co_im = _times(C_re, C_im, s_re, s_im)
        k_re, k_im = _times(co_re, co_im, k_re, k_im)
        by_log_dt, by_log_A_real, by_A_imag, C_grad_re, C_grad_im = chain(
            dt, re, im, x, turns, C_re, C_im, c_re, c_im, k_re + e_re, k_im + e_im
        )
        by_dt += by_log_dt
        by_re += by_log_A_real
        by_im += by_A_imag
        d_C_ptrs = d_C_ptr + ((d * H + h) * M + n) * 2
        tl.store(d_C_ptrs, C_grad_re.to(tl.float32), mask=mode_mask)
        tl.store(d_C_ptrs + 1, C_grad_im.to(tl.float32), mask=mode_mask)
    tl.store(d_log_dt_ptr + h, tl.sum(tl.where(mode_mask, by_dt, 0.0), axis=0).to(tl.float32))
    tl.store(d_log_A_real_ptr + h * M + n, by_re.to(tl.float32), mask=mode_mask)
    tl.store(d_A_imag_ptr + h * M + n, by_im.to(tl.float32), mask=mode_mask)


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
    if not fits(u, A_imag, cu_seqlens):
        args = (u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state, checkpoints)
        return formulas()["s4d_scan_backward"](grad_y, grad_final_state, *args)
    directions, (channels, count) = C.shape[0], A_imag.shape
    sequences = count_sequences(u, cu_seqlens)
    spectrum = (log_dt, log_A_real, A_imag)
    config = configurations(count)[0]
    size = config.blocks["T"]
    table = tables(*spectrum, C, size)
    segment = segment_length(u, sequences, channels, config.blocks["BLOCK_R"])
    du = torch.zeros_like(u) if lengths is not None else torch.empty_like(u)
    whole = du if directions == 1 or u.dtype == torch.float32 else torch.zeros_like(u, dtype=torch.float32)
    d_initial = absent(u) if initial_state is None else torch.empty_like(initial_state)
    sums = u.new_empty(directions, channels, SUMS * count + size, dtype=torch.float32)
    for direction in range(directions):
        row = rows(u, lengths, cu_seqlens, segment, reverse=direction == 1)
        leave = grad_final_state
        if row.count > sequences:
            parts = u.new_empty(row.count, channels, count, 2, dtype=torch.float32)
            run_scan(grad_y, None, None, table, direction, None, row, None, parts, None, config, parts=True, back=True)
            leave = combine(
                spectrum, table.c[direction], grad_final_state, parts, row, cu_seqlens, sequences, True, direction == 1
            )
        run_scan(
            grad_y,
            du if direction == directions - 1 else whole,
            whole if direction else None,
            table,
            direction,
            None if direction else D,
            row,
            leave,
            None if initial_state is None else d_initial,
            None,
            config,
            back=True,
            adjoint=True,
        )
        programs = cdiv(row.count, config.blocks["BLOCK_R"])
        partial = u.new_empty(programs, sums[direction].numel(), dtype=torch.float32)
        launch(
            _scan_backward,
            lambda c: (channels, cdiv(row.count, c.blocks["BLOCK_R"])),  # noqa: B023 (called at once)
            {
                "grad_ptr": grad_y,
                "u_ptr": u,
                "base_ptr": table.base,
                "c_ptr": table.c[direction],
                "table_ptr": row.table,
                "leave_ptr": leave,
                "checkpoints_ptr": checkpoints.view(-1)[direction * channels * count * 2 :],
                "partial_ptr": partial,
                "H": channels,
                "M": count,
                "num_rows": row.count,
                "checkpoint_stride": checkpoints.shape[-1],
            },
            {
                "HAS_LEAVE": leave is not None,
                "STEP": -1 if row.reverse else 1,
                "SHIFT": direction,
                "PREC": precision(u),
                "SAVE_EVERY": CHUNK,
            },
            [config],
        )
        sums[direction] = sum_rows(partial, partial.shape[1]).view(channels, -1)
    gradients = [torch.empty_like(p) for p in (*spectrum, C)]
    d_skip = absent(u) if D is None else torch.empty_like(D)
    launch(
        _scan_chain,
        lambda _: (channels,),
        {
            "sums_ptr": sums,
            "log_dt_ptr": log_dt,
            "log_A_real_ptr": log_A_real,
            "A_imag_ptr": A_imag,
            "C_ptr": C,
            "d_log_dt_ptr": gradients[0],
            "d_log_A_real_ptr": gradients[1],
            "d_A_imag_ptr": gradients[2],
            "d_C_ptr": gradients[3],
            "d_skip_ptr": None if D is None else d_skip,
            "H": channels,
            "M": count,
        },
        {"DIRECTIONS": directions, "HAS_SKIP": D is not None, "T": size},
        [Config({"BLOCK_N": next_power_of_2(count)}, 4, 1)],
    )
    return (du, *gradients, d_skip, d_initial)
