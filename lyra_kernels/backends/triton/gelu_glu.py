"""The tail of an S4D layer in one kernel: GELU, dropout mask, projection, gated linear unit, residual.

With a = gelu(y) m and z = W a + b = (z1, z2): out = z1 sigmoid(z2) + residual. A program takes a block of tokens and of
output channels, both halves of z for them; the (tokens, 2H) product never reaches memory.

The backward recomputes z in the same way and writes its gradient (z is what is dear to keep: twice the activations)
and a; two matrix products, PyTorch's own, give dW and da; an elementwise kernel ends it.

    dz1 = g sigmoid(z2),  dz2 = g z1 sigmoid(z2) (1 - sigmoid(z2)),  dy = (W^T dz) m gelu'(y)
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...schemas import absent
from ..reference import operations as formulas
from ._dot import nearest
from ._launch import Config, jit, launch, next_power_of_2, precision, supports
from ._layout import sequence_of_token
from ._reduce import sum_rows


@triton.jit
def _gelu(y):
    return 0.5 * y * (1.0 + tl.erf(y * 0.7071067811865476))


@triton.jit
def _where(first, i, seq, lengths, tokens, L, SEQ: tl.constexpr, LENGTHS: tl.constexpr):
    """Of tokens i after a program's first: whether they are there, their sequences, and whether they are real."""
    there = first + i < tokens
    # Every thread asks this of many tokens, so of the divisions, of 64 bits, there is one a program.
    row = first // L
    beyond = (first - (row + 1) * L).to(L.dtype) + i  # tokens beyond the end of the first token's row
    if SEQ:
        s = tl.load(seq + first + i, mask=there, other=0)
    else:
        s = (row + tl.where(beyond < 0, 0, 1 + beyond // L)).to(tl.int32)
    real = there
    if LENGTHS:
        at = tl.where(beyond < 0, beyond + L, beyond % L)
        real = there & (at < tl.load(lengths + s, mask=there, other=0))
    return there, s, real


@jit
def _gelu_glu(
    y,
    weight,
    bias,
    mask,
    residual,
    lengths,
    seq,
    grad,
    out,
    dz,
    a_out,
    tokens,
    L,
    H,
    BIAS: tl.constexpr,
    MASK: tl.constexpr,
    RESIDUAL: tl.constexpr,
    SEQ: tl.constexpr,
    LENGTHS: tl.constexpr,
    BACKWARD: tl.constexpr,
    PREC: tl.constexpr,
    BT: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    # One base a program and offsets of 32 bits: 64-bit addresses of every value would fill the registers.
    first = tl.program_id(0).to(tl.int64) * BT
    i = tl.arange(0, BT)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    there, s, real = _where(first, i, seq, lengths, tokens, L, SEQ, LENGTHS)
    z1 = tl.zeros((BT, BN), tl.float32)
    z2 = tl.zeros((BT, BN), tl.float32)
    for k0 in range(0, H, BK):
        k = k0 + tl.arange(0, BK)
        m = real[:, None] & (k < H)[None, :]
        at = i[:, None] * H + k[None, :]
        a = _gelu(tl.load(y + first * H + at, mask=m, other=0.0).to(tl.float32))
        if MASK:
            a *= tl.load(mask + s.to(tl.int64)[:, None] * H + k[None, :], mask=m, other=0.0).to(tl.float32)
        if BACKWARD:
            if tl.program_id(1) == 0:
                tl.store(a_out + first * H + at, a.to(a_out.dtype.element_ty), mask=there[:, None] & (k < H)[None, :])
        w = weight + n[None, :] * H + k[:, None]
        mw = (n < H)[None, :] & (k < H)[:, None]
        a = nearest(a, PREC)
        z1 = tl.dot(a, nearest(tl.load(w, mask=mw, other=0.0), PREC), z1, input_precision=PREC)
        z2 = tl.dot(a, nearest(tl.load(w + H * H, mask=mw, other=0.0), PREC), z2, input_precision=PREC)
    if BIAS:
        z1 += tl.load(bias + n, mask=n < H, other=0.0)[None, :]
        z2 += tl.load(bias + H + n, mask=n < H, other=0.0)[None, :]
    gate = tl.sigmoid(z2)
    # Which rows are real goes from the threads that load to those that store by way of a sum, which the compiler does
    # not do over again for the latter before the loop: their answers, one for each row, would fill the registers.
    if LENGTHS:
        real = tl.sum((real[:, None] & (tl.arange(0, BK) == 0)[None, :]).to(tl.int32), axis=1) > 0
    m = real[:, None] & (n < H)[None, :]
    kept = there[:, None] & (n < H)[None, :]
    at = i[:, None] * H + n[None, :]
    if BACKWARD:
        g = tl.load(grad + first * H + at, mask=m, other=0.0).to(tl.float32)
        dz += first * (2 * H)
        at = i[:, None] * (2 * H) + n[None, :]
        tl.store(dz + at, (g * gate).to(dz.dtype.element_ty), mask=kept)
        tl.store(dz + at + H, (g * z1 * gate * (1.0 - gate)).to(dz.dtype.element_ty), mask=kept)
    else:
        z1 *= gate
        if RESIDUAL:
            z1 += tl.load(residual + first * H + at, mask=m, other=0.0).to(tl.float32)
        tl.store(out + first * H + at, tl.where(m, z1, 0.0).to(out.dtype.element_ty), mask=kept)


@jit
def _gelu_backward(
    da,
    y,
    mask,
    lengths,
    seq,
    dy,
    tokens,
    L,
    H,
    MASK: tl.constexpr,
    SEQ: tl.constexpr,
    LENGTHS: tl.constexpr,
    BT: tl.constexpr,
    BN: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * BT
    i = tl.arange(0, BT)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    there, s, real = _where(first, i, seq, lengths, tokens, L, SEQ, LENGTHS)
    m = real[:, None] & (n < H)[None, :]
    at = i[:, None] * H + n[None, :]
    g = tl.load(da + first * H + at, mask=m, other=0.0).to(tl.float32)
    x = tl.load(y + first * H + at, mask=m, other=0.0).to(tl.float32)
    if MASK:
        g *= tl.load(mask + s.to(tl.int64)[:, None] * H + n[None, :], mask=m, other=0.0).to(tl.float32)
    slope = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
    kept = there[:, None] & (n < H)[None, :]
    tl.store(dy + first * H + at, tl.where(m, g * slope, 0.0).to(dy.dtype.element_ty), mask=kept)


def configurations(channels: int, backward: bool) -> list[Config]:
    """Tiles whose two accumulators and TF32 parts stay in registers; forward: few outputs a program, or y read once."""
    block = next_power_of_2(max(channels, 16))
    if backward:
        return [Config({"BT": 32, "BN": min(64, block), "BK": 16}, 8, 2)]
    narrow = [Config({"BT": 64, "BN": min(32, block), "BK": 16}, 4, 2)]
    return narrow if block <= 32 else [*narrow, Config({"BT": 64, "BN": 64, "BK": 16}, 4, 2)]


def _run(y, weight, bias, mask, residual, lengths, seq, grad, out, dz, a) -> None:
    batch, length, channels = y.shape
    tokens = batch * length
    launch(
        _gelu_glu,
        lambda c: (triton.cdiv(tokens, c.blocks["BT"]), triton.cdiv(channels, c.blocks["BN"])),
        (y, weight, bias, mask, residual, lengths, seq, grad, out, dz, a, tokens, length, channels),
        {
            "BIAS": bias is not None,
            "MASK": mask is not None,
            "RESIDUAL": residual is not None,
            "SEQ": seq is not None,
            "LENGTHS": lengths is not None,
            "BACKWARD": grad is not None,
            "PREC": precision(y),
        },
        configurations(channels, backward=grad is not None),
    )


def gelu_glu(y, weight, bias, mask, residual, lengths, cu_seqlens) -> Tensor:
    """``torch.ops.lyra.gelu_glu``."""
    if not supports(y) or not y.numel():
        return formulas()["gelu_glu"](y, weight, bias, mask, residual, lengths, cu_seqlens)
    out = torch.empty_like(y)
    seq = sequence_of_token(cu_seqlens, y.shape[1])
    _run(y, weight, bias, mask, residual, lengths, seq, None, out, None, None)
    return out


def gelu_glu_backward(grad, y, weight, bias, mask, lengths, cu_seqlens) -> tuple[Tensor, Tensor, Tensor]:
    """``torch.ops.lyra.gelu_glu_backward``."""
    if not supports(y) or not y.numel():
        return formulas()["gelu_glu_backward"](grad, y, weight, bias, mask, lengths, cu_seqlens)
    batch, length, channels = y.shape
    tokens = batch * length
    seq = sequence_of_token(cu_seqlens, length)
    # fp32: products of rounded values would cost the gradients of the parameters their accuracy.
    dz = y.new_empty(tokens, 2 * channels, dtype=torch.float32)
    a = y.new_empty(tokens, channels, dtype=torch.float32)
    _run(y, weight, bias, mask, None, lengths, seq, grad, None, dz, a)
    d_bias = absent(y) if bias is None else sum_rows(dz, 2 * channels)
    da = dz @ weight
    dy = torch.empty_like(y)
    launch(
        _gelu_backward,
        lambda c: (triton.cdiv(tokens, c.blocks["BT"]), triton.cdiv(channels, c.blocks["BN"])),
        (da, y, mask, lengths, seq, dy, tokens, length, channels),
        {"MASK": mask is not None, "SEQ": seq is not None, "LENGTHS": lengths is not None},
        [Config({"BT": 32, "BN": 64}, 4, 1)],
    )
    return dy, dz.t() @ a, d_bias
