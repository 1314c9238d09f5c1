"""Activations by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .checks import choice

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}


def activation_module(name: str, value: object) -> nn.Module:
    """The activation called ``value``; ``name`` is that of the argument.

    Raises:
        ValueError: there is none of that name.
    """
    return ACTIVATIONS[choice(name, value, tuple(ACTIVATIONS))]()
