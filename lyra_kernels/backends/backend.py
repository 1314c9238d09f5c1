"""What the choice knows of a backend; each describes itself so, as ``BACKEND`` in its module."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Operations = Mapping[str, Callable[..., Any]]
"""Op name, "pgc" or "pgc_backward", to a function of exactly the schema's positional arguments."""


@dataclass(frozen=True)
class Limits:
    """What the cost model asks of the backend of a GPU; the defaults are those of one without kernels of its own.

    Attributes:
        scan_modes: the most modes that the scan's kernel takes.
        transform: tokens of the longest sequence whose FFT is one kernel; beyond it and by default torch.fft's.
        direct: tokens up to which a direct convolution is faster than one by FFT.
    """

    scan_modes: float = math.inf
    transform: int = 0
    direct: int = 0


def _nowhere() -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Backend:
    """One way to compute the ops.

    Attributes:
        name: for :func:`use_backend`.
        devices: types of the devices that it serves unless another is forced.
        availability: whether it can serve calls here, and why not or how; asked once.
        operations: its ops; what it has not, the next backend of the device serves.
        also_takes: more types of devices, for calls that force it.
        limits: for the cost model.
    """

    name: str
    devices: tuple[str, ...]
    availability: Callable[[], tuple[bool, str]]
    operations: Callable[[], Operations]
    also_takes: Callable[[], tuple[str, ...]] = _nowhere
    limits: Limits = Limits()
