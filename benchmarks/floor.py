"""The arithmetic that our own way of computing a case needs: divided by a core's peak, the time it cannot go below.

Multiply-adds a token, H channels, M = d_state / 2 modes; a backward makes cheap things again instead of saving them:

============ ==================================== ========================================================
part         forward                              backward
============ ==================================== ========================================================
PGC          products: 3 H H                      three times that: both products again, dinput, dweight
S4D's tail   product: 2 H H                       three times that
scan         (4.5 M + 4.5) H                      (86 / 8 M + 9) H, see csrc/cpu/s4d_tile.h
direct       (L + 1) / 2 H, and the kernel        twice that
fft          (5 log2 L + 10) H, and the kernel    (7.5 log2 L + 20) H, and the kernel's
============ ==================================== ========================================================

A transform of 2 L real points is one of L complex ones, 2.5 log2 L a point; a convolution takes two forward and three
backward, and one of the kernel each. Norms, convolutions of a few taps, GELU, the logistic function and all loads and
stores are left out: they are what the rest of the time goes to.
"""

from __future__ import annotations

import math

from lyra_kernels.ops import cost_model

H, M = 64, 32
_LETTERS, _PGC_LAYERS, _S4D_LAYERS = 20, 2, 4  # of the model in cases.py


def _convolution(batch: int, length: int, training: bool) -> float:
    tokens = batch * length
    way = cost_model.choose(batch, length, M)
    if way == "scan":
        return tokens * H * ((4.5 * M + 4.5) + (86 / 8 * M + 9 if training else 0))
    kernel = 2 * H * M * length
    if way == "direct":
        return (tokens * (length + 1) / 2 * H + kernel) * (3 if training else 1)
    stages = math.log2(length)
    forward, backward = tokens * (5 * stages + 10) * H, tokens * (7.5 * stages + 20) * H
    kernel += 2.5 * stages * H * length
    return forward + kernel + (backward + 2 * kernel if training else 0)


def multiply_adds(subject: str, batch: int, length: int, training: bool) -> float | None:
    """Of a call; None where arithmetic is not what limits it."""
    tokens, steps = batch * length, 4 if training else 1
    pgc, tail = 3.0 * tokens * H * H * steps, 2.0 * tokens * H * H * steps
    if subject == "PGC":
        return pgc
    if subject == "gelu_glu":
        return tail
    if subject == "s4d_conv":
        return _convolution(batch, length, training)
    if subject == "S4D":
        return _convolution(batch, length, training) + tail
    if subject == "Lyra":
        encoder = tokens * _LETTERS * H * (2 if training else 1)
        layer = _convolution(batch, length, training) + tail
        return encoder + _PGC_LAYERS * pgc + _S4D_LAYERS * layer
    return None


def share(subject: str, batch: int, length: int, training: bool, ms: float, peak: float) -> float | None:
    """The share of a core's peak (operations a second) that a call of so many milliseconds reaches."""
    work = multiply_adds(subject, batch, length, training)
    return None if work is None else 2 * work / peak / (ms / 1e3)
