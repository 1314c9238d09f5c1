"""The backward of the convolution by Fourier transforms; :mod:`.fft_conv` says what there is to know of both.

The gradient of u is the convolution with the taps' conjugate spectrum. That of the taps leaves one kernel as (groups of
rows, directions, H, L), which a second sums in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...schemas import absent
from ..reference import operations as formulas
from ._fft import advance, forward, index, inverse
from ._launch import Config, cdiv, jit, launch
from ._reduce import sum_rows
from ._row_table import Rows
from ._transpose import channels_first, lying_as, takes_channels_first
from .fft_conv import (
    MAX_POINTS,
    configurations,
    convolve,
    load_row,
    points,
    row_precision,
    rows_per_program,
    sequences,
    sides,
    taps_precision,
    why_not,
)


@triton.jit
def _store_taps(
    d_taps_ptr,
    p_re,
    p_im,
    zero,
    h,
    H,
    L,
    PHASE: tl.constexpr,
    PHASES: tl.constexpr,
    REVERSE: tl.constexpr,
    PREC: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    C: tl.constexpr,
    SIZE: tl.constexpr,
):
    """Lags of both signs, those PHASE beyond a multiple of PHASES, from the sum of spectra ``p``.

    ``d_taps_ptr`` and REVERSE: as of :func:`_fft_correlate`; PREC: of products in the transform.
    """
    scale: tl.constexpr = 1.0 / (A * B * C)
    w_re, w_im = inverse(p_re * scale, p_im * scale, zero, REVERSE, PREC, A, B, C, SIZE)
    t = index(zero, A, B * C)
    directions: tl.constexpr = 2 if REVERSE else 1
    place = tl.program_id(1).to(tl.int64) * directions
    tap = PHASES * t + PHASE
    tl.store(d_taps_ptr + (place * H + h) * L + tap, w_re, mask=tap < L)
    if REVERSE:
        tap = PHASES * (A * B * C - t) - 1 - PHASE
        # The last tap's lag is -L: no two tokens are that far apart.
        tl.store(d_taps_ptr + ((place + 1) * H + h) * L + tap, tl.where(tap < L - 1, -w_im, 0.0), mask=tap < L)


@jit(also=("H",))
def _fft_correlate(
    grad_ptr,
    u_ptr,
    d_taps_ptr,
    table_ptr,
    H,
    L,
    num_rows,
    rows_per_program,
    PHASES: tl.constexpr,
    REVERSE: tl.constexpr,
    PREC: tl.constexpr,
    TAPS_PREC: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    C: tl.constexpr,
    SIZE: tl.constexpr,
):
    """The gradient of the taps: ``sum_t grad_{t+l} u_t`` for every lag l, summed over rows as spectra.

    With two PHASES, tokens of even and of odd index are sequences of their own, and so are the lags: of transforms of
    half the length, sums and all, twice as many fit in registers.

        lag 2m:  grad_even * u_even + grad_odd * u_odd,      lag 2m + 1:  grad_odd * u_even + (grad_even * u_odd)_{m+1}

    One transform a step, for the code of one in the loop: u, grad; or u_even, grad_even, u_odd, grad_odd.

    Args:
        grad_ptr, u_ptr: ``(B, H, L)``, the gradient of the output, and u.
        d_taps_ptr: ``(groups, 1 + REVERSE, H, L)`` fp32, written; a group is a program's
            ``rows_per_program`` rows.
        table_ptr: the table of rows, each a whole sequence.
        REVERSE: there are taps of both directions.
        PREC, TAPS_PREC: of products in the transforms of rows and of taps, see :func:`._dot.split`.
        A, B, C, SIZE: see :mod:`._fft`.
    """
    h = tl.program_id(0).to(tl.int64)
    begin = tl.program_id(1) * rows_per_program
    shape: tl.constexpr = (SIZE, A * B * C // SIZE)
    STEPS: tl.constexpr = 2 * PHASES
    p_re = tl.zeros(shape, tl.float32)
    p_im = tl.zeros(shape, tl.float32)
    odd_re = tl.zeros(shape, tl.float32)
    odd_im = tl.zeros(shape, tl.float32)
    a_re = tl.zeros(shape, tl.float32)
    a_im = tl.zeros(shape, tl.float32)
    b_re = tl.zeros(shape, tl.float32)
    b_im = tl.zeros(shape, tl.float32)
    for step in tl.range(STEPS * begin, STEPS * tl.minimum(begin + rows_per_program, num_rows), disable_licm=True):
        which = step % STEPS
        start, length, zero, _ = load_row(table_ptr, step // STEPS, H, L, h)
        t = index(zero, A, B * C) * PHASES + which // 2
        source_ptr = u_ptr if which % 2 == 0 else grad_ptr
        x = tl.load(source_ptr + start + t, mask=t < length, other=0.0).to(tl.float32)
        z_re, z_im = forward(x, x, zero, False, PREC, A, B, C, SIZE)
        if which == 0:
            a_re, a_im = z_re, z_im
        elif which == 1:
            p_re += a_re * z_re + a_im * z_im
            p_im += a_re * z_im - a_im * z_re
            if PHASES == 2:
                w_re, w_im = advance(zero, A, B, C, SIZE, PREC)
                b_re = z_re * w_re - z_im * w_im
                b_im = z_re * w_im + z_im * w_re
        elif which == 2:
            odd_re += z_re * b_re + z_im * b_im
            odd_im += z_re * b_im - z_im * b_re
            b_re, b_im = z_re, z_im
        else:
            p_re += b_re * z_re + b_im * z_im
            p_im += b_re * z_im - b_im * z_re
            odd_re += a_re * z_re + a_im * z_im
            odd_im += a_re * z_im - a_im * z_re
    _, _, zero, zero2 = load_row(table_ptr, 0, H, L, h)
    _store_taps(d_taps_ptr, p_re, p_im, zero, h, H, L, 0, PHASES, REVERSE, TAPS_PREC, A, B, C, SIZE)
    if PHASES == 2:
        _store_taps(d_taps_ptr, odd_re, odd_im, zero2, h, H, L, 1, PHASES, REVERSE, TAPS_PREC, A, B, C, SIZE)


def correlate(grad: Tensor, u: Tensor, both: bool, row: Rows) -> Tensor:
    """The gradient of the taps, of each direction: ``(directions, H, L)``, fp32."""
    shape = (1 + both, u.shape[2], u.shape[1])
    if row.count == 0:
        return u.new_zeros(shape, dtype=torch.float32)
    each = rows_per_program(u, row.count, 4)
    groups = cdiv(row.count, each)
    partial = u.new_empty(groups, *shape, dtype=torch.float32)
    size = points(u.shape[1])
    phases = 2 if size == MAX_POINTS else 1
    config = configurations(size)[0]
    launch(
        _fft_correlate,
        lambda c: (u.shape[2], groups),
        {
            "grad_ptr": channels_first(grad),
            "u_ptr": channels_first(u),
            "d_taps_ptr": partial,
            "table_ptr": row.table,
            "H": u.shape[2],
            "L": u.shape[1],
            "num_rows": row.count,
            "rows_per_program": each,
        },
        {"PHASES": phases, "REVERSE": both, "PREC": row_precision(u), "TAPS_PREC": taps_precision()},
        [Config(sides(size // phases), config.num_warps, 1)],
    )
    if groups > 1:
        partial = sum_rows(partial.view(groups, -1), partial[0].numel())
    return partial.view(shape)


def resized(taps: Tensor, size: int) -> Tensor:
    """As many of ``taps (H, L)`` as a kernel has, ``(H, size)``: surplus ones are zero."""
    channels, length = taps.shape
    out = taps.new_empty(channels, size) if size <= length else taps.new_zeros(channels, size)
    reached = min(size, length)
    out[:, :reached].copy_(taps[:, :reached])
    return out


@takes_channels_first
def fft_conv_backward(grad, u, kernel, reverse_kernel, D, lengths, cu_seqlens) -> tuple[Tensor, ...]:
    """``torch.ops.lyra.fft_conv_backward``."""
    if why_not(u):
        return formulas()["fft_conv_backward"](grad, u, kernel, reverse_kernel, D, lengths, cu_seqlens)
    row = sequences(u, lengths, cu_seqlens)
    grad = channels_first(grad).transpose(1, 2)  # once, for both
    du = convolve(grad, kernel, reverse_kernel, D, None, row, cu_seqlens is not None, adjoint=True)
    taps = correlate(grad, u, reverse_kernel is not None, row)
    return (
        lying_as(du, u),
        resized(taps[0], kernel.shape[-1]),
        absent(u) if reverse_kernel is None else resized(taps[1], reverse_kernel.shape[-1]),
        absent(u) if D is None else taps[0, :, 0].contiguous(),
    )
