"""The pretended card computes what the CPU does, and refuses what a card refuses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import lyra_kernels as lk
from lyra_kernels import backends

from .card import OnCard, pretended_card


@pytest.fixture
def card() -> Iterator[None]:
    with pretended_card():
        yield


def test_a_training_step_gives_the_numbers_of_the_cpu(card):
    plain = lk.S4D(4, d_state=6, transposed=False)
    layer = lk.S4D(4, d_state=6, transposed=False)
    layer.load_state_dict(plain.state_dict())
    layer.to("cuda")
    u = torch.randn(2, 9, 4)
    y = layer(u.to("cuda"), lengths=torch.tensor([9, 4], device="cuda"))
    y.square().sum().backward()
    with lk.use_backend(None):
        wanted = plain(u, lengths=torch.tensor([9, 4]))
        wanted.square().sum().backward()
    assert y.is_cuda and not wanted.is_cuda
    torch.testing.assert_close(y.cpu(), wanted)
    for a, b in zip(layer.parameters(), plain.parameters(), strict=True):
        assert isinstance(a, torch.nn.Parameter) and a.grad.device == torch.device("cuda:0")
        torch.testing.assert_close(a.grad.cpu(), b.grad)


def test_complex_numbers(card):
    """PyTorch conjugates lazily, by a mark on a tensor, which is not to be lost on the way to the card."""
    x = torch.randn(6)
    found = []
    for device in ("cpu", "cuda"):
        leaf = x.to(device).requires_grad_()
        spectrum = torch.fft.rfft(leaf)
        y = torch.fft.irfft(spectrum.conj() * torch.complex(leaf, leaf.sin())[:4], n=6)
        found.append((y.cpu(), torch.autograd.grad(y.sin().sum(), leaf)[0].cpu()))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("where", ["input", "layer", "lengths"])
def test_what_was_left_on_the_cpu_is_named(where, card):
    """This is what a test meets that forgets a tensor."""
    layer = lk.PGC(4) if where == "layer" else lk.PGC(4).to("cuda")
    u = torch.randn(2, 9, 4, device="cpu" if where == "input" else "cuda")
    lengths = torch.tensor([9, 4], device="cpu" if where == "lengths" else "cuda")
    with pytest.raises(ValueError, match=r"(weight|lengths) is on (cpu|cuda:0) but u is on (cpu|cuda:0)"):
        layer(u, lengths=lengths)


def test_all_on_the_cpu_is_refused_by_the_backend(card):
    with pytest.raises(RuntimeError, match="lyra::rms_norm: argument 0 is on cpu, the backend computes on cuda:0"):
        lk.RMSNorm(4)(torch.randn(2, 3, 4))


def test_operations_of_pytorch_refuse_two_devices(card):
    x, y = torch.randn(3, device="cuda"), torch.randn(3)
    for call in (lambda: x + y, lambda: torch.equal(x, y), lambda: torch.cat([x, y]), lambda: y[x > 0]):
        with pytest.raises(RuntimeError, match="cuda:0"):
            call()
    assert torch.equal((x * torch.tensor(2.0)).cpu(), 2 * x.cpu())  # a number may come from anywhere
    x[y > 0] = 0.0
    x.copy_(y)
    assert torch.equal(x.cpu(), y)


def test_what_python_makes_during_a_backward_lies_where_it_says(card):
    """And what C++ makes there, for an output that has no gradient, lies on the card."""
    seen = []

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x, 3 * x

        @staticmethod
        def backward(ctx, grad, absent):
            seen.extend([torch.zeros(2), torch.zeros(2, device="cuda"), absent])
            return 2 * grad + 3 * absent

    x = torch.randn(3, device="cuda", requires_grad=True)
    (grad,) = torch.autograd.grad(Twice.apply(x)[0].sum(), x)
    assert [isinstance(t, OnCard) for t in seen] == [False, True, True]
    torch.testing.assert_close(grad.cpu(), torch.full((3,), 2.0))


def test_nothing_is_left_behind():
    before = backends.availability()
    with pytest.raises(ZeroDivisionError), pretended_card():
        raise ZeroDivisionError
    assert backends.availability() == before and backends.forced() is None
    assert not isinstance(torch.nn.Linear(2, 2).to("cpu").weight, OnCard)
