"""Initial values of diagonal state spaces: where the eigenvalues start, by name.

Gu, Gupta, Goel, Re 2022, "On the Parameterization and Initialization of Diagonal State Space Models", sections 4 and 5.
``N`` is d_state, ``n`` counts the ``N / 2`` modes from 0; an eigenvalue is ``-real + i imag``.

Tensors are made from those they fill, by what DTensors can do too: an arange would be no DTensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

CLIP = 2.0
"""Largest imaginary part of an input weight of HiPPO-LegS, as published."""


class LegS(NamedTuple):
    """HiPPO-LegS made diagonal, a number a mode, the highest frequency first.

    Attributes:
        imag: imaginary parts of the eigenvalues, whose real parts are -1/2.
        weight: what each mode takes of the input, ``B``.
        first: the modes' parts in the first Legendre coefficient, real and positive.
    """

    imag: tuple[float, ...]
    weight: tuple[complex, ...]
    first: tuple[float, ...]


@lru_cache(maxsize=8)
def legs(d_state: int) -> LegS:
    """The normal part of HiPPO-LegS, by its eigenvectors."""
    scale = np.sqrt(2.0 * np.arange(d_state) + 1.0)
    product = 0.5 * np.outer(scale, scale)
    frequencies, vectors = np.linalg.eigh(-1j * (np.triu(product, 1) - np.tril(product, -1)))
    half = d_state // 2  # the others are their conjugates
    frequencies, vectors = frequencies[:half], vectors[:, :half]
    # Eigenvectors have any phase; the clipping depends on it.
    vectors = vectors * (np.abs(vectors[0]) / vectors[0])
    weight = vectors.conj().T @ scale
    weight = weight.real + 1j * weight.imag.clip(-CLIP, CLIP)
    return LegS(tuple((-frequencies).tolist()), tuple(weight.tolist()), tuple(np.abs(vectors[0]).tolist()))


def _legs(n: Tensor, N: int) -> tuple[Tensor, Tensor]:
    return torch.full_like(n, 0.5), _by_mode(n, legs(N).imag)


def _half(imag: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
    return lambda n, N: (torch.full_like(n, 0.5), imag(n, N))


_EIGENVALUES: dict[str, Callable[[Tensor, int], tuple[Tensor, Tensor]]] = {
    "lin": _half(lambda n, N: n * math.pi),
    "inv": _half(lambda n, N: (N / (2 * n + 1) - 1) * (N / math.pi)),
    "inv2": _half(lambda n, N: (N / (n + 1) - 1) * (N / math.pi)),
    "quad": _half(lambda n, N: (2 * n + 1).square() / math.pi),
    "rand": _half(lambda n, N: torch.empty_like(n).normal_().exp_()),
    "real": lambda n, N: (n + 1, torch.zeros_like(n)),
    "legs": _legs,
}
INITS = tuple(_EIGENVALUES)


def checked_init(init: str | Sequence[str], rows: int) -> tuple[str, ...]:
    """The names of ``init``, each of which fills an equal share of ``rows`` rows.

    Raises:
        ValueError: a name is not known, there is none, or the rows cannot be shared.
    """
    names = (init,) if isinstance(init, str) else tuple(init)
    unknown = [name for name in names if name not in INITS]
    if unknown or not names:
        raise ValueError(f"init must be one of {', '.join(INITS)}, or several of them, got {init!r}")
    if rows % len(names):
        raise ValueError(f"{rows} sets of eigenvalues cannot be shared by {len(names)} inits, {', '.join(names)}")
    return names


def eigenvalues(inits: Sequence[str], d_state: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Real parts, with the sign changed, and imaginary parts of eigenvalues, of the shape of ``like (rows, M)``."""
    mode, row = _index(like, -1), _index(like, 0)
    real, imag = _EIGENVALUES[inits[0]](mode, d_state)
    for share, name in enumerate(inits[1:], 1):
        other_real, other_imag = _EIGENVALUES[name](mode, d_state)
        mine = _share(row, like.shape[0], len(inits)) == share
        real, imag = torch.where(mine, other_real, real), torch.where(mine, other_imag, imag)
    return real, imag


def fill_output_weights(C: Tensor, inits: Sequence[str], d_state: int, rows: int, deterministic: bool) -> None:
    """Fill ``C (..., H, M, 2)``, real and imaginary part last, in place.

    Complex normal, times the input weights for "legs"; of other inits these are 1. With ``deterministic`` the outputs
    are the first of the states before they were made diagonal: the first mode, and for "legs" the first coefficient.

    Args:
        rows: how many sets of eigenvalues there are, which channels take in turn.
    """
    if deterministic:
        C.zero_()
    else:
        C.normal_(std=math.sqrt(0.5))
    if not deterministic and "legs" not in inits:
        return
    channel, mode, part = _index(C, -3), _index(C, -2), _index(C, -1)
    for share, name in enumerate(inits):
        if name != "legs":
            value = ((mode == 0) & (part == 0)).to(C.dtype) if deterministic else C
        elif deterministic:
            numbers = [weight.conjugate() * first for _, weight, first in zip(*legs(d_state), strict=True)]
            real, imag = (_by_mode(mode, values) for values in zip(*((x.real, x.imag) for x in numbers), strict=True))
            value = torch.where(part == 0, real, imag)
        else:  # its phase would be lost in that of a complex normal number
            value = C * _by_mode(mode, [abs(weight) for weight in legs(d_state).weight])
        C.copy_(torch.where(_share(channel.remainder(rows), rows, len(inits)) == share, value, C))


def evenly(low: float, high: float, like: Tensor) -> Tensor:
    """As many numbers as ``like (H,)`` has, in equal steps from ``low`` to ``high``."""
    return low + _index(like, 0) * ((high - low) / max(like.shape[0] - 1, 1))


def _index(like: Tensor, dim: int) -> Tensor:
    """Each element's position along a dimension."""
    return (torch.ones_like(like, dtype=torch.int64).cumsum(dim) - 1).to(like.dtype)


def _share(row: Tensor, rows: int, shares: int) -> Tensor:
    return (row * shares).div(rows, rounding_mode="floor")


def _by_mode(mode: Tensor, values: Sequence[float]) -> Tensor:
    """``values[n]`` at each mode n, of the shape of ``mode``."""
    result = torch.zeros_like(mode)
    for n, value in enumerate(values):
        result = result.masked_fill(mode == n, value)
    return result
