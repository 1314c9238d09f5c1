"""The second stage of every reduction: partial sums added up in a fixed order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import Config, jit, launch


@jit
def _sum_rows(x_ptr, out_ptr, num_rows, row_stride, num_columns, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """Sums over rows of BLOCK_C columns.

    Args:
        x_ptr: ``(num_rows, row_stride)`` fp32, of which the first ``num_columns`` columns are read.
        out_ptr: ``(num_columns,)`` fp32, written.
        BLOCK_R: rows that are loaded at once; row r is added to sum r % BLOCK_R, these sums last.
    """
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for first in range(0, num_rows, BLOCK_R):
        r = first + tl.arange(0, BLOCK_R)
        mask = (r < num_rows)[:, None] & (c < num_columns)[None, :]
        total += tl.load(x_ptr + r.to(tl.int64)[:, None] * row_stride + c[None, :], mask=mask, other=0.0)
    tl.store(out_ptr + c, tl.sum(total, axis=0), mask=c < num_columns)


CONFIGS = [Config({"BLOCK_R": 16, "BLOCK_C": 32}, 4, 1)]


def sum_rows(x: Tensor, columns: int) -> Tensor:
    """The sum over dim 0 of the first ``columns`` columns of ``x (rows, width)``, fp32: ``(columns,)``."""
    out = x.new_empty(columns, dtype=torch.float32)
    launch(
        _sum_rows,
        lambda c: (triton.cdiv(columns, c.blocks["BLOCK_C"]),),
        {"x_ptr": x, "out_ptr": out, "num_rows": x.shape[0], "row_stride": x.stride(0), "num_columns": columns},
        {},
        CONFIGS,
    )
    return out
