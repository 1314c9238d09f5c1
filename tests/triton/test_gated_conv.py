"""gated_conv against float64: layouts, widths, channel counts, dtypes, absent parameters."""

from __future__ import annotations

import pytest
import torch

from lyra_kernels.backends.triton import IMPLEMENTATIONS
from lyra_kernels.backends.triton.gated_conv import configurations

from .support import check, padding

WRT = range(4)


def _arguments(batch, length, channels, width, dtype=torch.float32, bias=True, norm=True):
    generator = torch.Generator().manual_seed(7)

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    return [
        randn(batch, length, 2 * channels).to(dtype),
        randn(channels, 1, width),
        randn(channels) if bias else None,
        randn(2 * channels) if norm else None,
    ]


@pytest.mark.parametrize(
    ("batch", "length", "channels", "width", "causal"),
    [
        (2, 37, 5, 3, False),
        (1, 1, 16, 3, False),
        (3, 18, 33, 4, True),
        (1, 33, 7, 5, False),
        (2, 20, 64, 1, True),
    ],
)
def test_dense(batch, length, channels, width, causal, device):
    check("gated_conv", [*_arguments(batch, length, channels, width), None, None, 1e-8, causal], WRT, device)


@pytest.mark.full
@pytest.mark.parametrize("channels", [16, 128, 200, 300, 1000])
@pytest.mark.parametrize("width", [2, 3, 7, 15])
@pytest.mark.parametrize("causal", [False, True])
def test_every_configuration(channels, width, causal, device):
    if width % 2 == 0 and not causal:
        width += 1
    arguments = [*_arguments(2, 41, channels, width), None, None, 1e-8, causal]
    check("gated_conv", arguments, WRT, device)


@pytest.mark.parametrize(("bias", "norm"), [(False, True), (True, False), (False, False)])
def test_absent_parameters(bias, norm, device):
    arguments = [*_arguments(2, 9, 6, 3, bias=bias, norm=norm), None, None, 1e-6, False]
    check("gated_conv", arguments, WRT, device)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("causal", [False, True])
def test_padded(causal, norm, device):
    lengths = torch.tensor([21, 0, 7])
    arguments = [*_arguments(3, 21, 12, 3, norm=norm), lengths, None, 0.0, causal]
    check("gated_conv", arguments, WRT, device, hide=padding(lengths, 21))


@pytest.mark.parametrize("causal", [False, True])
def test_packed(causal, device):
    cu_seqlens = torch.tensor([0, 1, 1, 18, 20, 43])
    check("gated_conv", [*_arguments(1, 43, 12, 5), None, cu_seqlens, 1e-8, causal], WRT, device)


@pytest.mark.parametrize(
    ("length", "width", "causal"),
    [(75, 4, True), (75, 7, False), pytest.param(139, 9, False, marks=pytest.mark.full), (139, 15, True)],
)
def test_rows_cut_into_segments(length, width, causal, device):
    """Sequences shorter than the window, on both sides of a cut and across it; the last row is cut short."""
    cut = 64 if width < 8 else 128
    assert configurations(3, width, backward=True)[0].blocks["SEGMENT_LEN"] == cut
    cu_seqlens = torch.tensor([0, 2, 30, 31, cut - 3, cut - 1, cut, cut, cut + 1, cut + 5, length])
    arguments = _arguments(1, length, 3, width)
    check("gated_conv", [*arguments, None, cu_seqlens, 1e-8, causal], WRT, device)
    lengths = torch.tensor([length, cut])
    arguments = _arguments(2, length, 3, width)
    check("gated_conv", [*arguments, lengths, None, 1e-8, causal], WRT, device, hide=padding(lengths, length))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_storage(dtype, device):
    check("gated_conv", [*_arguments(2, 19, 20, 3, dtype), None, None, 1e-8, False], WRT, device)


def test_float64_takes_the_reference(device):
    arguments = [a.double() for a in _arguments(1, 9, 4, 3)]
    check("gated_conv", [*arguments, None, None, 1e-8, False], WRT, device, tolerance=1e-14)


def test_wide_windows_take_the_reference(device):
    check("gated_conv", [*_arguments(1, 40, 4, 31), None, None, 1e-8, False], WRT, device)


@pytest.mark.parametrize(("batch", "length"), [(0, 5), (2, 0)])
def test_empty(batch, length, device):
    check("gated_conv", [*_arguments(batch, length, 4, 3), None, None, 1e-8, False], WRT, device)


def test_same_bits_every_time(device):
    arguments = [a.to(device) for a in _arguments(2, 70, 8, 3)] + [None, None, 1e-8, False]
    grad = torch.randn(2, 70, 8, device=device)
    first = IMPLEMENTATIONS["gated_conv_backward"](grad, *arguments)
    second = IMPLEMENTATIONS["gated_conv_backward"](grad, *arguments)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
