"""Kernels with a fault each, which the gate must name."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from lyra_kernels.backends.triton._launch import Config, jit, launch


@jit
def _renamed(x, y, count, ENTER: tl.constexpr, SAVE: tl.constexpr, BACK: tl.constexpr, N: tl.constexpr):
    """With ENTER and SAVE, one name is a pointer before the loop and an integer inside, which Triton refuses."""
    n = tl.arange(0, N)
    total = tl.zeros((N,), tl.float32)
    if ENTER:
        at = x + n
        total += tl.load(at)
    for i in range(count):
        if SAVE:
            at = i * N + n
            tl.store(y + at, total)
        total += i
    tl.store(y + (N - 1 - n if BACK else n), total)


@jit
def _crowded(x, y, N: tl.constexpr, ROWS: tl.constexpr):
    """Holds N x N values in the registers of one warp across a loop: more than there are for N = 64."""
    at = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    total = tl.load(x + at)
    other = total
    for i in range(ROWS):
        other = tl.load(x + at + i) * other + total
        total = total * other
    tl.store(y + at, total + other)


@jit
def _product(x, y, N: tl.constexpr):
    """A product of two N x N matrices in one step: N = 128 takes more shared memory than every card has."""
    at = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(y + at, tl.dot(tl.trans(tl.load(x + at)), tl.load(x + at + 1), input_precision="tf32"))


def renamed(x: Tensor, enter: bool, save: bool, back: bool) -> None:
    """Launch :func:`_renamed`."""
    flags = {"ENTER": enter, "SAVE": save, "BACK": back}
    launch(_renamed, lambda c: (1,), (x, torch.empty_like(x), x.shape[0]), flags, [Config({"N": 16}, 1, 1)])


def crowded(x: Tensor, side: int) -> None:
    """Launch :func:`_crowded`."""
    launch(_crowded, lambda c: (1,), (x, torch.empty_like(x)), {"ROWS": 8}, [Config({"N": side}, 1, 1)])


def product(x: Tensor, side: int) -> None:
    """Launch :func:`_product`."""
    launch(_product, lambda c: (1,), (x, torch.empty_like(x)), {}, [Config({"N": side}, 8, 1)])


def tall(x: Tensor, rows: int) -> None:
    """Launch :func:`_crowded` on a grid with so many rows."""
    launch(_crowded, lambda c: (1, rows), (x, torch.empty_like(x)), {"ROWS": 8}, [Config({"N": 4}, 1, 1)])
