"""The native generation of S4D kernels against the float64 reference."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lyra_kernels import reference

from .block_checks import SUMMED, error, isa, on_some_isa, poisoned_outputs  # noqa: F401
from .s4d_checks import parameters

DTYPES = [torch.float32, torch.float64]
ENDS = [(1e-4, 1.1e-4), (1e-3, 1e-1), (0.3, 1.0)]  # of the step dt


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def kernel_arguments(dtype, channels, modes, **options):
    values = parameters(dtype, channels, modes, **options)
    return [values["log_dt"], values["log_A_real"], values["A_imag"], values["C"][0].contiguous()]


def check_kernel(arguments, length, looser=1.0):
    dtype = arguments[0].dtype
    exact = [x.double().requires_grad_() for x in arguments]
    expected = reference.s4d_kernel(*exact, length)
    grad = torch.randn(expected.shape, dtype=dtype)
    gradients = torch.autograd.grad(expected, exact, grad.double())
    with poisoned_outputs():
        actual = torch.ops.lyra.s4d_kernel(*arguments, length)
        actual_gradients = torch.ops.lyra.s4d_kernel_backward(grad, *arguments)
    limit = looser * SUMMED[dtype]
    assert actual.dtype == dtype and actual.shape == expected.shape
    assert error(actual, expected.detach()) <= limit
    for name, got, want in zip(("log_dt", "log_A_real", "A_imag", "C"), actual_gradients, gradients, strict=True):
        assert got.dtype == dtype and got.shape == want.shape
        assert error(got, want) <= limit, f"gradient of {name}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [0, 1, 2, 3, 17, 63, 64, 65, 255, 256, 257, 1000])
def test_lengths_around_the_blocks(isa, dtype, length):  # noqa: F811
    # In float64 the phases of the reference itself have lost a digit or two at the far taps.
    check_kernel(kernel_arguments(dtype, 3, 5), length, looser=1.0 if dtype == torch.float32 else 10.0)


@pytest.mark.parametrize("length", [4095, 4096, 4097, 65537])
def test_lengths_around_ranges_and_segments(length):
    check_kernel(kernel_arguments(torch.float32, 2, 3, log_A_real=-6.0), length)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    channels=st.integers(0, 20),
    modes=st.integers(0, 40),
    length=st.integers(0, 300),
    isa_index=st.integers(0, 7),
)
def test_odd_shapes(channels, modes, length, isa_index):
    with on_some_isa(isa_index):
        check_kernel(kernel_arguments(torch.float32, channels, modes), length)


@pytest.mark.parametrize("log_A_real", [-6.0, -0.7, 3.0])
@pytest.mark.parametrize("dt", ENDS)
def test_slow_and_fast_modes(isa, dt, log_A_real):  # noqa: F811
    check_kernel(kernel_arguments(torch.float32, 8, 32, log_A_real=log_A_real, dt=dt), 2000, looser=2.0)


def exact_kernel(arguments, length, taps):
    """K at some taps, each power from its own reduced phase: dt A_imag l reaches 1e6 radians."""
    log_dt, log_A_real, A_imag, C = (x.double() for x in arguments)
    dt = log_dt.exp().unsqueeze(-1)
    A = torch.complex(-log_A_real.exp(), A_imag)
    c = 2 * torch.complex(C[..., 0], C[..., 1]) * torch.expm1(dt * A) / A
    return (c.unsqueeze(-1) * torch.exp((dt * A).unsqueeze(-1) * taps)).sum(-2).real


@pytest.mark.parametrize("dtype, limit", [(torch.float32, 3e-7), (torch.float64, 1e-9)])
def test_a_million_taps(dtype, limit):
    """A phase that has wound up to 1e6 radians costs no digits, where powers in float32 would lose all of them."""
    length = 1 << 20
    arguments = kernel_arguments(dtype, 2, 32, log_A_real=-9.0, dt=(1e-3, 1e-2))
    actual = torch.ops.lyra.s4d_kernel(*arguments, length)
    for begin in (0, 65_530, length // 2, length - 1000):
        taps = torch.arange(begin, begin + 1000)
        assert error(actual[:, taps], exact_kernel(arguments, length, taps)) < limit


def test_gradients_of_a_million_taps():
    arguments = kernel_arguments(torch.float32, 2, 4, log_A_real=-9.0, dt=(1e-3, 1e-2))
    grad = torch.randn(2, 1 << 20)
    single = torch.ops.lyra.s4d_kernel_backward(grad, *arguments)
    double = torch.ops.lyra.s4d_kernel_backward(grad.double(), *(x.double() for x in arguments))
    for got, want in zip(single, double, strict=True):
        assert error(got, want) < 3e-6


def test_decayed_taps_are_zero_and_denormals_stay_in_the_kernel():
    arguments = kernel_arguments(torch.float32, 4, 3, log_A_real=math.log(50.0), dt=(1e-1, 2e-1))
    assert (torch.ops.lyra.s4d_kernel(*arguments, 10_000)[:, 100:] == 0).all()
    tiny = torch.full((2,), 1e-40)
    assert (tiny * 0.5 > 0).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("which", range(4))
def test_not_finite_parameters_show_in_their_channel_only(bad, which):
    arguments = kernel_arguments(torch.float32, 5, 4)
    arguments[which][2] = bad
    kernel = torch.ops.lyra.s4d_kernel(*arguments, 5000)
    assert kernel[[0, 1, 3, 4]].isfinite().all()
    if not (which == 1 and bad == torch.inf):  # an infinite decay is a kernel of zeros, which is right
        assert not kernel[2].isfinite().any()
    gradients = torch.ops.lyra.s4d_kernel_backward(torch.randn(5, 5000), *arguments)
    assert all(g[[0, 1, 3, 4]].isfinite().all() for g in gradients)


def test_same_bits_for_any_number_of_threads():
    arguments = kernel_arguments(torch.float32, 3, 4)
    grad = torch.randn(3, 100_000)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            kernel = torch.ops.lyra.s4d_kernel(*arguments, 100_000)
            results.append([kernel, *torch.ops.lyra.s4d_kernel_backward(grad, *arguments)])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_wrong_call_of_the_op_raises():
    log_dt, log_A_real, A_imag, C = kernel_arguments(torch.float32, 4, 3)
    for arguments, message in [
        ((log_dt, log_A_real, A_imag, C, -1), "length"),
        ((log_dt, log_A_real, A_imag, C[:, :2].contiguous(), 5), "C has size 2"),
        ((log_dt.half(), log_A_real, A_imag, C, 5), "float32 or float64"),
        ((log_dt, log_A_real.double(), A_imag, C, 5), "log_A_real has the wrong dtype"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            torch.ops.lyra.s4d_kernel(*arguments)
    with pytest.raises(RuntimeError, match="grad"):
        torch.ops.lyra.s4d_kernel_backward(torch.zeros(3, 7), log_dt, log_A_real, A_imag, C)
