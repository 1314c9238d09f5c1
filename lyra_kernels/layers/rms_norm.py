"""RMSNorm as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops
from .checks import floating_dtype, positive_float, positive_int


class RMSNorm(nn.Module):
    """Root-mean-square normalisation of the last dimension: ``x / sqrt(mean(x^2) + eps) * weight``.

    Args:
        d_model: size of the last dimension.
        eps: added to the mean square.
        device, dtype: of the weight, as in :mod:`torch.nn`.

    Shape:
        ``(..., d_model)`` to the same. fp16 and bf16 are normalised in fp32.

    Parameters:
        weight: ``(d_model,)``, ones at first.
    """

    def __init__(
        self,
        d_model: int,
        eps: float = 1e-8,
        *,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.d_model = positive_int("d_model", d_model)
        self.eps = positive_float("eps", eps)
        self.weight = nn.Parameter(torch.empty(self.d_model, device=device, dtype=floating_dtype("dtype", dtype)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The weight as the constructor gives it: ones."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.d_model}, eps={self.eps}"
