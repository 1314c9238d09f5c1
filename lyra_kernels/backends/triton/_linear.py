"""Projections of many tokens, and their gradients, on matrix units with the precision of the other kernels.

PyTorch's own fp32 products keep to fp32 units unless its user allows TF32 (18 TFLOP/s at these narrow shapes on an
H200); three TF32 products are as exact and faster. Beside 16-bit activations operands are pairs of bfloat16 ("bf16x3"),
closer than TF32 is: the weight's are made once, by a kernel of their own, a bfloat16 operand is one already.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from ._dot import dot16, nearest, pair, pair_product
from ._launch import Config, cdiv, jit, launch, precision, processors, reads_shared_operands
from ._reduce import sum_rows

LINEAR = Config({"BLOCK_R": 64, "BLOCK_K": 16, "BLOCK_N": 64}, 4, 3)
WIDE = Config({"BLOCK_R": 128, "BLOCK_K": 32, "BLOCK_N": 128}, 8, 3)
PAIRS = Config({"BLOCK_R": 128, "BLOCK_K": 32, "BLOCK_N": 64}, 4, 2)
WIDE_PAIRS = Config({"BLOCK_R": 128, "BLOCK_K": 32, "BLOCK_N": 128}, 8, 2)
SPLIT = Config({"BLOCK": 1024}, 4, 1)
GRADIENT = Config({"BLOCK_R": 32, "BLOCK_M": 64, "BLOCK_N": 64}, 4, 1)
PROGRAMS = 3  # of a processor that add up a weight's gradient: as many as it holds at once in fp32 (H200)


@jit
def _split_weight(weight_ptr, pair_ptr, SIZE, BLOCK: tl.constexpr):
    """``pair_ptr (2, SIZE)`` bfloat16, the parts of ``weight_ptr (SIZE,)`` fp32."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    high, low = pair(tl.load(weight_ptr + i, mask=i < SIZE, other=0.0))
    tl.store(pair_ptr + i, high, mask=i < SIZE)
    tl.store(pair_ptr + SIZE + i, low, mask=i < SIZE)


@jit
def _linear(
    a_ptr,
    weight_ptr,
    bias_ptr,
    norm_ptr,
    grad_ptr,
    out_ptr,
    partial_ptr,
    num_rows,
    IN,
    OUT,
    eps,
    HAS_BIAS: tl.constexpr,
    BACKWARD: tl.constexpr,
    NORM_BACKWARD: tl.constexpr,
    PREC: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """BLOCK_R rows of BLOCK_N columns of out.

    Args:
        a_ptr: ``(num_rows, IN)``.
        weight_ptr: ``(OUT, IN)`` fp32; where BACKWARD ``(IN, OUT)``: a is then the gradient of what it has made. Where
            PREC is "bf16x3" its parts one after the other, as :func:`_split_weight` makes them.
        bias_ptr: ``(OUT,)`` fp32; read where HAS_BIAS.
        norm_ptr, grad_ptr, eps: read where NORM_BACKWARD: weight ``(OUT,)`` and eps of a norm of these rows, and the
            gradient ``(num_rows, OUT)`` of what that gives. Then BLOCK_N is OUT or more.
        out_ptr: ``(num_rows, OUT)``, written: the rows, or where NORM_BACKWARD their gradient.
        partial_ptr: ``(programs, OUT)`` fp32, written where NORM_BACKWARD: what rows add to the norm weight's gradient.
        PREC: of the product, ``tl.dot``'s input_precision or "bf16x3".
        BLOCK_K: columns of a that are multiplied at once.
    """
    # Programs of the same rows follow each other: the later ones find them in the cache.
    blocks = tl.cdiv(OUT, BLOCK_N)
    first = (tl.program_id(0) // blocks).to(tl.int64) * BLOCK_R
    n = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    r = tl.arange(0, BLOCK_R)
    r_mask = (r < num_rows - first)[:, None]
    n_mask = n < OUT
    a_ptr += first * IN
    out = tl.zeros((BLOCK_R, BLOCK_N), tl.float32)
    for k0 in range(0, IN, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        k_mask = k < IN
        a = tl.load(a_ptr + r[:, None] * IN + k[None, :], mask=r_mask & k_mask[None, :], other=0.0)
        if BACKWARD:
            w_ptrs = weight_ptr + k[:, None] * OUT + n[None, :]
            w_mask = k_mask[:, None] & n_mask[None, :]
        else:
            w_ptrs = weight_ptr + n[:, None] * IN + k[None, :]
            w_mask = n_mask[:, None] & k_mask[None, :]
        w = tl.load(w_ptrs, mask=w_mask, other=0.0)
        w = w if BACKWARD else tl.trans(w)
        if PREC == "bf16x3":
            low = tl.load(w_ptrs + IN * OUT, mask=w_mask, other=0.0)
            low = low if BACKWARD else tl.trans(low)
            if a.dtype == tl.bfloat16:
                out = dot16(a, w, dot16(a, low, out))
            else:
                out = pair_product(pair(a.to(tl.float32)), (w, low), out)
        else:
            out = tl.dot(nearest(a.to(tl.float32), PREC), nearest(w, PREC), out, input_precision=PREC)
    if HAS_BIAS:
        out += tl.load(bias_ptr + n, mask=n_mask, other=0.0)[None, :]
    offsets = r[:, None] * OUT + n[None, :]
    if NORM_BACKWARD:
        g = tl.load(grad_ptr + first * OUT + offsets, mask=r_mask & n_mask[None, :], other=0.0).to(tl.float32)
        inverse = 1.0 / tl.sqrt(tl.where(r_mask, (tl.sum(out * out, axis=1) / OUT)[:, None] + eps, 1.0))
        out *= inverse
        tl.store(partial_ptr + tl.program_id(0).to(tl.int64) * OUT + n, tl.sum(g * out, axis=0), mask=n_mask)
        g *= tl.load(norm_ptr + n, mask=n_mask, other=0.0)[None, :]
        out = inverse * (g - out * (tl.sum(g * out, axis=1) / OUT)[:, None])
    out_ptrs = out_ptr + first * OUT + offsets
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=r_mask & n_mask[None, :])


@jit
def _linear_weight_gradient(
    grad_ptr,
    a_ptr,
    partial_ptr,
    num_rows,
    rows_per_program,
    IN,
    OUT,
    HAS_BIAS: tl.constexpr,
    PREC: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """What some rows add to BLOCK_M x BLOCK_N elements of a weight's gradient, and to that of the bias.

    Args:
        grad_ptr: ``(num_rows, OUT)``.
        a_ptr: ``(num_rows, IN)``.
        partial_ptr: ``(programs, OUT IN + OUT)`` fp32, written: that of the weight, then, where HAS_BIAS, of the bias.
        rows_per_program: a multiple of BLOCK_R.
        PREC: of the product, ``tl.dot``'s input_precision.
        BLOCK_R: rows that are multiplied at once.
    """
    blocks = tl.cdiv(IN, BLOCK_N)
    tiles = tl.cdiv(OUT, BLOCK_M) * blocks
    tile = tl.program_id(0) % tiles
    part = (tl.program_id(0) // tiles).to(tl.int64)
    m = tile // blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    first = part * rows_per_program
    left = num_rows - first
    grad_ptr += first * OUT
    a_ptr += first * IN
    dw = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    dbias = tl.zeros((BLOCK_M,), tl.float32)
    for _ in range(0, rows_per_program, BLOCK_R):
        r = tl.arange(0, BLOCK_R)
        r_mask = (r < left)[:, None]
        g = tl.load(grad_ptr + r[:, None] * OUT + m[None, :], mask=r_mask & (m < OUT)[None, :], other=0.0)
        a = tl.load(a_ptr + r[:, None] * IN + n[None, :], mask=r_mask & (n < IN)[None, :], other=0.0)
        g = g.to(tl.float32)
        if HAS_BIAS:
            dbias += tl.sum(g, axis=0)
        a = nearest(a.to(tl.float32), PREC)
        dw = tl.dot(tl.trans(nearest(g, PREC)), a, dw, input_precision=PREC)
        grad_ptr += BLOCK_R * OUT
        a_ptr += BLOCK_R * IN
        left -= BLOCK_R
    partial_ptr += part * (OUT * IN + OUT)
    tl.store(partial_ptr + m[:, None] * IN + n[None, :], dw, mask=(m < OUT)[:, None] & (n < IN)[None, :])
    if HAS_BIAS:
        tl.store(partial_ptr + OUT * IN + m, dbias, mask=(m < OUT) & (tile % blocks == 0))


def products(u: Tensor) -> str:
    """How products of what is made from activations ``u`` are done: "bf16x3", or as :func:`._launch.precision` says."""
    found = precision(u)
    return "bf16x3" if found == "tf32" and u.dtype != torch.float32 else found


def configuration(a: Tensor, outputs: int, prec: str) -> Config:
    """Larger tiles where rows are aligned, and the largest for many columns where operands need no registers."""
    inputs = a.shape[-1]
    aligned = inputs % 16 == 0 and outputs % 16 == 0  # else each value has an address of its own
    if aligned and outputs > PAIRS.blocks["BLOCK_N"] and reads_shared_operands(a):
        if prec == "bf16x3":
            return WIDE_PAIRS
        if inputs > 2 * WIDE.blocks["BLOCK_K"]:
            return WIDE
    return PAIRS if aligned and prec == "bf16x3" else LINEAR


def operand(weight: Tensor, prec: str) -> Tensor:
    """A weight as :func:`linear` takes it: once for all products with it, of either direction."""
    if prec != "bf16x3":
        return weight
    parts = weight.new_empty(2, *weight.shape, dtype=torch.bfloat16)
    size = weight.numel()
    tensors = {"weight_ptr": weight, "pair_ptr": parts, "SIZE": size}
    launch(_split_weight, lambda c: (cdiv(size, c.blocks["BLOCK"]),), tensors, {}, [SPLIT])
    return parts


def linear(a: Tensor, weight: Tensor, bias: Tensor | None, prec: str, out: Tensor, backward: bool = False) -> Tensor:
    """``out = a W^T + b``, or backward ``a W``: a's gradient from that of the output.

    Args:
        a: ``(..., IN)``, contiguous.
        weight: ``(OUT, IN)`` fp32, of a backward ``(IN, OUT)``, as :func:`operand` gives it.
        prec: of the product, as :func:`products` gives it.
        out: ``(..., OUT)``, contiguous, written and returned.
    """
    return _run(a, weight, bias, None, None, out, None, 0.0, prec, configuration(a, out.shape[-1], prec), backward)


def fits_norm_backward(outputs: int) -> bool:
    """Whether a program of :func:`linear_norm_backward` has whole rows, and registers for their addresses."""
    return outputs <= PAIRS.blocks["BLOCK_N"] and outputs % 16 == 0


def linear_norm_backward(
    a: Tensor, weight: Tensor, bias: Tensor | None, norm_weight: Tensor, grad: Tensor, eps: float, prec: str
) -> tuple[Tensor, Tensor]:
    """The fp32 gradients of ``z = a W^T + b`` and of the norm's weight from that of ``rms_norm(z)``; z stays on chip.

    Args:
        a: ``(..., IN)``, contiguous; norm_weight: ``(OUT,)`` fp32.
        weight: ``(OUT, IN)`` fp32, as :func:`operand` gives it.
        grad: ``(..., OUT)``, contiguous.
        prec: of the product, as :func:`products` gives it.
    """
    outputs = grad.shape[-1]
    config = configuration(a, outputs, prec)
    programs = cdiv(grad.numel() // outputs, config.blocks["BLOCK_R"])
    out = torch.empty_like(grad, dtype=torch.float32)
    partial = grad.new_empty(programs, outputs, dtype=torch.float32)
    _run(a, weight, bias, norm_weight, grad, out, partial, eps, prec, config)
    return out, sum_rows(partial, outputs)


def _run(a, weight, bias, norm_weight, grad, out, partial, eps, prec, config, backward=False) -> Tensor:
    inputs, outputs = a.shape[-1], out.shape[-1]
    rows = a.numel() // inputs
    launch(
        _linear,
        lambda c: (cdiv(rows, c.blocks["BLOCK_R"]) * cdiv(outputs, c.blocks["BLOCK_N"]),),
        {
            "a_ptr": a,
            "weight_ptr": weight,
            "bias_ptr": bias,
            "norm_ptr": norm_weight,
            "grad_ptr": grad,
            "out_ptr": out,
            "partial_ptr": partial,
            "num_rows": rows,
            "IN": inputs,
            "OUT": outputs,
            "eps": eps,
        },
        {"HAS_BIAS": bias is not None, "BACKWARD": backward, "NORM_BACKWARD": grad is not None, "PREC": prec},
        [config],
    )
    return out


def linear_weight_gradient(grad: Tensor, a: Tensor, bias: bool, prec: str) -> tuple[Tensor, Tensor]:
    """``grad^T a``, ``(OUT, IN)``, and, if asked for, ``grad`` summed over its rows, ``(OUT,)``: fp32.

    Args:
        grad: ``(..., OUT)``, a: ``(..., IN)``, contiguous.
        prec: of the product, as :func:`._launch.precision` gives it.
    """
    inputs, outputs = a.shape[-1], grad.shape[-1]
    rows = a.numel() // inputs
    blocks = GRADIENT.blocks
    tiles = cdiv(outputs, blocks["BLOCK_M"]) * cdiv(inputs, blocks["BLOCK_N"])
    steps = cdiv(rows, blocks["BLOCK_R"])
    each = cdiv(steps, max(1, min(steps, cdiv(processors(a) * PROGRAMS, tiles))))
    parts, size = cdiv(steps, each), outputs * inputs
    partial = a.new_empty(parts, size + outputs, dtype=torch.float32)
    launch(
        _linear_weight_gradient,
        lambda c: (parts * tiles,),
        {
            "grad_ptr": grad,
            "a_ptr": a,
            "partial_ptr": partial,
            "num_rows": rows,
            "rows_per_program": each * blocks["BLOCK_R"],
            "IN": inputs,
            "OUT": outputs,
        },
        {"HAS_BIAS": bias, "PREC": prec},
        [GRADIENT],
    )
    total = sum_rows(partial, size + outputs if bias else size)
    return total[:size].view(outputs, inputs), total[size:]
