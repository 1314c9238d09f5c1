"""Root-mean-square normalisation (Zhang and Sennrich 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..layout import compute_dtype


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension.

    Args:
        x: ``(..., C)``, any floating dtype.
        weight: ``(C,)`` or None for no scale.
        eps: added to the mean square.

    Returns:
        ``(..., C)`` in ``x``'s dtype; fp16 and bf16 are computed in fp32.
    """
    value = x.to(compute_dtype(x))
    value = value * torch.rsqrt(value.square().mean(-1, keepdim=True) + eps)
    if weight is not None:
        value = value * weight
    return value.to(x.dtype)
