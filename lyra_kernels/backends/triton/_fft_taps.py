"""The spectrum of a channel's taps, made by each program of the convolution that needs it.

Taps come from memory, or, for S4D, from the parameters: ``K[i, j] = Re sum_n (c a^(iJ))_n (a^j)_n`` is two products of
matrices, as in :mod:`.s4d_kernel`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._dot import add_product, joined, split
from ._fft import forward, index
from ._modes import hold, load_pair, modes, powers, split_turns


@triton.jit
def _s4d_taps(
    log_dt_ptr,
    log_A_real_ptr,
    A_imag_ptr,
    C_ptr,
    first_mode,
    h,
    M,
    FLIP: tl.constexpr,
    PREC: tl.constexpr,
    I: tl.constexpr,
    J: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Taps 0 to I J - 1 of channel ``h`` of S4D as (I, J), in reverse where FLIP.

    Args:
        log_dt_ptr, log_A_real_ptr, A_imag_ptr: ``(H,)``, ``(H, M)`` and ``(H, M)`` fp32.
        C_ptr: ``(directions, H, M, 2)`` fp32; first_mode: where the channel's modes begin in it.
        PREC: of products, see :func:`._dot.split`.
        BLOCK_N: modes of a step.
    """
    i = tl.arange(0, I)
    j = tl.arange(0, J)
    if FLIP:
        i = I - 1 - i
        j = J - 1 - j
    i = i.to(tl.float32)[:, None]
    j = j.to(tl.float32)[None, :]
    total = tl.zeros((I, J), tl.float32)
    rest = tl.zeros((I, J), tl.float32)
    for n0 in range(0, M, BLOCK_N):
        n = n0 + tl.arange(0, BLOCK_N)
        mode_mask = n < M
        _, re, im, x, turns = modes(log_dt_ptr, log_A_real_ptr, A_imag_ptr, h, n, M, mode_mask)
        s_re, s_im = hold(re, im, x, turns)
        C_re, C_im = load_pair(C_ptr, first_mode + n, mode_mask)
        c_re = (C_re * s_re - C_im * s_im).to(tl.float32)[None, :]
        c_im = (C_re * s_im + C_im * s_re).to(tl.float32)[None, :]
        x32 = x.to(tl.float32)
        coarse, fine = split_turns(turns * J)
        left_re, left_im = powers(x32[None, :] * J, coarse[None, :], fine[None, :], 0.0, i)
        coarse, fine = split_turns(turns)
        right_re, right_im = powers(x32[:, None], coarse[:, None], fine[:, None], 0.0, j)
        left = split(left_re * c_re - left_im * c_im, PREC)
        total, rest = add_product(left, split(right_re, PREC), total, rest, PREC)
        left = split(-(left_re * c_im + left_im * c_re), PREC)
        total, rest = add_product(left, split(right_im, PREC), total, rest, PREC)
    return joined(total, rest, PREC)


@triton.jit
def spectrum(
    taps_ptr,
    reverse_ptr,
    log_dt_ptr,
    log_A_real_ptr,
    A_imag_ptr,
    h,
    H,
    K,
    KR,
    M,
    REVERSE: tl.constexpr,
    S4D: tl.constexpr,
    PREC: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    C: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """T k / N of channel ``h``, (SIZE, N / SIZE), N = A B C: real and imaginary part.

    Args:
        taps_ptr: ``(H, K)`` fp32; where S4D its C, ``(1 + REVERSE, H, M, 2)`` fp32.
        reverse_ptr: ``(H, KR)`` fp32; read where REVERSE and not S4D.
        log_dt_ptr, log_A_real_ptr, A_imag_ptr: as of :func:`_s4d_taps`; read where S4D.
        REVERSE: there are taps of both directions.
        PREC, BLOCK_N: as of :func:`_s4d_taps`.
    """
    J: tl.constexpr = B * C
    t = index(0, A, J)
    if S4D:
        k_re = _s4d_taps(log_dt_ptr, log_A_real_ptr, A_imag_ptr, taps_ptr, h * M, h, M, False, PREC, A, J, BLOCK_N)
    else:
        k_re = tl.load(taps_ptr + h * K + t, mask=t < K, other=0.0)
    k_im = k_re
    if REVERSE:
        # Tap q of the second direction is lag -(q + 1). At t = 0 stands lag -N, which reaches nothing.
        q = A * J - 1 - t
        if S4D:
            k_im = -_s4d_taps(
                log_dt_ptr, log_A_real_ptr, A_imag_ptr, taps_ptr, (H + h) * M, h, M, True, PREC, A, J, BLOCK_N
            )
        else:
            k_im = -tl.load(reverse_ptr + h * KR + q, mask=q < KR, other=0.0)
    s_re, s_im = forward(k_re, k_im, 0, REVERSE, PREC, A, B, C, SIZE)
    return s_re * (1.0 / (A * J)), s_im * (1.0 / (A * J))
