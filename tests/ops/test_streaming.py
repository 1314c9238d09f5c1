"""A sequence in pieces, with the state carried between them, is the sequence in one."""

from __future__ import annotations

import pytest
import torch

import lyra_kernels as lk

from . import cases


@pytest.mark.parametrize("pieces", [[1] * 10, [64, 64, 1], [63, 1, 0, 65, 30], [200], [0, 5]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_pieces_of_any_size(pieces, dtype, backend, device):
    case = cases.make("s4d_conv-scan-state", dtype=dtype, length=sum(pieces)).to(device)
    whole, last = case()
    state, outputs = case.tensors["initial_state"], []
    for part in case.tensors["u"].split(pieces, dim=1):
        y, state = case.function(**{**case.tensors, "u": part, "initial_state": state}, **case.options)
        outputs.append(y)
    limit = cases.TOLERANCE[dtype]
    cases.assert_close(torch.cat(outputs, 1), whole, limit, "outputs")
    cases.assert_close(state, last, limit, "state")


def test_gradient_through_the_carried_state(backend, device):
    """Backpropagation through pieces is backpropagation through the whole."""
    case = cases.make("s4d_conv-scan-state", length=150).to(device)
    weights = cases.weights_like(case())
    _, wanted = cases.gradients(case, weights)
    leaves = case.leaves()
    state, outputs = leaves.tensors["initial_state"], []
    for part in leaves.tensors["u"].split([70, 1, 79], dim=1):
        y, state = case.function(**{**leaves.tensors, "u": part, "initial_state": state}, **case.options)
        outputs.append(y)
    torch.autograd.backward((torch.cat(outputs, 1), state), weights)
    cases.assert_all_close({k: v.grad for k, v in leaves.tensors.items()}, wanted, 1e-5)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_state_is_the_one_after_the_last_real_token(layout, backend, device):
    """Also for a sequence without tokens, whose state stays what it was."""
    case = cases.make("s4d_conv-scan-state", layout).to(device)
    _, state = case()
    assert torch.equal(state[1], case.tensors["initial_state"][1])
    exact = case.double()
    with lk.use_backend("reference"):
        cases.assert_close(state, exact()[1], 1e-5)


def test_auto_chooses_the_way_that_has_a_state():
    case = cases.make("s4d_conv-scan-state")
    case.options["algorithm"] = "auto"
    assert len(case()) == 2


def test_state_in_half_precision_activations_is_float32(backend, device):
    case = cases.make("s4d_conv-scan-state", dtype=torch.bfloat16).to(device)
    y, state = case()
    assert y.dtype == torch.bfloat16 and state.dtype == torch.float32
