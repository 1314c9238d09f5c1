"""The backward of the gated convolution, in one pass; :mod:`.gated_conv` has the names of the formulas.

    dv^_t = g_t y_t,  dy_t = g_t v^_t,  dx^_s = sum_j W_j dy_{s-j+left},  dW_j = sum_t dy_t x^_{t+j-left}
    dxv = n (w d^ - n xv / (2E) sum_channels(w d^ n xv)),  dw_x = sum_t d^ n x = sum_j W_j (dW_j / w_x)

A program walks as the forward's does. It holds windows of n x, n v, n and sums of dx^ that tokens still add to:
scattering them, a causal convolution needs no more of a token's surroundings than its past. Parameter gradients are
summed in registers, written once a program, and added up in a fixed order by a second kernel: no atomics, the same bits
every time.
"""

# mypy: disable-error-code="assignment"
from __future__ import annotations

import torch
import triton.language as tl

from ...schemas import absent
from ..reference import operations as formulas
from ._launch import cdiv, jit, launch
from ._layout import sequence_of_token
from ._reduce import sum_rows
from .gated_conv import configurations, geometry, inverse_rms, load_token, load_vector, why_not


@jit
def _gated_conv_backward(
    grad_ptr,
    xv_ptr,
    weight_ptr,
    bias_ptr,
    norm_ptr,
    lengths_ptr,
    seq_ptr,
    dxv_ptr,
    partial_ptr,
    B,
    L,
    E,
    num_segments,
    eps,
    K: tl.constexpr,
    LEFT: tl.constexpr,
    REACH: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_SEQ: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    SEGMENT_LEN: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """BLOCK_R rows of SEGMENT_LEN tokens of dxv, and what they add to the gradients of the parameters.

    Args:
        grad_ptr: ``(B, L, E)``, the gradient of the output.
        dxv_ptr: as xv, written.
        partial_ptr: ``(programs, (K + 3) E)`` fp32, written: dW ``(E, K)``, db, and where HAS_NORM dw_x and dw_v.
        REACH: the more of the taps before and after a token's own.
        The others: as of :func:`.gated_conv._gated_conv`.
    """
    # A step loads token u, knows y at t = u - RIGHT and finishes f = u - REACH, with REACH = max(LEFT, RIGHT).
    RIGHT: tl.constexpr = K - 1 - LEFT
    pid = tl.program_id(0)
    row = pid * BLOCK_R + tl.arange(0, BLOCK_R)
    e = tl.arange(0, BLOCK_E)
    e_mask = e < E
    b = row // num_segments
    first = (row % num_segments) * SEGMENT_LEN
    inside = b < B
    zero = tl.zeros((BLOCK_R, BLOCK_E), tl.float32)
    nothing = tl.zeros((BLOCK_R, 1), tl.float32)
    none = tl.zeros((BLOCK_R,), tl.int32) - 1
    taps = (tl.load(weight_ptr + e * K, mask=e_mask, other=0.0)[None, :],)
    dtaps = (zero,)
    xs = (zero,)  # n x and sequences: the last K tokens
    ss = (none,)
    for j in tl.static_range(1, K):
        taps = taps + (tl.load(weight_ptr + e * K + j, mask=e_mask, other=0.0)[None, :],)
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
    wx = load_vector(norm_ptr, e, e_mask, HAS_NORM, 1.0)
    wv = load_vector(norm_ptr + E if HAS_NORM else norm_ptr, e, e_mask, HAS_NORM, 1.0)
    add = load_vector(bias_ptr, e, e_mask, HAS_BIAS, 0.0)
    dbias = zero
    dwv = zero
    steps: tl.constexpr = SEGMENT_LEN + 2 * REACH
    x, v, s = load_token(xv_ptr, seq_ptr, lengths_ptr, b, first - REACH, inside, L, E, e, e_mask, HAS_SEQ, HAS_LENGTHS)
    grad_offsets = (b.to(tl.int64) * L + first - REACH)[:, None] * E + e[None, :]
    g = tl.load(grad_ptr + grad_offsets, mask=(s >= 0)[:, None] & e_mask[None, :], other=0.0).to(tl.float32)
    for i in range(steps):
        t = first + (i + 1 - REACH)
        more = inside & (i + 1 < steps)
        x1, v1, s1 = load_token(xv_ptr, seq_ptr, lengths_ptr, b, t, more, L, E, e, e_mask, HAS_SEQ, HAS_LENGTHS)
        grad_offsets = (b.to(tl.int64) * L + t)[:, None] * E + e[None, :]
        g1 = tl.load(grad_ptr + grad_offsets, mask=(s1 >= 0)[:, None] & e_mask[None, :], other=0.0).to(tl.float32)
        n = inverse_rms(x, v, s, E, eps, HAS_NORM)
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
            if HAS_SEQ and p >= REACH and p < REACH + RIGHT:
                dx = tl.where((ss[K - 2] == s)[:, None], dx, 0.0)
            if p + LEFT >= REACH:
                if HAS_SEQ and p < REACH:
                    dx += taps[p + LEFT - REACH] * tl.where((ss[K - 1 + p - REACH] == s)[:, None], dy, 0.0)
                else:
                    dx += taps[p + LEFT - REACH] * dy
            new = new + (dx,)
        dxs = new
        here = ss[LEFT]
        own = (i >= REACH + RIGHT) & (i < SEGMENT_LEN + REACH + RIGHT)
        y = zero
        v = vs[REACH - RIGHT]
        dy = tl.where(own, gs[0] * (v * wv), 0.0)
        new = ()
        for j in tl.static_range(K):
            xj = xs[j]
            if HAS_SEQ:
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
        if HAS_NORM:
            x = xs[K - 1 - REACH]
            v = vs[0]
            shared = (tl.sum(dx * x + dv * v, axis=1) / (2 * E))[:, None]
            dx = ns[0] * (dx - x * shared)
            dv = ns[0] * (dv - v * shared)
        t = first + (i - 2 * REACH)
        mask = (inside & (t < L) & done)[:, None] & e_mask[None, :]
        dxv_ptrs = dxv_ptr + (b.to(tl.int64) * L + t)[:, None] * (2 * E) + e[None, :]
        tl.store(dxv_ptrs, dx.to(dxv_ptr.dtype.element_ty), mask=mask)
        tl.store(dxv_ptrs + E, dv.to(dxv_ptr.dtype.element_ty), mask=mask)
        x = x1
        v = v1
        s = s1
        g = g1
    partial_ptrs = partial_ptr + pid.to(tl.int64) * (K + 3) * E + e
    dwx = zero
    for j in tl.static_range(K):
        dwx += taps[j] * dtaps[j]
        tl.store(partial_ptrs + (K - 1) * e + j, tl.sum(dtaps[j] * wx, axis=0), mask=e_mask)  # (E, K), as the taps lie
    tl.store(partial_ptrs + K * E, tl.sum(dbias, axis=0), mask=e_mask)
    if HAS_NORM:
        tl.store(partial_ptrs + (K + 1) * E, tl.sum(dwx, axis=0), mask=e_mask)
        tl.store(partial_ptrs + (K + 2) * E, tl.sum(dwv, axis=0), mask=e_mask)


def gated_conv_backward(grad, xv, conv_weight, conv_bias, norm_weight, lengths, cu_seqlens, eps, causal):
    """``torch.ops.lyra.gated_conv_backward``."""
    if why_not(xv, conv_weight):
        args = (xv, conv_weight, conv_bias, norm_weight, lengths, cu_seqlens, eps, causal)
        return formulas()["gated_conv_backward"](grad, *args)
    (batch, length, _), (channels, _, width) = xv.shape, conv_weight.shape
    dxv = torch.empty_like(xv)
    seq = sequence_of_token(cu_seqlens, length)
    left, reach = geometry(width, causal)
    config = configurations(channels, width, backward=True)
    segments = cdiv(length, config[0].blocks["SEGMENT_LEN"])
    programs = cdiv(batch * segments, config[0].blocks["BLOCK_R"])
    rows = width + 1 + (2 if norm_weight is not None else 0)  # what is summed: dW, db, dw_x and dw_v
    partial = xv.new_empty(programs, (width + 3) * channels, dtype=torch.float32)
    launch(
        _gated_conv_backward,
        lambda c: (programs,),
        {
            "grad_ptr": grad,
            "xv_ptr": xv,
            "weight_ptr": conv_weight,
            "bias_ptr": conv_bias,
            "norm_ptr": norm_weight,
            "lengths_ptr": lengths,
            "seq_ptr": seq,
            "dxv_ptr": dxv,
            "partial_ptr": partial,
            "B": batch,
            "L": length,
            "E": channels,
            "num_segments": segments,
            "eps": eps,
        },
        {
            "K": width,
            "LEFT": left,
            "REACH": reach,
            "HAS_BIAS": conv_bias is not None,
            "HAS_NORM": norm_weight is not None,
            "HAS_SEQ": seq is not None,
            "HAS_LENGTHS": lengths is not None,
        },
        config,
    )
    total = sum_rows(partial, rows * channels)
    size = width * channels
    return (
        dxv,
        total[:size].view(conv_weight.shape),
        absent(xv) if conv_bias is None else total[size : size + channels],
        absent(xv) if norm_weight is None else total[size + channels :],
    )
