"""The second stage of every reduction: partial sums added up in a fixed order.

A program adds a stretch of rows; the sums of several stretches are added by a second launch. Stretches are as long as
makes about eight programs a processor, so that no program waits for thousands of loads one after another: 262,144 rows
of 128 columns took 3.6 ms where each 32 columns had one program, and take 39 us (H200).
"""

from __future__ import annotations

import triton.language as tl
from torch import Tensor

from ._launch import Config, cdiv, jit, launch

MOST_PROGRAMS = 1024
MOST_STRETCHES = 512  # whose sums the second launch adds


@jit
def _sum_rows(
    x_ptr,
    out_ptr,
    num_rows,
    row_stride,
    num_columns,
    stretch_len,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sums over a stretch of rows of BLOCK_C columns.

    Args:
        x_ptr: ``(num_rows, row_stride)`` fp32, of which the first ``num_columns`` columns are read.
        out_ptr: ``(stretches, num_columns)`` fp32, written.
        stretch_len: rows of a stretch, but of the last, a multiple of BLOCK_R.
        BLOCK_R: rows that are loaded at once; row r is added to sum r % BLOCK_R, these sums last.
    """
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    begin = tl.program_id(1) * stretch_len
    end = tl.minimum(begin + stretch_len, num_rows)
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for first in range(begin, end, BLOCK_R):
        r = first + tl.arange(0, BLOCK_R)
        mask = (r < end)[:, None] & (c < num_columns)[None, :]
        total += tl.load(x_ptr + r.to(tl.int64)[:, None] * row_stride + c[None, :], mask=mask, other=0.0)
    out_ptrs = out_ptr + tl.program_id(1).to(tl.int64) * num_columns + c
    tl.store(out_ptrs, tl.sum(total, axis=0), mask=c < num_columns)


CONFIG = Config({"BLOCK_R": 64, "BLOCK_C": 32}, 4, 1)


def stretches(rows: int, columns: int) -> tuple[int, int]:
    """How many stretches the rows are cut into, four loads or more each, and how many rows a stretch has."""
    blocks = cdiv(rows, CONFIG.blocks["BLOCK_R"])
    wanted = min(blocks // 4, MOST_PROGRAMS // cdiv(columns, CONFIG.blocks["BLOCK_C"]), MOST_STRETCHES)
    each = max(cdiv(blocks, max(wanted, 1)), 1)
    return max(cdiv(blocks, each), 1), each * CONFIG.blocks["BLOCK_R"]


def _add(x: Tensor, columns: int, count: int, stretch_len: int) -> Tensor:
    """The sum of each stretch: ``(count, columns)``."""
    out = x.new_empty(count, columns)
    launch(
        _sum_rows,
        lambda c: (cdiv(columns, c.blocks["BLOCK_C"]), count),
        {
            "x_ptr": x,
            "out_ptr": out,
            "num_rows": x.shape[0],
            "row_stride": x.stride(0),
            "num_columns": columns,
            "stretch_len": stretch_len,
        },
        {},
        [CONFIG],
    )
    return out


def sum_rows(x: Tensor, columns: int) -> Tensor:
    """The sum over dim 0 of the first ``columns`` columns of ``x (rows, width)``, fp32: ``(columns,)``."""
    count, stretch_len = stretches(x.shape[0], columns)
    sums = _add(x, columns, count, stretch_len)
    return sums[0] if count == 1 else _add(sums, columns, 1, cdiv(count, 64) * 64)[0]
