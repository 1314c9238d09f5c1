"""The tail of an S4D layer: GELU, dropout mask, output projection, GLU, residual."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from . import _checks
from ._autograd import Arguments, Op
from .schemas import compute_dtype


def _zero_padding(grad: Tensor, lengths: Tensor | None) -> Tensor:
    """Gradients without those at padded positions (a packed batch has none)."""
    if lengths is None:
        return grad
    real = torch.arange(grad.shape[1], device=grad.device) < lengths.unsqueeze(-1)
    return torch.where(real.unsqueeze(-1), grad, torch.zeros((), dtype=grad.dtype, device=grad.device))


class _GeluGlu(Op):
    """The residual only adds: its gradient is that of the output, and the backward op does not see it."""

    def backward_arguments(self, grads: Arguments, args: Arguments, extra: Arguments) -> Arguments:
        y, weight, bias, mask, _, lengths, cu_seqlens = args
        return (*grads, y, weight, bias, mask, lengths, cu_seqlens)

    def split(self, backward_args: Arguments) -> tuple[Arguments, Arguments]:
        grad, y, weight, bias, mask, lengths, cu_seqlens = backward_args
        return (grad,), (y, weight, bias, mask, None, lengths, cu_seqlens)

    def results(self, gradients: Arguments, grads: Arguments, args: Arguments) -> Arguments:
        residual: Any = None if args[4] is None else _zero_padding(grads[0], args[5])
        return (*gradients, residual)

    def backward_outputs(self, args: Arguments, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return super().backward_outputs(args, gradients)[:3]


_op = _GeluGlu("gelu_glu", reference.gelu_glu, (0, 1, 2, 4), batched=(0, 3, 4), lengths=5, cu_seqlens=6)


def gelu_glu(
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    residual: Tensor | None = None,
    lengths: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """``glu(W (gelu(y) * mask) + b) + residual``: what follows the convolution in an S4D layer.

    GELU is the exact one (erf). Under autocast ``y`` is cast like a Linear's input.

    Args:
        y: ``(batch, length, H)``.
        weight: ``(2 H, H)``. bias: ``(2 H,)`` or None.
        mask: ``(sequences, H)``, a dropout mask (0 or 1 / (1 - p)), the same along the length; it gets no gradient.
        residual: like ``y``, added to the output.
        lengths: ``(batch,)``; cu_seqlens: ``(sequences + 1,)``; see :func:`gated_conv`.

    Returns:
        Like ``y``, zero at padded positions.

    Raises:
        TypeError, ValueError: an argument has the wrong dtype, shape or device; the message says which.

    Source: Gu et al. 2022, "On the Parameterization and Initialization of Diagonal State Space Models"; Dauphin et
    al. 2017 for the GLU.
    """
    _checks.activations("y", y)
    channels = y.shape[-1]
    _checks.size("weight", weight, "(2 * H, H)", (2 * channels, channels), "to match y")
    if bias is not None:
        _checks.size("bias", bias, "(2 * H,)", (2 * channels,), "to match y")
    lengths, cu_seqlens = _checks.layout(y, lengths, cu_seqlens, "y")
    sequences = y.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    if mask is not None:
        _checks.size("mask", mask, "(sequences, H)", (sequences, channels), "to match y")
        mask = mask.detach()
    if residual is not None:
        _checks.size("residual", residual, "(batch, length, H)", tuple(y.shape), "to match y")
    others = {"weight": weight, "bias": bias, "mask": mask, "residual": residual}
    for name, value in others.items():
        _checks.same_device(name, value, "y", y)
    y = _checks.autocast(y)
    dtype = compute_dtype(y)
    if residual is not None:
        residual = residual.to(y.dtype).contiguous()
    weights = [_checks.parameter(p, dtype) for p in (weight, bias, mask)]
    return _op(y.contiguous(), *weights, residual, lengths, cu_seqlens)
