"""rms_norm against float64."""

from __future__ import annotations

import pytest
import torch

from .support import check


@pytest.mark.parametrize(
    ("shape", "weight"), [((3, 41, 5), True), ((130, 64), True), ((2, 300), False), ((1, 3), True), ((0, 4), True)]
)
def test_shapes(shape, weight, device):
    check("rms_norm", [torch.randn(shape), torch.randn(shape[-1]) if weight else None, 1e-8], range(2), device)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_storage(dtype, device):
    check("rms_norm", [torch.randn(5, 33).to(dtype), torch.randn(33), 1e-5], range(2), device)


@pytest.mark.full
@pytest.mark.parametrize("channels", [16, 100, 512, 1024, 5000, 9000])
def test_every_configuration(channels, device):
    check("rms_norm", [torch.randn(9, channels), torch.randn(channels), 1e-8], range(2), device)


def test_float64_takes_the_reference(device):
    arguments = [torch.randn(3, 4).double(), torch.randn(4).double(), 1e-8]
    check("rms_norm", arguments, range(2), device, tolerance=1e-14)
