"""RMS norm, split, depthwise convolution and gate, in one pass over the activations.

A program walks ``R`` rows of ``SEGMENT`` tokens each, all channels at once, token by token: a token is loaded
once, normalised in registers, and kept in a sliding window as long as the convolution needs it. Besides the
halo of k - 1 tokens a row, every value is read once and written once.

With n = rms_norm's 1 / sqrt(mean(xv^2) + eps), weights w and W, windows over t + j - left:

    x^ = n w_x x,  v^ = n w_v v,  y_t = sum_j W_j x^_{t+j-left} + b,  out = v^ y
"""

# mypy: disable-error-code="assignment"
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..reference import operations as formulas
from ._launch import Config, cdiv, jit, launch, next_power_of_2, refusal, refusing, supports
from ._layout import sequence_of_token

MAX_WIDTH = 15  # taps that the windows in registers are made for


@triton.jit
def load_token(
    xv_ptr, seq_ptr, lengths_ptr, b, t, inside, L, E, e, e_mask, HAS_SEQ: tl.constexpr, HAS_LENGTHS: tl.constexpr
):
    """Token ``t`` of sequences ``b``: x and v in fp32, (BLOCK_R, BLOCK_E), and its sequence (-1: outside).

    Arguments as of :func:`_gated_conv`; ``inside``: sequences that there are.
    """
    real = inside & (t >= 0) & (t < L)
    if HAS_LENGTHS:
        real = real & (t < tl.load(lengths_ptr + b, mask=inside, other=0))
    row = b.to(tl.int64) * L + t
    if HAS_SEQ:
        s = tl.load(seq_ptr + row, mask=real, other=-1)
    else:
        s = tl.where(real, 0, -1)
    xv_ptrs = xv_ptr + row[:, None] * (2 * E) + e[None, :]
    mask = real[:, None] & e_mask[None, :]
    x = tl.load(xv_ptrs, mask=mask, other=0.0).to(tl.float32)
    v = tl.load(xv_ptrs + E, mask=mask, other=0.0).to(tl.float32)
    return x, v, s


@triton.jit
def inverse_rms(x, v, s, E, eps, HAS_NORM: tl.constexpr):
    """1 / rms of a token's 2E channels, (BLOCK_R, 1); 1 where not HAS_NORM, and 0 outside of all sequences."""
    real = s >= 0
    n = tl.where(real, 1.0, 0.0)
    if HAS_NORM:
        mean = tl.sum(x * x + v * v, axis=1) / (2 * E)
        n = n / tl.sqrt(tl.where(real, mean + eps, 1.0))
    return n[:, None]


@triton.jit
def load_vector(ptr, e, e_mask, GIVEN: tl.constexpr, absent: tl.constexpr):
    """A value of each channel, (1, BLOCK_E); ``absent`` where not GIVEN, for which the pointer may be None."""
    if GIVEN:
        return tl.load(ptr + e, mask=e_mask, other=absent)[None, :]
    else:
        return tl.full((1, e.shape[0]), absent, tl.float32)


@jit
def _gated_conv(
    xv_ptr,
    weight_ptr,
    bias_ptr,
    norm_ptr,
    lengths_ptr,
    seq_ptr,
    out_ptr,
    B,
    L,
    E,
    num_segments,
    eps,
    K: tl.constexpr,
    LEFT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_SEQ: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    SEGMENT_LEN: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """BLOCK_R rows of SEGMENT_LEN tokens of the output.

    Args:
        xv_ptr: ``(B, L, 2E)``, x before v.
        weight_ptr: W, ``(E, K)`` fp32.
        bias_ptr: b, ``(E,)`` fp32; read where HAS_BIAS.
        norm_ptr: w_x before w_v, ``(2E,)`` fp32; read where HAS_NORM, else there is no norm.
        lengths_ptr: ``(B,)`` int64; read where HAS_LENGTHS.
        seq_ptr: ``(L,)`` int32, the sequence of each token of a packed batch; read where HAS_SEQ.
        out_ptr: ``(B, L, E)``, written.
        num_segments: rows of a sequence.
        eps: of the norm.
        K: taps; LEFT: those before a token's own.
        BLOCK_E: E or more, a power of 2.
    """
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    e = tl.arange(0, BLOCK_E)
    e_mask = e < E
    b = row // num_segments
    first = (row % num_segments) * SEGMENT_LEN
    inside = b < B
    zero = tl.zeros((BLOCK_R, BLOCK_E), tl.float32)
    none = tl.zeros((BLOCK_R,), tl.int32) - 1
    taps = (tl.load(weight_ptr + e * K, mask=e_mask, other=0.0)[None, :],)
    xs = (zero,)
    vs = (zero,)
    ss = (none,)
    for j in tl.static_range(1, K):
        taps = taps + (tl.load(weight_ptr + e * K + j, mask=e_mask, other=0.0)[None, :],)
        xs = xs + (zero,)
        vs = vs + (zero,)
        ss = ss + (none,)
    wx = load_vector(norm_ptr, e, e_mask, HAS_NORM, 1.0)
    wv = load_vector(norm_ptr + E if HAS_NORM else norm_ptr, e, e_mask, HAS_NORM, 1.0)
    add = load_vector(bias_ptr, e, e_mask, HAS_BIAS, 0.0)
    # One token ahead, so that its load and the arithmetic overlap.
    x, v, s = load_token(xv_ptr, seq_ptr, lengths_ptr, b, first - LEFT, inside, L, E, e, e_mask, HAS_SEQ, HAS_LENGTHS)
    for i in range(SEGMENT_LEN + K - 1):
        t = first + (i + 1 - LEFT)
        more = inside & (i + 1 < SEGMENT_LEN + K - 1)
        x1, v1, s1 = load_token(xv_ptr, seq_ptr, lengths_ptr, b, t, more, L, E, e, e_mask, HAS_SEQ, HAS_LENGTHS)
        n = inverse_rms(x, v, s, E, eps, HAS_NORM)
        xs = xs[1:] + (x * n * wx,)
        vs = vs[1:] + (v * n * wv,)
        ss = ss[1:] + (s,)
        here = ss[LEFT]
        y = zero + add
        for j in tl.static_range(K):
            if HAS_SEQ:
                y += taps[j] * tl.where((ss[j] == here)[:, None], xs[j], 0.0)
            else:
                y += taps[j] * xs[j]
        t = first + (i - K + 1)
        mask = (inside & (t < L) & (i >= K - 1))[:, None] & e_mask[None, :]
        z = tl.where((here >= 0)[:, None], vs[LEFT] * y, 0.0)
        tl.store(
            out_ptr + (b.to(tl.int64) * L + t)[:, None] * E + e[None, :], z.to(out_ptr.dtype.element_ty), mask=mask
        )
        x = x1
        v = v1
        s = s1


def configurations(channels: int, width: int, backward: bool) -> list[Config]:
    """Block sizes by channels and taps: longer segments for wider halos, fewer values a thread for wide windows."""
    block = next_power_of_2(max(channels, 16))
    rows = max(1, min(8, 256 // block))
    if block == 128 and width <= 3 and not backward:
        rows = 4  # with 2 the compiler holds sm_120 at 64 registers and spills one
    values = 1 if width > 7 else 2 if width > 3 else 4
    warps = max(1, min(16, rows * block // (32 * (values if backward else 4))))
    segment = 128 if width > 7 else 64 if width > 3 else 32 if backward or channels < 32 else 16
    return [Config({"SEGMENT_LEN": segment, "BLOCK_R": rows, "BLOCK_E": block}, warps, 1)]


def why_not(xv: Tensor, conv_weight: Tensor) -> str | None:
    """Why the kernels do not take this call, or None."""
    channels, _, width = conv_weight.shape
    limit = 256 if width > 7 else 512 if width > 3 else 1024  # what the windows leave in registers
    if supports(xv) and width <= MAX_WIDTH and channels <= limit:
        return None
    return refusal(xv, f"the gated convolution takes up to {MAX_WIDTH} taps, and {limit} channels of {width} taps")


def geometry(width: int, causal: bool) -> tuple[int, int]:
    """Taps before a token's own, and the more of those before and after it."""
    left = width - 1 if causal else (width - 1) // 2
    return left, max(left, width - 1 - left)


@refusing(lambda xv, conv_weight, *rest: why_not(xv, conv_weight))
def gated_conv(xv, conv_weight, conv_bias, norm_weight, lengths, cu_seqlens, eps, causal) -> Tensor:
    """``torch.ops.lyra.gated_conv``."""
    if why_not(xv, conv_weight):
        return formulas()["gated_conv"](xv, conv_weight, conv_bias, norm_weight, lengths, cu_seqlens, eps, causal)
    (batch, length, _), (channels, _, width) = xv.shape, conv_weight.shape
    out = xv.new_empty(batch, length, channels)
    seq = sequence_of_token(cu_seqlens, length)
    left, _ = geometry(width, causal)
    config = configurations(channels, width, backward=False)
    segments = cdiv(length, config[0].blocks["SEGMENT_LEN"])
    launch(
        _gated_conv,
        lambda c: (cdiv(batch * segments, c.blocks["BLOCK_R"]),),
        {
            "xv_ptr": xv,
            "weight_ptr": conv_weight,
            "bias_ptr": conv_bias,
            "norm_ptr": norm_weight,
            "lengths_ptr": lengths,
            "seq_ptr": seq,
            "out_ptr": out,
            "B": batch,
            "L": length,
            "E": channels,
            "num_segments": segments,
            "eps": eps,
        },
        {
            "K": width,
            "LEFT": left,
            "HAS_BIAS": conv_bias is not None,
            "HAS_NORM": norm_weight is not None,
            "HAS_SEQ": seq is not None,
            "HAS_LENGTHS": lengths is not None,
        },
        config,
    )
    return out
