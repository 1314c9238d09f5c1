"""A whole S4D block: norm, convolution by scan, tail, residual; between them activations lie as ``(B, H, L)``.

The norm writes what the scan reads in whole lines, and its backward reads the scan's gradient so and adds the
residual's: no launch is there to transpose, nor to add. With n = 1 / sqrt(mean(x^2) + eps), z = n w x and r the
gradient of the block's output where the input is added to it:

    dx = n (w g - x n^2 mean(w g x)) + r,     dw = sum over tokens of n x g
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...layout import without_padding
from ...schemas import absent
from .. import composed
from . import IMPLEMENTATIONS
from ._launch import Config, cdiv, jit, launch, next_power_of_2, refusing
from ._reduce import sum_rows
from ._transpose import aligned, channels_first, lying_as, takes_channels_first
from .gelu_glu import glu_tail, transposed
from .gelu_glu_backward import gelu_glu_backward
from .s4d_scan import s4d_scan, why_not
from .s4d_scan_backward import s4d_scan_backward

MAX_CHANNELS = 512
"""Whose values, of 16 tokens, are in the registers of one program of the norm."""


@triton.jit
def _tokens(L, H, L_ALIGNED: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr):
    """Of the program's tile: the number of its sequence, its tokens, ``(BLOCK_T, 1)``, its channels, and L."""
    L = aligned(L, L_ALIGNED)
    # One axis, whatever the batch: the others end at 65,535.
    blocks = tl.cdiv(L, BLOCK_T)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    t = tl.program_id(0) % blocks * BLOCK_T + tl.arange(0, BLOCK_T)[:, None]
    return b, t, tl.arange(0, BLOCK_H)[None, :], L


@jit
def _norm_to_channels_first(
    x_ptr,
    weight_ptr,
    z_ptr,
    L,
    H,
    eps,
    L_ALIGNED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """``z (B, H, L)`` of ``x (B, L, H)``, BLOCK_T tokens a program.

    Args:
        weight_ptr: ``(H,)`` fp32.
        L_ALIGNED: L is a multiple of 16, of which values several go at once.
        BLOCK_H: H or more, a power of 2.
    """
    b, t, h, L = _tokens(L, H, L_ALIGNED, BLOCK_T, BLOCK_H)
    mask = (t < L) & (h < H)
    x = tl.load(x_ptr + b * L * H + t.to(tl.int64) * H + h, mask=mask, other=0.0).to(tl.float32)
    z = x / tl.sqrt(tl.where(t < L, (tl.sum(x * x, axis=1) / H)[:, None] + eps, 1.0))
    z *= tl.load(weight_ptr + h, mask=h < H, other=0.0)
    tl.store(z_ptr + b * L * H + h.to(tl.int64) * L + t, z.to(z_ptr.dtype.element_ty), mask=mask)


@jit
def _norm_from_channels_first(
    dz_ptr,
    x_ptr,
    weight_ptr,
    grad_ptr,
    lengths_ptr,
    dx_ptr,
    partial_ptr,
    L,
    H,
    eps,
    ADD_GRAD: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    L_ALIGNED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """``dx (B, L, H)`` of ``dz (B, H, L)``, BLOCK_T tokens a program, and what they add to dw.

    Args:
        x_ptr: ``(B, L, H)``.
        weight_ptr: ``(H,)`` fp32.
        grad_ptr: as x, added to dx where ADD_GRAD.
        lengths_ptr: ``(B,)`` int64; read where HAS_LENGTHS: dx is 0 at padded positions, whatever is there.
        partial_ptr: ``(programs, H)`` fp32, written.
        L_ALIGNED, BLOCK_H: as of :func:`_norm_to_channels_first`.
    """
    b, t, h, L = _tokens(L, H, L_ALIGNED, BLOCK_T, BLOCK_H)
    length = L
    if HAS_LENGTHS:
        length = tl.minimum(tl.load(lengths_ptr + b), L)
    real = (t < length) & (h < H)
    offsets = b * L * H + t.to(tl.int64) * H + h
    x = tl.load(x_ptr + offsets, mask=real, other=0.0).to(tl.float32)
    g = tl.load(dz_ptr + b * L * H + h.to(tl.int64) * L + t, mask=real, other=0.0).to(tl.float32)
    n = 1.0 / tl.sqrt(tl.where(t < length, (tl.sum(x * x, axis=1) / H)[:, None] + eps, 1.0))
    dw = tl.sum(g * x * n, axis=0)[None, :]
    g *= tl.load(weight_ptr + h, mask=h < H, other=0.0)
    dx = n * (g - x * ((tl.sum(g * x, axis=1) / H)[:, None] * n * n))
    if ADD_GRAD:
        dx += tl.load(grad_ptr + offsets, mask=real, other=0.0).to(tl.float32)
    tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=(t < L) & (h < H))
    tl.store(partial_ptr + tl.program_id(0).to(tl.int64) * H + h, dw, mask=h < H)


def configurations(channels: int) -> list[Config]:
    """About 4096 values a program, 16 a thread; at least 16 tokens, a sector of a channel in 16 bits."""
    block = next_power_of_2(max(channels, 16))
    tokens = max(16, min(64, 4096 // block))
    return [Config({"BLOCK_T": tokens, "BLOCK_H": block}, max(4, tokens * block // 512), 1)]


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The norm of ``x (B, L, H)`` as a contiguous ``(B, H, L)``."""
    batch, length, channels = x.shape
    z = x.new_empty(batch, channels, length)
    launch(
        _norm_to_channels_first,
        lambda c: (cdiv(length, c.blocks["BLOCK_T"]) * batch,),
        {"x_ptr": x, "weight_ptr": weight, "z_ptr": z, "L": length, "H": channels, "eps": eps},
        {"L_ALIGNED": length % 16 == 0},
        configurations(channels),
    )
    return z


def _norm_backward(
    dz: Tensor, x: Tensor, weight: Tensor, grad: Tensor | None, lengths: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the norm's weight, from ``dz (B, H, L)``; ``grad`` is added to the first."""
    batch, length, channels = x.shape
    config = configurations(channels)
    programs = cdiv(length, config[0].blocks["BLOCK_T"]) * batch
    dx = x.new_empty(x.shape)
    partial = weight.new_empty(programs, channels)
    launch(
        _norm_from_channels_first,
        lambda _: (programs,),
        {
            "dz_ptr": dz,
            "x_ptr": x,
            "weight_ptr": weight,
            "grad_ptr": grad,
            "lengths_ptr": lengths,
            "dx_ptr": dx,
            "partial_ptr": partial,
            "L": length,
            "H": channels,
            "eps": eps,
        },
        {"ADD_GRAD": grad is not None, "HAS_LENGTHS": lengths is not None, "L_ALIGNED": length % 16 == 0},
        config,
    )
    return dx, sum_rows(partial, channels)


def _why_not(x: Tensor, A_imag: Tensor, cu_seqlens: Tensor | None) -> str | None:
    """Why the block does not run as here but op by op, or None."""
    if x.shape[2] > MAX_CHANNELS:
        return f"the block's norm takes up to {MAX_CHANNELS} channels"
    return why_not(x, A_imag, cu_seqlens)


@refusing(lambda u, *rest: _why_not(u, rest[2], rest[10]), instead=composed.s4d_block)
@takes_channels_first
def s4d_block(
    u, log_dt, log_A_real, A_imag, C, D, weight, bias, norm_weight, mask, lengths, cu_seqlens, eps, add_input, save
) -> tuple[Tensor, ...]:
    """``torch.ops.lyra.s4d_block``; u may lie channels first where it is not normalised or added; so does out then."""
    modes, tail, layout = (log_dt, log_A_real, A_imag, C), (weight, bias, mask), (lengths, cu_seqlens)
    if _why_not(u, A_imag, cu_seqlens):
        args = (u, *modes, D, weight, bias, norm_weight, mask, *layout, eps, add_input, save)
        return composed.s4d_block(IMPLEMENTATIONS.__getitem__, *args)
    z = channels_first(u) if norm_weight is None else _norm(u, norm_weight, eps)
    y, _, checkpoints = s4d_scan(z.transpose(1, 2), *modes, D, *layout, None, save)
    out = glu_tail(y, *tail, u if add_input else None, *layout, transposed(u))
    if not save:
        return out, u.new_empty(0), u.new_empty(0), checkpoints
    kept = u.new_empty(0) if norm_weight is None else z.view(-1)
    return out, kept, channels_first(y).view(-1), checkpoints


@takes_channels_first
def s4d_block_backward(
    grad, u, log_dt, log_A_real, A_imag, C, D, weight, bias, norm_weight, mask, lengths, cu_seqlens, eps, add_input,
    normalized, convolved, checkpoints,
) -> tuple[Tensor, ...]:  # fmt: skip
    """``torch.ops.lyra.s4d_block_backward``."""
    modes, tail, layout = (log_dt, log_A_real, A_imag, C), (weight, bias, mask), (lengths, cu_seqlens)
    if _why_not(u, A_imag, cu_seqlens):
        kept = (normalized, convolved, checkpoints)
        args = (u, *modes, D, weight, bias, norm_weight, mask, *layout, eps, add_input, *kept)
        return composed.s4d_block_backward(IMPLEMENTATIONS.__getitem__, grad, *args)
    batch, length, channels = u.shape
    y = convolved.view(batch, channels, length).transpose(1, 2)
    z = channels_first(u) if norm_weight is None else normalized.view(batch, channels, length)
    dy, d_weight, d_bias = gelu_glu_backward(grad, y, *tail, *layout)
    dz, *d_modes, d_D, _ = s4d_scan_backward(dy, None, z.transpose(1, 2), *modes, D, *layout, None, checkpoints)
    if norm_weight is not None:
        du, d_norm = _norm_backward(
            channels_first(dz), u, norm_weight, grad.contiguous() if add_input else None, lengths, eps
        )
    else:
        du, d_norm = lying_as(dz, u), absent(u)
        if add_input:
            du += without_padding(grad, lengths)
    return du, *d_modes, d_D, d_weight, d_bias, d_norm
