"""Sums over rows: every row once, in a fixed order, whatever lies beside and behind them."""

from __future__ import annotations

import pytest
import torch

from lyra_kernels.backends.triton import _reduce

from .support import relative_error


@pytest.mark.parametrize(
    ("rows", "columns", "width", "count"),
    [(0, 5, 5, 1), (1, 1, 1, 1), (63, 33, 40, 1), (577, 70, 70, 2), (2625, 128, 200, 9), (40001, 3, 3, 126)],
)
def test_sum_rows(rows, columns, width, count, device):
    x = torch.randn(rows + 1, width).to(device)
    x[rows:], x[:, columns:] = torch.nan, torch.nan
    x = x[:rows]
    assert _reduce.stretches(rows, columns)[0] == count
    got = _reduce.sum_rows(x, columns)
    assert got.shape == (columns,) and got.dtype == torch.float32
    expected = x[:, :columns].double().sum(0)
    assert relative_error(got, expected) < 1e-6
    assert torch.equal(got, _reduce.sum_rows(x, columns))


def test_stretches_cover_the_rows():
    for rows in (1, 64, 65, 4096, 262_144, 2_000_001):
        for columns in (1, 64, 4096, 100_000):
            count, stretch_len = _reduce.stretches(rows, columns)
            assert (count - 1) * stretch_len < rows <= count * stretch_len
            assert count <= _reduce.MOST_STRETCHES
