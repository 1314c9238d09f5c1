"""S4D's CUDA kernels on the CPU: values and gradients against float64, races, bounds."""

from __future__ import annotations

import math

import pytest
import torch

from emulation.build import emulation
from lyra_kernels import reference

from .support import FLAVOUR, STORED, compute_dtype, doubled, implementations, in_every_order, padding, relative_error


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


def test_views_into_the_middle_of_a_tensor():
    arguments = spectrum(2, 4)
    shifted = [torch.cat([torch.zeros(1), a.flatten()])[1:].view(a.shape) for a in arguments]
    assert all(s.data_ptr() % 8 for s in shifted)
    op = implementations()["s4d_kernel"]
    assert torch.equal(op(*shifted, 70), op(*arguments, 70))


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


NAMES = ("u", "log_dt", "log_A_real", "A_imag", "C", "D", "initial_state")


def check_scan(
    batch, length, channels, modes, *, directions=1, dtype=torch.float32, lengths=None, cu_seqlens=None,
    state=False, skip=True
):  # fmt: skip
    """s4d_scan and its backward against float64, with NaN in the padding."""
    compute = compute_dtype(dtype)
    u = torch.randn(batch, length, channels).to(dtype)
    parameters = spectrum(channels, modes, directions, compute)
    sequences = batch if cu_seqlens is None else len(cu_seqlens) - 1
    D = torch.randn(channels, dtype=compute) if skip else None
    initial = torch.randn(sequences, channels, modes, 2, dtype=compute) if state else None
    hide = padding(lengths, length) if lengths is not None else torch.zeros(batch, length, dtype=torch.bool)
    arguments = [u, *parameters, D, lengths, cu_seqlens, initial]
    exact = doubled(arguments)
    wrt = [i for i in (*range(6), 8) if exact[i] is not None]
    for i in wrt:
        exact[i].requires_grad_()
    wanted, wanted_final = reference.s4d_scan(*exact)
    grad = torch.randn(wanted.shape).to(dtype)
    grad_final = torch.randn(wanted_final.shape, dtype=compute) if state else None
    outputs, cotangents = [wanted], [grad.double()]
    if state:
        outputs, cotangents = [wanted, wanted_final], [grad.double(), grad_final.double()]
    gradients = torch.autograd.grad(outputs, [exact[i] for i in wrt], cotangents, allow_unused=True)
    expected = {i: torch.zeros_like(exact[i]) if g is None else g for i, g in zip(wrt, gradients, strict=True)}

    given = [torch.where(hide.unsqueeze(-1), torch.nan, u), *arguments[1:]]
    grad = torch.where(hide.unsqueeze(-1), torch.nan, grad)
    ops = implementations()
    y, final, checkpoints = in_every_order(lambda: ops["s4d_scan"](*given, True))
    unsaved = ops["s4d_scan"](*given, False)
    assert torch.equal(unsaved[0], y) and unsaved[2].shape == (0,)
    stored, summed = max(STORED[dtype], 2e-6), 5e-6
    stored, summed = (1e-12, 1e-12) if dtype == torch.float64 else (stored, summed)
    assert y.dtype == dtype and not y[hide].any()
    assert relative_error(y, wanted.detach()) <= stored
    assert relative_error(final, wanted_final.detach()) <= summed
    results = in_every_order(lambda: ops["s4d_scan_backward"](grad, grad_final, *given, checkpoints))
    assert not results[0][hide].any()
    for name, i, result in zip(NAMES, (*range(6), 8), results, strict=True):
        if i not in expected:
            assert result.shape == (0,), name
            continue
        assert result.dtype == arguments[i].dtype, name
        assert relative_error(result, expected[i]) <= (stored if i == 0 else summed), name


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(
    ("batch", "length", "channels", "modes"),
    [(2, 70, 5, 4), (1, 1, 1, 1), (1, 700, 3, 32), (2, 130, 16, 40), (1, 64, 40, 2), (1, 1100, 8, 3)],
)
def test_s4d_scan(batch, length, channels, modes, directions):
    check_scan(batch, length, channels, modes, directions=directions)


@pytest.mark.parametrize("length", [5, 64, 513, 1024])
def test_s4d_scan_carries_a_state(length):
    check_scan(2, length, 3, 4, state=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [3, 16])
def test_s4d_scan_storage(dtype, channels):
    check_scan(1, 530, channels, 4, dtype=dtype, directions=2)
    check_scan(1, 90, channels, 4, dtype=dtype)


@pytest.mark.parametrize("directions", [1, 2])
def test_s4d_scan_of_several_segments_in_16_bits(directions):
    check_scan(1, 2050, 5, 2, dtype=torch.bfloat16, directions=directions)


@pytest.fixture
def little_shared_memory():
    """Plays cards with less of it than those from sm_80 on, whose segments are shorter."""
    yield emulation(FLAVOUR).set_shared_limit
    emulation(FLAVOUR).set_shared_limit(99 * 1024)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_s4d_scan_on_a_card_with_less_shared_memory(dtype, little_shared_memory):
    little_shared_memory(64 * 1024)  # sm_75
    check_scan(1, 1030, 9, 3, dtype=dtype, directions=2)
    check_scan(1, 1030, 9, 3, dtype=dtype, state=True)


def test_s4d_scan_of_many_segments(little_shared_memory):
    little_shared_memory(24 * 1024)  # 9 segments forward, 18 backward
    check_scan(1, 1100, 3, 3, directions=2)
    check_scan(1, 1100, 3, 3, state=True)
    check_scan(1, 1100, 3, 3, cu_seqlens=torch.tensor([0, 70, 70, 1100]), state=True)


@pytest.mark.parametrize("length", [90, 1090])
@pytest.mark.parametrize("directions", [1, 2])
def test_s4d_scan_padded(directions, length):
    lengths = torch.tensor([length, 0, 65, min(length, 520)])
    check_scan(4, length, 4, 3, directions=directions, lengths=lengths, state=directions == 1)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("cuts", [[0, 1, 1, 66, 130, 143], [0, 600, 600, 601, 1200, 1712]])
def test_s4d_scan_packed(directions, cuts):
    cu_seqlens = torch.tensor(cuts)
    check_scan(1, cuts[-1], 4, 3, directions=directions, cu_seqlens=cu_seqlens, state=directions == 1)


def test_s4d_scan_without_skip():
    check_scan(1, 70, 4, 3, skip=False)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.full)])
def test_s4d_scan_with_modes_too_many_for_shared_memory(dtype):
    check_scan(1, 70, 3, 700, dtype=dtype)
    check_scan(1, 520, 1, 700, dtype=dtype, directions=2)


@pytest.mark.parametrize(("batch", "length"), [(0, 5), (2, 0)])
def test_s4d_scan_empty(batch, length):
    check_scan(batch, length, 4, 3, state=True)
    check_scan(batch, length, 4, 3, directions=2)
