"""What a call may do, and still be planned; and that whatever else it does is seen, and keeps it from being one."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from lyra_kernels import _torch
from lyra_kernels.backends.triton import _plans, _recording

if not hasattr(torch.ops.lyra_plans, "replay"):
    pytest.skip("the native library was not built", allow_module_level=True)

KNOWN = torch.randn(4, 6)
"""A tensor that an op has from elsewhere."""


def planned(function: Callable[..., Any], name: str = "rms_norm") -> _plans.Planned:
    """An op's plans with a function of the test's own in its place."""
    return _plans.Planned(name, function)


def copied(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x.new_empty(x.shape[::-1]).copy_(x.t())


def cloned(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x[1:, 2:].clone()


def converted(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x.to(torch.bfloat16)


def contiguous(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x.t().contiguous()


def zeros(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    out = torch.zeros_like(x)
    out[1].copy_(weight)
    return out


def cleared(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    out = x.clone()
    out[:, 3:].zero_()
    return out


def product(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x.t() @ torch.empty_like(x).copy_(weight)


def part_of_what_it_made(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    both = x.new_empty(2, *x.shape)
    both[0].copy_(weight)
    both[1].copy_(x)
    return both[1].t()


def through_memory_of_its_own(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    a = x.clone()
    b = torch.empty_like(a).copy_(a)
    del a
    c = torch.empty_like(b).copy_(b)
    return c.view(-1)


@pytest.mark.parametrize(
    "function",
    [copied, cloned, converted, contiguous, zeros, cleared, product, part_of_what_it_made, through_memory_of_its_own],
    ids=lambda f: f.__name__,
)
def test_is_planned(function):
    op = planned(function)
    for _ in range(2):
        op(torch.randn(4, 6), torch.randn(6), 1e-6)
    op.function = None
    for shifted in (False, True):
        x, weight = torch.randn(4, 6), torch.randn(6)
        if shifted:
            x = torch.randn(28)[4:].view(4, 6)  # 16 bytes beyond the beginning of its storage
        found, wanted = op(x, weight, 1e-6), function(x, weight, 1e-6)
        assert torch.equal(found, wanted) and found.stride() == wanted.stride() and found.dtype == wanted.dtype
    assert not op.refusals


def computes(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x.sin()


def reads_a_value(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x).copy_(x) if bool(x[0, 0] > 0) else torch.zeros_like(x)


def returns_what_it_was_given(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x.view(-1)


def copies_from_elsewhere(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x).copy_(KNOWN)


def returns_what_is_from_elsewhere(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return KNOWN


def looks_from_elsewhere(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x).copy_(KNOWN[0])


def as_another_type(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x).copy_(x.view(torch.int32).view(torch.float32))


def conjugates(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x).copy_(x.conj())


def of_a_rare_type(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x, dtype=torch.uint16).copy_(x)


def changes_what_it_was_given(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x).copy_(x.add_(1))


@pytest.mark.parametrize(
    "function, reason",
    [
        (computes, "aten::sin"),
        (reads_a_value, "aten::"),
        (returns_what_it_was_given, "returns what it was given"),
        (copies_from_elsewhere, "was not given and did not make"),
        (returns_what_is_from_elsewhere, "was not given and did not make"),
        (looks_from_elsewhere, "something unknown"),
        (as_another_type, "as another type"),
        (changes_what_it_was_given, "aten::add_"),
        (of_a_rare_type, "not a plain one"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_is_not_planned(function, reason):
    op = planned(function)
    for _ in range(6):
        x, weight = torch.randn(4, 6), torch.randn(6)
        assert torch.equal(op(x.clone(), weight, 1e-6), function(x.clone(), weight, 1e-6))
    assert len(op.refusals) == 1 and reason in next(iter(op.refusals)), op.refusals


def test_conjugate_and_negative_views_are_not_planned():
    """Memory has something else than they say."""
    op = planned(conjugates)
    for _ in range(4):
        x = torch.randn(4, 6, dtype=torch.complex64)
        assert torch.equal(op(x, None, 1e-6), x.conj())
    assert "conjugate" in next(iter(op.refusals))
    for turned in (torch.randn(4, 6, dtype=torch.complex64).conj(), torch._neg_view(torch.randn(4, 6))):
        with pytest.raises(_recording.NotPlanned, match="conjugate or negative"):
            _recording.Recording([turned]).program([turned])


def test_what_torch_cannot_make_is_left_to_python():
    """Out of memory is torch's own error then, by its type and its words, which do not come through the stable ABI."""
    op, x = planned(cloned), torch.randn(4, 6)
    op(x, None, 1e-6)
    op(x, None, 1e-6)
    (table,) = op._tables.values()
    size = 1 << 50
    too_big = [0, 1, _recording._ALLOCATE, 6, 1, size, 1, 1, 2, 0, 1, size, 1]
    torch.ops.lyra_plans.add(table, [x, None], too_big)
    assert torch.ops.lyra_plans.replay(table, [x, None]) == ([], -1)
    assert torch.equal(op(x, None, 1e-6), x[1:, 2:])


def test_a_watched_call_needs_no_more_memory():
    """What an op is done with is freed while it is watched, too."""
    made: list[weakref.ref[Tensor]] = []

    def function(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        for _ in range(3):
            x = x.clone()
            made.append(weakref.ref(x))
            assert [ref() is not None for ref in made].count(True) == 1
        made.clear()
        return x

    op, x = planned(function), torch.randn(4, 6)
    for _ in range(3):
        assert torch.equal(op(x, None, 1e-6), x)
    assert not op.refusals


def test_an_error_while_it_is_watched_leaves_nothing_behind():
    calls = []

    def function(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise ValueError("a bad day")
        return x.clone()

    op, x = planned(function), torch.randn(4, 6)
    op(x, None, 1e-6)
    with pytest.raises(ValueError, match="a bad day"):
        op(x, None, 1e-6)
    for _ in range(3):
        assert torch.equal(op(x, None, 1e-6), x)
    assert len(calls) == 3, "not planned after the error"


def test_several_results():
    def function(grad: Tensor, x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
        return grad.clone(), x.new_empty(0) if weight is None else weight.clone()

    op = planned(function, "rms_norm_backward")
    for weight in (torch.randn(6), None):
        for _ in range(4):
            grad = torch.randn(4, 6)
            found = op(grad, torch.randn(4, 6), weight, 1e-6)
            assert isinstance(found, tuple) and torch.equal(found[0], grad)
            assert torch.equal(found[1], torch.empty(0) if weight is None else weight)


def test_memory_is_given_back_as_soon_as_it_has_served():
    """By the plan as by Python: what is in use at once does not grow."""

    def function(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        for _ in range(3):
            x = x.clone()
        return x

    recording = _recording.Recording([x := torch.randn(4, 6)])
    with _torch.dispatches_seen_by(recording.saw):
        result = function(x, x, 1e-6)
    kinds = [step[0] for step in recording.steps([result])[1]]
    a, f, c = _recording._ALLOCATE, _recording._FREE, _recording._COPY
    assert kinds == [a, c, a, c, f, a, c, f]


@pytest.mark.parametrize(
    "program, problem",
    [
        ([], "ends in the middle"),
        ([0, 1, 0, 6, 2, 4], "ends in the middle"),
        ([0, 1, 9], "no step of kind 9"),
        ([0, 0, 1, 3, 0, 0], "uses slot 3 of 1"),
        ([0, 0, 1, 0, 0, 0], "returns argument 0"),
        ([0, 1, 1, 0, 0], "frees argument 0"),
        ([0, 0, 0, 5], "goes on after its results"),
        ([0, 1, 0, 6, 1, -4, 1, 0], "-4 where a number cannot be negative"),
        ([8, 1, 6, 8, 0], "a place at 8 of 8 bytes"),
        ([8, 1, 6, 0, 1, 1, 0, 0], "slot 1 of 2, which is no tensor"),
        ([0, 2, 0, 6, 0, 1, 1, 1, 1, 0, 0], "slot 1 of 2, which is no tensor"),
        ([0, 1, 2, 64, 1, 1, 1, 32, 0, 1, 7, 0, 0], "uses slot 7 of 1"),
    ],
)
def test_what_is_no_plan(program, problem):
    table = torch.ops.lyra_plans.open()
    with pytest.raises(RuntimeError, match=problem):
        torch.ops.lyra_plans.add(table, [torch.zeros(3)], program)
    with pytest.raises(RuntimeError, match="there is no table"):
        torch.ops.lyra_plans.replay(table + 1, [torch.zeros(3)])


@pytest.mark.parametrize(
    "value, kind, wanted",
    [(7, "i32", 7), (-1, "i32", 2**64 - 1), (2**40, "i64", 2**40), (True, "i1", 1), (1.0, "fp32", 0x3F800000)],
)
def test_numbers_as_they_lie_in_memory(value, kind, wanted):
    assert _recording.packed(value, kind) == wanted


def test_numbers_that_no_kernel_here_has():
    for value, kind in ((1.0, "fp16"), (1e39, "fp32")):
        with pytest.raises(_recording.NotPlanned, match=kind):
            _recording.packed(value, kind)
