"""The whole PGC block: projection, norm, split, depthwise convolution, gate, projection, norm.

Where both projections fit on chip (up to 128 channels and inner channels) the forward is one kernel: a program takes a
tile of tokens with the convolution's halo, and nothing but u and the result touches memory. Rows of the projected tile
are shifted against each other by a gather. bfloat16 has a faster kernel, ``pgc_pairs``, where card and channels allow.
Wider blocks are matrix products (``_linear``) around the gated_conv kernel, and so is every backward, in fp32, from u
alone: recomputing is cheaper than keeping the projection.

In 16 bits wide blocks could also be PyTorch's products around a projection of 16 bits, which CUDA C++ has and which was
measured to be faster forward (16 x 2048 x 256: 111 us). Its error is 4.1e-3 in bfloat16, 2.4 times what storing the
output costs; what the pairs add is not seen beside that. So Triton serves these shapes, too.

No backward in one kernel, or in two cut at the gate: the tiles beside the sums for the weights spill, and by the time
model these kernels from memory are faster.
"""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ...schemas import absent
from ..reference import operations as formulas
from . import pgc_pairs as pairs
from ._dot import nearest
from ._launch import (
    Config,
    cdiv,
    jit,
    launch,
    next_power_of_2,
    precision,
    processors,
    reads_shared_operands,
    refusal,
    refusing,
    supports,
)
from ._layout import fill_padding, sequence_of_token
from ._linear import fits_norm_backward, linear, linear_norm_backward, linear_weight_gradient, operand, products
from ._shift import shifted
from .gated_conv import gated_conv
from .gated_conv_backward import gated_conv_backward
from .rms_norm import norm_and_add, rms_norm_backward

MAX_CHANNELS = 128


@jit
def _pgc(
    u_ptr,
    in_weight_ptr,
    in_bias_ptr,
    in_norm_ptr,
    conv_weight_ptr,
    conv_bias_ptr,
    out_weight_ptr,
    out_bias_ptr,
    out_norm_ptr,
    residual_ptr,
    lengths_ptr,
    seq_ptr,
    out_ptr,
    L,
    DI,
    E,
    DO,
    eps,
    HAS_IN_BIAS: tl.constexpr,
    HAS_IN_NORM: tl.constexpr,
    HAS_CONV_BIAS: tl.constexpr,
    HAS_OUT_BIAS: tl.constexpr,
    HAS_OUT_NORM: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    HAS_SEQ: tl.constexpr,
    K: tl.constexpr,
    LEFT: tl.constexpr,
    PREC: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A tile of BLOCK_T - K + 1 tokens of one sequence, all channels.

    Args:
        u_ptr: ``(B, L, DI)``.
        in_weight_ptr: ``(2E, DI)``, in_bias_ptr: ``(2E,)``, in_norm_ptr: ``(2E,)``, x before v.
        conv_weight_ptr: ``(E, K)``, conv_bias_ptr: ``(E,)``.
        out_weight_ptr: ``(DO, E)``, out_bias_ptr: ``(DO,)``, out_norm_ptr: ``(DO,)``. All weights are fp32; biases and
            norms are read where HAS_*, and without its weight there is no norm.
        residual_ptr: as out, read where HAS_RESIDUAL and added.
        lengths_ptr: ``(B,)`` int64; read where HAS_LENGTHS.
        seq_ptr: ``(L,)`` int32, the sequence of each token of a packed batch; read where HAS_SEQ.
        out_ptr: ``(B, L, DO)``, written.
        eps: of both norms.
        K: taps; LEFT: those before a token's own.
        PREC: of products, ``tl.dot``'s input_precision.
        BLOCK_K: inputs of a step of the first product.
        BLOCK_E, BLOCK_D: E and DO or more, powers of 2.
    """
    # One axis, whatever the batch: the others end at 65,535.
    blocks = tl.cdiv(L, BLOCK_T - K + 1)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    i = tl.arange(0, BLOCK_T)
    first = tl.program_id(0) % blocks * (BLOCK_T - K + 1) - LEFT
    e = tl.arange(0, BLOCK_E)
    d = tl.arange(0, BLOCK_D)
    e_mask = (e < E)[None, :]
    d_mask = (d < DO)[None, :]
    # One base a program and offsets of 32 bits: 64-bit addresses of every value would fill the registers.
    begin = tl.maximum(-first, 0).to(tl.int32)
    end = tl.minimum(L - first, BLOCK_T).to(tl.int32)
    inside = (i >= begin) & (i < end)
    real = inside
    if HAS_LENGTHS:
        real = inside & (i < tl.minimum(tl.load(lengths_ptr + b) - first, BLOCK_T).to(tl.int32))
    u_ptr += (b * L + first) * DI
    out_ptr += (b * L + first) * DO
    x = tl.zeros((BLOCK_T, BLOCK_E), tl.float32)
    v = tl.zeros((BLOCK_T, BLOCK_E), tl.float32)
    for k0 in range(0, DI, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        u_offsets = i[:, None] * DI + k[None, :]
        u = tl.load(u_ptr + u_offsets, mask=real[:, None] & (k < DI)[None, :], other=0.0)
        u = nearest(u, PREC) if u.dtype == tl.float32 else u.to(tl.float32)
        w_offsets = e[:, None] * DI + k[None, :]
        w_mask = (e < E)[:, None] & (k < DI)[None, :]
        w_x = nearest(tl.load(in_weight_ptr + w_offsets, mask=w_mask, other=0.0), PREC)
        x = tl.dot(u, tl.trans(w_x), x, input_precision=PREC)
        w_v = nearest(tl.load(in_weight_ptr + E * DI + w_offsets, mask=w_mask, other=0.0), PREC)
        v = tl.dot(u, tl.trans(w_v), v, input_precision=PREC)
    if HAS_IN_BIAS:
        x += tl.load(in_bias_ptr + e, mask=e < E, other=0.0)[None, :]
        v += tl.load(in_bias_ptr + E + e, mask=e < E, other=0.0)[None, :]
    if HAS_IN_NORM:
        mean = (tl.sum(x * x, axis=1) + tl.sum(v * v, axis=1)) / (2 * E)
        n = 1.0 / tl.sqrt(tl.where(real, mean + eps, 1.0))[:, None]
        x *= n * tl.load(in_norm_ptr + e, mask=e < E, other=0.0)[None, :]
        v *= n * tl.load(in_norm_ptr + E + e, mask=e < E, other=0.0)[None, :]
    x = tl.where(real[:, None], x, 0.0)
    y = tl.zeros((BLOCK_T, BLOCK_E), tl.float32)
    if HAS_CONV_BIAS:
        y += tl.load(conv_bias_ptr + e, mask=e < E, other=0.0)[None, :]
    here = i
    if HAS_SEQ:
        seq_ptr += first
        here = tl.load(seq_ptr + i, mask=inside, other=-1)
    for j in tl.static_range(K):
        tap = tl.load(conv_weight_ptr + e * K + j, mask=e < E, other=0.0)[None, :]
        y += tap * shifted(x, seq_ptr, here, begin, end, j - LEFT, HAS_SEQ)
    w_out = tl.load(out_weight_ptr + d[:, None] * E + e[None, :], mask=(d < DO)[:, None] & e_mask, other=0.0)
    out = tl.dot(nearest(v * y, PREC), tl.trans(nearest(w_out, PREC)), input_precision=PREC)
    if HAS_OUT_BIAS:
        out += tl.load(out_bias_ptr + d, mask=d < DO, other=0.0)[None, :]
    if HAS_OUT_NORM:
        mean = tl.sum(out * out, axis=1) / DO
        out *= (1.0 / tl.sqrt(tl.where(real, mean + eps, 1.0)))[:, None]
        out *= tl.load(out_norm_ptr + d, mask=d < DO, other=0.0)[None, :]
    # The halo's own outputs belong to other programs.
    own = inside & (i >= LEFT) & (i < BLOCK_T - K + 1 + LEFT)
    offsets = i[:, None] * DO + d[None, :]
    if HAS_RESIDUAL:
        residual_ptr += (b * L + first) * DO
        mask = (own & real)[:, None] & d_mask
        out += tl.load(residual_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    out = tl.where(real[:, None], out, 0.0)
    tl.store(out_ptr + offsets, out.to(out_ptr.dtype.element_ty), mask=own[:, None] & d_mask)


def configurations(inner: int, outputs: int, width: int, exact: bool) -> list[Config]:
    """Tiles of tokens whose projections stay in registers, with their TF32 parts where products are exact.

    At 64 channels four warps have whole rows, which the norms then add up without shared memory, and two programs fit
    on a processor: 180 us in fp32 and 129 in bf16 on an H200 (64 x 4096 tokens) where eight warps took 350 and 153.
    Wider convolutions, or channels that are no multiple of 16, would spill so.
    """
    block, width_out = next_power_of_2(max(inner, 16)), next_power_of_2(max(outputs, 16))
    if inner == outputs == 64 and width <= 3:
        return [Config({"BLOCK_T": 64, "BLOCK_K": 32, "BLOCK_E": block, "BLOCK_D": width_out}, 4, 1)]
    if exact and block == 128:
        width_out = max(
            width_out, 64
        )  # for fewer outputs a warp has more rows of the last product, and spills their parts
    tokens = 64 if block <= (32 if exact else 64) else 32
    if exact and block * width_out > 64 * 128:
        tokens = 16
    return [Config({"BLOCK_T": tokens, "BLOCK_K": 16, "BLOCK_E": block, "BLOCK_D": width_out}, 8, 1)]


def _kernel(u, tensors, channels: tuple[int, int, int], width: int) -> tuple[Any, list[Config]] | None:
    """The kernel that takes the block whole, and its tiles; None if there is none.

    Args:
        tensors: all that it would read.
        channels: inputs, inner ones and outputs.
        width: of the convolution.
    """
    # Values that cannot be loaded several at a time have an address each, for which there are no registers.
    at_once = all(t.storage_offset() * t.element_size() % 16 == 0 for t in tensors if t is not None)
    if u.dtype == torch.bfloat16 and at_once and pairs.fits(*channels, width) and reads_shared_operands(u):
        return pairs._pgc_pairs, pairs.configurations(*channels)
    found = configurations(channels[1], channels[2], width, precision(u) == "tf32x3")
    if max(channels) > MAX_CHANNELS or width > found[0].blocks["BLOCK_T"] // 2:  # mostly halo
        return None
    return _pgc, found


def _why_not(u: Tensor) -> str | None:
    """Why the kernels do not take a call, or None."""
    return None if supports(u) and u.numel() else refusal(u, "")


def _parts(
    ops, u, in_weight, in_bias, in_norm_weight, conv_weight, conv_bias, out_weight, out_bias, out_norm_weight,
    residual, *rest,
) -> None:  # fmt: skip
    """What of a call is other ops: see :func:`.refusing`."""
    args = (u, in_weight, in_bias, in_norm_weight, conv_weight, conv_bias, out_weight, out_bias, out_norm_weight)
    (inner, _, width), outputs = conv_weight.shape, out_weight.shape[0]
    if _kernel(u, (*args, residual), (u.shape[2], inner, outputs), width) is None:
        xv = u.new_empty(*u.shape[:2], in_weight.shape[0], dtype=torch.float32)
        gated = ops("gated_conv")(xv, conv_weight, conv_bias, in_norm_weight, *rest)
        if out_norm_weight is not None:
            ops("rms_norm")(gated.new_empty(*u.shape[:2], outputs), out_norm_weight, rest[2])


@refusing(lambda u, *rest: _why_not(u), parts=_parts)
def pgc(
    u, in_weight, in_bias, in_norm_weight, conv_weight, conv_bias, out_weight, out_bias, out_norm_weight, residual,
    lengths, cu_seqlens, eps, causal,
) -> Tensor:  # fmt: skip
    """``torch.ops.lyra.pgc``."""
    args = (u, in_weight, in_bias, in_norm_weight, conv_weight, conv_bias, out_weight, out_bias, out_norm_weight)
    if _why_not(u):
        return formulas()["pgc"](*args, residual, lengths, cu_seqlens, eps, causal)
    (batch, length, inputs), (inner, _, width), outputs = u.shape, conv_weight.shape, out_weight.shape[0]
    found = _kernel(u, (*args, residual), (inputs, inner, outputs), width)
    if found is None:
        w_in, w_out = operand(in_weight, products(u)), operand(out_weight, products(u))
        convolution = (in_bias, in_norm_weight, conv_weight, conv_bias)
        gated = _gated(u, w_in, *convolution, lengths, cu_seqlens, eps, causal)[-1]
        last = _last(gated, u, outputs, w_out, out_bias, lengths)
        if out_norm_weight is None:
            out = (last if residual is None else last + residual).to(u.dtype)
        else:
            out = norm_and_add(last, out_norm_weight, residual, eps, u.dtype)
        return fill_padding(out, lengths)
    kernel, config = found
    out = u.new_empty(batch, length, outputs)
    seq = sequence_of_token(cu_seqlens, length)
    own = config[0].blocks["BLOCK_T"] - width + 1
    tiles = cdiv(length, own) * batch
    tensors = {
        "u_ptr": u,
        "in_weight_ptr": in_weight,
        "in_bias_ptr": in_bias,
        "in_norm_ptr": in_norm_weight,
        "conv_weight_ptr": conv_weight,
        "conv_bias_ptr": conv_bias,
        "out_weight_ptr": out_weight,
        "out_bias_ptr": out_bias,
        "out_norm_ptr": out_norm_weight,
        "residual_ptr": residual,
        "lengths_ptr": lengths,
        "seq_ptr": seq,
        "out_ptr": out,
    }
    constants = {
        "HAS_IN_BIAS": in_bias is not None,
        "HAS_IN_NORM": in_norm_weight is not None,
        "HAS_CONV_BIAS": conv_bias is not None,
        "HAS_OUT_BIAS": out_bias is not None,
        "HAS_OUT_NORM": out_norm_weight is not None,
        "HAS_RESIDUAL": residual is not None,
        "HAS_LENGTHS": lengths is not None,
        "HAS_SEQ": seq is not None,
        "K": width,
        "LEFT": width - 1 if causal else (width - 1) // 2,
    }
    if kernel is _pgc:
        sizes = {"L": length, "DI": inputs, "E": inner, "DO": outputs, "eps": eps}
        launch(kernel, lambda _: (tiles,), {**tensors, **sizes}, {**constants, "PREC": precision(u)}, config)
    else:
        sizes = {"num_tokens": batch * length, "L": length, "eps": eps}
        launch(kernel, lambda _: (min(tiles, pairs.PROGRAMS * processors(u)),), {**tensors, **sizes}, constants, config)
    return out


def _gated(
    u, w_in, in_bias, in_norm_weight, conv_weight, conv_bias, lengths, cu_seqlens, eps, causal
) -> tuple[Tensor, ...]:
    """u, and in fp32, so that rounding does not add up, the projected u and the gated convolution."""
    value = fill_padding(u, lengths)
    xv = u.new_empty(*u.shape[:2], 2 * conv_weight.shape[0], dtype=torch.float32)
    linear(value, w_in, in_bias, products(u), xv)
    return value, xv, gated_conv(xv, conv_weight, conv_bias, in_norm_weight, lengths, cu_seqlens, eps, causal)


def _last(
    gated: Tensor, u: Tensor, outputs: int, w_out: Tensor, out_bias: Tensor | None, lengths: Tensor | None
) -> Tensor:
    """What enters the last norm, ``(B, L, outputs)`` fp32; 1 at padded tokens."""
    last = u.new_empty(*u.shape[:2], outputs, dtype=torch.float32)
    linear(gated, w_out, out_bias, products(u), last)
    return fill_padding(last, lengths, 1.0)


def pgc_backward(
    grad, u, in_weight, in_bias, in_norm_weight, conv_weight, conv_bias, out_weight, out_bias, out_norm_weight,
    lengths, cu_seqlens, eps, causal,
) -> tuple[Tensor, ...]:  # fmt: skip
    """``torch.ops.lyra.pgc_backward``."""
    args = (u, in_weight, in_bias, in_norm_weight, conv_weight, conv_bias, out_weight, out_bias, out_norm_weight)
    rest = (lengths, cu_seqlens, eps, causal)
    if _why_not(u):
        return formulas()["pgc_backward"](grad, *args, *rest)
    prec, outputs = products(u), out_weight.shape[0]
    w_in, w_out = operand(in_weight, prec), operand(out_weight, prec)
    value, xv, gated = _gated(u, w_in, in_bias, in_norm_weight, conv_weight, conv_bias, *rest)
    g, d_out_norm = fill_padding(grad.contiguous(), lengths), absent(u)
    if out_norm_weight is not None and lengths is None and fits_norm_backward(outputs):
        # Not in a padded batch: of a padded token the norm may not exist.
        g, d_out_norm = linear_norm_backward(gated, w_out, out_bias, out_norm_weight, g, eps, prec)
    elif out_norm_weight is not None:
        last = _last(gated, u, outputs, w_out, out_bias, lengths)
        g, d_out_norm = rms_norm_backward(g, last, out_norm_weight, eps)
    d_out, d_out_bias = linear_weight_gradient(g, gated, out_bias is not None, precision(u))
    d_gated = linear(g, w_out, None, prec, torch.empty_like(gated), backward=True)
    convolution = (conv_weight, conv_bias, in_norm_weight)
    dxv, d_conv, d_conv_bias, d_in_norm = gated_conv_backward(d_gated, xv, *convolution, *rest)
    d_in, d_in_bias = linear_weight_gradient(dxv, value, in_bias is not None, precision(u))
    du = linear(dxv, w_in, None, prec, torch.empty_like(u), backward=True)
    return (du, d_in, d_in_bias, d_in_norm, d_conv, d_conv_bias, d_out, d_out_bias, d_out_norm)
