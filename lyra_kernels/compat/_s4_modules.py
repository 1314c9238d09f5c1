"""The modules that state-spaces/s4's blocks are made of, by its names for them."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..layers.activations import activation_module
from ..layers.checks import boolean, probability
from ..layers.dropout import ChannelDropout

_ALIASES = {None: "identity", "id": "identity", "linear": "identity", "swish": "silu"}


def refuse(where: str, kwargs: dict[str, Any]) -> None:
    for name, value in kwargs.items():
        if value is not None:
            raise TypeError(f"{where}() heeds no {name!r}; padding is told by lengths=, a state by state=")


def activation_of(argument: str, name: str | None, glu: bool = True) -> nn.Module:
    if name == "glu" and glu:
        return nn.GLU(dim=-1)
    try:
        return activation_module(argument, _ALIASES.get(name, name))
    except ValueError as error:
        others = ", ".join([*(repr(alias) for alias in _ALIASES), *["'glu'"] * glu])
        raise ValueError(f"{error}; or one of {others}") from None


def dropout_of(p: float, tied: bool) -> nn.Module:
    p = probability("dropout", p)
    return ChannelDropout(p) if boolean("tie_dropout", tied) else nn.Dropout(p)


def linear_of(inputs: int, outputs: int, argument: str, activation: str | None, factory: dict[str, Any]) -> nn.Module:
    linear = nn.Linear(inputs, 2 * outputs if activation == "glu" else outputs, **factory)
    return linear if activation is None else nn.Sequential(linear, activation_of(argument, activation))
