"""The PGC block against float64: layouts, widths, sizes on chip and beyond, absent parameters, dtypes."""

from __future__ import annotations

import pytest
import torch

from lyra_kernels.backends.triton import IMPLEMENTATIONS

from .support import check, padding

WRT = range(9)


def _arguments(batch, length, inputs, inner, outputs, width, dtype=torch.float32, present=True, residual=False):
    def randn(*shape):
        return torch.randn(*shape)

    return [
        randn(batch, length, inputs).to(dtype),
        randn(2 * inner, inputs) / inputs**0.5,
        randn(2 * inner) if present else None,
        randn(2 * inner) if present else None,
        randn(inner, 1, width),
        randn(inner) if present else None,
        randn(outputs, inner) / inner**0.5,
        randn(outputs) if present else None,
        randn(outputs) if present else None,
        randn(batch, length, outputs).to(dtype) if residual else None,
    ]


@pytest.mark.parametrize(
    ("batch", "length", "inputs", "inner", "outputs", "width", "causal"),
    [
        (2, 70, 5, 7, 5, 3, False),
        (1, 1, 16, 16, 16, 3, False),
        (1, 40, 20, 100, 20, 4, True),
        (1, 33, 7, 5, 9, 5, False),
        (1, 9, 130, 8, 130, 3, False),
        (1, 9, 80, 144, 16, 3, False),
    ],
)
def test_dense(batch, length, inputs, inner, outputs, width, causal, device):
    check("pgc", [*_arguments(batch, length, inputs, inner, outputs, width), None, None, 1e-8, causal], WRT, device)


def test_absent_parameters(device):
    check("pgc", [*_arguments(2, 19, 6, 8, 6, 3, present=False), None, None, 1e-6, False], WRT, device)


@pytest.mark.parametrize("causal", [False, True])
def test_padded(causal, device):
    lengths = torch.tensor([21, 0, 7])
    arguments = [*_arguments(3, 21, 6, 8, 6, 3, residual=True), lengths, None, 1e-8, causal]
    check("pgc", arguments, WRT, device, hide=padding(lengths, 21))


def test_padded_beyond_the_chip(device):
    lengths = torch.tensor([5, 0])
    arguments = [*_arguments(2, 5, 130, 8, 6, 3, residual=True), lengths, None, 1e-8, False]
    check("pgc", arguments, WRT, device, hide=padding(lengths, 5))


@pytest.mark.parametrize(("present", "dtype"), [(False, torch.bfloat16), (True, torch.bfloat16), (True, torch.float16)])
def test_residual_beyond_the_chip(present, dtype, device):
    arguments = _arguments(1, 9, 16, 144, 16, 3, dtype, present, residual=True)
    check("pgc", [*arguments, None, None, 1e-8, False], WRT, device)


def test_packed(device):
    cu_seqlens = torch.tensor([0, 1, 1, 18, 20, 43])
    check("pgc", [*_arguments(1, 43, 6, 8, 6, 5, residual=True), None, cu_seqlens, 1e-8, False], WRT, device)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_storage(dtype, device):
    check("pgc", [*_arguments(1, 19, 20, 24, 20, 3, dtype), None, None, 1e-8, False], WRT, device)


@pytest.mark.parametrize(("batch", "length"), [(0, 5), (2, 0)])
def test_empty(batch, length, device):
    check("pgc", [*_arguments(batch, length, 4, 4, 4, 3), None, None, 1e-8, False], WRT, device)


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_causal_widths_with_padding(width, device):
    lengths = torch.tensor([19, 3])
    arguments = [*_arguments(2, 19, 6, 8, 6, width), lengths, None, 1e-8, True]
    check("pgc", arguments, WRT, device, hide=padding(lengths, 19))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_four_warps(dtype, device):
    """The tile of 64 channels, over more than one tile."""
    check("pgc", [*_arguments(1, 66, 8, 64, 64, 3, dtype), None, None, 1e-8, False], WRT, device)


@pytest.mark.parametrize("present", [False, True])
@pytest.mark.parametrize(("width", "causal"), [(3, False), (2, True), (1, False)])
def test_pairs_over_tiles(present, width, causal, device):
    """bfloat16 in whole blocks of channels: more tiles than programs, the last one short."""
    arguments = _arguments(2, 140, 16, 32, 16, width, torch.bfloat16, present, residual=present)
    check("pgc", [*arguments, None, None, 1e-8, causal], WRT, device)


def test_pairs_padded(device):
    lengths = torch.tensor([0, 70, 9])
    arguments = [*_arguments(3, 70, 16, 16, 32, 3, torch.bfloat16, residual=True), lengths, None, 1e-8, False]
    check("pgc", arguments, WRT, device, hide=padding(lengths, 70))


@pytest.mark.parametrize("causal", [False, True])
def test_pairs_packed(causal, device):
    cu_seqlens = torch.tensor([0, 1, 1, 62, 63, 130])
    arguments = _arguments(1, 130, 16, 16, 16, 3, torch.bfloat16, residual=True)
    check("pgc", [*arguments, None, cu_seqlens, 1e-8, causal], WRT, device)


def test_gradient_that_is_not_contiguous(device):
    arguments = [x.to(device) if isinstance(x, torch.Tensor) else x for x in _arguments(2, 9, 4, 4, 4, 3)[:9]]
    arguments += [None, None, 1e-8, False]
    grad = torch.randn(2, 4, 9, device=device).transpose(1, 2)
    backward = IMPLEMENTATIONS["pgc_backward"]
    for found, wanted in zip(backward(grad, *arguments), backward(grad.contiguous(), *arguments), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.full
@pytest.mark.parametrize(("inputs", "inner"), [(64, 16), (64, 64), (64, 128), (128, 128)])
@pytest.mark.parametrize("width", [3, 7])
def test_every_configuration(inputs, inner, width, device):
    check("pgc", [*_arguments(1, 70, inputs, inner, inputs, width), None, None, 1e-8, False], WRT, device)
