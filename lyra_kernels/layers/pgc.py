"""The projected gated convolution as a module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from .._torch import has_hooks
from ..layout import without_padding
from ..ops._checks import autocast_enabled
from ._children import is_idle, weights
from .checks import boolean, positive_float, positive_int, probability, width
from .rms_norm import RMSNorm

_WEIGHTS = (
    ("in_proj", "weight"),
    ("in_proj", "bias"),
    ("in_norm", "weight"),
    ("conv", "weight"),
    ("conv", "bias"),
    ("out_proj", "weight"),
    ("out_proj", "bias"),
    ("out_norm", "weight"),
)


class PGC(nn.Module):
    """Projected gated convolution: local features, multiplied by a gate.

    ``out = dropout(rms_norm(W_out (v * conv(x)) + b_out))`` with ``x, v = split(rms_norm(W_in u + b_in))``
    and a depthwise convolution over ``kernel_size`` neighbouring tokens. A residual connection is there where
    ``forward`` is given one.

    Args:
        d_model: channels of input and output.
        expansion_factor: the inner width is ``int(expansion_factor * d_model)``.
        kernel_size: tokens under the convolution; odd unless ``causal``.
        dropout: probability of zeroing an element of the output in training.
        causal: whether a token sees only itself and the ``kernel_size - 1`` before it, instead of
            ``kernel_size // 2`` on either side.
        eps: both norms'.

    Shape:
        ``(B, L, d_model)`` to the same.

    Parameters, with ``E`` the inner width:
        ``in_proj.weight (2E, d_model)``, ``in_proj.bias (2E,)``, ``in_norm.weight (2E,)``,
        ``conv.weight (E, 1, kernel_size)``, ``conv.bias (E,)``, ``out_proj.weight (d_model, E)``,
        ``out_proj.bias (d_model,)``, ``out_norm.weight (d_model,)``.

    Raises:
        ValueError: an argument is out of its range; the message names it.
    """

    def __init__(
        self,
        d_model: int,
        expansion_factor: float = 1.0,
        kernel_size: int = 3,
        dropout: float = 0.0,
        causal: bool = False,
        eps: float = 1e-8,
    ) -> None:
        super().__init__()
        self.d_model = positive_int("d_model", d_model)
        self.expansion_factor = positive_float("expansion_factor", expansion_factor)
        self.causal = boolean("causal", causal)
        self.kernel_size = width("kernel_size", kernel_size, self.causal)
        self.eps = positive_float("eps", eps)
        inner = int(self.expansion_factor * self.d_model)
        if inner < 1:
            raise ValueError(f"expansion_factor * d_model must be at least 1, got {expansion_factor} * {d_model}")
        self.d_inner = inner

        self.conv = nn.Conv1d(inner, inner, self.kernel_size, groups=inner)
        self.in_proj = nn.Linear(self.d_model, 2 * inner)
        self.in_norm = RMSNorm(2 * inner, self.eps)
        self.out_norm = RMSNorm(self.d_model, self.eps)
        self.out_proj = nn.Linear(inner, self.d_model)
        self.dropout = nn.Dropout(probability("dropout", dropout))

    def forward(
        self,
        u: Tensor,
        *,
        lengths: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """Apply the layer.

        Args:
            u: ``(B, L, d_model)``, or ``(1, T, d_model)`` with ``cu_seqlens``.
            lengths: ``(B,)``, each sequence's length in a padded batch.
            cu_seqlens: ``(S + 1,)``, where each sequence begins in a packed batch, and the end of the last.
            residual: like ``u``, added to the output, in the same pass over memory unless dropout comes between.

        Returns:
            like ``u``, zero at padded positions.
        """
        dropout: Any = self._modules["dropout"]
        idle = is_idle(dropout)
        out = ops.pgc(
            u,
            *weights(self, _WEIGHTS),
            eps=self.eps,
            lengths=lengths,
            cu_seqlens=cu_seqlens,
            causal=self.causal,
            residual=residual if idle else None,
        )
        if idle:
            return out
        out = dropout(out)
        return out if residual is None else out + without_padding(residual, lengths).to(out.dtype)

    def extra_repr(self) -> str:
        return f"{self.d_model}, expansion_factor={self.expansion_factor}, causal={self.causal}"


def adds_input(layer: nn.Module, x: Tensor) -> bool:
    """Whether ``layer(x, residual=x)`` is ``x + layer(x)`` for all who look: nobody sees the layer's own output.

    Under autocast an input of another dtype would lose the precision that it has.
    """
    kept = not autocast_enabled(x) or x.dtype in (torch.float64, torch.get_autocast_dtype(x.device.type))
    return kept and type(layer) is PGC and not has_hooks(layer)
