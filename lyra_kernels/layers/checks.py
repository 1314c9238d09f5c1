"""Checks of constructor arguments: each names the argument, what it was and what it must be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real

import torch

from ..ops._checks import layout

__all__ = [
    "boolean",
    "by_parameter",
    "choice",
    "even_int",
    "floating_dtype",
    "layout",
    "learning_rate",
    "positive_float",
    "positive_int",
    "probability",
    "width",
]


def positive_int(name: str, value: object, *, minimum: int = 1) -> int:
    """``value`` as an int of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    return int(value)


def even_int(name: str, value: object) -> int:
    """``value`` as an even int of at least 2: as many states as make conjugate pairs."""
    number = positive_int(name, value)
    if number % 2:
        raise ValueError(f"{name} must be even (conjugate pairs), got {number}")
    return number


def width(name: str, value: object, causal: bool) -> int:
    """``value`` as the width of a convolution, which has a middle unless it is causal."""
    number = positive_int(name, value)
    if number % 2 == 0 and not causal:
        raise ValueError(f"{name} must be odd unless causal=True, got {number}")
    return number


def choice(name: str, value: object, options: Sequence[str]) -> str:
    """``value`` if it is one of the options."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name} must be one of {', '.join(options)}, got {value!r}")
    return value


def positive_float(name: str, value: object) -> float:
    """``value`` as a finite float above zero."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 < float(value) < math.inf:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")
    return float(value)


def probability(name: str, value: object) -> float:
    """``value`` as a dropout probability, at least 0 and below 1."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 <= float(value) < 1.0:
        raise ValueError(f"{name} must be a probability in [0, 1), got {value!r}")
    return float(value)


def boolean(name: str, value: object) -> bool:
    """``value`` if it is a bool."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return value


def floating_dtype(name: str, value: object) -> torch.dtype | None:
    """``value`` as a floating-point dtype, or None, which stands for the default one."""
    if value is not None and not (isinstance(value, torch.dtype) and value.is_floating_point):
        raise ValueError(f"{name} must be a floating-point torch.dtype or None, got {value!r}")
    return value


def learning_rate(name: str, value: object) -> float | None:
    """``value`` as a finite float of at least 0, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 <= float(value) < math.inf:
        raise ValueError(f"{name} must be None or a finite number of at least 0, got {value!r}")
    return float(value)


def by_parameter(name: str, value: object, keys: Sequence[str]) -> dict[str, float | None]:
    """A number of at least 0 or None for each key, from a mapping that may have some of them."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a number, None or a mapping from {', '.join(keys)} to these, got {value!r}")
    unknown = [key for key in value if key not in keys]
    if unknown:
        raise ValueError(f"{name} may have the keys {', '.join(keys)}, got {unknown[0]!r}")
    return {key: learning_rate(f"{name}[{key!r}]", value.get(key)) for key in keys}
