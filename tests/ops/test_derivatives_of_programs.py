"""Compiled, exported and traced programs hold dispatcher ops: all their derivatives are those of eager calls."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functionalize, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import lyra_kernels as lk
from lyra.models import Lyra
from lyra_kernels._torch import tree_flatten
from lyra_kernels.schemas import CONTRACTS, OPS

from . import cases
from .test_compile import layout_of, raw_calls

Function = Callable[..., Any]
close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-11)


class Module(nn.Module):
    def __init__(self, case: cases.Case) -> None:
        super().__init__()
        self.case = case

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        return self.case(*values)


def exported(module: nn.Module, values: tuple[Tensor, ...]) -> nn.Module:
    return torch.export.export(module, values).module()


def traced(module: nn.Module, values: tuple[Tensor, ...]) -> nn.Module:
    """Traced with gradients on, saved and loaded."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, values), file)
    file.seek(0)
    return torch.jit.load(file)


def traced_without_gradients(module: nn.Module, values: tuple[Tensor, ...]) -> nn.Module:
    with torch.no_grad():
        return traced(module, values)


def derivatives(values: tuple[Tensor, ...]) -> dict[str, Function]:
    """Every manner of differentiating a function that returns tensors, at these values."""
    generator = torch.Generator().manual_seed(0)
    tangents = tuple(torch.randn(v.shape, dtype=v.dtype, generator=generator) for v in values)
    everywhere = tuple(range(len(values)))

    def loss(f: Function) -> Function:
        def function(*values: Tensor) -> Tensor:
            out = f(*values)
            return sum(((o + 0.1) * o).tanh().sum() for o in (out if isinstance(out, tuple) else (out,)))

        return function

    def pull(f: Function) -> Any:
        outputs, back = vjp(f, *values)
        return back(outputs)

    def dual(f: Function) -> Any:
        with forward_ad.dual_level():
            out = f(*(forward_ad.make_dual(v, t) for v, t in zip(values, tangents, strict=True)))
            return [forward_ad.unpack_dual(o).tangent for o in (out if isinstance(out, tuple) else (out,))]

    def penalty(f: Function) -> Any:
        leaves = [v.clone().requires_grad_() for v in values]
        first = torch.autograd.grad(loss(f)(*leaves), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), leaves)

    def per_sample(f: Function) -> Any:
        return vmap(grad(loss(f), everywhere))(*(torch.stack([v, 1.1 * v]) for v in values))

    return {
        "grad": lambda f: grad(loss(f), everywhere)(*values),
        "vjp": pull,
        "jvp": lambda f: jvp(f, values, tangents),
        "jacrev": lambda f: jacrev(f, everywhere)(*values),
        "jacfwd": lambda f: jacfwd(f, everywhere)(*values),
        "hessian": lambda f: hessian(loss(f))(*values),
        "forward mode twice": lambda f: jacfwd(jacfwd(loss(f)))(*values),
        "vmap": lambda f: vmap(f, (0, *[None] * (len(values) - 1)))(torch.stack([values[0]] * 2), *values[1:]),
        "vmap of grad": per_sample,
        "dual numbers": dual,
        "double backward": penalty,
    }


def assert_alike(program: Function, eager: Function, values: tuple[Tensor, ...]) -> None:
    for name, derivative in derivatives(values).items():
        wanted = derivative(eager)
        assert any(x.any() for x in tree_flatten(wanted)[0]), f"{name}: a test of zeros"
        close(derivative(program), wanted, msg=lambda text, name=name: f"{name}: {text}")


def small(name: str) -> cases.Case:
    return cases.make(name, layout_of(name), torch.float64, batch=2, length=3, channels=2)


@pytest.mark.parametrize("make", [exported, traced, traced_without_gradients], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", cases.ESSENTIAL)
def test_programs(name, make):
    case = small(name)
    values = case.values if make is traced_without_gradients else case.leaves().values
    program = make(Module(case), values)
    assert_alike(lambda *values: tuple(program(*values)), case, case.values)


@pytest.mark.parametrize("name", cases.ESSENTIAL)
def test_raw_ops_and_their_backwards(name, monkeypatch):
    for op, args in raw_calls(small(name), monkeypatch):
        contract = CONTRACTS[op.removesuffix("_backward")]
        backward = op.endswith("_backward")
        names = contract.passed if backward else range(len(contract.arguments))
        before = len(contract.outputs) if backward else 0
        wanted = [*range(before), *(before + k for k, i in enumerate(names) if i in contract.differentiable)]
        if backward and contract.kept:  # what is kept depends on the arguments: a difference quotient moves one alone
            wanted = list(range(before))
        wanted = [i for i in wanted if args[i] is not None]
        outputs = len(contract.returned) if backward else len(contract.outputs)

        def function(*values: Tensor, op=op, args=args, wanted=wanted, outputs=outputs) -> tuple[Tensor, ...]:
            full = list(args)
            for i, value in zip(wanted, values, strict=True):
                full[i] = value
            out = OPS[op](*full)
            return tuple(o for o in (out if isinstance(out, tuple) else (out,))[:outputs] if o.numel())

        values = tuple(args[i].requires_grad_() for i in wanted)
        check = partial(torch.autograd.gradcheck, function, values, fast_mode=True)
        assert check(check_forward_ad=True, check_batched_forward_grad=True, check_batched_grad=True)


def layers() -> dict[str, Callable[[], nn.Module]]:
    return {
        "S4D": lambda: lk.S4D(2, d_state=4, transposed=False),
        "PGC": lambda: lk.PGC(2),
        "PGC, causal": lambda: lk.PGC(2, causal=True),
        "Lyra": lambda: Lyra(2, 2, d_state=4),
    }


@pytest.mark.parametrize("make", [exported, traced], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", layers())
def test_layers(name, make):
    layer = layers()[name]().double().eval()
    x = torch.randn(2, 5, 2, dtype=torch.float64)
    program = make(layer, (x,))
    # TorchScript's executor, once it optimizes, drops the tangents of PyTorch's own ops: of nn.Linear and tanh, too.
    with torch.jit.optimized_execution(False):
        assert_alike(program, layer, (x,))
        if make is traced:  # and for other batches and lengths
            for shape in ((3, 9, 2), (1, 1, 2)):
                other = torch.randn(shape, dtype=torch.float64)
                close(program(other), layer(other))
                close(grad(lambda x: program(x).tanh().sum())(other), grad(lambda x: layer(x).tanh().sum())(other))
    program(x).sum().backward()
    layer.zero_grad()
    layer(x).sum().backward()
    if make is traced:
        close({k: p.grad for k, p in program.named_parameters()}, {k: p.grad for k, p in layer.named_parameters()})


def dual_number(f: Function, x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, x.cos()))).tangent


MANNERS: dict[str, Function] = {
    "grad": lambda f, x: grad(lambda x: f(x).tanh().sum())(x),
    "vjp": lambda f, x: vjp(f, x)[1](f(x)),
    "jvp": lambda f, x: jvp(f, (x,), (x.cos(),)),
    "jacrev": lambda f, x: jacrev(f)(x),
    "jacfwd": lambda f, x: jacfwd(f)(x),
    "hessian": lambda f, x: hessian(lambda x: f(x).tanh().sum())(x),
    "vmap of grad": lambda f, x: vmap(grad(lambda x: f(x).tanh().sum()))(torch.stack([x, 2 * x])),
    "dual number": dual_number,
}
COMPILED = [("pgc", "jvp"), ("s4d_block", "jvp"), ("pgc", "hessian"), ("gelu_glu", "vmap of grad"),
            ("s4d_conv-auto", "jacfwd"), ("s4d_kernel", "jvp"), ("rms_norm", "jacrev"), ("gated_conv", "vjp"),
            ("rms_norm", "dual number"), ("fft_conv", "grad")]  # fmt: skip


@pytest.mark.parametrize("name, manner", COMPILED)
def test_compiled(name, manner):
    """Inside torch.compile, in one graph."""
    torch._dynamo.reset()
    case, derivative = small(name), MANNERS[manner]

    def function(x: Tensor) -> Any:
        return derivative(case_in_first(case), x)

    x = case.values[0]
    wanted = function(x)
    assert any(w.any() for w in (wanted if isinstance(wanted, tuple) else (wanted,)))
    close(torch.compile(function, backend="aot_eager", fullgraph=True)(x), wanted)


@pytest.mark.full
def test_inductor():
    torch._dynamo.reset()
    layer, x = lk.PGC(2).double().eval(), torch.randn(2, 5, 2, dtype=torch.float64)

    def function(x: Tensor) -> Any:
        return jvp(layer, (x,), (x.cos(),))[1]

    close(torch.compile(function, fullgraph=True)(x), function(x))


@pytest.mark.parametrize("name", cases.ESSENTIAL)
def test_functionalized(name):
    """Between other transforms, around them and inside of them; and traced so."""
    case, values = small(name), small(name).values
    for manner in ("vjp", "jvp", "vmap of grad"):
        derivative, x = MANNERS[manner], values[0]
        wanted = derivative(case_in_first(case), x)
        close(derivative(functionalize(case_in_first(case)), x), wanted)
        close(functionalize(partial(derivative, case_in_first(case)))(x), wanted)
    leaves = tuple(v.clone().requires_grad_() for v in values)
    wanted = torch.autograd.grad(case(*leaves)[0].sum(), leaves)
    close(torch.autograd.grad(functionalize(case)(*leaves)[0].sum(), leaves), wanted)
    program = make_fx(functionalize(case))(*values)
    assert "lyra" in str(program.graph)
    close(tuple(program(*values)), case(*values))


def case_in_first(case: cases.Case) -> Function:
    """Its first output as a function of its first argument."""
    return lambda x: case(x)[0]


def test_raw_ops_compute_in_the_types_of_their_arguments(monkeypatch):
    """Whatever autocast says, and recorded or not."""
    _, args = raw_calls(cases.make("pgc"), monkeypatch)[0]
    wanted = OPS["pgc"](*args)
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode(), torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(OPS["pgc"](*args), wanted)


def test_a_raw_op_keeps_no_graph_where_none_is_asked_for():
    x, w = torch.randn(2, 3, 4), torch.ones(4, requires_grad=True)
    with torch.no_grad():
        assert not OPS["rms_norm"](x, w, 1e-8).requires_grad
    with torch.inference_mode():
        inside = OPS["rms_norm"](x, w, 1e-8)
    assert inside.is_inference() and not OPS["rms_norm"](inside, w.detach(), 1e-8).requires_grad
    assert OPS["rms_norm"](x, w, 1e-8).requires_grad
