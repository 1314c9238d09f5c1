"""What stands between a state space's parameters and the op: O(H N) of arithmetic in front of a convolution.

The op makes ``a = exp(dt A)`` and ``c = 2 C (a - 1) / A`` of its arguments. Whatever a layer's options make of its own
parameters, there are arguments by which the op has the same ``a`` and ``c``: so every algorithm, state and gradient
that the op has serves all options. For a step of 1 these are ``A = log a`` and ``C`` times what is left.

All of it is computed in float64 and rounded once, where the device has float64: an error of the angle ``Im log a``
counts as many times as there are tokens between two that see each other.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TRANSFORMS = ("exp", "softplus", "relu", "sigmoid", "none")
DISCRETIZATIONS = ("zoh", "bilinear")
FLOOR = 1e-4
"""What "relu" adds, so that no mode ceases to decay, and the least value that is put into any transform at first."""


def positive(parameter: Tensor, transform: str) -> Tensor:
    """The value that a parameter stands for; any number with "none"."""
    if transform == "exp":
        return parameter.exp()
    if transform == "softplus":
        return F.softplus(parameter)
    if transform == "relu":
        return parameter.relu() + FLOOR
    return parameter.sigmoid() if transform == "sigmoid" else parameter


def parameter_of(value: Tensor, transform: str, name: str) -> Tensor:
    """The parameter that stands for a value, which is raised to `FLOOR` where it is less.

    Raises:
        ValueError: a sigmoid would have to give 1 or more; ``name`` is the parameter's.
    """
    value = value.clamp(min=FLOOR)
    if transform == "exp":
        return value.log()
    if transform == "softplus":
        return value + (-torch.expm1(-value)).log()
    if transform == "sigmoid" and (most := float(value.max())) >= 1.0:
        raise ValueError(
            f"a sigmoid is below 1, and {name} begins at {most:.6g}: take another transform or other values"
        )
    return value.logit() if transform == "sigmoid" else value


def widest(device: torch.device) -> torch.dtype:
    """The dtype to compute in."""
    return torch.float32 if device.type == "mps" else torch.float64


def band(C: Tensor, dt: Tensor, A_imag: Tensor, bandlimit: float) -> Tensor:
    """``C (..., H, M, 2)`` without the modes of half of ``bandlimit`` periods a token and more.

    Args:
        dt: ``(H, 1)`` or ``(H, M)``, the step at a rate of 1; A_imag: ``(H, M)``.
    """
    inside = dt * A_imag.abs() / (2 * math.pi) < 0.5 * bandlimit
    return torch.where(inside.unsqueeze(-1), C, torch.zeros_like(C))


def as_exponents(dt: Tensor, A_real: Tensor, A_imag: Tensor, C: Tensor, disc: str) -> tuple[Tensor, Tensor, Tensor]:
    """``log_A_real``, ``A_imag`` and ``C`` of the op, which with a step of 1 give what the arguments do in steps of dt.

    Zero-order hold: ``a = exp(dt A)``, ``c = 2 C (a - 1) / A``. Bilinear: ``a = (1 + dt A / 2) / (1 - dt A / 2)``,
    ``c = 2 C dt / (1 - dt A / 2)``, which is ``2 C (a - 1) / A`` as well.

    Args:
        dt: ``(H, 1)`` or ``(H, M)``. A_real, A_imag: ``(H, M)``, ``A = -A_real + i A_imag``. C: ``(..., H, M, 2)``.

    A real part of 0 or of the wrong sign gives NaN, here or in the gradients: the state would not decay.
    """
    decay, angle = dt * A_real, dt * A_imag
    if disc == "zoh":
        return decay.log(), angle, dt.unsqueeze(-1) * C
    # log a = 2 atanh(z / 2) with z = dt A: the quotient itself would lose the digits of a small z.
    ahead = (1 + decay / 2).square() + angle.square() / 4  # |1 - z / 2|^2
    rate = -0.5 * torch.log1p((-2 * decay / ahead).clamp(min=torch.finfo(ahead.dtype).eps - 1))
    phase = torch.atan2(angle, 2 - decay) + torch.atan2(angle, 2 + decay)
    # C times dt log a / z, where log a = -rate + i phase and z = -decay + i angle
    size = (decay.square() + angle.square()) / dt
    real = (rate * decay + phase * angle) / size
    imag = (rate * angle - phase * decay) / size
    C_real, C_imag = C.unbind(-1)
    return rate.log(), phase, torch.stack((C_real * real - C_imag * imag, C_real * imag + C_imag * real), dim=-1)
