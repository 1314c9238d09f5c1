"""The short convolution: bias and SiLU in one pass, its backward in two, both ways to lie.

    z_t = sum_j W_j u_{t-K+1+j} + b,  y = z sigmoid(z) or z,  dz = g silu'(z) or g
    dW_j = sum_t dz_t u_{t-K+1+j},  db = sum_t dz_t,  du_s = sum_j W_j dz_{s+K-1-j}

A program has a tile of tokens and channels. It loads the tile again for each tap, from the first-level cache, so that
any width takes as many registers. The gradient of a token before the first is that of a token at its place. Sums over
tokens are made by tiles and added up in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...layout import count_sequences
from ...schemas import absent
from ..reference import operations as formulas
from ._launch import Config, cdiv, jit, launch, next_power_of_2, refusal, refusing, supports
from ._layout import sequence_of_token
from ._reduce import sum_rows
from ._transpose import takes_channels_first
from .gelu_glu import sigmoid

MAX_WIDTH = 8  # taps, whose loops the compiler unrolls: 16 left it without registers


@triton.jit
def _tile(lengths_ptr, cu_seqlens_ptr, seq_ptr, L, H, num_tiles, PADDED: tl.constexpr, PACKED: tl.constexpr,
          BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr):  # fmt: skip
    """A program's row of the batch, tokens and channels; of each token its sequence and where that begins and ends."""
    b = (tl.program_id(0) // num_tiles).to(tl.int64)
    t = (tl.program_id(0) % num_tiles).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)[:, None]
    h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)[None, :]
    s = t * 0 + b
    first = t * 0
    end = first + L
    if PACKED:
        s = tl.load(seq_ptr + t, mask=t < L, other=0).to(tl.int64)
        first = tl.load(cu_seqlens_ptr + s)
        end = tl.load(cu_seqlens_ptr + s + 1)
    if PADDED:
        end = first + tl.load(lengths_ptr + b)
    return b, t, h, s, first, end


@triton.jit
def _offsets(b, t, h, L, H, FIRST: tl.constexpr):
    """Of tokens and channels in activations that lie as (B, L, H), or FIRST: (B, H, L)."""
    if FIRST:
        return (b * H + h) * L + t
    else:
        return (b * L + t) * H + h


@triton.jit
def _tap(u_ptr, state_ptr, b, t, h, s, first, end, L, H, j, K: tl.constexpr, HAS_STATE: tl.constexpr,
         FIRST: tl.constexpr):  # fmt: skip
    """What tap j multiplies at each token of the tile, fp32; zeros outside of the sequences."""
    real = (t < end) & (t < L) & (h < H)
    source = t - (K - 1) + j
    x = tl.load(u_ptr + _offsets(b, source, h, L, H, FIRST), mask=real & (source >= first), other=0.0).to(tl.float32)
    if HAS_STATE:
        row = s * (K - 1) + source - first + (K - 1)
        x += tl.load(state_ptr + row * H + h, mask=real & (source < first), other=0.0)
    return x


@triton.jit
def _convolved(u_ptr, weight_ptr, bias_ptr, state_ptr, b, t, h, s, first, end, L, H, K: tl.constexpr,
               HAS_BIAS: tl.constexpr, HAS_STATE: tl.constexpr, FIRST: tl.constexpr):  # fmt: skip
    """z of a tile."""
    z = tl.zeros((t.shape[0], h.shape[1]), tl.float32)
    if HAS_BIAS:
        z += tl.load(bias_ptr + h, mask=h < H, other=0.0)
    for j in tl.static_range(K):
        weight = tl.load(weight_ptr + h * K + j, mask=h < H, other=0.0)
        z += weight * _tap(u_ptr, state_ptr, b, t, h, s, first, end, L, H, j, K, HAS_STATE, FIRST)
    return z


@jit
def _short_conv(
    u_ptr,
    weight_ptr,
    bias_ptr,
    state_ptr,
    lengths_ptr,
    cu_seqlens_ptr,
    seq_ptr,
    out_ptr,
    L,
    H,
    num_tiles,
    K: tl.constexpr,
    SILU: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_STATE: tl.constexpr,
    PADDED: tl.constexpr,
    PACKED: tl.constexpr,
    FIRST: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """A tile of y.

    Args:
        u_ptr: ``(B, L, H)``, or FIRST: ``(B, H, L)``.
        weight_ptr: ``(H, K)`` fp32.
        bias_ptr: ``(H,)`` fp32; read where HAS_BIAS.
        state_ptr: ``(S, K - 1, H)`` fp32, the tokens before the first; read where HAS_STATE.
        lengths_ptr: ``(B,)`` int64; read where PADDED.
        cu_seqlens_ptr: ``(S + 1,)`` int64; seq_ptr: ``(L,)`` int32, the sequence of each token; read where PACKED.
        out_ptr: as u, written.
        num_tiles: of a row of the batch.
    """
    b, t, h, s, first, end = _tile(
        lengths_ptr, cu_seqlens_ptr, seq_ptr, L, H, num_tiles, PADDED, PACKED, BLOCK_T, BLOCK_H
    )
    z = _convolved(u_ptr, weight_ptr, bias_ptr, state_ptr, b, t, h, s, first, end, L, H, K, HAS_BIAS, HAS_STATE, FIRST)
    if SILU:
        z = z * sigmoid(z)
    z = tl.where(t < end, z, 0.0)
    tl.store(out_ptr + _offsets(b, t, h, L, H, FIRST), z.to(out_ptr.dtype.element_ty), mask=(t < L) & (h < H))


@jit
def _sums(
    grad_ptr,
    u_ptr,
    weight_ptr,
    bias_ptr,
    state_ptr,
    lengths_ptr,
    cu_seqlens_ptr,
    seq_ptr,
    dz_ptr,
    partial_ptr,
    L,
    H,
    num_tiles,
    K: tl.constexpr,
    SILU: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_STATE: tl.constexpr,
    PADDED: tl.constexpr,
    PACKED: tl.constexpr,
    FIRST: tl.constexpr,
    GRAD_FIRST: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """A tile of dz, and what it adds to the gradients of weight and bias.

    Args:
        grad_ptr: of y, which lies as GRAD_FIRST says.
        dz_ptr: as u, fp32, written where SILU; else it is the gradient of y.
        partial_ptr: ``(tiles, (K + 1) H)`` fp32, written: dW ``(H, K)``, db.
        The others: as of :func:`_short_conv`.
    """
    b, t, h, s, first, end = _tile(
        lengths_ptr, cu_seqlens_ptr, seq_ptr, L, H, num_tiles, PADDED, PACKED, BLOCK_T, BLOCK_H
    )
    real = (t < end) & (t < L) & (h < H)
    dz = tl.load(grad_ptr + _offsets(b, t, h, L, H, GRAD_FIRST), mask=real, other=0.0).to(tl.float32)
    if SILU:
        z = _convolved(
            u_ptr, weight_ptr, bias_ptr, state_ptr, b, t, h, s, first, end, L, H, K, HAS_BIAS, HAS_STATE, FIRST
        )
        gate = sigmoid(z)
        dz = tl.where(real, dz * (gate * (1.0 + z * (1.0 - gate))), 0.0)
        tl.store(dz_ptr + _offsets(b, t, h, L, H, FIRST), dz, mask=real)
    partial_ptrs = partial_ptr + tl.program_id(0).to(tl.int64) * (K + 1) * H
    channel = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    for j in tl.static_range(K):
        x = _tap(u_ptr, state_ptr, b, t, h, s, first, end, L, H, j, K, HAS_STATE, FIRST)
        tl.store(partial_ptrs + channel * K + j, tl.sum(dz * x, axis=0), mask=channel < H)
    tl.store(partial_ptrs + K * H + channel, tl.sum(dz, axis=0), mask=channel < H)


@jit
def _transposed(
    dz_ptr,
    weight_ptr,
    lengths_ptr,
    cu_seqlens_ptr,
    seq_ptr,
    du_ptr,
    L,
    H,
    num_tiles,
    K: tl.constexpr,
    PADDED: tl.constexpr,
    PACKED: tl.constexpr,
    FIRST: tl.constexpr,
    DZ_FIRST: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """A tile of du, which lies as FIRST says, from dz, which lies as DZ_FIRST says.

    Arguments as of :func:`_sums`; du_ptr is written.
    """
    b, t, h, _s, _first, end = _tile(
        lengths_ptr, cu_seqlens_ptr, seq_ptr, L, H, num_tiles, PADDED, PACKED, BLOCK_T, BLOCK_H
    )
    du = tl.zeros((BLOCK_T, BLOCK_H), tl.float32)
    for j in tl.static_range(K):
        source = t + (K - 1 - j)
        mask = (source < end) & (source < L) & (t < end) & (h < H)
        dz = tl.load(dz_ptr + _offsets(b, source, h, L, H, DZ_FIRST), mask=mask, other=0.0).to(tl.float32)
        du += tl.load(weight_ptr + h * K + j, mask=h < H, other=0.0) * dz
    tl.store(du_ptr + _offsets(b, t, h, L, H, FIRST), du.to(du_ptr.dtype.element_ty), mask=(t < L) & (h < H))


@jit
def _state_gradient(
    dz_ptr,
    weight_ptr,
    lengths_ptr,
    cu_seqlens_ptr,
    dstate_ptr,
    L,
    H,
    K: tl.constexpr,
    PADDED: tl.constexpr,
    PACKED: tl.constexpr,
    DZ_FIRST: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """The gradient of one sequence's tokens before the first: token k, to which k + 1 taps reach back.

    Args:
        dstate_ptr: ``(S, K - 1, H)`` fp32, written.
        The others: as of :func:`_transposed`.
    """
    s = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    b = s
    first = s * 0
    end = first + L
    if PACKED:
        b = s * 0
        first = tl.load(cu_seqlens_ptr + s)
        end = tl.load(cu_seqlens_ptr + s + 1)
    if PADDED:
        end = tl.load(lengths_ptr + s)
    for k in tl.static_range(K - 1):
        total = tl.zeros((BLOCK_H,), tl.float32)
        for j in tl.static_range(k + 1):
            t = first + (k - j)
            mask = (t < end) & (h < H)
            dz = tl.load(dz_ptr + _offsets(b, t, h, L, H, DZ_FIRST), mask=mask, other=0.0).to(tl.float32)
            total += tl.load(weight_ptr + h * K + j, mask=h < H, other=0.0) * dz
        tl.store(dstate_ptr + (s * (K - 1) + k) * H + h, total, mask=h < H)


def configuration(channels: int, width: int, first: bool) -> Config:
    """Tiles of 2048 values, fewer where a tile is loaded often; longest along what is next to each other in memory."""
    block = min(next_power_of_2(channels), 16 if first else 64)
    return Config({"BLOCK_T": (2048 if width <= 4 else 1024) // max(block, 8), "BLOCK_H": block}, 4, 1)


def why_not(u: Tensor, weight: Tensor) -> str | None:
    """Why the kernels do not take this call, or None."""
    if supports(u) and u.numel() and weight.shape[1] <= MAX_WIDTH:
        return None
    return refusal(u, f"the short convolution takes up to {MAX_WIDTH} taps")


def _geometry(u: Tensor, lengths: Tensor | None, cu_seqlens: Tensor | None, config: Config) -> tuple[dict, dict, int]:
    """What all kernels of a call are told of its sequences, and how many tiles there are."""
    batch, length, channels = u.shape
    tiles = cdiv(length, config.blocks["BLOCK_T"])
    given = {
        "lengths_ptr": lengths,
        "cu_seqlens_ptr": cu_seqlens,
        "seq_ptr": sequence_of_token(cu_seqlens, length),
        "L": length,
        "H": channels,
        "num_tiles": tiles,
    }
    return given, {"PADDED": lengths is not None, "PACKED": cu_seqlens is not None}, batch * tiles


def _lying_as(x: Tensor, u: Tensor) -> Tensor:
    """What the formula gives, contiguous, as u lies."""
    return x if u.is_contiguous() else torch.empty_like(u).copy_(x)


@takes_channels_first
@refusing(lambda u, weight, *rest: why_not(u, weight))
def short_conv(u, weight, bias, initial_state, lengths, cu_seqlens, silu) -> Tensor:
    """``torch.ops.lyra.short_conv``."""
    first = not u.is_contiguous()
    if why_not(u, weight):
        return _lying_as(formulas()["short_conv"](u, weight, bias, initial_state, lengths, cu_seqlens, silu), u)
    config = configuration(u.shape[2], weight.shape[1], first)
    given, constants, tiles = _geometry(u, lengths, cu_seqlens, config)
    out = torch.empty_like(u)
    arrays = {"u_ptr": u, "weight_ptr": weight, "bias_ptr": bias, "state_ptr": initial_state, "out_ptr": out}
    flags = {"HAS_BIAS": bias is not None, "HAS_STATE": initial_state is not None and weight.shape[1] > 1}
    launch(
        _short_conv,
        lambda c: (tiles, cdiv(u.shape[2], c.blocks["BLOCK_H"])),
        {**arrays, **given},
        {"K": weight.shape[1], "SILU": silu, **flags, **constants, "FIRST": first},
        [config],
    )
    return out


@takes_channels_first
def short_conv_backward(grad, u, weight, bias, initial_state, lengths, cu_seqlens, silu) -> tuple[Tensor, ...]:
    """``torch.ops.lyra.short_conv_backward``."""
    first, grad_first = not u.is_contiguous(), not grad.is_contiguous()
    if why_not(u, weight):
        args = (grad, u, weight, bias, initial_state, lengths, cu_seqlens, silu)
        du, *rest = formulas()["short_conv_backward"](*args)
        return _lying_as(du, u), *rest
    channels, width = weight.shape
    config = configuration(channels, width, first)
    given, constants, tiles = _geometry(u, lengths, cu_seqlens, config)
    du = torch.empty_like(u)
    dz = torch.empty_like(u, dtype=torch.float32) if silu else grad
    partial = u.new_empty(tiles, (width + 1) * channels, dtype=torch.float32)
    arrays = {"u_ptr": u, "weight_ptr": weight, "bias_ptr": bias, "state_ptr": initial_state}
    flags = {"HAS_BIAS": bias is not None, "HAS_STATE": initial_state is not None and width > 1}
    launch(
        _sums,
        lambda c: (tiles, cdiv(channels, c.blocks["BLOCK_H"])),
        {"grad_ptr": grad, **arrays, "dz_ptr": dz if silu else None, "partial_ptr": partial, **given},
        {"K": width, "SILU": silu, **flags, **constants, "FIRST": first, "GRAD_FIRST": grad_first},
        [config],
    )
    lying = {"K": width, **constants, "DZ_FIRST": first if silu else grad_first}
    launch(
        _transposed,
        lambda c: (tiles, cdiv(channels, c.blocks["BLOCK_H"])),
        {"dz_ptr": dz, "weight_ptr": weight, "du_ptr": du, **given},
        {**lying, "FIRST": first},
        [config],
    )
    dstate = absent(u)
    if initial_state is not None:
        dstate = torch.empty_like(initial_state)
        if width > 1:
            sequences = count_sequences(u, cu_seqlens)
            names = ("lengths_ptr", "cu_seqlens_ptr", "L", "H")
            launch(
                _state_gradient,
                lambda c: (sequences, cdiv(channels, c.blocks["BLOCK_H"])),
                {"dz_ptr": dz, "weight_ptr": weight, "dstate_ptr": dstate, **{name: given[name] for name in names}},
                lying,
                [Config({"BLOCK_H": min(next_power_of_2(channels), 128)}, 4, 1)],
            )
    total = sum_rows(partial, (width + 1) * channels)
    size = width * channels
    return du, total[:size].view(weight.shape), absent(u) if bias is None else total[size:], dstate
