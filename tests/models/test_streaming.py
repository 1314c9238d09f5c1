"""A causal model token by token gives what it gives for the sequence so far."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lyra import Lyra, LyraForTokenClassification


def make(kind=Lyra, **options):
    torch.manual_seed(0)
    sizes = {"d_input": 5, "d_model": 8, "d_output": 2, "num_s4_layers": 2, "d_state": 4, "causal": True}
    return kind(**(sizes | options)).eval()


@pytest.mark.parametrize("options", [{"prenorm": False}, {"pgc_residual": False}, {"pgc_kernel_size": 4}], ids=str)
@pytest.mark.parametrize("pool", ["mean", "max", "first"])
def test_steps_are_the_forward_of_the_prefix(pool, options):
    model, ids = make(pool=pool, **options), torch.randint(5, (3, 20))
    ids[0, 3] = -1
    state, features = model.initial_state(3), F.one_hot(ids.clamp(min=0), 5).float() * (ids >= 0).unsqueeze(-1)
    other = model.initial_state(3)
    for t in range(20):
        y, state = model.step(ids[:, t], state)
        z, other = model.step(features[:, t], other)
        wanted = model(ids[:, : t + 1])
        torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(z, wanted, rtol=1e-4, atol=1e-5)
    assert state.tokens == 20


@pytest.mark.parametrize(
    "dtype, bound", [(torch.float64, 1e-9), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)], ids=str
)
def test_each_token_is_labelled(dtype, bound):
    model, ids = make(LyraForTokenClassification).to(dtype), torch.randint(5, (2, 15))
    state, found = model.initial_state(2), []
    for token in ids.unbind(1):
        y, state = model.step(token, state)
        found.append(y)
    error = (torch.stack(found, 1) - model(ids)).double().norm() / model(ids).double().norm()
    assert error < bound and y.dtype == dtype


def test_gradients_go_through_the_steps():
    model, ids = make().double(), torch.randint(5, (2, 7))
    state = model.initial_state(2)
    for token in ids.unbind(1):
        y, state = model.step(token, state)
    parameters = list(model.parameters())
    found = torch.autograd.grad(y.sin().sum(), parameters)
    for a, b in zip(found, torch.autograd.grad(model(ids).sin().sum(), parameters), strict=True):
        torch.testing.assert_close(a, b)


def test_models_that_cannot():
    for options in ({"causal": False}, {"causal": False, "bidirectional": True, "num_pgc_layers": 0}):
        with pytest.raises(ValueError, match="a model that is not causal has no state"):
            make(**options).initial_state(1)
    model = make(num_pgc_layers=0, causal=False)  # S4D alone looks only backwards
    assert model.step(torch.tensor([1]), model.initial_state(1))[0].shape == (1, 2)
    with pytest.raises(ValueError, match=r"x must be token ids \(B,\) or features \(B, 5\), got \(1, 2, 5\)"):
        model.step(torch.zeros(1, 2, 5), model.initial_state(1))
    state = model.initial_state(2)
    with pytest.raises(ValueError, match=r"one of \(2, 8\) \(B, d_model\), x and the model need \(1, 8\)"):
        make(num_pgc_layers=0, num_s4_layers=0).step(torch.tensor([1]), state._replace(s4=()))
    with pytest.raises(ValueError, match="it has 0 PGC layers and 2 S4D layers, this model has 2 and 2"):
        make().step(torch.tensor([1, 2]), state)
    with pytest.raises(TypeError, match=r"state must be a LyraState, of .* not tuple"):
        model.step(torch.tensor([1, 2]), tuple(state))
    model.s4_layers[0] = torch.nn.Identity()
    with pytest.raises(TypeError, match="Identity, which stands in the place of a S4D, has no initial_state"):
        model.initial_state(1)
