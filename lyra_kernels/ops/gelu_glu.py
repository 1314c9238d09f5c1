"""The tail of an S4D layer: GELU, dropout mask, output projection, GLU, residual."""

from __future__ import annotations

from torch import Tensor

from .. import backends, reference
from ..layout import compute_dtype, count_sequences, without_padding
from . import _checks
from ._autograd import Op, laid_out

gelu_glu_op = Op("gelu_glu", reference.gelu_glu)


def gelu_glu(
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    residual: Tensor | None = None,
    lengths: _checks.Integers | None = None,
    cu_seqlens: _checks.Integers | None = None,
) -> Tensor:
    """``glu(W (gelu(y) * mask) + b) + residual``: what follows the convolution in an S4D layer.

    GELU is the exact one (erf). Under autocast ``y`` is cast like a Linear's input.

    Args:
        y: ``(batch, length, H)``.
        weight: ``(2 H, H)``. bias: ``(2 H,)`` or None.
        mask: ``(sequences, H)``, a dropout mask (0 or 1 / (1 - p)), the same along the length; it gets no gradient.
        residual: like ``y``, added to the output; the sum has the wider of both dtypes.
        lengths: ``(batch,)``; cu_seqlens: ``(sequences + 1,)``; see :func:`gated_conv`.

    Returns:
        Like ``y``, zero at padded positions.

    Raises:
        TypeError, ValueError: an argument has the wrong dtype, shape or device; the message says which.

    Source: Gu et al. 2022, "On the Parameterization and Initialization of Diagonal State Space Models"; Dauphin et
    al. 2017 for the GLU.
    """
    _check(y, weight, bias, mask, residual, lengths, cu_seqlens)
    lengths, cu_seqlens = _checks.layout(y, lengths, cu_seqlens, "y")
    if mask is not None:
        mask = mask.detach()
    y = _checks.autocast(y)
    fused, apart = _checks.residual(residual, y.dtype)
    weights = _checks.parameters(compute_dtype(y), weight, bias, mask)
    y = y if y.is_contiguous() else laid_out("gelu_glu", backends.forced(), y)
    if fused is not None and not fused.is_contiguous():
        fused = laid_out("gelu_glu", backends.forced(), fused, first=False)
    out = gelu_glu_op(y, *weights, fused, lengths, cu_seqlens)
    return out if apart is None else out + without_padding(apart, lengths)


@_checks.once_a_signature
def _check(
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    residual: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
) -> None:
    _checks.activations("y", y)
    _, cu_seqlens = _checks.layout(y, lengths, cu_seqlens, "y")
    check_tail("y", y, weight, bias, mask, cu_seqlens)
    if residual is not None:
        _checks.size("residual", residual, "(batch, length, H)", tuple(y.shape), "to match y")
        _checks.same_device("residual", residual, "y", y)


def check_tail(
    name: str, y: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, cu_seqlens: Tensor | None
) -> None:
    """Refuse a projection or a mask that does not fit the activations ``y``, which the caller knows as ``name``."""
    channels = y.shape[-1]
    _checks.size("weight", weight, "(2 * H, H)", (2 * channels, channels), f"to match {name}")
    if bias is not None:
        _checks.size("bias", bias, "(2 * H,)", (2 * channels,), f"to match {name}")
    if mask is not None:
        sequences = count_sequences(y, cu_seqlens)
        _checks.size("mask", mask, "(sequences, H)", (sequences, channels), f"to match {name}")
    for other, value in {"weight": weight, "bias": bias, "mask": mask}.items():
        _checks.same_device(other, value, name, y)
