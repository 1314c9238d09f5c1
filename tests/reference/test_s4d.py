"""The reference S4D against things that are not it: many-digit sums, scipy's filter, its own plainest form."""

from __future__ import annotations

import itertools

import mpmath
import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor

from lyra_kernels import reference

DOUBLE = torch.float64


def space(channels: int, modes: int, directions: int | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Parameters of a state space that has been trained a little."""
    lead = () if directions is None else (directions,)
    return (
        torch.empty(channels, dtype=DOUBLE).uniform_(-6.0, -2.0),
        torch.randn(channels, modes, dtype=DOUBLE) * 0.5 - 0.7,
        torch.randn(channels, modes, dtype=DOUBLE) * 4.0,
        torch.randn(*lead, channels, modes, 2, dtype=DOUBLE),
    )


def term(log_dt: float, log_A_real: float, A_imag: float, C: complex, lag: int) -> mpmath.mpf:
    """One mode's share of one tap, to 50 digits, straight from the definition."""
    with mpmath.workdps(50):
        dt, A = mpmath.exp(mpmath.mpf(log_dt)), mpmath.mpc(-mpmath.exp(mpmath.mpf(log_A_real)), A_imag)
        a = mpmath.exp(dt * A)
        return mpmath.re(2 * mpmath.mpc(C.real, C.imag) * (a - 1) / A * a**lag)


@pytest.mark.parametrize("decay", [-6.0, 0.0])
@pytest.mark.parametrize("log_dt", [-6.9, -2.3])
def test_kernel_is_the_sum_of_its_terms(decay, log_dt):
    modes, lags = 3, [0, 1, 2, 17, 999]
    C = torch.randn(1, modes, 2, dtype=DOUBLE)
    A_imag = torch.tensor([[0.0, 1e-7, 9.42]], dtype=DOUBLE)
    parameters = (torch.tensor([log_dt], dtype=DOUBLE), torch.full((1, modes), decay, dtype=DOUBLE), A_imag, C)
    expected = []
    for lag in lags:
        terms = [term(log_dt, decay, float(A_imag[0, n]), complex(*C[0, n].tolist()), lag) for n in range(modes)]
        expected.append(float(mpmath.fsum(terms)))
    for kernel in (reference.s4d_kernel, reference.s4d_kernel_real):
        found = kernel(*parameters, 1000)[0, lags]
        torch.testing.assert_close(found, torch.tensor(expected, dtype=DOUBLE), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("length", [0, 1, 2, 63, 64, 65, 200])
def test_recurrence_is_scipys_filter(length):
    log_dt, log_A_real, A_imag, C = space(2, 3, 1)
    D = torch.randn(2, dtype=DOUBLE)
    u = torch.randn(3, length, 2, dtype=DOUBLE)
    exponent, c = reference.discretize(log_dt, log_A_real, A_imag, C[0])
    a, c = np.exp(exponent.numpy()), c.numpy()
    expected, state = np.zeros(u.shape), np.zeros((3, 2, 3), complex)
    for b, h, n in itertools.product(range(3), range(2), range(3)):
        s = scipy.signal.lfilter([1.0], [1.0, -a[h, n]], u[b, :, h].numpy().astype(complex))
        expected[b, :, h] += (c[h, n] * s).real
        state[b, h, n] = s[-1] if length else 0.0
    expected += u.numpy() * D.numpy()
    for scan in (reference.s4d_scan, reference.s4d_recurrence):
        y, final = scan(u, log_dt, log_A_real, A_imag, C, D, None, None, None)
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(torch.view_as_complex(final).numpy(), state, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("layout", ["dense", "padded", "packed"])
def test_three_ways_agree(layout, directions):
    channels, length = 3, 150
    batch = 1 if layout == "packed" else 4
    log_dt, log_A_real, A_imag, C = space(channels, 4, directions)
    D, u = torch.randn(channels, dtype=DOUBLE), torch.randn(batch, length, channels, dtype=DOUBLE)
    lengths = torch.tensor([150, 0, 1, 77]) if layout == "padded" else None
    cu_seqlens = torch.tensor([0, 0, 3, 3, 100, 150]) if layout == "packed" else None
    kernels = [reference.s4d_kernel(log_dt, log_A_real, A_imag, c, length) for c in C]
    reverse = kernels[1] if directions == 2 else None
    rows = (lengths, cu_seqlens)
    direct = reference.causal_conv(u, kernels[0], reverse, D, *rows)
    results = [
        reference.fft_conv(u, kernels[0], reverse, D, *rows),
        reference.s4d_scan(u, log_dt, log_A_real, A_imag, C, D, *rows, None)[0],
        reference.s4d_recurrence(u, log_dt, log_A_real, A_imag, C, D, *rows, None)[0],
    ]
    for y in results:
        torch.testing.assert_close(y, direct, rtol=1e-9, atol=1e-11)


def test_both_directions_are_the_published_pair_of_flipped_runs():
    log_dt, log_A_real, A_imag, C = space(3, 4, 2)
    u = torch.randn(2, 90, 3, dtype=DOUBLE)
    forward, backward = (reference.s4d_kernel(log_dt, log_A_real, A_imag, c, 90) for c in C)
    expected = reference.fft_conv(u, forward, None, None, None, None)
    right = reference.fft_conv(u.flip(1), backward, None, None, None, None).flip(1)
    expected[:, :-1] += right[:, 1:]  # token t sees those from t + 1 on
    y, _ = reference.s4d_scan(u, log_dt, log_A_real, A_imag, C, None, None, None, None)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("cuts", [(1,), (64,), (3, 64, 65, 130), (0, 0, 200)])
def test_pieces_are_the_whole(cuts):
    log_dt, log_A_real, A_imag, C = space(2, 3, 1)
    u = torch.randn(2, 200, 2, dtype=DOUBLE)
    whole, last = reference.s4d_scan(u, log_dt, log_A_real, A_imag, C, None, None, None, None)
    state, pieces = None, []
    for begin, end in itertools.pairwise([0, *cuts, 200]):
        y, state = reference.s4d_scan(u[:, begin:end], log_dt, log_A_real, A_imag, C, None, None, None, state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(state, last, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("layout", ["dense", "padded", "packed"])
def test_a_sequence_in_a_batch_is_the_sequence_alone(layout):
    parameters = space(2, 3, 1)
    sequences = [torch.randn(1, n, 2, dtype=DOUBLE) for n in (5, 0, 70, 1)]
    starts = torch.randn(4, 2, 3, 2, dtype=DOUBLE)
    if layout == "packed":
        u, rows = torch.cat(sequences, 1), (None, torch.tensor([0, 5, 5, 75, 76]))
    else:
        u, rows = torch.full((4, 80, 2), float("nan"), dtype=DOUBLE), (torch.tensor([5, 0, 70, 1]), None)
        for b, x in enumerate(sequences):
            u[b, : x.shape[1]] = x[0]
    if layout == "dense":
        u, rows = sequences[2].expand(4, -1, -1), (None, None)
    y, final = reference.s4d_scan(u, *parameters, None, *rows, starts)
    begin = 0
    for s, x in enumerate([sequences[2]] * 4 if layout == "dense" else sequences):
        alone, last = reference.s4d_scan(x, *parameters, None, None, None, starts[s : s + 1])
        mine = y[0, begin : begin + x.shape[1]] if layout == "packed" else y[s, : x.shape[1]]
        torch.testing.assert_close(mine, alone[0], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(final[s], last[0], rtol=1e-10, atol=1e-12)
        begin += x.shape[1]
    if layout == "padded":
        assert not y[0, 5:].any() and not y[1].any()


@pytest.mark.parametrize("function", ["scan", "recurrence", "kernel", "kernel_real", "fft", "direct"])
def test_derivatives_of_first_and_second_order(function):
    parameters = space(2, 2, None if "kernel" in function else 1)
    u, D = torch.randn(2, 4, 2, dtype=DOUBLE), torch.randn(2, dtype=DOUBLE)
    lengths = torch.tensor([4, 3])
    start = torch.randn(2, 2, 2, 2, dtype=DOUBLE)
    kernels = torch.randn(2, 2, 3, dtype=DOUBLE)
    inputs, call = {
        "scan": ((u, *parameters, D, start), lambda *a: reference.s4d_scan(*a[:6], lengths, None, a[6])),
        "recurrence": ((u, *parameters, D, start), lambda *a: reference.s4d_recurrence(*a[:6], lengths, None, a[6])),
        "kernel": (parameters, lambda *a: reference.s4d_kernel(*a, 5)),
        "kernel_real": (parameters, lambda *a: reference.s4d_kernel_real(*a, 5)),
        "fft": ((u, *kernels, D), lambda *a: reference.fft_conv(*a, lengths, None)),
        "direct": ((u, *kernels, D), lambda *a: reference.causal_conv(*a, lengths, None)),
    }[function]
    leaves = [x.clone().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)
