"""The whole PGC block: projection, norm, split, depthwise convolution, gate, projection, norm.

Where both projections fit on chip (up to 128 channels and inner channels) the forward is one kernel: a program takes a
tile of tokens with the convolution's halo, and nothing but u and the result touches memory. Rows of the projected tile
are shifted against each other by a gather. Wider blocks are matrix products (``_linear``) around the gated_conv kernel,
and so is every backward, in fp32, from u alone: recomputing is cheaper than keeping the projection.

No backward in one kernel, or in two cut at the gate: the tiles beside the sums for the weights spill, and by the time
model these kernels from memory are faster.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...layout import sequence_mask
from ...schemas import absent
from ..reference import operations as formulas
from ._dot import nearest
from ._launch import Config, cdiv, jit, launch, next_power_of_2, precision, refusal, refusing, supports
from ._layout import sequence_of_token
from ._linear import linear, linear_weight_gradient
from .gated_conv import gated_conv
from .gated_conv_backward import gated_conv_backward
from .rms_norm import rms_norm, rms_norm_backward

MAX_CHANNELS = 128


@triton.jit
def _shifted(x, seq_ptr, here, begin, end, by: tl.constexpr, HAS_SEQ: tl.constexpr):
    """Row i + ``by`` of a tile at row i: the last row again where there is none, 0 if it is of another sequence.

    Args:
        x: ``(BLOCK_T, BLOCK_E)``.
        seq_ptr: of the tile's first token, read where HAS_SEQ from ``begin`` to ``end``; here: what it has there.
    """
    if by == 0:
        return x
    else:
        i = tl.arange(0, x.shape[0])
        source = tl.minimum(tl.maximum(i + by, 0), x.shape[0] - 1)
        moved = tl.gather(x, tl.broadcast_to(source[:, None], (x.shape[0], x.shape[1])), 0)
        if HAS_SEQ:
            other = tl.load(seq_ptr + i + by, mask=(i + by >= begin) & (i + by < end), other=-2)
            moved = tl.where((other == here)[:, None], moved, 0.0)
        return moved


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
        y += tap * _shifted(x, seq_ptr, here, begin, end, j - LEFT, HAS_SEQ)
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
    out = tl.where(real[:, None], out, 0.0)
    tl.store(out_ptr + i[:, None] * DO + d[None, :], out.to(out_ptr.dtype.element_ty), mask=own[:, None] & d_mask)


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


def _why_not(u: Tensor) -> str | None:
    """Why the kernels do not take a call, or None."""
    return None if supports(u) and u.numel() else refusal(u, "")


def _whole(u: Tensor, conv_weight: Tensor, out_weight: Tensor) -> Config | None:
    """The configuration of the kernel that is all of the op; None where it goes by products, and an op between them."""
    (inner, _, width), outputs = conv_weight.shape, out_weight.shape[0]
    config = configurations(inner, outputs, width, precision(u) == "tf32x3")[0]
    mostly_halo = width > config.blocks["BLOCK_T"] // 2
    return None if mostly_halo or max(u.shape[2], inner, outputs) > MAX_CHANNELS else config


def _parts(
    ops, u, in_weight, in_bias, in_norm_weight, conv_weight, conv_bias, out_weight, out_bias, out_norm_weight, *rest
) -> None:
    """What of a call is other ops: see :func:`.refusing`."""
    if _whole(u, conv_weight, out_weight) is None:
        xv = u.new_empty(*u.shape[:2], in_weight.shape[0], dtype=torch.float32)
        gated = ops("gated_conv")(xv, conv_weight, conv_bias, in_norm_weight, *rest)
        if out_norm_weight is not None:
            ops("rms_norm")(gated.new_empty(*u.shape[:2], out_weight.shape[0]), out_norm_weight, rest[2])


@refusing(lambda u, *rest: _why_not(u), parts=_parts)
def pgc(
    u, in_weight, in_bias, in_norm_weight, conv_weight, conv_bias, out_weight, out_bias, out_norm_weight,
    lengths, cu_seqlens, eps, causal,
) -> Tensor:  # fmt: skip
    """``torch.ops.lyra.pgc``."""
    args = (u, in_weight, in_bias, in_norm_weight, conv_weight, conv_bias, out_weight, out_bias, out_norm_weight)
    if _why_not(u):
        return formulas()["pgc"](*args, lengths, cu_seqlens, eps, causal)
    (batch, length, inputs), (inner, _, width), outputs = u.shape, conv_weight.shape, out_weight.shape[0]
    config = _whole(u, conv_weight, out_weight)
    if config is None:
        last = _products(*args, lengths, cu_seqlens, eps, causal)[-1]
        out = (last if out_norm_weight is None else rms_norm(last, out_norm_weight, eps)).to(u.dtype)
        real = sequence_mask(lengths, length)
        return out if real is None else out.masked_fill(~real, 0.0)
    out = u.new_empty(batch, length, outputs)
    seq = sequence_of_token(cu_seqlens, length)
    launch(
        _pgc,
        lambda c: (cdiv(length, c.blocks["BLOCK_T"] - width + 1) * batch,),
        {
            "u_ptr": u,
            "in_weight_ptr": in_weight,
            "in_bias_ptr": in_bias,
            "in_norm_ptr": in_norm_weight,
            "conv_weight_ptr": conv_weight,
            "conv_bias_ptr": conv_bias,
            "out_weight_ptr": out_weight,
            "out_bias_ptr": out_bias,
            "out_norm_ptr": out_norm_weight,
            "lengths_ptr": lengths,
            "seq_ptr": seq,
            "out_ptr": out,
            "L": length,
            "DI": inputs,
            "E": inner,
            "DO": outputs,
            "eps": eps,
        },
        {
            "HAS_IN_BIAS": in_bias is not None,
            "HAS_IN_NORM": in_norm_weight is not None,
            "HAS_CONV_BIAS": conv_bias is not None,
            "HAS_OUT_BIAS": out_bias is not None,
            "HAS_OUT_NORM": out_norm_weight is not None,
            "HAS_LENGTHS": lengths is not None,
            "HAS_SEQ": seq is not None,
            "K": width,
            "LEFT": width - 1 if causal else (width - 1) // 2,
            "PREC": precision(u),
        },
        [config],
    )
    return out


def _products(
    u, in_weight, in_bias, in_norm_weight, conv_weight, conv_bias, out_weight, out_bias, out_norm_weight,
    lengths, cu_seqlens, eps, causal,
) -> tuple[Tensor, ...]:  # fmt: skip
    """u, and in fp32 the projected u, the gated convolution and what enters the last norm (1 at padded tokens)."""
    real = sequence_mask(lengths, u.shape[1])
    value = u if real is None else u.masked_fill(~real, 0.0)
    fp32, prec = {"dtype": torch.float32}, precision(in_weight)  # fp32 in between, so that rounding does not add up
    xv = linear(value, in_weight, in_bias, prec, u.new_empty(*u.shape[:2], in_weight.shape[0], **fp32))
    gated = gated_conv(xv, conv_weight, conv_bias, in_norm_weight, lengths, cu_seqlens, eps, causal)
    last = linear(gated, out_weight, out_bias, prec, u.new_empty(*u.shape[:2], out_weight.shape[0], **fp32))
    if real is not None:
        last = last.masked_fill(~real, 1.0)
    return value, xv, gated, last


def pgc_backward(
    grad, u, in_weight, in_bias, in_norm_weight, conv_weight, conv_bias, out_weight, out_bias, out_norm_weight,
    lengths, cu_seqlens, eps, causal,
) -> tuple[Tensor, ...]:  # fmt: skip
    """``torch.ops.lyra.pgc_backward``."""
    args = (u, in_weight, in_bias, in_norm_weight, conv_weight, conv_bias, out_weight, out_bias, out_norm_weight)
    rest = (lengths, cu_seqlens, eps, causal)
    if _why_not(u):
        return formulas()["pgc_backward"](grad, *args, *rest)
    value, xv, gated, last = _products(*args, *rest)
    real, prec = sequence_mask(lengths, u.shape[1]), precision(in_weight)
    g = grad.contiguous() if real is None else grad.contiguous().masked_fill(~real, 0.0)
    d_out_norm = absent(u)
    if out_norm_weight is not None:
        g, d_out_norm = rms_norm_backward(g, last, out_norm_weight, eps)
    d_out, d_out_bias = linear_weight_gradient(g, gated, out_bias is not None, prec)
    d_gated = linear(g, out_weight, None, prec, torch.empty_like(gated), backward=True)
    convolution = (conv_weight, conv_bias, in_norm_weight)
    dxv, d_conv, d_conv_bias, d_in_norm = gated_conv_backward(d_gated, xv, *convolution, *rest)
    d_in, d_in_bias = linear_weight_gradient(dxv, value, in_bias is not None, prec)
    du = linear(dxv, in_weight, None, prec, torch.empty_like(u), backward=True)
    return (du, d_in, d_in_bias, d_in_norm, d_conv, d_conv_bias, d_out, d_out_bias, d_out_norm)
