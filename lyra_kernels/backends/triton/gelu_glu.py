"""The tail of an S4D layer in one kernel: GELU, dropout mask, projection, gated linear unit, residual.

With a = gelu(y) m and z = W a + b = (z1, z2): out = z1 sigmoid(z2) + residual. A program has both halves of z for a
tile of tokens and a block of output channels; the (tokens, 2H) product never reaches memory. Programs take tile after
tile, so that weights of few channels are read once a program. The backward is in :mod:`.gelu_glu_backward`.

y may also lie as a convolution along the length leaves it, channels first: a ``(B, L, H)`` tensor whose
``transpose(1, 2)`` is contiguous.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference import operations as formulas
from ._dot import nearest
from ._launch import Config, cdiv, jit, launch, next_power_of_2, precision, processors, refusal, refusing, supports
from ._layout import sequence_of_token
from ._transpose import aligned, takes_channels_first

MAX_WHOLE = 64
"""Channels up to which a program of the forward keeps the weights of its outputs."""


@triton.jit
def upper_tail(y):
    """``min(|y|, 8)`` and P(Z > |y|) of a standard normal Z, for fp32 ``y``; NaN of NaN.

    The probability is a power of 2 whose exponent is a polynomial: within 8e-9, for half the instructions of erf.
    """
    x = tl.minimum(tl.abs(y), 8.0, propagate_nan=tl.PropagateNan.ALL)
    p = x * -2.8348765681585064e-06 + 3.9377326174871996e-05
    p = p * x + -0.00018617880414240062
    p = p * x + -0.00013693919754587114
    p = p * x + 0.007063423283398151
    p = p * x + -0.052496179938316345
    p = p * x + -0.4592081904411316
    p = p * x + -1.1511051654815674
    return x, tl.exp2(p * x - 1.0)


@triton.jit
def gelu(y):
    """y P(Z < y), the exact GELU, of fp32 ``y``."""
    x, tail = upper_tail(y)
    return tl.maximum(y, 0.0) - x * tail


@triton.jit
def sigmoid(z):
    """1 / (1 + exp(-z)), of fp32 ``z``; as the square of a root, which takes half the instructions of a division."""
    root = tl.rsqrt(1.0 + tl.exp2(-1.4426950408889634 * z))
    return root * root


@triton.jit
def tiles_of(num_tokens, L, BLOCK_T: tl.constexpr):
    """How many tiles the sequences have, none of which crosses sequences."""
    return num_tokens // L * ((L + BLOCK_T - 1) // BLOCK_T)


@triton.jit
def tile_of(number, L, BLOCK_T: tl.constexpr):
    """Of tile ``number``: its sequence, int64, and its first position there."""
    tiles = (L + BLOCK_T - 1) // BLOCK_T
    sequence = number // tiles
    return sequence.to(tl.int64), (number - sequence * tiles) * BLOCK_T


@triton.jit
def real_tokens(lengths_ptr, sequence, L, HAS_LENGTHS: tl.constexpr):
    """How many tokens of a sequence are real; ``lengths_ptr (B,)`` int64, read where HAS_LENGTHS."""
    if HAS_LENGTHS:
        return tl.load(lengths_ptr + sequence).to(L.dtype)
    else:
        return L


@triton.jit
def y_pointers(ptr, sequence, t, i, k, L, H, TRANSPOSED: tl.constexpr):
    """To channels ``k`` of tokens ``t + i`` of a sequence, in y or its gradient; channels first if TRANSPOSED.

    One base and offsets of 32 bits: 64-bit addresses of every value would fill the registers.
    """
    if TRANSPOSED:
        return ptr + (sequence * L * H + t) + (i[:, None] + k[None, :] * L)
    else:
        return ptr + (sequence * L + t) * H + (i[:, None] * H + k[None, :])


@triton.jit
def dropout_factors(dropout_ptr, seq_ptr, sequence, t, i, k, there, H, HAS_SEQ: tl.constexpr):
    """m of channels ``k`` of tokens ``t + i``, fp32, to broadcast to ``(tokens, channels)``.

    ``seq_ptr (L,)`` int32, read where HAS_SEQ, see :func:`.sequence_of_token`; ``there``: tokens that exist.
    """
    if HAS_SEQ:
        s = tl.load(seq_ptr + t + i, mask=there, other=0).to(tl.int64)
        mask = there[:, None] & (k < H)[None, :]
        return tl.load(dropout_ptr + s[:, None] * H + k[None, :], mask=mask, other=0.0).to(tl.float32)
    else:
        return tl.load(dropout_ptr + sequence * H + k, mask=k < H, other=0.0).to(tl.float32)[None, :]


@triton.jit
def weights(ptr, n, k, H, PREC: tl.constexpr):
    """``(k, n)`` of the transpose of the weight at ``ptr (H, H)``, as operand."""
    mask = (n < H)[None, :] & (k < H)[:, None]
    return nearest(tl.load(ptr + n[None, :] * H + k[:, None], mask=mask, other=0.0), PREC)


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
    TRANSPOSED: tl.constexpr,
    OTHER_TRANSPOSED: tl.constexpr,
    BACKWARD: tl.constexpr,
    PREC: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """BLOCK_N outputs of tiles of BLOCK_T tokens; with BACKWARD their dz, and a from the first program of a tile.

    Args:
        y_ptr: ``(B, L, H)``, or ``(B, H, L)`` where TRANSPOSED; packed, or where sequences do not matter, B is 1.
        TRANSPOSED: L is a multiple of 16, too, so that values go several at once.
        OTHER_TRANSPOSED: so are out and its gradient ``(B, H, L)``.
        weight_ptr: ``(2H, H)`` fp32.
        bias_ptr: ``(2H,)`` fp32; read where HAS_BIAS.
        dropout_ptr: m, ``(sequences, H)``; read where HAS_DROPOUT.
        residual_ptr: ``(B, L, H)``; read where HAS_RESIDUAL.
        lengths_ptr: ``(B,)`` int64; read where HAS_LENGTHS.
        seq_ptr: ``(L,)`` int32, the sequence of each token; read where HAS_SEQ (packed).
        grad_ptr: ``(B, L, H)``, the gradient of out; read where BACKWARD.
        out_ptr: ``(B, L, H)``, written where not BACKWARD.
        dz_ptr: ``(B L, 2H)`` fp32, written where BACKWARD.
        a_ptr: ``(B L, H)`` fp32, written where BACKWARD.
        num_tokens: of all sequences, B L.
        PREC: of products, ``tl.dot``'s input_precision.
        WHOLE: a program has all inputs at once, and keeps its weights.
        BLOCK_K: inputs of a step of the product.
    """
    L = aligned(L, TRANSPOSED)
    i = tl.arange(0, BLOCK_T)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inputs = tl.arange(0, BLOCK_K)
    if HAS_BIAS:
        b1 = tl.load(bias_ptr + n, mask=n < H, other=0.0)
        b2 = tl.load(bias_ptr + H + n, mask=n < H, other=0.0)
    if WHOLE:
        w1 = weights(weight_ptr, n, inputs, H, PREC)
        w2 = weights(weight_ptr + H * H, n, inputs, H, PREC)
    for number in range(tl.program_id(0), tiles_of(num_tokens, L, BLOCK_T), tl.num_programs(0)):
        sequence, t = tile_of(number, L, BLOCK_T)
        there = t + i < L
        real = t + i < real_tokens(lengths_ptr, sequence, L, HAS_LENGTHS)
        first = sequence * L + t
        mask = real[:, None] & (n < H)[None, :]
        offsets = i[:, None] * H + n[None, :]
        z1 = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
        z2 = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
        for k0 in range(0, BLOCK_K if WHOLE else H, BLOCK_K):
            k = k0 + inputs
            y_ptrs = y_pointers(y_ptr, sequence, t, i, k, L, H, TRANSPOSED)
            a = gelu(tl.load(y_ptrs, mask=real[:, None] & (k < H)[None, :], other=0.0).to(tl.float32))
            if HAS_DROPOUT:
                a *= dropout_factors(dropout_ptr, seq_ptr, sequence, t, i, k, there, H, HAS_SEQ)
            if BACKWARD:
                if tl.program_id(1) == 0:
                    a_ptrs = a_ptr + first * H + (i[:, None] * H + k[None, :])
                    tl.store(a_ptrs, a, mask=there[:, None] & (k < H)[None, :])
            a = nearest(a, PREC)
            if not WHOLE:
                w1 = weights(weight_ptr, n, k, H, PREC)
                w2 = weights(weight_ptr + H * H, n, k, H, PREC)
            z1 = tl.dot(a, w1, z1, input_precision=PREC)
            z2 = tl.dot(a, w2, z2, input_precision=PREC)
        if HAS_BIAS:
            z1 += b1[None, :]
            z2 += b2[None, :]
        gate = sigmoid(z2)
        out_mask = there[:, None] & (n < H)[None, :]
        if BACKWARD:
            g_ptrs = y_pointers(grad_ptr, sequence, t, i, n, L, H, OTHER_TRANSPOSED)
            g = tl.load(g_ptrs, mask=mask, other=0.0).to(tl.float32)
            dz_ptrs = dz_ptr + first * (2 * H) + (i[:, None] * (2 * H) + n[None, :])
            tl.store(dz_ptrs, g * gate, mask=out_mask)
            tl.store(dz_ptrs + H, g * z1 * gate * (1.0 - gate), mask=out_mask)
        else:
            z1 *= gate
            if HAS_RESIDUAL:
                z1 += tl.load(residual_ptr + first * H + offsets, mask=mask, other=0.0).to(tl.float32)
            if HAS_LENGTHS:
                z1 = tl.where(mask, z1, 0.0)
            out_ptrs = y_pointers(out_ptr, sequence, t, i, n, L, H, OTHER_TRANSPOSED)
            tl.store(out_ptrs, z1.to(out_ptr.dtype.element_ty), mask=out_mask)


def configurations(channels: int, backward: bool) -> list[Config]:
    """Tiles whose two accumulators and TF32 parts stay in registers.

    Of the forward few outputs a program come first: by benchmarks/gpu_static's model of an H200 they take 0.56 to 1.03
    times as long as twice as many with y read half as often (48 to 256 channels, fp32 and bf16, 8,192 to 262,144
    tokens), but for bf16 at 8 x 2048 x 256 (1.14).
    """
    block = next_power_of_2(max(channels, 16))
    if backward:
        return [Config({"BLOCK_T": 32, "BLOCK_N": min(64, block), "BLOCK_K": 16}, 8, 2)]
    inputs = block if block <= MAX_WHOLE else 16
    narrow = [Config({"BLOCK_T": 64, "BLOCK_N": min(32, block), "BLOCK_K": inputs}, 4, 1 if block <= MAX_WHOLE else 2)]
    return narrow if block <= 32 else [*narrow, Config({**narrow[0].blocks, "BLOCK_N": 64}, 8, narrow[0].num_stages)]


PROGRAMS = 4
"""Of a processor, at most: the waves of a card's places end together, and each program reads its weights once."""


def sequences(y: Tensor, mask: Tensor | None, lengths: Tensor | None) -> tuple[int, int]:
    """Into how many sequences of which length tiles cut y: one, where it does not matter."""
    batch, length, _ = y.shape
    return (1, batch * length) if y.is_contiguous() and mask is None and lengths is None else (batch, length)


def transposed(y: Tensor) -> bool:
    """Whether y lies channels first."""
    return y.transpose(1, 2).is_contiguous() and not y.is_contiguous()


def readable(y: Tensor) -> Tensor:
    """y as kernels take it: contiguous, or channels first if lines are aligned and offsets within one have 32 bits."""
    _, length, channels = y.shape
    return y if transposed(y) and length % 16 == 0 and length * channels < 2**31 else y.contiguous()


def programs(y: Tensor, tiles: int, columns: int = 1) -> int:
    """Programs for so many tiles, each with ``columns`` programs that share it."""
    return min(tiles, cdiv(PROGRAMS * processors(y), columns))


def run(y, weight, bias, mask, residual, lengths, seq, grad, out, dz, a) -> None:
    """Launch the forward; with ``grad`` what of the backward has its form."""
    channels = y.shape[-1]
    batch, length = sequences(y, mask, lengths)

    def tiles(c: Config) -> int:
        return batch * cdiv(length, c.blocks["BLOCK_T"])

    def grid(c: Config) -> tuple[int, int]:
        columns = cdiv(channels, c.blocks["BLOCK_N"])
        return programs(y, tiles(c), columns), columns

    configs = configurations(channels, backward=grad is not None)
    launch(
        _gelu_glu,
        grid,
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
            "num_tokens": batch * length,
            "L": length,
            "H": channels,
        },
        {
            "HAS_BIAS": bias is not None,
            "HAS_DROPOUT": mask is not None,
            "HAS_RESIDUAL": residual is not None,
            "HAS_SEQ": seq is not None,
            "HAS_LENGTHS": lengths is not None,
            "TRANSPOSED": transposed(y),
            "OTHER_TRANSPOSED": transposed(out if grad is None else grad),
            "BACKWARD": grad is not None,
            "PREC": precision(y),
            "WHOLE": configs[0].blocks["BLOCK_K"] >= channels,
        },
        configs,
    )


def why_not(y: Tensor) -> str | None:
    """Why the kernels do not take a call, or None."""
    return None if supports(y) and y.numel() else refusal(y, "")


@refusing(lambda y, *rest: why_not(y))
@takes_channels_first
def gelu_glu(y, weight, bias, mask, residual, lengths, cu_seqlens) -> Tensor:
    """``torch.ops.lyra.gelu_glu``; y may lie channels first, and the output does then where nothing is added."""
    return glu_tail(y, weight, bias, mask, residual, lengths, cu_seqlens, residual is None)


def glu_tail(y, weight, bias, mask, residual, lengths, cu_seqlens, channels_first: bool) -> Tensor:
    """:func:`gelu_glu`; ``channels_first``: the output lies so where y does."""
    if why_not(y):
        return formulas()["gelu_glu"](y, weight, bias, mask, residual, lengths, cu_seqlens)
    y = readable(y)
    out = torch.empty_like(y) if channels_first and transposed(y) else y.new_empty(y.shape)
    seq = None if mask is None else sequence_of_token(cu_seqlens, y.shape[1])
    run(y, weight, bias, mask, residual, lengths, seq, None, out, None, None)
    return out
