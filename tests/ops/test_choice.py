"""What `explain_choice` says is what runs."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import lyra_kernels as lk
from benchmarks.gpu_static.guard import allow_cuda_tensors
from lyra import Lyra
from lyra_kernels import backends
from lyra_kernels.ops import _watch
from lyra_kernels.ops._autograd import Op
from lyra_kernels.schemas import CONTRACTS

from ..card import kernels_for_cuda
from . import cases

MODULES = [importlib.import_module(f"lyra_kernels.ops.{name}") for name in (
    "conv", "gated_conv", "gelu_glu", "pgc", "rms_norm", "s4d_block", "s4d_conv", "s4d_kernel",
    "short_conv")]  # fmt: skip
OPS = {op for module in MODULES for op in vars(module).values() if isinstance(op, Op)}
Served = list[tuple[str, str]]


class _OnTheCPU(TorchDispatchMode):
    """Writes down the ops that the dispatcher is asked for."""

    def __init__(self, served: Served) -> None:
        super().__init__()
        self.served = served

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "lyra" or (func.namespace == "lyra_on" and args[0] == "cpu"):
            self.served.append((func.name().split("::")[1], "cpu"))
        return func(*args, **(kwargs or {}))


def _telling(served: Served, op: str, backend: str, function: Any) -> Any:
    def call(*args: Any) -> Any:
        served.append((op, backend))
        return function(*args)

    return call


@contextlib.contextmanager
def running() -> Iterator[Served]:
    """Inside, who computes which op is written down; "cuda" has kernels, which are the reference's."""
    served: Served = []
    formulas = backends.reference.operations()
    kernels = {name: _telling(served, name, "cuda", function) for name, function in formulas.items()}
    with contextlib.ExitStack() as stack:
        for op in OPS:
            stack.enter_context(
                mock.patch.object(op, "reference", _telling(served, op.name, "reference", op.reference))
            )
        stack.enter_context(kernels_for_cuda(kernels))
        stack.enter_context(_OnTheCPU(served))
        yield served


def ops_of(explanation: Any) -> Served:
    return [(op.op, op.backend.name) for op in explanation.ops]


def test_every_op_is_watched():
    assert {op.name for op in OPS} == CONTRACTS.keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("forced", [None, "cpu", "cuda", "reference"])
def test_what_is_said_is_what_runs(forced, layout, dtype):
    if forced == "cpu" and "cpu" not in lk.available_backends():
        pytest.skip("the C++ kernels are not built")
    for name in cases.NAMES:
        case = cases.make(name, layout=layout).map(lambda x: x.to(dtype))
        with running() as served, lk.use_backend(forced):
            said = lk.explain_choice(case.function, **case.tensors, **case.options)
            assert not served, name
            case()
        assert ops_of(said) == served, name
        assert said.backend == (forced or lk.available_backends()[-2]), name
        algorithm = case.options.get("algorithm")
        assert (said.algorithm is not None) == (case.function is lk.s4d_conv)
        assert algorithm in (None, "auto", said.algorithm)


@pytest.mark.parametrize(
    ("batch", "length", "modes"), [(64, 128, 32), (1, 128, 32), (2, 3000, 2), (64, 500, 512), (2, 0, 3)]
)
def test_auto_on_a_cpu(batch, length, modes):
    """At shapes whose costs decide differently."""
    state = lk.S4DKernel(2, 2 * modes)
    args = (torch.empty(batch, length, 2), state.log_dt, state.log_A_real, state.A_imag, state.C)
    with running() as served:
        said = lk.explain_choice(lk.s4d_conv, *args)
        lk.s4d_conv(*args)
    assert ops_of(said) == served
    assert {other.name for other in said.ops[0].algorithm.alternatives} == {"scan", "direct", "fft"} - {said.algorithm}
    assert not length or "times as long" in str(said)


@pytest.mark.parametrize("algorithm", ["auto", "scan"])
def test_a_state_is_carried_by_the_scan(algorithm):
    layer = lk.S4D(4, d_state=4, transposed=False, algorithm=algorithm)
    said = lk.explain_choice(layer, torch.randn(2, 5, 4), initial_state=layer.initial_state(2))
    assert said.algorithm == "scan" and "fft" in {other.name for other in said.alternatives}
    assert "it carries no state" in {other.why_not for other in said.alternatives}


def test_layers_and_models():
    with running() as served:
        model, x = Lyra(5, 8, 1, dropout=0.3).train(), torch.randint(5, (3, 20))
        state = torch.get_rng_state()
        said = lk.explain_choice(model, x, lengths=torch.tensor([20, 3, 7]))
        assert torch.equal(state, torch.get_rng_state()) and not served
        model(x, lengths=torch.tensor([20, 3, 7]))
    assert said.call == "Lyra" and ops_of(said) == served and len(served) > 6
    assert str(said).startswith("Lyra on cpu\n  algorithm ")


class _Card:
    """A card of which nothing is there but its shapes: who is called for an S4D convolution on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, have: str) -> None:
        for name in ("triton", "cuda"):
            changes = {"availability": lambda name=name: (name in have, "in a test"), "operations": self.kernels}
            monkeypatch.setitem(
                backends._BACKENDS, name, backends.dataclasses.replace(backends._BACKENDS[name], **changes)
            )
        backends.refresh()
        self.called: list[str] = []
        for module in (sys.modules["lyra_kernels.ops.s4d_conv"], sys.modules["lyra_kernels.ops.s4d_block"]):
            for name, op in list(vars(module).items()):
                if isinstance(op, Op):
                    monkeypatch.setattr(module, name, lambda *args, op=op: self.call(op, args))

    @staticmethod
    def kernels() -> backends.Operations:
        return dict.fromkeys([*CONTRACTS, *(f"{name}_backward" for name in CONTRACTS)], lambda *args: None)

    def call(self, op: Op, args: tuple) -> Any:
        if _watch.watcher is not None:
            return op(*args)
        self.called.append(op.name)
        return op.contract.fake(*args)


@pytest.fixture
def card(monkeypatch, request):
    allow_cuda_tensors()
    yield _Card(monkeypatch, request.param)
    monkeypatch.undo()
    backends.refresh()


def _on_card(modes: int, length: int, **options: Any) -> tuple:
    r = lambda *shape: torch.empty(*shape, device="cuda")  # noqa: E731
    return (r(2, length, 3), r(3), r(3, modes), r(3, modes), r(3, modes, 2)), options


@pytest.mark.parametrize("card", ["triton, cuda", "cuda", ""], indirect=True)
@pytest.mark.parametrize(("modes", "length"), [(64, 100), (65, 128), (65, 129)])
@pytest.mark.parametrize("algorithm", ["auto", "scan", "fft", "direct"])
def test_on_a_card(card, modes, length, algorithm):
    with FakeTensorMode():
        args, options = _on_card(modes, length, algorithm=algorithm)
        said = lk.explain_choice(lk.s4d_conv, *args, **options)
        assert not card.called
        lk.s4d_conv(*args, **options)
    assert [op.op for op in said.ops] == card.called
    first = next(name for name in ("triton", "cuda", "reference") if name in lk.available_backends() and name != "cpu")
    assert said.backend == first and said.ops[0].device == "cuda:0"
    text = str(said)
    assert ("its kernel takes 64 modes, this call has 65" in text) == (
        first == "triton" and modes == 65 and said.algorithm != "scan"
    )
    if first != "reference" and algorithm == "auto" and said.algorithm == "scan":
        assert "measured on an H200 at 64 x 128 x 64, float32: forward" in text


@pytest.mark.parametrize("card", ["triton"], indirect=True)
@pytest.mark.parametrize(
    ("states", "algorithm", "op"), [(8, "auto", "s4d_block"), (8, "fft", "s4d_fft"), (130, "auto", "s4d_fft")]
)
def test_a_layer_on_a_card(card, states, algorithm, op):
    with FakeTensorMode(), torch.device("cuda"):
        layer = lk.S4D(4, d_state=states, transposed=False, algorithm=algorithm)
        said = lk.explain_choice(layer, torch.empty(2, 300, 4))
    assert said.ops[0].op == op and said.algorithm == ("scan" if op == "s4d_block" else "fft")


def test_what_is_refused():
    with pytest.raises(TypeError, match="explain_choice takes a function or layer and what to call it with, not str"):
        lk.explain_choice("s4d_conv")
    with pytest.raises(ValueError, match="Linear calls no op of lyra_kernels"):
        lk.explain_choice(torch.nn.Linear(2, 2), torch.zeros(2))
    with pytest.raises(ValueError, match=r"u must be \(B, 4, L\)"):
        lk.explain_choice(lk.S4D(4), torch.zeros(2, 3, 5))
    with running(), lk.use_backend("cuda"), backends.redescribed("cuda", operations=dict):
        with pytest.raises(RuntimeError, match="backend 'cuda' has no op 'rms_norm'"):
            lk.explain_choice(lk.rms_norm, torch.zeros(2, 3, 4), None)
    assert lk.rms_norm(torch.ones(2, 3, 4), None).sum() == 24  # nobody watches any more


def test_a_packed_batch_is_not_transformed_as_its_mean_is():
    """Of the same sequences padded a transform is cheapest, but one that is long would make all as long."""
    space = lk.S4DKernel(3, 64)
    spectrum = space.log_dt, space.log_A_real, space.A_imag, space.C
    padded = lk.explain_choice(lk.s4d_conv, torch.randn(8, 250, 3), *spectrum)
    packed = lk.explain_choice(lk.s4d_conv, torch.randn(1, 2000, 3), *spectrum, cu_seqlens=torch.arange(0, 2001, 250))
    assert padded.ops[-1].op == "fft_conv" and packed.ops[-1].op == "causal_conv"
    assert "not fft: it takes every sequence of a packed batch for as long as the longest" in str(packed)
