"""Kernels with a fault each, which the gate must name."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from lyra_kernels.backends.triton._launch import Config, jit, launch


@jit
def _renamed(x_ptr, y_ptr, num_rows, ENTER: tl.constexpr, SAVE: tl.constexpr, BACK: tl.constexpr, N: tl.constexpr):
    """With ENTER and SAVE, one name is a pointer before the loop and an integer inside, which Triton refuses."""
    n = tl.arange(0, N)
    total = tl.zeros((N,), tl.float32)
    if ENTER:
        at = x_ptr + n
        total += tl.load(at)
    for i in range(num_rows):
        if SAVE:
            at = i * N + n
            tl.store(y_ptr + at, total)
        total += i
    tl.store(y_ptr + (N - 1 - n if BACK else n), total)


@jit
def _crowded(x_ptr, y_ptr, N: tl.constexpr, ROWS: tl.constexpr):
    """Holds N x N values in the registers of one warp across a loop: more than there are for N = 64."""
    at = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    total = tl.load(x_ptr + at)
    other = total
    for i in range(ROWS):
        other = tl.load(x_ptr + at + i) * other + total
        total = total * other
    tl.store(y_ptr + at, total + other)


@jit
def _product(x_ptr, y_ptr, N: tl.constexpr):
    """A product of two N x N matrices in one step: N = 128 takes more shared memory than every card has."""
    at = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(y_ptr + at, tl.dot(tl.trans(tl.load(x_ptr + at)), tl.load(x_ptr + at + 1), input_precision="tf32"))


def _pointers(x: Tensor) -> dict[str, Tensor]:
    return {"x_ptr": x, "y_ptr": torch.empty_like(x)}


def renamed(x: Tensor, enter: bool, save: bool, back: bool) -> None:
    """Launch :func:`_renamed`."""
    flags = {"ENTER": enter, "SAVE": save, "BACK": back}
    args = {**_pointers(x), "num_rows": x.shape[0]}
    launch(_renamed, lambda c: (1,), args, flags, [Config({"N": 16}, 1, 1)])


def crowded(x: Tensor, side: int) -> None:
    """Launch :func:`_crowded`."""
    launch(_crowded, lambda c: (1,), _pointers(x), {"ROWS": 8}, [Config({"N": side}, 1, 1)])


def product(x: Tensor, side: int) -> None:
    """Launch :func:`_product`."""
    launch(_product, lambda c: (1,), _pointers(x), {}, [Config({"N": side}, 8, 1)])


def tall(x: Tensor, rows: int) -> None:
    """Launch :func:`_crowded` on a grid with so many rows."""
    launch(_crowded, lambda c: (1, rows), _pointers(x), {"ROWS": 8}, [Config({"N": 4}, 1, 1)])
