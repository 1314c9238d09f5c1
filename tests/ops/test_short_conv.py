"""The short convolution's final state and its checks; tests of all ops have the rest."""

from __future__ import annotations

import pytest
import torch

import lyra_kernels as lk

from .cases import assert_close


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def tokens_before(u, state, length):
    """The last of a sequence of some length, with its state in front: (W - 1, H)."""
    return torch.cat([state, u[:length]])[length:]


@pytest.mark.parametrize("width", [1, 2, 4, 9])
@pytest.mark.parametrize("kind", ["dense", "padded", "packed"])
@pytest.mark.parametrize("given", [False, True])
def test_final_state(width, kind, given):
    sizes = [6, 6, 6] if kind == "dense" else [6, 0, 2]
    layout = {"dense": {}, "padded": {"lengths": sizes}, "packed": {"cu_seqlens": [0, 6, 6, 8]}}[kind]
    u = torch.randn(1, 8, 5) if kind == "packed" else torch.randn(3, 6, 5)
    state = torch.randn(3, width - 1, 5, dtype=torch.float64) if given else torch.zeros(3, width - 1, 5)
    u.requires_grad_()
    state.requires_grad_(given)
    weight = torch.randn(5, width)
    _, found = lk.short_conv(u, weight, initial_state=state if given else None, return_final_state=True, **layout)
    rows = u[0].split(sizes) if kind == "packed" else u
    wanted = torch.stack([tokens_before(r, s, n) for r, s, n in zip(rows, state, sizes, strict=True)])
    assert torch.equal(found, wanted) and found.dtype == (torch.float64 if given else torch.float32)
    if width > 1:
        grad = torch.randn(wanted.shape).to(wanted)
        leaves = [u, state] if given else [u]
        gradients = [torch.autograd.grad(x, leaves, grad, materialize_grads=True) for x in (found, wanted)]
        assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("piece", [1, 2, 5, 11])
def test_pieces_give_what_the_whole_gives(piece):
    u, weight, bias = torch.randn(2, 11, 5), torch.randn(5, 4), torch.randn(5)
    state, found = None, []
    for part in u.split(piece, dim=1):
        y, state = lk.short_conv(part, weight, bias, activation="swish", initial_state=state, return_final_state=True)
        found.append(y)
    assert_close(torch.cat(found, dim=1), lk.short_conv(u, weight, bias, activation="silu"), 1e-6)


def test_the_final_state_keeps_nothing_of_the_input_alive():
    u = torch.randn(2, 11, 5)
    _, state = lk.short_conv(u, torch.randn(5, 4), return_final_state=True)
    assert state.untyped_storage().nbytes() == state.numel() * 4
    _, state = lk.short_conv(u[:, :0], torch.randn(5, 4), initial_state=state, return_final_state=True)
    assert state.shape == (2, 3, 5)


def test_a_result_that_lies_channels_first_may_be_changed_in_place():
    u = torch.randn(2, 5, 11, requires_grad=True)
    y = lk.short_conv(u.transpose(1, 2), torch.randn(5, 4))
    y += 1.0
    assert y.stride() == u.transpose(1, 2).stride() and y.grad_fn is not None


def test_what_is_refused():
    u, weight = torch.randn(2, 11, 5), torch.randn(5, 4)
    for error, message, options in [
        (ValueError, r"weight must have shape \(H, W\) = \(5, any\)", {"weight": weight[1:]}),
        (ValueError, "at least one tap", {"weight": weight[:, :0]}),
        (ValueError, "bias must have shape", {"bias": torch.randn(4)}),
        (ValueError, 'activation must be None, "silu" or "swish", not', {"activation": "gelu"}),
        (ValueError, r"initial_state must .* = \(2, 3, 5\)", {"initial_state": torch.randn(2, 5, 3)}),
        (TypeError, "return_final_state must be True or False", {"return_final_state": 1}),
        (TypeError, "u must be float32", {"u": u.long()}),
        (ValueError, "not both", {"lengths": [1, 2], "cu_seqlens": [0, 11]}),
    ]:
        with pytest.raises(error, match=message):
            lk.short_conv(**{"u": u, "weight": weight, **options})
