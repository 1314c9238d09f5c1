"""Plain calls go to a backend's function past the dispatcher, and whoever wants to see the dispatcher's op does.

The backend stands in for a GPU's on tensors without memory: the dispatcher would run an op's fake kernel there.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import lyra_kernels as lk
from lyra_kernels import _torch
from lyra_kernels.schemas import OPS

from ..card import card_without_memory

RMS_NORM, BACKWARD = OPS["rms_norm"], OPS["rms_norm_backward"]


@pytest.fixture
def calls() -> Iterator[list[str]]:
    found: list[str] = []
    with card_without_memory(found):
        yield found


def tensors(**options) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3, 8, device="meta", **options), torch.nn.Parameter(torch.ones(8, device="meta"))


class Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.ops: list = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops.append(func)
        return func(*args, **(kwargs or {}))


def test_a_plain_call_and_its_backward_are_direct(calls):
    x, w = tensors(requires_grad=True)
    lk.rms_norm(x, w).sum().backward()
    with torch.no_grad():
        lk.rms_norm(x, w)
    with torch.inference_mode():
        lk.rms_norm(x, w)
    with torch.autocast("cpu"), torch.autocast("cuda", enabled=False):
        lk.rms_norm(x, w)
    assert calls == ["rms_norm", "rms_norm_backward", *["rms_norm"] * 3]
    assert x.grad.shape == x.shape and w.grad.shape == w.shape


def test_the_backward_of_another_thread_is_direct(calls):
    """As autograd's own threads for cards are."""
    x, w = tensors(requires_grad=True)
    y = lk.rms_norm(x, w).sum()
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        pool.submit(y.backward).result()
    assert calls == ["rms_norm", "rms_norm_backward"]


def test_a_change_of_the_choice_takes_effect_at_once(calls):
    x, w = tensors()
    lk.rms_norm(x, w)
    others: list[str] = []
    with card_without_memory(others):
        lk.rms_norm(x, w)
    with lk.use_backend("reference"):
        lk.rms_norm(x, w)
    assert calls == others == ["rms_norm"]
    lk.rms_norm(x, w)
    assert calls == ["rms_norm"] * 2


def test_a_dispatch_mode_sees_the_ops(calls):
    x, w = tensors(requires_grad=True)
    with Seen() as seen:
        y = lk.rms_norm(x, w)
        y.sum().backward()
    assert {RMS_NORM, BACKWARD} <= set(seen.ops) and not calls
    y = lk.rms_norm(x, w)
    with Seen() as seen:
        y.sum().backward()
    assert BACKWARD in seen.ops and calls == ["rms_norm"]


def test_a_function_mode_sees_the_op(calls):
    class Functions(TorchFunctionMode):
        seen: list = []

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.seen.append(func)
            return func(*args, **(kwargs or {}))

    with Functions():
        lk.rms_norm(*tensors())
    assert RMS_NORM in Functions.seen and not calls


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("pre_dispatch", [False, True])
def test_a_trace_holds_the_op(calls, mode, pre_dispatch):
    graph = make_fx(lambda x, w: lk.rms_norm(x, w), tracing_mode=mode, pre_dispatch=pre_dispatch)(*tensors())
    assert RMS_NORM in {node.target for node in graph.graph.nodes} and not calls


def test_a_trace_of_torchscript_holds_the_op(calls):
    with torch.no_grad():
        traced = torch.jit.trace(lambda x, w: lk.rms_norm(x, w), tensors(), check_trace=False)
    assert "lyra::rms_norm" in str(traced.inlined_graph) and not calls


def test_fake_tensors(calls):
    with FakeTensorMode():
        x = torch.randn(2, 3, 8, device="meta")
        assert type(lk.rms_norm(x, None)) is type(x)
    assert type(lk.rms_norm(x, None)) is type(x) and not calls  # and outside of their mode


def test_transforms(calls):
    """They take the Function that has rules for them, below which a call is plain again; a mode sees it there, too."""
    x, w = tensors()

    def all_of_them():
        torch.func.vmap(lambda x: lk.rms_norm(x, w))(x)
        torch.func.grad(lambda x: lk.rms_norm(x, w).sum())(x)
        with forward_ad.dual_level():
            y = lk.rms_norm(forward_ad.make_dual(x, torch.ones_like(x)), w)
            assert forward_ad.unpack_dual(y).tangent is not None

    all_of_them()
    assert calls.count("rms_norm") == 3
    calls.clear()
    with Seen() as seen:
        all_of_them()
    assert seen.ops.count(RMS_NORM) == 4 and not calls  # that of the dual number goes to the dispatcher anyway


def test_a_profile_names_the_op(calls):
    with torch.profiler.profile() as profile:
        lk.rms_norm(*tensors())
    assert "lyra::rms_norm" in {event.name for event in profile.events()} and not calls


class Subclass(Tensor):
    pass


def test_tensors_that_are_not_what_they_say():
    x = torch.randn(2, 3, 8)
    negative = torch._neg_view(x)
    left: list[Tensor] = []
    torch.func.grad(lambda x: left.append(x * 2) or x.sum())(x)
    for other in (negative, left[0], x.as_subclass(Subclass)):
        assert not _torch.plain([x, None, other])
        if other is not left[0]:
            torch.testing.assert_close(lk.rms_norm(other), lk.rms_norm(other.clone()))
    assert _torch.plain([x, torch.nn.Parameter(x), x.conj(), None, 1.0, True, x[:, 1:], x.to("meta")])


def test_double_backward_of_a_plain_call():
    x, w = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lk.rms_norm, [x.requires_grad_(), w.requires_grad_()])
