"""Long convolutions by Fourier transforms inside one program: activations are read once and written once.

A program takes one channel of several sequences (rows). It makes the spectrum of the channel's taps once
(:mod:`._fft_taps`), keeps it, and then goes from row to row: transform, product, inverse. See :mod:`._fft` for the
transform, which holds the taps of both directions in one spectrum, and for how products are done. The skip weight is a
tap where rows are stored in 16 bits; in fp32 what it adds comes last, from a second reading of the row.

Where channels alone do not fill the card, the rows are shared among several groups, each with a spectrum of its own.

What a loop over rows keeps in registers is what decides the shape of these kernels: a spectrum or a sum of spectra and
one transform at a time, no more, for 16 points a thread. Hence the gradients of u and of the taps are two kernels
(:mod:`.fft_conv_backward`), which costs one more reading of the output's gradient; hence loops from which nothing is
lifted.

They read and write ``(B, H, L)`` memory, where a channel's tokens are a line; what lies otherwise is transposed before
and after. By the model of an H200 in benchmarks/gpu_static that takes 0.58 to 0.90 times as long as to read tokens H
apart, transpositions and all; with the backward 0.66 to 0.88 times (fp32 and bf16, 8 x 2048 x 64 and 64 x 4096 x 64);
as long (0.98 to 1.02 times) at 64 x 128 x 64, where what is read weighs least. So there is no second way.

A packed batch may be one sequence: its transforms are as long as all its tokens, whatever its sequences are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ... import _torch
from ..reference import operations as formulas
from . import LIMITS
from ._fft import forward, index, inverse
from ._fft_taps import spectrum
from ._launch import (
    Config,
    cdiv,
    exact,
    jit,
    launch,
    next_power_of_2,
    precision,
    processors,
    refusal,
    refusing,
    supports,
)
from ._row_table import CHUNK, Rows, column_ptrs, rows
from ._scan_rows import row_offsets
from ._transpose import channels_first, lying_as, takes_channels_first

MAX_POINTS = LIMITS.transform
SIDES = {256: (16, 1, 16), 512: (16, 16, 2), 1024: (16, 16, 4), 2048: (16, 16, 8), 4096: (16, 16, 16)}


@triton.jit
def load_row(table_ptr, row, H, L, h):
    """Where a row begins in channel ``h`` of ``(B, H, L)`` memory; its tokens; two zeros that seem to be unknown.

    Why it must not know them: see :func:`._fft.forward`.
    """
    start = row_offsets(tl.load(column_ptrs(table_ptr, row, "start")), h, L, H)
    length = tl.load(column_ptrs(table_ptr, row, "length")).to(tl.int32)
    return start, length, length >> 31, length >> 30


@jit(also=("H", "M"))  # nothing is aligned by H
def _fft_conv(
    u_ptr,
    taps_ptr,
    reverse_ptr,
    skip_ptr,
    log_dt_ptr,
    log_A_real_ptr,
    A_imag_ptr,
    out_ptr,
    table_ptr,
    H,
    L,
    K,
    KR,
    M,
    num_rows,
    rows_per_program,
    sign,
    REVERSE: tl.constexpr,
    HAS_SKIP: tl.constexpr,
    S4D: tl.constexpr,
    PACKED: tl.constexpr,
    PREC: tl.constexpr,
    TAPS_PREC: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    C: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """The convolution for ``sign`` 1.0; its gradient by u, given that of the output as u, for -1.0.

    A program takes ``rows_per_program`` rows of one channel.

    Args:
        u_ptr, out_ptr: ``(B, H, L)``, read and written.
        taps_ptr, reverse_ptr, log_dt_ptr, log_A_real_ptr, A_imag_ptr, K, KR, M, REVERSE: as of :func:`.spectrum`;
            what is not read is None or 0.
        skip_ptr: D, ``(H,)`` fp32; read where HAS_SKIP.
        table_ptr: the table of rows, each a whole sequence.
        S4D: the taps are made from S4D's parameters.
        PACKED: else what lies behind a row, up to L, is its padding, and becomes 0.
        PREC, TAPS_PREC: of products in the transforms of rows and of taps, see :func:`._dot.split`.
        A, B, C, SIZE: see :mod:`._fft`.
        BLOCK_N: modes of a step, where S4D.
    """
    h = tl.program_id(0).to(tl.int64)
    begin = tl.program_id(1) * rows_per_program
    s_re, s_im = spectrum(
        taps_ptr, reverse_ptr, log_dt_ptr, log_A_real_ptr, A_imag_ptr, h, H, K, KR, M,
        REVERSE, S4D, TAPS_PREC, A, B, C, SIZE, BLOCK_N,
    )  # fmt: skip
    s_im *= sign
    # In fp32 the skip weight is not a tap: it is often most of the output, and need not have the error of two
    # transforms. What is stored in 16 bits has more of its own, and no time for reading the row twice.
    apart: tl.constexpr = u_ptr.dtype.element_ty == tl.float32 and PREC != "tf32"
    if HAS_SKIP:
        D = tl.load(skip_ptr + h)
        if not apart:
            s_re += D * (1.0 / (A * B * C))  # T of a one at lag 0 is one at every frequency
    for row in tl.range(begin, tl.minimum(begin + rows_per_program, num_rows), disable_licm=True):
        start, length, zero, zero2 = load_row(table_ptr, row, H, L, h)
        t = index(zero, A, B * C)
        u = tl.load(u_ptr + start + t, mask=t < length, other=0.0).to(tl.float32)
        z_re, z_im = forward(u, u, zero, False, PREC, A, B, C, SIZE)
        y_re = z_re * s_re - z_im * s_im
        y_im = z_re * s_im + z_im * s_re
        y, _ = inverse(y_re, y_im, zero2, False, PREC, A, B, C, SIZE)
        # Padding is zero; in a packed batch what follows is another sequence's.
        width = length if PACKED else L
        t = index(zero2, A, B * C)
        if HAS_SKIP and apart:
            y += D * tl.load(u_ptr + start + t, mask=t < length, other=0.0).to(tl.float32)
        y = tl.where(t < length, y, 0.0)
        tl.store(out_ptr + start + t, y.to(out_ptr.dtype.element_ty), mask=t < width)


def points(length: int) -> int:
    """Points of the transform for sequences of up to ``length`` tokens."""
    return max(next_power_of_2(length), min(SIDES))


def configurations(size: int) -> list[Config]:
    """By points: 8 or 16 of them a thread, so that spectra stay in registers."""
    return [Config({**sides(size), "BLOCK_N": 16}, min(max(size // 256, 2), 8), 1)]


def sides(size: int) -> dict[str, int]:
    A, B, C = SIDES[size]
    return {"A": A, "B": B, "C": C, "SIZE": max(C, 16)}


def why_not(u: Tensor) -> str | None:
    """Why the kernels do not take activations like these, or None."""
    in_a_row = u.shape[1] * u.shape[2]  # counted in 32 bits
    if supports(u) and u.numel() > 0 and u.shape[1] <= MAX_POINTS and in_a_row < 2**30:
        return None
    return refusal(u, f"a transform in one kernel takes up to {MAX_POINTS} tokens, and 2^30 values of a row")


def rows_per_program(u: Tensor, count: int, least: int) -> int:
    """All rows where channels alone fill the card.

    Else groups of at least ``least`` while processors have room, and of fewer only for processors that have nothing to
    do: each group makes a spectrum, or adds one to what is written and summed.
    """
    available = processors(u)
    room = available * (MAX_POINTS // points(u.shape[1]))
    groups = max(min(room // u.shape[2], count // least), available // u.shape[2], 1)
    return cdiv(count, min(groups, count))


def sequences(u: Tensor, lengths: Tensor | None, cu: Tensor | None) -> Rows:
    """One row a sequence."""
    return rows(u, lengths, cu, cdiv(u.shape[1] + 1, CHUNK) * CHUNK)


def row_precision(u: Tensor) -> str:
    """How products in the transforms of rows are done.

    One TF32 product leaves an error of 4e-4, a quarter of what rounding to bf16 does, but twice that of fp16.
    """
    one = u.dtype == torch.bfloat16 or _torch.tf32_allowed()
    return precision(u) if one else taps_precision()


def taps_precision() -> str:
    """How those of taps are: with fp32 accuracy; see :mod:`._fft` for why three TF32 products are not enough."""
    return "bf16x6" if exact() == "tf32x3" else exact()


def convolve(
    u: Tensor,
    taps: Tensor,
    reverse: Tensor | None,
    D: Tensor | None,
    parameters: Sequence[Tensor] | None,
    row: Rows,
    packed: bool,
    adjoint: bool = False,
) -> Tensor:
    """The convolution of rows, or its gradient by ``u`` given that of the output in its place; it lies as ``u`` does.

    With ``parameters`` (log_dt, log_A_real, A_imag), ``taps`` are S4D's C, (directions, H, M, 2).
    """
    if row.count == 0:
        return torch.zeros_like(u)  # tokens of no sequence
    v = channels_first(u)
    out = torch.empty_like(v.transpose(1, 2))
    each = rows_per_program(u, row.count, 2)
    log_dt, log_A_real, A_imag = parameters or (None, None, None)
    if parameters is None:
        both = reverse is not None
        K, KR, M = taps.shape[1], 0 if reverse is None else reverse.shape[1], 0
    else:
        both = taps.shape[0] == 2
        K, KR, M = 0, 0, taps.shape[2]
    launch(
        _fft_conv,
        lambda c: (u.shape[2], cdiv(row.count, each)),
        {
            "u_ptr": v,
            "taps_ptr": taps,
            "reverse_ptr": reverse,
            "skip_ptr": D,
            "log_dt_ptr": log_dt,
            "log_A_real_ptr": log_A_real,
            "A_imag_ptr": A_imag,
            "out_ptr": out,
            "table_ptr": row.table,
            "H": u.shape[2],
            "L": u.shape[1],
            "K": K,
            "KR": KR,
            "M": M,
            "num_rows": row.count,
            "rows_per_program": each,
            "sign": -1.0 if adjoint else 1.0,
        },
        {
            "REVERSE": both,
            "HAS_SKIP": D is not None,
            "S4D": parameters is not None,
            "PACKED": packed,
            "PREC": row_precision(u),
            "TAPS_PREC": taps_precision(),
        },
        configurations(points(u.shape[1])),
    )
    return lying_as(out, u)


@takes_channels_first
@refusing(lambda u, *rest: why_not(u))
def fft_conv(u, kernel, reverse_kernel, D, lengths, cu_seqlens) -> Tensor:
    """``torch.ops.lyra.fft_conv``."""
    if why_not(u):
        return formulas()["fft_conv"](u, kernel, reverse_kernel, D, lengths, cu_seqlens)
    row = sequences(u, lengths, cu_seqlens)
    return convolve(u, kernel, reverse_kernel, D, None, row, cu_seqlens is not None)
