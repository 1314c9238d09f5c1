"""parameter_groups asks the modules: no option is lost with a tensor that is replaced, wrapped or copied."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import lyra_kernels as lk
from lyra import Lyra, LyraForTokenClassification, parameter_groups

SPECTRUM = ("log_dt", "log_A_real", "A_imag")


def summary(model: nn.Module) -> list[tuple]:
    groups = parameter_groups(model, lr=0.1, weight_decay=0.5)
    parameters = [p for g in groups for p in g["params"]]
    assert len({id(p) for p in parameters}) == len(parameters) == len(list(model.parameters()))
    return [(len(g["params"]), g["lr"], g["weight_decay"]) for g in groups]


def replaced(layer: lk.S4D) -> nn.Module:
    for name in SPECTRUM:
        setattr(layer.kernel, name, nn.Parameter(getattr(layer.kernel, name).detach().clone()))
    return layer


def put(layer: lk.S4D) -> nn.Module:
    """As accelerate, FSDP and others do, past Module.__setattr__."""
    for name in SPECTRUM:
        layer.kernel._parameters[name] = nn.Parameter(getattr(layer.kernel, name).detach().clone())
    return layer


def parametrized(layer: lk.S4D) -> nn.Module:
    parametrize.register_parametrization(layer.kernel, "log_dt", nn.Identity())
    return layer


def pruned(layer: lk.S4D) -> nn.Module:
    prune.random_unstructured(layer.kernel, "A_imag", 0.5)
    return layer


def compiled(layer: lk.S4D) -> nn.Module:
    return torch.compile(replaced(layer))


class Wrapper(nn.Module):
    """Has the attributes of what it wraps, as FSDP and peft's models."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["inner"], name)


def wrapped(layer: lk.S4D) -> nn.Module:
    return Wrapper(Wrapper(put(layer).kernel))


@pytest.mark.parametrize("copied", [False, True], ids=["itself", "copy"])
@pytest.mark.parametrize("change", [replaced, put, parametrized, pruned, compiled, wrapped])
def test_nothing_is_lost(change, copied):
    layer = change(lk.S4D(8, lr=0.002))
    if copied and change is pruned:
        pytest.skip("PyTorch copies no module that is pruned")
    others = 1 if isinstance(layer, Wrapper) else 4
    assert summary(copy.deepcopy(layer) if copied else layer) == [(others, 0.1, 0.5), (3, 0.002, 0.0)]


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, parametrizations.weight_norm], ids=["older", "parametrized"])
def test_weight_norm(norm):
    layer = lk.S4D(8, lr=0.002)
    norm(layer.kernel, "log_A_real")
    assert summary(layer) == [(4, 0.1, 0.5), (4, 0.002, 0.0)]


def test_what_was_frozen_and_what_is_shared():
    frozen, tied = lk.S4D(8, lr=0.0), nn.ModuleList(lk.S4D(8, lr=0.002) for _ in range(2))
    assert summary(frozen) == [(4, 0.1, 0.5)]
    tied[1].kernel.log_dt = tied[0].kernel.log_dt
    assert summary(tied) == [(8, 0.1, 0.5), (5, 0.002, 0.0)]
    tied[1].kernel.lr = 0.003
    message = r"^1.kernel.log_dt asks for .*0.003.*, another module that shares it for .*0.002"
    with pytest.raises(ValueError, match=message):
        parameter_groups(tied, lr=0.1)


def test_a_name_without_a_parameter():
    layer = lk.S4D(8)
    value = layer.kernel.log_dt.detach()
    del layer.kernel.log_dt
    layer.kernel.log_dt = value
    with pytest.raises(ValueError, match=r"^kernel.log_dt is no parameter or buffer any more.*make it a buffer"):
        parameter_groups(layer, lr=0.1)
    with pytest.raises(ValueError, match=r"^log_dt is no parameter"):
        parameter_groups(layer.kernel, lr=0.1)


def test_marks_of_other_peoples_parameters():
    """The published code's convention, and the order: those that ask for nothing, then as they come."""
    layer, linear = lk.S4D(8, lr=0.002), nn.Linear(3, 3)
    linear.weight._optim = {"lr": 0.7, "betas": [0.5, 0.6]}  # a list, as files of options have it
    model = nn.Sequential(linear, layer)
    groups = parameter_groups(model, lr=0.1, weight_decay=0.5)
    assert summary(model) == [(5, 0.1, 0.5), (1, 0.7, 0.5), (3, 0.002, 0.0)]
    assert groups[1]["params"][0] is linear.weight and groups[1]["betas"] == [0.5, 0.6]
    layer.kernel.C._optim = {"lr": 0.3}
    assert any(p is layer.kernel.C for g in parameter_groups(model, lr=0.1) if g["lr"] == 0.3 for p in g["params"])


@pytest.mark.parametrize("kind", [Lyra, LyraForTokenClassification])
def test_a_model_in_bfloat16_trains_its_state_spaces(kind):
    torch.manual_seed(0)
    model = kind(d_input=4, d_model=8, d_state=4, num_s4_layers=1, num_pgc_layers=1, dropout=0.0).bfloat16()
    before = {n: p.detach().clone() for n, p in model.s4_layers[0].kernel.named_parameters()}
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=1e-3))
    x = torch.randint(4, (8, 20))
    y = torch.randn_like(model(x))
    for _ in range(50):
        optimizer.zero_grad()
        (model(x) - y).float().square().mean().backward()
        optimizer.step()
    assert set(before) == {*SPECTRUM, "C"} and y.dtype == torch.bfloat16
    for name, parameter in model.s4_layers[0].kernel.named_parameters():
        assert (parameter != before[name]).float().mean() > 0.9, name
