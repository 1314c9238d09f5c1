"""RMS norm over the last dimension: a block of rows a program, each value read once and written once.

With n = 1 / sqrt(mean(x^2) + eps):  y = n w x,  dx = n (w g - x n^2 mean(w g x)),  dw = sum_rows n x g.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...schemas import absent
from ..reference import operations as formulas
from ._launch import Config, jit, launch, next_power_of_2, supports
from ._reduce import sum_rows

MAX_CHANNELS = 8192  # in the registers of one program


@jit
def _rms_norm(x, weight, y, rows, C, eps, WEIGHT: tl.constexpr, R: tl.constexpr, BC: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)[:, None]
    c = tl.arange(0, BC)[None, :]
    m = (row < rows) & (c < C)
    value = tl.load(x + row * C + c, mask=m, other=0.0).to(tl.float32)
    out = value / tl.sqrt(tl.where(row < rows, (tl.sum(value * value, axis=1) / C)[:, None] + eps, 1.0))
    if WEIGHT:
        out *= tl.load(weight + c, mask=c < C, other=0.0)
    tl.store(y + row * C + c, out.to(y.dtype.element_ty), mask=m)


@jit
def _rms_norm_backward(
    grad,
    x,
    weight,
    dx,
    partial,
    rows,
    C,
    eps,
    WEIGHT: tl.constexpr,
    STEPS: tl.constexpr,
    R: tl.constexpr,
    BC: tl.constexpr,
):
    # One base a program and offsets of 32 bits: 64-bit addresses of every value would fill the registers.
    first = tl.program_id(0).to(tl.int64) * (R * STEPS)
    left = rows - first
    x += first * C
    grad += first * C
    dx += first * C
    c = tl.arange(0, BC)[None, :]
    w = tl.full((1, BC), 1.0, tl.float32)
    if WEIGHT:
        w = tl.load(weight + c, mask=c < C, other=0.0)
    total = tl.zeros((R, BC), tl.float32)
    for i in range(STEPS):
        row = i * R + tl.arange(0, R)[:, None]
        m = (row < left) & (c < C)
        at = row * C + c
        value = tl.load(x + at, mask=m, other=0.0).to(tl.float32)
        g = tl.load(grad + at, mask=m, other=0.0).to(tl.float32)
        n = 1.0 / tl.sqrt(tl.where(row < left, (tl.sum(value * value, axis=1) / C)[:, None] + eps, 1.0))
        total += g * value * n
        g *= w
        shared = (tl.sum(g * value, axis=1) / C)[:, None] * n * n
        tl.store(dx + at, (n * (g - value * shared)).to(dx.dtype.element_ty), mask=m)
    if WEIGHT:
        tl.store(partial + tl.program_id(0).to(tl.int64) * C + c, tl.sum(total, axis=0)[None, :], mask=c < C)


def configurations(channels: int, backward: bool) -> list[Config]:
    """About 4096 values a program, half of them in the backward, which holds twice as many arrays; 16 a thread.

    With 32 a thread ptxas spills where channels are odd: then each value has an address of its own. In the backward of
    wide rows it does so with 16.
    """
    block = next_power_of_2(max(channels, 16))
    values = 2048 if backward else 4096
    rows = max(1, min(64, values // block))
    each = 8 if backward and block > 512 else 16
    warps = max(1, rows * block // (32 * each))
    return [Config({"R": rows, "BC": block}, warps, 1)]


def _fits(x: Tensor) -> bool:
    return supports(x) and 0 < x.shape[-1] <= MAX_CHANNELS and x.numel() > 0


def rms_norm(x, weight, eps) -> Tensor:
    """``torch.ops.lyra.rms_norm``."""
    if not _fits(x):
        return formulas()["rms_norm"](x, weight, eps)
    channels = x.shape[-1]
    rows = x.numel() // channels
    y = torch.empty_like(x)
    launch(
        _rms_norm,
        lambda c: (triton.cdiv(rows, c.blocks["R"]),),
        (x, weight, y, rows, channels, eps),
        {"WEIGHT": weight is not None},
        configurations(channels, backward=False),
    )
    return y


def rms_norm_backward(grad, x, weight, eps) -> tuple[Tensor, Tensor]:
    """``torch.ops.lyra.rms_norm_backward``."""
    if not _fits(x):
        return formulas()["rms_norm_backward"](grad, x, weight, eps)
    channels = x.shape[-1]
    rows = x.numel() // channels
    config = configurations(channels, backward=True)
    steps = max(1, 64 // config[0].blocks["R"])
    programs = triton.cdiv(rows, config[0].blocks["R"] * steps)
    dx = torch.empty_like(x)
    partial = None if weight is None else x.new_empty(programs, channels, dtype=torch.float32)
    launch(
        _rms_norm_backward,
        lambda _: (programs,),
        (grad, x, weight, dx, partial, rows, channels, eps),
        {"WEIGHT": weight is not None, "STEPS": steps},
        config,
    )
    return dx, absent(x) if partial is None else sum_rows(partial, channels)
