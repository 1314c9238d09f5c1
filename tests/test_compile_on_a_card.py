"""torch.compile for a card, where there is none: traced on fake CUDA tensors, run on the pretended card.

Dynamo sees CUDA tensors and a card on which Triton works; what it traces runs forward and backward on tensors with
values, and gives what the module gives on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

import lyra_kernels as lk
from benchmarks.gpu_static.guard import allow_cuda_tensors
from lyra import Lyra, LyraForTokenClassification
from lyra_kernels import backends

from .card import card_tensors

SMALL = {"d_input": 5, "d_model": 8, "num_pgc_layers": 1, "num_s4_layers": 1, "d_state": 6}
MODULES: dict[str, Callable[[], nn.Module]] = {
    "rms_norm": lambda: lk.RMSNorm(8),
    "pgc": lambda: lk.PGC(8, kernel_size=5),
    "pgc-causal": lambda: lk.PGC(8, kernel_size=4, causal=True),
    "s4d": lambda: lk.S4D(8, d_state=6, transposed=False),
    "s4d-transposed-bidirectional": lambda: lk.S4D(8, d_state=6, bidirectional=True),
    "s4d-many-modes": lambda: lk.S4D(8, d_state=140, transposed=False),
    "s4d-fft": lambda: lk.S4D(8, d_state=6, transposed=False, algorithm="fft"),
    "s4d-direct": lambda: lk.S4D(8, d_state=6, transposed=False, algorithm="direct"),
    "lyra": lambda: Lyra(**SMALL),
    "lyra-bidirectional-max": lambda: Lyra(**SMALL, bidirectional=True, pool="max"),
    "lyra-tokens": lambda: LyraForTokenClassification(**SMALL, d_output=3),
}
LAYOUTS = {name: ("dense", "padded", "packed") if name != "rms_norm" else ("dense",) for name in MODULES}
ESSENTIAL = {("s4d", "dense", False), ("rms_norm", "dense", True), *((name, "padded", True) for name in MODULES),
             *((name, kind, True) for name in ("s4d", "lyra") for kind in LAYOUTS[name])}  # fmt: skip
CASES = [
    case if case in ESSENTIAL else pytest.param(*case, marks=pytest.mark.full)
    for name in MODULES
    for case in ((name, "dense", False), *((name, kind, True) for kind in LAYOUTS[name]))
]


@pytest.fixture
def card() -> Iterator[None]:
    """PyTorch takes CUDA tensors that are fake, and Triton says that it works."""
    allow_cuda_tensors()
    torch._dynamo.reset()
    with backends.redescribed("triton", availability=lambda: (True, "a card")):
        yield


def arguments(module: nn.Module, layout: str, length: int) -> dict[str, Tensor]:
    """The input, and `lengths` or `cu_seqlens`."""
    batch, tokens = (1, 2 * length) if layout == "packed" else (2, length)
    if isinstance(module, Lyra):
        given = {"x": torch.randint(5, (batch, tokens))}
    else:
        shape = (batch, 8, tokens) if getattr(module, "transposed", False) else (batch, tokens, 8)
        given = {"x" if isinstance(module, lk.RMSNorm) else "u": torch.randn(shape)}
    if layout == "padded":
        given["lengths"] = torch.tensor([length, 3])
    if layout == "packed":
        given["cu_seqlens"] = torch.tensor([0, 5, 2 * length])
    return given


def traced(make: Callable[[], nn.Module], calls: list[dict[str, Tensor]], dynamic: bool) -> list[tuple[Any, list[Any]]]:
    """For each call the graph that serves it, and for each of the graph's inputs its name in the call or the module."""
    found: list[tuple[Any, list[Any]]] = []
    names: dict[int, str] = {}

    def backend(graph: torch.fx.GraphModule, examples: Any) -> Callable[..., Any]:
        def run(*inputs: Any) -> Any:
            found.append((graph, [names.get(id(x), x) for x in inputs]))
            return graph.forward(*inputs)

        return run

    with FakeTensorMode(), torch.device("cuda"):
        module = make().eval()
        compiled = torch.compile(module, fullgraph=True, dynamic=dynamic, backend=backend)
        state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for call in calls:
            given = {k: torch.empty(v.shape, dtype=v.dtype) for k, v in call.items()}
            names.clear()
            names.update({id(v): k for k, v in {**state, **given}.items()})
            out = compiled(**given)
            assert (out[0] if isinstance(out, tuple) else out).device.type == "cuda"
    return found


@pytest.mark.parametrize(("name", "layout", "dynamic"), CASES)
def test_one_graph_with_the_numbers_of_the_cpu(name, layout, dynamic, card):
    module = MODULES[name]().eval()
    calls = [arguments(module, layout, length) for length in (20, 33)]
    graphs = traced(MODULES[name], calls, dynamic)
    assert len({id(graph) for graph, _ in graphs}) == (1 if dynamic else 2)
    parameters = dict(module.named_parameters())
    for call, (graph, inputs) in zip(calls, graphs, strict=True):
        assert any("lyra." in str(node.target) for node in graph.graph.nodes)
        wanted = module(**call)
        wanted_gradients = torch.autograd.grad(wanted.sin().sum(), list(parameters.values()))
        with card_tensors():
            state = {k: v.detach().to("cuda").requires_grad_(v.requires_grad) for k, v in parameters.items()}
            given = {**state, **{k: v.to("cuda") for k, v in call.items()}}
            (found,) = graph(*(given[x] if isinstance(x, str) else x for x in inputs))
            gradients = torch.autograd.grad(found.sin().sum(), list(state.values()))
            torch.testing.assert_close(found.cpu(), wanted)
            for a, b in zip(gradients, wanted_gradients, strict=True):
                torch.testing.assert_close(a.cpu(), b, rtol=1e-4, atol=1e-4)
