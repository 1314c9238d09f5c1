"""RMS norm over the last dimension: a block of rows a program, each value read once and written once.

With n = 1 / sqrt(mean(x^2) + eps):  y = n w x,  dx = n (w g - x n^2 mean(w g x)),  dw = sum_rows n x g.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from ...schemas import absent
from ..reference import operations as formulas
from ._launch import Config, cdiv, jit, launch, next_power_of_2, refusal, refusing, supports
from ._reduce import sum_rows

MAX_CHANNELS = 8192  # in the registers of one program


@jit
def _rms_norm(
    x_ptr,
    weight_ptr,
    residual_ptr,
    y_ptr,
    num_rows,
    C,
    eps,
    HAS_WEIGHT: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """BLOCK_R rows of y.

    Args:
        x_ptr: ``(num_rows, C)``.
        weight_ptr: ``(C,)`` fp32; read where HAS_WEIGHT.
        residual_ptr: as y, read where HAS_RESIDUAL and added to it.
        y_ptr: as x, in a dtype of its own, written.
        BLOCK_C: C or more, a power of 2.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    c = tl.arange(0, BLOCK_C)[None, :]
    mask = (row < num_rows) & (c < C)
    x = tl.load(x_ptr + row * C + c, mask=mask, other=0.0).to(tl.float32)
    y = x / tl.sqrt(tl.where(row < num_rows, (tl.sum(x * x, axis=1) / C)[:, None] + eps, 1.0))
    if HAS_WEIGHT:
        y *= tl.load(weight_ptr + c, mask=c < C, other=0.0)
    if HAS_RESIDUAL:
        y += tl.load(residual_ptr + row * C + c, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_ptr + row * C + c, y.to(y_ptr.dtype.element_ty), mask=mask)


@jit
def _rms_norm_backward(
    grad_ptr,
    x_ptr,
    weight_ptr,
    dx_ptr,
    partial_ptr,
    num_rows,
    C,
    eps,
    HAS_WEIGHT: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """BLOCK_R x STEPS rows of dx, and what they add to dw.

    Args:
        grad_ptr, x_ptr: ``(num_rows, C)``, the gradient of y, and x.
        weight_ptr: ``(C,)`` fp32; read where HAS_WEIGHT.
        dx_ptr: as x, written.
        partial_ptr: ``(programs, C)`` fp32, written where HAS_WEIGHT.
        STEPS: how often a program takes BLOCK_R rows.
        BLOCK_C: C or more, a power of 2.
    """
    # One base a program and offsets of 32 bits: 64-bit addresses of every value would fill the registers.
    first = tl.program_id(0).to(tl.int64) * (BLOCK_R * STEPS)
    rows_left = num_rows - first
    x_ptr += first * C
    grad_ptr += first * C
    dx_ptr += first * C
    c = tl.arange(0, BLOCK_C)[None, :]
    w = tl.full((1, BLOCK_C), 1.0, tl.float32)
    if HAS_WEIGHT:
        w = tl.load(weight_ptr + c, mask=c < C, other=0.0)
    dw = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for i in range(STEPS):
        row = i * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
        mask = (row < rows_left) & (c < C)
        offsets = row * C + c
        x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        g = tl.load(grad_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        n = 1.0 / tl.sqrt(tl.where(row < rows_left, (tl.sum(x * x, axis=1) / C)[:, None] + eps, 1.0))
        dw += g * x * n
        g *= w
        shared = (tl.sum(g * x, axis=1) / C)[:, None] * n * n
        tl.store(dx_ptr + offsets, (n * (g - x * shared)).to(dx_ptr.dtype.element_ty), mask=mask)
    if HAS_WEIGHT:
        tl.store(partial_ptr + tl.program_id(0).to(tl.int64) * C + c, tl.sum(dw, axis=0)[None, :], mask=c < C)


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
    return [Config({"BLOCK_R": rows, "BLOCK_C": block}, warps, 1)]


def _why_not(x: Tensor) -> str | None:
    """Why the kernels do not take a call, or None."""
    if supports(x) and 0 < x.shape[-1] <= MAX_CHANNELS and x.numel() > 0:
        return None
    return refusal(x, f"the norm takes up to {MAX_CHANNELS} channels")


@refusing(lambda x, *rest: _why_not(x))
def rms_norm(x, weight, eps) -> Tensor:
    """``torch.ops.lyra.rms_norm``."""
    if _why_not(x):
        return formulas()["rms_norm"](x, weight, eps)
    return _run(x, weight, None, eps, torch.empty_like(x))


def norm_and_add(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float, dtype: torch.dtype) -> Tensor:
    """The norm of fp32 ``x`` plus ``residual``, rounded once to ``dtype``, which the residual has."""
    if not _why_not(x):
        return _run(x, weight, residual, eps, torch.empty_like(x, dtype=dtype))
    y = formulas()["rms_norm"](x, weight, eps)
    return (y if residual is None else y + residual).to(dtype)


def _run(x: Tensor, weight: Tensor | None, residual: Tensor | None, eps: float, y: Tensor) -> Tensor:
    channels = x.shape[-1]
    rows = x.numel() // channels
    launch(
        _rms_norm,
        lambda c: (cdiv(rows, c.blocks["BLOCK_R"]),),
        {
            "x_ptr": x,
            "weight_ptr": weight,
            "residual_ptr": residual,
            "y_ptr": y,
            "num_rows": rows,
            "C": channels,
            "eps": eps,
        },
        {"HAS_WEIGHT": weight is not None, "HAS_RESIDUAL": residual is not None},
        configurations(channels, backward=False),
    )
    return y


def rms_norm_backward(grad, x, weight, eps) -> tuple[Tensor, Tensor]:
    """``torch.ops.lyra.rms_norm_backward``."""
    if _why_not(x):
        return formulas()["rms_norm_backward"](grad, x, weight, eps)
    channels = x.shape[-1]
    rows = x.numel() // channels
    config = configurations(channels, backward=True)
    steps = max(1, 64 // config[0].blocks["BLOCK_R"])
    programs = cdiv(rows, config[0].blocks["BLOCK_R"] * steps)
    dx = torch.empty_like(x)
    partial = None if weight is None else x.new_empty(programs, channels, dtype=torch.float32)
    launch(
        _rms_norm_backward,
        lambda _: (programs,),
        {
            "grad_ptr": grad,
            "x_ptr": x,
            "weight_ptr": weight,
            "dx_ptr": dx,
            "partial_ptr": partial,
            "num_rows": rows,
            "C": channels,
            "eps": eps,
        },
        {"HAS_WEIGHT": weight is not None, "STEPS": steps},
        config,
    )
    return dx, absent(x) if partial is None else sum_rows(partial, channels)
