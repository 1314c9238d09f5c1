"""The direct convolution ``y_t = sum_{s<=t} K_{t-s} u_s + sum_{s>t} R_{s-t-1} u_s + D u_t``, for short sequences.

Per channel a product of rows (sequences) with a Toeplitz matrix, T x T tiles of which are read from the taps. The
gradient of u is the same product with the matrix transposed. Those of the taps are sums along diagonals of g^T u: tiles
at one distance from the diagonal are added in one accumulator, whose diagonals a second kernel sums. No atomics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...layout import count_sequences
from ...schemas import absent
from ..reference import operations as formulas
from ._dot import nearest
from ._launch import (
    MOST_PROGRAMS,
    MOST_ROWS,
    Config,
    cdiv,
    jit,
    launch,
    precision,
    processors,
    refusal,
    refusing,
    supports,
)
from ._row_table import CHUNK, Rows, column_ptrs, rows

CONFIG = Config({"BLOCK_R": 16, "T": 32}, 4, 1)
MANY = Config({"BLOCK_R": 32, "T": 32}, 4, 1)  # for batches: a tile of taps serves twice the rows
FULL = 4
"""Programs of a processor from which MANY is the faster: below it half of them stand idle, or finish no earlier."""


def configurations(rows: int, tiles: int, channels: int, processors: int) -> list[Config]:
    """For so many rows of so many tiles, on a card of so many processors.

    By benchmarks/gpu_static's model of an H200, at 64 channels, MANY takes 1.1 to 1.2 times as long as CONFIG where a
    processor has up to 2 programs of CONFIG, 1.04 times (fp32) and 0.67 times (bf16) at 8, from 31 on 0.85 to 0.93 and
    0.57 to 0.75 times.
    """
    if rows <= CONFIG.blocks["BLOCK_R"]:
        return [CONFIG]
    programs = channels * tiles * cdiv(rows, CONFIG.blocks["BLOCK_R"])
    return [MANY, CONFIG] if programs >= FULL * processors else [CONFIG, MANY]


@triton.jit
def _rows_of(table_ptr, num_rows, first, BLOCK_R: tl.constexpr):
    """First tokens and lengths of the BLOCK_R rows from ``first`` on, ``(BLOCK_R, 1)``; 0 beyond the last row."""
    row = first + tl.arange(0, BLOCK_R)
    start = tl.load(column_ptrs(table_ptr, row.to(tl.int64), "start"), mask=row < num_rows, other=0)
    length = tl.load(column_ptrs(table_ptr, row.to(tl.int64), "length"), mask=row < num_rows, other=0)
    return start[:, None], length[:, None]


@jit
def _conv(
    u_ptr,
    taps_ptr,
    reverse_ptr,
    skip_ptr,
    out_ptr,
    table_ptr,
    H,
    K,
    KR,
    num_rows,
    num_tiles,
    HAS_REVERSE: tl.constexpr,
    HAS_SKIP: tl.constexpr,
    TRANSPOSE: tl.constexpr,
    PREC: tl.constexpr,
    BLOCK_R: tl.constexpr,
    T: tl.constexpr,
):
    """T outputs of BLOCK_R rows of one channel; with TRANSPOSE the gradient by u, given that of the output as u.

    Args:
        u_ptr, out_ptr: ``(tokens, H)``, read and written.
        taps_ptr: ``(H, K)`` fp32, lags 0, 1, ... back.
        reverse_ptr: ``(H, KR)`` fp32, lags 1, 2, ... ahead; read where HAS_REVERSE, else None and KR 0.
        skip_ptr: D, ``(H,)`` fp32; read where HAS_SKIP.
        table_ptr: the table of rows, each a whole sequence.
        num_tiles: tiles of T tokens of the longest row that there can be.
        TRANSPOSE: the product is one with the Toeplitz matrix transposed.
        PREC: of products, ``tl.dot``'s input_precision.
    """
    h = tl.program_id(0).to(tl.int64)
    own_tile = tl.program_id(1)
    start, length = _rows_of(table_ptr, num_rows, tl.program_id(2) * BLOCK_R, BLOCK_R)
    i = tl.arange(0, T)
    t = own_tile * T + i[None, :]
    first_tile = 0
    last_tile = num_tiles
    if not HAS_REVERSE:  # the other half of the matrix is zero
        if TRANSPOSE:
            first_tile = own_tile
        else:
            last_tile = own_tile + 1
    out = tl.zeros((BLOCK_R, T), tl.float32)
    for tile in range(first_tile, last_tile):
        s = tile * T + i
        u = tl.load(u_ptr + (start + s[None, :]) * H + h, mask=s[None, :] < length, other=0.0).to(tl.float32)
        lag = t - s[:, None]
        if TRANSPOSE:
            lag = -lag
        matrix = tl.load(taps_ptr + h * K + lag, mask=(lag >= 0) & (lag < K), other=0.0)
        if HAS_REVERSE:
            matrix += tl.load(reverse_ptr + h * KR - lag - 1, mask=(lag < 0) & (-lag - 1 < KR), other=0.0)
        if HAS_SKIP:
            matrix += tl.where(lag == 0, tl.load(skip_ptr + h), 0.0)
        out = tl.dot(nearest(u, PREC), nearest(matrix, PREC), out, input_precision=PREC)
    tl.store(out_ptr + (start + t) * H + h, out.to(out_ptr.dtype.element_ty), mask=t < length)


@jit
def _correlate(
    grad_ptr,
    u_ptr,
    partial_ptr,
    table_ptr,
    H,
    num_rows,
    num_tiles,
    min_distance,
    PREC: tl.constexpr,
    BLOCK_R: tl.constexpr,
    T: tl.constexpr,
):
    """``sum g_t u_s`` over rows and over tiles ``t0 - s0 = distance``, one (T, T) tile.

    Args:
        grad_ptr, u_ptr: ``(tokens, H)``.
        partial_ptr: ``(distances, H, T, T)`` fp32, written, as (t, s); distances of tiles from min_distance on.
        table_ptr, num_rows, num_tiles, PREC: as of :func:`_conv`.
        min_distance: 0, or -num_tiles where there are taps ahead.
        BLOCK_R: rows of a step.
    """
    h = tl.program_id(0).to(tl.int64)
    distance = tl.program_id(1) + min_distance
    i = tl.arange(0, T)[None, :]
    total = tl.zeros((T, T), tl.float32)
    for row in range(0, num_rows, BLOCK_R):
        start, length = _rows_of(table_ptr, num_rows, row, BLOCK_R)
        for tile in range(tl.maximum(distance, 0), tl.minimum(num_tiles, num_tiles + distance)):
            t = tile * T + i
            s = t - distance * T
            grad = tl.load(grad_ptr + (start + t) * H + h, mask=t < length, other=0.0).to(tl.float32)
            u = tl.load(u_ptr + (start + s) * H + h, mask=s < length, other=0.0).to(tl.float32)
            total = tl.dot(tl.trans(nearest(grad, PREC)), nearest(u, PREC), total, input_precision=PREC)
    partial_ptrs = partial_ptr + (tl.program_id(1).to(tl.int64) * H + h) * (T * T)
    tl.store(partial_ptrs + tl.arange(0, T)[:, None] * T + i, total)


@jit
def _diagonals(partial_ptr, out_ptr, H, K, min_distance, REVERSE: tl.constexpr, T: tl.constexpr):
    """T taps: lag l after the start of a tile's distance lies at (j + l, j), or in the tile after.

    Args:
        partial_ptr, min_distance: as of :func:`_correlate`.
        out_ptr: ``(H, K)`` fp32, written.
        REVERSE: taps of lags ahead, of which tap q is lag -(q + 1).
    """
    h = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    a = tl.arange(0, T)
    j = tl.arange(0, T)[None, :]
    l = a[:, None]
    tile = block - min_distance
    if REVERSE:  # tap q is lag -(q + 1)
        l = T - 1 - l
        tile = -(block + 1) - min_distance
    i = j + l
    inner = i < T
    partial_ptrs = partial_ptr + (tl.where(inner, tile, tile + 1).to(tl.int64) * H + h) * (T * T)
    sums = tl.sum(tl.load(partial_ptrs + tl.where(inner, i, i - T) * T + j), axis=1)
    tap = block * T + a
    tl.store(out_ptr + h * K + tap, sums, mask=tap < K)


def _geometry(u: Tensor, lengths: Tensor | None, cu: Tensor | None) -> tuple[Rows, int]:
    """One row a sequence, and the tiles of the longest that there can be."""
    segment = cdiv(u.shape[1] + 1, CHUNK) * CHUNK
    return rows(u, lengths, cu, segment), cdiv(u.shape[1], CONFIG.blocks["T"])


def _product(u, kernel, reverse_kernel, D, out, row: Rows, tiles: int, transpose: bool) -> None:
    launch(
        _conv,
        lambda c: (u.shape[-1], tiles, cdiv(row.count, c.blocks["BLOCK_R"])),
        {
            "u_ptr": u,
            "taps_ptr": kernel,
            "reverse_ptr": reverse_kernel,
            "skip_ptr": D,
            "out_ptr": out,
            "table_ptr": row.table,
            "H": u.shape[-1],
            "K": kernel.shape[-1],
            "KR": 0 if reverse_kernel is None else reverse_kernel.shape[-1],
            "num_rows": row.count,
            "num_tiles": tiles,
        },
        {
            "HAS_REVERSE": reverse_kernel is not None,
            "HAS_SKIP": D is not None,
            "TRANSPOSE": transpose,
            "PREC": precision(u),
        },
        configurations(row.count, tiles, u.shape[-1], processors(u)),
    )


def _why_not(u: Tensor, cu_seqlens: Tensor | None) -> str | None:
    """Why the kernels do not take a call, or None."""
    tiles = 2 * cdiv(u.shape[1], CONFIG.blocks["T"]) + 1
    if supports(u) and u.numel() > 0 and count_sequences(u, cu_seqlens) <= MOST_ROWS and tiles <= MOST_PROGRAMS:
        return None
    most = (MOST_PROGRAMS - 1) // 2 * CONFIG.blocks["T"]
    return refusal(u, f"kernels take up to {MOST_ROWS} sequences of up to {most} tokens")


@refusing(lambda u, *rest: _why_not(u, rest[-1]))
def causal_conv(u, kernel, reverse_kernel, D, lengths, cu_seqlens) -> Tensor:
    """``torch.ops.lyra.causal_conv``."""
    if _why_not(u, cu_seqlens):
        return formulas()["causal_conv"](u, kernel, reverse_kernel, D, lengths, cu_seqlens)
    out = torch.zeros_like(u) if lengths is not None else torch.empty_like(u)
    row, tiles = _geometry(u, lengths, cu_seqlens)
    _product(u, kernel, reverse_kernel, D, out, row, tiles, transpose=False)
    return out


def causal_conv_backward(grad, u, kernel, reverse_kernel, D, lengths, cu_seqlens) -> tuple[Tensor, ...]:
    """``torch.ops.lyra.causal_conv_backward``."""
    if _why_not(u, cu_seqlens):
        return formulas()["causal_conv_backward"](grad, u, kernel, reverse_kernel, D, lengths, cu_seqlens)
    du = torch.zeros_like(u) if lengths is not None else torch.empty_like(u)
    row, tiles = _geometry(u, lengths, cu_seqlens)
    _product(grad, kernel, reverse_kernel, D, du, row, tiles, transpose=True)
    channels, size = u.shape[-1], CONFIG.blocks["T"]
    min_distance = 0 if reverse_kernel is None else -tiles
    partial = u.new_empty(tiles + 1 - min_distance, channels, size, size, dtype=torch.float32)
    launch(
        _correlate,
        lambda c: (channels, tiles + 1 - min_distance),
        {
            "grad_ptr": grad,
            "u_ptr": u,
            "partial_ptr": partial,
            "table_ptr": row.table,
            "H": channels,
            "num_rows": row.count,
            "num_tiles": tiles,
            "min_distance": min_distance,
        },
        {"PREC": precision(u)},
        [CONFIG],
    )

    def taps(shape: torch.Size, reverse: bool) -> Tensor:
        out = torch.zeros(shape, dtype=torch.float32, device=u.device)  # taps that no token reaches: 0
        launch(
            _diagonals,
            lambda c: (channels, min(tiles, cdiv(shape[-1], size))),
            {"partial_ptr": partial, "out_ptr": out, "H": channels, "K": shape[-1], "min_distance": min_distance},
            {"REVERSE": reverse, "T": size},
            [Config({}, 4, 1)],
        )
        return out

    d_skip = absent(u) if D is None else taps(torch.Size((channels, 1)), False)[:, 0].contiguous()
    return (
        du,
        taps(kernel.shape, False),
        absent(u) if reverse_kernel is None else taps(reverse_kernel.shape, True),
        d_skip,
    )
