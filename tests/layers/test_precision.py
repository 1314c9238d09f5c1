"""A state space in a module of 16 bits: its parameters stay in float32, with their values, however it got there."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import lyra_kernels as lk
from lyra.outputs import RegressionOutput

NAMES = ("log_dt", "log_A_real", "A_imag", "C")
NARROW = [torch.bfloat16, torch.float16]
ROADS = {
    "named": lambda layer, dtype: layer.bfloat16() if dtype == torch.bfloat16 else layer.half(),
    "to": lambda layer, dtype: layer.to(dtype),
    "to_device": lambda layer, dtype: layer.to("cpu", dtype, non_blocking=True),
    "to_like": lambda layer, dtype: layer.to(torch.zeros((), dtype=dtype)),
    "type": lambda layer, dtype: layer.type(dtype),
    "parent": lambda layer, dtype: nn.Sequential(layer).to(dtype)[0],
    "wider_first": lambda layer, dtype: layer.double().to(dtype),
}


def values(layer: lk.S4D) -> dict[str, torch.Tensor]:
    return {name: getattr(layer.kernel, name).detach().clone() for name in NAMES}


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return all(found[n].dtype == wanted[n].dtype and torch.equal(found[n], wanted[n]) for n in NAMES)


@pytest.mark.parametrize("lr", [0.001, 0.0], ids=["parameters", "buffers"])
@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("road", ROADS)
def test_conversions(road, dtype, lr):
    layer = lk.S4D(8, d_state=16, lr=lr, bidirectional=True)
    before, kernel = values(layer), layer.kernel(100)
    layer = ROADS[road](layer, dtype)
    assert layer.D.dtype == layer.output_linear[0].weight.dtype == dtype
    assert same(values(layer), before) and torch.equal(layer.kernel(100), kernel)
    assert layer(torch.randn(2, 8, 5, dtype=dtype)).dtype == dtype
    assert same(values(layer.float()), before)
    assert all((n in dict(layer.kernel.named_buffers())) == (lr == 0.0 and n != "C") for n in NAMES)


@pytest.mark.parametrize(
    "flag",
    [torch.__future__.set_overwrite_module_params_on_conversion, torch.__future__.set_swap_module_params_on_conversion],
    ids=["overwrite", "swap"],
)
def test_conversions_by_other_means(flag):
    layer = lk.S4D(8, lr=0.01)
    before = values(layer)
    flag(True)
    try:
        layer.bfloat16()
    finally:
        flag(False)
    assert same(values(layer), before) and layer.D.dtype == torch.bfloat16
    assert layer.kernel.log_dt._optim == {"weight_decay": 0.0, "lr": 0.01}


def test_wider_dtypes_and_gradients():
    layer = lk.S4D(8).double()
    assert all(value.dtype == torch.float64 for value in values(layer).values())
    layer(torch.randn(2, 8, 5, dtype=torch.float64)).square().sum().backward()
    gradient = layer.kernel.log_dt.grad.clone()
    layer.to(torch.float16)
    assert layer.kernel.log_dt.grad.dtype == torch.float32
    assert torch.equal(layer.kernel.log_dt.grad, gradient.float())
    assert layer.to("meta").kernel.C.dtype == torch.float32


def test_parametrized_and_pruned():
    layer = lk.S4D(8, lr=0.01)
    parametrize.register_parametrization(layer.kernel, "log_dt", nn.Identity())
    parametrizations.weight_norm(layer.kernel, "C")
    prune.random_unstructured(layer.kernel, "A_imag", 0.5)
    layer.kernel(1)  # a pruned parameter is made when the module is called
    kernel = layer.kernel(100)
    layer.bfloat16()
    assert all(p.dtype == torch.float32 for p in layer.kernel.parameters())
    assert torch.equal(layer.kernel(100), kernel)
    layer.load_state_dict({key: value.bfloat16() for key, value in layer.state_dict().items()}, assign=True)
    assert all(p.dtype == torch.float32 for p in layer.kernel.parameters()) and layer.D.dtype == torch.bfloat16
    marked = (layer.kernel.parametrizations.log_dt.original, layer.kernel.A_imag_orig, layer.kernel.log_A_real)
    assert all(p._optim == {"weight_decay": 0.0, "lr": 0.01} for p in marked)


@pytest.mark.parametrize("lr", [None, 0.0], ids=["parameters", "buffers"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_assigned_state_dicts(device, lr):
    """The parameters become the state_dict's tensors, of 16 bits: only these are made float32."""
    source = {key: value.bfloat16() for key, value in lk.S4D(8).state_dict().items()}
    dtypes = {key: value.dtype for key, value in source.items()}
    layer = lk.S4D(8, lr=lr, device=device)
    layer.load_state_dict(source, assign=True)
    assert layer.D.dtype == torch.bfloat16 and layer.D.device.type == "cpu"
    for name, value in values(layer).items():
        assert value.dtype == torch.float32 and torch.equal(value, source[f"kernel.{name}"].float())
    assert {key: value.dtype for key, value in source.items()} == dtypes  # the caller's, left alone
    layer.load_state_dict({key: value.to("meta") for key, value in source.items()}, assign=True)
    assert layer.kernel.C.is_meta and layer.kernel.C.dtype == layer.kernel.log_dt.dtype == torch.float32
    kernel = lk.S4DKernel(8)
    kernel.load_state_dict({name: source[f"kernel.{name}"] for name in NAMES}, assign=True)
    assert kernel.C.dtype == torch.float32


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_constructor_and_default_dtype(dtype):
    """Also what Lightning's bf16-true does: a default dtype around construction and steps, and module.to."""
    torch.manual_seed(0)
    wanted = values(lk.S4D(8))
    torch.set_default_dtype(dtype)
    try:
        made = lk.S4D(8).to(dtype)
        x = torch.randn(2, 8, 30)
        inside = made(x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(made(x), inside) and inside.dtype == made.D.dtype == x.dtype == dtype
    for layer in (made, lk.S4D(8, dtype=dtype)):
        assert layer.D.dtype == layer.output_linear[0].bias.dtype == dtype
        assert all(value.dtype == torch.float32 for value in values(layer).values())
    assert torch.equal(made.kernel.A_imag, wanted["A_imag"]) and torch.equal(
        made.kernel.log_A_real, wanted["log_A_real"]
    )
    assert lk.S4DKernel(8, dtype=dtype).C.dtype == torch.float32
    assert lk.S4DKernel(8, dtype=torch.float64).A_imag.dtype == torch.float64


def test_learned_ends_of_a_regression():
    output = RegressionOutput("sigmoid", 0.0, 1.0, -2.3, 2.1)
    assert torch.equal(output.bfloat16().high.detach(), torch.tensor(2.1)) and output.low.dtype == torch.float32


def test_optimizers_move_a_layer_of_16_bits():
    layer = lk.S4D(8, d_state=4, transposed=False, dtype=torch.bfloat16)
    before = values(layer)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
    u, y = torch.randn(2, 4, 20, 8, dtype=torch.bfloat16)
    for _ in range(50):
        optimizer.zero_grad()
        (layer(u) - y).float().square().mean().backward()
        optimizer.step()
    for name, value in values(layer).items():
        assert (value != before[name]).float().mean() > 0.9, name


# ---- parameters that were cast past the module -------------------------------------------------------------------
def cast_past(layer: lk.S4D, dtype: torch.dtype) -> None:
    """As FSDP's mixed precision does it."""
    for parameter in layer.kernel.parameters():
        parameter.data = parameter.data.to(dtype)


CALLS = {
    "plain": lambda layer, u: layer(u),
    "states": lambda layer, u: layer(u, return_final_state=True),
    "hooked": lambda layer, u: (layer.kernel.register_forward_hook(lambda *_: None), layer(u)),
    "kernel": lambda layer, u: layer.kernel(u.shape[2]),
    "functional": lambda layer, u: torch.func.functional_call(layer, dict(layer.named_parameters()), (u,)),
    "model": lambda layer, u: nn.Sequential(layer)(u),
    "compiled": lambda layer, u: torch.compile(layer, backend="eager", fullgraph=True)(u),
}


@pytest.mark.parametrize(
    "call, dtype", [*((call, torch.bfloat16) for call in CALLS), ("plain", torch.float16), ("kernel", torch.float16)]
)
def test_a_state_space_of_16_bits_warns(call, dtype):
    torch._dynamo.reset()
    length = 20 + 2 * list(CALLS).index(call)  # what was found once, of some sizes, is not said again
    layer, u = lk.S4D(8, d_state=4), torch.randn(2, 8, length)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CALLS[call](layer, u)
        layer = lk.S4D(8, d_state=4).to(dtype)
        CALLS[call](layer, u.to(dtype))
    torch._dynamo.reset()
    cast_past(layer, dtype)
    with pytest.warns(UserWarning, match=r"log_dt and log_A_real and A_imag and C of a state space in torch"):
        CALLS[call](layer, u.to(dtype))


def test_one_parameter_of_16_bits_is_enough():
    layer = lk.S4D(8, d_state=4, bidirectional=True)
    layer.kernel.C.data = layer.kernel.C.data.bfloat16()
    with pytest.warns(UserWarning, match="^C of a state space in torch.bfloat16"):
        layer(torch.randn(2, 8, 5))
