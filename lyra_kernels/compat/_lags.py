"""Kernels of a circular convolution by FFT as the two kernels of :func:`lyra_kernels.fft_conv`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def sides(k: Tensor, length: int, points: int) -> tuple[Tensor, Tensor | None]:
    """What ``length`` tokens see of ``k (H, taps)`` in a transform of ``points``, at least as many.

    Tap i is lag i, and lag i - points as well: a token has others up to ``length - 1`` before it and behind.

    Returns:
        The kernel ``(H, taps)``, and the reverse kernel ``(H, length - 1)``, None where no tap comes around.
    """
    around = k[:, points - length + 1 : points]
    reverse = None
    if around.shape[1] > 0:
        reverse = F.pad(around, (0, length - 1 - around.shape[1])).flip(-1)
    return k[:, :length], reverse


def add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The sum of two kernels ``(H, taps)``, of which the shorter has zeros beyond its taps."""
    if a is None or b is None:
        return b if a is None else a
    taps = max(a.shape[1], b.shape[1])
    return F.pad(a, (0, taps - a.shape[1])) + F.pad(b, (0, taps - b.shape[1]))


def check(u: Tensor, k: Tensor) -> None:
    """Refuse what is not ``u (B, H, L)`` beside ``k (H, taps)``.

    Raises:
        ValueError: a shape is wrong; the message says which and what would be right.
    """
    if u.dim() != 3:
        raise ValueError(f"u must have shape (B, H, L), not {tuple(u.shape)}")
    if k.dim() != 2 or k.shape[0] != u.shape[1]:
        hint = "; u is (B, L, H): give u.transpose(1, 2)" if k.dim() == 2 and k.shape[0] == u.shape[2] else ""
        raise ValueError(f"k must have shape (H, taps) = ({u.shape[1]}, any) to match u, not {tuple(k.shape)}{hint}")
