"""Compares an emulated op and its backward with the reference in float64."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from emulation.build import emulation
from lyra_kernels import reference
from lyra_kernels.backends import cuda
from lyra_kernels.schemas import CONTRACTS

LACKING: tuple[str, ...] = ("short_conv",)
"""Ops without a CUDA C++ kernel, which the next backend serves."""

FLAVOUR = os.environ.get("LYRA_EMULATION_FLAVOUR", "monitor")
ORDERS = (0,) if FLAVOUR == "tsan" else (0, 1)
"""Orders of the threads and blocks; a correct kernel gives the same bits in each. Threads of the system have none."""

STORED = {torch.float32: 1e-6, torch.float64: 1e-14, torch.float16: 1e-3, torch.bfloat16: 5e-3}
"""Relative RMS error of activations, whose storage rounds them; sums over tokens are in the compute dtype."""
SUMMED = {torch.float32: 2e-6, torch.float64: 1e-13, torch.float16: 2e-6, torch.bfloat16: 2e-6}


@cache
def implementations() -> Mapping[str, Callable]:
    """Every op of the CUDA backend by name, its kernels emulated."""
    return cuda.implementations(emulation(FLAVOUR).ops)


def in_every_order(call: Callable[[], Any]) -> tuple[Tensor, ...]:
    """What the call returns, after checking that the order of the threads does not change a bit of it."""
    results = []
    for order in ORDERS:
        emulation(FLAVOUR).set_order(order)
        found = call()
        results.append((found,) if isinstance(found, Tensor) else tuple(found))
    emulation(FLAVOUR).set_order(0)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            # The poison in checkpoints that no token needs is NaN, which equals nothing.
            same = torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())
            assert same, "the result depends on the order of the threads"
    return results[0]


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """RMS of the difference over RMS of what is wanted; NaN if either has one, which no limit admits."""
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    if wanted.numel() == 0:
        return 0.0
    difference, scale = (found.double() - wanted.double()).norm(), wanted.double().norm()
    return float(difference / scale) if scale > 0 else float(difference)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def doubled(args: Sequence[Any]) -> list[Any]:
    return [a.detach().double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]


def padding(lengths: Tensor, length: int) -> Tensor:
    """``(B, length)`` booleans, true at padded positions."""
    return torch.arange(length) >= lengths[:, None]


def check(
    name: str,
    args: Sequence[Any],
    differentiable: int,
    hide: Tensor | None = None,
    replace: Mapping[str, Callable] | None = None,
) -> None:
    """An op with one output, and its backward, against the reference in float64.

    Args:
        args: of the op; the first is the activations.
        differentiable: how many leading arguments the backward op gives gradients of.
        hide: booleans of the activations' first two dimensions: positions filled with NaN for the kernel, where
            output and gradient must be zero.
        replace: functions to call in the place of the backend's, where signatures differ.
    """
    contract, dtype = CONTRACTS[name], args[0].dtype
    exact = doubled(args)
    present = [i for i in range(differentiable) if exact[i] is not None]
    for i in present:
        exact[i].requires_grad_()
    wanted = getattr(reference, name)(*exact)
    grad = torch.randn(wanted.shape).to(dtype)
    gradients = torch.autograd.grad(wanted, [exact[i] for i in present], grad.double(), allow_unused=True)
    given = list(args)
    if hide is not None:
        for i in (0, *contract.residuals):
            given[i] = None if given[i] is None else torch.where(hide.unsqueeze(-1), torch.nan, given[i])
        grad = torch.where(hide.unsqueeze(-1), torch.nan, grad)
    ops = {**implementations(), **(replace or {})}
    backward_arguments = contract.backward_arguments([grad], given, [])
    (found,) = in_every_order(lambda: ops[name](*given))
    found_gradients = in_every_order(lambda: ops[f"{name}_backward"](*backward_arguments))
    assert found.dtype == dtype
    assert relative_error(found, wanted.detach()) <= STORED[dtype]
    assert len(found_gradients) == differentiable
    if hide is not None:
        assert not found[hide].any() and not found_gradients[0][hide].any()
    for i, gradient in enumerate(found_gradients):
        if i not in present:
            assert gradient.shape == (0,)
            continue
        assert gradient.dtype == args[i].dtype
        expected = gradients[present.index(i)]
        expected = torch.zeros_like(exact[i]) if expected is None else expected
        limit = STORED if i == 0 else SUMMED
        assert relative_error(gradient, expected) <= limit[dtype], f"gradient {i}"
