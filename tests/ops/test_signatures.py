"""What was found right once is not checked again, and nothing else is taken for it."""

from __future__ import annotations

import pytest
import torch

import lyra_kernels as lk
from lyra_kernels.ops import _checks

X, W = torch.randn(2, 5, 8), torch.ones(4, 1, 3)


@pytest.fixture
def checked():
    """A check, and how often it was made."""
    calls = []

    @_checks.once_a_signature
    def check(*args):
        calls.append(args)
        if "wrong" in args:
            raise ValueError("wrong")

    return check, calls


@pytest.mark.parametrize(
    "other",
    [X.double(), X[:1], X.to("meta"), X[0], None, 1, torch.ones(2, 5, 8, 1), [1], {}],
    ids=lambda x: type(x).__name__,
)
def test_other_arguments_are_checked(checked, other):
    check, calls = checked
    for _ in range(2):
        check(X, True)
        check(torch.nn.Parameter(X), True)
        check(X + 1, True)
    assert len(calls) == 1
    check(other, True)
    check(X, other)
    assert len(calls) == 3


@pytest.mark.parametrize("pair", [(1, True), (0, False), (1, 1.0), (None, False), ("1", 1)], ids=repr)
def test_what_python_says_is_equal_is_not(checked, pair):
    check, calls = checked
    for value in pair * 2:
        check(value)
    assert len(calls) == 2


def test_what_is_wrong_stays_wrong(checked):
    check, calls = checked
    for _ in range(3):
        with pytest.raises(ValueError, match="wrong"):
            check("wrong")
    assert len(calls) == 3


def test_memory_has_a_bound(checked, monkeypatch):
    monkeypatch.setattr(_checks, "MOST_SIGNATURES", 5)
    check, calls = checked
    for number in range(50):
        check(number)
    check(49)
    assert len(calls) == 50


def test_errors_after_a_right_call():
    for _ in range(2):
        lk.gated_conv(X, W, lengths=torch.tensor([5, 2]), causal=True)
        with pytest.raises(TypeError, match="causal must be True or False, not 1"):
            lk.gated_conv(X, W, causal=1)
        with pytest.raises(ValueError, match="lengths must lie between 0 and the length of xv, 5; got 6"):
            lk.gated_conv(X, W, lengths=torch.tensor([6, 2]), causal=True)
        with pytest.raises(ValueError, match="eps must be a number of at least 0, not -1"):
            lk.gated_conv(X, W, eps=-1, causal=True)
        with pytest.raises(ValueError, match="conv_bias is on meta but xv is on cpu"):
            lk.gated_conv(X, W, torch.ones(4, device="meta"), causal=True)


def test_values_of_lengths_are_read_each_time():
    y, w = torch.randn(2, 5, 4), torch.randn(8, 4)
    spectrum = torch.zeros(4), torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(4, 2, 2)
    for call in (lambda n: lk.gelu_glu(y, w, lengths=n), lambda n: lk.s4d_conv(y, *spectrum, lengths=n)):
        call(torch.tensor([5, 1]))
        with pytest.raises(ValueError, match="got 7"):
            call(torch.tensor([7, 1]))
