"""Gradients of :mod:`.gelu_glu`, from z computed anew: it is what is dear to keep, twice the activations.

    dz1 = g sigmoid(z2),  dz2 = g z1 sigmoid(z2) (1 - sigmoid(z2)),  dy = (W^T dz) m gelu'(y),  dW = dz^T a

Where one TF32 product would do, up to MAX_FUSED channels, one kernel ends in dy and one in dW and db: a program goes
through tiles of tokens, and what programs sum is added in a fixed order. Operands are sums of two bfloat16, closer than
TF32 is, which the matrix unit reads from shared memory either way round; dz never reaches memory. Together the two need
more registers than there are, and so does each of them with the three parts that fp32 storage wants. There, on AMD
cards, with more channels or such as cannot be loaded several at a time, dz and a go through memory in fp32, and the
products are those of ``_linear``: PyTorch's own keep to fp32 units, 18 TFLOP/s at these narrow shapes on an H200.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...schemas import absent
from ..reference import operations as formulas
from . import gelu_glu as forward
from ._dot import dot16, pair, pair_product, pair_transposed
from ._launch import Config, cdiv, jit, launch, next_power_of_2, precision
from ._layout import sequence_of_token
from ._linear import linear, linear_weight_gradient, operand, products
from ._reduce import sum_rows
from ._transpose import aligned, takes_channels_first
from .gelu_glu import dropout_factors, gelu, real_tokens, sigmoid, tile_of, tiles_of, upper_tail, why_not, y_pointers

MAX_FUSED = 64
"""Channels whose tiles a program holds in registers."""


@triton.jit
def slope_of_gelu(y):
    """The derivative of GELU at fp32 ``y``."""
    x, tail = upper_tail(y)
    return tl.where(y < 0.0, tail, 1.0 - tail) + y * (0.3989422804014327 * tl.exp2(-0.7213475204444817 * x * x))


@triton.jit
def _row_sums(a, total):
    """``total`` plus, in each of its columns, the sums over the rows of a :func:`pair` ``a``: a product with ones."""
    ones = tl.full((a[0].shape[1], total.shape[1]), 1.0, tl.float32).to(tl.bfloat16)
    return dot16(a[0], ones, dot16(a[1], ones, total))


@jit
def _gelu_glu_backward(
    y_ptr,
    weight_ptr,
    bias_ptr,
    dropout_ptr,
    lengths_ptr,
    seq_ptr,
    grad_ptr,
    dy_ptr,
    partial_ptr,
    num_tokens,
    L,
    H,
    HAS_BIAS: tl.constexpr,
    HAS_DROPOUT: tl.constexpr,
    HAS_SEQ: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    GRAD_TRANSPOSED: tl.constexpr,
    PARAMETERS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """dy of tiles of BLOCK_T tokens; or, with PARAMETERS, the sums over them for BLOCK_N rows of dW and db.

    Args:
        y_ptr, weight_ptr, bias_ptr, dropout_ptr, lengths_ptr, seq_ptr, grad_ptr, num_tokens: as of ``_gelu_glu``.
        GRAD_TRANSPOSED: grad is ``(B, H, L)``, like y.
        dy_ptr: as y, written where not PARAMETERS.
        partial_ptr: ``(programs, 2H (H + 1))`` fp32, dW and db of each program; written where PARAMETERS.
        BLOCK_N: rows of the weight, z1 and z2 of a channel beside each other; all of them where not PARAMETERS.
        BLOCK_K: channels, all of them.
    """
    L = aligned(L, TRANSPOSED)
    i = tl.arange(0, BLOCK_T)
    k = tl.arange(0, BLOCK_K)
    first = tl.program_id(1) * (BLOCK_N // 2)
    c = first + tl.arange(0, BLOCK_N // 2)
    n = tl.arange(0, BLOCK_N)
    n_mask = first + n // 2 < H
    n = first + n // 2 + n % 2 * H
    w_mask = n_mask[:, None] & (k < H)[None, :]
    w = pair(tl.load(weight_ptr + n[:, None] * H + k[None, :], mask=w_mask, other=0.0))
    if PARAMETERS:
        dw = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
        db = tl.zeros((BLOCK_N, 16), tl.float32)
    for number in range(tl.program_id(0), tiles_of(num_tokens, L, BLOCK_T), tl.num_programs(0)):
        sequence, t = tile_of(number, L, BLOCK_T)
        there = t + i < L
        real = t + i < real_tokens(lengths_ptr, sequence, L, HAS_LENGTHS)
        mask = real[:, None] & (k < H)[None, :]
        y_ptrs = y_pointers(y_ptr, sequence, t, i, k, L, H, TRANSPOSED)
        a = gelu(tl.load(y_ptrs, mask=mask, other=0.0, eviction_policy="evict_last").to(tl.float32))
        if HAS_DROPOUT:
            a *= dropout_factors(dropout_ptr, seq_ptr, sequence, t, i, k, there, H, HAS_SEQ)
        a = pair(a)
        z = pair_product(a, pair_transposed(w), tl.zeros((BLOCK_T, BLOCK_N), tl.float32))
        if HAS_BIAS:
            # Loaded for each tile: a thread would keep a quarter of it in registers.
            z += tl.load(bias_ptr + n, mask=n_mask, other=0.0)[None, :]
        z1, z2 = tl.split(tl.reshape(z, (BLOCK_T, BLOCK_N // 2, 2)))
        gate = sigmoid(z2)
        g_ptrs = y_pointers(grad_ptr, sequence, t, i, c, L, H, GRAD_TRANSPOSED)
        dz1 = tl.load(g_ptrs, mask=real[:, None] & (c < H)[None, :], other=0.0).to(tl.float32) * gate
        dz = pair(tl.reshape(tl.join(dz1, dz1 * z1 * (1.0 - gate)), (BLOCK_T, BLOCK_N)))
        if PARAMETERS:
            dz = pair_transposed(dz)
            dw = pair_product(dz, a, dw)
            if HAS_BIAS:
                db = _row_sums(dz, db)
        else:
            da = pair_product(dz, w, tl.zeros((BLOCK_T, BLOCK_K), tl.float32))
            # Loaded again, from the cache: kept all the while it would not leave registers enough.
            y = tl.load(y_ptrs, mask=mask, other=0.0, eviction_policy="evict_first").to(tl.float32)
            dy = da * slope_of_gelu(y)
            if HAS_DROPOUT:
                dy *= dropout_factors(dropout_ptr, seq_ptr, sequence, t, i, k, there, H, HAS_SEQ)
            if HAS_LENGTHS:
                dy = tl.where(mask, dy, 0.0)
            dy_ptrs = y_pointers(dy_ptr, sequence, t, i, k, L, H, TRANSPOSED)
            tl.store(dy_ptrs, dy.to(dy_ptr.dtype.element_ty), mask=there[:, None] & (k < H)[None, :])
    if PARAMETERS:
        partial_ptr += tl.program_id(0).to(tl.int64) * (2 * H * (H + 1))
        tl.store(partial_ptr + n[:, None] * H + k[None, :], dw, mask=w_mask)
        if HAS_BIAS:
            # Every column has the sum.
            tl.store(partial_ptr + 2 * H * H + n, tl.sum(db, axis=1) * 0.0625, mask=n_mask)


@jit
def _gelu_backward(
    da_ptr,
    y_ptr,
    dropout_ptr,
    lengths_ptr,
    seq_ptr,
    dy_ptr,
    L,
    H,
    HAS_DROPOUT: tl.constexpr,
    HAS_SEQ: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """dy of a tile of BLOCK_T tokens and BLOCK_K channels, elementwise.

    Args:
        da_ptr: ``(B L, H)`` fp32, the gradient of a.
        dy_ptr: as y, written.
        y_ptr, dropout_ptr, lengths_ptr, seq_ptr and HAS_*: as of ``_gelu_glu``.
    """
    L = aligned(L, TRANSPOSED)
    i = tl.arange(0, BLOCK_T)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    sequence, t = tile_of(tl.program_id(0), L, BLOCK_T)
    there = t + i < L
    real = t + i < real_tokens(lengths_ptr, sequence, L, HAS_LENGTHS)
    mask = real[:, None] & (k < H)[None, :]
    y = tl.load(y_pointers(y_ptr, sequence, t, i, k, L, H, TRANSPOSED), mask=mask, other=0.0).to(tl.float32)
    da = tl.load(da_ptr + (sequence * L + t) * H + (i[:, None] * H + k[None, :]), mask=mask, other=0.0)
    slope = slope_of_gelu(y)
    if HAS_DROPOUT:
        slope *= dropout_factors(dropout_ptr, seq_ptr, sequence, t, i, k, there, H, HAS_SEQ)
    dy_ptrs = y_pointers(dy_ptr, sequence, t, i, k, L, H, TRANSPOSED)
    tl.store(dy_ptrs, (da * slope).to(dy_ptr.dtype.element_ty), mask=there[:, None] & (k < H)[None, :])


def configurations(channels: int, parameters: bool) -> list[Config]:
    """Tiles of the fused kernel."""
    block = next_power_of_2(max(channels, 16))
    rows = min(2 * block, 64) if parameters else 2 * block
    return [Config({"BLOCK_T": 64, "BLOCK_N": rows, "BLOCK_K": block}, 4, 1)]


def _fused(grad, y, weight, bias, mask, lengths, seq, dy) -> tuple[Tensor, Tensor]:
    """dW and db; dy is written."""
    channels = y.shape[-1]
    batch, length = forward.sequences(y, mask, lengths)
    width = 2 * channels * (channels + 1)
    for parameters in (False, True):
        config = configurations(channels, parameters)[0]
        tiles = batch * cdiv(length, config.blocks["BLOCK_T"])
        columns = cdiv(2 * channels, config.blocks["BLOCK_N"])
        programs = forward.programs(y, tiles, 2 * columns)  # of which a processor holds two
        partial = y.new_empty(programs if parameters else 0, width, dtype=torch.float32)
        launch(
            _gelu_glu_backward,
            lambda _: (programs, columns),  # noqa: B023 (called at once)
            {
                "y_ptr": y,
                "weight_ptr": weight,
                "bias_ptr": bias,
                "dropout_ptr": mask,
                "lengths_ptr": lengths,
                "seq_ptr": seq,
                "grad_ptr": grad,
                "dy_ptr": None if parameters else dy,
                "partial_ptr": partial if parameters else None,
                "num_tokens": batch * length,
                "L": length,
                "H": channels,
            },
            {
                "HAS_BIAS": bias is not None,
                "HAS_DROPOUT": mask is not None,
                "HAS_SEQ": seq is not None,
                "HAS_LENGTHS": lengths is not None,
                "TRANSPOSED": forward.transposed(y),
                "GRAD_TRANSPOSED": forward.transposed(grad),
                "PARAMETERS": parameters,
            },
            [config],
        )
    square = 2 * channels * channels
    sums = sum_rows(partial, square if bias is None else width)
    return sums[:square].view_as(weight), absent(y) if bias is None else sums[square:]


def _through_memory(grad, y, weight, bias, mask, lengths, seq, dy) -> tuple[Tensor, Tensor]:
    """dW and db; dy is written."""
    channels = y.shape[-1]
    batch, length = forward.sequences(y, mask, lengths)
    # fp32: products of rounded values would cost the gradients of the parameters their accuracy.
    dz = y.new_empty(batch * length, 2 * channels, dtype=torch.float32)
    a = y.new_empty(batch * length, channels, dtype=torch.float32)
    forward.run(y, weight, bias, mask, None, lengths, seq, grad, None, dz, a)
    prec = products(y)
    da = linear(dz, operand(weight, prec), None, prec, torch.empty_like(a), backward=True)
    config = Config({"BLOCK_T": 32, "BLOCK_K": 64}, 4, 1)
    tiles = batch * cdiv(length, config.blocks["BLOCK_T"])
    launch(
        _gelu_backward,
        lambda c: (tiles, cdiv(channels, c.blocks["BLOCK_K"])),
        {
            "da_ptr": da,
            "y_ptr": y,
            "dropout_ptr": mask,
            "lengths_ptr": lengths,
            "seq_ptr": seq,
            "dy_ptr": dy,
            "L": length,
            "H": channels,
        },
        {
            "HAS_DROPOUT": mask is not None,
            "HAS_SEQ": seq is not None,
            "HAS_LENGTHS": lengths is not None,
            "TRANSPOSED": forward.transposed(y),
        },
        [config],
    )
    d_weight, d_bias = linear_weight_gradient(dz, a, bias is not None, precision(y))
    return d_weight, absent(y) if bias is None else d_bias


@takes_channels_first
def gelu_glu_backward(grad, y, weight, bias, mask, lengths, cu_seqlens) -> tuple[Tensor, Tensor, Tensor]:
    """``torch.ops.lyra.gelu_glu_backward``; y may lie channels first, and dy lies as y; grad may where y does."""
    if why_not(y):
        return formulas()["gelu_glu_backward"](grad, y, weight, bias, mask, lengths, cu_seqlens)
    y = forward.readable(y)
    grad = grad if forward.transposed(y) and forward.transposed(grad) else grad.contiguous()
    seq = None if mask is None else sequence_of_token(cu_seqlens, y.shape[1])
    dy = torch.empty_like(y)
    fits = y.shape[-1] <= MAX_FUSED and precision(y) == "tf32"
    # Values that cannot be loaded several at a time have an address each, for which there are no registers.
    given = [x for x in (grad, y, weight, bias, mask) if x is not None]
    at_once = y.shape[-1] % 16 == 0 and all(x.storage_offset() * x.element_size() % 16 == 0 for x in given)
    backward = _fused if fits and at_once else _through_memory
    d_weight, d_bias = backward(grad, y, weight, bias, mask, lengths, seq, dy)
    return dy, d_weight, d_bias
