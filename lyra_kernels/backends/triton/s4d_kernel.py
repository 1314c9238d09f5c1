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
from ._launch import Config, exact, jit, launch, next_power_of_2
from ._modes import chain, hold, load_pair, modes, powers, round_to_nearest, split_turns


@triton.jit
def _factors(log_dt, log_A_real, A_imag, h, n, M, l0, I: tl.constexpr, J: tl.constexpr):
    """``a^(l0 + iJ)`` as (I, N) and ``a^j`` as (N, J), and what they were made from."""
    real = n < M
    dt, re, im, x, turns = modes(log_dt, log_A_real, A_imag, h, n, M, real)
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
    log_dt,
    log_A_real,
    A_imag,
    C,
    out,
    M,
    L,
    PREC: tl.constexpr,
    I: tl.constexpr,
    J: tl.constexpr,
    N: tl.constexpr,
):
    h = tl.program_id(1).to(tl.int64)
    l0 = tl.program_id(0) * (I * J)
    total = tl.zeros((I, J), tl.float32)
    for n0 in range(0, M, N):
        n = n0 + tl.arange(0, N)
        left_re, left_im, right_re, right_im, _, re, im, x, turns = _factors(
            log_dt, log_A_real, A_imag, h, n, M, l0, I, J
        )
        C_re, C_im = load_pair(C, h * M + n, n < M)
        s_re, s_im = hold(re, im, x, turns)
        c_re = (C_re * s_re - C_im * s_im).to(tl.float32)[None, :]
        c_im = (C_re * s_im + C_im * s_re).to(tl.float32)[None, :]
        total = tl.dot(left_re * c_re - left_im * c_im, right_re, total, input_precision=PREC)
        total = tl.dot(-(left_re * c_im + left_im * c_re), right_im, total, input_precision=PREC)
    l = l0 + tl.arange(0, I)[:, None] * J + tl.arange(0, J)[None, :]
    tl.store(out + h * L + l, total, mask=l < L)


@triton.jit
def _s4d_kernel_backward(
    grad,
    log_dt,
    log_A_real,
    A_imag,
    partial,
    M,
    H,
    L,
    PREC: tl.constexpr,
    I: tl.constexpr,
    J: tl.constexpr,
    N: tl.constexpr,
):
    block = tl.program_id(0)
    h = tl.program_id(1).to(tl.int64)
    l0 = block * (I * J)
    i = tl.arange(0, I)
    j = tl.arange(0, J)
    l = l0 + i[:, None] * J + j[None, :]
    g = tl.load(grad + h * L + l, mask=l < L, other=0.0)
    for n0 in range(0, M, N):
        n = n0 + tl.arange(0, N)
        left_re, left_im, right_re, right_im, _, _, _, _, _ = _factors(log_dt, log_A_real, A_imag, h, n, M, l0, I, J)
        right_re, right_im = tl.trans(right_re), tl.trans(right_im)
        r_re = tl.dot(g, right_re, input_precision=PREC)
        r_im = tl.dot(g, right_im, input_precision=PREC)
        to = partial + (block.to(tl.int64) * H + h) * (4 * M) + n
        tl.store(to, tl.sum(left_re * r_re - left_im * r_im, axis=0), mask=n < M)
        tl.store(to + M, tl.sum(left_re * r_im + left_im * r_re, axis=0), mask=n < M)
        # l = (l0 + iJ) + j
        first = (l0 + i * J).to(tl.float32)[:, None]
        weighted = g * j.to(tl.float32)[None, :]
        q_re = tl.dot(weighted, right_re, first * r_re, input_precision=PREC)
        q_im = tl.dot(weighted, right_im, first * r_im, input_precision=PREC)
        tl.store(to + 2 * M, tl.sum(left_re * q_re - left_im * q_im, axis=0), mask=n < M)
        tl.store(to + 3 * M, tl.sum(left_re * q_im + left_im * q_re, axis=0), mask=n < M)


@jit
def _s4d_kernel_chain(
    partial,
    log_dt,
    log_A_real,
    A_imag,
    C,
    d_log_dt,
    d_log_A_real,
    d_A_imag,
    d_C,
    M,
    H,
    blocks,
    N: tl.constexpr,
):
    h = tl.program_id(0).to(tl.int64)
    total = tl.zeros((N,), tl.float64)
    for n0 in range(0, M, N):
        n = n0 + tl.arange(0, N)
        real = n < M
        g_re = tl.zeros((N,), tl.float64)
        g_im = tl.zeros((N,), tl.float64)
        q_re = tl.zeros((N,), tl.float64)
        q_im = tl.zeros((N,), tl.float64)
        at = partial + h * (4 * M) + n
        for _ in range(blocks):
            g_re += tl.load(at, mask=real, other=0.0)
            g_im += tl.load(at + M, mask=real, other=0.0)
            q_re += tl.load(at + 2 * M, mask=real, other=0.0)
            q_im += tl.load(at + 3 * M, mask=real, other=0.0)
            at += H * (4 * M)
        dt, re, im, x, turns = modes(log_dt, log_A_real, A_imag, h, n, M, real)
        C_re, C_im = load_pair(C, h * M + n, real)
        s_re, s_im = hold(re, im, x, turns)
        c_re = C_re * s_re - C_im * s_im
        c_im = C_re * s_im + C_im * s_re
        z_re = c_re * q_re - c_im * q_im
        z_im = c_re * q_im + c_im * q_re
        step, real_part, imaginary, by_C_re, by_C_im = chain(dt, re, im, x, turns, C_re, C_im, g_re, g_im, z_re, z_im)
        total += tl.where(real, step, 0.0)
        at = h * M + n
        tl.store(d_log_A_real + at, real_part.to(tl.float32), mask=real)
        tl.store(d_A_imag + at, imaginary.to(tl.float32), mask=real)
        tl.store(d_C + at * 2, by_C_re.to(tl.float32), mask=real)
        tl.store(d_C + at * 2 + 1, by_C_im.to(tl.float32), mask=real)
    tl.store(d_log_dt + h, tl.sum(total, axis=0).to(tl.float32))


def configurations(length: int, backward: bool) -> list[Config]:
    """Block sizes: short kernels take small blocks. 16 modes at a time keep the TF32 parts in registers."""
    if length <= 1024:
        return [Config({"I": 16, "J": 32, "N": 16}, 4, 1)]
    return [Config({"I": 128, "J": 32, "N": 16} if backward else {"I": 64, "J": 64, "N": 16}, 8, 1)]


def s4d_kernel(log_dt, log_A_real, A_imag, C, length) -> Tensor:
    """``torch.ops.lyra.s4d_kernel``."""
    if log_dt.dtype != torch.float32 or not A_imag.numel() or not length:
        return formulas()["s4d_kernel"](log_dt, log_A_real, A_imag, C, length)
    channels, count = A_imag.shape
    out = log_dt.new_empty(channels, length)
    launch(
        _s4d_kernel,
        lambda c: (triton.cdiv(length, c.blocks["I"] * c.blocks["J"]), channels),
        (log_dt, log_A_real, A_imag, C, out, count, length),
        {"PREC": exact()},
        configurations(length, backward=False),
    )
    return out


def s4d_kernel_backward(grad, log_dt, log_A_real, A_imag, C):
    """``torch.ops.lyra.s4d_kernel_backward``."""
    channels, count = A_imag.shape
    length = grad.shape[-1]
    if log_dt.dtype != torch.float32 or not A_imag.numel() or not length:
        return formulas()["s4d_kernel_backward"](grad, log_dt, log_A_real, A_imag, C)
    config = configurations(length, backward=True)
    blocks = triton.cdiv(length, config[0].blocks["I"] * config[0].blocks["J"])
    partial = log_dt.new_empty(blocks, channels, 4 * count)
    launch(
        _s4d_kernel_backward,
        lambda c: (blocks, channels),
        (grad, log_dt, log_A_real, A_imag, partial, count, channels, length),
        {"PREC": exact()},
        config,
    )
    gradients = tuple(torch.empty_like(p) for p in (log_dt, log_A_real, A_imag, C))
    launch(
        _s4d_kernel_chain,
        lambda c: (channels,),
        (partial, log_dt, log_A_real, A_imag, C, *gradients, count, channels, blocks),
        {},
        [Config({"N": max(32, min(128, next_power_of_2(count)))}, 1, 1)],
    )
    return gradients
