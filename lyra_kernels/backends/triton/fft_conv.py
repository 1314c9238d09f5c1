"""Long convolutions by Fourier transforms inside one program: activations are read once and written once.

A program takes one channel of several sequences (rows). It makes or reads the channel's taps, transforms them once,
keeps their spectrum, and then goes from row to row: transform, product, inverse. See :mod:`._fft` for the transform,
which holds the taps of both directions in one spectrum, and for how products are done. The skip weight is a tap where
rows are stored in 16 bits; in fp32 what it adds comes last, from a second reading of the row.

Taps come from memory, or, for S4D, from the parameters: ``K[i, j] = Re sum_n (c a^(iJ))_n (a^j)_n`` is two products of
matrices, as in :mod:`.s4d_kernel`. Their gradients leave as (groups of rows, directions, H, L), which a second kernel
sums in a fixed order.

Where channels alone do not fill the card, the rows are shared among several groups, each with a spectrum of its own.

What a loop over rows keeps in registers is what decides the shape of these kernels: a spectrum or a sum of spectra and
one transform at a time, no more, for 16 points a thread. Hence the gradients of u and of the taps are two kernels,
which costs one more reading of the output's gradient; hence loops from which nothing is lifted.

A packed batch may be one sequence: its transforms are as long as all its tokens, whatever its sequences are.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...schemas import absent
from ..reference import operations as formulas
from . import LIMITS
from ._dot import add_product, joined, split
from ._fft import advance, forward, inverse
from ._launch import Config, exact, jit, launch, next_power_of_2, precision, supports, tf32_allowed
from ._modes import hold, load_pair, modes, powers, split_turns
from ._reduce import sum_rows
from ._scan_rows import CHUNK, Rows, rows

MAX_POINTS = LIMITS.transform
SIDES = {256: (16, 1, 16), 512: (16, 16, 2), 1024: (16, 16, 4), 2048: (16, 16, 8), 4096: (16, 16, 16)}


@triton.jit
def _s4d_taps(
    log_dt,
    log_A_real,
    A_imag,
    C,
    at_C,
    h,
    M,
    FLIP: tl.constexpr,
    PREC: tl.constexpr,
    I: tl.constexpr,
    J: tl.constexpr,
    MODES: tl.constexpr,
):
    """Taps 0 to I J - 1 as (I, J), in reverse where FLIP; ``at_C`` is the channel's place in C, in modes."""
    i = tl.arange(0, I)
    j = tl.arange(0, J)
    if FLIP:
        i = I - 1 - i
        j = J - 1 - j
    i = i.to(tl.float32)[:, None]
    j = j.to(tl.float32)[None, :]
    total = tl.zeros((I, J), tl.float32)
    rest = tl.zeros((I, J), tl.float32)
    for n0 in range(0, M, MODES):
        n = n0 + tl.arange(0, MODES)
        real = n < M
        _, re, im, x, turns = modes(log_dt, log_A_real, A_imag, h, n, M, real)
        s_re, s_im = hold(re, im, x, turns)
        C_re, C_im = load_pair(C, at_C + n, real)
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
def _spectrum(
    taps,
    reverse,
    log_dt,
    log_A_real,
    A_imag,
    h,
    H,
    K,
    KR,
    M,
    REVERSE: tl.constexpr,
    S4D: tl.constexpr,
    EXACT: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    C: tl.constexpr,
    SIZE: tl.constexpr,
    MODES: tl.constexpr,
):
    """T k / N of one channel; ``taps`` are S4D's C where S4D."""
    J: tl.constexpr = B * C
    t = _index(0, A, J)
    if S4D:
        k_re = _s4d_taps(log_dt, log_A_real, A_imag, taps, h * M, h, M, False, EXACT, A, J, MODES)
    else:
        k_re = tl.load(taps + h * K + t, mask=t < K, other=0.0)
    k_im = k_re
    if REVERSE:
        # Tap q of the second direction is lag -(q + 1). At t = 0 stands lag -N, which reaches nothing.
        q = A * J - 1 - t
        if S4D:
            k_im = -_s4d_taps(log_dt, log_A_real, A_imag, taps, (H + h) * M, h, M, True, EXACT, A, J, MODES)
        else:
            k_im = -tl.load(reverse + h * KR + q, mask=q < KR, other=0.0)
    s_re, s_im = forward(k_re, k_im, 0, REVERSE, EXACT, A, B, C, SIZE)
    return s_re * (1.0 / (A * J)), s_im * (1.0 / (A * J))


@triton.jit
def _index(zero, I: tl.constexpr, J: tl.constexpr):
    return (zero + tl.arange(0, I))[:, None] * J + tl.arange(0, J)[None, :]


@triton.jit
def _row(table, row, H, h):
    """Where a row's first token lies, the row's length, and two zeros that the compiler takes to be unknown."""
    start = tl.load(table + row * 5) * H + h
    length = tl.load(table + row * 5 + 1).to(tl.int32)
    return start, length, length >> 31, length >> 30


@jit(also=("H", "M"))  # a channel's tokens lie H apart: nothing is read in one piece, whatever H is
def _fft_conv(
    u,
    taps,
    reverse,
    skip,
    log_dt,
    log_A_real,
    A_imag,
    out,
    table,
    H,
    L,
    K,
    KR,
    M,
    count,
    each,
    sign,
    REVERSE: tl.constexpr,
    SKIP: tl.constexpr,
    S4D: tl.constexpr,
    PACKED: tl.constexpr,
    PREC: tl.constexpr,
    EXACT: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    C: tl.constexpr,
    SIZE: tl.constexpr,
    MODES: tl.constexpr,
):
    """The convolution for ``sign`` 1.0; its gradient by u, given that of the output as ``u``, for -1.0."""
    # Neighbouring channels run side by side: together they use whole sectors of the cache.
    h = tl.program_id(0).to(tl.int64)
    begin = tl.program_id(1) * each
    s_re, s_im = _spectrum(
        taps, reverse, log_dt, log_A_real, A_imag, h, H, K, KR, M, REVERSE, S4D, EXACT, A, B, C, SIZE, MODES
    )
    s_im *= sign
    # In fp32 the skip weight is not a tap: it is often most of the output, and need not have the error of two
    # transforms. What is stored in 16 bits has more of its own, and no time for reading the row twice.
    apart: tl.constexpr = u.dtype.element_ty == tl.float32 and PREC != "tf32"
    if SKIP:
        D = tl.load(skip + h)
        if not apart:
            s_re += D * (1.0 / (A * B * C))  # T of a one at lag 0 is one at every frequency
    for row in tl.range(begin, tl.minimum(begin + each, count), disable_licm=True):
        start, length, zero, zero2 = _row(table, row, H, h)
        t = _index(zero, A, B * C)
        x = tl.load(u + start + t * H, mask=t < length, other=0.0).to(tl.float32)
        z_re, z_im = forward(x, x, zero, False, PREC, A, B, C, SIZE)
        y_re = z_re * s_re - z_im * s_im
        y_im = z_re * s_im + z_im * s_re
        y, _ = inverse(y_re, y_im, zero2, False, PREC, A, B, C, SIZE)
        # Padding is zero; in a packed batch what follows is another sequence's.
        width = length if PACKED else L
        t = _index(zero2, A, B * C)
        if SKIP and apart:
            y += D * tl.load(u + start + t * H, mask=t < length, other=0.0).to(tl.float32)
        y = tl.where(t < length, y, 0.0)
        tl.store(out + start + t * H, y.to(out.dtype.element_ty), mask=t < width)


@triton.jit
def _store_taps(
    d_taps,
    p_re,
    p_im,
    zero,
    h,
    H,
    L,
    PHASE: tl.constexpr,
    PHASES: tl.constexpr,
    REVERSE: tl.constexpr,
    EXACT: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    C: tl.constexpr,
    SIZE: tl.constexpr,
):
    """Lags of both signs, those PHASE beyond a multiple of PHASES, from the sum of spectra."""
    scale: tl.constexpr = 1.0 / (A * B * C)
    w_re, w_im = inverse(p_re * scale, p_im * scale, zero, REVERSE, EXACT, A, B, C, SIZE)
    t = _index(zero, A, B * C)
    directions: tl.constexpr = 2 if REVERSE else 1
    place = tl.program_id(1).to(tl.int64) * directions
    tap = PHASES * t + PHASE
    tl.store(d_taps + (place * H + h) * L + tap, w_re, mask=tap < L)
    if REVERSE:
        tap = PHASES * (A * B * C - t) - 1 - PHASE
        # The last tap's lag is -L: no two tokens are that far apart.
        tl.store(d_taps + ((place + 1) * H + h) * L + tap, tl.where(tap < L - 1, -w_im, 0.0), mask=tap < L)


@jit(also=("H",))
def _fft_correlate(
    grad,
    u,
    d_taps,
    table,
    H,
    L,
    count,
    each,
    PHASES: tl.constexpr,
    REVERSE: tl.constexpr,
    PREC: tl.constexpr,
    EXACT: tl.constexpr,
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
    """
    h = tl.program_id(0).to(tl.int64)
    begin = tl.program_id(1) * each
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
    for step in tl.range(STEPS * begin, STEPS * tl.minimum(begin + each, count), disable_licm=True):
        which = step % STEPS
        start, length, zero, _ = _row(table, step // STEPS, H, h)
        t = _index(zero, A, B * C) * PHASES + which // 2
        source = u if which % 2 == 0 else grad
        x = tl.load(source + start + t * H, mask=t < length, other=0.0).to(tl.float32)
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
    _, _, zero, zero2 = _row(table, 0, H, h)
    _store_taps(d_taps, p_re, p_im, zero, h, H, L, 0, PHASES, REVERSE, EXACT, A, B, C, SIZE)
    if PHASES == 2:
        _store_taps(d_taps, odd_re, odd_im, zero2, h, H, L, 1, PHASES, REVERSE, EXACT, A, B, C, SIZE)


def points(length: int) -> int:
    """Points of the transform for sequences of up to ``length`` tokens."""
    return max(next_power_of_2(length), min(SIDES))


def configurations(size: int) -> list[Config]:
    """By points: 8 or 16 of them a thread, so that spectra stay in registers."""
    return [Config({**_sides(size), "MODES": 16}, min(max(size // 256, 2), 8), 1)]


def _sides(size: int) -> dict[str, int]:
    A, B, C = SIDES[size]
    return {"A": A, "B": B, "C": C, "SIZE": max(C, 16)}


def fits(u: Tensor) -> bool:
    """Whether the kernels take activations like these."""
    in_a_row = u.shape[1] * u.shape[2]  # counted in 32 bits
    return supports(u) and u.numel() > 0 and u.shape[1] <= MAX_POINTS and in_a_row < 2**30


@functools.cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def rows_per_program(u: Tensor, count: int, least: int) -> int:
    """All rows where channels alone fill the card.

    Else groups of at least ``least`` while processors have room, and of fewer only for processors that have nothing to
    do: each group makes a spectrum, or adds one to what is written and summed.
    """
    processors = _processors(u.device) if u.is_cuda else 1
    room = processors * (MAX_POINTS // points(u.shape[1]))
    groups = max(min(room // u.shape[2], count // least), processors // u.shape[2], 1)
    return triton.cdiv(count, min(groups, count))


def sequences(u: Tensor, lengths: Tensor | None, cu: Tensor | None) -> Rows:
    """One row a sequence."""
    return rows(u, lengths, cu, triton.cdiv(u.shape[1] + 1, CHUNK) * CHUNK, reverse=False)


def _precision(u: Tensor) -> str:
    """How rows are transformed; taps always with fp32 accuracy.

    One TF32 product leaves an error of 4e-4, a quarter of what rounding to bf16 does, but twice that of fp16.
    """
    one = u.dtype == torch.bfloat16 or tf32_allowed()
    return precision(u) if one else _exact()


def _exact() -> str:
    """Products with fp32 accuracy; see :mod:`._fft` for why three TF32 products are not enough."""
    return "bf16x6" if exact() == "tf32x3" else exact()


def convolve(
    u: Tensor,
    taps: Tensor,
    reverse: Tensor | None,
    D: Tensor | None,
    spectrum: Sequence[Tensor] | None,
    row: Rows,
    packed: bool,
    adjoint: bool = False,
) -> Tensor:
    """The convolution of rows, or its gradient by ``u`` given that of the output in its place.

    With ``spectrum`` (log_dt, log_A_real, A_imag), ``taps`` are S4D's C, (directions, H, M, 2).
    """
    out = torch.empty_like(u)
    if row.count == 0:
        return out.zero_()  # tokens of no sequence
    each = rows_per_program(u, row.count, 2)
    if spectrum is None:
        both, sizes = reverse is not None, (taps.shape[1], 0 if reverse is None else reverse.shape[1], 0)
    else:
        both, sizes = taps.shape[0] == 2, (0, 0, taps.shape[2])
    launch(
        _fft_conv,
        lambda c: (u.shape[2], triton.cdiv(row.count, each)),
        (
            u,
            taps,
            reverse,
            D,
            *(spectrum or (None,) * 3),
            out,
            row.table,
            u.shape[2],
            u.shape[1],
            *sizes,
            row.count,
            each,
            -1.0 if adjoint else 1.0,
        ),
        {
            "REVERSE": both,
            "SKIP": D is not None,
            "S4D": spectrum is not None,
            "PACKED": packed,
            "PREC": _precision(u),
            "EXACT": _exact(),
        },
        configurations(points(u.shape[1])),
    )
    return out


def correlate(grad: Tensor, u: Tensor, both: bool, row: Rows) -> Tensor:
    """The gradient of the taps, of each direction: ``(directions, H, L)``, fp32."""
    shape = (1 + both, u.shape[2], u.shape[1])
    if row.count == 0:
        return u.new_zeros(shape, dtype=torch.float32)
    each = rows_per_program(u, row.count, 4)
    groups = triton.cdiv(row.count, each)
    partial = u.new_empty(groups, *shape, dtype=torch.float32)
    size = points(u.shape[1])
    phases = 2 if size == MAX_POINTS else 1
    config = configurations(size)[0]
    launch(
        _fft_correlate,
        lambda c: (u.shape[2], groups),
        (grad, u, partial, row.table, u.shape[2], u.shape[1], row.count, each),
        {"PHASES": phases, "REVERSE": both, "PREC": _precision(u), "EXACT": _exact()},
        [Config(_sides(size // phases), config.num_warps, 1)],
    )
    if groups > 1:
        partial = sum_rows(partial.view(groups, -1), partial[0].numel())
    return partial.view(shape)


def fft_conv(u, kernel, reverse_kernel, D, lengths, cu_seqlens) -> Tensor:
    """``torch.ops.lyra.fft_conv``."""
    if not fits(u):
        return formulas()["fft_conv"](u, kernel, reverse_kernel, D, lengths, cu_seqlens)
    row = sequences(u, lengths, cu_seqlens)
    return convolve(u, kernel, reverse_kernel, D, None, row, cu_seqlens is not None)


def fft_conv_backward(grad, u, kernel, reverse_kernel, D, lengths, cu_seqlens) -> tuple[Tensor, ...]:
    """``torch.ops.lyra.fft_conv_backward``."""
    if not fits(u):
        return formulas()["fft_conv_backward"](grad, u, kernel, reverse_kernel, D, lengths, cu_seqlens)
    row = sequences(u, lengths, cu_seqlens)
    du = convolve(grad, kernel, reverse_kernel, D, None, row, cu_seqlens is not None, adjoint=True)
    taps = correlate(grad, u, reverse_kernel is not None, row)

    def resized(of: Tensor, size: int) -> Tensor:
        return torch.nn.functional.pad(of, (0, size - of.shape[-1])).contiguous()  # surplus taps: zero

    return (
        du,
        resized(taps[0], kernel.shape[-1]),
        absent(u) if reverse_kernel is None else resized(taps[1], reverse_kernel.shape[-1]),
        absent(u) if D is None else taps[0, :, 0].contiguous(),
    )
