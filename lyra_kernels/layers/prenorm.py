"""A norm and a layer after it, with the input added, in as few passes over memory as nobody can tell from three."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from ._children import is_a_plain
from .pgc import PGC
from .s4d import S4D


def prenorm_block(norm: nn.Module, layer: nn.Module, x: Tensor, *, add_input: bool, **batch: Tensor | None) -> Tensor:
    """``layer(norm(x))``, plus ``x`` where ``add_input``; one op where nobody can tell and that is faster.

    Args:
        layer: an :class:`S4D` of ``(B, L, H)``, or a module that is called as it is.
        x: ``(B, L, H)``.
        batch: ``lengths`` or ``cu_seqlens``, as of :meth:`S4D.forward`.
    """
    if is_a_plain(layer, S4D):
        y = cast(S4D, layer).prenorm(norm, x, add_input=add_input, **batch)
        if y is not None:
            return y
    return plus_input(layer, norm(x), x, **batch) if add_input else layer(norm(x), **batch)


def plus_input(layer: nn.Module, z: Tensor, x: Tensor, **batch: Tensor | None) -> Tensor:
    """``x + layer(z)``; in the layer's own pass over memory where it is ours and nobody sees what it gives alone."""
    if is_a_plain(layer, PGC) or is_a_plain(layer, S4D):
        return layer(z, residual=x, **batch)
    return x + layer(z, **batch)
