"""A residual connection where no op adds it."""

from __future__ import annotations

from torch import Tensor

from ..layout import without_padding
from ..ops import _checks


def plus_residual(out: Tensor, residual: Tensor | None, lengths: Tensor | None) -> Tensor:
    """``out + residual``, zero at padded positions, for ``out (B, L, C)`` that is so.

    Raises:
        TypeError, ValueError: the residual is not like ``out``, which the ops refuse as well: it would be broadcast.
    """
    if residual is None:
        return out
    _checks.size("residual", residual, "(batch, length, channels)", tuple(out.shape), "to match the output")
    _checks.same_device("residual", residual, "the output", out)
    return out + without_padding(residual, lengths)
