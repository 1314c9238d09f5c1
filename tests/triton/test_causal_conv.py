"""causal_conv against float64: both directions, layouts, taps fewer and more than tokens, dtypes."""

from __future__ import annotations

import pytest
import torch

from .support import check, padding

WRT = range(4)


def _arguments(batch, length, channels, taps, reverse=None, skip=True, dtype=torch.float32):
    return [
        torch.randn(batch, length, channels).to(dtype),
        torch.randn(channels, taps),
        None if reverse is None else torch.randn(channels, reverse),
        torch.randn(channels) if skip else None,
    ]


@pytest.mark.parametrize(
    ("batch", "length", "channels", "taps", "reverse", "skip"),
    [(2, 37, 3, 37, None, True), (1, 1, 1, 1, None, False), (18, 20, 1, 50, None, True), (1, 70, 2, 5, 70, True),
     (2, 64, 1, 64, 33, False)],
)  # fmt: skip
def test_dense(batch, length, channels, taps, reverse, skip, device):
    check("causal_conv", [*_arguments(batch, length, channels, taps, reverse, skip), None, None], WRT, device)


@pytest.mark.parametrize("reverse", [None, 70])
def test_padded(reverse, device):
    lengths = torch.tensor([70, 0, 33])
    arguments = [*_arguments(3, 70, 2, 70, reverse), lengths, None]
    check("causal_conv", arguments, WRT, device, hide=padding(lengths, 70))


@pytest.mark.parametrize("reverse", [None, 90])
def test_packed(reverse, device):
    cu_seqlens = torch.tensor([0, 1, 1, 70, 90])
    check("causal_conv", [*_arguments(1, 90, 2, 90, reverse), None, cu_seqlens], WRT, device)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_storage(dtype, device):
    check("causal_conv", [*_arguments(2, 33, 2, 33, dtype=dtype), None, None], WRT, device)


@pytest.mark.parametrize(("batch", "length"), [(0, 5), (2, 0)])
def test_empty(batch, length, device):
    check("causal_conv", [*_arguments(batch, length, 2, 3), None, None], WRT, device)
