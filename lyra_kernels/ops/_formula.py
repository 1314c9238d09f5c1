"""Derivatives of an op, and of its backward, through its reference formula: what no kernel has is computed by these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ..backends.reference import as_tuple
from ..schemas import CONTRACTS
from ._checks import autocast_enabled

Arguments = tuple[Any, ...]
_vjp: Callable[..., tuple[Any, Callable[..., Any]]] = cast(Any, torch.func.vjp)


class Formula:
    """A reference formula and its derivatives.

    Args:
        name: of the dispatcher op, which has a contract.
        formula: the reference.
    """

    def __init__(self, name: str, formula: Callable) -> None:
        self.name = name
        self.contract = CONTRACTS[name]
        self.outputs = len(self.contract.outputs)
        self.reference = _exact(lambda *args: formula(*self.contract.formula_arguments(args)))

    def present(self, args: Arguments) -> tuple[int, ...]:
        """Positions of the differentiable arguments that are there."""
        return tuple(i for i in self.contract.differentiable if args[i] is not None)

    def formula(self, args: Arguments) -> Callable[..., tuple[Tensor, ...]]:
        """The reference as a function of its differentiable arguments alone."""
        present = self.present(args)

        def function(*values: Tensor) -> tuple[Tensor, ...]:
            full = list(args)
            for i, value in zip(present, values, strict=True):
                full[i] = value
            return as_tuple(self.reference(*full))[: self.outputs]

        return function

    def reference_gradients(self, grads: Arguments, args: Arguments) -> tuple[Tensor, ...]:
        """Gradients of the present differentiable arguments, by the reference."""
        outputs, vjp = _vjp(self.formula(args), *(args[i] for i in self.present(args)))
        return vjp(_cotangents(grads, outputs))

    def with_nothing_kept(self, *args: Any) -> Any:
        """The dispatcher op by the reference, in plain PyTorch; what it should keep for its backward is NaN."""
        out = as_tuple(self.reference(*args))
        kept = self.contract.fake(*args)[len(out) :] if self.contract.kept else ()
        out = (*out, *(torch.full_like(empty, torch.nan) for empty in kept))
        return out[0] if len(out) == 1 else out

    def backward_by_reference(self, *backward_args: Any) -> tuple[Tensor, ...]:
        """The dispatcher op of the backward by the reference, in plain PyTorch."""
        grads, args = self.contract.split(backward_args)
        found = dict(zip(self.present(args), self.reference_gradients(grads, args), strict=True))
        return self.contract.gradients(args, found)

    def jvp(self, args: Arguments, tangents: Arguments) -> tuple[Tensor, ...]:
        """Forward-mode derivative of the op."""
        present = self.present(args)
        return _pushforward(self.formula(args), [args[i] for i in present], [tangents[i] for i in present])

    def jvp_of_backward(self, backward_args: Arguments, tangents: Arguments) -> tuple[Tensor, ...]:
        """Forward-mode derivative of the backward op."""
        function, positions = self.gradient_formula(backward_args)
        pushed = _pushforward(function, [backward_args[i] for i in positions], [tangents[i] for i in positions])
        args = self.contract.split(backward_args)[1]
        return self.contract.gradients(args, dict(zip(self.present(args), pushed, strict=True)))

    def double_backward(self, backward_args: Arguments, cotangents: Arguments) -> Arguments:
        """Gradients of the backward op's arguments."""
        function, positions = self.gradient_formula(backward_args)
        outputs, vjp = _vjp(function, *(backward_args[i] for i in positions))
        present = self.present(self.contract.split(backward_args)[1])
        wanted = tuple(c for i, c in zip(self.contract.returned, cotangents, strict=True) if i in present)
        out: list[Tensor | None] = [None] * len(backward_args)
        for i, gradient in zip(positions, vjp(_cotangents(wanted, outputs)), strict=True):
            out[i] = gradient
        return tuple(out)

    def gradient_formula(self, backward_args: Arguments) -> tuple[Callable[..., tuple[Tensor, ...]], tuple[int, ...]]:
        """`reference_gradients` as a function of what it is differentiable in, and those arguments' positions."""
        # One tensor may stand in two places, which views tell apart.
        backward_args = tuple(a.view_as(a) if isinstance(a, Tensor) else a for a in backward_args)
        grads, args = self.contract.split(backward_args)
        given = [i for i, g in enumerate(grads) if g is not None]
        present = self.present(args)

        def function(*values: Tensor) -> tuple[Tensor, ...]:
            new_grads, new_args = list(grads), list(args)
            for i, value in zip(given, values[: len(given)], strict=True):
                new_grads[i] = value
            for i, value in zip(present, values[len(given) :], strict=True):
                new_args[i] = value
            return self.reference_gradients(tuple(new_grads), tuple(new_args))

        wanted = [*(grads[i] for i in given), *(args[i] for i in present)]
        return function, tuple(next(k for k, a in enumerate(backward_args) if a is w) for w in wanted)


def _exact(formula: Callable) -> Callable:
    """The formula with autocast off: the dtypes of its arguments say how to compute."""

    def function(*args: Any) -> Any:
        if not autocast_enabled(args[0]):
            return formula(*args)
        with torch.autocast(args[0].device.type, enabled=False):
            return formula(*args)

    return function


def _pushforward(function: Callable, inputs: Sequence[Tensor], tangents: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """Forward-mode derivative, as the derivative of the reverse mode in its cotangent (which is linear)."""
    outputs, vjp = _vjp(function, *inputs)
    _, pushforward = _vjp(vjp, tuple(torch.zeros_like(o) for o in outputs))
    given = tuple(torch.zeros_like(x) if t is None else t.to(x.dtype) for x, t in zip(inputs, tangents, strict=True))
    return pushforward(given)[0]


def _cotangents(grads: Arguments, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Gradients of the outputs, zeros where none came, in the outputs' dtypes."""
    return tuple(torch.zeros_like(o) if g is None else g.to(o.dtype) for g, o in zip(grads, outputs, strict=True))
