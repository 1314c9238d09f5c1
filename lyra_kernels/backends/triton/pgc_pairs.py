"""The PGC block of bfloat16 activations in one kernel that keeps its weights: products of pairs of bfloat16.

bfloat16 activations are exact operands, weights and what the gate gives are sums of two bfloat16, closer than TF32 is,
for the price of one TF32 product and less. A program goes through tiles of tokens and has the parts of its weights in
shared memory all the while. Registers are what it is short of, so that a vector over channels, of which a thread would
keep a quarter, goes into a product where it can: biases as rows of weights beside inputs that are 1, the norm's weight
of v into W_out; and v, once its norm is known, is dropped and multiplied anew for the gate.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._dot import dot16, pair, pair_product, pair_transposed
from ._launch import Config, jit
from ._shift import shifted
from .gelu_glu import real_tokens, tile_of, tiles_of

WIDEST = 3
"""Taps for which there are registers."""
PROGRAMS = 2
"""Of a processor: as many as it holds at once."""


@triton.jit
def _bias_rows(ptr, n):
    """``(16, n)``: the two parts of a bias in the first two rows, which inputs of 1 there add."""
    row = tl.arange(0, 16)[:, None]
    high, low = pair(tl.load(ptr + n))
    return tl.where(row == 0, high[None, :], tl.where(row == 1, low[None, :], 0.0))


@jit
def _pgc_pairs(
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
    num_tokens,
    L,
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
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Tiles of BLOCK_T - K + 1 tokens of one sequence, all channels.

    Args:
        num_tokens: of all sequences, B L.
        BLOCK_K, BLOCK_E, BLOCK_D: channels of u, inner ones and those of the output.
        The others: as of :func:`.pgc._pgc`.
    """
    OWN: tl.constexpr = BLOCK_T - K + 1
    i = tl.arange(0, BLOCK_T)
    k = tl.arange(0, BLOCK_K)
    e = tl.arange(0, BLOCK_E)
    d = tl.arange(0, BLOCK_D)
    w_ptrs = in_weight_ptr + e[:, None] * BLOCK_K + k[None, :]
    w_x = pair_transposed(pair(tl.load(w_ptrs)))
    w_v = pair_transposed(pair(tl.load(w_ptrs + BLOCK_E * BLOCK_K)))
    w_out = tl.load(out_weight_ptr + d[:, None] * BLOCK_E + e[None, :])
    if HAS_IN_NORM:
        w_out *= tl.load(in_norm_ptr + BLOCK_E + e)[None, :]
    w_out = pair_transposed(pair(w_out))
    ones = tl.broadcast_to(tl.where(tl.arange(0, 16) < 2, 1.0, 0.0).to(tl.bfloat16)[None, :], (BLOCK_T, 16))
    if HAS_IN_BIAS:
        b_x = _bias_rows(in_bias_ptr, e)
        b_v = _bias_rows(in_bias_ptr + BLOCK_E, e)
    for number in range(tl.program_id(0), tiles_of(num_tokens, L, OWN), tl.num_programs(0)):
        sequence, first = tile_of(number, L, OWN)
        first -= LEFT
        begin = tl.maximum(-first, 0)
        end = tl.minimum(L - first, BLOCK_T)
        inside = (i >= begin) & (i < end)
        real = inside
        if HAS_LENGTHS:
            real = inside & (i < real_tokens(lengths_ptr, sequence, L, HAS_LENGTHS) - first)
        row = sequence * L + first
        u = tl.load(u_ptr + row * BLOCK_K + (i[:, None] * BLOCK_K + k[None, :]), mask=real[:, None], other=0.0)
        zero = tl.zeros((BLOCK_T, BLOCK_E), tl.float32)
        x = zero
        v = zero
        if HAS_IN_BIAS:
            x = dot16(ones, b_x, x)
            v = dot16(ones, b_v, v)
        x = dot16(u, w_x[0], dot16(u, w_x[1], x))
        n = tl.where(real, 1.0, 0.0)
        if HAS_IN_NORM:
            v = dot16(u, w_v[0], dot16(u, w_v[1], v))
            mean = tl.sum(x * x + v * v, axis=1) / (2 * BLOCK_E)
            n /= tl.sqrt(tl.where(real, mean + eps, 1.0))
        x *= n[:, None]
        y = zero
        here = i
        seq_ptrs = seq_ptr
        if HAS_SEQ:
            seq_ptrs = seq_ptr + first
            here = tl.load(seq_ptrs + i, mask=inside, other=-1)
        # Its own token last: the others' rows are moved in another layout, where they are added before they come back.
        for side in tl.static_range(K):
            tap = tl.load(conv_weight_ptr + e * K + (side + LEFT + 1) % K)
            moved = shifted(x, seq_ptrs, here, begin, end, (side + LEFT + 1) % K - LEFT, HAS_SEQ)
            y += tap[None, :] * moved
        if HAS_IN_NORM:
            y *= tl.load(in_norm_ptr + e)[None, :]
        if HAS_CONV_BIAS:
            y += tl.load(conv_bias_ptr + e)[None, :]
        # In another order than above: else the compiler would take it for the same v, and keep that.
        v = dot16(u, w_v[1], dot16(u, w_v[0], zero))
        if HAS_IN_BIAS:
            v = dot16(ones, b_v, v)
        out = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
        out = pair_product(pair(v * n[:, None] * y), w_out, out)
        if HAS_OUT_BIAS:
            out += tl.load(out_bias_ptr + d)[None, :]
        if HAS_OUT_NORM:
            mean = tl.sum(out * out, axis=1) / BLOCK_D
            out *= (1.0 / tl.sqrt(tl.where(real, mean + eps, 1.0)))[:, None]
            out *= tl.load(out_norm_ptr + d)[None, :]
        # The halo's own outputs belong to other tiles.
        own = inside & (i >= LEFT) & (i < OWN + LEFT)
        offsets = i[:, None] * BLOCK_D + d[None, :]
        if HAS_RESIDUAL:
            out += tl.load(residual_ptr + row * BLOCK_D + offsets, mask=(own & real)[:, None], other=0.0).to(tl.float32)
        if HAS_LENGTHS:
            out = tl.where(real[:, None], out, 0.0)
        tl.store(out_ptr + row * BLOCK_D + offsets, out.to(out_ptr.dtype.element_ty), mask=own[:, None])


def fits(inputs: int, inner: int, outputs: int, width: int) -> bool:
    """Whether the kernel takes these channels and taps; of channels whole blocks."""
    return width <= WIDEST and all(n in (16, 32, 64) for n in (inputs, inner, outputs))


def configurations(inputs: int, inner: int, outputs: int) -> list[Config]:
    """The one that leaves registers for everything."""
    return [Config({"BLOCK_T": 64, "BLOCK_K": inputs, "BLOCK_E": inner, "BLOCK_D": outputs}, 4, 2)]
