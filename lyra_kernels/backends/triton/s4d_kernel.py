"""The convolution kernel of S4D, ``K_l = Re sum_n c_n a_n^l``, as matrix products.

With ``l = l0 + i J + j`` the power splits: ``K[i, j] = sum_n Re(c a^(l0 + iJ)  a^j)``, two real products of an (I, M)
and an (M, J) matrix for I x J taps. The matrices cost O(M (I + J)) and are made in registers, so the parameters are
all that is read. The backward runs the products the other way:

    G0_n = sum_l g_l a^l = sum_i a^(l0 + iJ) sum_j g_ij a^j,    G1_n = sum_l l g_l a^l

G0 is the derivative by c, c G1 that by z = dt A. A program's sums go to a partial buffer; a second kernel adds them in
a fixed order and applies the chain rule in float64.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference import operations as formulas
from ._launch import Config, cdiv, exact, jit, launch, next_power_of_2, refusal, refusing
from ._modes import chain, hold, load_pair, modes, powers, round_to_nearest, split_turns


@triton.jit
def _factors(log_dt_ptr, log_A_real_ptr, A_imag_ptr, h, n, M, l0, I: tl.constexpr, J: tl.constexpr):
    """``a^(l0 + iJ)`` as (I, N) and ``a^j`` as (N, J), and what they were made from."""
    mode_mask = n < M
    dt, re, im, x, turns = modes(log_dt_ptr, log_A_real_ptr, A_imag_ptr, h, n, M, mode_mask)
    x32 = x.to(tl.float32)
    coarse, fine = split_turns(turns)
    step_coarse, step_fine = split_turns(turns * J)
    start = turns * l0
    start = (start - round_to_nearest(start)).to(tl.float32)
    decay = tl.exp(x * l0).to(tl.float32)
    i = tl.arange(0, I).to(tl.float32)[:, None]
    j = tl.arange(0, J).to(tl.float32)[None, :]
    left_re, left_im = powers(x32[None, :] * J, step_coarse[None, :], step_fine[None, :], start[None, :], i)
    right_re, right_im = powers(x32[:, None], coarse[:, None], fine[:, None], 0.0, j)
    return left_re * decay[None, :], left_im * decay[None, :], right_re, right_im, dt, re, im, x, turns


@triton.jit
def _s4d_kernel(
    log_dt_ptr,
    log_A_real_ptr,
    A_imag_ptr,
    C_ptr,
    out_ptr,
    M,
    L,
    PREC: tl.constexpr,
    I: tl.constexpr,
    J: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """I x J taps of one channel.

    Args:
        log_dt_ptr: ``(H,)`` fp32.
        log_A_real_ptr, A_imag_ptr: ``(H, M)`` fp32.
        C_ptr: ``(H, M, 2)`` fp32.
        out_ptr: ``(H, L)`` fp32, written.
        PREC: of products, ``tl.dot``'s input_precision.
        BLOCK_N: modes of a step.
    """
    h = tl.program_id(1).to(tl.int64)
    l0 = tl.program_id(0) * (I * J)
    total = tl.zeros((I, J), tl.float32)
    for n0 in range(0, M, BLOCK_N):
        n = n0 + tl.arange(0, BLOCK_N)
        left_re, left_im, right_re, right_im, _, re, im, x, turns = _factors(
            log_dt_ptr, log_A_real_ptr, A_imag_ptr, h, n, M, l0, I, J
        )
        C_re, C_im = load_pair(C_ptr, h * M + n, n < M)
        s_re, s_im = hold(re, im, x, turns)
        c_re = (C_re * s_re - C_im * s_im).to(tl.float32)[None, :]
        c_im = (C_re * s_im + C_im * s_re).to(tl.float32)[None, :]
        total = tl.dot(left_re * c_re - left_im * c_im, right_re, total, input_precision=PREC)
        total = tl.dot(-(left_re * c_im + left_im * c_re), right_im, total, input_precision=PREC)
    l = l0 + tl.arange(0, I)[:, None] * J + tl.arange(0, J)[None, :]
    tl.store(out_ptr + h * L + l, total, mask=l < L)


@triton.jit
def _s4d_kernel_backward(
    grad_ptr,
    log_dt_ptr,
    log_A_real_ptr,
    A_imag_ptr,
    partial_ptr,
    M,
    H,
    L,
    PREC: tl.constexpr,
    I: tl.constexpr,
    J: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """What I x J taps of one channel add to G0 and G1.

    Args:
        grad_ptr: ``(H, L)`` fp32, the gradient of the kernel.
        partial_ptr: ``(tiles, H, 4, M)`` fp32, written: Re G0, Im G0, Re G1, Im G1.
        The others: as of :func:`_s4d_kernel`.
    """
    tile = tl.program_id(0)
    h = tl.program_id(1).to(tl.int64)
    l0 = tile * (I * J)
    i = tl.arange(0, I)
    j = tl.arange(0, J)
    l = l0 + i[:, None] * J + j[None, :]
    grad = tl.load(grad_ptr + h * L + l, mask=l < L, other=0.0)
    for n0 in range(0, M, BLOCK_N):
        n = n0 + tl.arange(0, BLOCK_N)
        left_re, left_im, right_re, right_im, _, _, _, _, _ = _factors(
            log_dt_ptr, log_A_real_ptr, A_imag_ptr, h, n, M, l0, I, J
        )
        right_re, right_im = tl.trans(right_re), tl.trans(right_im)
        r_re = tl.dot(grad, right_re, input_precision=PREC)
        r_im = tl.dot(grad, right_im, input_precision=PREC)
        partial_ptrs = partial_ptr + (tile.to(tl.int64) * H + h) * (4 * M) + n
        tl.store(partial_ptrs, tl.sum(left_re * r_re - left_im * r_im, axis=0), mask=n < M)
        tl.store(partial_ptrs + M, tl.sum(left_re * r_im + left_im * r_re, axis=0), mask=n < M)
        # l = (l0 + iJ) + j
        first = (l0 + i * J).to(tl.float32)[:, None]
        weighted = grad * j.to(tl.float32)[None, :]
        q_re = tl.dot(weighted, right_re, first * r_re, input_precision=PREC)
        q_im = tl.dot(weighted, right_im, first * r_im, input_precision=PREC)
        tl.store(partial_ptrs + 2 * M, tl.sum(left_re * q_re - left_im * q_im, axis=0), mask=n < M)
        tl.store(partial_ptrs + 3 * M, tl.sum(left_re * q_im + left_im * q_re, axis=0), mask=n < M)


@jit
def _s4d_kernel_chain(
    partial_ptr,
    log_dt_ptr,
    log_A_real_ptr,
    A_imag_ptr,
    C_ptr,
    d_log_dt_ptr,
    d_log_A_real_ptr,
    d_A_imag_ptr,
    d_C_ptr,
    M,
    H,
    num_tiles,
    BLOCK_N: tl.constexpr,
):
    """One channel's gradients of the parameters, from the sums over its tiles.

    Args:
        partial_ptr: ``(num_tiles, H, 4, M)`` fp32, see :func:`_s4d_kernel_backward`.
        d_log_dt_ptr, d_log_A_real_ptr, d_A_imag_ptr, d_C_ptr: as the parameters, written.
        The others: as of :func:`_s4d_kernel`.
    """
    h = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK_N,), tl.float64)
    for n0 in range(0, M, BLOCK_N):
        n = n0 + tl.arange(0, BLOCK_N)
        mode_mask = n < M
        g_re = tl.zeros((BLOCK_N,), tl.float64)
        g_im = tl.zeros((BLOCK_N,), tl.float64)
        q_re = tl.zeros((BLOCK_N,), tl.float64)
        q_im = tl.zeros((BLOCK_N,), tl.float64)
        partial_ptrs = partial_ptr + h * (4 * M) + n
        for _ in range(num_tiles):
            g_re += tl.load(partial_ptrs, mask=mode_mask, other=0.0)
            g_im += tl.load(partial_ptrs + M, mask=mode_mask, other=0.0)
            q_re += tl.load(partial_ptrs + 2 * M, mask=mode_mask, other=0.0)
            q_im += tl.load(partial_ptrs + 3 * M, mask=mode_mask, other=0.0)
            partial_ptrs += H * (4 * M)
        dt, re, im, x, turns = modes(log_dt_ptr, log_A_real_ptr, A_imag_ptr, h, n, M, mode_mask)
        C_re, C_im = load_pair(C_ptr, h * M + n, mode_mask)
        s_re, s_im = hold(re, im, x, turns)
        c_re = C_re * s_re - C_im * s_im
        c_im = C_re * s_im + C_im * s_re
        z_re = c_re * q_re - c_im * q_im
        z_im = c_re * q_im + c_im * q_re
        by_log_dt, by_log_A_real, by_A_imag, by_C_re, by_C_im = chain(
            dt, re, im, x, turns, C_re, C_im, g_re, g_im, z_re, z_im
        )
        total += tl.where(mode_mask, by_log_dt, 0.0)
        offsets = h * M + n
        tl.store(d_log_A_real_ptr + offsets, by_log_A_real.to(tl.float32), mask=mode_mask)
        tl.store(d_A_imag_ptr + offsets, by_A_imag.to(tl.float32), mask=mode_mask)
        tl.store(d_C_ptr + offsets * 2, by_C_re.to(tl.float32), mask=mode_mask)
        tl.store(d_C_ptr + offsets * 2 + 1, by_C_im.to(tl.float32), mask=mode_mask)
    tl.store(d_log_dt_ptr + h, tl.sum(total, axis=0).to(tl.float32))


def configurations(length: int, backward: bool) -> list[Config]:
    """Block sizes: short kernels take small blocks. 16 modes at a time keep the TF32 parts in registers."""
    if length <= 1024:
        return [Config({"I": 16, "J": 32, "BLOCK_N": 16}, 4, 1)]
    return [Config({"I": 128, "J": 32, "BLOCK_N": 16} if backward else {"I": 64, "J": 64, "BLOCK_N": 16}, 8, 1)]


def _why_not(log_dt: Tensor, A_imag: Tensor, length: int) -> str | None:
    """Why the kernels do not take a call, or None."""
    if log_dt.dtype == torch.float32 and A_imag.numel() and length:
        return None
    return refusal(log_dt, "there is nothing to compute")


@refusing(lambda log_dt, log_A_real, A_imag, C, length: _why_not(log_dt, A_imag, length))
def s4d_kernel(log_dt, log_A_real, A_imag, C, length) -> Tensor:
    """``torch.ops.lyra.s4d_kernel``."""
    if _why_not(log_dt, A_imag, length):
        return formulas()["s4d_kernel"](log_dt, log_A_real, A_imag, C, length)
    channels, count = A_imag.shape
    out = log_dt.new_empty(channels, length)
    launch(
        _s4d_kernel,
        lambda c: (cdiv(length, c.blocks["I"] * c.blocks["J"]), channels),
        {
            "log_dt_ptr": log_dt,
            "log_A_real_ptr": log_A_real,
            "A_imag_ptr": A_imag,
            "C_ptr": C,
            "out_ptr": out,
            "M": count,
            "L": length,
        },
        {"PREC": exact()},
        configurations(length, backward=False),
    )
    return out


def s4d_kernel_backward(grad, log_dt, log_A_real, A_imag, C):
    """``torch.ops.lyra.s4d_kernel_backward``."""
    channels, count = A_imag.shape
    length = grad.shape[-1]
    if _why_not(log_dt, A_imag, length):
        return formulas()["s4d_kernel_backward"](grad, log_dt, log_A_real, A_imag, C)
    config = configurations(length, backward=True)
    tiles = cdiv(length, config[0].blocks["I"] * config[0].blocks["J"])
    partial = log_dt.new_empty(tiles, channels, 4 * count)
    launch(
        _s4d_kernel_backward,
        lambda c: (tiles, channels),
        {
            "grad_ptr": grad,
            "log_dt_ptr": log_dt,
            "log_A_real_ptr": log_A_real,
            "A_imag_ptr": A_imag,
            "partial_ptr": partial,
            "M": count,
            "H": channels,
            "L": length,
        },
        {"PREC": exact()},
        config,
    )
    gradients = tuple(torch.empty_like(p) for p in (log_dt, log_A_real, A_imag, C))
    d_log_dt, d_log_A_real, d_A_imag, d_C = gradients
    launch(
        _s4d_kernel_chain,
        lambda c: (channels,),
        {
            "partial_ptr": partial,
            "log_dt_ptr": log_dt,
            "log_A_real_ptr": log_A_real,
            "A_imag_ptr": A_imag,
            "C_ptr": C,
            "d_log_dt_ptr": d_log_dt,
            "d_log_A_real_ptr": d_log_A_real,
            "d_A_imag_ptr": d_A_imag,
            "d_C_ptr": d_C,
            "M": count,
            "H": channels,
            "num_tiles": tiles,
        },
        {},
        [Config({"BLOCK_N": max(32, min(128, next_power_of_2(count)))}, 1, 1)],
    )
    return gradients
