"""The second stage of every reduction: partial sums added up in a fixed order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import Config, jit, launch


@jit
def _sum_rows(x, out, rows, stride, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, rows, ROWS):
        r = first + tl.arange(0, ROWS)
        m = (r < rows)[:, None] & (c < columns)[None, :]
        total += tl.load(x + r.to(tl.int64)[:, None] * stride + c[None, :], mask=m, other=0.0)
    tl.store(out + c, tl.sum(total, axis=0), mask=c < columns)


CONFIGS = [Config({"ROWS": 16, "COLUMNS": 32}, 4, 1)]


def sum_rows(x: Tensor, columns: int) -> Tensor:
    """The sum over dim 0 of the first ``columns`` columns of ``x (rows, width)``, fp32: ``(columns,)``."""
    out = x.new_empty(columns, dtype=torch.float32)
    launch(
        _sum_rows,
        lambda c: (triton.cdiv(columns, c.blocks["COLUMNS"]),),
        (x, out, x.shape[0], x.stride(0), columns),
        {},
        CONFIGS,
    )
    return out
