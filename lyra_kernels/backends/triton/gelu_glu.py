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
from ._launch import Config, cdiv, jit, launch, next_power_of_2, precision, supports
from ._layout import sequence_of_token
from ._reduce import sum_rows


@triton.jit
def _gelu(y):
    """GELU by the error function, of fp32 ``y``."""
    return 0.5 * y * (1.0 + tl.erf(y * 0.7071067811865476))


@triton.jit
def _where(first, i, seq_ptr, lengths_ptr, num_tokens, L, HAS_SEQ: tl.constexpr, HAS_LENGTHS: tl.constexpr):
    """Of tokens ``first + i``: whether they are there, the numbers of their sequences, and whether they are real.

    ``seq_ptr (L,)`` int32, see :func:`.sequence_of_token`; ``lengths_ptr (B,)`` int64; None where not HAS_*.
    """
    there = first + i < num_tokens
    # Every thread asks this of many tokens, so of the divisions, of 64 bits, there is one a program.
    row = first // L
    beyond = (first - (row + 1) * L).to(L.dtype) + i  # tokens beyond the end of the first token's row
    if HAS_SEQ:
        s = tl.load(seq_ptr + first + i, mask=there, other=0)
    else:
        s = (row + tl.where(beyond < 0, 0, 1 + beyond // L)).to(tl.int32)
    real = there
    if HAS_LENGTHS:
        t = tl.where(beyond < 0, beyond + L, beyond % L)
        real = there & (t < tl.load(lengths_ptr + s, mask=there, other=0))
    return there, s, real


@jit
def _gelu_glu(
    y_ptr,
    weight_ptr,
    bias_ptr,
    dropout_ptr,
    residual_ptr,
    lengths_ptr,
    seq_ptr,
    grad_ptr,
    out_ptr,
    dz_ptr,
    a_ptr,
    num_tokens,
    L,
    H,
    HAS_BIAS: tl.constexpr,
    HAS_DROPOUT: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_SEQ: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    BACKWARD: tl.constexpr,
    PREC: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """BLOCK_T tokens of BLOCK_N outputs; with BACKWARD their dz, and all of a from the first program of the tokens.

    Args:
        y_ptr: ``(num_tokens, H)``, B sequences of L tokens or one packed.
        weight_ptr: ``(2H, H)`` fp32.
        bias_ptr: ``(2H,)`` fp32; read where HAS_BIAS.
        dropout_ptr: m, ``(sequences, H)``; read where HAS_DROPOUT.
        residual_ptr: as y; read where HAS_RESIDUAL.
        lengths_ptr: ``(B,)`` int64; read where HAS_LENGTHS.
        seq_ptr: ``(num_tokens,)`` int32, the sequence of each token; read where HAS_SEQ (packed).
        grad_ptr: as y, the gradient of out; read where BACKWARD.
        out_ptr: as y, written where not BACKWARD.
        dz_ptr: ``(num_tokens, 2H)`` fp32, written where BACKWARD.
        a_ptr: ``(num_tokens, H)`` fp32, written where BACKWARD.
        PREC: of products, ``tl.dot``'s input_precision.
        BLOCK_K: inputs of a step of the product.
    """
    # One base a program and offsets of 32 bits: 64-bit addresses of every value would fill the registers.
    first = tl.program_id(0).to(tl.int64) * BLOCK_T
    i = tl.arange(0, BLOCK_T)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    there, sequence, real = _where(first, i, seq_ptr, lengths_ptr, num_tokens, L, HAS_SEQ, HAS_LENGTHS)
    z1 = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
    z2 = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
    for k0 in range(0, H, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        mask = real[:, None] & (k < H)[None, :]
        offsets = i[:, None] * H + k[None, :]
        a = _gelu(tl.load(y_ptr + first * H + offsets, mask=mask, other=0.0).to(tl.float32))
        if HAS_DROPOUT:
            a *= tl.load(dropout_ptr + sequence.to(tl.int64)[:, None] * H + k[None, :], mask=mask, other=0.0).to(
                tl.float32
            )
        if BACKWARD:
            if tl.program_id(1) == 0:
                tl.store(
                    a_ptr + first * H + offsets, a.to(a_ptr.dtype.element_ty), mask=there[:, None] & (k < H)[None, :]
                )
        weight_ptrs = weight_ptr + n[None, :] * H + k[:, None]
        weight_mask = (n < H)[None, :] & (k < H)[:, None]
        a = nearest(a, PREC)
        z1 = tl.dot(a, nearest(tl.load(weight_ptrs, mask=weight_mask, other=0.0), PREC), z1, input_precision=PREC)
        z2 = tl.dot(
            a, nearest(tl.load(weight_ptrs + H * H, mask=weight_mask, other=0.0), PREC), z2, input_precision=PREC
        )
    if HAS_BIAS:
        z1 += tl.load(bias_ptr + n, mask=n < H, other=0.0)[None, :]
        z2 += tl.load(bias_ptr + H + n, mask=n < H, other=0.0)[None, :]
    gate = tl.sigmoid(z2)
    # Which rows are real goes from the threads that load to those that store by way of a sum, which the compiler does
    # not do over again for the latter before the loop: their answers, one for each row, would fill the registers.
    if HAS_LENGTHS:
        real = tl.sum((real[:, None] & (tl.arange(0, BLOCK_K) == 0)[None, :]).to(tl.int32), axis=1) > 0
    mask = real[:, None] & (n < H)[None, :]
    out_mask = there[:, None] & (n < H)[None, :]
    offsets = i[:, None] * H + n[None, :]
    if BACKWARD:
        g = tl.load(grad_ptr + first * H + offsets, mask=mask, other=0.0).to(tl.float32)
        dz_ptrs = dz_ptr + first * (2 * H) + (i[:, None] * (2 * H) + n[None, :])
        tl.store(dz_ptrs, (g * gate).to(dz_ptr.dtype.element_ty), mask=out_mask)
        tl.store(dz_ptrs + H, (g * z1 * gate * (1.0 - gate)).to(dz_ptr.dtype.element_ty), mask=out_mask)
    else:
        z1 *= gate
        if HAS_RESIDUAL:
            z1 += tl.load(residual_ptr + first * H + offsets, mask=mask, other=0.0).to(tl.float32)
        tl.store(out_ptr + first * H + offsets, tl.where(mask, z1, 0.0).to(out_ptr.dtype.element_ty), mask=out_mask)


@jit
def _gelu_backward(
    da_ptr,
    y_ptr,
    dropout_ptr,
    lengths_ptr,
    seq_ptr,
    dy_ptr,
    num_tokens,
    L,
    H,
    HAS_DROPOUT: tl.constexpr,
    HAS_SEQ: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """dy of BLOCK_T tokens and BLOCK_N channels, elementwise.

    Args:
        da_ptr: ``(num_tokens, H)`` fp32, the gradient of a.
        dy_ptr: as y, written.
        y_ptr, dropout_ptr, lengths_ptr, seq_ptr and HAS_*: as of :func:`_gelu_glu`.
    """
    first = tl.program_id(0).to(tl.int64) * BLOCK_T
    i = tl.arange(0, BLOCK_T)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    there, sequence, real = _where(first, i, seq_ptr, lengths_ptr, num_tokens, L, HAS_SEQ, HAS_LENGTHS)
    mask = real[:, None] & (n < H)[None, :]
    offsets = i[:, None] * H + n[None, :]
    g = tl.load(da_ptr + first * H + offsets, mask=mask, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + first * H + offsets, mask=mask, other=0.0).to(tl.float32)
    if HAS_DROPOUT:
        g *= tl.load(dropout_ptr + sequence.to(tl.int64)[:, None] * H + n[None, :], mask=mask, other=0.0).to(tl.float32)
    slope = 0.5 * (1.0 + tl.erf(y * 0.7071067811865476)) + y * 0.3989422804014327 * tl.exp(-0.5 * y * y)
    out_mask = there[:, None] & (n < H)[None, :]
    tl.store(dy_ptr + first * H + offsets, tl.where(mask, g * slope, 0.0).to(dy_ptr.dtype.element_ty), mask=out_mask)


def configurations(channels: int, backward: bool) -> list[Config]:
    """Tiles whose two accumulators and TF32 parts stay in registers; forward: few outputs a program, or y read once."""
    block = next_power_of_2(max(channels, 16))
    if backward:
        return [Config({"BLOCK_T": 32, "BLOCK_N": min(64, block), "BLOCK_K": 16}, 8, 2)]
    narrow = [Config({"BLOCK_T": 64, "BLOCK_N": min(32, block), "BLOCK_K": 16}, 4, 2)]
    return narrow if block <= 32 else [*narrow, Config({"BLOCK_T": 64, "BLOCK_N": 64, "BLOCK_K": 16}, 4, 2)]


def _run(y, weight, bias, mask, residual, lengths, seq, grad, out, dz, a) -> None:
    batch, length, channels = y.shape
    tokens = batch * length
    launch(
        _gelu_glu,
        lambda c: (cdiv(tokens, c.blocks["BLOCK_T"]), cdiv(channels, c.blocks["BLOCK_N"])),
        {
            "y_ptr": y,
            "weight_ptr": weight,
            "bias_ptr": bias,
            "dropout_ptr": mask,
            "residual_ptr": residual,
            "lengths_ptr": lengths,
            "seq_ptr": seq,
            "grad_ptr": grad,
            "out_ptr": out,
            "dz_ptr": dz,
            "a_ptr": a,
            "num_tokens": tokens,
            "L": length,
            "H": channels,
        },
        {
            "HAS_BIAS": bias is not None,
            "HAS_DROPOUT": mask is not None,
            "HAS_RESIDUAL": residual is not None,
            "HAS_SEQ": seq is not None,
            "HAS_LENGTHS": lengths is not None,
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
        lambda c: (cdiv(tokens, c.blocks["BLOCK_T"]), cdiv(channels, c.blocks["BLOCK_N"])),
        {
            "da_ptr": da,
            "y_ptr": y,
            "dropout_ptr": mask,
            "lengths_ptr": lengths,
            "seq_ptr": seq,
            "dy_ptr": dy,
            "num_tokens": tokens,
            "L": length,
            "H": channels,
        },
        {"HAS_DROPOUT": mask is not None, "HAS_SEQ": seq is not None, "HAS_LENGTHS": lengths is not None},
        [Config({"BLOCK_T": 32, "BLOCK_N": 64}, 4, 1)],
    )
    return dy, dz.t() @ a, d_bias
