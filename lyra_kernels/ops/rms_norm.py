"""RMSNorm over the last dimension."""

from __future__ import annotations

from torch import Tensor

from .. import reference
from ..layout import compute_dtype
from . import _checks
from ._autograd import Op

rms_norm_op = Op("rms_norm", reference.rms_norm)


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-8) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension, computed in float32 or float64.

    Args:
        x: ``(..., channels)``, float32, float64, float16 or bfloat16.
        weight: ``(channels,)`` or None.
        eps: added to the mean square.

    Returns:
        Like ``x``.

    Raises:
        TypeError, ValueError: an argument has the wrong dtype, shape or device; the message says which.

    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".
    """
    _check(x, weight)
    (weight,) = _checks.parameters(compute_dtype(x), weight)
    return rms_norm_op(x.contiguous(), weight, _checks.epsilon(eps))


@_checks.once_a_signature
def _check(x: Tensor, weight: Tensor | None) -> None:
    if not isinstance(x, Tensor) or x.dtype not in _checks.FLOATS:
        raise TypeError(f"x must be a floating tensor, not {getattr(x, 'dtype', type(x).__name__)}")
    _checks.ordinary("x", x)
    if x.dim() < 1:
        raise ValueError("x must have at least one dimension")
    if weight is not None:
        _checks.size("weight", weight, "(channels,)", (x.shape[-1],), "to match x")
        _checks.same_device("weight", weight, "x", x)
