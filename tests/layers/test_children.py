"""Layers see what becomes of their children: parameters that are replaced, parametrized or pruned, and dropouts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import lyra_kernels as lk

U = torch.randn(2, 6, 4)


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


def tail(layer):
    return layer.out_proj if isinstance(layer, lk.PGC) else layer.output_linear[0]


@pytest.fixture(params=["pgc", "s4d"])
def layer(request):
    return lk.PGC(4) if request.param == "pgc" else lk.S4D(4, d_state=4, transposed=False)


def differs(layer, before):
    return not torch.equal(layer(U), before)


def test_a_parametrized_weight(layer):
    before = layer(U)
    parametrize.register_parametrization(tail(layer), "weight", Double())
    assert differs(layer, before)
    parametrize.remove_parametrizations(tail(layer), "weight", leave_parametrized=False)
    assert torch.equal(layer(U), before)
    parametrizations.weight_norm(tail(layer))
    torch.testing.assert_close(layer(U), before)


def test_a_pruned_weight(layer):
    before = layer(U)
    prune.l1_unstructured(tail(layer), "weight", amount=0.5)
    assert differs(layer, before)
    layer(U).sum().backward()
    assert tail(layer).weight_orig.grad is not None


def test_other_parameters(layer):
    before = layer(U)
    tail(layer).weight = nn.Parameter(tail(layer).weight.detach() * -3)
    assert differs(layer, before)
    values = {name: 1.5 * p for name, p in layer.named_parameters()}
    assert not torch.equal(torch.func.functional_call(layer, values, (U,)), layer(U))


def test_no_bias(layer):
    before = layer(U)
    tail(layer).bias = None
    assert differs(layer, before)


def test_a_state_space_of_buffers():
    layer = lk.S4D(4, d_state=4, transposed=False, lr=0.0)
    before = layer(U)
    layer.kernel.log_dt += 1.0
    assert differs(layer, before)


def test_a_dropout_that_does_something():
    layer = lk.PGC(4, dropout=0.5)
    kept = layer.eval()(U)
    assert (layer.train()(U) == 0).any() and not (kept == 0).any()
    layer.dropout.p = 0.0
    assert torch.equal(layer(U), kept)
    seen = []
    handle = layer.dropout.register_forward_hook(lambda *_: seen.append("hook"))
    layer(U)
    handle.remove()
    layer(U)
    assert seen == ["hook"]
    layer.dropout = Double()
    assert torch.equal(layer(U), 2 * kept)
    layer.dropout = nn.Identity()
    assert torch.equal(layer(U), kept)
