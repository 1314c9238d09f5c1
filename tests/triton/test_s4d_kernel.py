"""s4d_kernel against float64: shapes, accuracy of far taps, every gradient."""

from __future__ import annotations

import math

import pytest
import torch

import lyra_kernels.reference as reference
from lyra_kernels.backends.triton import IMPLEMENTATIONS
from lyra_kernels.reference.s4d import discretize

from .support import guarded, relative_error


def parameters(channels, modes, seed=3, directions=None, fast=0.1):
    """Parameters like S4D's initial ones, (H, M, 2) for C or (directions, H, M, 2)."""
    generator = torch.Generator().manual_seed(seed)
    log_dt = torch.rand(channels, generator=generator) * math.log(fast / 1e-3) + math.log(1e-3)
    log_A_real = math.log(0.5) + 0.3 * torch.randn(channels, modes, generator=generator)
    A_imag = math.pi * torch.arange(modes) + 0.1 * torch.randn(channels, modes, generator=generator)
    shape = (channels, modes, 2) if directions is None else (directions, channels, modes, 2)
    return log_dt, log_A_real, A_imag.contiguous(), torch.randn(shape, generator=generator)


def check(args, length, device, limit=3e-6):
    args = [a.to(device) for a in args]
    exact = [a.double().requires_grad_() for a in args]
    wanted = reference.s4d_kernel(*exact, length)
    found = IMPLEMENTATIONS["s4d_kernel"](*map(guarded, args), length)
    assert relative_error(found, wanted) <= limit
    grad = torch.randn(wanted.shape, device=device)
    wanted_gradients = torch.autograd.grad(wanted, exact, grad.double())
    gradients = IMPLEMENTATIONS["s4d_kernel_backward"](guarded(grad), *map(guarded, args))
    for a, b in zip(gradients, wanted_gradients, strict=True):
        assert a.dtype == torch.float32 and relative_error(a, b) <= limit


@pytest.mark.parametrize(
    ("channels", "modes", "length"), [(3, 32, 129), (1, 1, 1), (2, 5, 700), (2, 33, 64), (1, 40, 4097)]
)
def test_shapes(channels, modes, length, device):
    check(parameters(channels, modes), length, device)


def test_extreme_parameters(device):
    log_dt, log_A_real, A_imag, C = parameters(3, 4)
    log_dt[0], log_dt[1] = -25.0, 2.0  # a is nearly 1; many turns a step
    A_imag[2] *= 100.0
    check((log_dt, log_A_real, A_imag, C), 300, device)


def test_far_taps(device):
    """At the end of 2^20 taps, with modes that have not decayed by then, the phase is still right."""
    log_dt, log_A_real, A_imag, C = parameters(1, 16)
    log_A_real = log_A_real - 11.0
    length = 1 << 20
    exact = [p.double() for p in (log_dt, log_A_real, A_imag, C)]
    exponent, c = discretize(*exact)
    kernel = _tail(log_dt, log_A_real, A_imag, C, length, device)
    l = torch.arange(length - kernel.shape[-1], length, dtype=torch.float64)
    wanted = (c.unsqueeze(-1) * torch.exp(exponent.unsqueeze(-1) * l)).sum(-2).real
    assert relative_error(kernel.cpu(), wanted) <= 3e-6
    plain = [p.float() for p in (log_dt, log_A_real, A_imag, C)]
    eager_exponent, eager_c = discretize(*plain)
    eager = (eager_c.unsqueeze(-1) * torch.exp(eager_exponent.unsqueeze(-1) * l.float())).sum(-2).real
    assert relative_error(kernel.cpu(), wanted) < relative_error(eager, wanted) / 100


def _tail(log_dt, log_A_real, A_imag, C, length, device):
    """The last block of taps; the interpreter would take minutes for all."""
    from lyra_kernels.backends.triton import s4d_kernel as module
    from lyra_kernels.backends.triton._launch import interpreting

    args = [log_dt, log_A_real, A_imag, C]
    if not interpreting():
        return IMPLEMENTATIONS["s4d_kernel"](*(p.to(device) for p in args), length)[:, -4096:]
    from triton.runtime.interpreter import interpreter_builder as builder

    out = torch.full((1, length), float("nan"))
    with pytest.MonkeyPatch.context() as patch:  # one program, told that it is the last
        index, size, blocks = builder.set_grid_idx, builder.set_grid_dim, length // 4096
        patch.setattr(builder, "set_grid_idx", lambda x, y, z: index(blocks - 1, y, z))
        patch.setattr(builder, "set_grid_dim", lambda x, y, z: size(blocks, y, z))
        sizes = module.configurations(length, backward=False)[0].blocks
        module._s4d_kernel[(1, 1)](*args, out, 16, length, PREC="tf32x3", **sizes)
    return out[:, -4096:]


@pytest.mark.parametrize(("channels", "modes", "length"), [(2, 4, 0), (0, 4, 5)])
def test_empty(channels, modes, length, device):
    args = parameters(channels, modes)
    assert IMPLEMENTATIONS["s4d_kernel"](*args, length).shape == (channels, length)
    gradients = IMPLEMENTATIONS["s4d_kernel_backward"](torch.zeros(channels, length), *args)
    assert all(not g.any() and g.shape == a.shape for g, a in zip(gradients, args, strict=True))


def test_float64_takes_the_reference(device):
    args = [p.double() for p in parameters(2, 4)]
    assert relative_error(IMPLEMENTATIONS["s4d_kernel"](*args, 20), reference.s4d_kernel(*args, 20)) < 1e-14
