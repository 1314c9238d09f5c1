"""S4D's CUDA kernels on the CPU: values and gradients against float64, races, bounds."""

from __future__ import annotations

import math

import pytest
import torch

from lyra_kernels import reference

from .support import doubled, implementations, in_every_order, relative_error


def spectrum(channels, modes, directions=None, dtype=torch.float32):
    """log_dt, log_A_real, A_imag and C as a model starts with them, a little disturbed."""
    generator = torch.Generator().manual_seed(5)
    log_dt = torch.rand(channels, generator=generator, dtype=torch.float64) * math.log(100) + math.log(0.001)
    log_A_real = math.log(0.5) + 0.3 * torch.randn(channels, modes, generator=generator, dtype=torch.float64)
    A_imag = math.pi * torch.arange(modes, dtype=torch.float64).repeat(channels, 1)
    shape = (channels, modes, 2) if directions is None else (directions, channels, modes, 2)
    C = torch.randn(shape, generator=generator, dtype=torch.float64)
    return [x.to(dtype).contiguous() for x in (log_dt, log_A_real, A_imag, C)]


LIMIT = {torch.float32: 2e-6, torch.float64: 1e-12}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("channels", "modes", "length"), [(3, 32, 128), (2, 5, 4097), (1, 40, 2050), (5, 1, 1), (2, 16, 63)]
)
def test_s4d_kernel(channels, modes, length, dtype):
    arguments = spectrum(channels, modes, dtype=dtype)
    exact = [a.requires_grad_() for a in doubled(arguments)]
    wanted = reference.s4d_kernel(*exact, length)
    grad = torch.randn(wanted.shape, dtype=dtype)
    gradients = torch.autograd.grad(wanted, exact, grad.double())
    ops = implementations()
    (found,) = in_every_order(lambda: ops["s4d_kernel"](*arguments, length))
    assert found.dtype == dtype
    assert relative_error(found, wanted.detach()) <= LIMIT[dtype]
    results = in_every_order(lambda: ops["s4d_kernel_backward"](grad, *arguments))
    for name, result, expected in zip(("log_dt", "log_A_real", "A_imag", "C"), results, gradients, strict=True):
        assert result.dtype == dtype
        assert relative_error(result, expected) <= 5 * LIMIT[dtype], name


def test_s4d_kernel_of_length_0():
    arguments = spectrum(2, 4)
    assert implementations()["s4d_kernel"](*arguments, 0).shape == (2, 0)
    gradients = implementations()["s4d_kernel_backward"](torch.zeros(2, 0), *arguments)
    assert all(not g.any() and g.shape == a.shape for g, a in zip(gradients, arguments, strict=True))


def test_s4d_kernel_at_a_long_distance():
    """The phase of tap 200,000 is exact: the float32 result is that of the float64 formula."""
    arguments = spectrum(1, 8)
    arguments[1] -= 9  # a slow decay
    length = 200_000
    wanted = reference.s4d_kernel(*doubled(arguments), length)
    found = implementations()["s4d_kernel"](*arguments, length)
    assert relative_error(found[:, -4096:], wanted[:, -4096:]) <= 3e-6


@pytest.mark.parametrize("disturbance", [0.0, 1e-7, 1e-3])
def test_small_steps(disturbance):
    """(a - 1) / A keeps its digits where dt A is almost 0."""
    log_dt, log_A_real, A_imag, C = spectrum(2, 3)
    arguments = [log_dt - 9, log_A_real - 20, disturbance * A_imag, C]
    wanted = reference.s4d_kernel(*doubled(arguments), 9)
    assert relative_error(implementations()["s4d_kernel"](*arguments, 9), wanted) <= 1e-6
