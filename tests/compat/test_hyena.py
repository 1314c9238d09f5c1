"""Hyena's convolution against its formula in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from lyra_kernels.compat.hyena import fftconv, fftconv_ref

from ..ops.cases import assert_close
from .test_flashfftconv import compare


def formula(u, k, D=None, k_rev=None, mask=None, gelu=True):
    points = 2 * u.shape[-1]
    spectrum = torch.fft.rfft(k, n=points)
    if k_rev is not None:
        spectrum = spectrum + torch.fft.rfft(k_rev, n=points).conj()
    y = torch.fft.irfft(torch.fft.rfft(u, n=points) * spectrum, n=points)[..., : u.shape[-1]]
    y = y if D is None else y + D[:, None] * u
    y = F.gelu(y) if gelu else y
    return y if mask is None else y * mask[..., None]


@pytest.mark.parametrize(
    ("length", "taps", "reverse_taps"), [(31, 31, 31), (31, 9, 40), (31, 62, 62), (31, 50, 3), (1, 1, 1), (1, 2, 2)]
)
def test_options(length, taps, reverse_taps):
    u, k, D, k_rev = torch.randn(2, 3, length), torch.randn(3, taps), torch.randn(3), torch.randn(3, reverse_taps)
    for mask, gelu, skip, reverse in itertools.product(
        (None, torch.rand(2, 3)), (True, False), (D, None), (k_rev, None)
    ):
        given = {"D": skip, "k_rev": reverse}
        names = [name for name, value in given.items() if value is not None]

        def function(u, k, *rest, mask=mask, gelu=gelu, names=names):
            named = dict(zip(names, rest, strict=True))
            return fftconv(u, k, named.pop("D", None), mask, gelu, **named)

        def wanted(u, k, *rest, mask=mask, gelu=gelu, names=names):
            mask = mask if mask is None else mask.double()
            return formula(u, k, mask=mask, gelu=gelu, **dict(zip(names, rest, strict=True)))

        compare(function, wanted, (u, k, *(given[name] for name in names)), 4e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    u, k, D = torch.randn(2, 3, 40).to(dtype), torch.randn(3, 40, dtype=wide), torch.randn(3, dtype=wide)
    compare(fftconv, formula, (u, k, D), 1e-12 if dtype == torch.float64 else 5e-3)


def test_their_other_names_and_options():
    u, k, D, mask = torch.randn(2, 3, 20), torch.randn(3, 20), torch.randn(3), torch.rand(2, 3)
    assert torch.equal(fftconv_ref(u, k, D, mask, False, k), fftconv(u, k, D, mask, gelu=False, k_rev=k))
    half = fftconv(u, k, D, force_fp16_output=True)
    assert half.dtype == torch.float16
    assert_close(half, fftconv(u, k, D), 1e-3)


def test_refusals():
    u, k = torch.randn(2, 3, 20), torch.randn(3, 20)
    with pytest.raises(ValueError, match=r"k must have shape .*u is \(B, L, H\): give u.transpose\(1, 2\)"):
        fftconv(u.transpose(1, 2), k, None)
    with pytest.raises(ValueError, match=r"k must have shape \(H, taps\) = \(3, any\) to match u, not \(2, 20\)"):
        fftconv(u, k, None, k_rev=k[:2])


@pytest.mark.parametrize("shape", [(3, 5), (1, 5, 1), (5,)])
def test_a_mask_that_would_be_broadcast(shape):
    with pytest.raises(ValueError, match=r"dropout_mask must have shape \(B, H\) = \(1, 5\), not "):
        fftconv(torch.zeros(1, 5, 9), torch.zeros(5, 9), None, torch.ones(shape))
