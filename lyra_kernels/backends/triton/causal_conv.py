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
from ._launch import MOST_PROGRAMS, MOST_ROWS, Config, jit, launch, precision, supports
from ._scan_rows import CHUNK, Rows, rows

CONFIG = Config({"R": 16, "T": 32}, 4, 1)
MANY = Config({"R": 32, "T": 32}, 4, 1)  # for batches: a tile of taps serves twice the rows


@triton.jit
def _rows_of(table, count, first, R: tl.constexpr):
    row = first + tl.arange(0, R)
    start = tl.load(table + row.to(tl.int64) * 5, mask=row < count, other=0)
    length = tl.load(table + row.to(tl.int64) * 5 + 1, mask=row < count, other=0)
    return start[:, None], length[:, None]


@jit
def _conv(
    u,
    taps,
    reverse,
    skip,
    out,
    table,
    H,
    K,
    KR,
    count,
    blocks,
    REVERSE: tl.constexpr,
    SKIP: tl.constexpr,
    TRANSPOSE: tl.constexpr,
    PREC: tl.constexpr,
    R: tl.constexpr,
    T: tl.constexpr,
):
    h = tl.program_id(0).to(tl.int64)
    mine = tl.program_id(1)
    start, length = _rows_of(table, count, tl.program_id(2) * R, R)
    i = tl.arange(0, T)
    t = mine * T + i[None, :]
    first = 0
    last = blocks
    if not REVERSE:  # the other half of the matrix is zero
        if TRANSPOSE:
            first = mine
        else:
            last = mine + 1
    o = tl.zeros((R, T), tl.float32)
    for block in range(first, last):
        s = block * T + i
        x = tl.load(u + (start + s[None, :]) * H + h, mask=s[None, :] < length, other=0.0).to(tl.float32)
        lag = t - s[:, None]
        if TRANSPOSE:
            lag = -lag
        m = tl.load(taps + h * K + lag, mask=(lag >= 0) & (lag < K), other=0.0)
        if REVERSE:
            m += tl.load(reverse + h * KR - lag - 1, mask=(lag < 0) & (-lag - 1 < KR), other=0.0)
        if SKIP:
            m += tl.where(lag == 0, tl.load(skip + h), 0.0)
        o = tl.dot(nearest(x, PREC), nearest(m, PREC), o, input_precision=PREC)
    tl.store(out + (start + t) * H + h, o.to(out.dtype.element_ty), mask=t < length)


@jit
def _correlate(grad, u, partial, table, H, count, blocks, low, PREC: tl.constexpr, R: tl.constexpr, T: tl.constexpr):
    """``sum g_t u_s`` over rows and over tiles ``t0 - s0 = distance``, one (T, T) tile."""
    h = tl.program_id(0).to(tl.int64)
    distance = tl.program_id(1) + low
    i = tl.arange(0, T)[None, :]
    c = tl.zeros((T, T), tl.float32)
    for row in range(0, count, R):
        start, length = _rows_of(table, count, row, R)
        for block in range(tl.maximum(distance, 0), tl.minimum(blocks, blocks + distance)):
            t = block * T + i
            s = t - distance * T
            g = tl.load(grad + (start + t) * H + h, mask=t < length, other=0.0).to(tl.float32)
            x = tl.load(u + (start + s) * H + h, mask=s < length, other=0.0).to(tl.float32)
            c = tl.dot(tl.trans(nearest(g, PREC)), nearest(x, PREC), c, input_precision=PREC)
    to = partial + (tl.program_id(1).to(tl.int64) * H + h) * (T * T)
    tl.store(to + tl.arange(0, T)[:, None] * T + i, c)


@jit
def _diagonals(partial, out, H, K, low, REVERSE: tl.constexpr, T: tl.constexpr):
    """Taps ``block T + a``: lag l after the start of a tile's distance lies at (j + l, j), or in the tile after."""
    h = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    a = tl.arange(0, T)
    j = tl.arange(0, T)[None, :]
    l = a[:, None]
    tile = block - low
    if REVERSE:  # tap q is lag -(q + 1)
        l = T - 1 - l
        tile = -(block + 1) - low
    i = j + l
    inner = i < T
    at = partial + (tl.where(inner, tile, tile + 1).to(tl.int64) * H + h) * (T * T)
    w = tl.sum(tl.load(at + tl.where(inner, i, i - T) * T + j), axis=1)
    tap = block * T + a
    tl.store(out + h * K + tap, w, mask=tap < K)


def _geometry(u: Tensor, lengths: Tensor | None, cu: Tensor | None) -> tuple[Rows, int]:
    """One row a sequence, and the tiles of the longest that there can be."""
    segment = triton.cdiv(u.shape[1] + 1, CHUNK) * CHUNK
    return rows(u, lengths, cu, segment, reverse=False), triton.cdiv(u.shape[1], CONFIG.blocks["T"])


def _product(u, kernel, reverse_kernel, D, out, row: Rows, blocks: int, transpose: bool) -> None:
    launch(
        _conv,
        lambda c: (u.shape[-1], blocks, triton.cdiv(row.count, c.blocks["R"])),
        (
            u,
            kernel,
            reverse_kernel,
            D,
            out,
            row.table,
            u.shape[-1],
            kernel.shape[-1],
            0 if reverse_kernel is None else reverse_kernel.shape[-1],
            row.count,
            blocks,
        ),
        {
            "REVERSE": reverse_kernel is not None,
            "SKIP": D is not None,
            "TRANSPOSE": transpose,
            "PREC": precision(u),
        },
        [CONFIG, MANY] if row.count > CONFIG.blocks["R"] else [CONFIG],
    )


def _fits(u: Tensor, cu_seqlens: Tensor | None) -> bool:
    tiles = 2 * triton.cdiv(u.shape[1], CONFIG.blocks["T"]) + 1
    return supports(u) and u.numel() > 0 and count_sequences(u, cu_seqlens) <= MOST_ROWS and tiles <= MOST_PROGRAMS


def causal_conv(u, kernel, reverse_kernel, D, lengths, cu_seqlens) -> Tensor:
    """``torch.ops.lyra.causal_conv``."""
    if not _fits(u, cu_seqlens):
        return formulas()["causal_conv"](u, kernel, reverse_kernel, D, lengths, cu_seqlens)
    out = torch.zeros_like(u) if lengths is not None else torch.empty_like(u)
    row, blocks = _geometry(u, lengths, cu_seqlens)
    _product(u, kernel, reverse_kernel, D, out, row, blocks, transpose=False)
    return out


def causal_conv_backward(grad, u, kernel, reverse_kernel, D, lengths, cu_seqlens) -> tuple[Tensor, ...]:
    """``torch.ops.lyra.causal_conv_backward``."""
    if not _fits(u, cu_seqlens):
        return formulas()["causal_conv_backward"](grad, u, kernel, reverse_kernel, D, lengths, cu_seqlens)
    du = torch.zeros_like(u) if lengths is not None else torch.empty_like(u)
    row, blocks = _geometry(u, lengths, cu_seqlens)
    _product(grad, kernel, reverse_kernel, D, du, row, blocks, transpose=True)
    channels, size = u.shape[-1], CONFIG.blocks["T"]
    low = 0 if reverse_kernel is None else -blocks
    partial = u.new_empty(blocks + 1 - low, channels, size, size, dtype=torch.float32)
    launch(
        _correlate,
        lambda c: (channels, blocks + 1 - low),
        (grad, u, partial, row.table, channels, row.count, blocks, low),
        {"PREC": precision(u)},
        [CONFIG],
    )

    def taps(shape: torch.Size, reverse: bool) -> Tensor:
        out = torch.zeros(shape, dtype=torch.float32, device=u.device)  # taps that no token reaches: 0
        launch(
            _diagonals,
            lambda c: (channels, min(blocks, triton.cdiv(shape[-1], size))),
            (partial, out, channels, shape[-1], low),
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
