"""What a layer needs of its children at every call, past ``Module.__getattr__`` and ``__call__``, which take as long as
a small kernel runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from .._torch import has_hooks


def weights(layer: nn.Module, paths: Sequence[tuple[str, str]]) -> list[Any]:
    """``layer.child.name`` for each (child, name)."""
    children, found = layer._modules, []
    for child, name in paths:
        owner: Any = children[child]
        value = owner._parameters.get(name)
        # Buffers, and parameters that are parametrized, pruned or wrapped, are attributes of another kind.
        found.append(getattr(owner, name) if value is None else value)
    return found


def is_idle(dropout: Any) -> bool:
    """Whether a dropout would hand on what it gets, with nobody looking on."""
    return type(dropout) is nn.Dropout and not (dropout.training and dropout.p) and not has_hooks(dropout)
