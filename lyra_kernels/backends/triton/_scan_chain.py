"""The end of a scan's backward: from what programs summed of each channel to its parameters' gradients, in float64.

Each mode has four sums, real and imaginary part of S Gamma / a and of c S Gamma_1 + Lambda (E_1 + T a^T S), and each
channel W by lag; see :mod:`.s4d_scan_backward`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...schemas import absent
from ._launch import Config, jit, launch, next_power_of_2
from ._modes import chain, hold, load_pair, modes, powers, split_turns


def num_sums(modes: int, T: int) -> int:
    """Sums of a channel, for chunks of ``T`` tokens."""
    return 4 * modes + T


@triton.jit
def times(a_re, a_im, b_re, b_im):
    """The product of two complex numbers."""
    return a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re


@triton.jit
def _load_summed(partial_ptr, h, n, M, num_rows, H, T: tl.constexpr, BLOCK_R: tl.constexpr):
    """The sums over rows of channel ``h`` in ``(num_rows, H, 4 M + T)``, in a fixed order: of modes ``n``, and W."""
    j = tl.arange(0, T)
    mask = n < M
    first_re = tl.zeros((BLOCK_R, n.shape[0]), tl.float32)
    first_im = first_re
    second_re = first_re
    second_im = first_re
    w = tl.zeros((BLOCK_R, T), tl.float32)
    for first in range(0, num_rows, BLOCK_R):  # all five under way at once
        r = first + tl.arange(0, BLOCK_R)[:, None]
        there = r < num_rows
        ptrs = partial_ptr + (r.to(tl.int64) * H + h) * (4 * M + T)
        first_re += tl.load(ptrs + n[None, :], mask=there & mask[None, :], other=0.0)
        first_im += tl.load(ptrs + M + n[None, :], mask=there & mask[None, :], other=0.0)
        second_re += tl.load(ptrs + 2 * M + n[None, :], mask=there & mask[None, :], other=0.0)
        second_im += tl.load(ptrs + 3 * M + n[None, :], mask=there & mask[None, :], other=0.0)
        w += tl.load(ptrs + 4 * M + j[None, :], mask=there, other=0.0)
    return (
        tl.sum(first_re, axis=0),
        tl.sum(first_im, axis=0),
        tl.sum(second_re, axis=0),
        tl.sum(second_im, axis=0),
        tl.sum(w, axis=0),
    )


@jit
def _scan_chain(
    partial_ptr,
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
    num_rows,
    DIRECTIONS: tl.constexpr,
    HAS_SKIP: tl.constexpr,
    T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """From what each program of the sweep summed to the gradients of the parameters of one channel.

    Args:
        partial_ptr: ``(DIRECTIONS, num_rows, H, 4 M + T)`` fp32: four sums of each mode, then W by lag.
        log_dt_ptr, log_A_real_ptr, A_imag_ptr, C_ptr: the parameters, fp32.
        d_log_dt_ptr, d_log_A_real_ptr, d_A_imag_ptr, d_C_ptr: as these, written.
        d_skip_ptr: ``(H,)`` fp32, the gradient of D; written where HAS_SKIP, from lag 0 of W.
        BLOCK_R: rows of partial sums that are loaded at once.
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
        ptr = partial_ptr + num_rows.to(tl.int64) * d * H * (4 * M + T)
        f_re, f_im, e_re, e_im, w = _load_summed(ptr, h, n, M, num_rows, H, T, BLOCK_R)
        if HAS_SKIP and d == 0:
            tl.store(d_skip_ptr + h, tl.sum(tl.where(j == 0, w, 0.0), axis=0))
        l = tl.maximum(j - d, 0)  # the second direction leaves a token's own lag out
        w = tl.where(j >= d, w, 0.0)
        p_re, p_im = powers(x32[None, :], coarse[None, :], fine[None, :], 0.0, l.to(tl.float32)[:, None])
        p_re = p_re * w[:, None]
        p_im = p_im * w[:, None]
        late = l.to(tl.float32)[:, None]
        one_re, one_im = powers(x32, coarse, fine, 0.0, tl.full((BLOCK_N,), 1 - d, tl.float32))
        f_re, f_im = times(one_re, one_im, f_re, f_im)
        c_re = f_re.to(tl.float64) + tl.sum(p_re, axis=0)
        c_im = f_im.to(tl.float64) + tl.sum(p_im, axis=0)
        k_re = tl.sum(late * p_re, axis=0).to(tl.float64)
        k_im = tl.sum(late * p_im, axis=0).to(tl.float64)
        C_re, C_im = load_pair(C_ptr, (d * H + h) * M + n, mode_mask)
        co_re, co_im = times(C_re, C_im, s_re, s_im)
        k_re, k_im = times(co_re, co_im, k_re, k_im)
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


def parameter_gradients(
    partial: Tensor, spectrum: tuple[Tensor, Tensor, Tensor], C: Tensor, D: Tensor | None
) -> tuple[Tensor, ...]:
    """Gradients of log_dt, log_A_real, A_imag, C and D from ``partial (directions, programs, H, num_sums)``."""
    log_dt, log_A_real, A_imag = spectrum
    channels, count = A_imag.shape
    gradients = [torch.empty_like(p) for p in (*spectrum, C)]
    d_skip = absent(partial) if D is None else torch.empty_like(D)
    launch(
        _scan_chain,
        lambda _: (channels,),
        {
            "partial_ptr": partial,
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
            "num_rows": partial.shape[1],
        },
        {"DIRECTIONS": C.shape[0], "HAS_SKIP": D is not None, "T": partial.shape[3] - num_sums(count, 0)},
        [Config({"BLOCK_R": 4 if partial.shape[1] <= 4 else 16, "BLOCK_N": next_power_of_2(count)}, 4, 1)],
    )
    return (*gradients, d_skip)
