"""Whom use_backend and use_cpu_isa speak for: threads, tasks, generators, compiled code, checkpoints."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.debugging import aot_eager
from torch.utils.checkpoint import checkpoint

import lyra_kernels as lk
from lyra_kernels import backends
from lyra_kernels.backends import cpu, native, reference
from lyra_kernels.schemas import OPS, OPS_ON

from ..card import kernels_for_cuda

needs_native = pytest.mark.skipif(native.MODULE is None, reason="the C++ kernels are not built")


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    yield
    assert backends.forced() is None and not backends._recomputed and not backends._blocks.get()


@pytest.fixture
def served() -> Iterator[list[str]]:
    """The ops that the backend "cuda" was asked for; its kernels are the formulas, on the CPU."""
    calls: list[str] = []

    def telling(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: calls.append(name) or function(*args)

    with kernels_for_cuda({name: telling(name, f) for name, f in reference.operations().items()}):
        yield calls


def norm(x: Tensor) -> Tensor:
    return lk.rms_norm(x, None)


def leaf() -> Tensor:
    return torch.randn(2, 3, 4, requires_grad=True)


def in_a_thread(function: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


# ---- threads, tasks, generators ------------------------------------------------------------------------------
SCOPES = {
    "backend": (lk.use_backend, backends.forced, "reference", "cuda"),
    "isa": (backends.use_cpu_isa, cpu._ISA.get, *(backends.available_cpu_isas() * 2)[:2]),
}


@pytest.fixture(params=[pytest.param("backend"), pytest.param("isa", marks=needs_native)])
def scope(request, served) -> tuple[Callable[..., Any], Callable[[], Any], str, str]:
    """The block, what is chosen, and two choices."""
    return SCOPES[request.param]


def test_overlapping_threads(scope):
    use, chosen, one, other = scope
    first_in, second_in, seen = threading.Event(), threading.Event(), {}

    def first():
        with use(one):
            first_in.set()
            second_in.wait(5)
            seen["first"] = chosen()

    def second():
        first_in.wait(5)
        with use(other):
            second_in.set()
            threads[0].join(5)
            seen["second"] = chosen()
        seen["after"] = chosen()

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"first": one, "second": other, "after": None} and chosen() is None
    with use(one):
        assert in_a_thread(chosen) is None


def test_tasks(scope):
    use, chosen, one, other = scope
    seen: list[Any] = []

    async def child():
        await asyncio.sleep(0)
        seen.append(("child", chosen()))

    async def task(name: str):
        with use(name):
            started = asyncio.create_task(child()) if name is one else None
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append((name, chosen()))
        seen.append(("after", chosen()))
        if started:
            await started

    async def both():
        await asyncio.gather(task(one), task(other))
        seen.append(("after", chosen()))

    asyncio.run(both())
    assert set(seen) == {(one, one), (other, other), ("child", one), ("after", None)}


def test_exceptions_and_nesting(scope):
    use, chosen, one, other = scope
    with pytest.raises(ZeroDivisionError), use(one):
        with use(other):
            assert chosen() == other
        assert chosen() == one
        raise ZeroDivisionError
    assert chosen() is None


def test_generators(scope):
    """Their blocks end in any order, in another context than they began in, or when nobody knows."""
    use, chosen, one, other = scope

    def generator(name: str) -> Iterator[None]:
        with use(name):
            yield

    first, second = generator(one), generator(other)
    next(first), next(second)
    del first
    assert chosen() == other
    second.close()
    assert chosen() is None
    third = generator(one)
    next(third)
    assert contextvars.copy_context().run(lambda: third.close() or chosen()) is None
    assert chosen() is None
    fourth = generator(one)
    next(fourth)
    in_a_thread(fourth.close)
    with use(other):
        assert chosen() == other
    assert chosen() is None


# ---- compiled code -------------------------------------------------------------------------------------------
def test_compiled_code_asks_each_time(served):
    """One compiled function: each call, with its backward, is served by who is asked for where it is made."""
    torch._dynamo.reset()
    compiled = torch.compile(norm, backend="aot_eager", fullgraph=True)
    wanted = {"cuda": ["rms_norm", "rms_norm_backward"]}

    def call(name: str | None) -> None:
        served.clear()
        x = leaf()
        with lk.use_backend(name):
            y = compiled(x)
        y.sum().backward()  # outside of the block
        assert served == wanted.get(name, []), name
        torch.testing.assert_close(x.grad, torch.autograd.grad(norm(x).sum(), x)[0])

    for name in (None, "cuda", "reference", None, "cuda"):
        call(name)
    with lk.use_backend("cuda"):
        call(None)
        in_a_thread(lambda: call("reference"))
        served.clear()
        in_a_thread(lambda: compiled(leaf()))
        assert not served
    call("cuda")


def test_compiled_once_for_each_backend(served):
    torch._dynamo.reset()
    compiles: list[Any] = []
    compiled = torch.compile(norm, backend=lambda g, inputs: compiles.append(g) or aot_eager(g, inputs), fullgraph=True)
    x = torch.randn(2, 3, 4)
    for name in (None, "cuda", "reference") * 2:
        with lk.use_backend(name):
            compiled(x)
    assert len(compiles) == 3


def test_blocks_inside_compiled_code(served):
    torch._dynamo.reset()

    def function(x):
        with lk.use_backend("cuda"):
            a = lk.rms_norm(x)
            with lk.use_backend(None):
                b = lk.rms_norm(a)
                with lk.use_backend("reference"):
                    b = lk.rms_norm(b)
            return lk.rms_norm(b) + lk.rms_norm(a), backends.forced()

    def after(x):
        y, inside = function(x)
        return lk.rms_norm(y), inside, backends.forced()

    compiled = torch.compile(after, backend="aot_eager", fullgraph=True)
    for outside in (None, "reference"):
        with lk.use_backend(outside):
            served.clear()
            x = leaf()
            y, *names = compiled(x)
            assert names == ["cuda", outside] and served == ["rms_norm"] * 3 and backends.forced() == outside
        y.sum().backward()
        assert served == ["rms_norm"] * 3 + ["rms_norm_backward"] * 3
        torch.testing.assert_close(x.grad, torch.autograd.grad(after(x)[0].sum(), x)[0])


def test_a_block_that_cannot_be_compiled(served):
    torch._dynamo.reset()
    seen: list[Any] = []

    def function(x):
        with lk.use_backend("cuda"):
            x = lk.rms_norm(x)
            torch._dynamo.graph_break()
            seen.append(backends.forced())
            return lk.rms_norm(x)

    x = torch.randn(2, 3, 4)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(function, backend="eager", fullgraph=True)(x)
    assert backends.forced() is None and not seen
    assert torch.compile(lambda: backends.forced(), backend="eager")() is None
    torch.compile(function, backend="eager")(x)
    assert seen == ["cuda"] and served == ["rms_norm"] * 2


def test_a_backend_that_compiled_code_cannot_have():
    def function(x, name):
        with lk.use_backend(name):
            return lk.rms_norm(x)

    torch._dynamo.reset()
    with pytest.raises(ValueError, match="backend 'gpu' does not exist: it must be one of triton, cuda"):
        torch.compile(function, backend="eager")(torch.randn(2, 3, 4), "gpu")
    with backends.redescribed("cuda", availability=lambda: (False, "no card")):
        with pytest.raises(RuntimeError, match="backend 'cuda' is not available here: no card"):
            torch.compile(function, backend="eager")(torch.randn(2, 3, 4), "cuda")


def test_a_program_keeps_its_backend(served):
    class Model(torch.nn.Module):
        def forward(self, x):
            return norm(x)

    x = torch.randn(2, 3, 4)
    for strict in (False, True):
        with lk.use_backend("cuda"):
            program = torch.export.export(Model(), (x,), strict=strict)
        served.clear()
        torch.testing.assert_close(program.module()(x), norm(x))
        assert served == ["rms_norm"]
    plain = program.run_decompositions(lk.decompositions())
    assert "lyra" in str(program.graph) and "lyra" not in str(plain.graph)
    torch.testing.assert_close(plain.module()(x), norm(x))
    with lk.use_backend("cuda"), torch.no_grad():
        traced = torch.jit.trace(norm, (x,), check_trace=False)
    served.clear()
    traced(x)
    assert served == ["rms_norm"]
    with backends.redescribed("cuda", availability=lambda: (False, "no card")):
        with pytest.raises(RuntimeError, match="backend 'cuda' is not available here: no card"):
            program.module()(x)


def test_ops_that_name_a_backend(served):
    """They have the derivatives of the others, on the same backend, and refuse as the public functions do."""
    x, weight = leaf(), torch.randn(4, requires_grad=True)
    op = OPS_ON["rms_norm"]
    torch.library.opcheck(op, ("cuda", x, weight, 1e-8))
    served.clear()
    found = torch.autograd.grad(op("cuda", x, weight, 1e-8).square().sum(), (x, weight))
    assert served == ["rms_norm", "rms_norm_backward"]
    wanted = torch.autograd.grad(OPS["rms_norm"](x, weight, 1e-8).square().sum(), (x, weight))
    torch.testing.assert_close(found, wanted)
    with pytest.raises(ValueError, match="backend 'gpu' does not exist"):
        op("gpu", x, weight, 1e-8)


# ---- checkpoints ---------------------------------------------------------------------------------------------
FORWARD, BOTH = ["rms_norm"], ["rms_norm", "rms_norm_backward"]


def test_a_checkpoint_recomputes_where_its_forward_ran(served):
    x = leaf()
    with lk.use_backend("cuda"):
        y = checkpoint(norm, x, use_reentrant=False)
    assert served == FORWARD
    y.sum().backward(retain_graph=True)
    assert served == FORWARD + BOTH
    with lk.use_backend("reference"):
        y.sum().backward(retain_graph=True)
        in_a_thread(y.sum().backward)
    assert served == FORWARD + BOTH * 3


def test_a_checkpoint_outside_of_all_blocks(served):
    y = checkpoint(norm, leaf(), use_reentrant=False)
    with lk.use_backend("cuda"):
        other = norm(leaf())
        y.sum().backward()  # would be refused: another number of saved tensors
    assert served == FORWARD and other is not None


def test_blocks_inside_and_around_a_checkpoint(served):
    def function(x):
        x = lk.rms_norm(x)
        with lk.use_backend("reference"):
            x = lk.rms_norm(x)
        with lk.use_backend(None):
            x = lk.rms_norm(x)
        return lk.rms_norm(x)

    x = leaf()
    with lk.use_backend("cuda"):
        y = checkpoint(function, x, use_reentrant=False)
    served.clear()
    with lk.use_backend("reference"):
        y.sum().backward()
    assert served == ["rms_norm"] * 2 + ["rms_norm_backward"] * 2
    torch.testing.assert_close(x.grad, torch.autograd.grad(function(x).sum(), x)[0])


@pytest.mark.parametrize("block", ["around both", "between them"])
def test_checkpoints_inside_checkpoints(served, block):
    def inner(x):
        return lk.rms_norm(lk.rms_norm(x))

    def outer(x):
        with lk.use_backend("cuda" if block == "between them" else backends.forced()):
            return lk.rms_norm(checkpoint(inner, x, use_reentrant=False))

    def outermost(x):
        return checkpoint(inner, x, use_reentrant=False) * 2

    for function, ops in ((outer, 3), *(((outermost, 2),) if block == "around both" else ())):
        x = leaf()
        with lk.use_backend("cuda" if block == "around both" else None):
            y = checkpoint(function, x, use_reentrant=False)
        assert served == ["rms_norm"] * ops
        y.sum().backward()
        assert served.count("rms_norm_backward") == ops and served.count("rms_norm") >= 2 * ops
        served.clear()


def test_checkpoints_and_compiled_code(served):
    torch._dynamo.reset()
    compiled = torch.compile(norm, backend="aot_eager", fullgraph=True)
    around = torch.compile(lambda x: checkpoint(norm, x, use_reentrant=False), backend="aot_eager", fullgraph=True)
    compiled(leaf()), around(leaf())  # compiled without a backend before
    wanted = {lambda x: checkpoint(compiled, x, use_reentrant=False): FORWARD + BOTH, around: BOTH}
    for function, calls in wanted.items():  # the compiler sees that the second needs no recomputation
        served.clear()
        with lk.use_backend("cuda"):
            y = function(leaf())
        y.sum().backward()
        assert served == calls


def test_hooks_of_others_stay_as_they_are(served):
    packed: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: packed.append(x) or x, lambda x: x):
        with lk.use_backend("cuda"):
            y = norm(leaf())
        assert packed
        packed.clear()
        leaf().exp()
    assert len(packed) == 1
    y.sum().backward()
    with torch.autograd.graph.disable_saved_tensors_hooks("not here"), lk.use_backend("cuda"):
        norm(torch.randn(2, 3, 4))


# ---- instruction sets ----------------------------------------------------------------------------------------
@needs_native
def test_kernels_ask_for_the_instruction_set(monkeypatch):
    """Whoever calls them: Python, compiled code, a backward, a recomputation, another thread."""
    torch._dynamo.reset()
    isa, asked = backends.available_cpu_isas()[0], []
    native.MODULE.choose_cpu_isa_by(lambda: asked.append(cpu._ISA.get()) or asked[-1])
    try:
        for function in (norm, torch.compile(norm, backend="aot_eager", fullgraph=True)):
            with backends.use_cpu_isa(isa):
                assert backends.cpu_isa() == isa
                asked.clear()
                y = function(leaf())
                assert set(asked) == {isa}
            y.sum().backward()
            assert set(asked[1:]) == {None}
            asked.clear()
            with backends.use_cpu_isa(isa):
                y = checkpoint(function, leaf(), use_reentrant=False)
                in_a_thread(lambda function=function: function(leaf()))
            assert asked == [isa, None]
            y.sum().backward()
            assert asked == [isa, None, isa, None]  # the recomputation, the backward
    finally:
        native.MODULE.choose_cpu_isa_by(cpu._ISA.get)


@needs_native
def test_an_instruction_set_that_does_not_come(monkeypatch):
    """An error while it is asked for is told, and the kernel runs with the process's."""
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: told.append(error.exc_type))
    x = torch.randn(2, 3, 4)
    wanted = norm(x)
    native.MODULE.choose_cpu_isa_by(lambda: 1 / 0)
    try:
        torch.testing.assert_close(norm(x), wanted)
    finally:
        native.MODULE.choose_cpu_isa_by(cpu._ISA.get)
    assert told == [ZeroDivisionError]
