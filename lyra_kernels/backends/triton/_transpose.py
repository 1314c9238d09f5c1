"""Between ``(B, L, H)``, as layers have it, and ``(B, H, L)``, which the kernels along sequences read.

A tensor ``(B, L, H)`` may lie in memory either way; its strides say which, as PyTorch's memory formats do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import triton
import triton.language as tl
from torch import Tensor

from ._launch import Config, cdiv, jit, launch

F = TypeVar("F", bound=Callable[..., Any])


@triton.jit
def aligned(L, L_ALIGNED: tl.constexpr):
    """L; where L_ALIGNED in a form in which the compiler sees a multiple of 16, and takes several values at once."""
    if L_ALIGNED:
        L = L // 16 * 16
    return L


@jit
def _transpose(
    x_ptr, y_ptr, L, H, BACK: tl.constexpr, L_ALIGNED: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_H: tl.constexpr
):
    """``y (B, H, L)`` from ``x (B, L, H)``, or with BACK ``y (B, L, H)`` from ``x (B, H, L)``, a tile a program.

    L_ALIGNED: L is a multiple of 16, of which values several go at once.
    """
    L = aligned(L, L_ALIGNED)
    # One axis, whatever the batch: the others end at 65,535.
    tiles_h = tl.cdiv(H, BLOCK_H)
    tiles = tl.cdiv(L, BLOCK_L) * tiles_h
    tile = tl.program_id(0) % tiles
    start = (tl.program_id(0) // tiles).to(tl.int64) * L * H
    t = tile // tiles_h * BLOCK_L + tl.arange(0, BLOCK_L)
    h = tile % tiles_h * BLOCK_H + tl.arange(0, BLOCK_H)
    t_mask = t < L
    h_mask = h < H
    mask = t_mask[:, None] & h_mask[None, :]
    mask_back = h_mask[:, None] & t_mask[None, :]
    offsets = t.to(tl.int64)[:, None] * H + h[None, :]
    offsets_back = h.to(tl.int64)[:, None] * L + t[None, :]
    # Through shared memory: each side goes along its own lines.
    if BACK:
        x = tl.load(x_ptr + start + offsets_back, mask=mask_back, other=0.0)
        tl.store(y_ptr + start + offsets, tl.trans(x), mask=mask)
    else:
        x = tl.load(x_ptr + start + offsets, mask=mask, other=0.0)
        tl.store(y_ptr + start + offsets_back, tl.trans(x), mask=mask_back)


def _transposed(x: Tensor, back: bool) -> Tensor:
    batch, length, channels = x.shape
    if back:
        channels, length = length, channels
    y = x.new_empty(batch, x.shape[2], x.shape[1])
    launch(
        _transpose,
        lambda c: (cdiv(length, c.blocks["BLOCK_L"]) * cdiv(channels, c.blocks["BLOCK_H"]) * batch,),
        {"x_ptr": x, "y_ptr": y, "L": length, "H": channels},
        {"BACK": back, "L_ALIGNED": length % 16 == 0},
        [Config({"BLOCK_L": 64, "BLOCK_H": 64}, 4, 1)],
    )
    return y


def takes_channels_first(function: F) -> F:
    """Say of an op's launcher that its first argument may be channels first; see :mod:`lyra_kernels.backends`."""
    function.takes_channels_first = True  # type: ignore[attr-defined]
    return function


def channels_first(x: Tensor) -> Tensor:
    """``x (B, L, H)`` as a contiguous ``(B, H, L)``: a view where it lies so, else a copy; it may be contiguous too."""
    view = x.transpose(1, 2)
    return view if view.is_contiguous() else _transposed(x, back=False)


def lying_as(y: Tensor, x: Tensor) -> Tensor:
    """``y (B, L, H)``, which lies channels first, as ``x (B, L, H)`` lies: itself, or a contiguous copy.

    For results, ``y`` a tensor made so, no view: autograd lets nobody change a Function's view in place.
    """
    return y if x.transpose(1, 2).is_contiguous() else _transposed(y.transpose(1, 2), back=True)
