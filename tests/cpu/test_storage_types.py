"""Loads and stores of 16-bit activations: every value of a dtype, and every kind of rounding."""

from __future__ import annotations

import pytest
import torch

import lyra_kernels as lk
from lyra_kernels.backends import available_cpu_isas, use_cpu_isa

pytestmark = pytest.mark.skipif(not available_cpu_isas(), reason="the native library is not built")
ISAS = [isa for isa in ("baseline", "avx2", "avx512") if isa in available_cpu_isas()]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("isa", ISAS or ["none"])
def test_every_value_through_a_product(isa, dtype):
    """A convolution of one tap multiplies in float32 and rounds once: to nearest even, as torch does."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    factors = torch.tensor([1.0, -1.0, 0.5, 1.0 + 2**-9, 1.0 + 2**-12, 3.0e-6, 3.0e5, 2.0**-120, 2.0**120])
    factors = torch.cat([factors, torch.randn(64 - len(factors) - 1)])  # 63 channels: whole vectors and a tail
    u = every.unsqueeze(-1).expand(-1, 63).contiguous().unsqueeze(1)  # sequences of one token: no sums
    wanted = (u.float() * factors).to(dtype)
    with use_cpu_isa(isa):
        y = lk.causal_conv(u, factors.unsqueeze(-1))
    tiny = torch.finfo(torch.float32).tiny  # below it the kernels take numbers for zero
    exact = u.float() * factors
    counts = ((u.float().abs() >= tiny) | (u == 0)) & ((exact.abs() >= tiny) | (exact == 0) | exact.isnan())
    counts |= u.isnan()
    assert counts.float().mean() > 0.9
    assert torch.equal(y.isnan()[counts], wanted.isnan()[counts])
    found, wanted = (x.nan_to_num(0.0, torch.inf, -torch.inf) for x in (y, wanted))
    assert torch.equal(found[counts], wanted[counts])
