"""The backend that is always there: every dispatcher op and its backward by the reference formula, on any device."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .. import _torch
from .. import reference as formulas
from ..schemas import CONTRACTS, Contract
from .backend import Backend, Operations


def as_tuple(x: Any) -> tuple[Tensor, ...]:
    return tuple(x) if isinstance(x, (tuple, list)) else (x,)


def _as_outside(function: Callable, *args: Any) -> Any:
    """Call a function of tensors from inside a kernel as if outside: complex arithmetic and autograd work."""
    with _torch.as_outside_a_kernel():
        return function(*(a.detach() if isinstance(a, Tensor) else a for a in args))


def _forward(contract: Contract) -> Callable:
    formula = getattr(formulas, contract.name)

    def forward(*args: Any) -> Any:
        with torch.no_grad():
            out = as_tuple(_as_outside(formula, *contract.formula_arguments(args)))
        out = tuple(o.contiguous() for o in out)
        if contract.kept:  # the formula leaves nothing for its backward, which starts from the inputs
            out += tuple(torch.zeros_like(empty) for empty in contract.fake(*args)[len(out) :])
        return out[0] if len(out) == 1 else out

    return forward


def _backward(contract: Contract) -> Callable:
    formula = getattr(formulas, contract.name)

    def gradients(*backward_args: Any) -> tuple[Tensor, ...]:
        grads, given = contract.split(backward_args)
        args = list(given)
        present = [i for i in contract.returned if args[i] is not None]
        for i in present:
            args[i] = args[i].detach().requires_grad_()
        outputs = as_tuple(formula(*contract.formula_arguments(args)))
        pairs = [(o, g.to(o.dtype)) for o, g in zip(outputs, grads, strict=False) if g is not None]
        outputs, cotangents = zip(*pairs, strict=True)
        found = torch.autograd.grad(outputs, [args[i] for i in present], cotangents, materialize_grads=True)
        return contract.gradients(args, dict(zip(present, found, strict=True)))

    def backward(*args: Any) -> tuple[Tensor, ...]:
        with torch.inference_mode(False), torch.enable_grad():
            args = tuple(a.clone() if isinstance(a, Tensor) and a.is_inference() else a for a in args)
            found = _as_outside(gradients, *args)
        return tuple(g.detach() for g in found)

    return backward


@cache
def operations() -> Operations:
    """Every op and its backward."""
    table = {}
    for name, contract in CONTRACTS.items():
        table[name], table[name + "_backward"] = _forward(contract), _backward(contract)
    return table


BACKEND = Backend(
    name="reference",
    devices=("cpu", "cuda", "meta", "mps", "xpu"),
    availability=lambda: (True, "plain PyTorch"),
    operations=operations,
)
