"""RMS norm, split, depthwise convolution and gate, in one pass over the activations.

A program walks ``R`` rows of ``SEGMENT`` tokens each, all channels at once, token by token: a token is loaded
once, normalised in registers, and kept in a sliding window as long as the convolution needs it. Besides the
halo of k - 1 tokens a row, every value is read once and written once.

With n = rms_norm's 1 / sqrt(mean(xv^2) + eps), weights w and W, windows over t + j - left:

    x^ = n w_x x,  v^ = n w_v v,  y_t = sum_j W_j x^_{t+j-left} + b,  out = v^ y
    dv^_t = g_t y_t,  dy_t = g_t v^_t,  dx^_s = sum_j W_j dy_{s-j+left},  dW_j = sum_t dy_t x^_{t+j-left}
    dxv = n (w d^ - n xv / (2E) sum_channels(w d^ n xv)),  dw_x = sum_t d^ n x = sum_j W_j (dW_j / w_x)

The backward holds windows of n x, n v, n and sums of dx^ that tokens still add to: scattering them, a causal
convolution needs no more of a token's surroundings than its past. Parameter gradients are summed in registers, written
once a program, and added up in a fixed order by a second kernel: no atomics, the same bits every time.
"""

# mypy: disable-error-code="assignment"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...schemas import absent
from ..reference import operations as formulas
from ._launch import Config, jit, launch, next_power_of_2, supports
from ._layout import sequence_of_token
from ._reduce import sum_rows

MAX_WIDTH = 15  # taps that the windows in registers are made for


@triton.jit
def _fetch(xv, seq, lengths, b, t, inside, L, E, e, me, SEQ: tl.constexpr, LENGTHS: tl.constexpr):
    """Token t of rows b as stored, and the number of its sequence (-1: outside of all)."""
    real = inside & (t >= 0) & (t < L)
    if LENGTHS:
        real = real & (t < tl.load(lengths + b, mask=inside, other=0))
    row = b.to(tl.int64) * L + t
    if SEQ:
        s = tl.load(seq + row, mask=real, other=-1)
    else:
        s = tl.where(real, 0, -1)
    at = xv + row[:, None] * (2 * E) + e[None, :]
    m = real[:, None] & me[None, :]
    x = tl.load(at, mask=m, other=0.0).to(tl.float32)
    v = tl.load(at + E, mask=m, other=0.0).to(tl.float32)
    return x, v, s


@triton.jit
def _factor(x, v, s, E, eps, NORM: tl.constexpr):
    """1 / rms of a token's 2E channels, 0 outside of all sequences."""
    real = s >= 0
    n = tl.where(real, 1.0, 0.0)
    if NORM:
        mean = tl.sum(x * x + v * v, axis=1) / (2 * E)
        n = n / tl.sqrt(tl.where(real, mean + eps, 1.0))
    return n[:, None]


@triton.jit
def _vector(pointer, e, me, GIVEN: tl.constexpr, absent: tl.constexpr):
    if GIVEN:
        return tl.load(pointer + e, mask=me, other=absent)[None, :]
    else:
        return tl.full((1, e.shape[0]), absent, tl.float32)


@jit
def _gated_conv(
    xv,
    weight,
    bias,
    norm,
    lengths,
    seq,
    out,
    B,
    L,
    E,
    segments,
    eps,
    K: tl.constexpr,
    LEFT: tl.constexpr,
    BIAS: tl.constexpr,
    NORM: tl.constexpr,
    SEQ: tl.constexpr,
    LENGTHS: tl.constexpr,
    SEGMENT: tl.constexpr,
    R: tl.constexpr,
    BE: tl.constexpr,
):
    row = tl.program_id(0) * R + tl.arange(0, R)
    e = tl.arange(0, BE)
    me = e < E
    b = row // segments
    first = (row % segments) * SEGMENT
    inside = b < B
    zero = tl.zeros((R, BE), tl.float32)
    none = tl.zeros((R,), tl.int32) - 1
    taps = (tl.load(weight + e * K, mask=me, other=0.0)[None, :],)
    xs = (zero,)
    vs = (zero,)
    ss = (none,)
    for j in tl.static_range(1, K):
        taps = taps + (tl.load(weight + e * K + j, mask=me, other=0.0)[None, :],)
        xs = xs + (zero,)
        vs = vs + (zero,)
        ss = ss + (none,)
    wx = _vector(norm, e, me, NORM, 1.0)
    wv = _vector(norm + E if NORM else norm, e, me, NORM, 1.0)
    add = _vector(bias, e, me, BIAS, 0.0)
    # One token ahead, so that its load and the arithmetic overlap.
    x, v, s = _fetch(xv, seq, lengths, b, first - LEFT, inside, L, E, e, me, SEQ, LENGTHS)
    for i in range(SEGMENT + K - 1):
        t = first + (i + 1 - LEFT)
        more = inside & (i + 1 < SEGMENT + K - 1)
        x1, v1, s1 = _fetch(xv, seq, lengths, b, t, more, L, E, e, me, SEQ, LENGTHS)
        n = _factor(x, v, s, E, eps, NORM)
        xs = xs[1:] + (x * n * wx,)
        vs = vs[1:] + (v * n * wv,)
        ss = ss[1:] + (s,)
        here = ss[LEFT]
        y = zero + add
        for j in tl.static_range(K):
            if SEQ:
                y += taps[j] * tl.where((ss[j] == here)[:, None], xs[j], 0.0)
            else:
                y += taps[j] * xs[j]
        t = first + (i - K + 1)
        m = (inside & (t < L) & (i >= K - 1))[:, None] & me[None, :]
        z = tl.where((here >= 0)[:, None], vs[LEFT] * y, 0.0)
        tl.store(out + (b.to(tl.int64) * L + t)[:, None] * E + e[None, :], z.to(out.dtype.element_ty), mask=m)
        x = x1
        v = v1
        s = s1


@jit
def _gated_conv_backward(
    grad,
    xv,
    weight,
    bias,
    norm,
    lengths,
    seq,
    dxv,
    partial,
    B,
    L,
    E,
    segments,
    eps,
    K: tl.constexpr,
    LEFT: tl.constexpr,
    REACH: tl.constexpr,
    BIAS: tl.constexpr,
    NORM: tl.constexpr,
    SEQ: tl.constexpr,
    LENGTHS: tl.constexpr,
    SEGMENT: tl.constexpr,
    R: tl.constexpr,
    BE: tl.constexpr,
):
    # A step loads token u, knows y at t = u - RIGHT and finishes f = u - REACH, with REACH = max(LEFT, RIGHT).
    RIGHT: tl.constexpr = K - 1 - LEFT
    pid = tl.program_id(0)
    row = pid * R + tl.arange(0, R)
    e = tl.arange(0, BE)
    me = e < E
    b = row // segments
    first = (row % segments) * SEGMENT
    inside = b < B
    zero = tl.zeros((R, BE), tl.float32)
    nothing = tl.zeros((R, 1), tl.float32)
    none = tl.zeros((R,), tl.int32) - 1
    taps = (tl.load(weight + e * K, mask=me, other=0.0)[None, :],)
    dtaps = (zero,)
    xs = (zero,)  # n x and sequences: the last K tokens
    ss = (none,)
    for j in tl.static_range(1, K):
        taps = taps + (tl.load(weight + e * K + j, mask=me, other=0.0)[None, :],)
        dtaps = dtaps + (zero,)
        xs = xs + (zero,)
        ss = ss + (none,)
    dxs = (zero,)  # gradient of x^ as far as it is known: f to u + RIGHT
    gs = (zero,)  # gradient: t to u
    dvs = (zero,)  # gradient of v^: f to t
    vs = (zero,)  # n v and n: f to u
    ns = (nothing,)
    for _ in tl.static_range(RIGHT):
        dxs = dxs + (zero,)
        gs = gs + (zero,)
    for _ in tl.static_range(REACH - RIGHT):
        dvs = dvs + (zero,)
    for _ in tl.static_range(REACH):
        dxs = dxs + (zero,)
        vs = vs + (zero,)
        ns = ns + (nothing,)
    wx = _vector(norm, e, me, NORM, 1.0)
    wv = _vector(norm + E if NORM else norm, e, me, NORM, 1.0)
    add = _vector(bias, e, me, BIAS, 0.0)
    dbias = zero
    dwv = zero
    steps: tl.constexpr = SEGMENT + 2 * REACH
    x, v, s = _fetch(xv, seq, lengths, b, first - REACH, inside, L, E, e, me, SEQ, LENGTHS)
    at = (b.to(tl.int64) * L + first - REACH)[:, None] * E + e[None, :]
    g = tl.load(grad + at, mask=(s >= 0)[:, None] & me[None, :], other=0.0).to(tl.float32)
    for i in range(steps):
        t = first + (i + 1 - REACH)
        more = inside & (i + 1 < steps)
        x1, v1, s1 = _fetch(xv, seq, lengths, b, t, more, L, E, e, me, SEQ, LENGTHS)
        at = (b.to(tl.int64) * L + t)[:, None] * E + e[None, :]
        g1 = tl.load(grad + at, mask=(s1 >= 0)[:, None] & me[None, :], other=0.0).to(tl.float32)
        n = _factor(x, v, s, E, eps, NORM)
        xs = xs[1:] + (x * n,)
        ss = ss[1:] + (s,)
        gs = gs[1:] + (g,)
        vs = vs[1:] + (v * n,)
        ns = ns[1:] + (n,)
        # dy_u goes to every x^ that y_u will have read: tokens before u where they are of its sequence, tokens after
        # it without asking, since the first token of a new sequence clears what lies ahead.
        dy = g * (vs[REACH] * wv)
        dxs = dxs[1:] + (zero,)
        new = ()
        for p in tl.static_range(REACH + RIGHT + 1):
            dx = dxs[p]
            if SEQ and p >= REACH and p < REACH + RIGHT:
                dx = tl.where((ss[K - 2] == s)[:, None], dx, 0.0)
            if p + LEFT >= REACH:
                if SEQ and p < REACH:
                    dx += taps[p + LEFT - REACH] * tl.where((ss[K - 1 + p - REACH] == s)[:, None], dy, 0.0)
                else:
                    dx += taps[p + LEFT - REACH] * dy
            new = new + (dx,)
        dxs = new
        here = ss[LEFT]
        own = (i >= REACH + RIGHT) & (i < SEGMENT + REACH + RIGHT)
        y = zero
        v = vs[REACH - RIGHT]
        dy = tl.where(own, gs[0] * (v * wv), 0.0)
        new = ()
        for j in tl.static_range(K):
            xj = xs[j]
            if SEQ:
                xj = tl.where((ss[j] == here)[:, None], xj, 0.0)
            y += taps[j] * xj
            new = new + (dtaps[j] + dy * xj,)
        dtaps = new
        dbias += dy
        dv = gs[0] * (y * wx + add)
        dwv += tl.where(own, dv * v, 0.0)
        dvs = dvs[1:] + (dv,)
        done = i >= 2 * REACH
        finish = (done & (ss[K - 1 - REACH] >= 0))[:, None]
        dx = tl.where(finish, dxs[0] * wx, 0.0)
        dv = tl.where(finish, dvs[0] * wv, 0.0)
        if NORM:
            x = xs[K - 1 - REACH]
            v = vs[0]
            shared = (tl.sum(dx * x + dv * v, axis=1) / (2 * E))[:, None]
            dx = ns[0] * (dx - x * shared)
            dv = ns[0] * (dv - v * shared)
        t = first + (i - 2 * REACH)
        m = (inside & (t < L) & done)[:, None] & me[None, :]
        to = dxv + (b.to(tl.int64) * L + t)[:, None] * (2 * E) + e[None, :]
        tl.store(to, dx.to(dxv.dtype.element_ty), mask=m)
        tl.store(to + E, dv.to(dxv.dtype.element_ty), mask=m)
        x = x1
        v = v1
        s = s1
        g = g1
    to = partial + pid.to(tl.int64) * (K + 3) * E + e
    dwx = zero
    for j in tl.static_range(K):
        dwx += taps[j] * dtaps[j]
        tl.store(to + j * E, tl.sum(dtaps[j] * wx, axis=0), mask=me)
    tl.store(to + K * E, tl.sum(dbias, axis=0), mask=me)
    if NORM:
        tl.store(to + (K + 1) * E, tl.sum(dwx, axis=0), mask=me)
        tl.store(to + (K + 2) * E, tl.sum(dwv, axis=0), mask=me)


def configurations(channels: int, width: int, backward: bool) -> list[Config]:
    """Block sizes by channels and taps: longer segments for wider halos, fewer values a thread for wide windows."""
    block = next_power_of_2(max(channels, 16))
    rows = max(1, min(8, 256 // block))
    if block == 128 and width <= 3 and not backward:
        rows = 4  # with 2 the compiler holds sm_120 at 64 registers and spills one
    values = 1 if width > 7 else 2 if width > 3 else 4
    warps = max(1, min(16, rows * block // (32 * (values if backward else 4))))
    segment = 128 if width > 7 else 64 if width > 3 else 32 if backward or channels < 32 else 16
    return [Config({"SEGMENT": segment, "R": rows, "BE": block}, warps, 1)]


def _fits(xv: Tensor, conv_weight: Tensor) -> bool:
    channels, _, width = conv_weight.shape
    limit = 256 if width > 7 else 512 if width > 3 else 1024  # what the windows leave in registers
    return supports(xv) and width <= MAX_WIDTH and channels <= limit


def _geometry(width: int, causal: bool) -> tuple[int, int]:
    left = width - 1 if causal else (width - 1) // 2
    return left, max(left, width - 1 - left)


def gated_conv(xv, conv_weight, conv_bias, norm_weight, lengths, cu_seqlens, eps, causal) -> Tensor:
    """``torch.ops.lyra.gated_conv``."""
    if not _fits(xv, conv_weight):
        return formulas()["gated_conv"](xv, conv_weight, conv_bias, norm_weight, lengths, cu_seqlens, eps, causal)
    (batch, length, _), (channels, _, width) = xv.shape, conv_weight.shape
    out = xv.new_empty(batch, length, channels)
    seq = sequence_of_token(cu_seqlens, length)
    left, _ = _geometry(width, causal)
    config = configurations(channels, width, backward=False)
    segments = triton.cdiv(length, config[0].blocks["SEGMENT"])
    launch(
        _gated_conv,
        lambda c: (triton.cdiv(batch * segments, c.blocks["R"]),),
        (xv, conv_weight, conv_bias, norm_weight, lengths, seq, out, batch, length, channels, segments, eps),
        {
            "K": width,
            "LEFT": left,
            "BIAS": conv_bias is not None,
            "NORM": norm_weight is not None,
            "SEQ": seq is not None,
            "LENGTHS": lengths is not None,
        },
        config,
    )
    return out


def gated_conv_backward(grad, xv, conv_weight, conv_bias, norm_weight, lengths, cu_seqlens, eps, causal):
    """``torch.ops.lyra.gated_conv_backward``."""
    if not _fits(xv, conv_weight):
        args = (xv, conv_weight, conv_bias, norm_weight, lengths, cu_seqlens, eps, causal)
        return formulas()["gated_conv_backward"](grad, *args)
    (batch, length, _), (channels, _, width) = xv.shape, conv_weight.shape
    dxv = torch.empty_like(xv)
    seq = sequence_of_token(cu_seqlens, length)
    left, reach = _geometry(width, causal)
    config = configurations(channels, width, backward=True)
    segments = triton.cdiv(length, config[0].blocks["SEGMENT"])
    programs = triton.cdiv(batch * segments, config[0].blocks["R"])
    rows = width + 1 + (2 if norm_weight is not None else 0)
    partial = xv.new_empty(programs, width + 3, channels, dtype=torch.float32)
    launch(
        _gated_conv_backward,
        lambda c: (programs,),
        (
            grad,
            xv,
            conv_weight,
            conv_bias,
            norm_weight,
            lengths,
            seq,
            dxv,
            partial,
            batch,
            length,
            channels,
            segments,
            eps,
        ),
        {
            "K": width,
            "LEFT": left,
            "REACH": reach,
            "BIAS": conv_bias is not None,
            "NORM": norm_weight is not None,
            "SEQ": seq is not None,
            "LENGTHS": lengths is not None,
        },
        config,
    )
    total = sum_rows(partial.view(programs, (width + 3) * channels), rows * channels).view(rows, channels)
    return (
        dxv,
        total[:width].t().reshape(conv_weight.shape).contiguous(),
        absent(xv) if conv_bias is None else total[width],
        absent(xv) if norm_weight is None else total[width + 1 :].reshape(-1),
    )
