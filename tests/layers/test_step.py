"""S4D token by token: the tables that stay from step to step, and the steps that go straight to the kernels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import lyra_kernels as lk


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def plain_step(layer, u, state):
    """The recurrence in float64."""
    k = layer.kernel
    dt = torch.exp(k.log_dt.double()).unsqueeze(-1)
    A = torch.complex(-torch.exp(k.log_A_real.double()), k.A_imag.double())
    a = torch.exp(dt * A)
    c = 2 * torch.view_as_complex(k.C.double()) * (a - 1) / A
    after = a * torch.view_as_complex(state.double()) + u.double().unsqueeze(-1)
    y = F.gelu((c * after).sum(-1).real + layer.D.double() * u.double())
    projection = layer.output_linear[0]
    return F.glu(F.linear(y, projection.weight.squeeze(-1).double(), projection.bias.double())), after


def check(layer, batch=3):
    u, state = torch.randn(batch, layer.d_model), torch.randn(batch, layer.d_model, layer.d_state // 2, 2)
    with torch.no_grad():
        y, after = layer.step(u, state)
        wanted, wanted_after = plain_step(layer, u, state)
        assert float((y - wanted).norm() / wanted.norm()) < 1e-6
        assert float((torch.view_as_complex(after) - wanted_after).norm() / wanted_after.norm()) < 1e-6


def by_optimizer(layer):
    for p in layer.parameters():
        p.grad = torch.randn_like(p)
    torch.optim.SGD(layer.parameters(), 0.1).step()


def past_autograd(name):
    def change(layer):
        getattr(layer.kernel, name).data.view(-1)[-1] += 0.5

    return change


def through_memory(layer):
    layer.D.detach().numpy()[1] -= 1.0


CHANGES = {
    "optimizer": by_optimizer,
    "state_dict": lambda layer: layer.load_state_dict(lk.S4D(layer.d_model, layer.d_state).state_dict()),
    "reset": lambda layer: layer.reset_parameters(),
    "numpy": through_memory,
    **{name: past_autograd(name) for name in ("log_dt", "log_A_real", "A_imag", "C")},
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("transposed", [False, True])
def test_no_step_takes_tables_of_other_parameters(change, transposed):
    layer = lk.S4D(20, 12, transposed=transposed)
    for _ in range(2):
        check(layer)
        CHANGES[change](layer)
        check(layer)


def test_more_layers_than_tables_stay():
    layers = [lk.S4D(8 + i, 6) for i in range(12)]
    for layer in layers + layers[::-1] + [lk.S4D(9, 6, lr=0.0)]:
        check(layer)


@pytest.mark.parametrize("batch", [0, 1, 12, 13, 64])
def test_batches(batch):
    layer = lk.S4D(33, 10)
    if batch:
        check(layer, batch)
    else:
        y, after = layer.step(torch.randn(0, 33), layer.initial_state(0))
        assert y.shape == (0, 33) and after.shape == (0, 33, 5, 2)


def test_a_step_is_recorded_where_gradients_are_asked_for():
    layer = lk.S4D(6, 4)
    u, state = torch.randn(2, 6, requires_grad=True), torch.randn(2, 6, 2, 2, requires_grad=True)
    y, after = layer.step(u, state)
    given = [u, state, layer.D, layer.kernel.C]
    found = torch.autograd.grad(y.sum() + after.sum(), given)
    wanted, wanted_after = plain_step(layer, u, state)
    expected = torch.autograd.grad(wanted.sum() + torch.view_as_real(wanted_after).sum(), given)
    for a, b in zip(found, expected, strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-5


def test_hooks_see_a_step():
    layer, seen = lk.S4D(6, 4), []
    layer.register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        layer.step(torch.randn(1, 6), layer.initial_state(1))
    assert seen


def test_dropout_is_not_forgotten():
    layer = lk.S4D(64, 4, dropout=0.5)
    with torch.no_grad():
        u, state = torch.ones(1, 64), layer.initial_state(1)
        assert not torch.equal(layer.step(u, state)[0], layer.step(u, state)[0])
        layer.eval()
        assert torch.equal(layer.step(u, state)[0], layer.step(u, state)[0])


@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 6, 3, 2), torch.float32), ((2, 6, 2, 2), torch.float32), ((1, 6, 2), torch.float32)]
)
def test_a_state_of_another_shape_is_refused(shape, dtype):
    with torch.no_grad(), pytest.raises(ValueError, match="initial_state must have shape"):
        lk.S4D(6, 4).step(torch.randn(1, 6), torch.zeros(shape, dtype=dtype))
