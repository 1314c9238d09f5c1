"""Parameters that 16 bits cannot hold: they stay in float32 in a module that is converted to fewer bits.

A step of an optimizer changes the logarithm of a time step by less than bfloat16 resolves, so that it would never move;
and angles, which grow with the distance between tokens, would be off by a third of a radian after a hundred of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def is_narrow(dtype: torch.dtype) -> bool:
    """Whether it is a floating-point dtype of fewer bits than float32."""
    return dtype.is_floating_point and dtype.itemsize < 4


def widened(dtype: torch.dtype | None) -> torch.dtype:
    """``dtype``, or the default one for None; float32 instead of one with fewer bits."""
    dtype = torch.get_default_dtype() if dtype is None else dtype
    return torch.float32 if is_narrow(dtype) else dtype


def keeping_float32(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``fn`` of :meth:`torch.nn.Module._apply`, with float32 where it would leave fewer bits.

    Its result tells the device; the values come from before it, so that none is rounded on the way.
    """

    def apply(tensor: Tensor) -> Tensor:
        result = fn(tensor)
        return tensor.to(result.device, torch.float32) if is_narrow(result.dtype) else result

    return apply


def widen_entries(state: dict[str, Any], prefix: str) -> None:
    """Makes float32 of the entries of a state_dict below ``prefix`` that have fewer bits."""
    for key, value in state.items():
        if key.startswith(prefix) and isinstance(value, Tensor) and is_narrow(value.dtype):
            state[key] = value.float()
